//! lunette's ring and engine with a store that does nothing.

use anyhow::Result;

use super::{GuestCell, SOCKET, Scsi, random_read};
use crate::daemon::Daemon;
use crate::load;
use crate::report::{Bar, Others, Section};
use crate::run::{Contender, Settings, Tally};

/// The daemon that never polls.
const SLEEPING: &str = "without polling";
/// CPU nanoseconds that a request may cost.
const MOST: f64 = 250.0;

/// Starts this program as the daemon of this section.
fn serve(cell: &GuestCell, poll: &str, settings: &Settings) -> Result<Daemon> {
    let mut daemon = Daemon::start(&std::env::current_exe()?, settings, cell.pinned, |command| {
        command.args(["--serve-null", SOCKET, "--poll", poll]);
    })?;
    daemon.wait_for_line("ready")?;
    Ok(daemon)
}

/// One run against it.
pub(super) fn run(cell: &GuestCell, settings: &Settings) -> Result<load::Sample> {
    run_with(cell, if cell.is_polled() { "always" } else { settings.poll.as_str() }, settings)
}

/// The same with another way to wait.
fn run_with(cell: &GuestCell, poll: &str, settings: &Settings) -> Result<load::Sample> {
    let daemon = serve(cell, poll, settings)?;
    let mut guest =
        Scsi::connect(&daemon.path(SOCKET), cell.workload.depth, cell.workload.size, &cell.guest)?;
    let capacity = load::prepare(&mut guest)?;
    load::measure_null(&mut guest, capacity, &cell.workload, settings.span(), || daemon.usage())
}

pub(crate) fn measure(settings: &Settings) -> Result<Section> {
    let mut cells: Vec<_> = [1, 32, 128].map(|depth| GuestCell::new(random_read(depth))).into();
    cells.extend([32, 128].map(|depth| GuestCell::polled(random_read(depth))));
    let mut contenders: [Contender<'_, GuestCell>; 2] = [
        Contender::new("ring", |cell| run(cell, settings)),
        Contender::new(SLEEPING, |cell| run_with(cell, "never", settings)),
    ];
    let tally = Tally::of(settings, &cells, &mut contenders)?;
    let mut section = Section::new("The vhost-user ring alone", settings)?;
    section.fact(format!(
        "Ring, engine and disk of lunette on one reactor (poll: {}; \"polled\": always), with a store that answers at once \
         and moves no data. A reactor that polls is busy all the time, so its CPU per command is that of whoever is slower, \
         it or the guest. \"{SLEEPING}\" is busy only while it works, and with sleeping and waking.",
        settings.poll
    ));
    section.table(&tally, Others::Variants);
    let nanoseconds = |row, of| tally.median(row, of).map(|median| median.cpu.as_secs_f64() * 1e9);
    for row in &tally.rows {
        let [always, sleeping] = ["ring", SLEEPING].map(|of| nanoseconds(&row.name, of).unwrap_or(f64::NAN));
        section.fact(format!("{}: {always:.0} ns of CPU per command, {sleeping:.0} {SLEEPING}", row.name));
    }
    let row = "4k random read QD128, polled";
    section.claim_value(
        format!("{row}: ns of CPU at most {MOST}"),
        nanoseconds(row, "ring"),
        Bar::AtMost(MOST),
    )?;
    Ok(section)
}
