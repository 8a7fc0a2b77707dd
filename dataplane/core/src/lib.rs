//! Plain data that every room speaks: tensors, placements, frames, stages. No I/O, no clock, no unsafe.
