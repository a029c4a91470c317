//! Layers: stores that stand in front of another store and do one thing.

pub mod fault;
pub mod recorder;
pub mod stats;
