//! Files that are complete or absent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::ZooError;

/// A temporary file, removed when dropped before it was given its final name.
#[derive(Debug)]
struct Partial<'a> {
    target: &'a Path,
    path: PathBuf,
    renamed: bool,
}

impl<'a> Partial<'a> {
    /// Beside the target, because only within one file system can a file be renamed. The process's
    /// number keeps two writers of one model apart; the name ends in nothing that a server loads.
    fn beside(target: &'a Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}.partial", std::process::id()));
        Self { target, path: target.with_file_name(name), renamed: false }
    }

    fn write(mut self, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        content(&mut file)?;
        // Without this, a machine that loses power could keep the new name and lose the content.
        file.sync_data()?;
        fs::rename(&self.path, self.target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Nobody is left to tell; and where creating the file failed, there is none.
            fs::remove_file(&self.path).ok();
        }
    }
}

pub(crate) fn write_atomically(
    target: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ZooError> {
    Partial::beside(target)
        .write(content)
        .map_err(|source| ZooError::Write { path: target.to_owned(), source })
}

pub(crate) fn create_directory(path: &Path) -> Result<(), ZooError> {
    fs::create_dir_all(path).map_err(|source| ZooError::Directory { path: path.to_owned(), source })
}
