//! Memory that the clients of a crew share with the server.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use ferry_client::blocking::Client;
use ferry_core::signature::TENSOR_ALIGN_BYTES;
use ferry_proto::oip;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use rustix::fs::FallocateFlags;

use crate::Error;
use crate::oip::service;
use crate::oip::work::{OipWork, Parameters, parameter};

/// Where a server looks a key up: what `shm_open` does.
const FOLDER: &str = "/dev/shm";

/// How long the server may take to forget the region. If it does not, it is gone anyhow.
const UNREGISTER_WITHIN: Duration = Duration::from_secs(2);

/// One region of system shared memory, with a place for each request that can be in flight.
///
/// The server opens its file when the region is registered. From then on nobody needs the name,
/// which is taken away at once: whatever ends this process, nothing stays in `/dev/shm`.
#[derive(Debug)]
pub(crate) struct Region {
    file: File,
    name: String,
    /// Bytes of one place.
    stride: u64,
    client: Client,
}

/// A name in `/dev/shm`, which goes with this value.
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        // It may be gone already: then nothing is left to do.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Region {
    /// Makes a region for so many requests in flight and registers it.
    ///
    /// # Errors
    /// [`Error::Failed`] if there is not so much memory, [`Error::Call`] if the server refuses it.
    pub(crate) fn share(client: &Client, work: &OipWork, requests: u64) -> Result<Region, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ferry-bench-{}-{number}", std::process::id());
        let stride = stride(work);
        let bytes = stride.checked_mul(requests).context("more shared memory than can be named")?;
        let path = Path::new(FOLDER).join(&name);
        let making = || format!("make {} with {bytes} bytes", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).with_context(making)?;
        let named = Named(path.clone());
        // All of it now: memory that is short is an error here, and not in the middle of a round.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).with_context(making)?;
        let request = oip::SystemSharedMemoryRegisterRequest {
            name: name.clone(),
            key: format!("/{name}"),
            offset: 0,
            byte_size: bytes,
        };
        let mut service = service(client.control().channel());
        client.run(service.system_shared_memory_register(request))?;
        drop(named);
        Ok(Region { file, name, stride, client: client.clone() })
    }

    /// A request whose tensors lie in one place of the region.
    pub(crate) fn request(&self, work: &OipWork, place: u64) -> oip::ModelInferRequest {
        let mut at = place * self.stride;
        work.in_region(|bytes| {
            let parameters = self.part(at, bytes);
            at += bytes.next_multiple_of(TENSOR_ALIGN_BYTES);
            parameters
        })
    }

    fn part(&self, offset: u64, bytes: u64) -> Parameters {
        let region = ParameterChoice::StringParam(self.name.clone());
        let region = oip::InferParameter { parameter_choice: Some(region) };
        let all = [
            ("shared_memory_region", region),
            ("shared_memory_offset", parameter(offset)),
            ("shared_memory_byte_size", parameter(bytes)),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Puts the inputs into one place.
    pub(crate) fn fill(&self, work: &OipWork, place: u64) -> Result<(), Error> {
        let mut at = place * self.stride;
        for input in &work.source {
            self.file.write_all_at(input, at).context("write to shared memory")?;
            at += (input.len() as u64).next_multiple_of(TENSOR_ALIGN_BYTES);
        }
        Ok(())
    }

    /// Whether one place has the outputs that came in a message, to the bit.
    pub(crate) fn has_outputs(&self, work: &OipWork, place: u64) -> Result<bool, Error> {
        let mut at = place * self.stride + padded(work.source.iter().map(Vec::len));
        for output in &work.outputs {
            let mut found = vec![0; output.bytes.len()];
            self.file.read_exact_at(&mut found, at).context("read shared memory")?;
            if found != output.bytes {
                return Ok(false);
            }
            at += (found.len() as u64).next_multiple_of(TENSOR_ALIGN_BYTES);
        }
        Ok(true)
    }
}

/// Bytes of tensors one behind the other, each at a cache line.
fn padded(lengths: impl Iterator<Item = usize>) -> u64 {
    lengths.map(|len| (len as u64).next_multiple_of(TENSOR_ALIGN_BYTES)).sum()
}

/// Bytes of all tensors of a request, in whole pages.
fn stride(work: &OipWork) -> u64 {
    let inputs = padded(work.source.iter().map(Vec::len));
    let outputs = padded(work.outputs.iter().map(|output| output.bytes.len()));
    (inputs + outputs).next_multiple_of(4096).max(4096)
}

impl Drop for Region {
    fn drop(&mut self) {
        let request = oip::SystemSharedMemoryUnregisterRequest { name: self.name.clone() };
        let mut service = service(self.client.control().channel());
        let forgotten = self.client.run(async {
            let call = service.system_shared_memory_unregister(request);
            tokio::time::timeout(UNREGISTER_WITHIN, call).await
        });
        if !matches!(forgotten, Ok(Ok(_))) {
            tracing::debug!(region = self.name, "the server did not say that it forgot the region");
        }
    }
}
