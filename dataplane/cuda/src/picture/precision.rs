//! How finely the CPU path weighs pixels, which the kernel must repeat.

/// Bits behind the point of the CPU path's weights along one axis: as many as leave the largest
/// weight below 2^15, and at most 21. The resizer of ferry-vision decides so, for all windows of
/// an axis together.
pub(super) fn precision(source: u32, target: u32) -> u32 {
    const BITS_MAX: u32 = 21;
    // Some window has one pixel only: the first, or each where the sides are equal.
    let largest = if source <= target { 1.0 } else { largest_weight(source, target) };
    (0..BITS_MAX)
        .find(|bits| (largest * f64::from(1_u32 << (bits + 1))).round() >= 32_768.0)
        .unwrap_or(BITS_MAX)
}

/// The largest share that any output index has of any source pixel, where `source > target`.
///
/// As in fold.cu, distances and weights count in 1 / (2 × `target`) of a pixel, so that all are
/// whole; with sides below 2^15 no product reaches 2^31.
fn largest_weight(source: u32, target: u32) -> f64 {
    let (source, target) = (source.cast_signed(), target.cast_signed());
    let (reach, step) = (2 * source, 2 * target);
    let distances =
        |first: i32, end: i32, centre: i32| (end - first) * (target * (first + end - 1) - centre);
    let share = |index: i32| {
        let centre = (2 * index + 1) * source - target;
        let first = if centre >= reach { (centre - reach) / step + 1 } else { 0 };
        let end = source.min((centre + reach + step - 1) / step);
        let middle = (centre + step - 1) / step;
        let sum = reach * (end - first) + distances(first, middle, centre)
            - distances(middle, end, centre);
        let nearest = (step * middle - centre).min(centre - step * (middle - 1));
        f64::from(reach - nearest) / f64::from(sum)
    };
    (0..target).map(share).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::{largest_weight, precision};

    #[test]
    fn equal_and_growing_sides_weigh_a_pixel_fully() {
        for (source, target) in [(1, 1), (1, 16_384), (224, 224), (223, 224), (16_384, 16_384)] {
            assert_eq!(precision(source, target), 14);
        }
    }

    #[test]
    fn the_largest_weight_is_that_of_the_windows_written_out() {
        for (source, target) in [(2, 1), (3, 1), (3, 2), (97, 96), (97, 48), (500, 224), (999, 7)] {
            let scale = f64::from(source) / f64::from(target);
            let mut expected = 0_f64;
            for index in 0..target {
                let centre = (f64::from(index) + 0.5) * scale;
                let weights: Vec<f64> = (0..source)
                    .map(|x| (1.0 - (f64::from(x) + 0.5 - centre).abs() / scale).max(0.0))
                    .collect();
                let sum: f64 = weights.iter().sum();
                expected = weights.iter().map(|weight| weight / sum).fold(expected, f64::max);
            }
            let largest = largest_weight(source, target);
            assert!((largest - expected).abs() < 1e-12, "{source} to {target}: {largest}");
        }
    }

    #[test]
    fn a_weight_of_one_needs_14_bits_and_none_more_than_21() {
        assert_eq!(precision(2, 1), 15);
        assert_eq!(precision(16_384, 1), 21);
        for target in 1..=16_384 {
            assert!((14..=21).contains(&precision(16_384, target)));
        }
    }
}
