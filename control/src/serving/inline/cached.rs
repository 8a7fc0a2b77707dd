//! Answers that are kept for whoever asks the same again.

use std::time::Instant;

use ferry_core::{BoundSignature, BoundTensor, RequestKind};
use ferry_memory::{Arrival, Departure};
use sha2::{Digest, Sha256};

use crate::models::{Cache, CacheKey, Cached};
use crate::tenants::Tenant;

/// A request to a model whose answers are kept.
pub(super) struct Asked<'a> {
    cache: &'a Cache,
    key: CacheKey,
}

impl<'a> Asked<'a> {
    /// The request that lies in its slot, whose bytes nobody else can change, and its answer if that
    /// is there. Nothing of a tenant is ever found by another: how long an answer takes would tell
    /// who else asked.
    pub(super) fn look_up(
        cache: &'a Cache,
        tenant: &Tenant,
        binding: &BoundSignature,
        arrival: &Arrival,
    ) -> Option<(Asked<'a>, Option<Cached>)> {
        let start = Instant::now();
        let payload = arrival.slot.request_bytes()?.get(..arrival.payload_bytes)?;
        let mut hash = Sha256::new();
        // Each part behind its length, so that no two requests are one row of bytes.
        part(&mut hash, tenant.name().as_bytes());
        part(&mut hash, &kind(arrival.what.kind));
        shapes(&mut hash, &binding.inputs);
        shapes(&mut hash, &binding.outputs);
        part(&mut hash, payload);
        let asked = Asked { cache, key: hash.finalize().into() };
        let found = cache.get(&asked.key);
        match &found {
            Some(_) => cache.note_hit(start.elapsed()),
            None => cache.note_miss(start.elapsed()),
        }
        Some((asked, found))
    }

    /// Keeps the answer, which lies in its slot.
    pub(super) fn keep(&self, departure: &Departure) {
        let start = Instant::now();
        let bytes = departure.slot.reply_bytes();
        let Some(bytes) = bytes.and_then(|all| all.get(..departure.payload_bytes)) else { return };
        let shapes = departure.outputs.clone();
        self.cache.put(self.key, Cached { payload: bytes.to_vec().into(), shapes });
        self.cache.note_kept(start.elapsed());
    }
}

fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn shapes(hash: &mut Sha256, tensors: &[BoundTensor]) {
    hash.update((tensors.len() as u64).to_le_bytes());
    for tensor in tensors {
        hash.update((tensor.shape.len() as u64).to_le_bytes());
        tensor.shape.iter().for_each(|size| hash.update(size.to_le_bytes()));
    }
}

/// What the payload is, and so how it becomes the model's input.
fn kind(kind: RequestKind) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[0] = kind.name() as u8;
    if let RequestKind::Raw { width, height, format } = kind {
        bytes[1] = format as u8;
        bytes[2..6].copy_from_slice(&width.to_le_bytes());
        bytes[6..].copy_from_slice(&height.to_le_bytes());
    }
    bytes
}
