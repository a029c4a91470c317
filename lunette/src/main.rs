//! The lunette daemon.
fn main() {}
