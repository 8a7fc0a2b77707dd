//! One model is loaded, where there is room for it, and listed.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use ferry_core::error_text;
use ferry_engine::FileDigest;

use super::aliases::check_aliases;
use super::loading::{Loading, Said, Turnover};
use super::{Entry, Key, Models, State};
use crate::models::metadata::DeviceChoice;
use crate::models::{
    Given, Metadata, ModelError, Place, Profile, ResidencyState, Served, Shortage, Source, Used,
};

impl Models {
    /// Loads a model from the folder, or loads it again where one of its files changed. Blocks.
    ///
    /// # Errors
    /// [`ModelError::NotServed`], [`ModelError::NotReloaded`] or [`ModelError::NoRoom`].
    pub(super) fn load_source(
        &self,
        source: Source,
        said: Said<'_>,
    ) -> Result<Loading, ModelError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.load_in_turn(source, said)
    }

    /// Loads a model while no other one is.
    pub(super) fn load_in_turn(
        &self,
        source: Source,
        said: Said<'_>,
    ) -> Result<Loading, ModelError> {
        let key = (source.name.clone(), source.version);
        let state = self.entries().get(&key).map(|entry| entry.state.clone());
        let before = state.as_ref().and_then(State::profile).map(Arc::clone);
        let old = match state {
            Some(State::Loaded(served)) => Some(served),
            _ => None,
        };
        let given = match said {
            Said::Folder => None,
            Said::Given(given) => Some(given),
            Said::AsBefore | Said::Again => {
                before.as_ref().and_then(|it| it.metadata.given.as_ref())
            }
        };
        let changed = match &old {
            None => Vec::new(),
            Some(old) if old.is_lost() => vec!["its instances were lost".to_owned()],
            Some(old) => {
                let changed = old.changes(&source, given);
                if changed.is_empty() {
                    self.goes_on(&key, None);
                    return Ok(Loading::unchanged(old));
                }
                changed
            }
        };
        let said_of_it = self.metadata(&source, given)?;
        self.set_loading(&key, true);
        let loaded =
            said_of_it.and_then(|said| self.load_within_budget(&source, said, before.as_deref()));
        self.set_loading(&key, false);
        match loaded {
            Ok(served) => self.list_loaded(source, said, (old, changed), served),
            Err(why) => Err(self.not_loaded(source, said, old, why)),
        }
    }

    /// What is said of a model, whose names are free.
    fn metadata(
        &self,
        source: &Source,
        given: Option<&Given>,
    ) -> Result<Result<Metadata, Unloadable>, ModelError> {
        let base = self.base.clone();
        let metadata = match (given, &source.metadata) {
            (Some(given), _) => Ok(given.read(source, base)?),
            (None, Some(path)) => {
                let read = Metadata::read(path, &source.name, base);
                read.map_err(|error| Unloadable::Why(error_text(&error)))
            }
            (None, None) => Ok(base),
        };
        Ok(metadata.and_then(|said| {
            let free = check_aliases(&self.entries(), &source.name, &said.aliases);
            free.map(|()| said).map_err(Unloadable::Name)
        }))
    }

    /// Loads a model where there is room for it, which others may make.
    fn load_within_budget(
        &self,
        source: &Source,
        metadata: Metadata,
        before: Option<&Profile>,
    ) -> Result<Arc<Served>, Unloadable> {
        let key = (source.name.clone(), source.version);
        // Before the first load no more is known than what its own file has.
        // One that is not there any more must not make others go.
        let file_bytes = FileDigest::length(&source.file).map_err(|error| error_text(&error));
        let file_bytes = file_bytes.map_err(Unloadable::Why)?;
        let needs = before.map_or(0, |it| it.weights_bytes).max(file_bytes);
        let auto = self.choose_gpu(&metadata, needs);
        let place = match metadata.device {
            DeviceChoice::Cuda(ordinal) => Place::Gpu(ordinal),
            DeviceChoice::Cpu | DeviceChoice::Auto => {
                auto.as_ref().map_or(Place::Host, |choice| Place::Gpu(choice.ordinal))
            }
        };
        let mut charge = self.make_room(&key, place, needs)?;
        let start = Instant::now();
        let served = Served::load(source, &*self.loader, metadata, auto.as_ref(), before)
            .map_err(Unloadable::Why)?;
        let (place, bytes) = (served.place(), served.weights_bytes);
        if !charge.is(place, bytes) {
            drop(charge);
            charge = self.make_room(&key, place, bytes)?;
        }
        // It is new.
        let _unset = served.charge.set(charge);
        served.comings.loaded(start.elapsed());
        Ok(served)
    }

    /// Lists a model that was loaded, in place of what served.
    fn list_loaded(
        &self,
        source: Source,
        said: Said<'_>,
        (old, changed): (Option<Arc<Served>>, Vec<String>),
        served: Arc<Served>,
    ) -> Result<Loading, ModelError> {
        let key = (source.name.clone(), source.version);
        let mut entries = self.entries();
        let now = entries.get(&key);
        let is_absent = now.is_some_and(|entry| matches!(entry.state, State::Absent(_)));
        if matches!(said, Said::Again) && !is_absent {
            drop(entries);
            return Err(self.gone(&key));
        }
        let before = now.and_then(|entry| entry.state.profile()).map(Arc::clone);
        let used = Used::by_call(&served);
        entries.insert(key, Entry::of(State::Loaded(Arc::clone(&served)), Some(source)));
        drop(entries);
        if is_absent && before.is_some_and(|it| it.files != served.files) {
            let (model, version) = (&served.name, served.version);
            tracing::warn!(
                model,
                version,
                "its files are not those that it was loaded from before"
            );
        }
        tracing::info!(
            model = served.name,
            version = served.version,
            engine = served.engine,
            device = served.device_name(),
            device_why = served.device_why,
            weights_bytes = served.weights_bytes,
            load_ms = served.presence(ResidencyState::Resident).last_load.as_millis(),
            changed = changed.join(", "),
            "model loaded"
        );
        if let Some(recorder) = &self.recorder {
            recorder.event(served.loaded_event());
        }
        let turnover = Turnover { made: vec![used.clone()], retired: old.into_iter().collect() };
        Ok(Loading { served: used, changed, turnover })
    }

    /// Notes that a model could not be loaded. One that serves goes on as it was: what is in memory
    /// with what it was loaded from, what is absent if there was no room for it, or if another
    /// configuration was tried.
    fn not_loaded(
        &self,
        source: Source,
        said: Said<'_>,
        old: Option<Arc<Served>>,
        why: Unloadable,
    ) -> ModelError {
        let key = (source.name.clone(), source.version);
        let name = format!("{} version {}", key.0, key.1);
        let text = why.to_string();
        let is_as_good = matches!(why, Unloadable::NoRoom(_)) || matches!(said, Said::Given(_));
        let mut entries = self.entries();
        let now = entries.get(&key);
        let is_absent = now.is_some_and(|entry| matches!(entry.state, State::Absent(_)));
        let goes_on = match &old {
            Some(old) => !old.is_lost(),
            None => is_absent && is_as_good,
        };
        // One that was unloaded meanwhile, or lost its device, is what it is.
        let was_unloaded = matches!(said, Said::Again) && !is_absent;
        if old.is_none() && !goes_on && !was_unloaded {
            entries.insert(key.clone(), Entry::of(State::Failed(text.clone()), Some(source)));
        }
        drop(entries);
        let is_for_now = old.is_none() && matches!(why, Unloadable::NoRoom(_));
        if goes_on && !is_for_now {
            self.goes_on(&key, Some(&text));
        }
        match why {
            Unloadable::NoRoom(shortage) => ModelError::NoRoom { name, shortage },
            Unloadable::Name(why) => ModelError::NameTaken { name, why },
            Unloadable::Why(why) if goes_on => ModelError::NotReloaded { name, why },
            Unloadable::Why(why) => ModelError::NotServed { name, why },
        }
    }

    fn set_loading(&self, key: &Key, is_loading: bool) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.is_loading = is_loading;
        }
    }

    fn goes_on(&self, key: &Key, not_reloaded: Option<&str>) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.not_reloaded = not_reloaded.map(|why| format!("not loaded again: {why}"));
        }
    }
}

/// Why a model is not loaded.
#[derive(Debug, thiserror::Error)]
enum Unloadable {
    /// What is wrong with it.
    #[error("{0}")]
    Why(String),
    /// Its name or an alias is another model's.
    #[error("{0}")]
    Name(String),
    /// There is no room for it.
    #[error("{0}; once there is room, Models.Load loads it")]
    NoRoom(Shortage),
}

impl From<Shortage> for Unloadable {
    fn from(shortage: Shortage) -> Unloadable {
        Unloadable::NoRoom(shortage)
    }
}
