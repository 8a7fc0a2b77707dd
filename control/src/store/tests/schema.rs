//! Opening, and the schema.

use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Executor};

use super::super::sqlite::migrator;
use super::*;

async fn raw(dir: &Path) -> SqliteConnection {
    let location = Location::File(dir.join("store.db"));
    location.connect_options().create_if_missing(true).connect().await.unwrap()
}

/// The schema of stores that know this many migrations.
fn up_to(version: i64) -> Migrator {
    let all = migrator();
    let known = all.iter().filter(|it| it.version <= version).cloned();
    Migrator::with_migrations(known.collect())
}

async fn schema(connection: &mut SqliteConnection) -> Vec<String> {
    sqlx::query_scalar("SELECT name || ':' || coalesce(sql, '') FROM sqlite_schema ORDER BY name")
        .fetch_all(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_schema_goes_up_down_and_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = raw(dir.path()).await;
    let all = migrator();
    all.run_direct(None, &mut connection, false).await.unwrap();
    let up = schema(&mut connection).await;
    assert!(up.iter().any(|name| name.starts_with("requests:CREATE VIEW")), "{up:?}");
    all.run_direct(None, &mut connection, false).await.unwrap();
    assert_eq!(schema(&mut connection).await, up);
    all.undo(&mut connection, 0).await.unwrap();
    let down = schema(&mut connection).await;
    assert!(down.iter().all(|name| name.contains("_sqlx_migrations")), "{down:?}");
    all.run_direct(None, &mut connection, false).await.unwrap();
    assert_eq!(schema(&mut connection).await, up);
}

#[tokio::test]
async fn each_way_down_undoes_its_way_up() {
    let newest = migrator().iter().map(|it| it.version).max().unwrap();
    // What 4 drops comes back as the last columns, which no file can change.
    for version in (2..=newest).filter(|&it| it != 4) {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = raw(dir.path()).await;
        up_to(version - 1).run_direct(None, &mut connection, false).await.unwrap();
        let before = schema(&mut connection).await;
        let changed = up_to(version);
        changed.run_direct(None, &mut connection, false).await.unwrap();
        assert_ne!(schema(&mut connection).await, before, "{version}");
        changed.undo(&mut connection, version - 1).await.unwrap();
        assert_eq!(schema(&mut connection).await, before, "{version}");
    }
}

#[tokio::test]
async fn rows_of_before_have_neither_device_nor_precision() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = raw(dir.path()).await;
    up_to(5).run_direct(None, &mut connection, false).await.unwrap();
    for row in [
        "INSERT INTO models VALUES (1, 1, 'm', '1', 'tract', '', 7, NULL)",
        "INSERT INTO sessions VALUES (3, 1, 't', 'm', '1', 'tract', 'shm', 'shm', 'host', \
         'pageable', 'direct', 'spin', 4, 5, NULL, NULL)",
        "INSERT INTO request_rows (run_id, session_id, request, kind, status, batch, priority, \
         bytes_in, bytes_out, started_unix_ns) VALUES (1, 3, 1, 1, 0, 1, 0, 1, 1, 6)",
    ] {
        connection.execute(row).await.unwrap();
    }
    drop(connection);
    let store = open(dir.path()).await;
    for sql in [
        "SELECT count(*) FROM models WHERE name = 'm' AND device IS NULL AND precision IS NULL",
        "SELECT count(*) FROM requests WHERE engine = 'tract' AND device IS NULL \
         AND precision IS NULL",
    ] {
        assert_eq!(one(&*store, sql).await, 1, "{sql}");
    }
}

#[tokio::test]
async fn a_store_opens_again_and_keeps_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let id = store.start_run(&new_run("first", 7)).await.unwrap();
    store.close().await;
    drop(store);
    let store = open(dir.path()).await;
    let run = store.get_run(id).await.unwrap().unwrap();
    assert_eq!((run.new, run.finished_unix_ns, run.lost), (new_run("first", 7), None, 0));
    store.start_run(&new_run("second", 8)).await.unwrap();
    let end = RunEnd { finished_unix_ns: 99, notes: Some("done".into()) };
    store.finish_run(id, &end).await.unwrap();
    let runs = store.list_runs(None, 10).await.unwrap();
    assert_eq!(runs.iter().map(|run| &*run.new.name).collect::<Vec<_>>(), ["second", "first"]);
    assert_eq!(
        (runs[1].finished_unix_ns, runs[1].lost, &*runs[1].new.notes),
        (Some(99), 0, "done")
    );
    assert_eq!(store.list_runs(None, 1).await.unwrap().len(), 1);
    assert!(store.get_run(77).await.unwrap().is_none());
    let missing = store.finish_run(77, &end).await;
    assert!(matches!(missing, Err(StoreError::NoSuchRun { id: 77 })), "{missing:?}");
}

#[tokio::test]
async fn a_closed_store_is_one_file_and_can_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.start_run(&new_run("first", 7)).await.unwrap();
    store.close().await;
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["store.db"]);
    assert_eq!(one(&*store, "SELECT count(*) FROM runs").await, 1);
    // A reader may not delete the log that it had to make; the next writer does.
    drop(store);
    open(dir.path()).await.close().await;
    assert_eq!(names(), ["store.db"]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    let mut connection = raw(dir.path()).await;
    let newer = "INSERT INTO _sqlx_migrations VALUES (99, 'later', 0, true, x'00', 0)";
    connection.execute(newer).await.unwrap();
    let location = Location::File(dir.path().join("store.db"));
    let error = SqliteStore::open(location, SqliteConfig::default()).await.expect_err("newer");
    assert!(matches!(error, StoreError::SchemaNewer { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_missing_folder_and_a_foreign_file_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("no/store.db"));
    let error = SqliteStore::open(location, SqliteConfig::default()).await.expect_err("folder");
    assert!(matches!(error, StoreError::NoFolder { .. }), "{error}");
    let path = dir.path().join("text.db");
    std::fs::write(&path, "not a database, but long enough to look at".repeat(100)).unwrap();
    let error = SqliteStore::open(Location::File(path), SqliteConfig::default()).await;
    assert!(matches!(error, Err(StoreError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn a_store_in_memory_is_one_store() {
    let location: Location = "sqlite::memory:".parse().unwrap();
    let store = SqliteStore::open(location, SqliteConfig::default()).await.unwrap();
    let id = store.start_run(&new_run("memory", 1)).await.unwrap();
    assert_eq!(store.get_run(id).await.unwrap().unwrap().new.name, "memory");
    store.close().await;
    assert_eq!(one(&store, "SELECT count(*) FROM runs").await, 1);
    store.start_run(&new_run("again", 2)).await.unwrap();
    assert_eq!(one(&store, "SELECT count(*) FROM runs").await, 2);
}
