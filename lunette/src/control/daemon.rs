//! The methods `daemon.…`.

use super::Call;
use crate::handover::Invocation;
use lunette_control::{Failure, NoParams};
use rustix::process::geteuid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The parameters of `daemon.hand_over`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HandOver {
    /// Path of a datagram socket, to which descriptors are sent as to a service manager's store (sd_notify(3)).
    pub(crate) socket: PathBuf,
    /// Also if changes that were made since the start, and are not saved, are lost.
    #[serde(default)]
    pub(crate) discard: bool,
}

/// Why a daemon that is managed is not handed over.
pub(crate) const MANAGED: &str =
    "a service manager looks after this daemon: have it start the new program (systemctl restart)";

pub(super) fn invocation(call: &Call<'_>, _: NoParams) -> Result<Invocation, Failure> {
    Ok(call.daemon.invocation.by_now(call.daemon.running.state_directory()))
}

pub(super) fn hand_over(call: &Call<'_>, HandOver { socket, discard }: HandOver) -> Result<(), Failure> {
    let uid = call.caller.credentials.uid;
    if !may_take(uid, geteuid().as_raw()) {
        return Err(Failure::new(
            Failure::DENIED,
            "only root and the daemon's own user may take everything over",
        ));
    }
    if call.daemon.invocation.managed {
        return Err(Failure::failed(MANAGED));
    }
    if !discard && call.daemon.running.is_unsaved() {
        let message = "what was changed while the daemon ran is not saved, and would be lost";
        return Err(Failure::failed(message).allowed_by("discard"));
    }
    let overdue = call.daemon.running.overdue();
    if !overdue.is_empty() {
        let overdue = Vec::from_iter(overdue).join(", ");
        return Err(Failure::failed(format!(
            "no answer from {overdue}: this process could not end, and nobody else can serve what it has locked. Nothing has \
             changed; wait for an answer, or stop the daemon"
        )));
    }
    match call.daemon.heir.ask(&socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Failure::CONFLICT, "the daemon is being handed over already")),
        Err(error) => Err(Failure::failed(format!("cannot reach {}: {error}", socket.display()))),
    }
}

/// Who gets everything has the memory of virtual machines, too: groups of administrators have not.
fn may_take(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_it_already_may_take_everything() {
        assert!(may_take(0, 1000) && may_take(1000, 1000) && !may_take(1001, 1000) && !may_take(1000, 0));
    }
}
