//! Shared memory of this machine that clients registered under a name, to have tensors read from
//! and written to it.
//!
//! A client may cut such a file short at any time, and nothing can forbid it: only a memfd can be
//! sealed. Access through a mapping would then end this process. So a region is never mapped: the
//! kernel copies between its file and a slot, and says how far it came.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use crate::error::ApiError;
use crate::tenants::Tenant;

/// Where keys are looked up: what `shm_open` does.
const FOLDER: &str = "/dev/shm";

/// Longest key without its slash, in bytes: that of a file's name.
const KEY_BYTES_MAX: usize = 255;

/// Longest name of a region, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Most regions of one tenant: two for each of many requests in flight. Each holds a descriptor.
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

/// A part of a file of shared memory. It goes with the last request that uses it.
#[derive(Debug)]
pub struct SharedRegion {
    /// The name that it was given.
    pub name: String,
    /// Its file below `/dev/shm`, as the client wrote it.
    pub key: String,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    file: File,
    /// Device and inode: which file it is, whatever it is called.
    identity: (u64, u64),
}

/// A part of a region, which lies inside.
#[derive(Clone, Debug)]
pub struct RegionPart {
    region: Arc<SharedRegion>,
    /// From the region's beginning.
    at: u64,
    bytes: u64,
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
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let why = format!("{} bytes; a name has 1 to {NAME_BYTES_MAX}", name.len());
            return Err(ApiError::field("name", why));
        }
        let (file, stat) = open_key(key)?;
        check_owner(self.uids.as_deref(), key, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > size) {
            let why = format!("{bytes} bytes from {offset} on; {key:?} has {size} bytes");
            return Err(ApiError::field("byte_size", why));
        }
        let (name, key) = (name.to_owned(), key.to_owned());
        let identity = (stat.st_dev, stat.st_ino);
        let region = Arc::new(SharedRegion { name, key, offset, bytes, file, identity });
        let mut held = self.held();
        check_room(&held, tenant, &region)?;
        let own = held.entry(tenant.name().to_owned()).or_default();
        own.insert(region.name.clone(), region);
        Ok(())
    }

    /// The tenant's regions: all, or the one with this name.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] if there is none with it.
    pub fn list(&self, tenant: &Tenant, name: &str) -> Result<Vec<Arc<SharedRegion>>, ApiError> {
        if !name.is_empty() {
            return Ok(vec![self.find(tenant, name)?]);
        }
        let held = self.held();
        Ok(held.get(tenant.name()).into_iter().flat_map(|own| own.values().cloned()).collect())
    }

    /// Forgets the tenant's regions: all, or the one with this name. Requests that use one keep it
    /// until they end. A name that is not there is forgotten already.
    pub fn unregister(&self, tenant: &Tenant, name: &str) {
        let mut held = self.held();
        let Some(own) = held.get_mut(tenant.name()) else { return };
        own.retain(|known, _| !name.is_empty() && known != name);
        if own.is_empty() {
            held.remove(tenant.name());
        }
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
        let region = self.find(tenant, name)?;
        if at.checked_add(bytes).is_none_or(|end| end > region.bytes) {
            let why = format!("{bytes} bytes from {at} on; {name:?} has {} bytes", region.bytes);
            return Err(ApiError::field("shared_memory_byte_size", why));
        }
        Ok(RegionPart { region, at, bytes })
    }

    fn find(&self, tenant: &Tenant, name: &str) -> Result<Arc<SharedRegion>, ApiError> {
        let held = self.held();
        let own = held.get(tenant.name());
        own.and_then(|own| own.get(name)).cloned().ok_or_else(|| ApiError::NotFound {
            kind: "shared memory region",
            name: format!("{name:?}"),
            hint: "register it with SystemSharedMemoryRegister".into(),
        })
    }
}

