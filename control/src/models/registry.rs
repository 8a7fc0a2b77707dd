//! Which models there are, and which of them serve.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::error_text;

use super::folder::{PassedOver, Scan, is_there, scan};
use super::{EngineLoader, Given, Metadata, ModelError, Progress, Served, Source, check_name};

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

impl Entry {
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
    /// Whether it was loaded now; else it served before and none of its files changed.
    pub is_new: bool,
    /// Why a model that served was loaded again: the files that changed.
    pub changed: Vec<String>,
    /// The one that it replaces and that has to be retired.
    pub retired: Option<Arc<Served>>,
}

impl Loading {
    fn unchanged(served: Arc<Served>) -> Loading {
        Loading { served, is_new: false, changed: Vec::new(), retired: None }
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
    /// and the others serve. What is passed over is logged. Blocks for as long as the engines take;
    /// begins none after `stop` was set.
    ///
    /// # Errors
    /// What the system says if the folder cannot be read.
    pub fn load_all(&self, stop: &AtomicBool, progress: &Progress) -> std::io::Result<()> {
        let Scan { sources, passed_over, more } = self.scan()?;
        for PassedOver { path, why, .. } in passed_over {
            tracing::warn!(path = %path.display(), why, "not served");
        }
        if more > 0 {
            tracing::warn!(more, "more files that look like models are not served");
        }
        progress.begin(sources.len());
        for source in sources {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (name, version) = (source.name.clone(), source.version);
            if let Err(error) = self.load_source(source, None) {
                tracing::error!(model = name, version, %error, "model not loaded");
            }
            progress.one_more();
        }
        Ok(())
    }

    fn scan(&self) -> std::io::Result<Scan> {
        let Some(folder) = &self.folder else { return Ok(Scan::default()) };
        let Scan { sources, mut passed_over, more } = scan(folder)?;
        let mut entries = self.entries();
        let is_built_in = |name: &str, entries: &Entries| {
            entries.iter().any(|(key, it)| key.0 == name && it.source.is_none())
        };
        let (built_in, sources): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|it| is_built_in(&it.name, &entries));
        passed_over.extend(built_in.into_iter().map(|it| PassedOver {
            why: format!("{} is the name of a built-in model: rename it", it.name),
            name: it.name,
            path: it.file,
        }));
        for source in &sources {
            let key = (source.name.clone(), source.version);
            entries
                .entry(key)
                .or_insert_with(|| Entry { state: State::Available, source: Some(source.clone()) });
        }
        Ok(Scan { sources, passed_over, more })
    }

    /// Loads a model from the folder, or loads it again if one of its files changed; version 0 is
    /// the latest. Blocks.
    ///
    /// # Errors
    /// [`ModelError::NotFound`], [`ModelError::NotServed`] or [`ModelError::NotReloaded`], with the reason.
    pub fn load(&self, name: &str, version: u64) -> Result<Loading, ModelError> {
        self.load_with(name, version, None)
    }

    /// As [`load`](Models::load); what is `given` takes the place of the metadata in the folder,
    /// until the next load.
    ///
    /// # Errors
    /// As [`load`](Models::load), and [`ModelError::Field`] if what is given has no meaning.
    pub fn load_with(
        &self,
        name: &str,
        version: u64,
        given: Option<&Given>,
    ) -> Result<Loading, ModelError> {
        check_name(name)?;
        let built_in = self.entries().iter().any(|(key, it)| key.0 == name && it.source.is_none());
        match given {
            Some(given) if built_in => {
                let why = format!("{name} is built in and takes no configuration");
                return Err(ModelError::field(given.field(), why));
            }
            None if built_in => return Ok(Loading::unchanged(self.get(name, version)?)),
            _ => {}
        }
        let Scan { sources, passed_over, .. } =
            self.scan().map_err(|error| ModelError::NotServed {
                name: name.to_owned(),
                why: format!("the model folder cannot be read: {error}"),
            })?;
        let mut found = sources.into_iter().filter(|it| it.name == name);
        let source =
            if version == 0 { found.next_back() } else { found.find(|it| it.version == version) };
        if let Some(source) = source {
            return self.load_source(source, given);
        }
        Err(match passed_over.into_iter().find(|it| it.name == name) {
            None => self.unknown(name, version),
            Some(PassedOver { name, path, why }) => {
                ModelError::NotServed { name, why: format!("{}: {why}", path.display()) }
            }
        })
    }

    fn load_source(&self, source: Source, given: Option<&Given>) -> Result<Loading, ModelError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.name.clone(), source.version);
        let old = match self.entries().get(&key).map(|entry| &entry.state) {
            Some(State::Loaded(served)) => Some(Arc::clone(served)),
            _ => None,
        };
        let changed = match &old {
            None => Vec::new(),
            Some(old) if old.is_lost() => vec!["its instances were lost".to_owned()],
            Some(old) => {
                let changed = old.changes(&source, given);
                if changed.is_empty() {
                    return Ok(Loading::unchanged(Arc::clone(old)));
                }
                changed
            }
        };
        let base = self.base.clone();
        let metadata = match (given, &source.metadata) {
            (Some(given), _) => Ok(given.read(&source, base)?),
            (None, Some(path)) => Metadata::read(path, base).map_err(|error| error_text(&error)),
            (None, None) => Ok(base),
        };
        let loaded = metadata.and_then(|said| Served::load(&source, &*self.loader, said));
        let mut entries = self.entries();
        match loaded {
            Ok(served) => {
                tracing::info!(
                    model = served.name,
                    version = served.version,
                    engine = served.engine,
                    changed = changed.join(", "),
                    "model loaded"
                );
                let state = State::Loaded(Arc::clone(&served));
                entries.insert(key, Entry { state, source: Some(source) });
                Ok(Loading { served, is_new: true, changed, retired: old })
            }
            Err(why) => {
                let name = format!("{} version {}", key.0, key.1);
                match old {
                    // It goes on serving what it was loaded from.
                    Some(old) if !old.is_lost() => {
                        return Err(ModelError::NotReloaded { name, why });
                    }
                    Some(_lost) => {}
                    None => {
                        let state = State::Failed(why.clone());
                        entries.insert(key, Entry { state, source: Some(source) });
                    }
                }
                Err(ModelError::NotServed { name, why })
            }
        }
    }

    /// A model that serves; version 0 is the latest that does.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with the names there are, or [`ModelError::NotServed`] with the reason.
    pub fn get(&self, name: &str, version: u64) -> Result<Arc<Served>, ModelError> {
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
        Err(ModelError::NotServed { name: format!("{name} version {}", last.version), why })
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
    /// [`ModelError::NotFound`] or, for a built-in model, [`ModelError::Field`].
    pub fn unload(&self, name: &str, version: u64) -> Result<Vec<Arc<Served>>, ModelError> {
        check_name(name)?;
        let mut entries = self.entries();
        let is = |key: &(String, u64)| key.0 == name && (version == 0 || key.1 == version);
        let mut found = false;
        let mut retired = Vec::new();
        for (_, entry) in entries.iter_mut().filter(|(key, _)| is(key)) {
            if entry.source.is_none() {
                return Err(ModelError::field("name", format!("{name} is built in and stays")));
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
    pub fn unknown(&self, name: &str, version: u64) -> ModelError {
        let label =
            if version == 0 { name.to_owned() } else { format!("{name} version {version}") };
        let all: Vec<String> =
            self.list().iter().map(|it| format!("{} version {}", it.name, it.version)).collect();
        let hint = format!("there are: {}", all.join(", "));
        ModelError::NotFound { name: format!("{label:?}"), hint }
    }
}

#[cfg(test)]
mod tests;
