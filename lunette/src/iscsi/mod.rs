//! The iSCSI way in, from a configuration to the words of the transport.

mod plan;
mod secrets;

pub(crate) use plan::{Plan, Portal, Rule, Target, has_same_secrets, options, stop_time, target};
pub(crate) use secrets::{SecretReader, Secrets};
