//! Serves RAM disks at a vhost-user-scsi socket until standard input ends.
//!
//! `serve_ram SOCKET [UNITS [MEBIBYTES [REACTORS [epoll]]]]`

use lunette_device_disk::{Disk, Options as DiskOptions};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_reactor::{Io, Options as ReactorOptions, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::ram::Ram;
use lunette_store::{Backing, ReactorId};
use lunette_transport_vhost_user::{Options, VhostUserExport};
use std::error::Error;
use std::io::Read;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::DEBUG).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let socket = arguments.first().ok_or("usage: serve_ram SOCKET [UNITS [MEBIBYTES [REACTORS [epoll]]]]")?;
    let number = |at: usize, or| arguments.get(at).map_or(Ok(or), |text| text.parse::<u32>());
    let (units, mebibytes, reactors) = (number(1, 1)?, number(2, 64)?, number(3, 2)?);
    let io = if arguments.iter().any(|word| word == "epoll") { Io::Epoll } else { Io::Auto };

    let units = (0..units).map(|lun| Ok((lun, unit(lun, u64::from(mebibytes) << 20)?)));
    let units = units.collect::<Result<_, Box<dyn Error>>>()?;
    let port = TargetPort::new("vhost-user", 1, Protocol::NONE, units);
    let reactors = Reactors::start(&ReactorOptions { reactors: reactors as u16, io, ..Default::default() })?;
    let ids: Vec<ReactorId> = (0..reactors.count()).map(ReactorId).collect();
    let export =
        VhostUserExport::new(Options::new(socket), [(0, port)].into()).start(reactors.poster(), &ids)?;
    println!("serving at {} with {}", export.name(), reactors.backend());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    export.stop();
    reactors.stop();
    Ok(())
}

fn unit(lun: u32, size: u64) -> Result<Arc<LogicalUnit>, Box<dyn Error>> {
    let store: Arc<dyn Backing> = Arc::new(Ram::new(size)?);
    let disk = Disk::new(&DiskOptions::default(), store.caps())?;
    let identity = Identity::new(format!("{lun:08}"), Naa::locally_assigned(u64::from(lun) + 1));
    Ok(LogicalUnit::new(format!("ram{lun}"), identity, Box::new(disk), Some(store)))
}
