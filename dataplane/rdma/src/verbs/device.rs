//! Devices and their ports.

mod event;

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use crate::verbs::sys;

use super::{VerbsError, never_blocks};
pub use event::DeviceEvent;
use event::read_event;

/// An opened device. Shared by everything made on it.
#[derive(Debug)]
pub struct Device {
    context: NonNull<sys::ibv_context>,
    name: String,
    /// What stands for it in the system's tables, and its number there.
    entry: Option<(PathBuf, u64)>,
}

// SAFETY: libibverbs allows its contexts to be used from any thread (ibv_open_device(3) and the
// library's own locks); this value only ever hands the pointer to the library.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// What a device can do, as far as this crate asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Firmware version; empty for software devices.
    pub firmware: String,
    /// Ports, numbered from 1.
    pub ports: u8,
    /// Most entries of one completion queue.
    pub completions_max: u32,
    /// Most work requests of one queue.
    pub work_requests_max: u32,
    /// Most queue pairs.
    pub queue_pairs_max: u32,
    /// Most registrations.
    pub registrations_max: u32,
    /// Most memory windows; 0 if the device has none.
    pub windows_max: u32,
    /// Windows of type 2B: bound by a work request, and good for one queue pair only.
    pub windows_2b: bool,
    /// Most reads and atomics that a queue pair serves at once.
    pub rd_atomic_max: u8,
}

/// What a port's frames travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// Local identifiers, a subnet manager.
    InfiniBand,
    /// RoCE: always a global route.
    Ethernet,
    /// Something else.
    Other(u8),
}

/// What a port is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Ready to carry.
    pub active: bool,
    /// The state's name.
    pub state: &'static str,
    /// The link layer.
    pub link_layer: LinkLayer,
    /// Largest packet payload in use, in bytes.
    pub mtu_bytes: u32,
    /// Largest message, in bytes.
    pub message_bytes_max: u32,
    /// Local identifier; 0 on RoCE.
    pub lid: u16,
}

impl Device {
    /// Names of the devices here, in the order of the library.
    ///
    /// # Errors
    /// [`VerbsError`]: unsupported (95) means that libibverbs is not installed, function not
    /// implemented (38) that the kernel has no RDMA support loaded.
    pub fn names() -> Result<Vec<String>, VerbsError> {
        let mut found = Vec::new();
        each_device(|name, _| {
            found.push(name.to_owned());
            false
        })?;
        Ok(found)
    }

