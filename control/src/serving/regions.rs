//! Memory of this machine that clients registered under a name, to have tensors read from and
//! written to it: files of shared memory, and memory of a GPU.
//!
//! A client may cut such a file short at any time, and nothing can forbid it: only a memfd can be
//! sealed. Access through a mapping would then end this process. So a file is never mapped: the
//! kernel copies between it and a slot, and says how far it came. Memory of a GPU stays for as long
//! as it is open here, whatever its owner does, and a model on that GPU uses it in place.

mod device;
mod file;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::IpcHandle;
use ferry_memory::{DeviceAddress, Region};

use crate::error::ApiError;
use crate::tenants::Tenant;
use device::SharedDevice;
use file::SharedFile;

/// Longest name of a region, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Most regions of one tenant: two for each of many requests in flight. Each holds a descriptor, or
/// a mapping of a device.
const TENANT_MAX: usize = 256;

/// Most regions of all tenants together.
const ALL_MAX: usize = 1024;

/// The regions that are registered. A tenant knows its own, and nothing of those of others.
#[derive(Debug)]
pub struct Regions {
    /// Users whose files are taken; `None`: everybody's.
    uids: Option<Vec<u32>>,
    held: Mutex<Held>,
}

/// By tenant, then by name.
type Held = HashMap<String, BTreeMap<String, Arc<SharedRegion>>>;

/// What kind of memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of `/dev/shm`.
    System,
    /// Memory of a GPU.
    Cuda,
}

/// Memory of a client. It goes with the last request that uses it.
#[derive(Debug)]
pub struct SharedRegion {
    /// The name that it was given.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    File(SharedFile),
    Device(SharedDevice),
}

/// Which memory it is, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    File(u64, u64),
    Device(IpcHandle),
}

/// Where the memory of a region is, as its owner told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// In a file below `/dev/shm`.
    File {
        /// The file, as the client wrote it.
        key: &'a str,
        /// Where in it the region begins, in bytes.
        offset: u64,
    },
    /// On a GPU.
    Device {
        /// Its number in this process.
        ordinal: u32,
    },
}

/// A part of a region, which lies inside.
#[derive(Clone, Debug)]
pub struct RegionPart {
    region: Arc<SharedRegion>,
    /// From the region's beginning.
    at: u64,
    bytes: u64,
}

impl SharedRegion {
    /// Where its memory is.
    pub fn origin(&self) -> Origin<'_> {
        match &self.memory {
            Memory::File(file) => Origin::File { key: &file.key, offset: file.offset },
            Memory::Device(device) => Origin::Device { ordinal: device.ordinal() },
        }
    }

    fn kind(&self) -> Kind {
        match &self.memory {
            Memory::File(_) => Kind::System,
            Memory::Device(_) => Kind::Cuda,
        }
    }

    fn identity(&self) -> Identity {
        match &self.memory {
            Memory::File(SharedFile { identity: (device, inode), .. }) => {
                Identity::File(*device, *inode)
            }
            Memory::Device(device) => Identity::Device(device.handle),
        }
    }

    /// What it is called in an error that another tenant reads.
    fn told(&self) -> String {
        match &self.memory {
            Memory::File(file) => format!("{:?}", file.key),
            Memory::Device(_) => "what the handle names".to_owned(),
        }
    }
}

impl Kind {
    /// Of a region, in an error.
    fn noun(self) -> &'static str {
        match self {
            Kind::System => "shared memory region",
            Kind::Cuda => "CUDA shared memory region",
        }
    }
}

