//! The new daemon's side.

use super::document::{
    self, Document, GUEST, Guest, KeptExport, KeptListener, KeptMemory, KeptSession, Once, STATE,
};
use super::recorder::{Books, Kept};
use crate::config::PortalKey;
use crate::custodian::{Custodian, DESCRIPTOR};
use crate::state::Record;
use anyhow::Result;
use lunette_engine::{NexusState, UnitState};
use lunette_transport_iscsi::{HandedSession, HandedState};
use lunette_transport_vhost_user::{HandedConnection, Role};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// What another process has left, and nobody has taken yet.
#[derive(Default, Debug)]
pub(crate) struct Handed {
    /// By what names the custodian knows it.
    names: Vec<String>,
    /// All has come to rest there, and goes on here.
    is_planned: bool,
    document: Document,
    once: Option<Once>,
    /// World-wide names of units in memory whose bytes have not come.
    emptied: HashSet<String>,
    /// Names of those whose bytes have.
    came: HashSet<String>,
    /// By the names of their exports, with those of their records.
    pub(super) guests: HashMap<String, (String, Guest)>,
    descriptors: Descriptors,
}

/// Whether a custodian keeps something of a daemon by this name, rather than a socket that it has made.
pub(crate) fn is_kept(name: &str) -> bool {
    name == STATE
        || name
            .strip_prefix([GUEST, DESCRIPTOR])
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The number in a name.
fn number(name: &str) -> u64 {
    name.get(1..).and_then(|number| number.parse().ok()).unwrap_or_default()
}

impl Handed {
    /// Looks at what a custodian has given back. What is wrong with it is logged.
    pub(crate) fn read(kept: Vec<(String, OwnedFd)>) -> Self {
        let mut handed =
            Self { names: kept.iter().map(|(name, _)| name.clone()).collect(), ..Self::default() };
        let mut said = Vec::new();
        for (name, fd) in kept {
            match name.starts_with(DESCRIPTOR) {
                true => handed.descriptors.insert(name, fd),
                false => said.push((name, fd)),
            }
        }
        // Whether something is planned says which records count.
        said.sort_by_key(|(name, _)| name != STATE);
        for (name, file) in said {
            let read = match name.as_str() {
                STATE => document::read(file).map(|document| handed.plan(document)),
                _ => document::read(file).map(|guest: Guest| handed.add(name.clone(), guest)),
            };
            if let Err(error) = read {
                tracing::warn!("what another process has handed over as `{name}` is of no use: {error}");
            }
        }
        handed.count();
        handed
    }

    /// One of units alone.
    #[cfg(test)]
    pub(crate) fn with_units(units: BTreeMap<String, UnitState>) -> Self {
        Self { document: Document { units, ..Document::default() }, is_planned: true, ..Self::default() }
    }

    #[cfg(test)]
    pub(crate) fn with_terms(self, terms: BTreeMap<String, u64>) -> Self {
        Self { document: Document { terms, ..self.document }, ..self }
    }

    /// Of two records of a guest the newer counts: the process has died before it took the older back. One that has come to rest
    /// belongs to the document.
    fn add(&mut self, record: String, guest: Guest) {
        let is_older = |(other, _): &(String, Guest)| number(other) > number(&record);
        let is_alone = guest.record.is_drained() && !self.is_planned;
        if !is_alone && !self.guests.get(&guest.export).is_some_and(is_older) {
            self.guests.insert(guest.export.clone(), (record, guest));
        }
    }

    fn plan(&mut self, document: Document) {
        let once = document.once.as_ref().map(|name| self.descriptors.copy(name).map(Once::adopt));
        if matches!(&once, Some(None)) || matches!(&once, Some(Some(once)) if !once.is_new()) {
            tracing::warn!(
                "another process has gone on already with what was handed over: it is out of date"
            );
            return;
        }
        self.once = once.flatten();
        self.is_planned = true;
        self.document = document;
    }

    /// Counts what descriptors are for, so that the last of those who share one gets it.
    fn count(&mut self) {
        let Document { memories, portals, exports, sessions, given, .. } = &self.document;
        let guests = self.guests.values().flat_map(|(_, guest)| guest.descriptors.values());
        let listeners = exports.values().filter_map(|export| export.listener.as_ref());
        let names = guests
            .chain(memories.values().map(|memory| &memory.descriptor))
            .chain(portals.iter().map(|portal| &portal.descriptor))
            .chain(listeners.map(|listener| &listener.descriptor))
            .chain(sessions.iter().map(|session| &session.descriptor))
            .chain(given.iter().map(|(_, descriptor)| descriptor));
        for name in names {
            self.descriptors.expect(name);
        }
        // A socket that nobody takes would be in the way of who listens anew.
        self.descriptors.0.retain(|_, (_, wanted)| *wanted > 0);
    }

    /// From now on this process goes on with it: no other does that will be started if this one should end as well. The service
    /// manager keeps nothing more of that. Returns what it keeps on, if it has a store.
    pub(crate) fn settle(&mut self) -> Option<Books> {
        self.begin();
        let told = Custodian::manager()?.and_then(|custodian| self.settle_with(custodian));
        told.inspect_err(|error| {
            tracing::warn!("what is kept by the service manager may be out of date: {error:#}")
        })
        .ok()
    }

    /// What was planned is used up.
    pub(super) fn begin(&mut self) {
        if let Some(once) = self.once.take()
            && let Err(error) = once.use_up()
        {
            tracing::warn!("what was handed over may be taken once more: {error}");
        }
    }

    pub(super) fn settle_with(&self, mut custodian: Custodian) -> Result<Books> {
        let mut stays = HashSet::new();
        let mut guests = HashMap::new();
        // What has come to rest is out of date when it goes on. What has not is what its memory says.
        for (export, (record, guest)) in
            self.guests.iter().filter(|(_, (_, guest))| !guest.record.is_drained())
        {
            let descriptors: Vec<_> = guest.descriptors.values().cloned().collect();
            for name in &descriptors {
                if let Some((fd, _)) = self.descriptors.0.get(name) {
                    custodian.has(number(name), fd.as_fd());
                }
            }
            custodian.has_as(record);
            stays.extend(descriptors.iter().chain([record]).cloned());
            guests.insert(export.clone(), Kept { record: record.clone(), descriptors });
        }
        let old: Vec<_> = self.names.iter().filter(|name| !stays.contains(*name)).collect();
        old.iter().try_for_each(|name| custodian.forget(name))?;
        if !old.is_empty() {
            custodian.settle()?;
        }
        let next =
            self.names.iter().filter(|name| name.starts_with(GUEST)).map(|name| number(name) + 1).max();
        Ok(Books::new(custodian, guests, next.unwrap_or_default()))
    }

    /// Whether another process has come to rest for this one.
    pub(crate) fn is_planned(&self) -> bool {
        self.is_planned
    }

    /// The sockets that the other process was started with, and what they were called.
    pub(crate) fn given(&mut self) -> Vec<(String, OwnedFd)> {
        let given = std::mem::take(&mut self.document.given);
        given
            .into_iter()
            .filter_map(|(name, descriptor)| Some((name, self.descriptors.take(&descriptor)?)))
            .collect()
    }

    /// The exports that end with their connections, with these.
    pub(crate) fn connected(&mut self) -> Vec<(String, UnixStream)> {
        let Self { document, guests, descriptors, .. } = self;
        let connected = document.exports.iter().filter(|(_, export)| export.is_connected);
        let mut socket = |name: &str| {
            let socket = guests.get(name)?.1.descriptors.get(&Role::Socket.to_string())?;
            descriptors.expect(socket);
            Some((name.to_owned(), UnixStream::from(descriptors.take(socket)?)))
        };
        connected.filter_map(|(name, _)| socket(name)).collect()
    }

    /// The bytes of the disk in memory that has this name, and how many.
    pub(crate) fn memory(&mut self, unit: &str) -> Option<(OwnedFd, u64)> {
        let KeptMemory { descriptor, size, .. } = self.document.memories.get(unit)?;
        Some((self.descriptors.take(descriptor)?, *size))
    }

    /// The unit of this world-wide name is in memory. If its bytes have not come, nobody goes on with it.
    pub(crate) fn is_in_memory(&mut self, unit: &str, naa: String) {
        if !self.came.contains(unit) {
            self.emptied.insert(naa);
        }
    }

    /// The bytes of the disk in memory that has this name are of use.
    pub(crate) fn has_come(&mut self, unit: &str) {
        self.came.insert(unit.to_owned());
    }

    /// Whether one of these units, by their world-wide names, has lost its bytes.
    pub(crate) fn has_lost<'a>(&self, mut naas: impl Iterator<Item = &'a str>) -> bool {
        naas.any(|naa| self.emptied.contains(naa))
    }

    /// By what initiators know the disk in memory that has this name.
    pub(crate) fn record(&mut self, unit: &str) -> Option<Record> {
        self.document.memories.get_mut(unit)?.record.take()
    }

    /// Whether bytes of a unit's store were lost, by its world-wide name.
    pub(crate) fn has_failed(&self, naa: &str) -> bool {
        self.document.units.get(naa).is_some_and(UnitState::has_failed)
    }

    /// How often a unit had been taken that several daemons can serve, by its world-wide name.
    pub(crate) fn term(&self, naa: &str) -> Option<u64> {
        self.document.terms.get(naa).copied()
    }

    /// The state of a unit, by its world-wide name.
    pub(crate) fn unit(&mut self, naa: &str) -> Option<UnitState> {
        self.document.units.remove(naa)
    }

    /// The socket of a portal.
    pub(crate) fn portal(&mut self, (listen, number): &PortalKey) -> Option<TcpListener> {
        let portals = &mut self.document.portals;
        let at = portals.iter().position(|portal| portal.listen == *listen && portal.number == *number)?;
        let portal = portals.swap_remove(at);
        Some(self.descriptors.take(&portal.descriptor)?.into())
    }

    /// The socket of an export, with device and inode of its file.
    pub(crate) fn listener(&mut self, export: &str) -> Option<(UnixListener, (u64, u64))> {
        let KeptListener { descriptor, file } = self.document.exports.get_mut(export)?.listener.take()?;
        Some((self.descriptors.take(&descriptor)?.into(), file))
    }

    /// The states of the nexuses of an export, by target.
    pub(crate) fn nexuses(&mut self, export: &str) -> BTreeMap<u8, NexusState> {
        let KeptExport { nexuses, .. } = self.document.exports.remove(export).unwrap_or_default();
        understand(export, nexuses).unwrap_or_default()
    }

    /// The connection of an export.
    pub(crate) fn connection(&mut self, export: &str) -> Option<HandedConnection> {
        let (_, Guest { descriptors, record, .. }) = self.guests.remove(export)?;
        let mut take = |(role, name): (String, String)| {
            Some((role.parse::<Role>().ok()?, self.descriptors.take(&name)?))
        };
        let count = descriptors.len();
        let fds: BTreeMap<_, _> = descriptors.into_iter().map_while(&mut take).collect();
        // Without one, it would be a ring of which nobody hears, or whose driver does not.
        if fds.len() < count {
            tracing::warn!("{export} does not go on: not all of its descriptors were handed over");
            return None;
        }
        Some(HandedConnection { record, fds })
    }

    /// The iSCSI sessions.
    pub(crate) fn sessions(&mut self) -> Vec<HandedSession> {
        let sessions = std::mem::take(&mut self.document.sessions);
        let session = |KeptSession { descriptor, state }| {
            let socket = self.descriptors.take(&descriptor);
            let state: HandedState = understand("an iSCSI session", state)?;
            if self.has_lost(state.units()) {
                tracing::warn!(
                    "an iSCSI session does not go on: the bytes of a disk in memory were not handed over"
                );
                return None;
            }
            Some(HandedSession { state, socket: socket? })
        };
        sessions.into_iter().filter_map(session).collect()
    }
}

/// A part of what was said. If it cannot be understood, what it is about begins anew.
fn understand<T: DeserializeOwned>(what: &str, value: Value) -> Option<T> {
    match value {
        Value::Null => None,
        value => serde_json::from_value(value)
            .inspect_err(|error| {
                tracing::warn!("{what} begins anew, as what was handed over is of no use: {error}")
            })
            .ok(),
    }
}

/// Descriptors by their names, and how many more want them.
#[derive(Default, Debug)]
struct Descriptors(HashMap<String, (OwnedFd, usize)>);

impl Descriptors {
    fn insert(&mut self, name: String, fd: OwnedFd) {
        self.0.insert(name, (fd, 0));
    }

    /// One more will ask for it.
    fn expect(&mut self, name: &str) {
        if let Some((_, wanted)) = self.0.get_mut(name) {
            *wanted += 1;
        }
    }

    fn copy(&self, name: &str) -> Option<OwnedFd> {
        self.0.get(name)?.0.try_clone().ok()
    }

    fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let (fd, wanted) = self.0.get_mut(name)?;
        *wanted = wanted.saturating_sub(1);
        match wanted {
            0 => self.0.remove(name).map(|(fd, _)| fd),
            _ => fd.try_clone().ok(),
        }
    }
}
