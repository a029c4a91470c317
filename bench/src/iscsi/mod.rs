//! iSCSI: lunette against tgt, each with a logical unit in memory, over loopback TCP; and against a bare exchange of as
//! many bytes.

mod bundle;
mod calls;
mod perf;
mod ping_pong;
mod session;
mod stream;
mod tgt;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Direction, Workload};
use crate::load::{self, Sample};
use crate::lunette::Lunette;
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Cell, Contender, Settings, Tally};
use bundle::Bundle;
use session::{Session, Way};
use tgt::Tgt;

pub(crate) use calls::count as count_calls;
use ping_pong::Batching;
pub(crate) use ping_pong::{Exchange, serve as serve_ping_pong};

/// Names of contenders.
const LUNETTE: &str = "lunette";
const TGT: &str = "tgt";
const PING_PONG: &str = "ping-pong";
const SINGLY: &str = "ping-pong, singly";

/// Bytes of each logical unit.
const SIZE: u64 = 256 << 20;
const LUNETTE_TARGET: &str = "iqn.2026-11.dev.lunette:default";
/// Size of the writes that fill a logical unit, and how many slots they need.
const FILL: usize = 128 << 10;
const FILL_SLOTS: usize = 4;

/// A workload, who makes it and how.
#[derive(Clone, Copy)]
struct IscsiCell {
    /// That of each connection.
    workload: Workload,
    connections: usize,
    digests: bool,
    /// Made by libiscsi's iscsi-perf, which cannot check data and shows no latencies.
    foreign: bool,
}

impl IscsiCell {
    const fn new(workload: Workload) -> Self {
        Self { workload, connections: 1, digests: false, foreign: false }
    }

    /// What all connections together do.
    fn whole(&self) -> Workload {
        Workload { depth: self.workload.depth * self.connections, ..self.workload }
    }

    fn is_bare(&self) -> bool {
        !self.digests && !self.foreign
    }
}

impl Cell for IscsiCell {
    fn name(&self) -> String {
        let connections = match self.connections {
            1 => String::new(),
            count => format!(", {count} connections"),
        };
        let digests = if self.digests { ", digests" } else { "" };
        let by = if self.foreign { ", iscsi-perf" } else { "" };
        format!("{}{connections}{digests}{by}", self.workload)
    }
}

/// The cells of our own load generator without digests.
fn bare_cells() -> Vec<IscsiCell> {
    let mut cells = Vec::new();
    for direction in [Direction::Read, Direction::Write] {
        for (depth, connections) in [(1, 1), (32, 1), (32, 4)] {
            let workload = Workload::random(direction, 4 << 10, depth);
            cells.push(IscsiCell { connections, ..IscsiCell::new(workload) });
        }
        cells.push(IscsiCell::new(Workload::sequential(direction, 128 << 10, 8)));
    }
    cells
}

fn cells() -> Vec<IscsiCell> {
    let foreign = [1, 32].map(|depth| IscsiCell {
        foreign: true,
        ..IscsiCell::new(Workload::random(Direction::Read, 4 << 10, depth))
    });
    let with_digests = |cell| [cell, IscsiCell { digests: true, ..cell }];
    bare_cells().into_iter().flat_map(with_digests).chain(foreign).collect()
}

/// What is to be had here.
struct Targets<'a> {
    settings: &'a Settings,
    lunette: Option<Lunette>,
    tgt: Tgt,
    unit: String,
}

impl<'a> Targets<'a> {
    fn find(settings: &'a Settings) -> Result<Self> {
        let unit = format!("disk:ram:{}M,w", SIZE >> 20);
        Ok(Self { settings, lunette: settings.lunette(), tgt: Tgt::find()?, unit })
    }

    fn serve_lunette(&self, lunette: &Lunette) -> Result<Served> {
        let way = Way::on_free_port(LUNETTE_TARGET, 0)?;
        let portal = way.portal.to_string();
        Ok(Served { daemon: lunette.serve(self.settings, &["--lu", &self.unit, "--iscsi", &portal])?, way })
    }

    fn serve_tgt(&self) -> Result<Served> {
        let way = Way::on_free_port(Tgt::TARGET, Tgt::LUN)?;
        Ok(Served { daemon: self.tgt.serve(self.settings, way.portal, SIZE)?, way })
    }
}

/// A daemon with a logical unit.
struct Served {
    daemon: Daemon,
    way: Way,
}

