//! How much room a session's slots have for replies, where the inputs do not tell how large they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ferry_core::signature::{PAYLOAD_BYTES_MAX, TENSOR_ALIGN_BYTES};
use ferry_core::{BoundSignature, BoundTensor, OutputShapes, Signature, payload_bytes};

use super::{ModelError, ShapeLimits};

/// Room for replies of which nothing is known, in bytes: as much as two requests, so that outputs as
/// large as the inputs fit, and this.
const UNKNOWN_BYTES: u64 = 64 << 10;

/// What replies may grow beyond the largest that was seen: by as much again, and no more than this.
const GROWTH_BYTES_MAX: u64 = 1 << 20;

/// Most sets of input shapes for which the largest reply is kept. The oldest goes: it is learnt
/// again by one request.
const SEEN_MAX: usize = 64;

/// What is known of the sizes of a model's replies.
#[derive(Debug, Default)]
pub struct Rooms {
    /// The operator's bounds, by output.
    declared: BTreeMap<String, Vec<u64>>,
    seen: Mutex<VecDeque<Seen>>,
}

/// The largest reply to inputs of some shapes.
#[derive(Debug)]
struct Seen {
    inputs: Vec<Vec<u64>>,
    bytes: u64,
}

impl Rooms {
    /// Nothing is known but what the operator says.
    ///
    /// # Errors
    /// A text that names an output which the model does not have, or not so.
    pub fn new(
        declared: BTreeMap<String, Vec<u64>>,
        signature: &Signature,
    ) -> Result<Rooms, String> {
        for (name, shape) in &declared {
            let Some(spec) = signature.outputs.iter().find(|spec| spec.name == *name) else {
                let known: Vec<_> = signature.outputs.iter().map(|it| it.name.as_str()).collect();
                return Err(format!("outputs.{name:?}: the model's outputs are {known:?}"));
            };
            if !spec.is_any() && spec.shape.len() != shape.len() {
                return Err(format!("outputs.{name:?} = {shape:?}: the model has {spec}"));
            }
            if spec.dtype.bytes_of(shape) > PAYLOAD_BYTES_MAX {
                let why = format!("more than the {PAYLOAD_BYTES_MAX} bytes that a reply may have");
                return Err(format!("outputs.{name:?} = {shape:?}: {why}"));
            }
        }
        Ok(Rooms { declared, seen: Mutex::default() })
    }

    /// Room for the replies of a session with these shapes, of which it wishes at least `wish`
    /// bytes.
    ///
    /// # Errors
    /// [`ModelError::Field`] if it wishes for more than the model may make.
    pub fn of(
        &self,
        bound: &BoundSignature,
        limits: &ShapeLimits,
        wish: u64,
    ) -> Result<u64, ModelError> {
        let agreed = bound.reply_bytes();
        let most = most(bound, limits).max(agreed);
        if wish > most {
            let why = format!(
                "{wish}; the model's outputs have {most} bytes at most: ask for less, or have the \
                 operator raise max_elements in the model's TOML"
            );
            return Err(ModelError::field("reply_bytes_min", why));
        }
        let is_open = bound.outputs.iter().any(|output| output.open);
        let known = match (self.seen(bound), self.declared(bound)) {
            (Some(seen), declared) => {
                let grown = seen.saturating_add(seen.min(GROWTH_BYTES_MAX));
                grown.max(declared.unwrap_or(0))
            }
            (None, Some(declared)) => declared,
            (None, None) if is_open && wish == 0 => {
                bound.request_bytes().saturating_mul(2).saturating_add(UNKNOWN_BYTES)
            }
            (None, None) => 0,
        };
        Ok(known.min(most).max(agreed).max(wish))
    }

    /// What all outputs take at the operator's bounds; `None` where one that is open has none.
    fn declared(&self, bound: &BoundSignature) -> Option<u64> {
        if self.declared.is_empty() {
            return None;
        }
        let shape = |output: &BoundTensor| match self.declared.get(&output.name) {
            Some(declared) => Some(declared.clone()),
            None => (!output.open).then(|| output.shape.clone()),
        };
        let shapes = bound.outputs.iter().map(shape).collect::<Option<Vec<_>>>()?;
        let parts = bound.parts(&OutputShapes::of(shapes).ok()?)?;
        Some(payload_bytes(&parts))
    }

