//! A file past the page cache, on the machine's own disk.

use anyhow::Result;

use super::{FIO, FIO_BATCHED, GuestCell, LUNETTE, measure_scsi, random_read, serve};
use crate::disk;
use crate::fio::{Batching, Fio};
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Contender, Settings, Tally};

/// How many times the rounds of others: disks are noisy.
const ROUNDS: usize = 3;

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let fio = Fio::find()?;
    let file = disk::filled(settings)?;
    let unit = format!("disk:{},w,direct=on", file.display());
    let lunette = settings.lunette();
    let mut contenders: Vec<Contender<'_, GuestCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new(LUNETTE, |cell| {
            disk::settle(&file)?;
            measure_scsi(&serve(lunette, &unit, cell, settings)?, cell, true, settings)
        }));
    }
    for (name, batching) in [(FIO, Batching::Single), (FIO_BATCHED, Batching::Portions)] {
        let (fio, file) = (&fio, &file);
        contenders.push(Contender::new(name, move |cell: &GuestCell| {
            disk::settle(file)?;
            fio.measure(file, &cell.workload, true, batching, settings)
        }));
    }
    let rounds = if settings.rounds > 1 { settings.rounds * ROUNDS } else { 1 };
    let mut cells = [1, 32, 128].map(|depth| GuestCell::new(random_read(depth))).to_vec();
    cells.push(GuestCell::polled(random_read(32)));
    let tally = Tally::of_rounds(settings, rounds, &cells, &mut contenders)?;

    let mut section = Section::of_rounds("vhost-user: a disk with O_DIRECT", settings, rounds)?;
    section.fact(format!(
        "A file of {} MiB ({}) on the machine's disk, read past the page cache by both. \"polled\": the guest spins, and lunette has \
         `--poll always`, so that nobody has to be woken on another CPU; fio is as before.",
        disk::SIZE >> 20,
        disk::file_system(&file)?
    ));
    section.fact(format!("{}: {}", fio.version()?, Fio::shown(true)));
    if let Some(lunette) = &lunette {
        section
            .fact(format!("`{}`", lunette.shown(settings, "--lu disk:FILE,w,direct=on --vhost-user SOCKET")));
    }
    for row in &tally.rows {
        let [ours, theirs, _] = &row.samples[..] else { continue };
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours.iops / theirs.iops).collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0f64), |(low, high), &r| (low.min(r), high.max(r)));
        section.fact(format!("{}: IOPS from {low:.2} to {high:.2} × fio's in single rounds", row.name));
    }
    section.table(&tally, Others::Peers);
    section.claim(&tally, "4k random read QD32", FIO, Measure::Iops, Bar::AtLeast(0.9))?;
    Ok(section)
}
