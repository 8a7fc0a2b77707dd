//! What of a model's files is not what it was when the model was loaded.

use std::path::Path;

use ferry_engine::FileDigest;

use super::Source;

/// The names of the files that changed, came or went, for people; empty if a load would read what
/// was read before. All of them are read and hashed. The metadata is none of them where it was
/// `said_elsewhere`.
pub(super) fn changes(loaded: &[FileDigest], source: &Source, said_elsewhere: bool) -> Vec<String> {
    let mut changes = Vec::new();
    for digest in loaded {
        match FileDigest::of(&digest.path) {
            Ok(now) if now.sha256 == digest.sha256 => {}
            Ok(_) => changes.push(name(&digest.path, source)),
            Err(_unreadable) => changes.push(format!("{} is gone", name(&digest.path, source))),
        }
    }
    let metadata = source.metadata.as_ref().filter(|_| !said_elsewhere);
    for path in std::iter::once(&source.file).chain(metadata) {
        if !loaded.iter().any(|digest| digest.path == *path) {
            changes.push(format!("{} is new", name(path, source)));
        }
    }
    changes
}

/// As it lies beside the model's file.
fn name(path: &Path, source: &Source) -> String {
    let folder = source.file.parent().unwrap_or(Path::new(""));
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}
