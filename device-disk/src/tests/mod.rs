//! A disk as initiators see it.

mod access;
mod atomicity;
mod caching;
mod compare_and_write;
mod condition;
mod diagnostics;
mod extended_copy;
mod identity;
mod information;
mod lba_status;
mod log;
mod maintenance;
mod mode;
mod operation;
mod operation_codes;
mod parameter_lists;
mod properties;
mod provisioning;
mod read_write;
mod reassign_blocks;
mod reservations;
mod thresholds;
mod verify;
mod write_atomic;
mod xdwriteread;
