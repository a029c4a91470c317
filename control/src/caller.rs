//! Who asks.

use crate::{Credentials, Role};

/// Who has asked for something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The process at the other end.
    pub credentials: Credentials,
    /// What it may do.
    pub role: Role,
    /// The connection that it has asked by.
    pub(crate) connection: Option<u64>,
}

impl Caller {
    /// The daemon itself.
    pub fn own() -> Self {
        Self { credentials: Credentials::own(), role: Role::Administrator, connection: None }
    }
}