impl Regions {
    /// None yet. With `uids`, only files that belong to these users are taken.
    pub fn new(uids: Option<Vec<u32>>) -> Regions {
        Regions { uids, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers `bytes` bytes from `offset` on of the file that `key` names.
    ///
    /// # Errors
    /// [`ApiError::Field`] names what has no meaning; [`ApiError::Exists`], [`ApiError::NotFound`]
    /// and [`ApiError::Busy`] as they say.
    pub fn register(
        &self,
        tenant: &Tenant,
        name: &str,
        key: &str,
        offset: u64,
        bytes: u64,
    ) -> Result<(), ApiError> {
        check_name(name)?;
        let file = SharedFile::open(key, offset, bytes, self.uids.as_deref())?;
        self.hold(tenant, SharedRegion { name: name.to_owned(), bytes, memory: Memory::File(file) })
    }

    /// Registers the first `bytes` bytes of the memory of GPU `ordinal` that a handle of CUDA IPC
    /// names. Blocks while the GPU is asked, which may take a second the first time.
    ///
    /// # Errors
    /// As [`register`](Regions::register); [`ApiError::Unsupported`] where there is no such GPU.
    pub fn register_device(
        &self,
        tenant: &Tenant,
        name: &str,
        handle: &[u8],
        ordinal: i64,
        bytes: u64,
    ) -> Result<(), ApiError> {
        check_name(name)?;
        // What is refused anyway is not opened: opening takes memory of the device.
        check_room(&self.held(), tenant, name, bytes, None)?;
        let device = SharedDevice::open(handle, ordinal, bytes)?;
        let memory = Memory::Device(device);
        self.hold(tenant, SharedRegion { name: name.to_owned(), bytes, memory })
    }

    fn hold(&self, tenant: &Tenant, region: SharedRegion) -> Result<(), ApiError> {
        let mut held = self.held();
        check_room(&held, tenant, &region.name, region.bytes, Some(&region))?;
        let own = held.entry(tenant.name().to_owned()).or_default();
        own.insert(region.name.clone(), Arc::new(region));
        Ok(())
    }

    /// The tenant's regions of this kind: all, or the one with this name.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] if there is none with it.
    pub fn list(
        &self,
        tenant: &Tenant,
        kind: Kind,
        name: &str,
    ) -> Result<Vec<Arc<SharedRegion>>, ApiError> {
        if !name.is_empty() {
            return Ok(vec![self.find(tenant, Some(kind), name)?]);
        }
        let held = self.held();
        let own = held.get(tenant.name()).into_iter().flat_map(BTreeMap::values);
        Ok(own.filter(|region| region.kind() == kind).cloned().collect())
    }

    /// Forgets the tenant's regions of this kind: all, or the one with this name. Requests that use
    /// one keep it until they end. A name that is not there is forgotten already.
    pub fn unregister(&self, tenant: &Tenant, kind: Kind, name: &str) {
        let mut held = self.held();
        let Some(own) = held.get_mut(tenant.name()) else { return };
        let goes = |known: &String, region: &Arc<SharedRegion>| {
            region.kind() == kind && (name.is_empty() || known == name)
        };
        let gone: Vec<_> = own.extract_if(.., |known, region| goes(known, region)).collect();
        if own.is_empty() {
            held.remove(tenant.name());
        }
        drop(held);
        // Closing memory of a device takes a moment, for which nobody else waits.
        drop(gone);
    }

    /// `bytes` bytes of a region of the tenant, `at` bytes from its beginning.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or [`ApiError::Field`] if they do not lie inside.
    pub fn part(
        &self,
        tenant: &Tenant,
        name: &str,
        at: u64,
        bytes: u64,
    ) -> Result<RegionPart, ApiError> {
        let region = self.find(tenant, None, name)?;
        if at.checked_add(bytes).is_none_or(|end| end > region.bytes) {
            let why = format!("{bytes} bytes from {at} on; {name:?} has {} bytes", region.bytes);
            return Err(ApiError::field("shared_memory_byte_size", why));
        }
        Ok(RegionPart { region, at, bytes })
    }

    fn find(
        &self,
        tenant: &Tenant,
        kind: Option<Kind>,
        name: &str,
    ) -> Result<Arc<SharedRegion>, ApiError> {
        let held = self.held();
        let found = held.get(tenant.name()).and_then(|own| own.get(name));
        let found = found.filter(|it| kind.is_none_or(|kind| it.kind() == kind));
        found.cloned().ok_or_else(|| ApiError::NotFound {
            kind: kind.unwrap_or(Kind::System).noun(),
            name: format!("{name:?}"),
            hint: match kind {
                Some(Kind::Cuda) => "register it with CudaSharedMemoryRegister".into(),
                Some(Kind::System) => "register it with SystemSharedMemoryRegister".into(),
                None => {
                    "register it with SystemSharedMemoryRegister or CudaSharedMemoryRegister".into()
                }
            },
        })
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let why = format!("{} bytes; a name has 1 to {NAME_BYTES_MAX}", name.len());
        return Err(ApiError::field("name", why));
    }
    Ok(())
}

/// Whether the tenant may have a region of this name and length beside what is held; `region`, once
/// it is open.
fn check_room(
    held: &Held,
    tenant: &Tenant,
    name: &str,
    bytes: u64,
    region: Option<&SharedRegion>,
) -> Result<(), ApiError> {
    if let Some(region) = region {
        let others = held.iter().filter(|(name, _)| *name != tenant.name());
        // Else whoever guesses a key reads the tensors of another tenant.
        if others.flat_map(|(_, it)| it.values()).any(|it| it.identity() == region.identity()) {
            let field = match region.kind() {
                Kind::System => "key",
                Kind::Cuda => "raw_handle",
            };
            return Err(ApiError::field(
                field,
                format!("{} is another tenant's memory", region.told()),
            ));
        }
    }
    let all: usize = held.values().map(BTreeMap::len).sum();
    let own = held.get(tenant.name());
    if own.is_some_and(|own| own.contains_key(name)) {
        return Err(ApiError::Exists {
            kind: "shared memory region",
            name: format!("{name:?}"),
            hint: "unregister it first".into(),
        });
    }
    if own.map_or(0, BTreeMap::len) >= TENANT_MAX || all >= ALL_MAX {
        return Err(ApiError::Busy(format!(
            "a tenant has at most {TENANT_MAX} shared memory regions, and all together {ALL_MAX}: \
             unregister some"
        )));
    }
    let sizes = own.into_iter().flat_map(BTreeMap::values).map(|it| it.bytes);
    let wanted = sizes.fold(bytes, u64::saturating_add);
    let limit = tenant.quota().bytes;
    if wanted > limit {
        let tenant = tenant.name().to_owned();
        return Err(ApiError::Quota { tenant, quota: "bytes", limit, wanted });
    }
    Ok(())
}

impl RegionPart {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the region's beginning, in bytes.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The region's name.
    pub fn name(&self) -> &str {
        &self.region.name
    }

    /// Where a device has its first byte; `None` for memory of the host.
    pub fn device(&self) -> Option<DeviceAddress> {
        match &self.region.memory {
            Memory::File(_) => None,
            Memory::Device(device) => device.address(self.at),
        }
    }

    /// Its first `bytes` bytes as memory that stays open for as long as it is held; `None` for
    /// memory of the host, and where they do not lie inside.
    pub fn on_device(&self, bytes: u64) -> Option<Region> {
        match &self.region.memory {
            Memory::Device(device) if bytes <= self.bytes => device.region(self.at, bytes),
            _ => None,
        }
    }

    /// Copies its first bytes to `into`, which is no longer than it.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the file is shorter by now, or with what the device says.
    pub fn read(&self, into: &mut [u8]) -> Result<(), ApiError> {
        let read = match &self.region.memory {
            Memory::File(file) => file.read(self.at, into),
            Memory::Device(device) => device.read(self.at, into),
        };
        read.map_err(|why| self.lost("read", &why))
    }

    /// Copies `from`, which is no longer than it, to its beginning.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the file is shorter by now, or the system has no room for it, or with
    /// what the device says.
    pub fn write(&self, from: &[u8]) -> Result<(), ApiError> {
        let written = match &self.region.memory {
            Memory::File(file) => file.write(self.at, from),
            Memory::Device(device) => device.write(self.at, from),
        };
        written.map_err(|why| self.lost("written", &why))
    }

    fn lost(&self, what: &str, why: &str) -> ApiError {
        let why = format!("{:?} cannot be {what}: {why}", self.region.name);
        ApiError::field("shared_memory_region", why)
    }
}

#[cfg(test)]
mod tests;
