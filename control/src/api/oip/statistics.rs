//! What models were asked, and how long that took: of every transport.

use ferry_proto::oip::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};

use super::offer::{not_served, version};
use crate::error::ApiError;
use crate::models::{Cache, CacheStats, Runs, State as ModelState};
use crate::state::State;

/// Of the models that serve: all, or those of a name and version.
///
/// # Errors
/// [`ApiError`] if none of that name and version serves.
pub(super) fn of(
    state: &State,
    name: &str,
    version: &str,
) -> Result<Vec<ModelStatistics>, ApiError> {
    let number = self::version(version)?;
    if name.is_empty() && number > 0 {
        let why = format!("{number} of no model in particular: give the name too, or neither");
        return Err(ApiError::field("version", why));
    }
    let listed = if name.is_empty() {
        state.models.list()
    } else {
        // One that is not there, or does not serve, says why.
        let found = state.models.get(name, number);
        found.map_err(|why| not_served(state, why.into()))?;
        state.models.versions(name, number)
    };
    Ok(listed.iter().filter_map(|it| one(&it.state)).collect())
}

fn one(state: &ModelState) -> Option<ModelStatistics> {
    let profile = state.profile()?;
    let counted = profile.counts.read();
    let all = &counted.all;
    let took = |ns| duration(all.requests, ns);
    let cache = match state {
        ModelState::Loaded(served) => served.cache.as_ref(),
        _ => None,
    };
    let CacheStats { hits, hit_ns, misses, miss_ns } = cache.map(Cache::stats).unwrap_or_default();
    Some(ModelStatistics {
        name: profile.name.clone(),
        version: profile.version.to_string(),
        last_inference: counted.last_unix_ns / 1_000_000,
        inference_count: all.items,
        execution_count: counted.runs,
        inference_stats: Some(InferStatistics {
            success: took(all.server_ns),
            fail: duration(counted.failed, counted.failed_ns),
            queue: took(all.queue_ns),
            compute_input: took(all.input_ns),
            compute_infer: took(all.infer_ns),
            compute_output: took(all.output_ns),
            cache_hit: duration(hits, hit_ns),
            cache_miss: duration(misses, miss_ns),
        }),
        batch_stats: counted.sizes.iter().map(of_batch).collect(),
        ..ModelStatistics::default()
    })
}

fn of_batch(runs: &Runs) -> InferBatchStatistics {
    let took = |ns| duration(runs.count, ns);
    InferBatchStatistics {
        batch_size: runs.rows,
        compute_input: took(runs.input_ns),
        compute_infer: took(runs.infer_ns),
        compute_output: took(runs.output_ns),
    }
}

fn duration(count: u64, ns: u64) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}
