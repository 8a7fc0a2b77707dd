//! The wire: .proto files, generated code, and the only place where wire types and ours meet.
