//! Requests that a model answers before it serves: what is slow once is slow for nobody.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::session::SLOTS_MAX;
use ferry_core::{
    BoundSignature, BoundTensor, DType, Generation, MemoryChoice, Request, RequestKind, SessionId,
    SlotLayout, Status, error_text, payload_bytes,
};
use ferry_engine::{FileBytes, FileDigest, RUN_AT_MOST, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot, SlotTable};

use super::Served;

/// Most kinds of such requests of one model, and how often each may be sent: a load waits for all.
pub(super) const WARMUPS_MAX: usize = 64;
const COUNT_MAX: u64 = 1000;

/// Largest file of data that is read, in bytes: a batch of 64 pictures of 520 x 520 x 3 as FP32.
const DATA_BYTES_MAX: u64 = 256 << 20;

/// How long an answer may take beyond the longest run.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for the reason of a failure.
const REPLY_BYTES_MIN: u64 = 1024;

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// For people.
    pub name: String,
    /// How often each instance is sent it.
    pub count: u64,
    /// Its inputs; those that are not here are zeros.
    pub inputs: Vec<WarmupInput>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupInput {
    /// Its name.
    pub name: String,
    /// Its type, where that is said.
    pub dtype: Option<DType>,
    /// Its shape; `None` where the model's file fixes it.
    pub shape: Option<Vec<u64>>,
    /// What is in it.
    pub filling: Filling,
}

/// What is in an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Zeros.
    Zero,
    /// Floats from 0 to 1; integers are 0 or 1, since they may be indices.
    Random,
    /// The bytes of a file.
    Bytes(Arc<[u8]>),
}

impl Filling {
    /// Reads a file of `folder`.
    ///
    /// # Errors
    /// A text that says what cannot be read.
    pub(super) fn read(
        folder: &Path,
        name: &str,
        files: &mut Vec<FileDigest>,
    ) -> Result<Filling, String> {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(format!("file {name:?}: name one in the same folder"));
        }
        let read = FileBytes::read(&folder.join(name), DATA_BYTES_MAX);
        let FileBytes { bytes, digest, .. } = read.map_err(|error| error_text(&error))?;
        files.push(digest);
        Ok(Filling::Bytes(bytes.into()))
    }

    /// Fills a tensor.
    fn fill(&self, into: &mut [u8], tensor: &BoundTensor) -> Result<(), String> {
        match self {
            Filling::Zero => into.fill(0),
            Filling::Random => random(into, tensor.dtype),
            Filling::Bytes(bytes) if bytes.len() == into.len() => into.copy_from_slice(bytes),
            Filling::Bytes(bytes) => {
                let (has, wants) = (bytes.len(), into.len());
                return Err(format!(
                    "{:?} takes {wants} bytes, and its file has {has}",
                    tensor.name
                ));
            }
        }
        Ok(())
    }
}

/// The same numbers at each load.
fn random(into: &mut [u8], dtype: DType) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        // The xorshift generator of Marsaglia (2003) with his numbers 13, 7, 17.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let size = usize::try_from(dtype.bytes()).unwrap_or(1);
    for element in into.chunks_exact_mut(size) {
        // 24 bits are a whole number to an f32.
        let bits = u16::try_from(next() >> 48).unwrap_or(0);
        let float = f32::from(bits) / f32::from(u16::MAX);
        match dtype {
            DType::F16 => element.copy_from_slice(&half::f16::from_f32(float).to_ne_bytes()),
            DType::Bf16 => element.copy_from_slice(&half::bf16::from_f32(float).to_ne_bytes()),
            DType::F32 => element.copy_from_slice(&float.to_ne_bytes()),
            DType::F64 => element.copy_from_slice(&f64::from(float).to_ne_bytes()),
            _ => {
                element.fill(0);
                if let Some(low) = element.first_mut().filter(|_| cfg!(target_endian = "little")) {
                    *low = u8::from(bits & 1 == 1);
                }
            }
        }
    }
}

