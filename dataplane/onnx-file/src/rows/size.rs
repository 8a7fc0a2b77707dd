//! Sizes of dimensions, and the integers that graphs make of them.

/// Most open dimensions in one product: more than any tensor's axes are made of.
const FACTORS_MAX: usize = 16;

/// The name of a number that is the same in every run of requests that are batched together, such as
/// the size of an open dimension; [`ROWS`] alone is not.
pub(super) type Symbol = u32;

/// How many rows there are.
pub(super) const ROWS: Symbol = 0;

/// The size of a dimension: a number times symbols, each of which is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Size {
    number: u64,
    /// In rising order.
    symbols: Vec<Symbol>,
}

impl Size {
    pub(super) const ONE: Size = Size { number: 1, symbols: Vec::new() };

    pub(super) fn known(number: u64) -> Size {
        Size { number, symbols: Vec::new() }
    }

    pub(super) fn open(symbol: Symbol) -> Size {
        Size { number: 1, symbols: vec![symbol] }
    }

    pub(super) fn as_known(&self) -> Option<u64> {
        self.symbols.is_empty().then_some(self.number)
    }

    pub(super) fn is(&self, number: u64) -> bool {
        self.as_known() == Some(number)
    }

    pub(super) fn has_rows(&self) -> bool {
        self.symbols.contains(&ROWS)
    }

    /// `None` where nobody can count that far.
    pub(super) fn times(&self, other: &Size) -> Option<Size> {
        let number = self.number.checked_mul(other.number)?;
        let mut symbols = [&self.symbols[..], &other.symbols].concat();
        symbols.sort_unstable();
        (symbols.len() <= FACTORS_MAX).then_some(Size { number, symbols })
    }

    /// The size that `other` must be multiplied by to get this one, where it is known to be one.
    pub(super) fn over(&self, other: &Size) -> Option<Size> {
        let divides = other.number > 0 && self.number.is_multiple_of(other.number);
        let number = if divides { self.number / other.number } else { return None };
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            symbols.remove(symbols.iter().position(|it| it == symbol)?);
        }
        Some(Size { number, symbols })
    }

    pub(super) fn product<'a>(sizes: impl IntoIterator<Item = &'a Size>) -> Option<Size> {
        sizes.into_iter().try_fold(Size::ONE, |all, size| all.times(size))
    }
}

/// An integer in a tensor that shapes are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Int {
    Known(i64),
    /// Of at least one symbol.
    Size(Size),
    /// Something that does not depend on how many rows there are.
    Any,
}

impl Int {
    pub(super) fn of(size: &Size) -> Int {
        let known = size.as_known().and_then(|it| i64::try_from(it).ok());
        known.map_or_else(|| Int::Size(size.clone()), Int::Known)
    }

    /// A result of numbers. One that does not fit 32 bits is another one where they are of 32 bits.
    fn computed(result: Option<i64>) -> Int {
        let fits = result.filter(|&it| i32::try_from(it).is_ok());
        fits.map_or(Int::Any, Int::Known)
    }

    pub(super) fn as_known(&self) -> Option<i64> {
        if let Int::Known(number) = self { Some(*number) } else { None }
    }

    pub(super) fn has_rows(&self) -> bool {
        matches!(self, Int::Size(size) if size.has_rows())
    }

    /// `None` where the result depends on how many rows there are, and nobody knows how; so for all
    /// that follow.
    pub(super) fn plus(&self, other: &Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => Some(Int::computed(a.checked_add(*b))),
            (Int::Known(0), it) | (it, Int::Known(0)) => Some(it.clone()),
            _ => self.any(other),
        }
    }

    pub(super) fn minus(&self, other: &Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => Some(Int::computed(a.checked_sub(*b))),
            (it, Int::Known(0)) => Some(it.clone()),
            (Int::Size(a), Int::Size(b)) if a == b => Some(Int::Known(0)),
            _ => self.any(other),
        }
    }

    pub(super) fn times(&self, other: &Int) -> Option<Int> {
        if let (Int::Known(a), Int::Known(b)) = (self, other) {
            return Some(Int::computed(a.checked_mul(*b)));
        }
        match self.size().zip(other.size()).and_then(|(a, b)| a.times(&b)) {
            Some(product) => Some(Int::of(&product)),
            None => self.any(other),
        }
    }

    pub(super) fn over(&self, other: &Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => a.checked_div(*b).map(Int::Known),
            _ => match self.size().zip(other.size()).and_then(|(a, b)| a.over(&b)) {
                Some(exact) => Some(Int::of(&exact)),
                None => self.any(other),
            },
        }
    }

    /// 1 if they are equal, else 0.
    pub(super) fn equals(&self, other: &Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => Some(Int::Known((a == b).into())),
            // No size is negative.
            (Int::Size(_), Int::Known(it)) | (Int::Known(it), Int::Size(_)) if *it < 0 => {
                Some(Int::Known(0))
            }
            (Int::Size(a), Int::Size(b)) if a == b => Some(Int::Known(1)),
            _ => self.any(other),
        }
    }

    /// This one where `condition` holds, else the other one.
    pub(super) fn or_else(&self, other: &Int, condition: &Int) -> Option<Int> {
        match condition {
            Int::Known(0) => Some(other.clone()),
            Int::Known(_) => Some(self.clone()),
            Int::Any if self == other => Some(self.clone()),
            _ => condition.any(&self.any(other)?),
        }
    }

    pub(super) fn size(&self) -> Option<Size> {
        match self {
            Int::Known(number) => u64::try_from(*number).ok().map(Size::known),
            Int::Size(size) => Some(size.clone()),
            Int::Any => None,
        }
    }

    fn any(&self, other: &Int) -> Option<Int> {
        (!self.has_rows() && !other.has_rows()).then_some(Int::Any)
    }
}
