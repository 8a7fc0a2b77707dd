//! Which models there are, and which of them serve.

mod aliases;
mod loading;
mod one;
mod polling;
mod residents;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::is_there;
use super::residency::Ledger;
use super::{
    Budget, EngineLoader, Metadata, ModelControl, ModelError, Presence, Profile, Served, Source,
    check_name,
};
use crate::store::Recorder;

pub use loading::{Loading, Turnover};
pub use polling::Watch;
pub use residents::{Key, Memory, Residency};

/// Every model by name and version.
#[derive(Debug)]
pub struct Models {
    folder: Option<PathBuf>,
    loader: Arc<dyn EngineLoader>,
    base: Metadata,
    control: ModelControl,
    budget: Budget,
    /// What models take, in memory and on their way.
    ledger: Arc<Ledger>,
    /// Where it is noted that they come and go.
    recorder: Option<Recorder>,
    entries: Mutex<Entries>,
    /// Held over a load: two loads of one model at once would make it twice. Models make room only
    /// for one that is being loaded, so that nobody else's goes meanwhile.
    loading: Mutex<()>,
}

type Entries = BTreeMap<Key, Entry>;

#[derive(Debug)]
struct Entry {
    state: State,
    /// `None` for a built-in model.
    source: Option<Source>,
    /// Why what serves was not loaded again when its files changed.
    not_reloaded: Option<String>,
    /// It is resident and takes nothing new: it makes room once what it has in flight is done.
    is_leaving: bool,
    /// It is being loaded.
    is_loading: bool,
}

impl Entry {
    fn of(state: State, source: Option<Source>) -> Entry {
        Entry { state, source, not_reloaded: None, is_leaving: false, is_loading: false }
    }

    /// Takes it out of service; what has to be retired then.
    fn unload(&mut self) -> Option<Arc<Served>> {
        (self.not_reloaded, self.is_leaving) = (None, false);
        match std::mem::replace(&mut self.state, State::Available) {
            State::Loaded(served) => Some(served),
            State::Available | State::Absent(_) | State::Failed(_) => None,
        }
    }

    /// What is to be known beside its state.
    fn notes(&self) -> Vec<String> {
        let own = match &self.state {
            State::Loaded(_) | State::Absent(_) => {
                self.state.profile().map(|it| it.metadata.notes.clone()).unwrap_or_default()
            }
            State::Available => self.source.iter().filter_map(|it| it.left_out.clone()).collect(),
            State::Failed(_) => Vec::new(),
        };
        self.not_reloaded.iter().cloned().chain(own).collect()
    }
    /// Whether there is nothing to load any more. What was loaded serves on without its file, and
    /// why a file could not be loaded stays to be read.
    fn is_gone(&self) -> bool {
        let file = self.source.as_ref().map(|source| &source.file);
        matches!(self.state, State::Available) && file.is_some_and(|it| !is_there(it))
    }
}

/// What a model does.
#[derive(Clone, Debug)]
pub enum State {
    /// It lies in the folder.
    Available,
    /// It serves.
    Loaded(Arc<Served>),
    /// It serves, and is not in memory: it made room, and is loaded again when it is asked for.
    Absent(Arc<Profile>),
    /// It could not be loaded, and why.
    Failed(String),
}

impl State {
    /// As it is for clients: a model that lost all its instances serves nobody.
    fn seen(&self) -> State {
        match self {
            State::Loaded(served) if served.is_lost() => State::Failed(
                "all its instances panicked or lost their device: load it again, or restart the \
                 server if a device was lost, and see the server's log"
                    .to_owned(),
            ),
            _ => self.clone(),
        }
    }

    /// What is known of a model that serves.
    pub fn profile(&self) -> Option<&Arc<Profile>> {
        match self {
            State::Loaded(served) => Some(&served.profile),
            State::Absent(profile) => Some(profile),
            State::Available | State::Failed(_) => None,
        }
    }
}

/// A model as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// What it does.
    pub state: State,
    /// What of its configuration is not honoured, why its files were not loaded again, or why it is
    /// left out.
    pub notes: Vec<String>,
    /// How it is, or was, in memory; `None` if it was never loaded, or was unloaded.
    pub presence: Option<Presence>,
}

impl Listed {
    /// Other names that it answers to.
    pub fn aliases(&self) -> &[String] {
        self.state.profile().map_or(&[], |it| &it.metadata.aliases)
    }
}

