//! The ways in: one target port for iSCSI with all its portals, and one for each vhost-user socket.

use crate::state::{Key, StateDir};
use crate::summary;
use crate::units::Unit;
use anyhow::{Context, Result};
use lunette_engine::{LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_iscsi::{self as iscsi, Portal};
use lunette_transport_vhost_user::{Handle, Options as VhostUserOptions, VhostUserExport};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the units are served.
pub(crate) struct Places {
    /// Name of the iSCSI target.
    pub(crate) target: String,
    pub(crate) iscsi: Vec<SocketAddr>,
    pub(crate) vhost_user: Vec<PathBuf>,
}

/// What is being served where.
pub(crate) struct Exports {
    target: String,
    luns: Vec<u32>,
    portals: Vec<Portal>,
    vhost_user: Vec<Handle>,
}

impl Exports {
    /// Starts to serve `units` at all `places`; at none if one of them is not possible.
    pub(crate) fn start(
        places: &Places,
        units: &BTreeMap<u32, Unit>,
        state: &StateDir,
        reactors: &Reactors,
    ) -> Result<Self> {
        let by_lun: BTreeMap<u32, Arc<LogicalUnit>> =
            units.iter().map(|(lun, unit)| (*lun, unit.unit.clone())).collect();
        let mut exports = Self {
            target: places.target.clone(),
            luns: by_lun.keys().copied().collect(),
            portals: Vec::new(),
            vhost_user: Vec::new(),
        };
        let started = exports
            .start_iscsi(places, &by_lun, reactors)
            .and_then(|()| exports.start_vhost_user(places, &by_lun, state, reactors));
        match started {
            Ok(()) => Ok(exports),
            Err(error) => {
                exports.stop(reactors);
                Err(error)
            }
        }
    }

    fn start_iscsi(
        &mut self,
        places: &Places,
        units: &BTreeMap<u32, Arc<LogicalUnit>>,
        reactors: &Reactors,
    ) -> Result<()> {
        if places.iscsi.is_empty() {
            return Ok(());
        }
        // Target portal group tag 1 (RFC 7143 4.4.3 makes the port's name from both).
        let port = TargetPort::new(format!("{},t,0x0001", places.target), 1, Protocol::ISCSI, units.clone());
        let options = iscsi::Options { name: places.target.clone(), ..iscsi::Options::default() };
        let target = iscsi::Target::new(options, port)?;
        for address in &places.iscsi {
            self.portals.push(Portal::start(*address, &target, reactors)?);
        }
        Ok(())
    }

    fn start_vhost_user(
        &mut self,
        places: &Places,
        units: &BTreeMap<u32, Arc<LogicalUnit>>,
        state: &StateDir,
        reactors: &Reactors,
    ) -> Result<()> {
        let keys: Vec<Key> = places.vhost_user.iter().map(|path| Key::path(path)).collect();
        let records = state.identities(&keys)?;
        let all: Vec<ReactorId> = (0..reactors.count()).map(ReactorId).collect();
        for (index, (socket, record)) in places.vhost_user.iter().zip(records).enumerate() {
            let relative_id = u16::try_from(index + 2).context("there are too many vhost-user sockets")?;
            let port = TargetPort::new(record.naa.to_string(), relative_id, Protocol::SAS, units.clone());
            let export = VhostUserExport::new(VhostUserOptions::new(socket), BTreeMap::from([(0, port)]));
            self.vhost_user.push(export.start(reactors.poster(), &all)?);
        }
        Ok(())
    }

    /// How to connect to all of them.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for portal in &self.portals {
            let iscsi = summary::Iscsi { address: portal.address(), target: &self.target, luns: &self.luns };
            let _ = write!(text, "{iscsi}");
        }
        for (index, handle) in self.vhost_user.iter().enumerate() {
            let _ = write!(text, "{}", summary::VhostUser { socket: handle.socket(), index });
        }
        text
    }

    /// Stops to listen, lets what is in flight finish and ends all connections.
    pub(crate) fn stop(self, reactors: &Reactors) {
        self.vhost_user.iter().for_each(Handle::begin_stop);
        for portal in self.portals {
            portal.stop(reactors);
        }
        self.vhost_user.into_iter().for_each(Handle::stop);
    }
}
