//! A target: its name, its port and its sessions.

use crate::Error;
use crate::local::{self, Place};
use lunette_engine::{Nexus, TargetPort};
use lunette_iscsi::target::{SessionInfo, Settings, is_name};
use lunette_store::Cx;
use lunette_store::log::LineBudget;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a target behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// iSCSI name, such as `iqn.2026-11.dev.lunette:default`.
    pub name: String,
    /// The target portal group tag of all portals that lead here.
    pub portal_group: u16,
    /// What is agreed to in a login.
    pub settings: Settings,
    /// How long a login may take.
    pub login_time: Duration,
    /// How long a session may be idle before the initiator is asked for a sign of life.
    pub idle_time: Duration,
    /// How long the sign of life may take, and the data-out that commands wait for.
    pub silence_time: Duration,
    /// How long commands in flight are waited for when a portal stops.
    pub stop_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "iqn.2026-11.dev.lunette:default".to_owned(),
            portal_group: 1,
            settings: Settings::default(),
            login_time: Duration::from_secs(15),
            // With the sign of life more than a minute: initiators that poll only once a minute, as the tools of libiscsi
            // do while a disk is being sanitized, answer nothing in between.
            idle_time: Duration::from_secs(45),
            silence_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(5),
        }
    }
}

/// A target as it is through one portal group, to which several [`Portal`](crate::Portal)s may belong.
pub struct Target {
    pub(crate) options: Options,
    port: Arc<TargetPort>,
    /// Those of all portal groups.
    sessions: Arc<Mutex<Sessions>>,
    log: Arc<LineBudget>,
}

/// What makes two sessions the same one (RFC 7143 6.3.5): the portal group's tag and the initiator port.
type SessionKey = (u16, InitiatorPort);

#[derive(Default)]
struct Sessions {
    last_tsih: u16,
    open: HashMap<SessionKey, Session>,
}

/// The initiator's end of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct InitiatorPort {
    name: String,
    isid: [u8; 6],
}

struct Session {
    tsih: u16,
    place: Place,
}

impl InitiatorPort {
    pub(crate) fn of(info: &SessionInfo) -> Self {
        Self { name: info.initiator_name.to_lowercase(), isid: info.isid }
    }
}

