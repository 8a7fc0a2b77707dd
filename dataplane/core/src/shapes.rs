//! The shapes of the outputs of one reply, where they are not those that the session agreed.

/// Most bytes that the shapes of one reply take when they are encoded: what the largest tail of a
/// frame leaves beside its other records (see [`crate::tail`]).
pub const OUTPUT_SHAPES_BYTES_MAX: usize = 1_660;

/// A concrete shape for every output of a model, in the model's order.
///
/// Always short enough for the tail of a frame: what does not fit is refused when it is added, so
/// that a reply which was made can be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputShapes {
    /// How many dimensions each output has.
    ranks: Vec<u8>,
    /// The dimensions of all outputs, one output after the other.
    dims: Vec<u64>,
    /// Length of the encoding.
    bytes: usize,
}

/// Why shapes cannot travel with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapesError {
    /// A tensor with more dimensions than a byte counts.
    #[error("an output has {0} dimensions; a reply can tell of 255")]
    Rank(usize),
    /// Too many outputs or dimensions for the tail of a frame.
    #[error(
        "the shapes of the outputs take {0} bytes; a reply has room for \
         {OUTPUT_SHAPES_BYTES_MAX}: declare fixed shapes for some of them"
    )]
    Long(usize),
    /// The bytes are no shapes.
    #[error("the shapes of the outputs make no sense: {0}")]
    Malformed(&'static str),
}

impl OutputShapes {
    /// The shapes of all outputs, in the model's order.
    ///
    /// # Errors
    /// [`ShapesError`] if a reply cannot carry them.
    pub fn of<S: AsRef<[u64]>>(
        shapes: impl IntoIterator<Item = S>,
    ) -> Result<OutputShapes, ShapesError> {
        let mut all = OutputShapes::default();
        for shape in shapes {
            all.push(shape.as_ref())?;
        }
        Ok(all)
    }

    /// Adds the shape of the next output.
    ///
    /// # Errors
    /// [`ShapesError`] if a reply cannot carry it beside the others; nothing is added then.
    pub fn push(&mut self, shape: &[u64]) -> Result<(), ShapesError> {
        let rank = u8::try_from(shape.len()).map_err(|_too_many| ShapesError::Rank(shape.len()))?;
        let longer = self.bytes + 1 + shape.iter().map(|&dim| leb128_bytes(dim)).sum::<usize>();
        if longer > OUTPUT_SHAPES_BYTES_MAX {
            return Err(ShapesError::Long(longer));
        }
        self.ranks.push(rank);
        self.dims.extend_from_slice(shape);
        self.bytes = longer;
        Ok(())
    }

    /// How many outputs there are.
    pub fn len(&self) -> usize {
        self.ranks.len()
    }

    /// Whether there are no outputs.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// The shape of each output, outermost dimension first.
    pub fn iter(&self) -> impl Iterator<Item = &[u64]> {
        let mut rest = self.dims.as_slice();
        self.ranks.iter().map(move |&rank| {
            // `push` adds as many dimensions as it notes.
            let (shape, behind) = rest.split_at(usize::from(rank).min(rest.len()));
            rest = behind;
            shape
        })
    }

    /// The shape of one output.
    pub fn get(&self, output: usize) -> Option<&[u64]> {
        self.iter().nth(output)
    }

    /// Length of the encoding in bytes.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// Appends, for each output, its rank and its dimensions as LEB128.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for shape in self.iter() {
            // `push` refuses more dimensions than a byte counts.
            out.push(u8::try_from(shape.len()).unwrap_or(u8::MAX));
            for &dim in shape {
                put_leb128(dim, out);
            }
        }
    }

    /// Reads what [`encode`](OutputShapes::encode) wrote, to the last byte.
    ///
    /// # Errors
    /// [`ShapesError`] if the bytes end too early, are too many, or a number is written in more
    /// bytes than it needs.
    pub fn decode(mut bytes: &[u8]) -> Result<OutputShapes, ShapesError> {
        if bytes.len() > OUTPUT_SHAPES_BYTES_MAX {
            return Err(ShapesError::Long(bytes.len()));
        }
        let mut all = OutputShapes { bytes: bytes.len(), ..OutputShapes::default() };
        while let Some((&rank, behind)) = bytes.split_first() {
            bytes = behind;
            for _ in 0..rank {
                all.dims.push(take_leb128(&mut bytes)?);
            }
            all.ranks.push(rank);
        }
        Ok(all)
    }
}

