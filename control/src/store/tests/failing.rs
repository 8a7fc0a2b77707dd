//! A store that is locked, full, gone or read-only: serving goes on, losses are counted, and it is
//! written again as soon as it can be.

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Executor};

use super::*;

const QUEUE: usize = 32;

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    recorder: Recorder,
    writer: Writer,
    run: i64,
    recorded: u64,
}

impl Fixture {
    async fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let location = Location::File(folder.join("store.db"));
        let busy_timeout = Duration::from_millis(10);
        let config = SqliteConfig { busy_timeout, ..SqliteConfig::default() };
        let store = Arc::new(SqliteStore::open(location, config).await.unwrap());
        let run = store.start_run(&new_run("serve", 1)).await.unwrap();
        let config = WriterConfig {
            requests_max: QUEUE,
            batch_rows: QUEUE,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(20),
            stop_wait: Duration::from_millis(200),
            ..WriterConfig::default()
        };
        let (recorder, writer) = Writer::spawn(store.clone(), run, config);
        recorder.event(Event::Opened(Box::new(session(1, 0, Transport::Shm))));
        recorder.flush(WATCHDOG).await.unwrap();
        Fixture { dir, store, recorder, writer, run, recorded: 0 }
    }

    async fn raw(&self) -> SqliteConnection {
        let location = Location::File(self.dir.path().join("folder/store.db"));
        location.connect_options().connect().await.unwrap()
    }

    fn record(&mut self, rows: usize) {
        for _ in 0..rows {
            self.recorded += 1;
            self.recorder.record(record(1, 0, self.recorded, 10));
        }
    }

    /// Records until rows are lost, and expects the failure to be named.
    async fn fails_with(&mut self, named: &str) {
        self.record(1);
        let recorder = self.recorder.clone();
        until(named, || recorder.health().state == StoreState::Failing).await;
        self.record(3 * QUEUE);
        let health = self.recorder.health();
        let error = health.last_error.clone().unwrap();
        assert!(error.contains(named), "{error}");
        assert!(health.rows_lost >= u64::try_from(QUEUE).unwrap(), "{health:?}");
        let flushed = self.recorder.flush(WATCHDOG).await;
        assert!(matches!(flushed, Err(FlushError::Failing(_))), "{flushed:?}");
    }

    /// Expects that everything recorded is either stored or counted as lost.
    async fn recovers(&mut self) {
        let recorder = self.recorder.clone();
        until("good again", || recorder.health().state == StoreState::Good).await;
        self.record(5);
        self.recorder.flush(WATCHDOG).await.unwrap();
        let health = self.recorder.health();
        assert_eq!(health.last_error, None);
        let stored =
            one(&*self.store, "SELECT count(*) FROM requests WHERE transport = 'shm'").await;
        let run = self.store.get_run(self.run).await.unwrap().unwrap();
        assert_eq!(u64::try_from(stored).unwrap(), health.rows_written);
        assert_eq!(run.lost, health.rows_lost);
        assert_eq!(health.rows_written + health.rows_lost, self.recorded);
    }

    fn pragma(&self, pragmas: &[(&'static str, &str)]) {
        let pragmas = pragmas.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        *self.store.test_pragmas.lock().unwrap() = pragmas;
    }
}

#[tokio::test]
async fn locked() {
    let mut fixture = Fixture::new().await;
    let mut other = fixture.raw().await;
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    fixture.fails_with("locked").await;
    other.execute("ROLLBACK").await.unwrap();
    fixture.recovers().await;
}

#[tokio::test]
async fn full() {
    let mut fixture = Fixture::new().await;
    fixture.store.close().await;
    // SQLite takes this as "no page more than there is".
    fixture.pragma(&[("max_page_count", "1")]);
    // Rows fill the last pages first.
    let recorder = fixture.recorder.clone();
    let fill = async {
        while recorder.health().state == StoreState::Good {
            fixture.record(QUEUE / 2);
            recorder.flush(WATCHDOG).await.ok();
        }
    };
    tokio::time::timeout(WATCHDOG, fill).await.expect("full");
    fixture.fails_with("full").await;
    fixture.pragma(&[]);
    fixture.recovers().await;
}

#[tokio::test]
async fn read_only() {
    let mut fixture = Fixture::new().await;
    fixture.store.close().await;
    fixture.pragma(&[("query_only", "ON")]);
    fixture.fails_with("read-only").await;
    fixture.pragma(&[]);
    fixture.recovers().await;
}

#[tokio::test]
async fn gone_with_its_folder_and_made_anew() {
    let mut fixture = Fixture::new().await;
    let folder = fixture.dir.path().join("folder");
    std::fs::remove_dir_all(&folder).unwrap();
    fixture.fails_with("folder").await;
    std::fs::create_dir(&folder).unwrap();
    // Nothing had been stored before, so the counts hold for the new file too; the run and the
    // session that go on are in it.
    fixture.recovers().await;
    let run = fixture.store.get_run(fixture.run).await.unwrap().unwrap();
    assert_eq!(run.new, new_run("serve", 1));
    fixture.writer.stop().await;
}

#[tokio::test]
async fn deleted_while_its_log_stays() {
    let mut fixture = Fixture::new().await;
    fixture.record(3);
    fixture.recorder.flush(WATCHDOG).await.unwrap();
    std::fs::remove_file(fixture.dir.path().join("folder/store.db")).unwrap();
    fixture.record(4);
    let recorder = fixture.recorder.clone();
    until("stored anew", || recorder.health().rows_written == 7).await;
    assert_eq!(one(&*fixture.store, "SELECT count(*) FROM requests").await, 4);
    fixture.store.close().await;
    let mut raw = fixture.raw().await;
    let check = sqlx::query_scalar::<_, String>("PRAGMA integrity_check");
    assert_eq!(check.fetch_all(&mut raw).await.unwrap(), ["ok"]);
}

#[tokio::test]
async fn replaced_by_another_store() {
    let mut fixture = Fixture::new().await;
    let other = tempfile::tempdir().unwrap();
    let store = open(other.path()).await;
    store.start_run(&new_run("other", 99)).await.unwrap();
    store.close().await;
    let here = fixture.dir.path().join("folder");
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::create_dir(&here).unwrap();
    std::fs::copy(other.path().join("store.db"), here.join("store.db")).unwrap();
    fixture.record(1);
    let recorder = fixture.recorder.clone();
    let replaced = |error: String| error.contains("another store");
    until("replaced", || recorder.health().last_error.is_some_and(replaced)).await;
    assert_eq!(one(&*fixture.store, "SELECT count(*) FROM request_rows").await, 0);
}

#[tokio::test]
async fn a_writer_that_stops_while_the_store_fails_counts_what_it_held() {
    let mut fixture = Fixture::new().await;
    let mut other = fixture.raw().await;
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    fixture.fails_with("locked").await;
    let Fixture { dir: _dir, writer, recorded, .. } = fixture;
    let health = tokio::time::timeout(WATCHDOG, writer.stop()).await.expect("stops");
    assert_eq!(health.state, StoreState::Stopped);
    assert_eq!((health.rows_written, health.rows_lost, health.queue_len), (0, recorded, 0));
}

/// Rows of a run that are stored, and those that the store itself says are lost.
async fn accounts(store: &SqliteStore, run: i64) -> (u64, u64) {
    let sql = format!("SELECT count(*) FROM request_rows WHERE run_id = {run}");
    let stored = u64::try_from(one(store, &sql).await).unwrap();
    (stored, store.get_run(run).await.unwrap().unwrap().lost)
}

#[tokio::test]
async fn a_full_store_says_by_run_what_it_lost_while_it_is_full_and_afterwards() {
    const SENT: u64 = 8000;
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store.db"));
    let config = SqliteConfig { bytes_max: Some(600_000), ..SqliteConfig::default() };
    let store = Arc::new(SqliteStore::open(location, config).await.unwrap());
    let own = store.start_run(&new_run("serve", 1)).await.unwrap();
    let bench = store.start_run(&new_run("bench", 2)).await.unwrap();
    let config = WriterConfig {
        batch_rows: 500,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..WriterConfig::default()
    };
    let (recorder, writer) = Writer::spawn(store.clone(), own, config);
    recorder.event(Event::Opened(Box::new(session(1, bench, Transport::Shm))));
    for request in 0..SENT {
        recorder.record(record(1, bench, request, 10));
        if request % 8 == 0 {
            recorder.record(record(1, 0, request, 10));
        }
    }
    let flushed = recorder.flush(WATCHDOG).await;
    assert!(matches!(flushed, Err(FlushError::Failing(_))), "{flushed:?}");
    let health = recorder.health();
    assert_eq!((health.state, health.queue_len), (StoreState::Failing, 0));
    let ((stored, lost), (own_stored, own_lost)) =
        (accounts(&store, bench).await, accounts(&store, own).await);
    assert!(lost > 0 && own_lost > 0, "{lost} {own_lost}");
    assert_eq!((stored + lost, own_stored + own_lost), (SENT, SENT / 8));
    assert_eq!(health.rows_lost, lost + own_lost);
    // A run ends in a full store too, and what comes later is counted at the end at last.
    let end = RunEnd { finished_unix_ns: 9, notes: None };
    store.finish_run(bench, &end).await.unwrap();
    recorder.record(record(1, bench, SENT, 10));
    recorder.lose(bench, 2);
    let health = writer.stop().await;
    let (stored, lost) = accounts(&store, bench).await;
    assert_eq!(stored + lost, SENT + 1 + 2, "one row may find room where many do not");
    assert_eq!(health.rows_lost, lost + own_lost);
    let run = store.get_run(bench).await.unwrap().unwrap();
    assert_eq!(run.finished_unix_ns, Some(9));
    let again = store.finish_run(bench, &end).await;
    assert!(matches!(again, Err(StoreError::NoSuchRun { .. })), "{again:?}");
}
