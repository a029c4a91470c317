//! The iSCSI way in, from a configuration to the words of the transport.

mod plan;

pub(crate) use plan::{Plan, Portal, Rule, Target, has_same_secrets, options, stop_time, target};