impl Warmup {
    /// Checks its bounds.
    ///
    /// # Errors
    /// A text with the bound.
    pub(super) fn new(
        name: String,
        count: u64,
        inputs: Vec<WarmupInput>,
    ) -> Result<Warmup, String> {
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(format!("count = {count}; allowed are 1 to {COUNT_MAX}"));
        }
        Ok(Warmup { name, count, inputs })
    }

    /// Sends it to each instance, `count` times, and waits for the answers.
    fn run(&self, served: &Served) -> Result<(), String> {
        let signature = served.signature();
        for input in &self.inputs {
            let spec = signature.inputs.iter().find(|spec| spec.name == input.name);
            let spec = spec.ok_or_else(|| format!("the model has no input {:?}", input.name))?;
            if let Some(dtype) = input.dtype.filter(|it| *it != spec.dtype) {
                let (name, there) = (&input.name, spec.dtype);
                return Err(format!("input {name:?} is {dtype}, and the model takes {there}"));
            }
        }
        let shape = |it: &WarmupInput| Some((it.name.clone(), it.shape.clone()?));
        let shapes: Vec<_> = self.inputs.iter().filter_map(shape).collect();
        let binding = Arc::new(served.bind(&shapes).map_err(|error| error_text(&error))?);
        let reply = served.reply_room(&binding, &[], 0).map_err(|error| error_text(&error))?;
        let at_once = served.metadata.instances.min(served.metadata.queue.max).max(1);
        let layout = SlotLayout {
            slots: u32::try_from(at_once).unwrap_or(SLOTS_MAX).min(SLOTS_MAX),
            request_bytes: binding.request_bytes(),
            reply_bytes: reply.max(REPLY_BYTES_MIN),
        };
        for _ in 0..self.count {
            let table = SlotTable::private(layout).map_err(|error| error_text(&error))?;
            let answers = Arc::new(Answers::default());
            let mut sent = 0;
            while let Some(mut slot) = table.acquire() {
                self.fill(&mut slot, &binding)?;
                send(served, &binding, slot, &answers);
                sent += 1;
            }
            let longest = served.metadata.run_at_most.unwrap_or(RUN_AT_MOST);
            for departure in answers.wait(sent, longest + PATIENCE)? {
                learn(served, &binding, &departure)?;
            }
        }
        Ok(())
    }

    fn fill(&self, slot: &mut Slot, binding: &BoundSignature) -> Result<(), String> {
        let bytes = slot.request_bytes_mut().ok_or("a slot that is not this process's own")?;
        for tensor in &binding.inputs {
            let from = usize::try_from(tensor.offset).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(tensor.bytes).unwrap_or(usize::MAX));
            let into = bytes.get_mut(from..to).ok_or("a slot that is too short")?;
            let filling = self.inputs.iter().find(|input| input.name == tensor.name);
            filling.map_or(&Filling::Zero, |input| &input.filling).fill(into, tensor)?;
        }
        Ok(())
    }
}

/// Sends `served` everything that it is to be warmed up with.
///
/// # Errors
/// A text with the request that was not answered, and why.
pub(super) fn run(warmups: &[Warmup], served: &Served) -> Result<(), String> {
    for warmup in warmups {
        let begun = Instant::now();
        warmup.run(served).map_err(|why| format!("warmup {:?}: {why}", warmup.name))?;
        let (model, name) = (served.label(), &warmup.name);
        tracing::info!(model, name, took_ms = begun.elapsed().as_millis(), "warmed up");
    }
    Ok(())
}

fn send(served: &Served, binding: &Arc<BoundSignature>, slot: Slot, answers: &Arc<Answers>) {
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(0),
        session: SessionId(0),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: usize::try_from(binding.request_bytes()).unwrap_or(usize::MAX),
        slot,
        seen: now,
        visible: now,
    };
    let reply_to = Arc::clone(answers) as Arc<dyn ReplyTo>;
    let (binding, memory) = (Arc::clone(binding), MemoryChoice::Auto);
    let work = Work { arrival, binding, memory, reply_to, deadline: None };
    if let Some(departure) = served.pool.dispatch(work) {
        answers.depart(departure);
    }
}

/// What an answer tells of the room that answers need.
fn learn(served: &Served, binding: &BoundSignature, departure: &Departure) -> Result<(), String> {
    let outputs = departure.outputs.as_deref();
    let bytes = outputs.and_then(|it| binding.parts(it)).map(|it| payload_bytes(&it));
    match departure.status {
        Status::Ok | Status::ReplyTooLarge => {
            if let Some(bytes) = bytes {
                served.rooms.learn(binding, bytes);
            }
            Ok(())
        }
        status => {
            let text = departure.slot.reply_bytes().unwrap_or_default();
            let text = text.get(..departure.payload_bytes).unwrap_or_default();
            Err(format!("{status}: {}", String::from_utf8_lossy(text)))
        }
    }
}

/// The answers that came.
#[derive(Debug, Default)]
struct Answers(Mutex<Vec<Departure>>, Condvar);

impl ReplyTo for Answers {
    fn depart(&self, departure: Departure) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(departure);
        self.1.notify_all();
    }
}

impl Answers {
    fn wait(&self, sent: usize, longest: Duration) -> Result<Vec<Departure>, String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, _) = self
            .1
            .wait_timeout_while(all, longest, |all| all.len() < sent)
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() < sent {
            return Err(format!("no answer within {} s", longest.as_secs_f64()));
        }
        Ok(std::mem::take(&mut all))
    }
}
