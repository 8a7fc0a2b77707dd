//! What native libraries call back.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` for a native library that calls us back. A panic that left such a function would end
/// the whole process; here it ends `work` alone, and `instead` is returned. The panic hook has told
/// of it by then.
///
/// What `work` shares with others must be good for use after it ended anywhere.
pub fn contained<R>(instead: R, work: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn called_back(number: i32) -> i32 {
        contained(-1, || if number < 0 { panic!("a panic in a callback") } else { number + 1 })
    }

    #[test]
    fn a_panic_does_not_leave_a_callback() {
        assert_eq!(called_back(-5), -1);
        assert_eq!(called_back(1), 2, "and the next call is served");
    }
}
