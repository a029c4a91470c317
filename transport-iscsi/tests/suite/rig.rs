//! A target with one disk in memory.

use crate::client::{Client, TARGET};
use lunette_device_disk::Disk;
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::{Naa, Protocol};
use lunette_store::layer::fault::Fault;
use lunette_store::{Backing, held::Held, ram::Ram};
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, Target, TargetOptions};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the disk.
pub(crate) const SIZE: u64 = 64 << 20;

pub(crate) struct Rig {
    pub(crate) entity: Arc<NetworkEntity>,
    pub(crate) target: Arc<Target>,
    pub(crate) portal: Option<Portal>,
    pub(crate) reactors: Reactors,
}

/// A disk in memory, with faults if there is a plan.
pub(crate) fn disk(number: u64, plan: Option<&str>) -> Arc<LogicalUnit> {
    let mut store: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
    if let Some(plan) = plan {
        store = Arc::new(Fault::new(store, plan.parse().unwrap()));
    }
    unit(number, store)
}

/// A disk whose operations are held on their reactor until somebody [takes](lunette_store::held::take) them.
pub(crate) fn stuck_disk(number: u64) -> Arc<LogicalUnit> {
    unit(number, Arc::new(Held::new(SIZE, 1000)))
}

/// A disk on a store.
pub(crate) fn unit(number: u64, store: Arc<dyn Backing>) -> Arc<LogicalUnit> {
    let disk = Disk::new(&lunette_device_disk::Options::default(), store.caps()).unwrap();
    let identity = Identity::new(number.to_string(), Naa::locally_assigned(number));
    LogicalUnit::new("ram", identity, Box::new(disk), Some(store))
}

/// A target that shows `unit` as LUN 0 in these portal groups.
pub(crate) fn target(name: &str, groups: &[u16], unit: &Arc<LogicalUnit>) -> TargetOptions {
    target_of(name, groups, std::slice::from_ref(unit))
}

/// A target that shows these units as LUN 0 and so on.
pub(crate) fn target_of(name: &str, groups: &[u16], units: &[Arc<LogicalUnit>]) -> TargetOptions {
    let port = |group| {
        let units: BTreeMap<_, _> = (0..).zip(units.iter().cloned()).collect();
        TargetPort::in_group(group, format!("{name},t,0x{group:04x}"), group, Protocol::ISCSI, units)
    };
    let groups = groups.iter().map(|group| (*group, port(*group))).collect();
    TargetOptions { name: name.to_owned(), groups, ..TargetOptions::default() }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(EntityOptions::default(), None, 2)
    }

    /// A disk with these faults.
    pub(crate) fn faulty(plan: &str) -> Self {
        Self::with(EntityOptions::default(), Some(plan), 2)
    }

    pub(crate) fn with(options: EntityOptions, plan: Option<&str>, reactors: u16) -> Self {
        Self::serving(options, target(TARGET, &[1], &disk(1, plan)), reactors)
    }

    /// A target with a portal in group 1.
    pub(crate) fn serving(options: EntityOptions, target: TargetOptions, reactors: u16) -> Self {
        let reactors =
            Reactors::start(&lunette_reactor::Options { reactors, pin: false, ..Default::default() });
        let reactors = reactors.unwrap();
        let entity = NetworkEntity::new(options);
        let target = entity.add(target).unwrap();
        let mut rig = Self { entity, target, portal: None, reactors };
        rig.portal = Some(rig.another_portal("127.0.0.1:0", 1));
        rig
    }

    pub(crate) fn another_portal(&self, address: &str, group: u16) -> Portal {
        self.open(address, PortalOptions { group_tag: group, ..PortalOptions::default() })
    }

    pub(crate) fn open(&self, address: &str, options: PortalOptions) -> Portal {
        Portal::start(address.parse().unwrap(), options, &self.entity, &self.reactors).unwrap()
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

    /// Waits until a portal that stops has ended; for far longer than that takes, so that a hang is a failure.
    pub(crate) fn wait_for_end(portal: &Portal) {
        assert!(portal.wait(Duration::from_secs(60)), "{} connections are left", portal.connection_count());
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
