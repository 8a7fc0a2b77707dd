//! Whether a model draws random numbers.

use crate::indices::{Node, find};
use crate::walk::Message;

/// ONNX's own operators that draw random numbers.
const RANDOM: [&[u8]; 6] = [
    b"Bernoulli",
    b"Multinomial",
    b"RandomNormal",
    b"RandomNormalLike",
    b"RandomUniform",
    b"RandomUniformLike",
];

/// The operator whose third input may say that it is being trained, when it draws them too.
const TRAINED: &[u8] = b"Dropout";

/// An operator of the model that draws random numbers, or may, if the file has one at any depth.
/// Operators of other domains are not known.
///
/// # Errors
/// A text that says what is wrong: no protobuf, or graphs too deep within each other.
pub fn operator(model: &[u8]) -> Result<Option<String>, String> {
    let is_trained = |node: Node<'_>| node.operator == TRAINED && node.inputs > 2;
    find(Message::Model, model, 0, &|node| RANDOM.contains(&node.operator) || is_trained(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, payload: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(payload.len()).unwrap()], payload].concat()
    }

    fn found(operator: &str, inputs: usize) -> Option<String> {
        let inputs = field(1, b"x").repeat(inputs);
        let node = [inputs, field(4, operator.as_bytes())].concat();
        self::operator(&field(7, &field(1, &node))).unwrap()
    }

    #[test]
    fn operators_that_draw_are_found_and_others_are_not() {
        assert_eq!(found("RandomNormalLike", 1).as_deref(), Some("RandomNormalLike"));
        assert_eq!(found("Bernoulli", 1).as_deref(), Some("Bernoulli"));
        assert_eq!(found("Dropout", 3).as_deref(), Some("Dropout"));
        assert_eq!((found("Dropout", 2), found("Conv", 3)), (None, None));
        operator(b"no protobuf").unwrap_err();
    }
}
