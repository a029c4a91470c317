//! A target with one disk in memory.

use crate::client::{Client, TARGET};
use lunette_device_disk::Disk;
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::{Naa, Protocol};
use lunette_store::layer::fault::Fault;
use lunette_store::{Backing, ram::Ram};
use lunette_transport_iscsi::{Options, Portal, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the disk.
pub(crate) const SIZE: u64 = 64 << 20;

pub(crate) struct Rig {
    pub(crate) target: Arc<Target>,
    pub(crate) portal: Option<Portal>,
    pub(crate) reactors: Reactors,
}

pub(crate) fn options() -> Options {
    Options { name: TARGET.to_owned(), ..Options::default() }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(options(), None, 2)
    }

    /// A disk with these faults.
    pub(crate) fn faulty(plan: &str) -> Self {
        Self::with(options(), Some(plan), 2)
    }

    pub(crate) fn with(options: Options, plan: Option<&str>, reactors: u16) -> Self {
        let mut store: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
        if let Some(plan) = plan {
            store = Arc::new(Fault::new(store, plan.parse().unwrap()));
        }
        let disk = Disk::new(&lunette_device_disk::Options::default(), store.caps()).unwrap();
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("ram", identity, Box::new(disk), Some(store));
        let units = BTreeMap::from([(0, unit)]);
        let port = TargetPort::new(format!("{TARGET},t,0x0001"), 1, Protocol::ISCSI, units);
        let reactors =
            Reactors::start(&lunette_reactor::Options { reactors, pin: false, ..Default::default() });
        let reactors = reactors.unwrap();
        let target = Target::new(options, port).unwrap();
        let portal = Portal::start("127.0.0.1:0".parse().unwrap(), &target, &reactors).unwrap();
        Self { target, portal: Some(portal), reactors }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.portal().address()
    }

    pub(crate) fn portal(&self) -> &Portal {
        self.portal.as_ref().unwrap()
    }

    /// A new session whose unit attention has been taken.
    pub(crate) fn client(&self, number: u8) -> Client {
        Client::ready(self.address(), crate::client::settings(number))
    }

    /// Waits until so many connections are open.
    pub(crate) fn wait_for_connections(&self, count: usize) {
        while self.portal().connection_count() != count {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn stop(&mut self) -> bool {
        self.portal.take().is_none_or(|portal| portal.stop(&self.reactors))
    }
}
