//! The sessions of a network entity.

use crate::local::Place;
use crate::patterns::fold;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::target::SessionInfo;
use std::collections::HashMap;
use std::fmt;

/// The initiator's end of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct InitiatorPort {
    name: String,
    isid: [u8; 6],
}

impl InitiatorPort {
    pub(crate) fn of(info: &SessionInfo) -> Self {
        Self { name: fold(&info.initiator_name), isid: info.isid }
    }
}

/// The name of a SCSI initiator port (RFC 7143 appendix E.1).
impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},i,0x", self.name)?;
        self.isid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What makes two sessions the same one (RFC 7143 6.3.5): both ends of the I_T nexus.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NexusKey {
    /// The target's name.
    pub(crate) target: String,
    /// The portal group's tag.
    pub(crate) group: u16,
    pub(crate) initiator: InitiatorPort,
}

/// The sessions of all targets. Their handles differ, also from one target to another, so that a handle alone names a session.
pub(crate) struct SessionTable {
    /// How many one initiator has at most, discovery not counted.
    most_of_initiator: usize,
    last_tsih: u16,
    open: HashMap<u16, Record>,
    /// The latest session of each nexus.
    by_nexus: HashMap<NexusKey, u16>,
}

struct Record {
    place: Place,
    /// `None` in a discovery session.
    nexus: Option<NexusKey>,
    /// The name under which the initiator has proved who it is.
    account: Option<String>,
    /// The session's connection, and what was agreed on for the session.
    leading: Option<(u16, Parameters)>,
}

/// Why there is no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoSession {
    /// There are too many.
    Full,
    /// The initiator has too many.
    Greedy,
    /// Somebody else has the session of this nexus.
    Taken,
    /// There is no session of this nexus with this handle.
    Unknown,
    /// The session has another connection.
    Occupied,
}

impl SessionTable {
    pub(crate) fn new(most_of_initiator: usize) -> Self {
        Self { most_of_initiator, last_tsih: 0, open: HashMap::new(), by_nexus: HashMap::new() }
    }

    /// Opens a session at `place`, of this nexus or for discovery. Returns its handle and where the session is that it
    /// replaces. Who has proved to be somebody is replaced only by himself: initiators give themselves their names, so
    /// that without a proof anybody could take over anybody's session.
    pub(crate) fn open(
        &mut self,
        nexus: Option<NexusKey>,
        account: Option<&str>,
        place: Place,
    ) -> Result<(u16, Option<Place>), NoSession> {
        let before = nexus.as_ref().and_then(|nexus| self.open.get(self.by_nexus.get(nexus)?));
        if before.is_some_and(|before| before.account.is_some() && before.account.as_deref() != account) {
            return Err(NoSession::Taken);
        }
        let before = before.map(|before| before.place);
        let count = |name: &str| self.by_nexus.keys().filter(|nexus| nexus.initiator.name == name).count();
        let is_greedy = |nexus: &NexusKey| count(&nexus.initiator.name) >= self.most_of_initiator;
        if before.is_none() && nexus.as_ref().is_some_and(is_greedy) {
            return Err(NoSession::Greedy);
        }
        let tsih = self.new_tsih().ok_or(NoSession::Full)?;
        if let Some(nexus) = &nexus {
            self.by_nexus.insert(nexus.clone(), tsih);
        }
        self.open.insert(tsih, Record { place, nexus, account: account.map(str::to_owned), leading: None });
        Ok((tsih, before))
    }

    /// What a session's first connection has agreed on.
    pub(crate) fn agreed(&mut self, tsih: u16, cid: u16, parameters: Parameters) {
        if let Some(session) = self.open.get_mut(&tsih) {
            session.leading = Some((cid, parameters));
        }
    }

    /// A connection at `place` takes the place of the one that a session has (RFC 7143 6.3.4). Returns what was agreed on for
    /// the session, and where that one is.
    pub(crate) fn join(
        &mut self,
        (tsih, cid): (u16, u16),
        nexus: &NexusKey,
        account: Option<&str>,
        place: Place,
    ) -> Result<(Parameters, Place), NoSession> {
        let session = self.open.get_mut(&tsih).filter(|session| session.nexus.as_ref() == Some(nexus));
        let session = session.ok_or(NoSession::Unknown)?;
        if session.account.as_deref() != account {
            return Err(NoSession::Taken);
        }
        match session.leading {
            Some((leading, parameters)) if leading == cid => {
                Ok((parameters, std::mem::replace(&mut session.place, place)))
            }
            _ => Err(NoSession::Occupied),
        }
    }

    /// Where a session is.
    pub(crate) fn place_of(&self, tsih: u16) -> Option<Place> {
        self.open.get(&tsih).map(|session| session.place)
    }

    /// A session has ended at `place`; it is over, unless it goes on elsewhere.
    pub(crate) fn close(&mut self, tsih: u16, place: Place) {
        if self.place_of(tsih) != Some(place) {
            return;
        }
        let Some(Record { nexus: Some(nexus), .. }) = self.open.remove(&tsih) else { return };
        if self.by_nexus.get(&nexus) == Some(&tsih) {
            self.by_nexus.remove(&nexus);
        }
    }

    /// Where the sessions with a target are, through whichever portal group.
    pub(crate) fn places_of(&self, target: &str) -> Vec<Place> {
        let sessions = self.by_nexus.iter().filter(|(nexus, _)| nexus.target == target);
        sessions.filter_map(|(_, tsih)| Some(self.open.get(tsih)?.place)).collect()
    }

