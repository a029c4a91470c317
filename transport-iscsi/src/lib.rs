//! The iSCSI way in: sockets, sessions and data buffers.
