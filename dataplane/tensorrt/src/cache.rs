//! Built engines, kept in a folder.
//!
//! One file each, written under another name and renamed when complete, so that several processes
//! may use one folder, and build the same engine at once: whoever is last wins, with an equal
//! file. A file that is not exactly what its header says is built anew. The header protects from
//! accidents, not from people: an engine is code, so the folder must be one that only those may
//! write who may choose what the server runs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ferry_engine::EngineError;
use ferry_engine::library::Search;
use sha2::{Digest, Sha256};

use crate::build::build_source;
use crate::options::BuildOptions;
use crate::plan::{About, EnginePlan, key};
use crate::search::{Opened, required};
use crate::source::Source;

const MAGIC: [u8; 8] = *b"FERRYTRT";
/// Counted up when the layout of a file changes, or what is built from the same model and options.
const LAYOUT: u32 = 1;
/// Magic, layout, length of the description, length of the engine, key, SHA-256 of both.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 32 + 32;
/// A description is a signature: some hundred bytes for each tensor.
const ABOUT_BYTES_MAX: u32 = 1 << 20;

const ENGINE: &str = "engine";
const UNFINISHED: &str = "unfinished";
/// No build takes that long: what a process left unfinished is removed after it.
const UNFINISHED_KEPT: Duration = Duration::from_secs(3600);

/// A folder of built engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
    bytes_max: u64,
}

/// Where an engine came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// It was there.
    Hit,
    /// It was built, and is there now.
    Built,
    /// There was a file that could not be used: it was built, and is there now.
    Rebuilt {
        /// What was wrong with the file.
        why: String,
    },
    /// It was built, and will have to be built again next time.
    NotKept {
        /// Why it could not be kept.
        why: String,
    },
}