/// Bits of a number that one byte of LEB128 holds.
const LEB128_BITS: u32 = 7;
/// Set in every byte but the last.
const LEB128_MORE: u8 = 0x80;

fn leb128_bytes(number: u64) -> usize {
    let bits = u64::BITS - number.leading_zeros();
    bits.div_ceil(LEB128_BITS).max(1) as usize
}

fn put_leb128(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= LEB128_BITS;
        if number == 0 {
            return out.push(low & !LEB128_MORE);
        }
        out.push(low | LEB128_MORE);
    }
}

fn take_leb128(bytes: &mut &[u8]) -> Result<u64, ShapesError> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(LEB128_BITS as usize) {
        let (&byte, behind) =
            bytes.split_first().ok_or(ShapesError::Malformed("a dimension is cut off"))?;
        *bytes = behind;
        let part = u64::from(byte & !LEB128_MORE);
        if part << shift >> shift != part {
            return Err(ShapesError::Malformed("a dimension is larger than 64 bits"));
        }
        number |= part << shift;
        if byte & LEB128_MORE == 0 {
            let padded = byte == 0 && shift > 0;
            let padding = ShapesError::Malformed("a dimension is written in too many bytes");
            return if padded { Err(padding) } else { Ok(number) };
        }
    }
    Err(ShapesError::Malformed("a dimension is larger than 64 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shapes_come_back_as_they_went(
            shapes in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..6), 0..20)
        ) {
            let all = OutputShapes::of(&shapes).expect("they fit");
            prop_assert_eq!(all.len(), shapes.len());
            prop_assert!(all.iter().eq(shapes.iter().map(Vec::as_slice)));
            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), all.encoded_bytes());
            prop_assert_eq!(OutputShapes::decode(&bytes), Ok(all));
        }

        #[test]
        fn any_bytes_are_shapes_or_an_error(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(0x80)], 0..64)
        ) {
            if let Ok(shapes) = OutputShapes::decode(&bytes) {
                let mut again = Vec::new();
                shapes.encode(&mut again);
                prop_assert_eq!(again, bytes, "accepted shapes have one encoding");
            }
        }
    }

    #[test]
    fn scalars_and_empty_tensors_have_shapes() {
        let shapes = OutputShapes::of([&[][..], &[0, 4], &[1, 3, 320, 320]]).unwrap();
        assert_eq!(shapes.get(0), Some(&[][..]));
        assert_eq!(shapes.get(1), Some(&[0, 4][..]));
        assert_eq!(shapes.get(2), Some(&[1, 3, 320, 320][..]));
        assert_eq!(shapes.get(3), None);
        let mut bytes = Vec::new();
        shapes.encode(&mut bytes);
        assert_eq!(bytes, [0, 2, 0, 4, 4, 1, 3, 0xc0, 2, 0xc0, 2]);
    }

    #[test]
    fn what_a_reply_cannot_carry_is_refused_when_it_is_added() {
        let mut shapes = OutputShapes::default();
        assert_eq!(shapes.push(&[1; 256]), Err(ShapesError::Rank(256)));
        let most = OUTPUT_SHAPES_BYTES_MAX / 10;
        for _ in 0..most {
            shapes.push(&[1; 9]).unwrap();
        }
        let before = shapes.clone();
        assert_eq!(shapes.push(&[1; 9]), Err(ShapesError::Long(most * 10 + 10)));
        assert_eq!(shapes, before);
        let long = vec![0; OUTPUT_SHAPES_BYTES_MAX + 1];
        assert_eq!(OutputShapes::decode(&long), Err(ShapesError::Long(long.len())));
    }

    #[test]
    fn numbers_of_ten_bytes_end_with_their_last_bit() {
        let largest = OutputShapes::of([[u64::MAX]]).unwrap();
        let mut bytes = Vec::new();
        largest.encode(&mut bytes);
        assert_eq!(OutputShapes::decode(&bytes), Ok(largest));
        *bytes.last_mut().unwrap() = 2;
        assert!(OutputShapes::decode(&bytes).is_err(), "beyond 64 bits");
        *bytes.last_mut().unwrap() = 0x81;
        assert!(OutputShapes::decode(&bytes).is_err(), "goes on");
    }
}