impl Served {
    /// Logs in and fills the disk.
    fn log_in(&self, cell: &IscsiCell, settings: &Settings) -> Result<Bundle<Session>> {
        let slots = cell.workload.depth.max(FILL_SLOTS);
        let connect = |number: usize| -> Result<_> {
            let size = cell.workload.size;
            let session = Session::login(&self.way, number as u8, cell.digests, slots, size.max(FILL), size)?;
            let mut session = Bundle::new(session);
            let capacity = load::prepare(&mut session)?;
            ensure!(capacity == SIZE / BLOCK as u64, "the logical unit has {capacity} blocks");
            Ok(session)
        };
        let mut all = connect(0)?;
        for number in 1..cell.connections {
            all.join(connect(number)?);
        }
        load::fill(&mut all, SIZE / BLOCK as u64, (FILL / BLOCK) as u32, settings.generation())
            .context("filling the disk")?;
        Ok(all)
    }

    fn measure(&self, cell: &IscsiCell, settings: &Settings) -> Result<Sample> {
        let mut session = self.log_in(cell, settings)?;
        if cell.foreign {
            return perf::measure(&self.daemon, &self.way, &cell.workload, settings);
        }
        let (capacity, generation) = (SIZE / BLOCK as u64, settings.generation());
        load::measure(&mut session, capacity, &cell.whole(), settings.span(), generation, || {
            self.daemon.usage()
        })
    }
}

/// Compares with tgt and with the bare exchange.
pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let targets = Targets::find(settings)?;
    let mut contenders: Vec<Contender<'_, IscsiCell>> = Vec::new();
    if let Some(lunette) = &targets.lunette {
        let run = |cell: &IscsiCell| targets.serve_lunette(lunette)?.measure(cell, settings);
        contenders.push(Contender::new(LUNETTE, run));
    }
    contenders.push(Contender::new(TGT, |cell| targets.serve_tgt()?.measure(cell, settings)));
    for (name, batching) in [(PING_PONG, Batching::AsReceived), (SINGLY, Batching::Singly)] {
        let run = move |cell: &IscsiCell| {
            ping_pong::measure(&cell.whole(), cell.connections, batching, SIZE, settings)
        };
        contenders.push(Contender::new(name, run).only(match batching {
            Batching::AsReceived => IscsiCell::is_bare,
            Batching::Singly => |cell| cell.is_bare() && cell.workload.depth > 1,
        }));
    }
    let tally = Tally::of(settings, &cells(), &mut contenders)?;

    let mut section = Section::new("iSCSI: against tgt", settings)?;
    section.fact(format!(
        "A logical unit of {} MiB in memory each; one session for each connection over loopback TCP, all in one thread of \
         the load generator. \"digests\": CRC32C over headers and data, which both sides make and check.",
        SIZE >> 20
    ));
    section.fact(format!(
        "tgt {}: `tgtd --foreground`, a file in /dev/shm, default backing store",
        targets.tgt.version()?
    ));
    section.fact(
        "ping-pong: no target, but a process of one thread that exchanges as many bytes, 48 for a header and those of the \
         data, over TCP with TCP_NODELAY. It knows nothing but two lengths: it answers whatever one receive has brought by \
         one send, from memory that never changes, looks at nothing and keeps nothing, and waits in the receive, or in \
         poll(2) if there are several connections. Its client does as little. With digests, the claim is about the \
         exchange without. \"singly\": it receives and answers one request after the other."
            .to_owned(),
    );
    if let Some(lunette) = &targets.lunette {
        let exports = format!("--lu {} --iscsi PORTAL", targets.unit);
        section.fact(format!("`{}`", lunette.shown(settings, &exports)));
    }
    section.table(&tally, Others::Peers);
    claim(&mut section, &tally)?;
    Ok(section)
}

fn claim(section: &mut Section, tally: &Tally) -> Result<()> {
    for bare in bare_cells() {
        let times = match (bare.workload.size, bare.workload.depth) {
            (4096, 1) => 2.5,
            (4096, _) => 6.0,
            _ => 1.6,
        };
        for digests in [false, true] {
            let row = IscsiCell { digests, ..bare }.name();
            section.claim(tally, &row, TGT, Measure::Iops, Bar::AtLeast(times))?;
            let bar = Bar::AtLeast(0.6);
            for exchange in [SINGLY, PING_PONG].into_iter().skip(usize::from(bare.workload.depth == 1)) {
                let ours = tally.median(&row, LUNETTE).zip(tally.median(&bare.name(), exchange));
                let ratio = ours.map(|(ours, exchange)| ours.iops / exchange.iops);
                section.claim_value(format!("{row}: {} {bar} × {exchange}'s", Measure::Iops), ratio, bar)?;
            }
        }
    }
    section.claim(tally, "4k random read QD32, iscsi-perf", TGT, Measure::Iops, Bar::AtLeast(2.0))
}
