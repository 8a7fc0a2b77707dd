//! What lies in the model folder: `NAME.onnx` (version 1) or `NAME/VERSION/model.onnx`.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// Longest name of a model, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Most models of one folder: a folder with more is most likely not a model folder.
const SOURCES_MAX: usize = 4096;

/// How much of a file is read at a time while it is hashed, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// A model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The model's name.
    pub name: String,
    /// Its version, from 1.
    pub version: u64,
    /// The file.
    pub file: PathBuf,
    /// Its metadata, where there is some.
    pub metadata: Option<PathBuf>,
}

/// Checks that a name can be one of a model: it never becomes part of a path, and is shown to
/// people and to SQL as it is.
///
/// # Errors
/// [`ApiError::Field`] says what is allowed.
pub fn check_name(name: &str) -> Result<(), ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(plain)
    {
        return Ok(());
    }
    let why = format!(
        "{name:?} cannot be a model: names are 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', \
         '-', and start with no dot"
    );
    Err(ApiError::field("model", why))
}

/// Every model of a folder, by name and version. What is no model is passed over.
///
/// # Errors
/// What the system says if the folder cannot be read.
pub(super) fn scan(folder: &Path) -> std::io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            versions(&path, &mut sources);
        } else if path.extension() == Some(OsStr::new("onnx"))
            && let Some(name) = path.file_stem().and_then(OsStr::to_str)
            && check_name(name).is_ok()
        {
            let metadata = path.with_extension("toml");
            sources.push(Source {
                name: name.to_owned(),
                version: 1,
                metadata: metadata.is_file().then_some(metadata),
                file: path,
            });
        }
        if sources.len() > SOURCES_MAX {
            let why = format!("more than {SOURCES_MAX} models: is it the right folder?");
            return Err(std::io::Error::other(why));
        }
    }
    sources.sort_by_key(|it| (it.name.clone(), it.version, it.file.components().count()));
    // `NAME.onnx` and `NAME/1/model.onnx` would be the same model: the plain file counts.
    sources.dedup_by(|b, a| (&a.name, a.version) == (&b.name, b.version));
    Ok(sources)
}

fn versions(folder: &Path, sources: &mut Vec<Source>) {
    let Some(name) = folder.file_name().and_then(OsStr::to_str) else { return };
    // A folder that cannot be read or is none of ours has no models.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    if check_name(name).is_err() {
        return;
    }
    let metadata = folder.join("model.toml");
    let metadata = metadata.is_file().then_some(metadata);
    for path in entries.flatten().map(|entry| entry.path()) {
        let version = path.file_name().and_then(OsStr::to_str).and_then(|it| it.parse().ok());
        let file = path.join("model.onnx");
        if let Some(version @ 1..) = version
            && file.is_file()
        {
            let own = path.join("model.toml");
            let metadata = if own.is_file() { Some(own) } else { metadata.clone() };
            sources.push(Source { name: name.to_owned(), version, file, metadata });
        }
    }
}

/// The SHA-256 of a file, as lower-case hexadecimal.
///
/// # Errors
/// What the system says.
pub(super) fn sha256(file: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for good in ["resnet50", "a.b-c_D9"] {
            check_name(good).unwrap();
        }
        for bad in ["", "..", ".x", "a/b", "../a", "a\\b", "a\0", "ä", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn both_shapes_of_folder_are_found_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        let all = ["a.onnx", "a.toml", "a/1/model.onnx", "b/2/model.onnx", "b/10/model.onnx"];
        all.iter().for_each(|path| put(path));
        ["b/model.toml", "b/10/model.toml", "b/x/model.onnx", "b/0/model.onnx", "c.txt", ".d.onnx"]
            .iter()
            .for_each(|path| put(path));
        let found = scan(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.version)).collect();
        assert_eq!(names, [("a", 1), ("b", 2), ("b", 10)]);
        assert_eq!(found[0].file, dir.path().join("a.onnx"));
        assert!(found.iter().all(|it| it.metadata.is_some()));
        assert_eq!(found[2].metadata, Some(dir.path().join("b/10/model.toml")));
    }

    #[test]
    fn a_hash_is_that_of_the_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let hash = sha256(file.path()).unwrap();
        assert!(hash.starts_with("ba7816bf8f01cfea") && hash.len() == 64, "{hash}");
    }
}
