//! Where tensors lie, and what host memory is to a device.

use std::fmt;
use std::str::FromStr;

use crate::transport::UnknownName;

/// Where a tensor's memory lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Memory of the host.
    Host,
    /// Memory of the CUDA device with this ordinal.
    Cuda(u32),
}

/// What a CUDA device makes of host memory. Always recorded: it changes results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostMemory {
    /// Ordinary memory; a device copy from it is staged.
    Pageable,
    /// Registered with CUDA; copies are DMA.
    Pinned,
    /// Pinned and read by kernels in place.
    Mapped,
}

impl HostMemory {
    /// Every kind, in wire order.
    pub const ALL: [HostMemory; 3] = [HostMemory::Pageable, HostMemory::Pinned, HostMemory::Mapped];

    /// The name in SQL and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            HostMemory::Pageable => "pageable",
            HostMemory::Pinned => "pinned",
            HostMemory::Mapped => "mapped",
        }
    }
}

/// What a session wants host memory to be to the device that runs its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemoryChoice {
    /// Pinned or mapped, decided for each request.
    #[default]
    Auto,
    /// This, for every request.
    Always(HostMemory),
}

impl MemoryChoice {
    /// The name in SQL and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            MemoryChoice::Auto => "auto",
            MemoryChoice::Always(memory) => memory.name(),
        }
    }
}

/// What host memory was to the device for one request, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Staged {
    /// What it was.
    pub memory: HostMemory,
    /// Why.
    pub why: Why,
}

/// Why a request's host memory was used as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Why {
    /// The session asked for it.
    Asked = 1,
    /// The memory is not registered with the device: the server copied it to or from pinned
    /// memory of its own.
    Unregistered = 2,
    /// Nothing else ran on the device, and the request is small: a copy would cost more to start
    /// than it moves.
    Idle = 3,
    /// Other requests ran on the device: a kernel that reads the host would keep them waiting.
    Busy = 4,
    /// The request is large: a copy engine moves it faster.
    Large = 5,
    /// The engine has no other way.
    Only = 6,
}

impl Why {
    /// Every reason, in wire order.
    pub const ALL: [Why; 6] =
        [Why::Asked, Why::Unregistered, Why::Idle, Why::Busy, Why::Large, Why::Only];

    /// The name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Why::Asked => "asked",
            Why::Unregistered => "unregistered",
            Why::Idle => "idle",
            Why::Busy => "busy",
            Why::Large => "large",
            Why::Only => "only",
        }
    }
}

impl Staged {
    /// What host memory is to a device for a request of a session that chose `choice`;
    /// `is_registered`: the device knows the memory. `auto` decides where the session leaves it
    /// open.
    pub fn choose(
        choice: MemoryChoice,
        is_registered: bool,
        auto: impl FnOnce() -> (HostMemory, Why),
    ) -> Staged {
        let (memory, why) = match choice {
            // A driver copies whatever memory there is.
            MemoryChoice::Always(HostMemory::Pageable) => (HostMemory::Pageable, Why::Asked),
            _ if !is_registered => (HostMemory::Pinned, Why::Unregistered),
            MemoryChoice::Always(memory) => (memory, Why::Asked),
            MemoryChoice::Auto => auto(),
        };
        Staged { memory, why }
    }

    /// Two bytes; never zero.
    pub const fn to_wire(self) -> [u8; 2] {
        [self.memory as u8 + 1, self.why as u8]
    }

    /// From two bytes that are not both zero; `None` if they have no meaning.
    pub fn from_wire(bytes: [u8; 2]) -> Option<Staged> {
        let memory = usize::from(bytes[0]).checked_sub(1)?;
        let memory = HostMemory::ALL.get(memory).copied()?;
        let why = Why::ALL.into_iter().find(|why| *why as u8 == bytes[1])?;
        Some(Staged { memory, why })
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Host => f.pad("host"),
            Placement::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Where a session wants its slots, as people name it: `auto`, `pageable`, `pinned`, `mapped` for
/// memory of the host, `cuda:N` for a device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotPlace {
    /// Memory of the host, and what it is to the model's device.
    Host(MemoryChoice),
    /// Memory of this device.
    Cuda(u32),
}

impl fmt::Display for SlotPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotPlace::Host(memory) => f.pad(memory.name()),
            SlotPlace::Cuda(ordinal) => f.pad(&Placement::Cuda(*ordinal).to_string()),
        }
    }
}

impl FromStr for SlotPlace {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<SlotPlace, UnknownName> {
        let always = HostMemory::ALL.map(MemoryChoice::Always);
        let known = std::iter::once(MemoryChoice::Auto).chain(always);
        if let Some(memory) = known.into_iter().find(|memory| memory.name() == name) {
            return Ok(SlotPlace::Host(memory));
        }
        let ordinal = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        ordinal.map(SlotPlace::Cuda).ok_or_else(|| UnknownName {
            what: "memory",
            given: name.to_owned(),
            known: "auto, pageable, pinned, mapped, cuda:N".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_holds_where_the_device_knows_the_memory() {
        use HostMemory::{Mapped, Pageable, Pinned};
        let choose = |choice, is_registered| {
            let Staged { memory, why } =
                Staged::choose(choice, is_registered, || (Mapped, Why::Idle));
            (memory, why)
        };
        for memory in HostMemory::ALL {
            assert_eq!(choose(MemoryChoice::Always(memory), true), (memory, Why::Asked));
        }
        assert_eq!(choose(MemoryChoice::Auto, true), (Mapped, Why::Idle));
        assert_eq!(choose(MemoryChoice::Auto, false), (Pinned, Why::Unregistered));
        assert_eq!(choose(MemoryChoice::Always(Mapped), false), (Pinned, Why::Unregistered));
        assert_eq!(choose(MemoryChoice::Always(Pageable), false), (Pageable, Why::Asked));
    }

    #[test]
    fn names_parse_back_and_others_are_told_the_choice() {
        for name in ["auto", "pageable", "pinned", "mapped", "cuda:3"] {
            assert_eq!(name.parse::<SlotPlace>().map(|place| place.to_string()), Ok(name.into()));
        }
        for wrong in ["", "cuda", "cuda:", "cuda:-1", "device"] {
            let error = wrong.parse::<SlotPlace>().expect_err(wrong).to_string();
            assert!(error.contains("pinned"), "{error}");
        }
    }

    #[test]
    fn what_was_staged_comes_back_as_it_went() {
        for memory in HostMemory::ALL {
            for why in Why::ALL {
                let staged = Staged { memory, why };
                assert_eq!(Staged::from_wire(staged.to_wire()), Some(staged));
            }
        }
        for senseless in [[0, 1], [1, 0], [4, 1], [1, 7]] {
            assert_eq!(Staged::from_wire(senseless), None, "{senseless:?}");
        }
    }
}