    /// Opens a device by its name.
    ///
    /// # Errors
    /// [`VerbsError`]; no such device (19) if there is none of this name.
    pub fn open(name: &str) -> Result<Device, VerbsError> {
        let (mut opened, mut entry) = (None, None);
        each_device(|candidate, device| {
            if candidate == name {
                // SAFETY: an entry of the list is a device, and the library has filled it in.
                let of_device = unsafe { (*device).dev_name };
                entry = entry_of(&of_device);
                // SAFETY: `device` is an entry of the list, which lives while we are called.
                let context = unsafe { sys::ibv_open_device(device) };
                opened =
                    Some(NonNull::new(context).ok_or_else(|| VerbsError::last("ibv_open_device")));
            }
            opened.is_some()
        })?;
        let missing = std::io::Error::from_raw_os_error(19);
        let context =
            opened.unwrap_or(Err(VerbsError { verb: "ibv_get_device_list", error: missing }))?;
        let device = Device { context, name: name.to_owned(), entry };
        // Events are asked for, never waited for.
        never_blocks(&device)?;
        Ok(device)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the system still lists it. Drivers that cannot be taken from under a program (those
    /// of Soft-RoCE and Soft-iWARP) raise no event when their device is removed: removing waits
    /// until everybody has closed it.
    pub fn is_there(&self) -> bool {
        let Some((path, number)) = &self.entry else { return true };
        std::fs::metadata(path).is_ok_and(|now| now.ino() == *number)
    }

    pub(super) fn context(&self) -> *mut sys::ibv_context {
        self.context.as_ptr()
    }

    /// What it can do.
    ///
    /// # Errors
    /// [`VerbsError`] if the device does not answer.
    pub fn facts(&self) -> Result<DeviceFacts, VerbsError> {
        // SAFETY: a plain struct of numbers; all zeros is a value of it.
        let mut attr: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and `attr` is ours to be filled.
        let returned = unsafe { sys::ibv_query_device(self.context(), &raw mut attr) };
        VerbsError::check("ibv_query_device", returned)?;
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        let firmware: Vec<u8> =
            attr.fw_ver.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0).collect();
        let windows_2b = sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0;
        Ok(DeviceFacts {
            firmware: String::from_utf8_lossy(&firmware).into_owned(),
            ports: attr.phys_port_cnt,
            completions_max: count(attr.max_cqe),
            work_requests_max: count(attr.max_qp_wr),
            queue_pairs_max: count(attr.max_qp),
            registrations_max: count(attr.max_mr),
            windows_max: count(attr.max_mw),
            windows_2b: attr.device_cap_flags & windows_2b != 0,
            rd_atomic_max: u8::try_from(attr.max_qp_rd_atom.clamp(0, 255)).unwrap_or(0),
        })
    }

    /// Whether memory can be registered without being pinned.
    pub fn on_demand_paging(&self) -> bool {
        // SAFETY: a plain struct of numbers; all zeros is a value of it.
        let mut attr: sys::ibv_device_attr_ex = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and `attr` is ours to be filled.
        let returned = unsafe { sys::ibv_query_device_ex(self.context(), &raw mut attr) };
        returned == 0 && attr.odp_caps.general_caps & 1 != 0
    }

    /// What a port is like now.
    ///
    /// # Errors
    /// [`VerbsError`] if there is no such port or the device does not answer.
    pub fn port(&self, port: u8) -> Result<PortFacts, VerbsError> {
        // SAFETY: a plain struct of numbers; all zeros is a value of it.
        let mut attr: sys::ibv_port_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and `attr` is ours to be filled.
        let returned = unsafe { sys::ibv_query_port(self.context(), port, &raw mut attr) };
        VerbsError::check("ibv_query_port", returned)?;
        Ok(PortFacts {
            active: attr.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            state: state_name(attr.state),
            link_layer: match attr.link_layer {
                1 => LinkLayer::InfiniBand,
                2 => LinkLayer::Ethernet,
                other => LinkLayer::Other(other),
            },
            mtu_bytes: 128 << attr.active_mtu.clamp(1, 5),
            message_bytes_max: attr.max_msg_sz,
            lid: attr.lid,
        })
    }

    /// The next event, if one waits.
    pub fn next_event(&self) -> Option<DeviceEvent> {
        let mut event = MaybeUninit::<sys::ibv_async_event>::uninit();
        // SAFETY: the context is open, and `event` is ours to be filled.
        let returned = unsafe { sys::ibv_get_async_event(self.context(), event.as_mut_ptr()) };
        if returned != 0 {
            return None;
        }
        // SAFETY: 0 means that the library has filled it.
        let mut event = unsafe { event.assume_init() };
        let told = read_event(&event);
        // SAFETY: each event that was got is acknowledged once, and nothing of it is used after.
        unsafe { sys::ibv_ack_async_event(&raw mut event) };
        Some(told)
    }
}

/// The entry of `uverbs0` and the like; `None` where the system shows none.
fn entry_of(dev_name: &[std::ffi::c_char]) -> Option<(PathBuf, u64)> {
    let name = dev_name.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned()).collect();
    let path = Path::new("/sys/class/infiniband_verbs").join(String::from_utf8(name).ok()?);
    // The link in the class goes with the device; its own number tells it from a successor.
    let number = std::fs::metadata(&path).ok()?.ino();
    Some((path, number))
}

fn state_name(state: u32) -> &'static str {
    match state {
        1 => "DOWN",
        2 => "INIT",
        3 => "ARMED",
        4 => "ACTIVE",
        5 => "ACTIVE_DEFER",
        _ => "NOP",
    }
}

/// Calls `with` for every device until it says that it has seen enough.
fn each_device(mut with: impl FnMut(&str, *mut sys::ibv_device) -> bool) -> Result<(), VerbsError> {
    let mut count = 0;
    // SAFETY: the library fills in the count and gives a list of so many entries.
    let list = unsafe { sys::ibv_get_device_list(&raw mut count) };
    if list.is_null() {
        return Err(VerbsError::last("ibv_get_device_list"));
    }
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: `at` is below the count of the list.
        let entry = unsafe { list.add(at) };
        // SAFETY: as above.
        let device = unsafe { *entry };
        // SAFETY: an entry of the list is a device.
        let name = unsafe { sys::ibv_get_device_name(device) };
        if name.is_null() {
            continue;
        }
        // SAFETY: a name of the library ends with a NUL and lives as long as the list.
        let name = unsafe { CStr::from_ptr(name) };
        if with(&name.to_string_lossy(), device) {
            break;
        }
    }
    // SAFETY: the list is freed once, and no entry is used after.
    unsafe { sys::ibv_free_device_list(list) };
    Ok(())
}

impl AsFd for Device {
    /// Readable when an event waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open, and its descriptor lives as long.
        let fd = unsafe { (*self.context()).async_fd };
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: everything that was made on the context keeps this value, so it is the last.
        VerbsError::log("ibv_close_device", unsafe { sys::ibv_close_device(self.context()) });
    }
}
