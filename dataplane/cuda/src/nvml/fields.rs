//! Counters that NVML knows by number. The wrapper's safe call cannot say of which link: it asks
//! for the first one alone.

use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::{
    field_id, nvmlFieldValue_t, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as U32,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG as ULONG,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as U64,
};

use super::counter::Raw;

/// Counters of NVLink count KiB.
pub(super) const NVLINK_UNIT_BYTES: u64 = 1024;

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    PcieSent,
    PcieReceived,
    NvlinkSent,
    NvlinkReceived,
}

impl Field {
    /// Its number, and which part of the device is meant.
    fn id(self) -> (u32, u32) {
        /// All links together.
        const ALL: u32 = u32::MAX;
        match self {
            Field::PcieSent => (field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
            Field::PcieReceived => (field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
            Field::NvlinkSent => (field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL),
            Field::NvlinkReceived => (field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL),
        }
    }
}

/// Reads counters with one call; `None` for each that the device does not have.
pub(super) fn read<const N: usize>(device: &Device<'_>, asked: [Field; N]) -> [Option<Raw>; N] {
    let (Ok(call), Ok(count)) =
        (device.nvml().lib().nvmlDeviceGetFieldValues.as_ref(), i32::try_from(N))
    else {
        return [None; N];
    };
    let mut values = asked.map(|field| {
        // SAFETY: plain numbers and a union of numbers, for which zero is a value.
        let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
        (value.fieldId, value.scopeId) = field.id();
        value
    });
    // SAFETY: it is only handed back to NVML, which stays open: `device` borrows it.
    let handle = unsafe { device.handle() };
    // SAFETY: a device of this NVML, and `count` values of ours that it may write.
    let result = unsafe { call(handle, count, values.as_mut_ptr()) };
    if result != SUCCESS {
        return [None; N];
    }
    values.map(|value| raw(&value))
}

fn raw(value: &nvmlFieldValue_t) -> Option<Raw> {
    if value.nvmlReturn != SUCCESS {
        return None;
    }
    match value.valueType {
        // SAFETY: every part of the union is a number, and all its bytes are written.
        U32 => Some(Raw::Narrow(unsafe { value.value.uiVal })),
        // SAFETY: as above.
        ULONG => Some(Raw::Wide(unsafe { value.value.ulVal })),
        // SAFETY: as above.
        U64 => Some(Raw::Wide(unsafe { value.value.ullVal })),
        _ => None,
    }
}
