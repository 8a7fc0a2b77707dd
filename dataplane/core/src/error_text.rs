//! What errors and panics say: an error and its causes on one line.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;

/// The error and its sources, joined by colons.
#[must_use]
pub fn error_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What a panic said, if it said it in words.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".to_owned(),
    }
}

/// Stands for what was left out.
const LEFT_OUT: &str = " […] ";

/// A text that is at most `bytes_max` bytes long. What is too long loses its middle: what failed
/// stands at the start, and why at the end.
#[must_use]
pub fn without_middle(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let Some(kept) = bytes_max.checked_sub(LEFT_OUT.len()) else {
        return Cow::Borrowed(&text[..text.floor_char_boundary(bytes_max)]);
    };
    let start = text.floor_char_boundary(kept / 2);
    let end = text.ceil_char_boundary(text.len() - (kept - kept / 2));
    Cow::Owned(format!("{}{LEFT_OUT}{}", &text[..start], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_keeps_its_start_and_its_end() {
        let text = format!("node Mul {} shape {{1,3}} is not {{7,3}}", "x".repeat(1000));
        let cut = without_middle(&text, 100);
        assert!(cut.len() <= 100 && cut.len() > 90, "{}", cut.len());
        assert!(cut.starts_with("node Mul") && cut.ends_with("is not {7,3}"), "{cut}");
        assert!(matches!(without_middle(&text, text.len()), Cow::Borrowed(_)));
    }

    #[test]
    fn characters_are_never_cut() {
        let text = "ä".repeat(100);
        for bytes_max in 0..=text.len() {
            let cut = without_middle(&text, bytes_max);
            assert!(cut.len() <= bytes_max, "{bytes_max}");
        }
    }
}
