//! Timings, to the wire and back.

use std::num::NonZeroU32;

use bytes::Bytes;
use ferry_core::stage::SERVER_STAGES;
use ferry_core::{KindName, RequestRecord, SessionId, Stage, StageTimes, Staged, Status};

use crate::error::WireError;
use crate::model::{trace_from_wire, trace_to_wire};
use crate::v1;

/// Most rows of one batch: bounds what a reader has to hold.
pub const BATCH_ROWS_MAX: usize = 16 * 1024;

/// A duration plus one, so that 0 says that there is none.
fn to_wire(ns: Option<u64>) -> u64 {
    ns.map_or(0, |ns| ns.saturating_add(1))
}

fn from_wire(number: u64) -> Option<u64> {
    number.checked_sub(1)
}

/// The durations of a reply.
pub fn server_times_to_wire(times: &StageTimes) -> Vec<u64> {
    SERVER_STAGES.iter().map(|&stage| to_wire(times.of(stage))).collect()
}

/// How many rows the batch had that the request ran in together with others; 0 where it ran alone.
pub fn batch_rows_to_wire(times: &StageTimes) -> u32 {
    times.batch_rows().map_or(0, NonZeroU32::get)
}

/// The durations of a reply.
///
/// # Errors
/// [`WireError`] if there are not as many as stages travel.
pub fn server_times_from_wire(numbers: &[u64]) -> Result<StageTimes, WireError> {
    if numbers.len() != SERVER_STAGES.len() {
        let why = format!("{} durations, expected {}", numbers.len(), SERVER_STAGES.len());
        return Err(WireError::invalid("server_times", why));
    }
    let mut times = StageTimes::NONE;
    for (&stage, &number) in SERVER_STAGES.iter().zip(numbers) {
        times.put(stage, from_wire(number));
    }
    Ok(times)
}

/// All stages of one request, as in `TimingBatch.stages`.
pub fn stages_to_wire(times: &StageTimes) -> Vec<u64> {
    Stage::ALL.iter().map(|&stage| to_wire(times.of(stage))).collect()
}

/// All stages of one request.
///
/// # Errors
/// [`WireError`] if there are not as many as there are stages.
pub fn stages_from_wire(numbers: &[u64]) -> Result<StageTimes, WireError> {
    if numbers.len() != Stage::COUNT {
        let why = format!("{} durations, expected {}", numbers.len(), Stage::COUNT);
        return Err(WireError::invalid("stages", why));
    }
    let mut times = StageTimes::NONE;
    for (&stage, &number) in Stage::ALL.iter().zip(numbers) {
        times.put(stage, from_wire(number));
    }
    Ok(times)
}

/// Adds one row to a batch. Its session and run are the batch's.
pub fn append_row(batch: &mut v1::TimingBatch, record: &RequestRecord) {
    batch.request.push(record.request);
    batch.started_unix_ns.push(record.started_unix_ns);
    batch.kind.push(record.kind as u32);
    batch.batch.push(record.batch);
    batch.priority.push(u32::from(record.priority));
    batch.bytes_in.push(record.bytes_in);
    batch.bytes_out.push(record.bytes_out);
    batch.status.push(u32::from(record.status.to_wire()));
    batch.stages.extend(Stage::ALL.iter().map(|&stage| to_wire(record.times.of(stage))));
    batch.staged.push(record.times.staged().map_or(0, staged_to_wire));
    batch.batch_rows.push(batch_rows_to_wire(&record.times));
    if !record.trace.is_none() {
        // Those before it were in none.
        batch.trace_id.resize(batch.request.len() - 1, Bytes::new());
    }
    if !batch.trace_id.is_empty() || !record.trace.is_none() {
        batch.trace_id.push(trace_to_wire(record.trace));
    }
}

fn staged_to_wire(staged: Staged) -> u32 {
    u32::from(u16::from_le_bytes(staged.to_wire()))
}

fn staged_from_wire(number: u32) -> Result<Option<Staged>, WireError> {
    if number == 0 {
        return Ok(None);
    }
    let pair = u16::try_from(number).ok().map(u16::to_le_bytes);
    let staged = pair.and_then(Staged::from_wire);
    staged.map(Some).ok_or_else(|| WireError::invalid("staged", format!("{number} has no meaning")))
}

