//! From a text to the message.

use std::sync::LazyLock;

use ferry_proto::oip::ModelConfig;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

/// How deep messages may lie in each other: the deepest of [`ModelConfig`] is half as deep. The
/// parser calls itself for each, and a text may go on for ever by naming types.
const DEPTH_MAX: usize = 16;

/// What is known of the message.
static MESSAGE: LazyLock<Result<MessageDescriptor, String>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(ferry_proto::DESCRIPTORS);
    let pool = pool.map_err(|error| error.to_string())?;
    let message = pool.get_message_by_name("inference.ModelConfig");
    message.ok_or_else(|| "this build does not know inference.ModelConfig".to_owned())
});

/// The message of a text in the text format of protocol buffers.
///
/// # Errors
/// A text that says what is wrong.
pub(in crate::models) fn from_text(text: &str) -> Result<ModelConfig, String> {
    let known = MESSAGE.clone()?;
    let text = with_colons(text)?;
    let parsed = |text: &str| {
        let message = DynamicMessage::parse_text_format(known.clone(), text);
        message.map_err(|error| error.to_string())
    };
    let message = parsed(&text).map_err(|why| {
        let line = line_of(&text, &why, |part| parsed(part).err());
        format!("line {line}: {why}")
    });
    typed(&message?)
}

/// The line, from 1, in which the parser gives up because of `why`, and which it does not tell: the
/// first one up to which the text is wrong for the same reason. What follows that line changes
/// nothing, since the parser never gets there. What is missing is missing at the end.
fn line_of(text: &str, why: &str, wrong: impl Fn(&str) -> Option<String>) -> usize {
    let lines = text.lines().count().max(1);
    if why.ends_with("end of input") {
        return lines;
    }
    // With their ends, which a text in quotation marks must not have.
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).take(lines - 1).collect();
    let is_right = |&end: &usize| text.get(..end).and_then(&wrong).as_deref() != Some(why);
    ends.partition_point(is_right) + 1
}

/// The message of a text in JSON.
///
/// # Errors
/// A text that says where what is wrong.
pub(in crate::models) fn from_json(text: &str) -> Result<ModelConfig, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new();
    let message = DynamicMessage::deserialize_with_options(MESSAGE.clone()?, &mut json, &options)
        .and_then(|message| json.end().map(|()| message));
    typed(&message.map_err(|error| error.to_string())?)
}

fn typed(message: &DynamicMessage) -> Result<ModelConfig, String> {
    message.transcode_to().map_err(|error| error.to_string())
}

/// The text as the parser takes it: a list of messages stands behind a colon, which the format lets
/// be left out. Looks how deep brackets go, too.
fn with_colons(text: &str) -> Result<String, String> {
    let mut all = String::with_capacity(text.len());
    // The quotation mark or the hash that began what is no token, and the last letter of one.
    let (mut inside, mut is_escaped, mut last) = (None, false, ' ');
    let mut depth = 0_usize;
    for letter in text.chars() {
        match (inside, letter) {
            (Some('#'), _) => inside = inside.filter(|_| letter != '\n'),
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            // A text that is not closed ends with its line, as it does for the parser.
            (Some(quote), _) => inside = inside.filter(|_| letter != quote && letter != '\n'),
            (None, '#' | '"' | '\'') => inside = Some(letter),
            (None, '{' | '<' | '[') => {
                depth += 1;
                if letter == '[' && (last.is_ascii_alphanumeric() || last == '_') {
                    all.push(':');
                }
            }
            (None, '}' | '>' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth > DEPTH_MAX {
            let line = 1 + all.matches('\n').count();
            return Err(format!(
                "line {line}: messages lie more than {DEPTH_MAX} deep in each other"
            ));
        }
        all.push(letter);
        if inside != Some('#') && !letter.is_whitespace() {
            last = letter;
        }
    }
    Ok(all)
}
