//! iSCSI (RFC 7143) as sans-I/O state machines: target and initiator.
