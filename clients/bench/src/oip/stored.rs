//! The stages of requests that the server recorded by itself, from its SQL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{Stage, StageTimes, v1};
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::runs_client::RunsClient;

use crate::crew::Outcome;
use crate::summary::Summary;
use crate::way::Way;

/// When the rounds of a way began and ended, in nanoseconds since 1970.
pub(crate) type Spans = Vec<(u64, u64)>;

/// Most rows of one query; the next begins where it ended.
const ROWS_MAX: u64 = 100_000;

/// How long rows may take to be stored: the server writes them some times in a second.
const STORED_WITHIN: Duration = Duration::from_secs(5);

/// How often it is asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Adds what the server stored of the requests over the protocol, which know no run: they are
/// found by model and time.
///
/// # Errors
/// Why nothing was added: the server is not ferryd, is on another host, whose clock is another one,
/// or does not let this caller read its SQL; or the model had other requests besides.
pub(crate) fn add(
    client: &Client,
    outcomes: &mut [Outcome],
    spans: &[Spans],
) -> Result<(), String> {
    let of_oip = |outcome: &Outcome| matches!(outcome.load.way, Way::Oip { .. });
    let Some(model) = outcomes.iter().find(|it| of_oip(it)).map(|it| it.load.way.model()) else {
        return Ok(());
    };
    if !is_on_this_host(client.control().server()) {
        return Err("the server is on another host, whose clock is another one".into());
    }
    let mut admin = AdminClient::new(client.control().channel());
    let run = client.run(admin.status(v1::StatusRequest {})).map_err(why)?.into_inner().run_id;
    let model = model.replace('\'', "''");
    let deadline = Instant::now() + STORED_WITHIN;
    let found = loop {
        let found = read(client, (run, &model), outcomes, spans)?;
        let is_whole = |(outcome, found): (&Outcome, &Found)| found.rows >= outcome.requests;
        let mut all = outcomes.iter().zip(&found).filter(|(outcome, _)| of_oip(outcome));
        if all.all(is_whole) || Instant::now() > deadline {
            break found;
        }
        std::thread::sleep(ASK_EVERY);
    };
    let all = || outcomes.iter().zip(&found).filter(|(outcome, _)| of_oip(outcome));
    if let Some((outcome, found)) = all().find(|(outcome, found)| found.rows > outcome.requests) {
        let (rows, requests) = (found.rows, outcome.requests);
        return Err(format!(
            "the server stored {rows} requests meanwhile, and {requests} are of this run: somebody \
             else uses the model"
        ));
    }
    for (outcome, found) in outcomes.iter_mut().zip(found).filter(|(outcome, _)| of_oip(outcome)) {
        outcome.lost = Some(outcome.requests - found.rows);
        outcome.summary.merge(&found.summary);
    }
    Ok(())
}

/// The rows of one way.
struct Found {
    rows: u64,
    summary: Summary,
}

/// Whether the address is one of this host's: then its clock is ours. A tunnel hides another one.
fn is_on_this_host(server: &str) -> bool {
    let address = server.rsplit_once("://").map_or(server, |(_scheme, address)| address);
    let own = |peer: SocketAddr| {
        // Sends nothing: the system only chooses the address that it would send from.
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(peer)?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip() == peer.ip())
    };
    let mut all = address.trim_end_matches('/').to_socket_addrs().into_iter().flatten();
    all.next().is_some_and(|peer| own(peer).unwrap_or(false))
}

fn read(
    client: &Client,
    (run, model): (i64, &str),
    outcomes: &[Outcome],
    spans: &[Spans],
) -> Result<Vec<Found>, String> {
    let of = |way: &Way| matches!(way, Way::Oip { .. });
    let mut spans: Vec<(u64, u64, usize)> = outcomes
        .iter()
        .zip(spans)
        .enumerate()
        .filter(|(_, (outcome, _))| of(&outcome.load.way))
        .flat_map(|(way, (_, spans))| spans.iter().map(move |&(from, to)| (from, to, way)))
        .collect();
    spans.sort_unstable();
    let mut found: Vec<_> =
        outcomes.iter().map(|_| Found { rows: 0, summary: Summary::new() }).collect();
    let (Some(&(mut from, ..)), Some(&(_, last, _))) = (spans.first(), spans.last()) else {
        return Ok(found);
    };
    // `from` grows with each query: this ends.
    loop {
        let rows: Vec<_> = query(client, &sql(run, model, from, last))?.iter().map(times).collect();
        // More rows than a query gives: those of its last instant come again with the next.
        let next = rows.last().filter(|_| rows.len() as u64 >= ROWS_MAX).map(|(last, _)| *last);
        for (started, times) in rows.into_iter().filter(|(it, _)| Some(*it) != next) {
            // Ways take turns, so that their spans do not overlap.
            let at = spans.partition_point(|&(from, ..)| from <= started);
            if let Some(&(_, to, way)) = at.checked_sub(1).and_then(|at| spans.get(at))
                && started <= to
                && let Some(found) = found.get_mut(way)
            {
                found.rows += 1;
                found.summary.add_times(&times);
            }
        }
        let Some(next) = next else { return Ok(found) };
        from = next.max(from + 1);
    }
}

/// Requests without a session, by themselves: their clients report nothing, not even a total.
fn sql(run: i64, model: &str, from: u64, to: u64) -> String {
    let columns = Stage::ALL.map(|stage| format!("{}_ns", stage.name())).join(", ");
    format!(
        "SELECT started_unix_ns, {columns} FROM requests WHERE run_id = {run} AND model = \
         '{model}' AND transport = 'grpc' AND status = 'ok' AND total_ns IS NULL AND \
         started_unix_ns BETWEEN {from} AND {to} ORDER BY started_unix_ns LIMIT {ROWS_MAX}"
    )
}

fn query(client: &Client, sql: &str) -> Result<Vec<v1::Row>, String> {
    let request = v1::QueryRequest { sql: sql.to_owned(), rows_max: ROWS_MAX };
    let mut runs = RunsClient::new(client.control().channel());
    let all = client.run(async {
        let mut stream = runs.query(request).await?.into_inner();
        let mut rows = Vec::new();
        while let Some(part) = stream.message().await? {
            rows.extend(part.rows);
        }
        Ok::<_, tonic::Status>(rows)
    });
    all.map_err(why)
}

fn why(status: tonic::Status) -> String {
    match status.code() {
        tonic::Code::Unimplemented => "the server is not ferryd".to_owned(),
        code => format!("{} ({code:?})", status.message()),
    }
}

/// When a request began, and its stages.
fn times(row: &v1::Row) -> (u64, StageTimes) {
    let number = |value: &v1::Value| match value.kind {
        Some(v1::value::Kind::Integer(number)) => u64::try_from(number).ok(),
        _ => None,
    };
    let mut values = row.values.iter().map(number);
    let started = values.next().flatten().unwrap_or_default();
    let mut times = StageTimes::NONE;
    Stage::ALL.into_iter().zip(values).for_each(|(stage, ns)| times.put(stage, ns));
    (started, times)
}
