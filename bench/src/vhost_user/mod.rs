//! vhost-user-scsi: lunette against vhost-device-scsi on one file in the page cache, and lunette's ring alone.

mod guest;
mod memory;
mod ring;
mod session;

use std::path::Path;

use anyhow::Result;

use crate::daemon::Daemon;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Direction, Workload};
use crate::load::{self, Sample};
use crate::lunette::Lunette;
use crate::report::Section;
use crate::run::{Cell, Contender, Settings, Tally};
use crate::{disk, peers};
use guest::{Guest, Waiting};

/// A workload and how the guest waits.
#[derive(Clone, Copy)]
struct GuestCell {
    workload: Workload,
    waiting: Waiting,
}

impl Cell for GuestCell {
    fn name(&self) -> String {
        match self.waiting {
            Waiting::Interrupt => self.workload.to_string(),
            Waiting::Poll => format!("{}, polled", self.workload),
        }
    }
}

fn cells() -> Vec<GuestCell> {
    use Direction::{Read, Write};
    let interrupt = [
        Workload::random(Read, 4 << 10, 1),
        Workload::random(Read, 4 << 10, 32),
        Workload::random(Read, 4 << 10, 128),
        Workload::random(Write, 4 << 10, 1),
        Workload::random(Write, 4 << 10, 32),
        Workload::random(Write, 4 << 10, 128),
        Workload::sequential(Read, 128 << 10, 8),
        Workload::sequential(Write, 128 << 10, 8),
    ];
    let interrupt = interrupt.map(|workload| GuestCell { workload, waiting: Waiting::Interrupt });
    interrupt.into_iter().chain(polled()).collect()
}

fn polled() -> impl Iterator<Item = GuestCell> {
    [32, 128].into_iter().map(|depth| GuestCell {
        workload: Workload::random(Direction::Read, 4 << 10, depth),
        waiting: Waiting::Poll,
    })
}

/// One run against a daemon that listens on `socket`.
fn measure(daemon: &Daemon, socket: &str, cell: &GuestCell, settings: &Settings) -> Result<Sample> {
    let GuestCell { workload, waiting } = *cell;
    let room = workload.size.max(FILL);
    let mut guest =
        Guest::connect(&daemon.path(socket), workload.depth.max(4), room, !settings.direct, waiting)?;
    let mut capacity = load::prepare(&mut guest)?;
    if workload.direction == Direction::Write {
        // Pages that are dirty already: the first write to a page costs the file system more than the daemon.
        capacity = capacity.min(WRITTEN / BLOCK as u64);
        load::fill(&mut guest, capacity, (FILL / BLOCK) as u32, settings.generation())?;
    }
    load::measure(&mut guest, capacity, &workload, settings.span(), settings.generation(), || daemon.usage())
}

/// Bytes that writes go to, and of each write that prepares them.
const WRITTEN: u64 = 64 << 20;
const FILL: usize = 128 << 10;
const SOCKET: &str = "vhost.sock";

/// Compares with vhost-device-scsi.
pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let peer = peers::vhost_device_scsi()?;
    let file = disk::in_page_cache(settings)?;
    let lunette = settings.lunette();
    let serve = |lunette: &Lunette| {
        lunette.serve(settings, &["--lu", &format!("disk:{},w", file.display()), "--vhost-user", SOCKET])
    };
    let mut contenders: Vec<Contender<'_, GuestCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new("lunette", |cell| {
            disk::settle(&file)?;
            measure(&serve(lunette)?, SOCKET, cell, settings)
        }));
    }
    contenders.push(Contender::new("vhost-device-scsi", |cell| {
        disk::settle(&file)?;
        measure(&serve_peer(&peer, &file, settings)?, SOCKET, cell, settings)
    }));
    let tally = Tally::of(settings, &cells(), &mut contenders)?;

    let mut section = Section::new("vhost-user-scsi: against vhost-device-scsi", settings)?;
    section.fact(format!(
        "One file of {} MiB ({}) in the page cache; one request queue of 128 entries, {} descriptors, EVENT_IDX; \
         the guest sleeps on the call eventfd, or spins where the workload says \"polled\". Writes go to the first {} MiB, \
         whose pages are dirty before.",
        disk::SIZE >> 20,
        disk::file_system(&file)?,
        if settings.direct { "chained" } else { "indirect" },
        WRITTEN >> 20
    ));
    section
        .fact(format!("`vhost-device-scsi --socket-path SOCKET FILE`, version {}", peers::VHOST_DEVICE_SCSI));
    if let Some(lunette) = &lunette {
        section.fact(format!("`{}`", lunette.shown(settings, "--lu disk:FILE,w --vhost-user SOCKET")));
    }
    section.table(&tally);
    section.claim(
        &tally,
        "4k random read QD32",
        "CPU per 4k read at depth 32 at most 0.65 × the peer's",
        |ratio| (ratio.cpu, ratio.cpu <= 0.65),
    );
    Ok(section)
}

/// lunette's ring and engine with a store that does nothing.
pub(crate) fn ring_alone(settings: &Settings) -> Result<Section> {
    let program = std::env::current_exe()?;
    let cells: Vec<_> = [1, 32, 128]
        .into_iter()
        .map(|depth| GuestCell {
            workload: Workload::random(Direction::Read, 4 << 10, depth),
            waiting: Waiting::Interrupt,
        })
        .chain(polled())
        .collect();
    let run = |cell: &GuestCell| {
        let mut daemon = Daemon::start(&program, settings.split, |command| {
            command.args(["--serve-null", SOCKET, "--poll", &settings.poll]);
        })?;
        daemon.wait_for_line("ready")?;
        let GuestCell { workload, waiting } = *cell;
        let mut guest =
            Guest::connect(&daemon.path(SOCKET), workload.depth, workload.size, !settings.direct, waiting)?;
        let capacity = load::prepare(&mut guest)?;
        load::measure_null(&mut guest, capacity, &workload, settings.span(), || daemon.usage())
    };
    let tally = Tally::of(settings, &cells, &mut [Contender::new("ring", run)])?;
    let mut section = Section::new("The vhost-user ring alone", settings)?;
    section.fact(format!(
        "Ring, engine and disk of lunette on one reactor (poll: {}), with a store that answers at once and moves no data.",
        settings.poll
    ));
    section.table(&tally);
    Ok(section)
}

fn serve_peer(program: &Path, file: &Path, settings: &Settings) -> Result<Daemon> {
    let mut daemon = Daemon::start(program, settings.split, |command| {
        command.args(["--socket-path", SOCKET]).arg(file);
    })?;
    daemon.wait_until(|daemon| daemon.path(SOCKET).exists())?;
    Ok(daemon)
}
