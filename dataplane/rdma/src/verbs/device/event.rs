//! What happens to a device beside completions.

use crate::verbs::sys;

/// Something that happened to a device outside of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The device does not work any more, or was taken away.
    DeviceFatal,
    /// A completion queue overran or broke: nothing on it can be trusted.
    CompletionQueueError,
    /// A port went down.
    PortDown,
    /// A port came up.
    PortActive,
    /// A port's table of addresses has changed.
    AddressChange,
    /// This queue pair's peer wrote where it may not.
    AccessError {
        /// The queue pair's number.
        queue_pair: u32,
    },
    /// This queue pair broke.
    QueuePairFatal {
        /// The queue pair's number.
        queue_pair: u32,
    },
    /// Anything else, by its number.
    Other(u32),
}

/// What an event says.
pub(super) fn read_event(event: &sys::ibv_async_event) -> DeviceEvent {
    use sys::ibv_event_type as kind;
    let number = || {
        // SAFETY: for events of queue pairs the library fills in the queue pair, which cannot be
        // destroyed before the event is acknowledged.
        let queue_pair = unsafe { event.element.qp };
        // SAFETY: as above.
        unsafe { (*queue_pair).qp_num }
    };
    let is = |it: kind::Type| event.event_type == it;
    if is(kind::IBV_EVENT_DEVICE_FATAL) {
        DeviceEvent::DeviceFatal
    } else if is(kind::IBV_EVENT_CQ_ERR) {
        DeviceEvent::CompletionQueueError
    } else if is(kind::IBV_EVENT_PORT_ERR) {
        DeviceEvent::PortDown
    } else if is(kind::IBV_EVENT_PORT_ACTIVE) {
        DeviceEvent::PortActive
    } else if is(kind::IBV_EVENT_GID_CHANGE) || is(kind::IBV_EVENT_LID_CHANGE) {
        DeviceEvent::AddressChange
    } else if is(kind::IBV_EVENT_QP_ACCESS_ERR) {
        DeviceEvent::AccessError { queue_pair: number() }
    } else if is(kind::IBV_EVENT_QP_FATAL) || is(kind::IBV_EVENT_QP_REQ_ERR) {
        DeviceEvent::QueuePairFatal { queue_pair: number() }
    } else {
        DeviceEvent::Other(event.event_type)
    }
}
