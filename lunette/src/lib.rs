//! The lunette program: command line, configuration, wiring.
