//! The folder is looked at again and again, and what changed in it is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_dir;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::loading::{Said, Turnover};
use super::{Models, State};
use crate::models::Source;
use crate::models::folder::{PassedOver, Scan};

/// Most files of one model, or of one folder, whose change is noticed: far more than models have.
const FILES_MAX: usize = 4096;

/// What of a file tells that it changed, as far as can be told without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// The files of a model; `None` is one that is not there.
type Print = BTreeMap<PathBuf, Option<Stamp>>;

/// What the looks before have seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// At the last look.
    seen: BTreeMap<String, Print>,
    /// When the model was loaded, or could not be.
    settled: BTreeMap<String, Print>,
    /// Models that could not be loaded for the sake of others, which are tried at each look.
    in_line: BTreeSet<String>,
    /// What was told not to be served.
    told: BTreeSet<PathBuf>,
    /// Whether there was a look before.
    looked: bool,
}

impl Models {
    /// Looks at the folder once. What changed, and has not changed since the last look, is loaded
    /// anew; a model that is not there for two looks is unloaded. What cannot be loaded is logged,
    /// and what serves goes on. Blocks for as long as the engines take.
    ///
    /// # Errors
    /// What the system says if the folder cannot be read: then everything stays as it is.
    pub fn look(&self, watch: &mut Watch) -> std::io::Result<Turnover> {
        let scan = self.scan()?;
        watch.tell(&scan.passed_over);
        let now = self.prints(&scan);
        let before = std::mem::replace(&mut watch.seen, now.clone());
        let mut turnover = Turnover::default();
        for (name, print) in now {
            let is_steady = before.get(&name) == Some(&print);
            let is_in_line = watch.in_line.contains(&name);
            let is_settled = watch.settled.get(&name) == Some(&print);
            if !is_steady || is_settled && !is_in_line {
                continue;
            }
            // What this look has loaded is still held, and could not make room.
            if is_settled && !turnover.made.is_empty() {
                continue;
            }
            let of_model = |it: &&Source| it.name == name;
            let sources = scan.sources.iter().filter(of_model).cloned().collect();
            let scan = Scan { sources, ..Scan::default() };
            watch.settled.insert(name.clone(), print);
            if self.are_absent(&scan.sources) {
                continue;
            }
            match self.bring(&name, 0, Said::AsBefore, scan) {
                Ok(loading) => {
                    watch.in_line.remove(&name);
                    turnover.made.extend(loading.turnover.made);
                    turnover.retired.extend(loading.turnover.retired);
                }
                Err(error) if error.is_of_others() && is_settled => {}
                Err(error) => {
                    tracing::error!(model = name, %error, "model not loaded");
                    match error.is_of_others() {
                        true => watch.in_line.insert(name),
                        false => watch.in_line.remove(&name),
                    };
                }
            }
        }
        if std::mem::replace(&mut watch.looked, true) {
            let is_there = |name: &str| watch.seen.contains_key(name) || before.contains_key(name);
            self.drop_gone(is_there, &mut turnover);
        }
        watch.in_line.retain(|name| watch.seen.contains_key(name));
        watch.settled.retain(|name, _| watch.seen.contains_key(name) || before.contains_key(name));
        Ok(turnover)
    }

    /// Whether all these versions made room. What changed of them is read when they are asked for.
    fn are_absent(&self, sources: &[Source]) -> bool {
        let mut entries = self.entries();
        let key = |source: &Source| (source.name.clone(), source.version);
        let is_absent = |source: &Source| {
            let state = entries.get(&key(source)).map(|entry| &entry.state);
            source.left_out.is_none() && matches!(state, Some(State::Absent(_)))
        };
        let all = sources.iter().all(is_absent);
        for source in sources.iter().filter(|_| all) {
            if let Some(entry) = entries.get_mut(&key(source)) {
                entry.source = Some(source.clone());
            }
        }
        all
    }

    /// Unloads models that are not in the folder any more, and forgets them.
    fn drop_gone(&self, is_there: impl Fn(&str) -> bool, turnover: &mut Turnover) {
        self.entries().retain(|(name, version), entry| {
            let stays = entry.source.is_none() || is_there(name);
            if !stays {
                tracing::info!(model = name, version, "not in the model folder any more");
                turnover.retired.extend(entry.unload());
            }
            stays
        });
    }

    /// The files of each model.
    fn prints(&self, scan: &Scan) -> BTreeMap<String, Print> {
        let mut prints: BTreeMap<String, Print> = BTreeMap::new();
        for source in &scan.sources {
            let print = prints.entry(source.name.clone()).or_default();
            let is_flat = source.file.parent() == Some(&*source.folder);
            let key = (source.name.clone(), source.version);
            let own = std::iter::once(&source.file).chain(&source.metadata).cloned();
            let mut paths: BTreeSet<PathBuf> = own.collect();
            let is_loaded = match self.entries().get(&key).and_then(|it| it.state.profile()) {
                Some(profile) => {
                    paths.extend(profile.files().cloned());
                    true
                }
                None => false,
            };
            // What one without a folder of its own is made of shows only when it is loaded; until
            // then any file may be what it lacks.
            if !is_flat || !is_loaded {
                paths.extend(files_of(&source.folder, !is_flat));
            }
            print.extend(paths.into_iter().map(|path| {
                let stamp = stamp(&path);
                (path, stamp)
            }));
        }
        prints
    }
}

impl Watch {
    /// Logs what is not served, once.
    fn tell(&mut self, passed_over: &[PassedOver]) {
        let now: BTreeSet<PathBuf> = passed_over.iter().map(|it| it.path.clone()).collect();
        for PassedOver { path, why, .. } in passed_over {
            if !self.told.contains(path) {
                tracing::warn!(path = %path.display(), why, "not served");
            }
        }
        self.told = now;
    }
}

/// The files of a folder, and of those in it. What cannot be read has none.
fn files_of(folder: &Path, and_below: bool) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for path in read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true if and_below => files.append(&mut files_of(&path, false)),
            true => {}
            false => drop(files.insert(path)),
        }
        if files.len() > FILES_MAX {
            break;
        }
    }
    files
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = path.metadata().ok()?;
    Some(Stamp { bytes: found.len(), modified: found.modified().ok(), inode: found.ino() })
}
