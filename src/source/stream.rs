//! source/stream
