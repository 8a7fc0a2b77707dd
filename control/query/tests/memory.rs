//! What a query may take of the server's memory. A process of its own: its high-water mark is what
//! is measured.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use ferry_query::{Location, QueryLimits, Reader};
use sqlx::{ConnectOptions, Connection};

/// Rows of half a megabyte that each of the queries goes through: 150 MB.
const ROWS: &str = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c \
                    WHERE x < 300), rows(b) AS (SELECT randomblob(500000) FROM c)";

/// Most that the process may grow by: the caches of one connection, and some rows under way.
const KIB_MAX: u64 = 80 << 10;

/// The most memory that this process had so far, in KiB.
fn high_water_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_sorted_grouped_or_kept_on_the_way_lies_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("store.db"));
    let options = location.connect_options().create_if_missing(true);
    options.connect().await.unwrap().close().await.unwrap();
    let reader = Reader::new(location, 8);
    let before = high_water_kib();
    for select in [
        "SELECT length(b) FROM rows ORDER BY b",
        "SELECT max(length(b)) FROM rows GROUP BY b",
        "SELECT count(DISTINCT b) FROM rows",
        "SELECT length(b) FROM (SELECT b FROM rows UNION SELECT x'00')",
        "SELECT length(lag(b) OVER (ORDER BY length(b) DESC)) FROM rows",
    ] {
        let sql = format!("{ROWS} {select}");
        let rows = reader.query(&sql, QueryLimits::default()).await.unwrap().all().await;
        assert!(rows.is_ok(), "{select}: {rows:?}");
        let grown = high_water_kib() - before;
        assert!(grown < KIB_MAX, "{select}: {grown} KiB");
    }
}
