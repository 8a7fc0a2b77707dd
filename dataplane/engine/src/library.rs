//! Finding a native library, opening it once per process, and what it says.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use ferry_core::without_middle;

/// Where to look for a library, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// A path that somebody chose: if it is set, nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// Paths to try in this order. If none of them can be used, the system's loader is asked.
    pub candidates: Vec<PathBuf>,
}

/// Whether a library can be used in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is open.
    Found {
        /// The file, or its name if the system's loader found it.
        path: PathBuf,
        /// As the library says, such as `1.30.0`.
        version: String,
    },
    /// It could not be opened.
    Missing {
        /// Every path that was tried, with what was wrong.
        why: String,
        /// What to do.
        fix: String,
    },
}

/// A library of which a process has one: once it is open, every later call finds that one, whatever
/// it searches for. A failure is not remembered.
#[derive(Debug)]
pub struct Library<T> {
    opened: OnceLock<T>,
    opening: Mutex<()>,
}

impl<T> Library<T> {
    /// Not open yet.
    #[expect(clippy::new_without_default, reason = "it is a static, and no default is const")]
    pub const fn new() -> Library<T> {
        Library { opened: OnceLock::new(), opening: Mutex::new(()) }
    }

    /// The library, opened if it is not yet. `find` makes of an absolute path what `open` needs, or
    /// says what it lacks; `by_name` is the same for the system's loader.
    ///
    /// # Errors
    /// Every path that was tried, with what was wrong.
    pub fn open<F>(
        &self,
        search: &Search,
        by_name: F,
        find: impl Fn(PathBuf) -> Result<F, String>,
        open: impl Fn(F) -> Result<T, String>,
    ) -> Result<&T, String> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let named = match &search.explicit {
            Some(path) => std::slice::from_ref(path),
            None => search.candidates.as_slice(),
        };
        let found = named.iter().map(|path| match std::path::absolute(path) {
            Ok(path) => find(path),
            Err(error) => Err(format!("{}: {error}", path.display())),
        });
        let by_name = search.explicit.is_none().then_some(Ok(by_name));
        let mut why = Vec::new();
        for found in found.chain(by_name) {
            match found.and_then(&open) {
                Ok(opened) => return Ok(self.opened.get_or_init(|| opened)),
                Err(error) => why.push(error),
            }
        }
        Err(why.join("; "))
    }
}

/// What a library says, on one line of bearable length.
pub fn one_line(text: &str) -> String {
    /// Longer messages are dumps of a node or a graph between what failed and why. A slot has room
    /// for this and what is said around it.
    const BYTES_MAX: usize = 3000;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = without_middle(&line, BYTES_MAX);
    if told.len() < line.len() {
        tracing::debug!("all of a long message: {line}");
    }
    told.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library that opens where `right` is in its path.
    fn look(library: &Library<String>, search: &Search) -> Result<String, String> {
        let find = |path: PathBuf| match path.to_string_lossy() {
            path if path.contains("nowhere") => Err(format!("{path}: no such file")),
            path => Ok(path.into_owned()),
        };
        let open = |path: String| match path.contains("right") {
            true => Ok(path),
            false => Err(format!("{path}: no library")),
        };
        library.open(search, "by name".to_owned(), find, open).cloned()
    }

    #[test]
    fn a_library_is_opened_once_and_what_failed_before_is_tried_again() {
        let library = Library::new();
        let chosen =
            Search { explicit: Some("/nowhere".into()), candidates: vec!["/right".into()] };
        let only = look(&library, &chosen).unwrap_err();
        assert_eq!(only, "/nowhere: no such file", "nothing but what was chosen");
        let candidates = vec!["/nowhere".into(), "/wrong".into()];
        let all = look(&library, &Search { explicit: None, candidates }).unwrap_err();
        assert_eq!(all, "/nowhere: no such file; /wrong: no library; by name: no library");
        let candidates = vec!["/wrong".into(), "/right".into(), "/right/too".into()];
        let first = look(&library, &Search { explicit: None, candidates });
        assert_eq!(first.as_deref(), Ok("/right"));
        assert_eq!(look(&library, &chosen), first, "another search finds what is open");
    }

    #[test]
    fn a_message_is_one_line_of_bearable_length() {
        assert_eq!(one_line(" a\n\n b\t"), "a b");
        assert_eq!(one_line(&"x".repeat(500)).len(), 500);
        assert!(one_line(&"x".repeat(5000)).len() <= 3000, "long ones lose their middle");
    }
}
