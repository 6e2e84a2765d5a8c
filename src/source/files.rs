//! source/files
