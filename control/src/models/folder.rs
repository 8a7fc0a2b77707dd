//! What lies in the model folder: `NAME.onnx` (version 1) or `NAME/VERSION/model.onnx`, where a
//! configuration in `NAME` may name another file and the versions that serve. What looks like a
//! model and cannot be one is told with its reason, and stops nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Metadata, ModelError, VersionPolicy, model_config};

/// Longest name of a model, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Most models of one folder: a folder with more is most likely not a model folder.
const SOURCES_MAX: usize = 4096;

/// Most of what is passed over that is told one by one: nobody reads more lines of a log.
const PASSED_OVER_MAX: usize = 256;

/// The TOML of a model in its folder, or of one version in that.
pub(super) const TOML: &str = "model.toml";

/// A plan of TensorRT, which is passed over with its reason.
const PLAN: &str = "model.plan";

/// A model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The model's name.
    pub name: String,
    /// Its version, from 1.
    pub version: u64,
    /// The file.
    pub file: PathBuf,
    /// Its configuration, where there is some: a TOML or a `config.pbtxt`.
    pub metadata: Option<PathBuf>,
    /// The folder of the model, with all its versions.
    pub folder: PathBuf,
    /// Why it does not serve, whatever is in its file: the version policy.
    pub left_out: Option<String>,
}

/// How the versions of a model lie in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The file of each version.
    pub(super) file: String,
    /// Which of them serve, where that is said.
    pub(super) versions: Option<VersionPolicy>,
}

impl Layout {
    /// How the file of a version is called where nobody says otherwise.
    pub(super) const FILE: &str = "model.onnx";
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { file: Layout::FILE.to_owned(), versions: None }
    }
}

/// The configuration in the folder of a model.
#[derive(Debug)]
struct Configuration {
    path: Option<PathBuf>,
    layout: Layout,
    /// There is a `config.pbtxt`, or what there is cannot be read: each version is loaded, which
    /// tells what is wrong, even where its file is not found.
    loads_all: bool,
}

impl Configuration {
    fn of(folder: &Path) -> Configuration {
        let [toml, pbtxt] = [TOML, model_config::FILE].map(|name| folder.join(name));
        let (path, layout) = match (is_there(&toml), is_there(&pbtxt)) {
            (false, false) => (None, Ok(Layout::default())),
            (true, false) => {
                let versions = Metadata::versions_of(&toml);
                (Some(toml), versions.map(|versions| Layout { versions, ..Layout::default() }))
            }
            (_, true) => {
                let config = model_config::read(&pbtxt);
                (Some(pbtxt), config.and_then(|(config, _)| model_config::layout(&config)))
            }
        };
        let is_pbtxt = path.as_deref().is_some_and(model_config::is_one);
        let loads_all = is_pbtxt || layout.is_err();
        Configuration { path, layout: layout.unwrap_or_default(), loads_all }
    }
}

/// What was meant to be a model, most likely, and is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PassedOver {
    /// The name that it would have had.
    pub(super) name: String,
    /// The file or folder.
    pub(super) path: PathBuf,
    /// Why, and what to do.
    pub(super) why: String,
}

/// What a folder has.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Every model, by name and version.
    pub(super) sources: Vec<Source>,
    /// What is not served, as far as it is told.
    pub(super) passed_over: Vec<PassedOver>,
    /// How many more are not served.
    pub(super) more: usize,
}

/// Checks that a name can be one of a model: it never becomes part of a path, and is shown to
/// people and to SQL as it is.
///
/// # Errors
/// [`ModelError::Field`] says what is allowed.
pub fn check_name(name: &str) -> Result<(), ModelError> {
    if is_name(name) {
        return Ok(());
    }
    Err(ModelError::field("model", format!("{name:?} cannot be a model: {}", allowed())))
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(plain)
}

fn allowed() -> String {
    format!("names are 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '-', and start with no dot")
}

/// Every model of a folder, and what cannot be one. Of all files, only configurations are opened.
///
/// # Errors
/// What the system says if the folder cannot be read.
pub(super) fn scan(folder: &Path) -> std::io::Result<Scan> {
    let mut scan = Scan::default();
    for path in std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            scan.folder(&path);
        } else if is_onnx(&path) {
            scan.file(path);
        }
        if scan.sources.len() > SOURCES_MAX {
            let why = format!("more than {SOURCES_MAX} models: is it the right folder?");
            return Err(std::io::Error::other(why));
        }
    }
    scan.settle();
    Ok(scan)
}

/// Whether a name ends as those of models do, in whatever case.
fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|it| it.eq_ignore_ascii_case("onnx"))
}

