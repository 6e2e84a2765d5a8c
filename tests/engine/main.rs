//! The engine as a library: whole verbs on real folders and faulty stores.

mod backup;
mod support;
