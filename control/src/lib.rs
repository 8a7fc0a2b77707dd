//! The gRPC server, the store and the composition root; the binary ferryd.