/// Whether a name is taken, even by what cannot be read.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The last part of a path, for people.
fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Scan {
    fn pass(&mut self, name: impl Into<String>, path: &Path, why: impl Into<String>) {
        if self.passed_over.len() >= PASSED_OVER_MAX {
            self.more += 1;
            return;
        }
        let (name, path, why) = (name.into(), path.to_owned(), why.into());
        self.passed_over.push(PassedOver { name, path, why });
    }

    /// `NAME.onnx`.
    fn file(&mut self, path: PathBuf) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension() != Some(OsStr::new("onnx")) {
            self.pass(&name, &path, format!("rename it to {name}.onnx, in lower case"));
        } else if !is_name(&name) {
            self.pass(&name, &path, format!("it cannot be named: {}", allowed()));
        } else {
            let metadata = path.with_extension("toml");
            let metadata = is_there(&metadata).then_some(metadata);
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            let left_out = None;
            self.sources.push(Source { name, version: 1, file: path, metadata, folder, left_out });
        }
    }

    /// `NAME/VERSION/model.onnx`.
    fn folder(&mut self, folder: &Path) {
        let name = last(folder);
        if !name.starts_with('.') {
            return self.versions(name, folder);
        }
        // Most are of another purpose, such as `.git`.
        let mut inside = Scan::default();
        inside.versions(name.clone(), folder);
        if inside.passed_over.iter().any(|it| is_onnx(&it.path)) {
            let why = "its name starts with a dot: rename it to serve what is in it";
            self.pass(&name, folder, why);
        }
    }

    /// The versions in a folder.
    fn versions(&mut self, name: String, folder: &Path) {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.pass(&name, folder, format!("it cannot be read: {error}")),
        };
        let configuration = Configuration::of(folder);
        let from = self.sources.len();
        for path in entries.flatten().map(|entry| entry.path()) {
            if self.sources.len() > SOURCES_MAX {
                return;
            }
            if path.is_dir() {
                self.version(&name, &path, &configuration);
            } else if is_onnx(&path) {
                let file = &configuration.layout.file;
                let why = format!(
                    "a model in a folder is {name}/VERSION/{file}: move it to {name}/1/{file}"
                );
                self.pass(&name, &path, why);
            }
        }
        let found = self.sources.get_mut(from..).unwrap_or_default();
        match (&configuration.layout.versions, &configuration.path) {
            (_, Some(path)) if found.is_empty() && configuration.loads_all => {
                let why = format!("there is no folder of a version beside it, such as {name}/1");
                self.pass(&name, path, why);
            }
            (Some(policy), _) => leave_out(found, policy),
            (None, _) => {}
        }
    }

    fn version(&mut self, name: &str, folder: &Path, configuration: &Configuration) {
        let Configuration { path, layout: Layout { file, .. }, loads_all } = configuration;
        let model_file = file;
        let file = folder.join(model_file);
        let version = last(folder);
        let is_number = version.bytes().all(|byte| byte.is_ascii_digit());
        let number = version.parse().ok().filter(|&number: &u64| is_number && number > 0);
        match number {
            Some(_) if !is_there(&file) && !loads_all => {
                let plan = folder.join(PLAN);
                let (path, why) = match is_there(&plan) {
                    true => (&*plan, model_config::NO_PLANS.to_owned()),
                    false => (
                        folder,
                        format!("the file of a version is called {model_file}, and there is none"),
                    ),
                };
                self.pass(name, path, why);
            }
            Some(_) if !is_name(name) => {
                self.pass(name, &file, format!("it cannot be named: {}", allowed()));
            }
            Some(version) => {
                let own = folder.join(TOML);
                let metadata = if is_there(&own) { Some(own) } else { path.clone() };
                let of_all = folder.parent().unwrap_or(Path::new("")).to_owned();
                self.sources.push(Source {
                    name: name.to_owned(),
                    version,
                    file,
                    metadata,
                    folder: of_all,
                    left_out: None,
                });
            }
            None if is_there(&file) => {
                let why = format!("{version:?} is no version: versions are numbers from 1");
                self.pass(name, &file, why);
            }
            None => {}
        }
    }

    /// Puts all in order. `NAME.onnx` and `NAME/1/model.onnx` would be the same model, as would
    /// `NAME/1` and `NAME/01`: the plain file counts.
    fn settle(&mut self) {
        self.sources.sort_by_key(|it| {
            (it.name.clone(), it.version, it.file.components().count(), it.file.clone())
        });
        let mut taken = BTreeSet::new();
        let (sources, twice): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sources)
            .into_iter()
            .partition(|it| taken.insert((it.name.clone(), it.version)));
        self.sources = sources;
        for source in twice {
            let Source { name, version, file, .. } = source;
            let why = format!("another file is {name} version {version}: remove one of them");
            self.pass(name, &file, why);
        }
        self.passed_over.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

/// Says of those of one model's versions that `policy` leaves out that it does.
pub(super) fn leave_out(of_model: &mut [Source], policy: &VersionPolicy) {
    let kept = policy.of(of_model.iter().map(|source| source.version));
    for source in of_model {
        let is_kept = kept.contains(&source.version);
        let why = || format!("not served: the version policy is {policy}");
        source.left_out = (!is_kept).then(why);
    }
}

#[cfg(test)]
mod tests;
