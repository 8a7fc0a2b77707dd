//! Shared memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use ferry_proto::oip::{CudaSharedMemoryRegisterRequest, SystemSharedMemoryRegisterRequest};
use prost::Name;
use serde::Deserialize;

use super::call::{self, Answer, Call};
use super::reflected;
use crate::api::oip::memory;
use crate::error::ApiError;
use crate::serving::regions::Kind;

/// Regions as JSON: a list, by their names.
fn told<M: Name>(regions: HashMap<String, M>) -> Answer {
    let by_name: BTreeMap<_, _> = regions.into_iter().collect();
    let all = by_name.values().map(reflected::json).collect::<Result<Vec<_>, _>>()?;
    call::json(&all)
}

pub(super) async fn status(call: Call) -> Answer {
    told(memory::status(&call.state().regions, call.tenant()?, call.name("region"))?.regions)
}

/// A region that is to be registered.
#[derive(Debug, Deserialize)]
struct Region {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

pub(super) async fn register(call: Call) -> Answer {
    let tenant = call.tenant()?;
    call.state().takes_new()?;
    memory::check_peer(call.caller.peer.as_deref())?;
    let Region { key, offset, byte_size } = call.json()?;
    let name = call.name("region").to_owned();
    let asked = SystemSharedMemoryRegisterRequest { name, key, offset, byte_size };
    memory::register(&call.state().regions, tenant, &asked)?;
    call::empty()
}

pub(super) async fn unregister(call: Call) -> Answer {
    call.state().regions.unregister(call.tenant()?, Kind::System, call.name("region"));
    call::empty()
}

pub(super) async fn cuda_status(call: Call) -> Answer {
    told(memory::cuda_status(&call.state().regions, call.tenant()?, call.name("region"))?.regions)
}

/// A region on a GPU that is to be registered.
#[derive(Debug, Deserialize)]
struct CudaRegion {
    raw_handle: Handle,
    device_id: i64,
    byte_size: u64,
}

#[derive(Debug, Deserialize)]
struct Handle {
    b64: String,
}

pub(super) async fn cuda_register(call: Call) -> Answer {
    let tenant = Arc::clone(call.tenant()?);
    call.state().takes_new()?;
    memory::check_peer(call.caller.peer.as_deref())?;
    let CudaRegion { raw_handle: Handle { b64 }, device_id, byte_size } = call.json()?;
    let raw_handle = BASE64.decode(b64).map_err(|why| {
        ApiError::field("raw_handle", format!("b64 is not what base64 makes: {why}"))
    })?;
    let (name, raw_handle) = (call.name("region").to_owned(), raw_handle.into());
    let asked = CudaSharedMemoryRegisterRequest { name, raw_handle, device_id, byte_size };
    memory::cuda_register(call.state(), tenant, asked).await?;
    call::empty()
}

pub(super) async fn cuda_unregister(call: Call) -> Answer {
    let tenant = Arc::clone(call.tenant()?);
    memory::cuda_unregister(call.state(), tenant, call.name("region").to_owned()).await?;
    call::empty()
}