impl Cache {
    /// Engines in `folder`, which is made when the first is kept. Together they have at most
    /// `bytes_max` bytes: those go first that were not used for longest.
    pub fn new(folder: impl Into<PathBuf>, bytes_max: u64) -> Cache {
        Cache { folder: folder.into(), bytes_max }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The engine of a model, from the folder if it is there, else built as
    /// [`build`](crate::build()) does, and kept.
    ///
    /// # Errors
    /// As [`build`](crate::build()). That an engine cannot be kept is no error.
    pub fn get(
        &self,
        path: &Path,
        search: &Search,
        options: &BuildOptions,
    ) -> Result<(EnginePlan, CacheUse), EngineError> {
        let library = required(search)?;
        self.get_source(&Source::read(path)?, library, options)
    }

    pub(crate) fn get_source(
        &self,
        source: &Source,
        library: &Opened,
        options: &BuildOptions,
    ) -> Result<(EnginePlan, CacheUse), EngineError> {
        let key = key(&source.digest.sha256, &library.version, options);
        let file = self.folder.join(format!("{}.{ENGINE}", hex(&key)));
        let found = match read(&file, &key) {
            Ok(plan) => {
                touch(&file);
                return Ok((plan, CacheUse::Hit));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(error.to_string()),
        };
        let plan = build_source(source, library, options)?;
        let outcome = match (self.keep(&file, &key, &plan), found) {
            (Err(why), _) => CacheUse::NotKept { why },
            (Ok(()), None) => CacheUse::Built,
            (Ok(()), Some(why)) => CacheUse::Rebuilt { why },
        };
        match &outcome {
            CacheUse::NotKept { why } => {
                tracing::warn!(file = %file.display(), why, "a built engine is not kept");
            }
            CacheUse::Rebuilt { why } => {
                tracing::warn!(file = %file.display(), why, "an engine was built again");
            }
            CacheUse::Hit | CacheUse::Built => {}
        }
        Ok((plan, outcome))
    }

    fn keep(&self, file: &Path, key: &[u8; 32], plan: &EnginePlan) -> Result<(), String> {
        let about = serde_json::to_vec(&plan.about).map_err(|error| error.to_string())?;
        let header = header(key, &about, &plan.engine);
        let bytes = (header.len() + about.len() + plan.engine.len()) as u64;
        if bytes > self.bytes_max {
            return Err(format!("{bytes} bytes, and {} are allowed in all", self.bytes_max));
        }
        let failed = |what: &str, path: &Path, error: io::Error| {
            format!("{what} {}: {error}: let the server write there", path.display())
        };
        fs::create_dir_all(&self.folder).map_err(|error| failed("make", &self.folder, error))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        let unfinished = file.with_extension(format!("{}.{UNFINISHED}", hex(&random)));
        let written = write(&unfinished, [&header, &about, &plan.engine])
            .and_then(|()| fs::rename(&unfinished, file));
        if let Err(error) = written {
            // Most often the disk is full: what is there of it is of no use.
            drop(fs::remove_file(&unfinished));
            return Err(failed("write", file, error));
        }
        self.make_room(file);
        Ok(())
    }

    /// Removes what was not used for longest until the rest is within the bound, and what was
    /// never finished. Another process may do the same: files that are gone are no matter.
    fn make_room(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let now = SystemTime::now();
        let mut engines = Vec::new();
        let mut bytes = 0_u64;
        for entry in entries.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let modified = metadata.modified().unwrap_or(now);
            match path.extension().and_then(|it| it.to_str()) {
                Some(ENGINE) => {
                    bytes = bytes.saturating_add(metadata.len());
                    if path != newest {
                        engines.push((modified, path, metadata.len()));
                    }
                }
                Some(UNFINISHED) => {
                    let age = now.duration_since(modified).unwrap_or_default();
                    if age > UNFINISHED_KEPT {
                        drop(fs::remove_file(path));
                    }
                }
                _ => {}
            }
        }
        engines.sort_unstable();
        for (_, path, len) in engines {
            if bytes <= self.bytes_max {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                tracing::info!(file = %path.display(), "an engine made room");
            }
            bytes = bytes.saturating_sub(len);
        }
    }
}

fn header(key: &[u8; 32], about: &[u8], engine: &[u8]) -> Vec<u8> {
    let about_bytes = u32::try_from(about.len()).unwrap_or(u32::MAX);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(LAYOUT.to_le_bytes());
    header.extend(about_bytes.to_le_bytes());
    header.extend((engine.len() as u64).to_le_bytes());
    header.extend(key);
    header.extend(Sha256::new().chain_update(about).chain_update(engine).finalize());
    header
}

fn write(path: &Path, parts: [&[u8]; 3]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    // Before the name says that it is complete.
    file.sync_all()
}

/// Reads a file that is exactly what its header says, and is of this key.
fn read(path: &Path, key: &[u8; 32]) -> io::Result<EnginePlan> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(wrong("not a file"));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_short| wrong("shorter than a header"))?;
    let (fixed, sha256) = header.split_at(HEADER_BYTES - 32);
    let (fixed, found_key) = fixed.split_at(fixed.len() - 32);
    if fixed[..8] != MAGIC || fixed[8..12] != LAYOUT.to_le_bytes() {
        return Err(wrong("not an engine of this program's version"));
    }
    if found_key != key {
        return Err(wrong("the engine of another model, library, GPU or precision"));
    }
    let about_bytes = u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
    let engine_bytes = fixed[16..].iter().rev().fold(0_u64, |all, &it| all << 8 | u64::from(it));
    let all = u64::from(about_bytes).checked_add(engine_bytes);
    let expected = all.and_then(|all| all.checked_add(HEADER_BYTES as u64));
    if about_bytes > ABOUT_BYTES_MAX || expected != Some(metadata.len()) {
        return Err(wrong("not as long as its header says"));
    }
    // As long as the file is: an allocation that the file system vouches for.
    let mut about = vec![0; usize::try_from(about_bytes).map_err(io::Error::other)?];
    file.read_exact(&mut about)?;
    let mut engine = vec![0; usize::try_from(engine_bytes).map_err(io::Error::other)?];
    file.read_exact(&mut engine)?;
    let found = Sha256::new().chain_update(&about).chain_update(&engine).finalize();
    if *found != *sha256 {
        return Err(wrong("its bytes are not those that were written"));
    }
    let about: About = serde_json::from_slice(&about)?;
    Ok(EnginePlan { about, engine })
}

/// Notes that a file was used. If that fails, it counts as older than it is.
fn touch(path: &Path) {
    let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(file = %path.display(), %error, "the use of an engine is not noted");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
