//! JPEG decode, resize and normalise on the CPU.
