//! Whether a model takes floats for more than numbers.
//!
//! Most operators compute with floats and do nothing else: one that a peer changes during a run
//! gives a wrong answer to that peer. Some make an index or a size of them, or sort them, and may
//! read a float twice: once to check it, and once to use it.

use crate::walk::{BYTES, Message, fields};

/// ONNX's own operators that make an index or a size of a float, or put floats in order.
const FROM_FLOATS: [&[u8]; 14] = [
    b"DeformConv",
    b"GridSample",
    b"MaxRoiPool",
    b"MelWeightMatrix",
    b"Multinomial",
    b"NonMaxSuppression",
    b"NonZero",
    b"OneHot",
    b"Range",
    b"Resize",
    b"RoiAlign",
    b"TopK",
    b"Unique",
    b"Upsample",
];

/// The names of ONNX's own operator set.
pub(crate) const OWN_DOMAINS: [&[u8]; 2] = [b"", b"ai.onnx"];

/// An operator that takes floats for more than numbers, if the file has one at any depth; so may
/// any operator of another domain.
///
/// # Errors
/// A text that says what is wrong: no protobuf, or graphs too deep within each other.
pub fn from_floats(model: &[u8]) -> Result<Option<String>, String> {
    let does = |node: Node<'_>| {
        FROM_FLOATS.contains(&node.operator) || !OWN_DOMAINS.contains(&node.domain)
    };
    find(Message::Model, model, 0, &does)
}

/// A node, as far as it is looked at.
#[derive(Clone, Copy, Default)]
pub(crate) struct Node<'a> {
    pub(crate) operator: &'a [u8],
    pub(crate) domain: &'a [u8],
    /// How many inputs it names, those that are left out among them.
    pub(crate) inputs: usize,
}

/// The operator of the first node that `is` so, at any depth.
pub(crate) fn find(
    message: Message,
    bytes: &[u8],
    depth: usize,
    is: &dyn Fn(Node<'_>) -> bool,
) -> Result<Option<String>, String> {
    if message.is_tensor() {
        return Ok(None);
    }
    let mut node = Node::default();
    for field in fields(bytes, depth)? {
        let field = field?;
        match (message, field.number, field.wire) {
            (Message::Node, 1, BYTES) => node.inputs += 1,
            (Message::Node, 4, BYTES) => node.operator = field.payload,
            (Message::Node, 7, BYTES) => node.domain = field.payload,
            _ => {}
        }
        let Some(inner) = field.message_in(message) else { continue };
        let found = find(inner, field.payload, depth + 1, is)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let found = message == Message::Node && is(node);
    Ok(found.then(|| String::from_utf8_lossy(node.operator).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, payload: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(payload.len()).unwrap()], payload].concat()
    }

    fn node(operator: &str, domain: &str) -> Vec<u8> {
        field(1, &[field(4, operator.as_bytes()), field(7, domain.as_bytes())].concat())
    }

    fn found(graph: &[u8]) -> Option<String> {
        from_floats(&field(7, graph)).unwrap()
    }

    #[test]
    fn operators_are_found_at_every_depth() {
        let plain = [node("Conv", ""), node("Relu", "ai.onnx")].concat();
        assert_eq!(found(&plain), None);
        let with_one = [plain.clone(), node("TopK", "")].concat();
        assert_eq!(found(&with_one).as_deref(), Some("TopK"));
        // The branch of an If: a graph in an attribute of a node.
        let branch =
            |graph: &[u8]| field(1, &[field(4, b"If"), field(5, &field(6, graph))].concat());
        assert_eq!(found(&branch(&plain)), None);
        assert_eq!(found(&branch(&branch(&with_one))).as_deref(), Some("TopK"));
    }

    #[test]
    fn other_domains_may_do_anything() {
        assert_eq!(found(&node("Relu", "com.microsoft")).as_deref(), Some("Relu"));
        from_floats(b"no protobuf").unwrap_err();
    }
}
