//! What a person who is not trusted may type.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use std::path::Path;
use std::time::Duration;

use ferry_query::{Cell, Location, QueryError, QueryLimits, Reader};
use sqlx::{ConnectOptions, Connection, Executor};

async fn store(dir: &Path) -> Reader {
    let location = Location::File(dir.join("store.db"));
    let options = location.connect_options().create_if_missing(true);
    let journal = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut connection = journal.connect().await.unwrap();
    connection
        .execute("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, NULL)")
        .await
        .unwrap();
    connection.close().await.unwrap();
    Reader::new(location, 2)
}

/// The one before may still be ending: a query gives its place back after its last row was taken.
async fn all(reader: &Reader, sql: &str) -> Result<Vec<Vec<Cell>>, QueryError> {
    for _ in 0..3000 {
        match once(reader, sql).await {
            Err(QueryError::Busy { .. }) => {}
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    once(reader, sql).await
}

async fn once(reader: &Reader, sql: &str) -> Result<Vec<Vec<Cell>>, QueryError> {
    reader.query(sql, QueryLimits::default()).await?.all().await
}

#[tokio::test]
async fn rows_are_typed_and_columns_named() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    let rows = reader
        .query(
            "SELECT 1 AS i, 2.5 AS r, 'x' AS t, x'0aff' AS b, NULL AS n, \
             CAST(x'ff' AS TEXT) AS bad",
            QueryLimits::default(),
        )
        .await
        .unwrap();
    assert_eq!(rows.columns().join(","), "i,r,t,b,n,bad");
    let rows = rows.all().await.unwrap();
    let expected = vec![
        Cell::Integer(1),
        Cell::Real(2.5),
        Cell::Text("x".into()),
        Cell::Blob(vec![10, 255]),
        Cell::Null,
        Cell::Blob(vec![255]),
    ];
    assert_eq!(rows, [expected]);
    assert_eq!(serde_json::to_string(&rows[0]).unwrap(), r#"[1,2.5,"x","0aff",null,"ff"]"#);
    let empty = reader.query("SELECT a FROM t WHERE 0", QueryLimits::default()).await.unwrap();
    assert_eq!(empty.columns().join(","), "a");
    assert!(empty.all().await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_writes_attaches_or_loads() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    let other = dir.path().join("other.db");
    for sql in [
        &format!("ATTACH '{}' AS o", other.display()),
        &format!("/* SELECT */ ATTACH '{}' AS o", other.display()),
        "PRAGMA writable_schema = 1",
        "PRAGMA query_only = OFF",
        "SELECT 1; DELETE FROM t",
        "VACUUM INTO 'x'",
        "BEGIN",
    ] {
        let error = all(&reader, sql).await.expect_err(sql);
        assert!(matches!(error, QueryError::Refused { .. }), "{sql}: {error}");
    }
    for sql in [
        "WITH a AS (SELECT 1) DELETE FROM t",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT 3, 3 FROM a RETURNING *",
        "WITH a AS (SELECT 1) UPDATE t SET a = 5",
    ] {
        let error = all(&reader, sql).await.expect_err(sql);
        assert!(matches!(error, QueryError::Writes), "{sql}: {error}");
    }
    for sql in [
        "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT * FROM pragma_writable_schema(1)",
        "SELECT * FROM missing",
    ] {
        let error = all(&reader, sql).await.expect_err(sql);
        assert!(matches!(error, QueryError::Statement { .. }), "{sql}: {error}");
    }
    assert_eq!(all(&reader, "SELECT count(*) FROM t").await.unwrap(), [[Cell::Integer(2)]]);
    assert!(!other.exists());
}

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c)";

#[tokio::test]
async fn an_endless_query_stops_in_time_with_and_without_rows() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    let limits =
        QueryLimits { time: Duration::from_millis(200), rows: u64::MAX, ..QueryLimits::default() };
    for sql in [format!("{ENDLESS} SELECT max(x) FROM c"), format!("{ENDLESS} SELECT x FROM c")] {
        let watchdog = Duration::from_secs(20);
        let outcome =
            tokio::time::timeout(watchdog, async { reader.query(&sql, limits).await?.all().await });
        let error = outcome.await.expect("stopped").expect_err("endless");
        assert!(matches!(error, QueryError::TimeLimit { .. }), "{error}");
    }
}

#[tokio::test]
async fn rows_and_cells_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    let limits = QueryLimits { rows: 3, cell_bytes: 10, ..QueryLimits::default() };
    let mut rows = reader.query(&format!("{ENDLESS} SELECT x FROM c"), limits).await.unwrap();
    for expected in 1..=3 {
        assert_eq!(rows.next().await.unwrap().unwrap(), [Cell::Integer(expected)]);
    }
    assert!(matches!(rows.next().await, Some(Err(QueryError::RowLimit { limit: 3 }))));
    assert!(rows.next().await.is_none());
    let three = reader.query("VALUES (1), (2), (3)", limits).await.unwrap().all().await;
    assert_eq!(three.unwrap().len(), 3);
    let long = reader.query("SELECT zeroblob(11)", limits).await.unwrap().all().await;
    assert!(matches!(long, Err(QueryError::CellTooLarge { bytes: 11, limit: 10 })), "{long:?}");
}

#[tokio::test]
async fn what_a_query_makes_on_its_way_is_bounded_too() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    // Each gives out one number, and would need hundreds of megabytes on its way to it.
    for sql in [
        "SELECT length(zeroblob(500000000))",
        "SELECT length(hex(zeroblob(400000000)))",
        "SELECT length(replace(hex(zeroblob(2000000)), '0', 'xxxxxxxxxxxxxxxx'))",
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 3000) \
         SELECT length(group_concat(hex(zeroblob(1000)))) FROM c",
    ] {
        let error = all(&reader, sql).await.expect_err(sql);
        assert!(error.to_string().contains("too big"), "{sql}: {error}");
    }
    let wide = format!("SELECT {}", vec!["1"; 300].join(","));
    assert!(all(&reader, &wide).await.is_err());
    // A row is as bounded as its cells.
    let long = format!("SELECT {}", ["zeroblob(1000000)"; 8].join(","));
    let error = all(&reader, &long).await.expect_err("a long row");
    assert!(matches!(error, QueryError::CellTooLarge { .. }), "{error}");
}

#[tokio::test]
async fn queries_are_bounded_and_a_dropped_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let reader = store(dir.path()).await;
    let endless = format!("{ENDLESS} SELECT max(x) FROM c");
    let first = reader.query(&endless, QueryLimits::default()).await.unwrap();
    let second = reader.query(&endless, QueryLimits::default()).await.unwrap();
    let third = reader.query("SELECT 1", QueryLimits::default()).await;
    assert!(matches!(third, Err(QueryError::Busy { limit: 2 })), "{third:?}");
    drop((first, second));
    let again = tokio::time::timeout(Duration::from_secs(20), async {
        while all(&reader, "SELECT 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    again.await.expect("a dropped query gives its place back");
}

#[tokio::test]
async fn a_missing_store_is_named_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.db");
    let reader = Reader::new(Location::File(path.clone()), 1);
    let error = all(&reader, "SELECT 1").await.expect_err("missing");
    assert!(error.to_string().contains("none.db"), "{error}");
    assert!(!path.exists());
    let rubbish = dir.path().join("rubbish.db");
    std::fs::write(&rubbish, vec![b'x'; 4096]).unwrap();
    let reader = Reader::new(Location::File(rubbish), 1);
    assert!(all(&reader, "SELECT * FROM runs").await.is_err());
}
