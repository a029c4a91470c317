//! Serves disks in memory by iSCSI until standard input ends:
//! `cargo run --example ram_disk -- 127.0.0.1:3260 1024 [reactors]` (address, size in MiB).

use lunette_device_disk::Disk;
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::Reactors;
use lunette_scsi::{Naa, Protocol};
use lunette_store::{Backing, ram::Ram};
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().as_deref().unwrap_or("127.0.0.1:3260").parse()?;
    let size: u64 = arguments.next().as_deref().unwrap_or("1024").parse()?;
    let reactors = arguments.next().as_deref().unwrap_or("1").parse()?;
    let store: Arc<dyn Backing> = Arc::new(Ram::new(size << 20)?);
    let disk = Disk::new(&lunette_device_disk::Options::default(), store.caps())?;
    let unit =
        LogicalUnit::new("ram", Identity::new("1", Naa::locally_assigned(1)), Box::new(disk), Some(store));
    let name = "iqn.2026-11.dev.lunette:default".to_owned();
    let port_name = format!("{name},t,0x0001");
    let port = TargetPort::new(port_name, 1, Protocol::ISCSI, BTreeMap::from([(0, unit)]));
    let reactors = Reactors::start(&lunette_reactor::Options { reactors, ..Default::default() })?;
    let entity = NetworkEntity::new(EntityOptions::default());
    let groups = BTreeMap::from([(1, port)]);
    let target = entity.add(TargetOptions { name, groups, ..TargetOptions::default() })?;
    let portal = Portal::start(address, PortalOptions::default(), &entity, &reactors)?;
    println!("iscsi://{}/{}/0", portal.address(), target.name());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    portal.stop(&reactors);
    reactors.stop();
    Ok(())
}
