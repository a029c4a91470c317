//! End-to-end tests against real kernels and clients.