/// The rows of a batch, checked.
///
/// # Errors
/// [`WireError`] if columns differ in length, there are too many rows, or a number has no meaning.
pub fn rows(batch: &v1::TimingBatch) -> Result<Vec<RequestRecord>, WireError> {
    let session = batch.session.as_ref().ok_or(WireError::Missing("session"))?;
    let session = SessionId(session.session_id);
    let count = batch.request.len();
    let columns = [
        batch.started_unix_ns.len(),
        batch.kind.len(),
        batch.batch.len(),
        batch.priority.len(),
        batch.bytes_in.len(),
        batch.bytes_out.len(),
        batch.status.len(),
        batch.staged.len(),
        batch.batch_rows.len(),
    ];
    let same = columns.iter().all(|&len| len == count);
    let traced = batch.trace_id.is_empty() || batch.trace_id.len() == count;
    if !same || !traced || batch.stages.len() != count.saturating_mul(Stage::COUNT) {
        return Err(WireError::invalid("timings", "columns differ in length"));
    }
    if count > BATCH_ROWS_MAX {
        let why = format!("{count} rows, a batch has at most {BATCH_ROWS_MAX}");
        return Err(WireError::invalid("timings", why));
    }
    (0..count).map(|i| row(batch, session, i)).collect()
}

fn row(batch: &v1::TimingBatch, session: SessionId, i: usize) -> Result<RequestRecord, WireError> {
    let small =
        |field, number: u32| u8::try_from(number).map_err(|why| WireError::invalid(field, why));
    let kind = small("kind", batch.kind[i])?;
    let status = u16::try_from(batch.status[i]).ok().and_then(Status::from_wire);
    let mut times = stages_from_wire(&batch.stages[i * Stage::COUNT..(i + 1) * Stage::COUNT])?;
    times.set_staged(staged_from_wire(batch.staged[i])?);
    times.set_batch_rows(NonZeroU32::new(batch.batch_rows[i]));
    Ok(RequestRecord {
        run: batch.run_id,
        session,
        request: batch.request[i],
        started_unix_ns: batch.started_unix_ns[i],
        kind: KindName::from_wire(kind)
            .ok_or_else(|| WireError::invalid("kind", format!("{kind} has no meaning")))?,
        batch: batch.batch[i],
        priority: small("priority", batch.priority[i])?,
        bytes_in: batch.bytes_in[i],
        bytes_out: batch.bytes_out[i],
        status: status.ok_or_else(|| WireError::invalid("status", "has no meaning"))?,
        trace: trace_from_wire(batch.trace_id.get(i).map_or(&[], |id| &id[..]))?,
        times,
    })
}

#[cfg(test)]
mod tests {
    use ferry_core::{HostMemory, TraceId, Why};

    use super::*;

    fn record(request: u64) -> RequestRecord {
        let mut times = StageTimes::NONE;
        times.set(Stage::Infer, 0);
        times.set(Stage::Total, u64::MAX);
        times.set_staged(Some(Staged { memory: HostMemory::Mapped, why: Why::Idle }));
        times.set_batch_rows(NonZeroU32::new(8));
        RequestRecord {
            run: 7,
            session: SessionId(9),
            request,
            started_unix_ns: 3,
            kind: KindName::Jpeg,
            batch: 1,
            priority: 2,
            bytes_in: 4,
            bytes_out: 5,
            status: Status::Overloaded,
            trace: TraceId::NONE,
            times,
        }
    }

    fn batch(records: &[RequestRecord]) -> v1::TimingBatch {
        let session = v1::SessionRef { session_id: 9, ..Default::default() };
        let mut batch = v1::TimingBatch { session: Some(session), run_id: 7, ..Default::default() };
        records.iter().for_each(|record| append_row(&mut batch, record));
        batch
    }

    #[test]
    fn rows_come_back_as_they_went() {
        let records = [record(1), record(2)];
        assert_eq!(rows(&batch(&records)), Ok(records.to_vec()));
        assert!(batch(&records).trace_id.is_empty(), "no column for what nobody has");
        let traced = RequestRecord { trace: TraceId([7; 16]), ..record(3) };
        let records = [record(1), record(2), traced, record(4)];
        assert_eq!(rows(&batch(&records)), Ok(records.to_vec()));
    }

    #[test]
    fn ragged_or_senseless_batches_are_refused() {
        let mut ragged = batch(&[record(1)]);
        ragged.bytes_in.clear();
        assert!(rows(&ragged).is_err());
        let mut short = batch(&[record(1)]);
        short.stages.pop();
        assert!(rows(&short).is_err());
        let mut traces = batch(&[record(1), record(2)]);
        traces.trace_id.push(Bytes::from_static(&[7; 16]));
        assert!(rows(&traces).is_err(), "one trace for two rows");
        traces.trace_id.push(Bytes::from_static(&[7; 15]));
        assert!(rows(&traces).is_err(), "fifteen bytes");
        let mut senseless = batch(&[record(1)]);
        senseless.status[0] = 999;
        assert!(rows(&senseless).is_err());
    }
}