    /// A handle that no session has.
    fn new_tsih(&mut self) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            if !self.open.contains_key(&self.last_tsih) {
                return Some(self.last_tsih);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunette_store::ReactorId;

    fn nexus(target: &str, group: u16, isid: u8) -> Option<NexusKey> {
        let initiator = InitiatorPort { name: "iqn.x".to_owned(), isid: [0, 0, 0, 0, 0, isid] };
        Some(NexusKey { target: target.to_owned(), group, initiator })
    }

    fn place(connection: u64) -> Place {
        Place { reactor: ReactorId(0), connection }
    }

    #[test]
    fn a_session_is_replaced_by_one_of_the_same_nexus() {
        let mut table = SessionTable::new(4);
        assert_eq!(table.open(nexus("a", 1, 1), None, place(1)), Ok((1, None)));
        assert_eq!(table.open(nexus("a", 1, 2), None, place(2)), Ok((2, None)));
        assert_eq!(table.open(nexus("a", 1, 1), None, place(3)), Ok((3, Some(place(1)))));
        assert_eq!(table.places_of("a").len(), 2);
        table.close(1, place(1));
        assert_eq!(table.places_of("a").len(), 2);
        table.close(3, place(3));
        assert_eq!(table.places_of("a"), [place(2)]);
        assert_eq!(table.open(nexus("a", 2, 2), None, place(4)), Ok((4, None)), "in another group");
        assert_eq!(table.open(nexus("b", 1, 2), None, place(5)), Ok((5, None)), "with another target");
        assert_eq!(table.open(None, None, place(6)), Ok((6, None)));
        assert_eq!(table.open(None, None, place(7)), Ok((7, None)), "discovery replaces nothing");
        assert_eq!(table.places_of("a").len(), 2);
        assert_eq!(table.places_of("b"), [place(5)]);
    }

    #[test]
    fn who_has_proved_to_be_somebody_is_replaced_by_himself_only() {
        let mut table = SessionTable::new(4);
        let mut log_in = |account, at| table.open(nexus("a", 1, 1), account, place(at));
        assert_eq!(log_in(None, 1), Ok((1, None)));
        assert_eq!(log_in(Some("ada"), 2), Ok((2, Some(place(1)))), "who proves more may");
        assert_eq!(log_in(Some("bob"), 3), Err(NoSession::Taken));
        assert_eq!(log_in(None, 4), Err(NoSession::Taken));
        assert_eq!(log_in(Some("ada"), 5), Ok((3, Some(place(2)))));
        assert_eq!(table.places_of("a"), [place(5)]);
    }

    #[test]
    fn a_connection_takes_the_place_of_its_predecessor_only() {
        let mut table = SessionTable::new(4);
        let agreed = Parameters { max_burst_length: 4096, ..Parameters::DEFAULT };
        table.open(nexus("a", 1, 1), Some("ada"), place(1)).unwrap();
        table.agreed(1, 7, agreed);
        let mut join = |tsih, cid, isid, account, at| {
            table.join((tsih, cid), &nexus("a", 1, isid).unwrap(), account, place(at))
        };
        assert_eq!(join(2, 7, 1, Some("ada"), 2), Err(NoSession::Unknown));
        assert_eq!(join(1, 7, 2, Some("ada"), 2), Err(NoSession::Unknown));
        assert_eq!(join(1, 8, 1, Some("ada"), 2), Err(NoSession::Occupied));
        assert_eq!(join(1, 7, 1, None, 2), Err(NoSession::Taken));
        assert_eq!(join(1, 7, 1, Some("ada"), 2), Ok((agreed, place(1))));
        table.close(1, place(1));
        assert_eq!(table.place_of(1), Some(place(2)));
        table.close(1, place(2));
        assert_eq!(table.place_of(1), None);
    }

    #[test]
    fn an_initiator_has_so_many_sessions() {
        let mut table = SessionTable::new(2);
        assert_eq!(table.open(nexus("a", 1, 1), None, place(1)), Ok((1, None)));
        assert_eq!(table.open(nexus("b", 1, 1), None, place(2)), Ok((2, None)));
        assert_eq!(table.open(nexus("a", 1, 2), None, place(3)), Err(NoSession::Greedy));
        let initiator = InitiatorPort { name: "iqn.y".to_owned(), isid: [0; 6] };
        let other = NexusKey { target: "a".to_owned(), group: 1, initiator };
        assert_eq!(table.open(Some(other), None, place(4)), Ok((3, None)));
        assert_eq!(
            table.open(nexus("a", 1, 1), None, place(5)),
            Ok((4, Some(place(1)))),
            "in place of another"
        );
        assert_eq!(table.open(None, None, place(6)), Ok((5, None)), "discovery");
        table.close(2, place(2));
        assert_eq!(table.open(nexus("a", 1, 2), None, place(7)), Ok((6, None)));
    }

    #[test]
    fn handles_in_use_and_zero_are_left_out() {
        let mut table = SessionTable::new(4);
        table.open(None, None, place(1)).unwrap();
        table.last_tsih = u16::MAX;
        assert_eq!(table.open(None, None, place(2)).unwrap().0, 2);
    }

    #[test]
    fn initiator_ports_have_a_name() {
        let info = SessionInfo {
            initiator_name: "IQN.x".to_owned(),
            isid: [0, 0, 0, 0, 0, 10],
            ..SessionInfo::default()
        };
        assert_eq!(InitiatorPort::of(&info).to_string(), "iqn.x,i,0x00000000000a");
    }
}
