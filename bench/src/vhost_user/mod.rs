//! vhost-user: lunette against vhost-device-scsi, qemu-storage-daemon and fio, and against itself.

mod direct_io;
mod idle;
mod initiator;
mod memory;
mod no_data;
mod options;
mod page_cache;
mod ring;
mod watched;

use std::path::{Path, PathBuf};

use anyhow::Result;
use lunette_guest::Waiting;

use crate::daemon::Daemon;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Direction, Workload};
use crate::load::{self, Initiator, Sample};
use crate::lunette::{Lunette, Tuning};
use crate::run::{Cell, Settings};
use initiator::Block;

pub(crate) use direct_io::compare as direct_io;
pub(crate) use idle::watch as idle;
pub(crate) use initiator::{Guest, Scsi};
pub(crate) use memory::compare as memory;
pub(crate) use no_data::compare as no_data;
pub(crate) use options::compare as options;
pub(crate) use page_cache::compare as page_cache;
pub(crate) use ring::measure as ring;
pub(crate) use watched::compare as watched;

/// Names of contenders.
const LUNETTE: &str = "lunette";
const VHOST_DEVICE_SCSI: &str = "vhost-device-scsi";
const STORAGE_DAEMON: &str = "qemu-storage-daemon";
const FIO: &str = "fio";
const FIO_BATCHED: &str = "fio, batched";

const SOCKET: &str = "vhost.sock";
/// Bytes that writes go to, and of each write that prepares them.
const WRITTEN: u64 = 64 << 20;
const FILL: usize = 128 << 10;

/// A workload, and where and how it runs.
#[derive(Clone, Copy, Debug)]
struct GuestCell {
    workload: Workload,
    guest: Guest,
    /// Whether daemon and guest are pinned to CPUs of their own.
    pinned: bool,
}

impl GuestCell {
    fn new(workload: Workload) -> Self {
        Self { workload, guest: Guest::default(), pinned: false }
    }

    /// Nobody sleeps: neither the guest nor lunette.
    fn polled(workload: Workload) -> Self {
        Self { guest: Guest { waiting: Waiting::Poll, ..Guest::default() }, ..Self::new(workload) }
    }

    fn pinned(workload: Workload) -> Self {
        Self { pinned: true, ..Self::new(workload) }
    }

    fn is_polled(&self) -> bool {
        self.guest.waiting == Waiting::Poll
    }

    fn is_plain_read(&self) -> bool {
        self.workload.direction == Direction::Read && !self.is_polled() && !self.pinned
    }

    fn tuning(&self) -> Tuning {
        Tuning { poll: self.is_polled(), pinned: self.pinned }
    }

    fn slots(&self) -> usize {
        self.workload.depth.max(4)
    }

    fn room(&self) -> usize {
        self.workload.size.max(FILL)
    }
}

impl Cell for GuestCell {
    fn name(&self) -> String {
        let polled = if self.is_polled() { ", polled" } else { "" };
        let pinned = if self.pinned { ", pinned" } else { "" };
        format!("{}{polled}{pinned}", self.workload)
    }
}

const fn random_read(depth: usize) -> Workload {
    Workload::random(Direction::Read, 4 << 10, depth)
}

/// One run against a vhost-user-scsi daemon. `filled` says that the disk has the pattern already.
fn measure_scsi(daemon: &Daemon, cell: &GuestCell, filled: bool, settings: &Settings) -> Result<Sample> {
    let mut guest = Scsi::connect(&daemon.path(SOCKET), cell.slots(), cell.room(), &cell.guest)?;
    let capacity = load::prepare(&mut guest)?;
    measure(&mut guest, capacity, daemon, cell, filled, settings)
}

/// One run against a vhost-user-blk daemon.
fn measure_block(daemon: &Daemon, cell: &GuestCell, filled: bool, settings: &Settings) -> Result<Sample> {
    let mut guest = Block::connect(&daemon.path(SOCKET), cell.slots(), cell.room(), &cell.guest)?;
    let capacity = guest.capacity()?;
    measure(&mut guest, capacity, daemon, cell, filled, settings)
}

fn measure(
    guest: &mut impl Initiator,
    mut capacity: u64,
    daemon: &Daemon,
    cell: &GuestCell,
    filled: bool,
    settings: &Settings,
) -> Result<Sample> {
    let workload = &cell.workload;
    if workload.direction == Direction::Write {
        // Pages that are dirty already: the first write to a page costs the file system more than the daemon.
        capacity = capacity.min(WRITTEN / BLOCK as u64);
    }
    if !filled || workload.direction == Direction::Write {
        load::fill(guest, capacity, (FILL / BLOCK) as u32, settings.generation())?;
    }
    load::measure(guest, capacity, workload, settings.span(), settings.generation(), || daemon.usage())
}

/// Starts lunette with one unit.
fn serve(lunette: &Lunette, unit: &str, cell: &GuestCell, settings: &Settings) -> Result<Daemon> {
    lunette.serve_tuned(settings, cell.tuning(), &["--lu", unit, "--vhost-user", SOCKET])
}

/// Starts vhost-device-scsi.
fn serve_peer(program: &Path, file: &Path, cell: &GuestCell, settings: &Settings) -> Result<Daemon> {
    let mut daemon = Daemon::start(program, settings, cell.pinned, |command| {
        command.args(["--socket-path", SOCKET]).arg(file);
    })?;
    daemon.wait_until(|daemon| daemon.path(SOCKET).exists())?;
    Ok(daemon)
}

/// qemu-storage-daemon with a file as vhost-user-blk.
struct StorageDaemon(PathBuf);

impl StorageDaemon {
    const OPTIONS: &'static str = "--blockdev driver=file,node-name=disk,filename=FILE,aio=io_uring \
        --object iothread,id=own --export vhost-user-blk,id=export,node-name=disk,iothread=own,writable=on,addr.type=unix,addr.path=SOCKET";

    fn find() -> Result<Self> {
        crate::peers::installed("qemu-storage-daemon", "qemu-system-common").map(Self)
    }

    fn serve(&self, file: &Path, cell: &GuestCell, settings: &Settings) -> Result<Daemon> {
        let options = Self::OPTIONS.replace("SOCKET", SOCKET);
        let mut daemon = Daemon::start(&self.0, settings, cell.pinned, |command| {
            command.args(
                options.split_whitespace().map(|word| word.replace("FILE", &file.display().to_string())),
            );
        })?;
        daemon.wait_until(|daemon| daemon.path(SOCKET).exists())?;
        Ok(daemon)
    }

    fn version(&self) -> Result<String> {
        let said = crate::peers::output(&self.0, &["--version"])?;
        Ok(said.split_whitespace().nth(2).unwrap_or_default().to_owned())
    }
}
