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
    let message = DynamicMessage::parse_text_format(MESSAGE.clone()?, &with_colons(text)?);
    typed(&message.map_err(|error| error.to_string())?)
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
            return Err(format!("messages lie more than {DEPTH_MAX} deep in each other"));
        }
        all.push(letter);
        if inside != Some('#') && !letter.is_whitespace() {
            last = letter;
        }
    }
    Ok(all)
}
