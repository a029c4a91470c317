//! The methods `session.list` and `session.end`.

use super::Call;
use crate::running::Running;
use lunette_control::{Failure, NoParams};
use lunette_transport_iscsi::{EndHow, SessionStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The parameters of `session.end`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// Number of the session, its target session identifying handle.
    pub(crate) tsih: u16,
    /// Seconds that the initiator has to log out; without, its connection is closed at once.
    pub(crate) within: Option<u16>,
}

pub(super) fn list(call: &Call<'_>, _: NoParams) -> Result<Vec<SessionStatus>, Failure> {
    let Running { entity, reactors, .. } = &*call.daemon.running;
    Ok(entity.sessions(reactors))
}

pub(super) fn end(call: &Call<'_>, End { tsih, within }: End) -> Result<(), Failure> {
    let how = match within {
        Some(seconds) => EndHow::LogoutRequest(Duration::from_secs(seconds.into())),
        None => EndHow::Drop,
    };
    let Running { entity, reactors, .. } = &*call.daemon.running;
    match entity.end_session(tsih, how, reactors) {
        true => Ok(()),
        false => Err(Failure::not_found(format!("there is no session {tsih}"))),
    }
}