    fn seen(&self, bound: &BoundSignature) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().find(|seen| seen.is_of(bound)).map(|seen| seen.bytes)
    }

    /// A request of a session with these shapes was answered, or would have been, with a reply of
    /// `bytes` bytes.
    pub fn learn(&self, bound: &BoundSignature, bytes: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.iter_mut().find(|seen| seen.is_of(bound)) {
            known.bytes = known.bytes.max(bytes);
            return;
        }
        if seen.len() >= SEEN_MAX {
            seen.pop_front();
        }
        let inputs = bound.inputs.iter().map(|input| input.shape.clone()).collect();
        seen.push_back(Seen { inputs, bytes });
    }
}

impl Seen {
    fn is_of(&self, bound: &BoundSignature) -> bool {
        self.inputs.iter().eq(bound.inputs.iter().map(|input| &input.shape))
    }
}

/// What the outputs take where each has as many elements as the model allows.
fn most(bound: &BoundSignature, limits: &ShapeLimits) -> u64 {
    let one = |output: &BoundTensor| {
        let elements = limits.elements_max.saturating_mul(output.dtype.bytes());
        elements.max(output.bytes).saturating_add(TENSOR_ALIGN_BYTES)
    };
    let all = bound.outputs.iter().map(one).fold(0, u64::saturating_add);
    all.min(PAYLOAD_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_core::{DType, Dim, TensorSpec};

    fn signature() -> Signature {
        let spec = |name: &str, dim: &str| TensorSpec {
            name: name.to_owned(),
            dtype: DType::U8,
            shape: vec![Dim::Named(dim.to_owned())],
        };
        Signature { inputs: vec![spec("x", "n")], outputs: vec![spec("y", "m"), spec("z", "n")] }
    }

    fn bound(n: u64) -> BoundSignature {
        signature().bind(&[("x".to_owned(), vec![n])]).unwrap()
    }

    fn rooms(declared: &[(&str, u64)]) -> Result<Rooms, String> {
        let declared = declared.iter().map(|(name, size)| ((*name).to_owned(), vec![*size]));
        Rooms::new(declared.collect(), &signature())
    }

    #[test]
    fn what_nobody_knows_has_the_room_of_two_requests_and_some() {
        let limits = ShapeLimits::default();
        let room = |n| rooms(&[]).unwrap().of(&bound(n), &limits, 0).unwrap();
        assert_eq!(room(10), 20 + UNKNOWN_BYTES);
        assert_eq!(room(1 << 20), (2 << 20) + UNKNOWN_BYTES);
    }

    #[test]
    fn a_reply_that_was_seen_has_room_and_grows_a_little() {
        let (rooms, limits) = (rooms(&[]).unwrap(), ShapeLimits::default());
        rooms.learn(&bound(10), 1000);
        rooms.learn(&bound(10), 900);
        assert_eq!(rooms.of(&bound(10), &limits, 0).unwrap(), 2000);
        assert_eq!(rooms.of(&bound(11), &limits, 0).unwrap(), 22 + UNKNOWN_BYTES);
        rooms.learn(&bound(10), 10 << 20);
        assert_eq!(rooms.of(&bound(10), &limits, 0).unwrap(), 11 << 20);
        for n in 100..100 + SEEN_MAX as u64 {
            rooms.learn(&bound(n), 1);
        }
        assert_eq!(rooms.seen(&bound(10)), None, "the oldest is forgotten");
    }

    #[test]
    fn the_operators_bounds_and_the_sessions_wish_are_kept() {
        let limits = ShapeLimits::default();
        let rooms_of = |declared: &[(&str, u64)]| rooms(declared).unwrap();
        assert_eq!(rooms_of(&[("y", 500)]).of(&bound(10), &limits, 0).unwrap(), 512 + 10);
        assert_eq!(rooms_of(&[("y", 500)]).of(&bound(10), &limits, 3000).unwrap(), 3000);
        assert_eq!(rooms_of(&[]).of(&bound(10), &limits, 3000).unwrap(), 3000);
        let few = ShapeLimits { elements_max: 100, ..limits };
        let told = rooms_of(&[]).of(&bound(10), &few, 3000).unwrap_err().to_string();
        assert!(told.contains("3000") && told.contains("max_elements"), "{told}");
    }

    #[test]
    fn bounds_of_outputs_that_are_not_there_are_refused() {
        assert!(rooms(&[("w", 1)]).unwrap_err().contains("\"y\""));
        let declared = [("y".to_owned(), vec![1, 2])].into();
        assert!(Rooms::new(declared, &signature()).unwrap_err().contains("[1, 2]"));
    }
}
