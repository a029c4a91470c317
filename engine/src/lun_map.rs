//! Which logical units an initiator sees, and under which numbers (SAM-5 4.7).

use crate::{LogicalUnit, TargetPort, placeholder};
use lunette_scsi::Lun;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The logical unit inventory of I_T nexuses (SPC-4 6.33): logical units by logical unit number. What is not in it does not
/// exist for them: no command, copy, task management function or report of theirs reaches it.
///
/// A port has one for everybody, [`TargetPort::luns`]; [`TargetPort::map`] makes others, for [`Nexus::mapped`].
///
/// [`Nexus::mapped`]: crate::Nexus::mapped
pub struct LunMap {
    units: BTreeMap<u32, Arc<LogicalUnit>>,
    /// Numbers of logical units and their LUNs, ascending.
    luns: Vec<(u64, u32)>,
    /// Those of the port.
    placeholders: Placeholders,
}

/// What answers where no logical unit is, one of each for a target port.
#[derive(Clone)]
struct Placeholders {
    missing: Arc<LogicalUnit>,
    report_luns: Arc<LogicalUnit>,
}

impl LunMap {
    /// The first map of a port.
    pub(crate) fn new(units: BTreeMap<u32, Arc<LogicalUnit>>) -> Arc<Self> {
        let (missing, report_luns) = (placeholder::missing_unit(), placeholder::report_luns_unit());
        Self::with(units, Placeholders { missing, report_luns })
    }

    /// Another map of the same port.
    pub(crate) fn beside(&self, units: BTreeMap<u32, Arc<LogicalUnit>>) -> Arc<Self> {
        Self::with(units, self.placeholders.clone())
    }

    fn with(units: BTreeMap<u32, Arc<LogicalUnit>>, placeholders: Placeholders) -> Arc<Self> {
        let mut luns: Vec<_> = units.iter().map(|(lun, unit)| (unit.number(), *lun)).collect();
        luns.sort_unstable();
        Arc::new(Self { units, luns, placeholders })
    }

    /// The logical units by their numbers.
    pub fn units(&self) -> &BTreeMap<u32, Arc<LogicalUnit>> {
        &self.units
    }

    /// What answers at `lun`: a logical unit, the REPORT LUNS well-known logical unit, or a stand-in for a missing one.
    pub fn resolve(&self, lun: Lun) -> &Arc<LogicalUnit> {
        if lun == Lun::REPORT_LUNS_WLUN {
            return &self.placeholders.report_luns;
        }
        lun.index().and_then(|index| self.units.get(&index)).unwrap_or(&self.placeholders.missing)
    }

    /// Each logical unit once, under however many numbers it is seen.
    pub(crate) fn each_unit(&self) -> impl Iterator<Item = &Arc<LogicalUnit>> {
        self.luns.chunk_by(|(one, _), (next, _)| one == next).map(|seen| &self.units[&seen[0].1])
    }

    /// The same and what stands in for the rest.
    pub(crate) fn each_unit_and_placeholder(&self) -> impl Iterator<Item = &Arc<LogicalUnit>> {
        self.each_unit().chain([&self.placeholders.missing, &self.placeholders.report_luns])
    }

    /// Where `unit` is seen, ascending.
    pub(crate) fn luns_of(&self, unit: &LogicalUnit) -> impl Iterator<Item = u32> {
        let first = self.luns.partition_point(|(number, _)| *number < unit.number());
        self.luns[first..].iter().take_while(|(number, _)| *number == unit.number()).map(|(_, lun)| *lun)
    }

    /// Whether it is one of `port`.
    pub(crate) fn is_of(&self, port: &TargetPort) -> bool {
        Arc::ptr_eq(&self.placeholders.missing, &port.luns().placeholders.missing)
    }
}

impl fmt::Debug for LunMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.units.iter().map(|(lun, unit)| (lun, &unit.name))).finish()
    }
}
