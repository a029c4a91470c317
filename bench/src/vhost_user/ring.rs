//! lunette's ring and engine with a store that does nothing.

use anyhow::Result;

use super::{GuestCell, SOCKET, Scsi, random_read};
use crate::daemon::Daemon;
use crate::load;
use crate::report::{Bar, Others, Section};
use crate::run::{Contender, Settings, Tally};

/// CPU nanoseconds that a request may cost.
const MOST: f64 = 250.0;

/// Starts this program as the daemon of this section.
pub(super) fn serve(cell: &GuestCell, settings: &Settings) -> Result<Daemon> {
    let poll = if cell.is_polled() { "always" } else { settings.poll.as_str() };
    let mut daemon = Daemon::start(&std::env::current_exe()?, settings, cell.pinned, |command| {
        command.args(["--serve-null", SOCKET, "--poll", poll]);
    })?;
    daemon.wait_for_line("ready")?;
    Ok(daemon)
}

/// One run against it.
pub(super) fn run(cell: &GuestCell, settings: &Settings) -> Result<load::Sample> {
    let daemon = serve(cell, settings)?;
    let mut guest =
        Scsi::connect(&daemon.path(SOCKET), cell.workload.depth, cell.workload.size, &cell.guest)?;
    let capacity = load::prepare(&mut guest)?;
    load::measure_null(&mut guest, capacity, &cell.workload, settings.span(), || daemon.usage())
}

pub(crate) fn measure(settings: &Settings) -> Result<Section> {
    let mut cells: Vec<_> = [1, 32, 128].map(|depth| GuestCell::new(random_read(depth))).into();
    cells.extend([32, 128].map(|depth| GuestCell::polled(random_read(depth))));
    let tally =
        Tally::of(settings, &cells, &mut [Contender::new("ring", |cell: &GuestCell| run(cell, settings))])?;
    let mut section = Section::new("The vhost-user ring alone", settings)?;
    section.fact(format!(
        "Ring, engine and disk of lunette on one reactor (poll: {}; \"polled\": always), with a store that answers at once \
         and moves no data.",
        settings.poll
    ));
    section.table(&tally, Others::Peers);
    let row = "4k random read QD128, polled";
    if let Some(median) =
        tally.rows.iter().find(|candidate| candidate.name == row).and_then(|row| row.median(0))
    {
        let nanoseconds = median.cpu.as_secs_f64() * 1e9;
        section.claim_value(format!("{row}: ns of CPU at most {MOST}"), nanoseconds, Bar::AtMost(MOST));
    }
    Ok(section)
}
