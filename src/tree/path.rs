//! tree/path
