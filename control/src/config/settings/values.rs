//! One option at a time: from what was written to what it means.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferry_rdma::Fence;

use super::{ConfigError, TenantSettings, bad};
use crate::host::rate::Rate;
use crate::models::{ModelControl, check_name};
use crate::tenants::{Quota, TenantConfig};

/// Where engines are kept if nobody says: in the cache of the user, as it can be removed at any
/// time, is of use to all servers of the user on this machine, and others cannot write there.
/// `None` where there is no such folder: paths that are not absolute are no answer.
pub(super) fn engine_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|it: &PathBuf| it.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join(Path::new("ferry/engines")))
}

pub(super) fn address(name: &'static str, address: String) -> Result<String, ConfigError> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address),
        _ => Err(bad(name, format!("{address:?} is not HOST:PORT, such as 127.0.0.1:7077"))),
    }
}

pub(super) fn fence(name: Option<String>) -> Result<Fence, ConfigError> {
    match name.as_deref() {
        None | Some("auto") => Ok(Fence::Auto),
        Some("window") => Ok(Fence::Window),
        Some("registration") => Ok(Fence::Registration),
        Some(other) => {
            Err(bad("rdma-fence", format!("{other}; there are auto, window and registration")))
        }
    }
}

/// How often a folder may be looked at, in seconds: oftener, and looking is all that is done; a
/// longer time than a day is for ever.
const POLL_SECONDS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

/// How often it is where nobody says.
const POLL_SECONDS_DEFAULT: f64 = 15.0;

pub(super) fn model_control(
    mode: Option<String>,
    poll_seconds: Option<f64>,
    load_model: Option<Vec<String>>,
) -> Result<ModelControl, ConfigError> {
    let mode = mode.as_deref().unwrap_or("none");
    if poll_seconds.is_some() && mode != "poll" {
        return Err(bad("model-poll-seconds", "it needs model-control poll"));
    }
    if load_model.is_some() && mode != "explicit" {
        return Err(bad("load-model", "it needs model-control explicit: else all are loaded"));
    }
    match mode {
        "none" => Ok(ModelControl::None),
        "explicit" => {
            let names = load_model.unwrap_or_default();
            for name in names.iter().filter(|name| *name != "*") {
                check_name(name).map_err(|error| bad("load-model", error.to_string()))?;
            }
            Ok(ModelControl::Explicit(names))
        }
        "poll" => {
            let every = poll_seconds.unwrap_or(POLL_SECONDS_DEFAULT);
            if !POLL_SECONDS.contains(&every) {
                let (low, high) = (*POLL_SECONDS.start(), *POLL_SECONDS.end());
                return Err(bad(
                    "model-poll-seconds",
                    format!("{every}; allowed are {low} to {high}"),
                ));
            }
            Ok(ModelControl::Poll(Duration::from_secs_f64(every)))
        }
        other => Err(bad("model-control", format!("{other:?}; there are none, poll, explicit"))),
    }
}

pub(super) fn at_least_1(name: &'static str, count: usize) -> Result<usize, ConfigError> {
    if count == 0 { Err(bad(name, "0; at least 1 is needed")) } else { Ok(count) }
}

pub(super) fn seconds(
    name: &'static str,
    given: Option<f64>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(given) = given else { return Ok(default) };
    Duration::try_from_secs_f64(given).map_err(|error| bad(name, format!("{given}: {error}")))
}

/// A key has to be sendable: what is no visible character can never be presented.
fn key(name: &'static str, whose: &str, key: &str) -> Result<(), ConfigError> {
    if key.is_empty() {
        return Err(bad(name, format!("{whose} has an empty key; leave it out, or give one")));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = format!("the key of {whose} has other characters than visible ASCII");
        return Err(bad(name, why));
    }
    Ok(())
}

/// The operator's key is nobody else's: whoever has it may do everything.
pub(super) fn operator_key(
    own: Option<String>,
    tenants: &BTreeMap<String, TenantSettings>,
) -> Result<Option<String>, ConfigError> {
    let Some(own) = own else { return Ok(None) };
    key("operator-key", "the operator", &own)?;
    if let Some((name, _)) = tenants.iter().find(|(_, tenant)| tenant.key == own) {
        let why = format!("[tenants.{name}] has the same key; give each its own");
        return Err(bad("operator-key", why));
    }
    Ok(Some(own))
}

pub(super) fn tenants(
    all: BTreeMap<String, TenantSettings>,
    everybody: &Quota,
) -> Result<Vec<TenantConfig>, ConfigError> {
    let mut tenants: Vec<TenantConfig> = Vec::with_capacity(all.len());
    for (name, tenant) in all {
        key("tenants", &format!("[tenants.{name}]"), &tenant.key)?;
        if let Some(other) = tenants.iter().find(|other| other.key == tenant.key) {
            let why = format!("{name} and {} have the same key; give each its own", other.name);
            return Err(bad("tenants", why));
        }
        let quota = Quota {
            sessions: tenant.quota_sessions.unwrap_or(everybody.sessions),
            slots: tenant.quota_slots.unwrap_or(everybody.slots),
            bytes: tenant.quota_bytes.unwrap_or(everybody.bytes),
            in_flight: tenant.quota_in_flight.unwrap_or(everybody.in_flight),
        };
        let rate = match (tenant.requests_per_s, tenant.burst) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err("burst without requests-per-s".to_owned()),
            (Some(per_s), burst) => Rate::new(per_s, burst).map(Some),
        };
        let rate = rate.map_err(|why| bad("tenants", format!("[tenants.{name}]: {why}")))?;
        tenants.push(TenantConfig { name, key: tenant.key, quota, rate });
    }
    Ok(tenants)
}
