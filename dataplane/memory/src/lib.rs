//! Owned regions of host memory, the doorbell ring, slots, and the only views into them.
