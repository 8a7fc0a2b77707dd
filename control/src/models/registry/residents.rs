//! Models that come into memory when they are asked for, and make room for others.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ferry_memory::trim_heap;

use super::loading::Said;
use super::{Entry, Models, State};
use crate::models::metadata::DeviceChoice;
use crate::models::placement::{Candidate, Choice, choose};
use crate::models::residency::{Charge, Hold, Plan, Resident, plan};
use crate::models::{
    GpuFacts, Metadata, ModelError, Place, Presence, ResidencyState, Served, Shortage, Used,
};

/// How long a load waits for its room: as long as an unloaded model may take over what it has in
/// flight, and a moment more.
const ROOM_WAIT: Duration = Duration::from_secs(35);

/// How long requests of a model that is to make room may take. Where they take longer, whether they
/// run or nobody takes their answers, the model stays.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How long such a model is left alone then, so that loads do not wait for it one after the other.
const SPARED: Duration = Duration::from_secs(30);

/// How long the pool of a model without requests may take to end: its threads have only to wake.
const END_WAIT: Duration = Duration::from_secs(30);

/// How often a load looks whether it has its room.
const LOOK: Duration = Duration::from_millis(1);

/// A version of a model.
pub type Key = (String, u64);

/// Whether a model that serves is in memory.
#[derive(Debug)]
pub enum Residency {
    /// It is, and stays while it is used.
    Resident(Used),
    /// It has to be [recalled](Models::recall) first.
    Absent(Key),
}

/// What models take of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Where.
    pub place: Place,
    /// What they take, in bytes.
    pub bytes_now: u64,
    /// What they may take; `None`: as much as there is.
    pub bytes_max: Option<u64>,
}

impl Entry {
    /// How it is, or was, in memory; `None` if it was never loaded, or was unloaded.
    pub(super) fn presence(&self) -> Option<Presence> {
        let state = match &self.state {
            State::Loaded(_) if self.is_leaving => ResidencyState::Leaving,
            State::Loaded(_) => ResidencyState::Resident,
            _ if self.is_loading => ResidencyState::Loading,
            _ => ResidencyState::Absent,
        };
        self.state.profile().map(|profile| profile.presence(state))
    }

    fn is(&self, served: &Arc<Served>) -> bool {
        matches!(&self.state, State::Loaded(own) if Arc::ptr_eq(own, served))
    }
}

impl Models {
    /// A model that serves, for a request; version 0 is the latest that does.
    ///
    /// # Errors
    /// As [`get`](Models::get).
    pub fn hold(&self, name: &str, version: u64) -> Result<Residency, ModelError> {
        let own = self.aliased(name);
        let of = own.as_deref().unwrap_or(name);
        let (first, last) = if version == 0 { (0, u64::MAX) } else { (version, version) };
        let entries = self.entries();
        let versions = entries.range((of.to_owned(), first)..=(of.to_owned(), last));
        for (key, entry) in versions.rev() {
            match &entry.state {
                State::Loaded(served) if served.is_lost() => {}
                State::Loaded(served) if !entry.is_leaving => {
                    return Ok(Residency::Resident(Used::by_call(served)));
                }
                State::Loaded(_) | State::Absent(_) => return Ok(Residency::Absent(key.clone())),
                State::Available | State::Failed(_) => {}
            }
        }
        drop(entries);
        // If it came meanwhile, whoever recalls it finds it.
        self.get(name, version).map(|it| Residency::Absent((it.name.clone(), it.version)))
    }

