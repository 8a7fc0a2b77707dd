//! Writes the reference models as ONNX files, offline, with seeded weights.
