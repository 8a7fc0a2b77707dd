//! The transports that a session can have, and the choice among them.

use std::sync::Arc;

use ferry_core::{Area, Finding, Found, LinkKind, Transport};

use super::carrier::{Carrier, Unfit, Wish};
use crate::error::ApiError;
use crate::serving::lanes::Lanes;

/// Every transport that works on this machine, in the order in which `auto` tries them.
#[derive(Debug)]
pub struct Carriers {
    all: Vec<Arc<dyn Carrier>>,
    lanes: Arc<Lanes>,
    findings: Arc<[Finding]>,
}

impl Carriers {
    /// These, on these lanes. What was found says why a transport is not among them.
    pub fn new(
        mut all: Vec<Arc<dyn Carrier>>,
        lanes: Arc<Lanes>,
        findings: Arc<[Finding]>,
    ) -> Carriers {
        all.sort_by_key(|it| it.transport().facts().rank.unwrap_or(u8::MAX));
        Carriers { all, lanes, findings }
    }

    /// Those that have a lane that lives; those of gRPC need none.
    fn living(&self) -> impl Iterator<Item = &Arc<dyn Carrier>> {
        let lives = |it: &&Arc<dyn Carrier>| {
            let link = it.transport().link();
            link == LinkKind::Grpc || self.lanes.best(link).is_some()
        };
        self.all.iter().filter(lives)
    }

    /// The transports that a client can open a session with.
    pub fn transports(&self) -> Vec<Transport> {
        let is_usable = |it: &Transport| self.found(it.name()).is_none_or(|found| found.usable);
        let mut all: Vec<_> = self.living().map(|it| it.transport()).filter(is_usable).collect();
        all.sort_unstable();
        all
    }

    /// The carrier of a session, and why this one: the one that was named, or the best that suits,
    /// but none of `refused`.
    ///
    /// # Errors
    /// [`ApiError::Transport`] says why it cannot be, and what can.
    pub fn choose(
        &self,
        wish: &Wish<'_>,
        refused: &[Transport],
    ) -> Result<(&Arc<dyn Carrier>, String), ApiError> {
        let Some(transport) = wish.spec.transport else {
            let all = self.living().filter(|it| !refused.contains(&it.transport()));
            return best(all, wish);
        };
        let found = self.living().find(|it| it.transport() == transport);
        let carrier = found.ok_or_else(|| self.missing(transport))?;
        carrier.fits(wish).map_err(|unfit| unusable(transport, unfit))?;
        Ok((carrier, "asked for".to_owned()))
    }

    /// Why a transport of this build is not to be had here, as far as it was found at the start.
    fn missing(&self, transport: Transport) -> ApiError {
        let found = self.found(transport.name()).filter(|it| !it.usable);
        // A lane that started and died is told in the log alone.
        let (why, fix) = match found {
            Some(found) => (found.detail.as_str(), found.fix.as_str()),
            None => ("it has ended", "see the server's log"),
        };
        let why = format!("it has no lane on this server ({why})");
        let fix = format!("{fix}; `ferry doctor` shows all that was found; auto chooses another");
        unusable(transport, Unfit { why, fix })
    }

    fn found(&self, name: &str) -> Option<&Found> {
        let is_it = |it: &&Finding| it.area == Area::Transport && it.found.name == name;
        self.findings.iter().find(is_it).map(|it| &it.found)
    }
}

/// The first that suits and fits.
fn best<'a>(
    all: impl Iterator<Item = &'a Arc<dyn Carrier>>,
    wish: &Wish<'_>,
) -> Result<(&'a Arc<dyn Carrier>, String), ApiError> {
    let mut passed_over = Vec::new();
    for carrier in all {
        let why = match carrier.suits(wish) {
            Err(why) => why,
            Ok(reason) => match carrier.fits(wish) {
                Ok(()) => return Ok((carrier, with(reason, &passed_over))),
                Err(unfit) => Some(unfit.why),
            },
        };
        passed_over.extend(why.map(|why| format!("{}: {why}", carrier.transport())));
    }
    let why = with("no lane is left".into(), &passed_over);
    Err(unusable(Transport::Grpc, Unfit::new(why, "see `ferry doctor`")))
}

/// A transport that cannot be.
pub(super) fn unusable(transport: Transport, unfit: Unfit) -> ApiError {
    ApiError::Transport { transport, why: unfit.why, fix: unfit.fix }
}

fn with(reason: String, passed_over: &[String]) -> String {
    if passed_over.is_empty() { reason } else { format!("{reason} ({})", passed_over.join("; ")) }
}

#[cfg(test)]
mod tests;
