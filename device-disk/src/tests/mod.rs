//! A disk as initiators see it.

mod atomicity;
mod caching;
mod compare_and_write;
mod condition;
mod identity;
mod lba_status;
mod maintenance;
mod mode;
mod operation_codes;
mod properties;
mod provisioning;
mod read_write;
mod verify;
mod write_atomic;
mod xdwriteread;
