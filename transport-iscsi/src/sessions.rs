//! The sessions of a network entity.

use crate::gatekeeper::Origin;
use crate::local::Place;
use crate::patterns::fold;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::target::SessionInfo;
use std::collections::hash_map::{self, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The name of a SCSI initiator port (RFC 7143 4.4.2).
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

/// What an access rule is known by, in whatever place of its list it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RuleId(u64);

impl RuleId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// As what an initiator was let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The target's access rule; `None`: the target has none.
    pub(crate) rule: Option<RuleId>,
    /// The name under which it has proved who it is.
    pub(crate) account: Option<String>,
    /// Where it came from.
    pub(crate) origin: Origin,
}

impl Entry {
    /// Of a session that `rule` has let in, from `address`.
    pub(crate) fn new(rule: Option<RuleId>, info: &SessionInfo, address: IpAddr) -> Self {
        Self { rule, account: info.authenticated.clone(), origin: Origin::of(address) }
    }

    /// Whether it may have what `holder` has. Initiators give themselves their names: without this, anybody could take over
    /// anybody's session.
    fn may_take_over(&self, holder: &Self) -> bool {
        (self.rule, &self.account) == (holder.rule, &holder.account)
    }

    /// Whether sessions of one initiator name are counted together with those of `other`. Otherwise, anybody could use up
    /// the sessions of any name.
    fn counts_with(&self, other: &Self) -> bool {
        (&self.account, self.origin) == (&other.account, other.origin)
    }
}

/// The sessions of all targets. Their handles differ, also from one target to another, so that a handle alone names a session.
pub(crate) struct SessionTable {
    /// How many one initiator has at most from one place, discovery not counted.
    most_of_initiator: usize,
    last_tsih: u16,
    open: HashMap<u16, Record>,
    by_nexus: HashMap<NexusKey, Holders>,
}

/// Who has a nexus.
#[derive(Default)]
struct Holders {
    /// The latest session.
    latest: Option<u16>,
    /// The connection that has to be over before the latest session may begin, and as what it was let in. Its end may wait
    /// for a store, so there are never two: who has not begun yet leaves it to whoever comes after him.
    ending: Option<(Place, Entry)>,
}

/// Whether a session may begin that has taken the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Now,
    /// When the connection at this place is over.
    After(Place),
    /// Never: it has been replaced in turn.
    Gone,
}

struct Record {
    place: Place,
    /// `None` in a discovery session.
    nexus: Option<NexusKey>,
    entry: Entry,
    /// The session's connection, and what was agreed on for the session.
    leading: Option<(u16, Parameters)>,
    /// No other connection can go on with it.
    is_ending: bool,
}

/// Why there is no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoSession {
    /// There are too many.
    Full,
    /// The initiator has too many.
    Greedy,
    /// The session of this nexus was let in as something else.
    Taken,
    /// There is no session of this nexus with this handle.
    Unknown,
    /// The session has another connection.
    Occupied,
}

impl Holders {
    /// The connection at `place` is over. False: nobody has the nexus any more.
    fn end_at(&mut self, place: Place) -> bool {
        self.ending.take_if(|(ending, _)| *ending == place);
        self.latest.is_some() || self.ending.is_some()
    }
}

impl SessionTable {
    pub(crate) fn new(most_of_initiator: usize) -> Self {
        Self { most_of_initiator, last_tsih: 0, open: HashMap::new(), by_nexus: HashMap::new() }
    }

    /// Those that are open stay.
    pub(crate) fn set_most_of_initiator(&mut self, most: usize) {
        self.most_of_initiator = most;
    }

    /// Opens a session at `place`, of this nexus or for discovery. Returns its handle and where the session is that it
    /// replaces: when that is over, its [`turn`](Self::turn) may have come.
    pub(crate) fn open(
        &mut self,
        nexus: Option<NexusKey>,
        entry: Entry,
        place: Place,
    ) -> Result<(u16, Option<Place>), NoSession> {
        let mut before = None;
        if let Some(nexus) = &nexus {
            before = self.holder(nexus);
            if before.as_ref().is_some_and(|(_, holder)| !entry.may_take_over(holder)) {
                return Err(NoSession::Taken);
            }
            if self.count_of(nexus, &entry) >= self.most_of_initiator {
                return Err(NoSession::Greedy);
            }
        }
        let tsih = self.new_tsih().ok_or(NoSession::Full)?;
        let replaces = before.as_ref().map(|(place, _)| *place);
        if let Some(nexus) = &nexus {
            let holders = self.by_nexus.entry(nexus.clone()).or_default();
            holders.latest = Some(tsih);
            holders.ending = holders.ending.take().or(before);
        }
        self.open.insert(tsih, Record { place, nexus, entry, leading: None, is_ending: false });
        Ok((tsih, replaces))
    }

    /// A session of another process goes on at `place`, under its handle and with what its connection has agreed on. False: there
    /// is one of this handle or nexus.
    pub(crate) fn resume(
        &mut self,
        tsih: u16,
        nexus: NexusKey,
        entry: Entry,
        place: Place,
        leading: (u16, Parameters),
    ) -> bool {
        if self.open.contains_key(&tsih) || self.by_nexus.contains_key(&nexus) {
            return false;
        }
        self.by_nexus.insert(nexus.clone(), Holders { latest: Some(tsih), ending: None });
        let record = Record { place, nexus: Some(nexus), entry, leading: Some(leading), is_ending: false };
        self.open.insert(tsih, record);
        true
    }

