//! A transport as negotiation sees it. The composition root has one of these for each that works
//! on this machine.

use std::fmt::Debug;
use std::sync::Arc;

use ferry_core::{MemoryChoice, Placement, SessionSpec, SlotLayout, Transport};
use ferry_cuda::Device;
use ferry_memory::{MemoryError, Placer, SlotTable};

use crate::models::Served;

/// What a session is to be, as far as it decides on a transport.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// What the client asks for.
    pub spec: &'a SessionSpec,
    /// The model's name.
    pub model: &'a str,
    /// The GPU that runs it; `None` for the CPU.
    pub device: Option<ModelDevice>,
    /// Client and server can share memory. A client may lie about it and gains nothing: the socket
    /// is where it is.
    pub is_this_host: bool,
    /// The client is the server itself.
    pub is_inside: bool,
}

/// The GPU that runs a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelDevice {
    /// Its number.
    pub ordinal: u32,
    /// Several processes may use it.
    pub is_shareable: bool,
}

impl ModelDevice {
    /// That of a model that serves.
    pub fn of(served: &Served) -> Option<ModelDevice> {
        let device = served.device.as_ref()?;
        let is_shareable = device.attributes().shareable;
        Some(ModelDevice { ordinal: device.ordinal(), is_shareable })
    }
}

/// Why a transport does not fit a session, and what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Unfit {
    /// Why, and what to do.
    pub fn new(why: impl Into<String>, fix: impl Into<String>) -> Unfit {
        Unfit { why: why.into(), fix: fix.into() }
    }
}

/// Why `auto` passes a transport over; `None` where there is nothing to tell, since nobody would
/// expect it.
pub type PassedOver = Option<String>;

/// A transport that sessions can be opened with.
pub trait Carrier: Debug + Send + Sync {
    /// Which.
    fn transport(&self) -> Transport;

    /// Whether it can carry such a session.
    ///
    /// # Errors
    /// Why not, and what would.
    fn fits(&self, _wish: &Wish<'_>) -> Result<(), Unfit> {
        Ok(())
    }

    /// Why `auto` takes it for a session that it fits.
    ///
    /// # Errors
    /// Why it does not.
    fn suits(&self, wish: &Wish<'_>) -> Result<String, PassedOver>;

    /// Whether slots of this size can be.
    ///
    /// # Errors
    /// Why not, and what to do.
    fn has_room(&self, _layout: &SlotLayout) -> Result<(), Unfit> {
        Ok(())
    }

    /// Memory that such slots take here, in bytes: links lay them out in their own ways.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if there are none, or more than this machine can address.
    fn bytes(&self, layout: &SlotLayout) -> Result<usize, MemoryError> {
        SlotTable::bytes(layout)
    }

    /// Where slots are made for a model on a device; `None`: in ordinary memory.
    fn placer(
        &self,
        device: &Arc<Device>,
        placement: Placement,
        memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>>;
}
