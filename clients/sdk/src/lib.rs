//! What an application links: connect, open a session, infer.
//!
//! ```no_run
//! use ferry_client::{Transport, blocking::Client};
//!
//! # fn main() -> Result<(), ferry_client::Error> {
//! let client = Client::connect("127.0.0.1:7077")?;
//! let mut session = client.session("resnet50").transport(Transport::Shm).open()?;
//! let mut slot = session.slot()?;
//! slot.input_f32_mut(0)?.fill(0.5); // in place: this is the memory that the model reads
//! let reply = session.infer(slot)?; // `slot` has moved: it cannot be touched while in flight
//! println!("{:?}", &reply.output_f32(0)?[..3]);
//! # Ok(()) }
//! ```
//!
//! A slot that is in flight cannot be touched, because it is not there any more:
//!
//! ```compile_fail,E0382
//! # fn f(session: &mut ferry_client::blocking::Session) -> Result<(), ferry_client::Error> {
//! let mut slot = session.slot()?;
//! let reply = session.infer(slot)?;
//! slot.input_mut(0)?; // error: use of moved value
//! # Ok(()) }
//! ```
//!
//! Nor can a borrow of its bytes live on:
//!
//! ```compile_fail,E0505
//! # fn f(session: &mut ferry_client::blocking::Session) -> Result<(), ferry_client::Error> {
//! let mut slot = session.slot()?;
//! let bytes = slot.input_mut(0)?;
//! let reply = session.infer(slot)?; // error: cannot move out of `slot`: it is borrowed
//! bytes[0] = 1;
//! # Ok(()) }
//! ```
//!
//! And a reply cannot be read after it was given back:
//!
//! ```compile_fail,E0505
//! # fn f(reply: ferry_client::Reply) -> Result<(), ferry_client::Error> {
//! let output = reply.output(0)?;
//! drop(reply); // error: cannot move out of `reply`: it is borrowed
//! println!("{}", output.len());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod agreed;
mod attach;
pub mod blocking;
mod channel;
mod client;
mod error;
mod inline;
mod keeper;
mod key;
mod lane;
mod options;
mod recorder;
mod reply;
mod session;
mod slot;

pub use agreed::Agreed;
pub use client::Client;
pub use error::Error;
pub use key::{Channel, Key};
pub use options::{Options, SessionBuilder};
pub use recorder::RecordCounts;
pub use reply::Reply;
pub use session::Session;
pub use slot::Slot;

pub use ferry_core::RequestRecord;
pub use ferry_core::{
    BoundSignature, BoundTensor, DType, PixelFormat, RequestKind, SlotPlace, Stage, StageTimes,
    Status, Transport, WaitPolicy,
};
pub use ferry_memory::{DeviceAddress, SlotHold};
pub use ferry_proto::v1;
pub use ferry_transport::{LinkError, RecordSink, Waker};