/// The file that a key names, and what it is.
fn open_key(key: &str) -> Result<(File, Stat), ApiError> {
    let name = key.strip_prefix('/').unwrap_or(key);
    let is_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    if !is_name || name.len() > KEY_BYTES_MAX {
        let why = format!(
            "{key:?} names no file right below {FOLDER}: 1 to {KEY_BYTES_MAX} bytes behind one \
             slash or none, without another slash or a NUL"
        );
        return Err(ApiError::field("key", why));
    }
    let refused = |why: std::io::Error| {
        ApiError::field("key", format!("{FOLDER}/{name} cannot be opened: {why}"))
    };
    // A link leads elsewhere, and what is no regular file may block whoever opens it.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = open(format!("{FOLDER}/{name}"), flags, Mode::empty());
    let file = file.map_err(|why| refused(why.into()))?;
    let stat = fstat(&file).map_err(|why| refused(why.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ApiError::field("key", format!("{FOLDER}/{name} is no regular file")));
    }
    Ok((File::from(file), stat))
}

fn check_owner(uids: Option<&[u32]>, key: &str, stat: &Stat) -> Result<(), ApiError> {
    if uids.is_none_or(|uids| uids.contains(&stat.st_uid)) {
        return Ok(());
    }
    let why = format!("{key:?} belongs to user {}, who is not in shm-uids", stat.st_uid);
    Err(ApiError::field("key", why))
}

/// Whether the tenant may have this region beside what is held.
fn check_room(held: &Held, tenant: &Tenant, region: &SharedRegion) -> Result<(), ApiError> {
    let others = held.iter().filter(|(name, _)| *name != tenant.name());
    // Else whoever guesses a key reads the tensors of another tenant.
    if others.flat_map(|(_, it)| it.values()).any(|it| it.identity == region.identity) {
        let why = format!("{:?} is another tenant's memory", region.key);
        return Err(ApiError::field("key", why));
    }
    let all: usize = held.values().map(BTreeMap::len).sum();
    let own = held.get(tenant.name());
    if own.is_some_and(|own| own.contains_key(&region.name)) {
        return Err(ApiError::Exists {
            kind: "shared memory region",
            name: format!("{:?}", region.name),
            hint: "unregister it first".into(),
        });
    }
    if own.map_or(0, BTreeMap::len) >= TENANT_MAX || all >= ALL_MAX {
        return Err(ApiError::Busy(format!(
            "a tenant has at most {TENANT_MAX} shared memory regions, and all together {ALL_MAX}: \
             unregister some"
        )));
    }
    let bytes = own.into_iter().flat_map(BTreeMap::values).map(|it| it.bytes);
    let wanted = bytes.fold(region.bytes, u64::saturating_add);
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

    /// Copies its first bytes to `into`, which is no longer than it.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the file is shorter by now.
    pub fn read(&self, into: &mut [u8]) -> Result<(), ApiError> {
        let read = self.region.file.read_exact_at(into, self.region.offset + self.at);
        read.map_err(|why| self.lost("read", &why))
    }

    /// Copies `from`, which is no longer than it, to its beginning.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the file is shorter by now, or the system has no room for it.
    pub fn write(&self, from: &[u8]) -> Result<(), ApiError> {
        let file = &self.region.file;
        let at = self.region.offset + self.at;
        let size = fstat(file).map_err(|why| self.lost("written", &why.into()))?.st_size;
        // Writing behind the end of a file makes it longer.
        if u64::try_from(size).unwrap_or_default() < at.saturating_add(from.len() as u64) {
            let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(self.lost("written", &cut));
        }
        file.write_all_at(from, at).map_err(|why| self.lost("written", &why))
    }

    fn lost(&self, what: &str, why: &std::io::Error) -> ApiError {
        let why = match why.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                "its file was cut short after it was registered".to_owned()
            }
            _ => why.to_string(),
        };
        let why = format!("{:?} cannot be {what}: {why}", self.region.name);
        ApiError::field("shared_memory_region", why)
    }
}

#[cfg(test)]
mod tests;
