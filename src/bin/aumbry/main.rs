//! The command `aumbry`: arguments in, exit code out.
fn main() {}
