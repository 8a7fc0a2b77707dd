//! What is told of why a model is not served: all of it to the operator, and to others no folder of
//! the server.

use std::borrow::Cow;

use crate::error::ApiError;
use crate::models::ModelError;
use crate::state::State;
use crate::tenants::Identity;

/// `text`, which says why a model is not served, as `who` is told of it.
pub(super) fn why(state: &State, who: &Identity, text: String) -> String {
    match who.is_operator() {
        true => text,
        false => without_paths(state, text),
    }
}

/// `error` as `who` is told of it.
pub(super) fn error(state: &State, who: &Identity, error: ApiError) -> ApiError {
    match who.is_operator() {
        true => error,
        false => to_others(state, error),
    }
}

/// `error` as it is told to whoever asks.
pub(super) fn to_others(state: &State, error: ApiError) -> ApiError {
    match error {
        ApiError::Model(ModelError::NotServed { name, why }) => {
            ModelError::NotServed { name, why: without_paths(state, why) }.into()
        }
        other => other,
    }
}

fn without_paths(state: &State, mut text: String) -> String {
    // Known as a whole, spaces in its name included.
    if let Some(folder) = &state.config.models {
        let whole = folder.canonicalize().unwrap_or_else(|_gone| folder.clone());
        for folder in [&whole, folder] {
            let prefix = format!("{}/", folder.display().to_string().trim_end_matches('/'));
            text = text.replace(&prefix, "");
        }
    }
    without_folders(&text)
}

/// The text with the last part alone of each absolute path. Words of URLs stay as they are.
fn without_folders(text: &str) -> String {
    let word = |word: &str| match word.contains("://") {
        true => word.to_owned(),
        false => word.split_inclusive([':', '=']).map(without_folder).collect(),
    };
    text.split_inclusive(char::is_whitespace).map(word).collect()
}

/// A word without the folder that it begins with, behind a quotation mark or a bracket.
fn without_folder(word: &str) -> Cow<'_, str> {
    let path = word.trim_start_matches(['"', '\'', '`', '(', '[']);
    let opening = &word[..word.len() - path.len()];
    match path.rsplit_once('/') {
        Some((_, name)) if path.starts_with('/') => Cow::Owned(format!("{opening}{name}")),
        _ => Cow::Borrowed(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_lose_their_folders_and_nothing_else_changes() {
        for (text, told) in [
            ("/opt/ort/lib.so: no such file", "lib.so: no such file"),
            ("tried \"/a/b.so\", (/c/d) and\n/e", "tried \"b.so\", (d) and\ne"),
            ("PATHS=/a/b:/c/d; run ./e/f", "PATHS=b:d; run ./e/f"),
            ("ask https://a.b/c/d or models/x.onnx", "ask https://a.b/c/d or models/x.onnx"),
            ("1/2 of ä/ö is \"'", "1/2 of ä/ö is \"'"),
            ("", ""),
        ] {
            assert_eq!(without_folders(text), told);
        }
    }
}
