//! One suite for both kinds of reactors.

mod files;
mod support;
mod turns;
mod watches;