    /// Where a nexus is, and who has it: its latest session, or else what is still ending.
    fn holder(&self, nexus: &NexusKey) -> Option<(Place, Entry)> {
        let Holders { latest, ending } = self.by_nexus.get(nexus)?;
        let latest = latest.and_then(|tsih| self.open.get(&tsih));
        latest.map(|session| (session.place, session.entry.clone())).or_else(|| ending.clone())
    }

    /// How many sessions the initiator of `nexus` has that count with one of this entry, but for that of `nexus`.
    fn count_of(&self, nexus: &NexusKey, entry: &Entry) -> usize {
        let name = &nexus.initiator.name;
        let others =
            self.by_nexus.iter().filter(|(other, _)| other.initiator.name == *name && *other != nexus);
        let records = others.filter_map(|(_, holders)| self.open.get(&holders.latest?));
        records.filter(|record| record.entry.counts_with(entry)).count()
    }

    /// What a session's first connection has agreed on.
    pub(crate) fn agreed(&mut self, tsih: u16, cid: u16, parameters: Parameters) {
        if let Some(session) = self.open.get_mut(&tsih) {
            session.leading = Some((cid, parameters));
        }
    }

    /// From now on, no connection can go on with this session. Returns where it is, if there is one.
    pub(crate) fn begin_end(&mut self, tsih: u16) -> Option<Place> {
        let session = self.open.get_mut(&tsih)?;
        session.is_ending = true;
        Some(session.place)
    }

    /// A connection at `place` takes the place of the one that a session has (RFC 7143 6.3.4). Returns what was agreed on for
    /// the session, and where that one is.
    pub(crate) fn join(
        &mut self,
        (tsih, cid): (u16, u16),
        nexus: &NexusKey,
        entry: &Entry,
        place: Place,
    ) -> Result<(Parameters, Place), NoSession> {
        // One that has been replaced is over, even if its connection is still to learn that.
        let holders = self.by_nexus.get_mut(nexus).filter(|holders| holders.latest == Some(tsih));
        let session = self.open.get_mut(&tsih).filter(|session| !session.is_ending);
        let (holders, session) = holders.zip(session).ok_or(NoSession::Unknown)?;
        if !entry.may_take_over(&session.entry) {
            return Err(NoSession::Taken);
        }
        match session.leading {
            Some((leading, parameters)) if leading == cid => {
                let before = std::mem::replace(&mut session.place, place);
                holders.ending.get_or_insert_with(|| (before, session.entry.clone()));
                Ok((parameters, before))
            }
            _ => Err(NoSession::Occupied),
        }
    }

    /// A session counts as let in by this access rule from now on.
    pub(crate) fn readmit(&mut self, tsih: u16, rule: Option<RuleId>) {
        if let Some(session) = self.open.get_mut(&tsih) {
            session.entry.rule = rule;
        }
    }

    /// Where a session is.
    pub(crate) fn place_of(&self, tsih: u16) -> Option<Place> {
        self.open.get(&tsih).map(|session| session.place)
    }

    /// Whether the session may begin that has taken the place of another at `place`.
    pub(crate) fn turn(&self, tsih: u16, place: Place) -> Turn {
        let Some(session) = self.open.get(&tsih).filter(|session| session.place == place) else {
            return Turn::Gone;
        };
        match session.nexus.as_ref().and_then(|nexus| self.by_nexus.get(nexus)) {
            Some(Holders { latest, .. }) if *latest != Some(tsih) => Turn::Gone,
            Some(Holders { ending: Some((before, _)), .. }) => Turn::After(*before),
            _ => Turn::Now,
        }
    }

    /// A session has ended at `place`; it is over, unless it goes on elsewhere.
    pub(crate) fn close(&mut self, tsih: u16, place: Place) {
        if self.place_of(tsih) != Some(place) {
            // It went on elsewhere; a few do.
            return self.by_nexus.retain(|_, holders| holders.end_at(place));
        }
        let Some(Record { nexus: Some(nexus), .. }) = self.open.remove(&tsih) else { return };
        if let hash_map::Entry::Occupied(mut holders) = self.by_nexus.entry(nexus) {
            holders.get_mut().latest.take_if(|latest| *latest == tsih);
            if !holders.get_mut().end_at(place) {
                holders.remove();
            }
        }
    }

    /// Where the sessions with a target are, through whichever portal group.
    pub(crate) fn places_of(&self, target: &str) -> Vec<Place> {
        let sessions = self.by_nexus.iter().filter(|(nexus, _)| nexus.target == target);
        sessions.filter_map(|(_, holders)| Some(self.open.get(&holders.latest?)?.place)).collect()
    }

    /// Where the sessions with the target of session `tsih` are that were let in by the same access rule, also this one: those
    /// that see the same logical units.
    pub(crate) fn places_of_rule(&self, tsih: u16) -> Vec<Place> {
        let Some(Record { nexus: Some(own), entry: Entry { rule, .. }, .. }) = self.open.get(&tsih) else {
            return Vec::new();
        };
        let sessions = self.by_nexus.iter().filter(|(nexus, _)| nexus.target == own.target);
        let records = sessions.filter_map(|(_, holders)| self.open.get(&holders.latest?));
        records.filter(|record| record.entry.rule == *rule).map(|record| record.place).collect()
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
mod tests;
