//! Numbers that are counted from 1.

/// The largest value of one.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct Limits(usize);

impl Limits {
    /// Instances of one model: each is a copy of its working memory and a thread.
    pub(in crate::models) const INSTANCES: Limits = Limits(256);
    /// Threads of one instance.
    pub(in crate::models) const THREADS: Limits = Limits(1024);

    /// The value, if it is within.
    ///
    /// # Errors
    /// A text with what is allowed.
    pub(in crate::models) fn check(self, name: &str, value: usize) -> Result<usize, String> {
        let Limits(max) = self;
        let why = || format!("{name} = {value}; allowed are 1 to {max}");
        (1..=max).contains(&value).then_some(value).ok_or_else(why)
    }
}
