//! The vhost-user protocol as sans-I/O state machines: back end and front end.