/// The name of a SCSI initiator port (RFC 7143 appendix E.1).
impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},i,0x", self.name)?;
        self.isid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Target {
    /// A target that shows the logical units of `port`.
    ///
    /// # Errors
    /// When the name is not an iSCSI name.
    pub fn new(mut options: Options, port: Arc<TargetPort>) -> Result<Arc<Self>, Error> {
        let name = options.name.to_ascii_lowercase();
        let clean = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | ':'));
        if !is_name(&name) || !clean {
            return Err(Error::Name(options.name));
        }
        options.name = name;
        Ok(Arc::new(Self { options, port, sessions: Arc::default(), log: Arc::default() }))
    }

    /// The same target through another portal group, in which it shows the logical units of `port`.
    pub fn in_group(&self, portal_group: u16, port: Arc<TargetPort>) -> Arc<Self> {
        let options = Options { portal_group, ..self.options.clone() };
        Arc::new(Self { options, port, sessions: self.sessions.clone(), log: self.log.clone() })
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its port.
    pub fn port(&self) -> &Arc<TargetPort> {
        &self.port
    }

    /// How many sessions are open, through whichever portal group; discovery sessions do not count.
    pub fn session_count(&self) -> usize {
        self.sessions().open.len()
    }

    pub(crate) fn nexus(&self, initiator: &InitiatorPort) -> Arc<Nexus> {
        Nexus::new(initiator.to_string(), self.port.clone())
    }

    /// A target session identifying handle that no open session has.
    pub(crate) fn new_tsih(&self) -> Option<u16> {
        self.sessions().new_tsih()
    }

    /// Opens the session of `initiator` at `place`. Returns its handle and where the session is that it replaces.
    pub(crate) fn open(&self, initiator: &InitiatorPort, place: Place) -> Option<(u16, Option<Place>)> {
        let mut sessions = self.sessions();
        let tsih = sessions.new_tsih()?;
        let before = sessions.open.insert(self.key(initiator), Session { tsih, place });
        Some((tsih, before.map(|session| session.place)))
    }

    /// The session at `place` is over.
    pub(crate) fn close(&self, initiator: &InitiatorPort, place: Place) {
        let (mut sessions, key) = (self.sessions(), self.key(initiator));
        if sessions.open.get(&key).is_some_and(|session| session.place == place) {
            sessions.open.remove(&key);
        }
    }

    /// Ends all sessions, through whichever portal group (RFC 7143 11.5.1, TARGET COLD RESET).
    pub(crate) fn cold_reset(&self, cx: &mut dyn Cx) {
        let places: Vec<_> = self.sessions().open.values().map(|session| session.place).collect();
        for place in places {
            local::post(place, cx, |connection, cx| connection.reset(cx));
        }
    }

    /// Whether a line may be written to the log that initiators cause, or whoever else connects, as often as they like.
    pub(crate) fn may_log(&self, cx: &dyn Cx) -> bool {
        self.log.allows(self.name(), cx.now())
    }

    fn key(&self, initiator: &InitiatorPort) -> SessionKey {
        (self.options.portal_group, initiator.clone())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn new_tsih(&mut self) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            if self.open.values().all(|session| session.tsih != self.last_tsih) {
                return Some(self.last_tsih);
            }
        }
        None
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.options.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_scsi::Protocol;
    use lunette_store::ReactorId;
    use std::collections::BTreeMap;

    fn target(name: &str) -> Result<Arc<Target>, Error> {
        let port = TargetPort::new(format!("{name},t,0x0001"), 1, Protocol::ISCSI, BTreeMap::new());
        Target::new(Options { name: name.to_owned(), ..Options::default() }, port)
    }

    #[test]
    fn names_are_checked_and_in_lower_case() {
        assert_eq!(target("IQN.2026-11.dev.lunette:A").unwrap().name(), "iqn.2026-11.dev.lunette:a");
        for bad in ["", "disk", "iqn.", "iqn.2026-11.dev.lunette:a b", &format!("iqn.{}", "x".repeat(220))] {
            assert!(
                target(bad).unwrap_err().to_string().starts_with(&format!("`{bad}` is not an iSCSI name"))
            );
        }
    }

    #[test]
    fn a_session_is_replaced_by_one_of_the_same_initiator_port() {
        let target = target("iqn.2026-11.dev.lunette:a").unwrap();
        let port = |isid| InitiatorPort { name: "iqn.x".to_owned(), isid: [0, 0, 0, 0, 0, isid] };
        let place = |connection| Place { reactor: ReactorId(0), connection };
        assert_eq!(target.open(&port(1), place(1)), Some((1, None)));
        assert_eq!(target.open(&port(2), place(2)), Some((2, None)));
        assert_eq!(target.open(&port(1), place(3)), Some((3, Some(place(1)))));
        target.close(&port(1), place(1));
        assert_eq!(target.session_count(), 2);
        target.close(&port(1), place(3));
        assert_eq!(target.session_count(), 1);
        let other = target.in_group(2, target.port().clone());
        assert_eq!(other.open(&port(2), place(4)), Some((4, None)), "a session of its own");
        other.close(&port(2), place(2));
        assert_eq!(target.session_count(), 2);
        assert_eq!(port(10).to_string(), "iqn.x,i,0x00000000000a");
    }

    #[test]
    fn handles_in_use_and_zero_are_left_out() {
        let target = target("iqn.2026-11.dev.lunette:a").unwrap();
        let port = InitiatorPort { name: "iqn.x".to_owned(), isid: [0; 6] };
        target.open(&port, Place { reactor: ReactorId(0), connection: 1 });
        target.sessions().last_tsih = u16::MAX;
        assert_eq!(target.new_tsih(), Some(2));
    }
}
