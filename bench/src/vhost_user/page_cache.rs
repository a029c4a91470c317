//! One file in the page cache.

use anyhow::Result;

use super::{
    FIO, FIO_BATCHED, GuestCell, LUNETTE, STORAGE_DAEMON, StorageDaemon, VHOST_DEVICE_SCSI, WRITTEN,
    measure_block, measure_scsi, random_read, serve, serve_peer,
};
use crate::fio::{Batching, Fio};
use crate::load::workload::Direction::{Read, Write};
use crate::load::workload::Workload;
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Contender, Settings, Tally};
use crate::{disk, peers};

fn cells() -> Vec<GuestCell> {
    let plain = [
        random_read(1),
        random_read(32),
        random_read(128),
        Workload::random(Write, 4 << 10, 1),
        Workload::random(Write, 4 << 10, 32),
        Workload::sequential(Read, 128 << 10, 8),
        Workload::sequential(Write, 128 << 10, 8),
    ];
    let mut cells: Vec<_> = plain.into_iter().map(GuestCell::new).collect();
    cells.extend([32, 128].map(|depth| GuestCell::polled(random_read(depth))));
    cells.extend([32, 128].map(|depth| GuestCell::pinned(random_read(depth))));
    cells
}

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let peer = peers::vhost_device_scsi()?;
    let storage_daemon = StorageDaemon::find()?;
    let fio = Fio::find()?;
    let file = disk::in_page_cache(WRITTEN, settings)?;
    let unit = format!("disk:{},w", file.display());
    let lunette = settings.lunette();
    let mut contenders: Vec<Contender<'_, GuestCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new(LUNETTE, |cell| {
            disk::settle(&file)?;
            measure_scsi(&serve(lunette, &unit, cell, settings)?, cell, true, settings)
        }));
    }
    contenders.push(Contender::new(VHOST_DEVICE_SCSI, |cell| {
        disk::settle(&file)?;
        measure_scsi(&serve_peer(&peer, &file, cell, settings)?, cell, true, settings)
    }));
    contenders.push(Contender::new(STORAGE_DAEMON, |cell| {
        disk::settle(&file)?;
        measure_block(&storage_daemon.serve(&file, cell, settings)?, cell, true, settings)
    }));
    for (name, batching) in [(FIO, Batching::Single), (FIO_BATCHED, Batching::Portions)] {
        let (fio, file) = (&fio, &file);
        let run = move |cell: &GuestCell| {
            disk::settle(file)?;
            fio.measure(file, &cell.workload, false, batching, settings)
        };
        contenders.push(Contender::new(name, run).only(GuestCell::is_plain_read));
    }
    let tally = Tally::of(settings, &cells(), &mut contenders)?;

    let mut section = Section::new("vhost-user: a file in the page cache", settings)?;
    section.fact(format!(
        "One file of {} MiB ({}) in the page cache; one request queue of {} entries, indirect descriptors, EVENT_IDX; \
         the guest shows each request as it is made, and sleeps on the call eventfd. \"polled\": the guest spins, and \
         lunette has `--poll always`. \"pinned\": the guest on the last CPU, the daemon on the others. Writes go to the \
         first {} MiB, which are in the page cache page by page, not in large folios, and dirty before.",
        disk::SIZE >> 20,
        disk::file_system(&file)?,
        super::initiator::QUEUE_SIZE,
        WRITTEN >> 20
    ));
    section
        .fact(format!("`vhost-device-scsi --socket-path SOCKET FILE`, version {}", peers::VHOST_DEVICE_SCSI));
    section.fact(format!(
        "`qemu-storage-daemon {}`, version {}: virtio-blk, so no SCSI at all",
        StorageDaemon::OPTIONS,
        storage_daemon.version()?
    ));
    section.fact(format!("{}, which reads the same file itself: {}", fio.version()?, Fio::shown(false)));
    if let Some(lunette) = &lunette {
        section.fact(format!("`{}`", lunette.shown(settings, "--lu disk:FILE,w --vhost-user SOCKET")));
    }
    section.table(&tally, Others::Peers);
    let mut claim = |row, peer, measure, bar| section.claim(&tally, row, peer, measure, bar);
    claim("4k random read QD32", VHOST_DEVICE_SCSI, Measure::Cpu, Bar::AtMost(0.5))?;
    claim("4k random read QD128", VHOST_DEVICE_SCSI, Measure::Cpu, Bar::AtMost(0.42))?;
    claim("4k random read QD32", VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(2.0))?;
    claim("4k random read QD128", VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(2.0))?;
    claim("4k random read QD32", FIO, Measure::Iops, Bar::AtLeast(0.9))?;
    claim("4k random write QD32", VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(1.6))?;
    claim("128k sequential read QD8", VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(1.2))?;
    claim("128k sequential write QD8", VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(1.2))?;
    Ok(section)
}
