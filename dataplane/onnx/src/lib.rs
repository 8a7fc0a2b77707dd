//! ONNX files as engines: ONNX Runtime, opened at run time, and tract.
