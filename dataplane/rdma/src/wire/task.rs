//! Numbers of work requests.

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A receive.
    Receive,
    /// The frame of a slot.
    Slot(u32),
    /// The payload of a slot's frame, where it goes apart from its header. Only a failure is told.
    Payload(u32),
    /// A frame of the control area.
    Control,
    /// Binding or taking back a window.
    Window,
    /// Asking the peer's device whether it is there.
    Touch,
}

/// The number of a work request: which end, and what it is. Serials are never used twice, so that
/// what is late belongs to nobody.
pub(crate) fn task_id(serial: u32, task: Task) -> u64 {
    let task = match task {
        Task::Receive => 0x100,
        Task::Slot(slot) => slot & 0xff,
        Task::Payload(slot) => 0x500 | slot & 0xff,
        Task::Control => 0x200,
        Task::Window => 0x300,
        Task::Touch => 0x400,
    };
    u64::from(serial) << 32 | u64::from(task)
}

/// What [`task_id`] made of it.
pub(crate) fn read_task_id(id: u64) -> (u32, Task) {
    let (serial, task) = ((id >> 32) as u32, (id & 0xffff_ffff) as u32);
    let task = match task {
        0x100 => Task::Receive,
        0x200 => Task::Control,
        0x300 => Task::Window,
        0x400 => Task::Touch,
        payload @ 0x500..=0x5ff => Task::Payload(payload & 0xff),
        slot => Task::Slot(slot),
    };
    (serial, task)
}
