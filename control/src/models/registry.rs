//! Which models there are, and which of them serve.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::{scan, sha256};
use super::{EngineLoader, Metadata, Served, Source, check_name};
use crate::error::ApiError;

/// Every model by name and version.
#[derive(Debug)]
pub struct Models {
    folder: Option<PathBuf>,
    loader: Arc<dyn EngineLoader>,
    base: Metadata,
    entries: Mutex<Entries>,
    /// Held over a load: two loads of one model at once would make it twice.
    loading: Mutex<()>,
}

type Entries = BTreeMap<(String, u64), Entry>;

#[derive(Debug)]
struct Entry {
    state: State,
    /// `None` for a built-in model.
    source: Option<Source>,
}

/// What a model does.
#[derive(Clone, Debug)]
pub enum State {
    /// It lies in the folder.
    Available,
    /// It serves.
    Loaded(Arc<Served>),
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
}

/// What came of loading a model.
#[derive(Clone, Debug)]
pub struct Loading {
    /// The model, which serves.
    pub served: Arc<Served>,
    /// Whether it was loaded now; else it served before and its file is the same.
    pub is_new: bool,
    /// The one that it replaces and that has to be retired.
    pub retired: Option<Arc<Served>>,
}

impl Loading {
    fn unchanged(served: Arc<Served>) -> Loading {
        Loading { served, is_new: false, retired: None }
    }
}

impl Models {
    /// No model yet. `base` is the metadata of a model that has none.
    pub fn new(folder: Option<PathBuf>, loader: Arc<dyn EngineLoader>, base: Metadata) -> Models {
        Models { folder, loader, base, entries: Mutex::default(), loading: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a model that has no file.
    pub fn add_built_in(&self, served: Arc<Served>) {
        let key = (served.name.clone(), served.version);
        self.entries().insert(key, Entry { state: State::Loaded(served), source: None });
    }

    /// Looks at the folder and loads everything in it. A model that cannot be loaded is failed,
    /// and the others serve. Blocks for as long as the engines take; begins none after `stop` was
    /// set.
    ///
    /// # Errors
    /// What the system says if the folder cannot be read.
    pub fn load_all(&self, stop: &AtomicBool) -> std::io::Result<()> {
        for source in self.scan()? {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (name, version) = (source.name.clone(), source.version);
            if let Err(error) = self.load_source(source) {
                tracing::error!(model = name, version, %error, "model not loaded");
            }
        }
        Ok(())
    }

    fn scan(&self) -> std::io::Result<Vec<Source>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let sources = scan(folder)?;
        let mut entries = self.entries();
        for source in &sources {
            let key = (source.name.clone(), source.version);
            entries
                .entry(key)
                .or_insert_with(|| Entry { state: State::Available, source: Some(source.clone()) });
        }
        Ok(sources)
    }

    /// Loads a model from the folder, or loads it again if its file changed; version 0 is the
    /// latest. Blocks.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] or [`ApiError::Model`], with the reason.
    pub fn load(&self, name: &str, version: u64) -> Result<Loading, ApiError> {
        check_name(name)?;
        let built_in = self.entries().iter().any(|(key, it)| key.0 == name && it.source.is_none());
        if built_in {
            return Ok(Loading::unchanged(self.get(name, version)?));
        }
        let sources = self.scan().map_err(|error| ApiError::Model {
            name: name.to_owned(),
            why: format!("the model folder cannot be read: {error}"),
        })?;
        let mut found = sources.into_iter().filter(|it| it.name == name);
        let source =
            if version == 0 { found.next_back() } else { found.find(|it| it.version == version) };
        let source = source.ok_or_else(|| self.unknown(name, version))?;
        self.load_source(source)
    }

    fn load_source(&self, source: Source) -> Result<Loading, ApiError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.name.clone(), source.version);
        let old = match self.entries().get(&key) {
            Some(Entry { state: State::Loaded(served), source: None }) => {
                // A file cannot take the place of a built-in model.
                return Ok(Loading::unchanged(Arc::clone(served)));
            }
            Some(Entry { state: State::Loaded(served), .. }) => Some(Arc::clone(served)),
            _ => None,
        };
        if let Some(old) = &old
            && !old.is_lost()
            && sha256(&source.file).is_ok_and(|hash| hash == old.sha256)
        {
            return Ok(Loading::unchanged(Arc::clone(old)));
        }
        let loaded = Served::load(&source, &*self.loader, self.base.clone());
        let mut entries = self.entries();
        match loaded {
            Ok(served) => {
                tracing::info!(
                    model = served.name,
                    version = served.version,
                    engine = served.engine,
                    "model loaded"
                );
                let state = State::Loaded(Arc::clone(&served));
                entries.insert(key, Entry { state, source: Some(source) });
                Ok(Loading { served, is_new: true, retired: old })
            }
            Err(why) => {
                let name = format!("{} version {}", key.0, key.1);
                // A model that serves goes on serving what it was loaded from.
                if old.is_none() {
                    let state = State::Failed(why.clone());
                    entries.insert(key, Entry { state, source: Some(source) });
                }
                Err(ApiError::Model { name, why })
            }
        }
    }

    /// A model that serves; version 0 is the latest that does.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] with the names there are, or [`ApiError::Model`] with the reason.
    pub fn get(&self, name: &str, version: u64) -> Result<Arc<Served>, ApiError> {
        let listed = self.versions(name, version);
        let serving = listed.iter().rev().find_map(|it| match &it.state {
            State::Loaded(served) => Some(Arc::clone(served)),
            _ => None,
        });
        if let Some(served) = serving {
            return Ok(served);
        }
        let last = listed.last().ok_or_else(|| self.unknown(name, version))?;
        let why = match &last.state {
            State::Failed(why) => why.clone(),
            _ => "it is not loaded; load it with Models.Load".to_owned(),
        };
        Err(ApiError::Model { name: format!("{name} version {}", last.version), why })
    }

    /// The versions of a model, oldest first; `version` 0 is all of them.
    pub fn versions(&self, name: &str, version: u64) -> Vec<Listed> {
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
        };
        self.entries().iter().filter(|(key, _)| is(key)).map(list).collect()
    }

    /// Takes a model out of service, version 0 all its versions; those that served have to be
    /// retired. A built-in model stays.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] or, for a built-in model, [`ApiError::Field`].
    pub fn unload(&self, name: &str, version: u64) -> Result<Vec<Arc<Served>>, ApiError> {
        check_name(name)?;
        let mut entries = self.entries();
        let is = |key: &(String, u64)| key.0 == name && (version == 0 || key.1 == version);
        let mut found = false;
        let mut retired = Vec::new();
        for (_, entry) in entries.iter_mut().filter(|(key, _)| is(key)) {
            if entry.source.is_none() {
                return Err(ApiError::field("name", format!("{name} is built in and stays")));
            }
            found = true;
            if let State::Loaded(served) = std::mem::replace(&mut entry.state, State::Available) {
                retired.push(served);
            }
        }
        drop(entries);
        if found { Ok(retired) } else { Err(self.unknown(name, version)) }
    }

    /// The error for a model that is not there.
    pub fn unknown(&self, name: &str, version: u64) -> ApiError {
        let label =
            if version == 0 { name.to_owned() } else { format!("{name} version {version}") };
        let all: Vec<String> =
            self.list().iter().map(|it| format!("{} version {}", it.name, it.version)).collect();
        let hint = format!("there are: {}", all.join(", "));
        ApiError::NotFound { kind: "model", name: format!("{label:?}"), hint }
    }
}

#[cfg(test)]
mod tests;
