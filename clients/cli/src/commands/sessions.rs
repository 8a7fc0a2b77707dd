//! `ferry sessions`: who is there.

use ferry_client::v1;
use serde_json::json;

use crate::args::{SessionsArgs, SessionsVerb};
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) fn run(args: &SessionsArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let mut admin = control::admin(&client);
    match args.verb.as_ref().unwrap_or(&SessionsVerb::List) {
        SessionsVerb::List => {
            let all = client.run(admin.list_sessions(v1::ListSessionsRequest {}))?;
            list(&all.into_inner().sessions, printer)
        }
        SessionsVerb::Evict { session } => {
            let session_id = u64::from_str_radix(session, 16).map_err(|why| {
                Failure::Usage(format!("{session:?} is not a session, see `ferry sessions`: {why}"))
            })?;
            client.run(admin.evict_session(v1::EvictSessionRequest { session_id }))?;
            printer.say(&format!("session {session} is ended"));
            Ok(())
        }
    }
}

fn list(all: &[v1::SessionInfo], printer: &Printer) -> Result<(), Failure> {
    let seconds = |duration: &Option<_>| {
        duration
            .map_or(0.0, |d: ::prost_types::Duration| f64::from(d.nanos) / 1e9 + d.seconds as f64)
    };
    let mut rows = Vec::new();
    for session in all {
        let id = format!("{:016x}", session.session_id);
        let (age_s, lease_left_s) = (seconds(&session.age), seconds(&session.lease_left));
        if printer.is_json() {
            printer.json(&json!({
                "session": id,
                "tenant": session.tenant,
                "model": session.model,
                "version": session.version,
                "transport": session.transport,
                "generation": session.generation,
                "slots": session.slots,
                "memory_bytes": session.memory_bytes,
                "requests": session.requests,
                "age_s": age_s,
                "lease_left_s": lease_left_s,
                "client": session.client,
                "run_id": session.run_id,
            }))?;
        }
        rows.push(vec![
            id,
            session.tenant.clone(),
            session.model.clone(),
            session.transport.clone(),
            session.slots.to_string(),
            format!("{:.1} MB", session.memory_bytes as f64 / 1e6),
            session.requests.to_string(),
            format!("{age_s:.0} s"),
            format!("{lease_left_s:.0} s"),
        ]);
    }
    if printer.is_json() {
        return Ok(());
    }
    let head =
        ["session", "tenant", "model", "transport", "slots", "memory", "requests", "age", "lease"];
    printer.table(&head, &rows)
}
