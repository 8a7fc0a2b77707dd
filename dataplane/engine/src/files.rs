//! Files that a model is made of, read once and in whole into memory of this process.
//!
//! No file stays mapped: whatever happens to it afterwards changes no answer, and one that is cut
//! while it is read is an error, where a mapping of it would end the process by a signal.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

/// How much of a file is read at a time while only its hash is wanted, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is something that may never end, or never begin.
    #[error("{} is {kind}, not a regular file: replace it by a file", path.display())]
    NotRegular {
        /// Its path.
        path: PathBuf,
        /// `a FIFO`, `a socket`, …
        kind: &'static str,
    },
    /// It is longer than anything that it could be.
    #[error("{} has {bytes} bytes; at most {bytes_max} are allowed", path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// The system has no memory for it.
    #[error("{} has {bytes} bytes, for which there is no memory", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Somebody wrote it meanwhile.
    #[error("{} changed while it was read: load the model again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// A file's name and what was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Where it lies.
    pub path: PathBuf,
    /// How many bytes it had.
    pub bytes: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// A file in memory, and its hash: what is used and what is hashed are the same bytes.
#[derive(Debug)]
pub struct FileBytes {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its name and hash.
    pub digest: FileDigest,
    /// Open for reading: see [`again`](FileBytes::again).
    pub file: File,
}

impl FileDigest {
    /// How long a file is now, in bytes.
    ///
    /// # Errors
    /// [`FileError`] if it is no regular file or cannot be opened.
    pub fn length(path: &Path) -> Result<u64, FileError> {
        open(path).map(|(_, bytes)| bytes)
    }

    /// Hashes a file without keeping it.
    ///
    /// # Errors
    /// [`FileError`] if it is no regular file or cannot be read.
    pub fn of(path: &Path) -> Result<FileDigest, FileError> {
        let (mut file, _) = open(path)?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut chunk).map_err(|source| unreadable(path, source))?;
            if read == 0 {
                break;
            }
            hasher.update(&chunk[..read]);
            bytes += read as u64;
        }
        Ok(FileDigest { path: path.to_owned(), bytes, sha256: hasher.finalize().into() })
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FileBytes {
    /// Reads a file of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`FileError`] if it is no regular file, too long, or changes meanwhile.
    pub fn read(path: &Path, bytes_max: u64) -> Result<FileBytes, FileError> {
        let (file, long) = open(path)?;
        FileBytes::read_from(path, file, long, bytes_max)
    }

    /// Reads a `file` once more that was read before: what it holds now, wherever `path` leads by
    /// now.
    ///
    /// # Errors
    /// As [`read`](FileBytes::read).
    pub fn again(path: &Path, file: &File, bytes_max: u64) -> Result<FileBytes, FileError> {
        let fail = |source| unreadable(path, source);
        let mut file = file.try_clone().map_err(fail)?;
        file.rewind().map_err(fail)?;
        let long = file.metadata().map_err(fail)?.len();
        FileBytes::read_from(path, file, long, bytes_max)
    }

    fn read_from(
        path: &Path,
        mut file: File,
        long: u64,
        bytes_max: u64,
    ) -> Result<FileBytes, FileError> {
        if long > bytes_max {
            return Err(FileError::Long { path: path.to_owned(), bytes: long, bytes_max });
        }
        // Without memory for it the process would be aborted: sparse files may have any length.
        let no_memory = || FileError::Memory { path: path.to_owned(), bytes: long };
        let mut bytes = Vec::new();
        let room = usize::try_from(long).map_err(|_too_long| no_memory())?;
        bytes.try_reserve_exact(room).map_err(|_refused| no_memory())?;
        let fail = |source| unreadable(path, source);
        (&mut file).take(long).read_to_end(&mut bytes).map_err(fail)?;
        // Shorter or longer than it was: parts of two files, most likely.
        if bytes.len() != room || file.read(&mut [0]).map_err(fail)? != 0 {
            return Err(FileError::Changed { path: path.to_owned() });
        }
        let sha256 = Sha256::digest(&bytes).into();
        let digest = FileDigest { path: path.to_owned(), bytes: long, sha256 };
        Ok(FileBytes { bytes, digest, file })
    }
}

/// Whether something is a regular file, or leads to one.
///
/// # Errors
/// [`FileError::NotRegular`] says what it is.
pub fn check_regular(path: &Path) -> Result<(), FileError> {
    let metadata = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    regular(path, metadata.file_type())
}

fn regular(path: &Path, kind: FileType) -> Result<(), FileError> {
    let kind = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(FileError::NotRegular { path: path.to_owned(), kind })
}

/// Opens a regular file; its length.
fn open(path: &Path) -> Result<(File, u64), FileError> {
    // Asked before it is opened, since opening a device may do something; and again afterwards,
    // since the name may lead somewhere else by then. Without `NONBLOCK` a FIFO would not open.
    check_regular(path)?;
    let fail = |source| unreadable(path, source);
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    regular(path, metadata.file_type())?;
    Ok((file, metadata.len()))
}

fn unreadable(path: &Path, source: io::Error) -> FileError {
    FileError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_read_is_what_is_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let read = FileBytes::read(&path, 3).unwrap();
        assert_eq!(read.bytes, b"abc");
        assert!(read.digest.hex().starts_with("ba7816bf8f01cfea"), "{}", read.digest.hex());
        assert_eq!(FileDigest::of(&path).unwrap(), read.digest);
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        std::fs::write(&path, "other").unwrap();
        let again = FileBytes::again(&path, &read.file, 3).unwrap();
        assert_eq!((again.bytes, again.digest), (read.bytes, read.digest), "not what is there now");
        std::fs::rename(path.with_extension("old"), &path).unwrap();
        let long = FileBytes::read(&path, 2).unwrap_err().to_string();
        assert!(long.contains("3 bytes") && long.contains("at most 2"), "{long}");
    }

    #[test]
    fn what_could_block_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let zero = folder.path().join("zero");
        symlink("/dev/zero", &zero).unwrap();
        let all = [
            (fifo, "a FIFO"),
            (socket, "a socket"),
            (zero, "a device"),
            (folder.path().to_owned(), "a folder"),
        ];
        for (path, kind) in all {
            for error in
                [FileBytes::read(&path, u64::MAX).map(drop), FileDigest::of(&path).map(drop)]
            {
                let text = error.unwrap_err().to_string();
                assert!(text.contains(kind), "{kind}: {text}");
            }
        }
    }

    #[test]
    fn a_file_without_memory_for_it_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A sparse file: no machine has as much memory.
        if file.as_file().set_len(1 << 46).is_ok() {
            let error = FileBytes::read(file.path(), u64::MAX).unwrap_err();
            assert!(matches!(error, FileError::Memory { .. }), "{error}");
        }
    }
}
