//! Commands without data: what a command costs by itself.

use anyhow::Result;

use super::{GuestCell, LUNETTE, VHOST_DEVICE_SCSI, measure_scsi, serve, serve_peer};
use crate::load::workload::Workload;
use crate::report::{Bar, Measure, Others, Section};
use crate::run::{Contender, Settings, Tally};
use crate::{disk, peers};

pub(crate) fn compare(settings: &Settings) -> Result<Section> {
    let peer = peers::vhost_device_scsi()?;
    let file = disk::filled(settings)?;
    let unit = format!("disk:{},w", file.display());
    let lunette = settings.lunette();
    let mut contenders: Vec<Contender<'_, GuestCell>> = Vec::new();
    if let Some(lunette) = &lunette {
        contenders.push(Contender::new(LUNETTE, |cell| {
            measure_scsi(&serve(lunette, &unit, cell, settings)?, cell, true, settings)
        }));
    }
    contenders.push(Contender::new(VHOST_DEVICE_SCSI, |cell| {
        measure_scsi(&serve_peer(&peer, &file, cell, settings)?, cell, true, settings)
    }));
    let cells = [1, 32].map(|depth| GuestCell::new(Workload::no_data(depth)));
    let tally = Tally::of(settings, &cells, &mut contenders)?;

    let mut section = Section::new("vhost-user: commands without data", settings)?;
    section.table(&tally, Others::Peers);
    section.claim(&tally, "TEST UNIT READY QD32", VHOST_DEVICE_SCSI, Measure::Cpu, Bar::AtMost(0.5))?;
    Ok(section)
}
