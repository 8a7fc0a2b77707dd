//! What a classification says.

use ferry_client::DType;
use half::f16;

use super::output::Output;

/// Classes shown of an output that looks like a classification.
const TOP: usize = 5;
/// Outputs with more classes than this are no classification.
const CLASSES_MAX: usize = 100_000;

/// The best classes of a single row of floats, of 32 or 16 bits.
pub(super) fn top(outputs: &[Output], labels: &[String]) -> Vec<(usize, Option<String>, f32)> {
    let [output] = outputs else { return Vec::new() };
    let classes = output.shape.last().map_or(0, |&n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(2..=CLASSES_MAX).contains(&classes) {
        return Vec::new();
    }
    let floats: Vec<f32> = match output.dtype {
        DType::F32 => output.bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect(),
        DType::F16 => {
            output.bytes.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f32()).collect()
        }
        _ => return Vec::new(),
    };
    if floats.len() != classes {
        return Vec::new();
    }
    let mut scores: Vec<(usize, f32)> = floats.into_iter().enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let label = |class: usize| labels.get(class).cloned();
    scores.into_iter().take(TOP).map(|(class, score)| (class, label(class), score)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dtype: DType, classes: u64, bytes: Vec<u8>) -> [Output; 1] {
        [Output { name: "scores".to_owned(), dtype, shape: vec![1, classes], bytes }]
    }

    #[test]
    fn the_best_classes_come_first_in_either_precision() {
        let scores = [0.5_f32, -2.0, 3.25];
        let wide = scores.iter().flat_map(|it| it.to_le_bytes()).collect();
        let half = scores.iter().flat_map(|&it| f16::from_f32(it).to_le_bytes()).collect();
        let labels = ["a", "b", "c"].map(str::to_owned);
        for outputs in [output(DType::F32, 3, wide), output(DType::F16, 3, half)] {
            let best: Vec<_> = top(&outputs, &labels);
            let label = |text: &str| Some(text.to_owned());
            assert_eq!(best, [(2, label("c"), 3.25), (0, label("a"), 0.5), (1, label("b"), -2.0)]);
        }
    }

    #[test]
    fn what_is_no_row_of_floats_is_no_classification() {
        for (dtype, bytes) in [(DType::F16, 12), (DType::F32, 6), (DType::I32, 12)] {
            assert_eq!(top(&output(dtype, 3, vec![0; bytes]), &[]), []);
        }
        assert_eq!(top(&output(DType::F16, 1, vec![0; 2]), &[]), []);
    }
}
