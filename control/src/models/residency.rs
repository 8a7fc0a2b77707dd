//! Which models are in memory: what they take of it, and which of them make room for another.
//!
//! A model that was loaded once is *absent*, *loading*, *resident* or *leaving*. An absent one is
//! listed as before, and is loaded again when somebody asks for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the weights of a model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's memory.
    Host,
    /// That of a GPU.
    Gpu(u32),
}

impl Place {
    /// Its name on the wire: `host`, `cuda:N`.
    pub fn name(self) -> String {
        match self {
            Place::Host => "host".to_owned(),
            Place::Gpu(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => f.write_str("host memory"),
            Place::Gpu(ordinal) => write!(f, "memory of cuda:{ordinal}"),
        }
    }
}

/// Whether a model that serves is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidencyState {
    /// It made room, and is loaded when it is asked for.
    Absent,
    /// It is being loaded.
    Loading,
    /// It is in memory.
    Resident,
    /// It takes nothing new, and makes room once its requests are done.
    Leaving,
}

impl ResidencyState {
    /// Its name on the wire and for people.
    pub fn name(self) -> &'static str {
        match self {
            ResidencyState::Absent => "absent",
            ResidencyState::Loading => "loading",
            ResidencyState::Resident => "resident",
            ResidencyState::Leaving => "leaving",
        }
    }
}

/// How a model is, or was, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is there.
    pub state: ResidencyState,
    /// Where it is or was.
    pub place: Place,
    /// What its weights take there while it is, as far as its engine knows, in bytes.
    pub weights_bytes: u64,
    /// It never makes room.
    pub keep: bool,
    /// How often it was loaded.
    pub loads: u64,
    /// How often it made room.
    pub evictions: u64,
    /// What its last load took, its warm-up included, without the wait for room.
    pub last_load: Duration,
}

/// What the operator gives to the weights of all models, in bytes; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Of the host's memory.
    pub host_bytes_max: Option<u64>,
    /// Of the memory of each GPU.
    pub gpu_bytes_max: Option<u64>,
}

impl Budget {
    /// The bound of a place.
    pub fn of(&self, place: Place) -> Option<u64> {
        match place {
            Place::Host => self.host_bytes_max,
            Place::Gpu(_) => self.gpu_bytes_max,
        }
    }

    /// The option that sets it.
    fn option(place: Place) -> &'static str {
        match place {
            Place::Host => "--models-bytes-max",
            Place::Gpu(_) => "--gpu-models-bytes-max",
        }
    }
}

/// What models take of each place, those that are being loaded and those that are leaving among
/// them.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<BTreeMap<Place, u64>>);

/// What a model takes of the memory for models. Dropping it gives that back.
#[derive(Debug)]
pub(super) struct Charge {
    ledger: Arc<Ledger>,
    place: Place,
    bytes: u64,
}

impl Ledger {
    /// What is taken of every place of which something was.
    pub(super) fn all(&self) -> BTreeMap<Place, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is taken of a place.
    pub(super) fn held(&self, place: Place) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place).copied().unwrap_or(0)
    }

    /// Takes it, whatever the budget says.
    pub(super) fn charge(self: &Arc<Self>, place: Place, bytes: u64) -> Charge {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(place).or_default();
        *held = held.saturating_add(bytes);
        Charge { ledger: Arc::clone(self), place, bytes }
    }
}

impl Charge {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is of so many bytes there.
    pub(super) fn is(&self, place: Place, bytes: u64) -> bool {
        (self.place, self.bytes) == (place, bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut all = self.ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.place) {
            *held = held.saturating_sub(self.bytes);
        }
    }
}

/// What keeps a model in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// Nothing.
    Idle,
    /// Requests without a session: they end by themselves.
    Busy,
    /// Sessions; `keep` in its TOML; that it serves until another one has taken its place; or that
    /// its requests did not end in time a moment ago.
    Protected,
}

/// A resident model, as one that needs room sees it.
#[derive(Clone, Debug)]
pub(super) struct Resident {
    pub(super) bytes: u64,
    pub(super) last_used: Instant,
    pub(super) hold: Hold,
}

/// How a model can have its room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It has it.
    Fits,
    /// These residents have to make it, by their places in the list.
    Unload(Vec<usize>),
    /// Models that are leaving make it.
    Wait,
    /// It cannot.
    Refuse(Shortage),
}

/// Why there is no room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Where.
    pub place: Place,
    /// What the model takes.
    pub needs: u64,
    /// What all models may take.
    pub bytes_max: u64,
    /// What those have that cannot make room.
    pub protected: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { place, needs, bytes_max, protected } = self;
        let option = Budget::option(*place);
        write!(f, "it needs {needs} bytes of {place}, and {option} is {bytes_max}")?;
        if needs > bytes_max {
            return f.write_str(": raise it");
        }
        write!(
            f,
            ", of which {protected} are of models in use (open sessions, requests, keep = true): try \
             again when fewer are, or raise it"
        )
    }
}

/// Which residents make room for `needs` bytes, where all models may have `bytes_max` of `place` and
/// have `held`: idle ones first, and of these the one that was not used for longest. None of them in
/// vain: where all that can go is not enough, nothing goes, and one without which it is enough stays.
pub(super) fn plan(
    place: Place,
    needs: u64,
    bytes_max: u64,
    held: u64,
    residents: &[Resident],
) -> Plan {
    let of = |is: fn(Hold) -> bool| {
        let those = residents.iter().filter(|it| is(it.hold));
        those.fold(0_u64, |sum, it| sum.saturating_add(it.bytes))
    };
    let protected = of(|hold| hold == Hold::Protected);
    if protected.saturating_add(needs) > bytes_max {
        return Plan::Refuse(Shortage { place, needs, bytes_max, protected });
    }
    if held.saturating_add(needs) <= bytes_max {
        return Plan::Fits;
    }
    // What is taken and of no resident goes by itself.
    let all = of(|_| true);
    let enough = |gone: u64| all.saturating_sub(gone).saturating_add(needs) <= bytes_max;
    let mut order: Vec<usize> = (0..residents.len()).collect();
    order.retain(|&at| residents.get(at).is_some_and(|it| it.hold != Hold::Protected));
    order.sort_by_key(|&at| residents.get(at).map(|it| (it.hold, it.last_used)));
    let bytes = |at: &usize| residents.get(*at).map_or(0, |it| it.bytes);
    let mut gone = 0;
    let mut chosen: Vec<usize> = Vec::new();
    for at in order {
        if enough(gone) {
            break;
        }
        gone += bytes(&at);
        chosen.push(at);
    }
    // The one that was used last stays rather than another.
    for at in chosen.clone().into_iter().rev() {
        if enough(gone - bytes(&at)) {
            gone -= bytes(&at);
            chosen.retain(|it| *it != at);
        }
    }
    if chosen.is_empty() { Plan::Wait } else { Plan::Unload(chosen) }
}

#[cfg(test)]
mod tests;
