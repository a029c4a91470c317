//! A disk in memory.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use super::{
    GuestCell, LUNETTE, STORAGE_DAEMON, StorageDaemon, VHOST_DEVICE_SCSI, measure_block, measure_scsi,
    random_read, serve, serve_peer,
};
use crate::peers;
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Contender, Settings, Tally};

/// lunette with what the peers have, a file in memory.
const LUNETTE_FILE: &str = "lunette, same file";
/// Bytes of each disk.
const SIZE: u64 = 256 << 20;

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let peer = peers::vhost_device_scsi()?;
    let storage_daemon = StorageDaemon::find()?;
    let file = || -> Result<NamedTempFile> {
        let file =
            NamedTempFile::with_prefix_in("lunette-bench-", "/dev/shm").context("cannot use /dev/shm")?;
        file.as_file().set_len(SIZE)?;
        Ok(file)
    };
    let cells = [
        GuestCell::polled(random_read(1)),
        GuestCell::polled(random_read(32)),
        GuestCell::polled(random_read(128)),
        GuestCell::new(random_read(32)),
    ];
    let unit = format!("disk:ram:{}M,w", SIZE >> 20);
    let shared = |file: &NamedTempFile| format!("disk:{},w", file.path().display());
    let lunette = settings.lunette();
    let mut contenders: Vec<Contender<'_, GuestCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new(LUNETTE, |cell| {
            measure_scsi(&serve(lunette, &unit, cell, settings)?, cell, false, settings)
        }));
    }
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new(LUNETTE_FILE, |cell| {
            let file = file()?;
            measure_scsi(&serve(lunette, &shared(&file), cell, settings)?, cell, false, settings)
        }));
    }
    contenders.push(Contender::new(VHOST_DEVICE_SCSI, |cell| {
        let file = file()?;
        measure_scsi(&serve_peer(&peer, file.path(), cell, settings)?, cell, false, settings)
    }));
    contenders.push(Contender::new(STORAGE_DAEMON, |cell| {
        let file = file()?;
        measure_block(&storage_daemon.serve(file.path(), cell, settings)?, cell, false, settings)
    }));
    let tally = Tally::of(settings, &cells, &mut contenders)?;

    let mut section = Section::new("vhost-user: a disk in memory", settings)?;
    section.fact(format!(
        "{} MiB each: lunette's own memory (`ram:`), for the others, and lunette once more, a file on {}. \"polled\": the \
         guest spins, and lunette has `--poll always`; the peers cannot. The claim is about memory of one's own, which the \
         peers do not offer; what is left of it with the same file for both, \"{LUNETTE_FILE}\" shows.",
        SIZE >> 20,
        crate::disk::file_system(Path::new("/dev/shm"))?
    ));
    if let Some(lunette) = &lunette {
        section.fact(format!("`{}`", lunette.shown(settings, &format!("--lu {unit} --vhost-user SOCKET"))));
    }
    section.table(&tally, Others::Peers);
    let row = "4k random read QD32, polled";
    section.claim(&tally, row, VHOST_DEVICE_SCSI, Measure::Iops, Bar::AtLeast(3.5))?;
    Ok(section)
}
