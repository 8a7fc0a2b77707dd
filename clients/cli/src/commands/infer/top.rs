//! What a classification says.

use ferry_client::DType;

use super::Output;

/// Classes shown of an output that looks like a classification.
const TOP: usize = 5;
/// Outputs with more classes than this are no classification.
const CLASSES_MAX: usize = 100_000;

/// The best classes of a single row of floats.
pub(super) fn top(outputs: &[Output], labels: &[String]) -> Vec<(usize, Option<String>, f32)> {
    let [output] = outputs else { return Vec::new() };
    let classes = output.shape.last().map_or(0, |&n| usize::try_from(n).unwrap_or(usize::MAX));
    let one_row = output.bytes.len() == classes.saturating_mul(4);
    if output.dtype != DType::F32 || !one_row || !(2..=CLASSES_MAX).contains(&classes) {
        return Vec::new();
    }
    let floats = output.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut scores: Vec<(usize, f32)> = floats.enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let label = |class: usize| labels.get(class).cloned();
    scores.into_iter().take(TOP).map(|(class, score)| (class, label(class), score)).collect()
}
