//! `ferry doctor`: what works here, and what to do about the rest.

use ferry_bench::OwnServer;
use ferry_client::v1;
use serde_json::json;

use crate::args::DoctorArgs;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

/// Asks the server; where none runs, one is started for the question.
pub(crate) fn run(args: &DoctorArgs, printer: &Printer) -> Result<(), Failure> {
    let (client, own) = match control::connect(&args.server) {
        Ok(client) => (client, None),
        Err(Failure::Unreachable(_)) => {
            printer.say("no server runs there: asking one started for this question");
            let own = OwnServer::on(&args.rdma.device())?;
            (own.connect()?, Some(own))
        }
        Err(other) => return Err(other),
    };
    let devices = client.run(control::admin(&client).devices(v1::DevicesRequest {}));
    let findings = devices?.into_inner().findings;
    drop(client);
    drop(own);
    if printer.is_json() {
        return findings.iter().try_for_each(|finding| {
            printer.json(&json!({
                "area": finding.area,
                "name": finding.name,
                "usable": finding.usable,
                "detail": finding.detail,
                "fix": finding.fix,
            }))
        });
    }
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.name.clone(),
                finding.area.clone(),
                if finding.usable { "yes" } else { "no" }.to_owned(),
                finding.detail.clone(),
                finding.fix.clone(),
            ]
        })
        .collect();
    printer.table(&["what", "area", "usable", "found", "fix"], &rows)
}