    /// Brings a model back into memory that made room. Blocks.
    ///
    /// # Errors
    /// [`ModelError::NoRoom`], and the model is absent as before; else [`ModelError::NotServed`]
    /// with the reason, also where it was unloaded meanwhile.
    pub fn recall(&self, key: &Key) -> Result<Used, ModelError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.entries().get(key).map(|it| (it.state.clone(), it.source.clone()));
        match found {
            Some((State::Loaded(served), _)) => Ok(Used::by_call(&served)),
            Some((State::Absent(_), Some(source))) => {
                Ok(self.load_in_turn(source, Said::Again)?.served)
            }
            _ => Err(self.gone(key)),
        }
    }

    /// Why a model that served does not any more.
    pub(super) fn gone(&self, (name, version): &Key) -> ModelError {
        let why = "it was unloaded meanwhile; load it with Models.Load".to_owned();
        let now = self.get(name, *version).err();
        now.unwrap_or(ModelError::NotServed { name: format!("{name} version {version}"), why })
    }

    /// That a load did not end as loads do.
    pub fn lost(&self, (name, version): &Key) -> ModelError {
        let why = "its load was lost: see the server's log".to_owned();
        ModelError::NotServed { name: format!("{name} version {version}"), why }
    }

    /// What models take of every place of which they took something, the host's first.
    pub fn memory(&self) -> Vec<Memory> {
        let mut all = self.ledger.all();
        all.entry(Place::Host).or_default();
        let one = |(place, bytes_now)| {
            let bytes_max = self.budget.of(place);
            Memory { place, bytes_now, bytes_max }
        };
        all.into_iter().map(one).collect()
    }

    /// Room of `needs` bytes for the model `key`, which other models make where there is none. None
    /// of them goes where that would not be enough. Only while a load has its turn.
    ///
    /// # Errors
    /// The numbers, where there is no room.
    pub(super) fn make_room(
        &self,
        key: &Key,
        place: Place,
        needs: u64,
    ) -> Result<Charge, Shortage> {
        let Some(bytes_max) = self.budget.of(place) else {
            return Ok(self.ledger.charge(place, needs));
        };
        let deadline = Instant::now() + ROOM_WAIT;
        loop {
            let residents = self.residents(place);
            let seen: Vec<Resident> = residents.iter().map(|(_, _, seen)| seen.clone()).collect();
            let held = self.ledger.held(place);
            match plan(place, needs, bytes_max, held, &seen) {
                Plan::Fits => return Ok(self.ledger.charge(place, needs)),
                Plan::Refuse(shortage) => return Err(shortage),
                _ if Instant::now() >= deadline => {
                    return Err(Shortage { place, needs, bytes_max, protected: held });
                }
                Plan::Wait => std::thread::sleep(LOOK),
                Plan::Unload(these) => {
                    let go = these.into_iter().filter_map(|at| residents.get(at));
                    let go: Vec<_> = go.map(|(key, it, _)| (key.clone(), Arc::clone(it))).collect();
                    drop(residents);
                    self.let_go(go, key);
                }
            }
        }
    }

    /// The models in a place.
    fn residents(&self, place: Place) -> Vec<(Key, Arc<Served>, Resident)> {
        let one = |(key, entry): (&Key, &Entry)| {
            let State::Loaded(served) = &entry.state else { return None };
            // One that is being loaded again serves until the new one does.
            let stays = entry.source.is_none() || served.metadata.keep || entry.is_loading;
            let resident = Resident {
                bytes: served.charge.get().map_or(0, Charge::bytes),
                last_used: served.uses.last(),
                hold: if stays { Hold::Protected } else { served.uses.hold(served) },
            };
            (served.place() == place).then(|| (key.clone(), Arc::clone(served), resident))
        };
        self.entries().iter().filter_map(one).collect()
    }

    /// Unloads models once their requests are done. Where those of one take too long, or a session
    /// was opened meanwhile, all stay.
    fn let_go(&self, go: Vec<(Key, Arc<Served>)>, for_whom: &Key) {
        self.set_leaving(&go, true);
        let deadline = Instant::now() + BUSY_WAIT;
        loop {
            let held = |(_, served): &&(Key, Arc<Served>)| served.uses.hold(served) != Hold::Idle;
            let busy: Vec<_> = go.iter().filter(held).collect();
            if busy.is_empty() {
                break;
            }
            let has_session = busy.iter().any(|(_, it)| it.uses.hold(it) == Hold::Protected);
            let now = Instant::now();
            if has_session || now >= deadline {
                busy.iter().for_each(|(_, served)| served.uses.spare(now + SPARED));
                self.set_leaving(&go, false);
                return;
            }
            std::thread::sleep(LOOK);
        }
        for (key, served) in go {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(&key).filter(|entry| entry.is(&served)) else {
                continue;
            };
            entry.state = State::Absent(Arc::clone(&served.profile));
            entry.is_leaving = false;
            drop(entries);
            self.end(&served, for_whom);
        }
        // The allocator would keep what they had for itself, and the process be larger than with all
        // models in memory.
        trim_heap();
    }

    fn set_leaving(&self, these: &[(Key, Arc<Served>)], is_leaving: bool) {
        let mut entries = self.entries();
        for (key, served) in these {
            if let Some(entry) = entries.get_mut(key).filter(|entry| entry.is(served)) {
                entry.is_leaving = is_leaving;
            }
        }
    }

    /// Ends the threads of a model that made room. Its memory is free when `served` is dropped.
    fn end(&self, served: &Served, (name, version): &Key) {
        if let Err(error) = served.pool.shutdown(END_WAIT) {
            tracing::error!(model = served.label(), %error, "its memory is not free");
        }
        served.comings.evicted();
        if let Some(recorder) = &self.recorder {
            recorder.event(served.unloaded_event());
        }
        tracing::info!(
            model = served.name,
            version = served.version,
            place = %served.place(),
            bytes = served.weights_bytes,
            for_model = format!("{name} version {version}"),
            "model unloaded to make room; it is loaded again when it is asked for"
        );
    }

    /// The GPU that `device = "auto"` means now, for a model whose weights take `needs` bytes.
    pub(super) fn choose_gpu(&self, metadata: &Metadata, needs: u64) -> Option<Choice> {
        if metadata.device != DeviceChoice::Auto {
            return None;
        }
        let gpus = self.loader.gpus(&metadata.engine);
        let candidate = |gpu: GpuFacts| {
            let place = Place::Gpu(gpu.ordinal);
            let there = self.residents(place);
            let stays = there.iter().filter(|(_, _, it)| it.hold == Hold::Protected);
            let stays = stays.fold(0_u64, |sum, (_, _, it)| sum.saturating_add(it.bytes));
            let streams = |served: &Served| {
                served.metadata.instances.saturating_mul(served.metadata.gpu.streams)
            };
            Candidate {
                room_bytes: self.budget.of(place).map(|max| max.saturating_sub(stays)),
                models: there.len(),
                streams: there.iter().map(|(_, it, _)| streams(it)).fold(0, usize::saturating_add),
                gpu,
            }
        };
        choose(&gpus.into_iter().map(candidate).collect::<Vec<_>>(), needs)
    }
}
