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
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

/// What is left when all has come to rest.
#[derive(Default)]
pub(crate) struct Left {
    /// By their world-wide names.
    pub(crate) units: BTreeMap<String, UnitState>,
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
    let once = Some(custodian.keep(Once::new()?.file())?);
    let mut document = Document { version: VERSION, units: left.units, once, ..Document::default() };
    // A manager passes them again.
    if !custodian.is_manager() {
        for (name, socket) in given.all() {
            document.given.push((name.clone(), custodian.keep(socket.as_fd())?));
        }
    }
    for ((listen, number), socket) in left.portals {
        if !given.has(socket.as_fd()) {
            let descriptor = custodian.keep(socket.as_fd())?;
            document.portals.push(KeptPortal { listen, number, descriptor });
        }
    }
    for (name, Memory { file, size, record }) in left.memories {
        let descriptor = custodian.keep(file.as_fd())?;
        document.memories.insert(name, KeptMemory { descriptor, size, record });
    }
    for (number, (name, LeftExport { handed, nexuses, is_connected })) in (first..).zip(left.exports) {
        let HandedExport { listener, file, connection } = handed;
        let kept = |(socket, file): (OwnedFd, _)| {
            Ok(KeptListener { descriptor: custodian.keep(socket.as_fd())?, file })
        };
        let listener = listener.zip(file).map(kept).transpose().map_err(|error: std::io::Error| error)?;
        if let Some(connection) = connection {
            keep_guest(number, &name, connection, custodian)?;
        }
        let nexuses = serde_json::to_value(nexuses)?;
        document.exports.insert(name, KeptExport { nexuses, listener, is_connected });
    }
    for HandedSession { socket, state } in left.sessions {
        let descriptor = custodian.keep(socket.as_fd())?;
        document.sessions.push(KeptSession { descriptor, state: serde_json::to_value(state)? });
    }
    // The last: without it, nothing is planned.
    custodian.keep_as(STATE, document::write(&document)?.as_fd())?;
    custodian.settle()
}

fn keep_guest(
    number: u64,
    export: &str,
    connection: HandedConnection,
    custodian: &mut Custodian,
) -> Result<()> {
    let guest = guest(export, connection, custodian)?;
    Ok(custodian.keep_as(&format!("{GUEST}{number}"), document::write(&guest)?.as_fd())?)
}

/// Has the custodian keep the descriptors of a connection. Returns what there is to say of it.
pub(super) fn guest(
    export: &str,
    HandedConnection { record, fds }: HandedConnection,
    custodian: &mut Custodian,
) -> Result<Guest> {
    let mut descriptors = BTreeMap::new();
    for (role, fd) in &fds {
        match custodian.keep(fd.as_fd()) {
            Ok(name) => drop(descriptors.insert(role.to_string(), name)),
            Err(error) => {
                release(descriptors.values(), custodian);
                return Err(error).with_context(|| export.to_owned());
            }
        }
    }
    Ok(Guest { version: VERSION, export: export.to_owned(), descriptors, record })
}

/// The custodian need not keep descriptors of which nobody will know.
pub(super) fn release<'a>(names: impl Iterator<Item = &'a String>, custodian: &mut Custodian) {
    // Whoever cannot be told this keeps them in vain.
    names.for_each(|name| drop(custodian.release(name)));
}
