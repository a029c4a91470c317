//! The transport over loopback, with real reactors, a disk in memory and the initiator of the protocol crate.

mod access;
mod at_once;
mod changes;
mod client;
mod commands;
mod events;
mod gate;
mod greedy;
mod handover;
mod hostile;
mod live;
mod management;
mod rig;
mod sessions;
mod table;
mod targets;
mod turns;
