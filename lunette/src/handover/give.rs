//! The old daemon's side.

use super::document::{
    self, Document, GUEST, Guest, KeptExport, KeptListener, KeptMemory, KeptPortal, KeptSession, Once, STATE,
    VERSION,
};
use crate::config::PortalKey;
use crate::custodian::Custodian;
use crate::inherited::GivenSockets;
use crate::state::Record;
use anyhow::{Context, Result};
use lunette_engine::{NexusState, UnitState};
use lunette_transport_iscsi::HandedSession;
use lunette_transport_vhost_user::{HandedConnection, HandedExport};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

/// What is left when all has come to rest.
#[derive(Default)]
pub(crate) struct Left {
    /// By their world-wide names.
    pub(crate) units: BTreeMap<String, UnitState>,
    /// In which terms those are that several daemons could serve, by their world-wide names.
    pub(crate) terms: BTreeMap<String, u64>,
    /// Disks in memory, by the names of units.
    pub(crate) memories: BTreeMap<String, Memory>,
    pub(crate) portals: Vec<(PortalKey, TcpListener)>,
    /// By the names of their endpoints.
    pub(crate) exports: BTreeMap<String, LeftExport>,
    pub(crate) sessions: Vec<HandedSession>,
    /// What has not ended in time, for people.
    pub(crate) stuck: Vec<String>,
}

/// The bytes of a disk in memory.
pub(crate) struct Memory {
    pub(crate) file: OwnedFd,
    /// Bytes.
    pub(crate) size: u64,
    /// Who it is, if it is not known by its name.
    pub(crate) record: Option<Record>,
}

/// An export that has come to rest.
pub(crate) struct LeftExport {
    pub(crate) handed: HandedExport,
    pub(crate) nexuses: BTreeMap<u8, NexusState>,
    /// It ends with its connection.
    pub(crate) is_connected: bool,
}

/// Has the custodian keep all of it, and returns when it does. Records of guests are numbered from `first` on.
pub(crate) fn give(left: Left, given: &GivenSockets, custodian: &mut Custodian, first: u64) -> Result<()> {
    let once = Some(custodian.keep_first(Once::new()?.file())?);
    let mut document =
        Document { version: VERSION, units: left.units, terms: left.terms, once, ..Document::default() };
    // A manager passes them again.
    if !custodian.is_manager() {
        for (name, socket) in given.all() {
            document.given.push((name.clone(), custodian.keep(socket.as_fd())?));
        }
    }
    for ((listen, number), socket) in left.portals {
        if !given.has(socket.as_fd())
            && let Some(descriptor) = if_room(&listen, custodian.keep(socket.as_fd()))?
        {
            document.portals.push(KeptPortal { listen, number, descriptor });
        }
    }
    for (name, Memory { file, size, record }) in left.memories {
        if let Some(descriptor) = if_room(&name, custodian.keep(file.as_fd()))? {
            document.memories.insert(name, KeptMemory { descriptor, size, record });
        }
    }
    for (number, (name, LeftExport { handed, nexuses, is_connected })) in (first..).zip(left.exports) {
        let HandedExport { listener, file, connection } = handed;
        let kept = |(socket, file): (OwnedFd, _)| {
            let descriptor = if_room(&name, custodian.keep(socket.as_fd()))?;
            anyhow::Ok(descriptor.map(|descriptor| KeptListener { descriptor, file }))
        };
        let listener = listener.zip(file).map(kept).transpose()?.flatten();
        if let Some(connection) = connection {
            if_room(&name, keep_guest(number, &name, connection, custodian))?;
        }
        let nexuses = serde_json::to_value(nexuses)?;
        document.exports.insert(name, KeptExport { nexuses, listener, is_connected });
    }
    for HandedSession { socket, state } in left.sessions {
        if let Some(descriptor) = if_room(&state.info().initiator_name, custodian.keep(socket.as_fd()))? {
            document.sessions.push(KeptSession { descriptor, state: serde_json::to_value(state)? });
        }
    }
    // The last: without it, nothing is planned.
    custodian.keep_first_as(STATE, document::write(&document)?.as_fd())?;
    custodian.settle()
}

/// What came of keeping something; nothing, with a line in the log, if the custodian has no room for it. All else goes on.
fn if_room<T>(what: &impl Display, kept: io::Result<T>) -> Result<Option<T>> {
    match kept {
        Ok(kept) => Ok(Some(kept)),
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            tracing::warn!("{what} will not survive the restart: {error}");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| what.to_string()),
    }
}

fn keep_guest(
    number: u64,
    export: &str,
    connection: HandedConnection,
    custodian: &mut Custodian,
) -> io::Result<()> {
    let guest = guest(export, &connection, custodian)?;
    custodian
        .keep_as(&format!("{GUEST}{number}"), document::write(&guest)?.as_fd())
        .inspect_err(|_| release(guest.descriptors.values(), custodian))
}

/// Has the custodian keep the descriptors of a connection. Returns what there is to say of it.
pub(super) fn guest(
    export: &str,
    HandedConnection { record, fds }: &HandedConnection,
    custodian: &mut Custodian,
) -> io::Result<Guest> {
    let mut descriptors = BTreeMap::new();
    for (role, fd) in fds {
        match custodian.keep(fd.as_fd()) {
            Ok(name) => drop(descriptors.insert(role.to_string(), name)),
            Err(error) => {
                release(descriptors.values(), custodian);
                return Err(error);
            }
        }
    }
    Ok(Guest { version: VERSION, export: export.to_owned(), descriptors, record: record.clone() })
}

/// The custodian need not keep descriptors of which nobody will know.
pub(super) fn release<'a>(mut names: impl Iterator<Item = &'a String>, custodian: &mut Custodian) {
    // Whoever cannot be told this keeps them in vain, and is not waited for again and again.
    let _ = names.try_for_each(|name| custodian.release(name));
}
