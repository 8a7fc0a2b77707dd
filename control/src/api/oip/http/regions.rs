//! Shared memory.

use ferry_proto::oip::SystemSharedMemoryRegisterRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{self, Answer, Call};
use crate::api::oip::memory;
use crate::error::ApiError;

pub(super) async fn status(call: Call) -> Answer {
    let told = memory::status(&call.state().regions, call.tenant()?, call.name("region"))?;
    let mut all: Vec<_> = told.regions.into_values().collect();
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let one = |it: &ferry_proto::oip::system_shared_memory_status_response::RegionStatus| {
        json!({
            "name": it.name, "key": it.key, "offset": it.offset, "byte_size": it.byte_size,
        })
    };
    call::json(&all.iter().map(one).collect::<Vec<_>>())
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
    call.state().regions.unregister(call.tenant()?, call.name("region"));
    call::empty()
}

pub(super) async fn cuda_status(call: Call) -> Answer {
    match call.name("region") {
        "" => call::json(&Vec::<Value>::new()),
        name => Err(memory::no_cuda_region(name).into()),
    }
}

pub(super) async fn cuda_register(_call: Call) -> Answer {
    let why = tokio::task::spawn_blocking(memory::no_cuda).await;
    Err(why.unwrap_or_else(|error| ApiError::Internal(error.to_string())).into())
}

/// None is registered: each is forgotten already. Clients begin with this.
pub(super) async fn cuda_unregister(_call: Call) -> Answer {
    call::empty()
}
