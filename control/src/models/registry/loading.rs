//! From the folder to models that serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Entries, Entry, Models, Residency, State};
use crate::models::folder::{PassedOver, Scan, leave_out, scan};
use crate::models::{Given, ModelError, Progress, Served, Source, Used, check_name};

/// What of the models changed.
#[derive(Clone, Debug, Default)]
pub struct Turnover {
    /// Those that were loaded. They do not make room before the others are retired.
    pub made: Vec<Used>,
    /// Those that serve nobody new, and have to be retired.
    pub retired: Vec<Arc<Served>>,
}

/// What came of loading a model.
#[derive(Clone, Debug)]
pub struct Loading {
    /// The model, which serves: of its versions the latest that was asked for.
    pub served: Used,
    /// Why versions that served were loaded again: the files that changed.
    pub changed: Vec<String>,
    /// Versions that were loaded now, and what they replace. Nothing: it served before, and none of
    /// its files changed.
    pub turnover: Turnover,
}

impl Loading {
    /// Only where it cannot make room meanwhile: while a load has its turn, or of a built-in model.
    pub(super) fn unchanged(served: &Arc<Served>) -> Loading {
        Loading {
            served: Used::by_call(served),
            changed: Vec::new(),
            turnover: Turnover::default(),
        }
    }

    /// Whether anything was loaded now.
    pub fn is_new(&self) -> bool {
        !self.turnover.made.is_empty()
    }

    /// Adds what came of an older version.
    fn add(&mut self, older: Loading) {
        self.changed.extend(older.changed);
        self.turnover.made.extend(older.turnover.made);
        self.turnover.retired.extend(older.turnover.retired);
    }
}

/// Where a load takes what is said of a model from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'a> {
    /// Its folder.
    Folder,
    /// The call.
    Given(&'a Given),
    /// From where it was loaded before.
    AsBefore,
    /// As `AsBefore`, for a model that made room, and only while nobody unloads it.
    Again,
}

impl Models {
    /// Looks at the folder and loads everything in it that is to be loaded at the start. A model
    /// that cannot be loaded is failed, and the others serve. What is passed over is logged. Blocks
    /// for as long as the engines take; begins none after `stop` was set.
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
        for name in self.control.missing(sources.iter().map(|it| it.name.as_str())) {
            tracing::error!(model = name, "to be loaded, and not in the model folder");
        }
        let wanted = |it: &Source| it.left_out.is_none() && self.control.begins_with(&it.name);
        let sources: Vec<_> = sources.into_iter().filter(wanted).collect();
        progress.begin(sources.len());
        for source in sources {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (name, version) = (source.name.clone(), source.version);
            if let Err(error) = self.load_source(source, Said::Folder) {
                tracing::error!(model = name, version, %error, "model not loaded");
            }
            progress.one_more();
        }
        Ok(())
    }

    /// What the folder has, each version of which has an entry from now on.
    pub(super) fn scan(&self) -> std::io::Result<Scan> {
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
            let entry = entries.entry(key).or_insert_with(|| Entry::of(State::Available, None));
            // What serves remembers what it was loaded from.
            if entry.state.profile().is_none() || entry.source.is_none() {
                entry.source = Some(source.clone());
            }
        }
        Ok(Scan { sources, passed_over, more })
    }

    /// Loads a model from the folder, or loads it again where one of its files changed. Version 0 is
    /// every version that the model's policy says; versions that it leaves out are unloaded. Blocks.
    ///
    /// # Errors
    /// [`ModelError::NotFound`], [`ModelError::NotServed`] or [`ModelError::NotReloaded`] with the
    /// reason, of the latest; older versions that cannot be loaded are failed. Where the folder is
    /// polled, [`ModelError::Polled`].
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
        self.control.takes_calls()?;
        let built_in = self.entries().iter().any(|(key, it)| key.0 == name && it.source.is_none());
        match given {
            Some(given) if built_in => {
                let why = format!("{name} is built in and takes no configuration");
                Err(ModelError::field(given.field(), why))
            }
            None if built_in => match self.hold(name, version)? {
                Residency::Resident(served) => Ok(Loading::unchanged(&served)),
                Residency::Absent(key) => Err(self.gone(&key)),
            },
            given => {
                let scan = self.scan().map_err(|error| ModelError::NotServed {
                    name: name.to_owned(),
                    why: format!("the model folder cannot be read: {error}"),
                })?;
                self.bring(name, version, given.map_or(Said::Folder, Said::Given), scan)
            }
        }
    }

    /// Brings a model to where its folder and its policy say.
    pub(super) fn bring(
        &self,
        name: &str,
        version: u64,
        said: Said<'_>,
        scan: Scan,
    ) -> Result<Loading, ModelError> {
        let Scan { sources, passed_over, .. } = scan;
        let mut found: Vec<Source> = sources.into_iter().filter(|it| it.name == name).collect();
        if let Said::Given(given) = said {
            self.lay_out(&mut found, given)?;
        }
        let is_asked = |it: &&Source| version == 0 || it.version == version;
        let asked: Vec<&Source> = found.iter().filter(is_asked).collect();
        let mut chosen = asked.iter().filter(|it| it.left_out.is_none()).rev();
        let Some(latest) = chosen.next() else {
            if let Some(why) = asked.iter().find_map(|it| it.left_out.clone()) {
                return Err(ModelError::NotServed { name: name.to_owned(), why });
            }
            return Err(match passed_over.into_iter().find(|it| it.name == name) {
                None => self.unknown(name, version),
                Some(PassedOver { name, path, why }) => {
                    ModelError::NotServed { name, why: format!("{}: {why}", path.display()) }
                }
            });
        };
        let mut loading = self.load_source((*latest).clone(), said)?;
        let mut all_serve = true;
        for older in chosen {
            match self.load_source((*older).clone(), said) {
                Ok(more) => loading.add(more),
                Err(error) => {
                    all_serve = false;
                    tracing::error!(model = name, version = older.version, %error, "not loaded");
                }
            }
        }
        if version == 0 && all_serve {
            let is_polled = matches!(said, Said::AsBefore);
            loading.turnover.retired.extend(self.drop_left_out(name, &found, is_polled));
        }
        Ok(loading)
    }

    /// The versions that serve, and their files, as a call says.
    fn lay_out(&self, found: &mut [Source], given: &Given) -> Result<(), ModelError> {
        let Some(last) = found.last() else { return Ok(()) };
        let (file, versions) = given.layout(last, self.base.clone())?;
        if let Some(policy) = versions {
            leave_out(found, &policy);
        }
        let Some(file) = file else { return Ok(()) };
        for source in found {
            let is_flat = source.file.parent() == Some(&*source.folder);
            if is_flat && source.file.file_name() != Some(file.as_ref()) {
                let why = format!("default_model_filename is {file:?}, and the model is one file");
                return Err(ModelError::field(given.field(), why));
            }
            source.file.set_file_name(&file);
        }
        Ok(())
    }

    /// Takes versions out of service that their policy leaves out, and, where the folder is polled,
    /// those that are not there any more.
    fn drop_left_out(&self, name: &str, found: &[Source], is_polled: bool) -> Vec<Arc<Served>> {
        let goes = |version: u64| match found.iter().find(|it| it.version == version) {
            Some(source) => source.left_out.is_some(),
            None => is_polled,
        };
        let mut retired = Vec::new();
        for ((of, version), entry) in self.entries().iter_mut() {
            if of == name && goes(*version) {
                retired.extend(entry.unload());
                let now = found.iter().find(|it| it.version == *version).cloned();
                entry.source = now.or(entry.source.take());
            }
        }
        retired
    }
}
