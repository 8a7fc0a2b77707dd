//! Loads a model with other settings, measures it, and puts it back.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use ferry_bench::Error;
use ferry_bench::tune::{Clients, Climb, Meter, Point, Rung, Score, Space, Trial, Why, climb};
use ferry_client::blocking::Client;
use ferry_client::v1;
use indicatif::ProgressBar;

use super::config::Config;
use super::{not_operator, report};
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

/// The share of the time that is kept for the last rounds.
const KEPT: f64 = 0.25;

/// The server, and the model as it was.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    /// Whose requests are the load.
    pub(super) client: &'a Client,
    /// Who loads.
    pub(super) operator: &'a Client,
    pub(super) model: &'a v1::Model,
    pub(super) config: &'a Config,
}

/// Measures settings on a server. When it is dropped, the model is as it was.
pub(super) struct Loads<'a> {
    host: Host<'a>,
    space: &'a Space,
    climb: Climb,
    until: Instant,
    out: (&'a Printer, &'a ProgressBar),
    is_changed: bool,
}

impl<'a> Loads<'a> {
    pub(super) fn new(
        host: Host<'a>,
        space: &'a Space,
        climb: Climb,
        time: Duration,
        out: (&'a Printer, &'a ProgressBar),
    ) -> Loads<'a> {
        let until = Instant::now() + time.mul_f64(1.0 - KEPT);
        Loads { host, space, climb, until, out, is_changed: false }
    }

    fn load(&self, config_toml: Option<String>) -> Result<(), tonic::Status> {
        let Host { operator, model, .. } = self.host;
        let request =
            v1::LoadModelRequest { name: model.name.clone(), version: model.version, config_toml };
        operator.run(control::models(operator).load(request)).map(drop)
    }

    /// Loads the model as it was.
    pub(super) fn put_back(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.is_changed) {
            return Ok(());
        }
        let Host { model, .. } = self.host;
        let before = Some(model.config_toml.clone().unwrap_or_default());
        let is_own = !model.is_overridden;
        let Err(status) = self.load(before.clone().filter(|_| !is_own)) else { return Ok(()) };
        // The folder has another TOML by now, which does not do: with the old one the model is at
        // least what it was.
        let again = is_own && self.load(before).is_ok();
        let state = if again {
            "has its old settings again, but not from its folder"
        } else {
            "is not as it was"
        };
        let (name, why, code) = (&model.name, status.message(), status.code());
        let how = if is_own { "" } else { " --config FILE, with the TOML that it was loaded with" };
        Err(Failure::Failed(anyhow!(
            "{name} {state} ({why}, {code:?}): `ferry models load {name}`{how}"
        )))
    }

    /// Loads and measures; the text says why the model cannot be had with these settings.
    fn try_one(
        &mut self,
        point: &Point,
        clients: Clients,
    ) -> Result<Result<(Vec<Rung>, Score), String>, Failure> {
        let text = self.host.config.with(self.space.changed(point))?;
        self.is_changed = true;
        if let Err(status) = self.load(Some(text)) {
            return match status.code() {
                // The connection, which says nothing of the settings.
                tonic::Code::Unavailable
                | tonic::Code::Unknown
                | tonic::Code::Cancelled
                | tonic::Code::PermissionDenied
                | tonic::Code::Unauthenticated => Err(not_operator(status)),
                _ => Ok(Err(status.message().to_owned())),
            };
        }
        match climb(self.host.client, &self.climb, clients) {
            Ok(measured) => Ok(Ok(measured)),
            Err(error) if self.is_there() => Ok(Err(text_of(error))),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the server answers, so that it is the settings that do not work.
    fn is_there(&self) -> bool {
        let Host { operator, model, .. } = self.host;
        control::model(operator, &model.name, model.version).is_ok()
    }

    fn check_stop(&self) -> Result<(), Failure> {
        if self.climb.stop.is_asked() {
            let name = &self.host.model.name;
            let text = format!("interrupted: nothing was written, and {name} is put back");
            return Err(Failure::Interrupted(text));
        }
        Ok(())
    }
}

fn text_of(error: Error) -> String {
    Failure::from(error).text()
}

impl Meter for Loads<'_> {
    type Error = Failure;

    fn measure(&mut self, point: &Point, why: Why, clients: Clients) -> Result<Trial, Failure> {
        self.check_stop()?;
        let (printer, bar) = self.out;
        bar.set_message(format!("{}: {}", why.name(), report::settings(self.space, point)));
        let outcome = self.try_one(point, clients)?;
        self.check_stop()?;
        let trial = Trial { point: point.clone(), why, outcome };
        bar.inc(1);
        report::trial(self.space, &trial, printer)?;
        Ok(trial)
    }

    fn has_time(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Drop for Loads<'_> {
    fn drop(&mut self) {
        // Only where nobody asked for it before.
        if let Err(failure) = self.put_back() {
            self.out.0.failure(&failure);
        }
    }
}
