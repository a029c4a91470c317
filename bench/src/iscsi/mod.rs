//! iSCSI: lunette against tgt, each with a logical unit in memory, over loopback TCP.

mod session;
mod tgt;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::load::pattern::BLOCK;
use crate::load::workload::{Access, Direction, Workload};
use crate::load::{self, Sample};
use crate::peers::installed;
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Cell, Contender, Settings, Tally};
use session::Session;
use tgt::Tgt;

/// Bytes of each logical unit.
const SIZE: u64 = 256 << 20;
const LUNETTE_TARGET: &str = "iqn.2026-11.dev.lunette:default";
/// Size and depth of the writes that fill a logical unit.
const FILL: usize = 128 << 10;

/// A workload and who makes it.
#[derive(Clone, Copy)]
struct IscsiCell {
    workload: Workload,
    /// Made by libiscsi's iscsi-perf, which cannot check data and shows no latencies.
    foreign: bool,
}

impl Cell for IscsiCell {
    fn name(&self) -> String {
        let by = if self.foreign { ", iscsi-perf" } else { "" };
        format!("{}{by}", self.workload)
    }
}

fn cells() -> Vec<IscsiCell> {
    use Direction::{Read, Write};
    let own = [
        Workload::random(Read, 4 << 10, 1),
        Workload::random(Read, 4 << 10, 32),
        Workload::random(Write, 4 << 10, 1),
        Workload::random(Write, 4 << 10, 32),
        Workload::sequential(Read, 128 << 10, 8),
        Workload::sequential(Write, 128 << 10, 8),
    ];
    let foreign = [Workload::random(Read, 4 << 10, 1), Workload::random(Read, 4 << 10, 32)];
    let own = own.map(|workload| IscsiCell { workload, foreign: false });
    own.into_iter().chain(foreign.map(|workload| IscsiCell { workload, foreign: true })).collect()
}

/// Where a logical unit is found.
struct Unit {
    portal: SocketAddr,
    target: &'static str,
    lun: u8,
}

impl Unit {
    /// On a free port of the loopback interface.
    fn new(target: &'static str, lun: u8) -> Result<Self> {
        let portal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Self { portal, target, lun })
    }

    /// One run against the daemon that serves this unit.
    fn measure(&self, daemon: &Daemon, cell: &IscsiCell, settings: &Settings) -> Result<Sample> {
        let workload = &cell.workload;
        let room = workload.size.max(FILL);
        let mut session = Session::login(self.portal, self.target, self.lun, workload.depth.max(4), room)?;
        let capacity = load::prepare(&mut session)?;
        ensure!(capacity == SIZE / BLOCK as u64, "the logical unit has {capacity} blocks");
        load::fill(&mut session, capacity, (FILL / BLOCK) as u32, settings.generation())
            .context("filling the disk")?;
        if cell.foreign {
            return self.iscsi_perf(daemon, workload, settings);
        }
        load::measure(&mut session, capacity, workload, settings.span(), settings.generation(), || {
            daemon.usage()
        })
    }

    fn iscsi_perf(&self, daemon: &Daemon, workload: &Workload, settings: &Settings) -> Result<Sample> {
        let program = installed("iscsi-perf", "libiscsi-bin")?;
        let seconds = settings.seconds.ceil().max(1.0);
        let mut command = Command::new(program);
        command.args(["-m", &workload.depth.to_string(), "-b", &workload.blocks().to_string()]);
        command.args(["-t", &seconds.to_string()]);
        if workload.access == Access::Random {
            command.arg("-r");
        }
        command.arg(format!("iscsi://{}/{}/{}", self.portal, self.target, self.lun));
        let before = daemon.usage()?;
        let output = command.output()?;
        let cpu = daemon.usage()?.daemon_since(&before);
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "iscsi-perf failed: {}", String::from_utf8_lossy(&output.stderr));
        let iops = last_average(&said).with_context(|| format!("iscsi-perf gives no average: {said}"))?;
        let none = std::time::Duration::ZERO;
        // Its own process would count among the others.
        Ok(Sample { iops, cpu: cpu.div_f64(iops * seconds), guest: none, others: 0.0, p50: none, p99: none })
    }
}

/// The last average that iscsi-perf has printed.
fn last_average(output: &str) -> Option<f64> {
    let (_, rest) = output.rsplit_once("iops average ")?;
    rest.split_whitespace().next()?.parse().ok().filter(|&iops| iops > 0.0)
}

/// Compares with tgt.
pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let tgt = Tgt::find()?;
    let unit = format!("disk:ram:{}M,w", SIZE >> 20);
    let lunette = settings.lunette();
    let mut contenders: Vec<Contender<'_, IscsiCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new("lunette", |cell| {
            let place = Unit::new(LUNETTE_TARGET, 0)?;
            let daemon = lunette.serve(settings, &["--lu", &unit, "--iscsi", &place.portal.to_string()])?;
            place.measure(&daemon, cell, settings)
        }));
    }
    contenders.push(Contender::new("tgt", |cell| {
        let place = Unit::new(Tgt::TARGET, Tgt::LUN)?;
        let daemon = tgt.serve(settings, place.portal, SIZE)?;
        place.measure(&daemon, cell, settings)
    }));
    let tally = Tally::of(settings, &cells(), &mut contenders)?;

    let mut section = Section::new("iSCSI: against tgt", settings)?;
    section.fact(format!(
        "A logical unit of {} MiB in memory each; one session, one connection over loopback TCP, no digests.",
        SIZE >> 20
    ));
    section.fact(format!(
        "tgt {}: `tgtd --foreground`, a file in /dev/shm, default backing store",
        tgt.version()?
    ));
    if let Some(lunette) = &lunette {
        section.fact(format!("`{}`", lunette.shown(settings, &format!("--lu {unit} --iscsi PORTAL"))));
    }
    section.table(&tally, Others::Peers);
    for row in ["4k random read QD32", "4k random read QD32, iscsi-perf"] {
        section.claim(&tally, row, "tgt", Measure::Iops, Bar::AtLeast(2.0))?;
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_read_from_what_iscsi_perf_prints() {
        let output = "lba 4, iops current 7 (0 MB/s), iops average 12 (0 MB/s)\r\
                      iops average 15606 (60 MB/s)      \nfinished.\n";
        assert_eq!(last_average(output), Some(15606.0));
        assert_eq!(last_average("iops average 0 (0 MB/s)"), None);
        assert_eq!(last_average(""), None);
    }
}
