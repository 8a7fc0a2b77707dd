//! Both engines, against each other and against their contracts.

mod agree;
mod broken;
mod common;
mod conformance;
mod memory;
mod shapes;
mod tiny;
