//! The methods `session.list` and `session.end`.

use super::Call;
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
    let iscsi = call.daemon.exports.iscsi();
    Ok(iscsi.map(|iscsi| iscsi.entity.sessions(call.daemon.reactors)).unwrap_or_default())
}

pub(super) fn end(call: &Call<'_>, End { tsih, within }: End) -> Result<(), Failure> {
    let how = match within {
        Some(seconds) => EndHow::LogoutRequest(Duration::from_secs(seconds.into())),
        None => EndHow::Drop,
    };
    let iscsi = call.daemon.exports.iscsi();
    match iscsi.is_some_and(|iscsi| iscsi.entity.end_session(tsih, how, call.daemon.reactors)) {
        true => Ok(()),
        false => Err(Failure::not_found(format!("there is no session {tsih}"))),
    }
}
