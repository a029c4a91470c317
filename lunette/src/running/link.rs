//! How an export and its front end stand to each other, as it is told.

use lunette_transport_vhost_user::ExportEvent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// Whether there is a front end, or what is done for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkState {
    /// Front ends may connect.
    Listening,
    /// A client tries to connect, now and again.
    Connecting,
    /// A client has connected, and the front end has said nothing yet.
    Waiting,
    /// There is a front end.
    Connected,
}

/// All that is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    /// Why a client cannot connect.
    pub(crate) error: Option<String>,
    /// How often a client has not been able to.
    pub(crate) failures: u64,
}

/// That of one export, which its reactor changes.
#[derive(Debug)]
pub(super) struct Shared {
    /// Without a front end.
    idle: LinkState,
    now: Mutex<Link>,
}

impl Shared {
    /// That of a new export.
    pub(super) fn new(is_client: bool, is_connected: bool) -> Self {
        let idle = if is_client { LinkState::Connecting } else { LinkState::Listening };
        let state = if is_connected { LinkState::Connected } else { idle };
        Self { idle, now: Mutex::new(Link { state, error: None, failures: 0 }) }
    }

    pub(super) fn get(&self) -> Link {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what has happened; whether others are to hear of it.
    pub(super) fn note(&self, event: ExportEvent<'_>) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, error) = match event {
            ExportEvent::Agreed => return false,
            ExportEvent::Connected => (LinkState::Connected, None),
            ExportEvent::Disconnected(_) => (self.idle, None),
            ExportEvent::Reached => (LinkState::Waiting, None),
            ExportEvent::Unreachable(why) => {
                now.failures += 1;
                (self.idle, Some(why.to_owned()))
            }
        };
        let is_other = now.error != error;
        (now.state, now.error) = (state, error);
        match event {
            ExportEvent::Connected | ExportEvent::Disconnected(_) => true,
            ExportEvent::Unreachable(_) => is_other,
            ExportEvent::Reached | ExportEvent::Agreed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_in_the_same_way_is_told_once() {
        let link = Shared::new(true, false);
        let told = |event| (link.note(event), link.get().state, link.get().error.unwrap_or_default());
        let (a, b) = (ExportEvent::Unreachable("a"), ExportEvent::Unreachable("b"));
        assert_eq!(link.get().state, LinkState::Connecting);
        assert_eq!(told(a), (true, LinkState::Connecting, "a".into()));
        assert_eq!(told(a), (false, LinkState::Connecting, "a".into()));
        assert_eq!(told(b), (true, LinkState::Connecting, "b".into()));
        assert_eq!(told(ExportEvent::Reached), (false, LinkState::Waiting, String::new()));
        assert_eq!(told(ExportEvent::Connected), (true, LinkState::Connected, String::new()));
        assert_eq!(told(ExportEvent::Disconnected(None)), (true, LinkState::Connecting, String::new()));
        assert_eq!(link.get().failures, 3);
    }

    #[test]
    fn who_listens_goes_on_listening() {
        let link = Shared::new(false, false);
        assert_eq!(link.get().state, LinkState::Listening);
        assert!(link.note(ExportEvent::Connected) && link.note(ExportEvent::Disconnected(Some("x"))));
        assert_eq!(link.get(), Link { state: LinkState::Listening, error: None, failures: 0 });
        assert_eq!(Shared::new(false, true).get().state, LinkState::Connected);
    }
}
