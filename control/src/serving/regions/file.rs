//! Memory of this machine that has a file, which its owner may cut short at any time.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use crate::error::ApiError;

/// Where keys are looked up: what `shm_open` does.
pub(super) const FOLDER: &str = "/dev/shm";

/// Longest key without its slash, in bytes: that of a file's name.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// A part of a file of shared memory.
#[derive(Debug)]
pub(super) struct SharedFile {
    pub(super) key: String,
    /// Where in the file the part begins, in bytes.
    pub(super) offset: u64,
    file: File,
    /// Device and inode: which file it is, whatever it is called.
    pub(super) identity: (u64, u64),
}

impl SharedFile {
    /// Opens the `bytes` bytes from `offset` on of the file that `key` names, if it belongs to one
    /// of `uids`.
    ///
    /// # Errors
    /// [`ApiError::Field`] names what has no meaning.
    pub(super) fn open(
        key: &str,
        offset: u64,
        bytes: u64,
        uids: Option<&[u32]>,
    ) -> Result<SharedFile, ApiError> {
        let (file, stat) = open_key(key)?;
        check_owner(uids, key, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > size) {
            let why = format!("{bytes} bytes from {offset} on; {key:?} has {size} bytes");
            return Err(ApiError::field("byte_size", why));
        }
        let identity = (stat.st_dev, stat.st_ino);
        Ok(SharedFile { key: key.to_owned(), offset, file, identity })
    }

    /// Copies what lies `at` bytes from the part's beginning.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), String> {
        self.file.read_exact_at(into, self.offset + at).map_err(|why| told(&why))
    }

    /// Copies to `at` bytes from the part's beginning.
    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<(), String> {
        let at = self.offset + at;
        let size = fstat(&self.file).map_err(|why| told(&why.into()))?.st_size;
        // Writing behind the end of a file makes it longer.
        if u64::try_from(size).unwrap_or_default() < at.saturating_add(from.len() as u64) {
            return Err(told(&std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.file.write_all_at(from, at).map_err(|why| told(&why))
    }
}

fn told(why: &std::io::Error) -> String {
    match why.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            "its file was cut short after it was registered".to_owned()
        }
        _ => why.to_string(),
    }
}

/// The file that a key names, and what it is.
fn open_key(key: &str) -> Result<(File, Stat), ApiError> {
    let name = key.strip_prefix('/').unwrap_or(key);
    let is_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    if !is_name || name.len() > KEY_BYTES_MAX {
        let why = format!(
            "{key:?} names no file right below {FOLDER}: 1 to {KEY_BYTES_MAX} bytes behind one \
             slash or none, without another slash or a NUL"
        );
        return Err(ApiError::field("key", why));
    }
    let refused = |why: std::io::Error| {
        ApiError::field("key", format!("{FOLDER}/{name} cannot be opened: {why}"))
    };
    // A link leads elsewhere, and what is no regular file may block whoever opens it.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = open(format!("{FOLDER}/{name}"), flags, Mode::empty());
    let file = file.map_err(|why| refused(why.into()))?;
    let stat = fstat(&file).map_err(|why| refused(why.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ApiError::field("key", format!("{FOLDER}/{name} is no regular file")));
    }
    Ok((File::from(file), stat))
}

fn check_owner(uids: Option<&[u32]>, key: &str, stat: &Stat) -> Result<(), ApiError> {
    if uids.is_none_or(|uids| uids.contains(&stat.st_uid)) {
        return Ok(());
    }
    let why = format!("{key:?} belongs to user {}, who is not in shm-uids", stat.st_uid);
    Err(ApiError::field("key", why))
}