impl Models {
    /// No model yet. `base` is the metadata of a model that has none.
    pub fn new(
        folder: Option<PathBuf>,
        loader: Arc<dyn EngineLoader>,
        base: Metadata,
        control: ModelControl,
    ) -> Models {
        Models {
            folder,
            loader,
            base,
            control,
            budget: Budget::default(),
            ledger: Arc::default(),
            recorder: None,
            entries: Mutex::default(),
            loading: Mutex::default(),
        }
    }

    /// The same, within a budget.
    #[must_use]
    pub fn within(self, budget: Budget) -> Models {
        Models { budget, ..self }
    }

    /// The same; that models come, and that they make room, is noted there.
    #[must_use]
    pub fn recorded_by(self, recorder: Recorder) -> Models {
        Models { recorder: Some(recorder), ..self }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a model that has no file.
    pub fn add_built_in(&self, served: Arc<Served>) {
        if let Some(recorder) = &self.recorder {
            recorder.event(served.loaded_event());
        }
        let key = (served.name.clone(), served.version);
        self.entries().insert(key, Entry::of(State::Loaded(served), None));
    }

    /// What is known of a model that serves, in memory or not; version 0 is the latest that does.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with the names there are, or [`ModelError::NotServed`] with the reason.
    pub fn get(&self, name: &str, version: u64) -> Result<Arc<Profile>, ModelError> {
        let listed = self.versions(name, version);
        let serving = listed.iter().rev().find_map(|it| it.state.profile());
        if let Some(profile) = serving {
            return Ok(Arc::clone(profile));
        }
        let last = listed.last().ok_or_else(|| self.unknown(name, version))?;
        let why = match &last.state {
            State::Failed(why) => why.clone(),
            _ => match last.notes.first() {
                Some(left_out) => left_out.clone(),
                None => "it is not loaded; load it with Models.Load".to_owned(),
            },
        };
        Err(ModelError::NotServed { name: format!("{name} version {}", last.version), why })
    }

    /// The versions of a model, oldest first; `version` 0 is all of them. An alias is its model's
    /// name.
    pub fn versions(&self, name: &str, version: u64) -> Vec<Listed> {
        let own = self.aliased(name);
        let name = own.as_deref().unwrap_or(name);
        self.listed(|key| key.0 == name && (version == 0 || key.1 == version))
    }

    /// Every model, by name and version.
    pub fn list(&self) -> Vec<Listed> {
        self.listed(|_| true)
    }

    /// Looks at the models that are asked for alone: whether one still serves is a question to its
    /// device's driver.
    fn listed(&self, is: impl Fn(&(String, u64)) -> bool) -> Vec<Listed> {
        let list = |((name, version), entry): (&(String, u64), &Entry)| Listed {
            name: name.clone(),
            version: *version,
            state: entry.state.seen(),
            notes: entry.notes(),
            presence: entry.presence(),
        };
        let there = |(key, entry): &(&(String, u64), &Entry)| is(key) && !entry.is_gone();
        self.entries().iter().filter(there).map(list).collect()
    }

    /// Ends the runs of all models, where their engines can: the server ends.
    pub fn cut(&self) {
        for entry in self.entries().values() {
            if let State::Loaded(served) = &entry.state {
                served.pool.cut();
            }
        }
    }

    /// Takes a model out of service, version 0 all its versions; those that served have to be
    /// retired. A built-in model stays.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] or, for a built-in model, [`ModelError::Field`]. Where the folder is
    /// polled, [`ModelError::Polled`].
    pub fn unload(&self, name: &str, version: u64) -> Result<Vec<Arc<Served>>, ModelError> {
        check_name(name)?;
        self.control.takes_calls()?;
        let mut entries = self.entries();
        let is = |key: &(String, u64)| key.0 == name && (version == 0 || key.1 == version);
        let mut found = false;
        let mut retired = Vec::new();
        for (_, entry) in entries.iter_mut().filter(|(key, _)| is(key)) {
            if entry.source.is_none() {
                return Err(ModelError::field("name", format!("{name} is built in and stays")));
            }
            found = true;
            retired.extend(entry.unload());
        }
        drop(entries);
        if found { Ok(retired) } else { Err(self.unknown(name, version)) }
    }

    /// The error for a model that is not there.
    pub fn unknown(&self, name: &str, version: u64) -> ModelError {
        let label =
            if version == 0 { name.to_owned() } else { format!("{name} version {version}") };
        let all: Vec<String> =
            self.list().iter().map(|it| format!("{} version {}", it.name, it.version)).collect();
        let all = all.join(", ");
        let hint = match self.aliased(name) {
            Some(of) => format!("it is an alias of {of}; there are: {all}"),
            None => format!("there are: {all}"),
        };
        ModelError::NotFound { name: format!("{label:?}"), hint }
    }
}

#[cfg(test)]
mod tests;
