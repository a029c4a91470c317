//! A logical unit inventory as it is at one time.

use crate::{LogicalUnit, placeholder};
use lunette_scsi::Lun;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The logical unit inventory of I_T nexuses (SPC-4 6.33): logical units by logical unit number. What is not in it does not
/// exist for them: no command, copy, task management function or report of theirs reaches it.
///
/// It does not change; a [`LunMap`](crate::LunMap) puts another in its place.
pub struct Inventory {
    units: BTreeMap<u32, Arc<LogicalUnit>>,
    /// Numbers of logical units and their LUNs, ascending.
    luns: Vec<(u64, u32)>,
    /// Those of the port.
    placeholders: Placeholders,
}

/// What answers where no logical unit is, one of each for a target port.
#[derive(Clone)]
pub(crate) struct Placeholders {
    missing: Arc<LogicalUnit>,
    report_luns: Arc<LogicalUnit>,
}

/// What has become of a logical unit number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InventoryChange {
    /// There is a logical unit where none was, or none any more that was told to have [gone](Self::Went).
    Came {
        /// The logical unit number.
        lun: u32,
    },
    /// The logical unit is there no more. If another is in its place, that is told next.
    Went {
        /// The logical unit number.
        lun: u32,
    },
}

impl Placeholders {
    pub(crate) fn new() -> Self {
        Self { missing: placeholder::missing_unit(), report_luns: placeholder::report_luns_unit() }
    }

    /// Whether one of them has this number.
    pub(crate) fn have(&self, number: u64) -> bool {
        [&self.missing, &self.report_luns].iter().any(|unit| unit.number() == number)
    }
}

impl Inventory {
    pub(crate) fn new(units: BTreeMap<u32, Arc<LogicalUnit>>, placeholders: Placeholders) -> Arc<Self> {
        let mut luns: Vec<_> = units.iter().map(|(lun, unit)| (unit.number(), *lun)).collect();
        luns.sort_unstable();
        Arc::new(Self { units, luns, placeholders })
    }

    pub(crate) fn placeholders(&self) -> &Placeholders {
        &self.placeholders
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
        let unit = lun.index().and_then(|index| self.units.get(&index));
        unit.filter(|unit| !unit.is_retired()).unwrap_or(&self.placeholders.missing)
    }

    /// Each logical unit once, under however many numbers it is seen.
    pub(crate) fn each_unit(&self) -> impl Iterator<Item = &Arc<LogicalUnit>> {
        self.luns.chunk_by(|(one, _), (next, _)| one == next).map(|seen| &self.units[&seen[0].1])
    }

    /// Where `unit` is seen, ascending.
    pub(crate) fn luns_of(&self, unit: &LogicalUnit) -> impl Iterator<Item = u32> {
        let first = self.luns.partition_point(|(number, _)| *number < unit.number());
        self.luns[first..].iter().take_while(|(number, _)| *number == unit.number()).map(|(_, lun)| *lun)
    }

    /// Whether `unit` answers anywhere, be it as a stand-in.
    pub(crate) fn shows(&self, unit: &LogicalUnit) -> bool {
        self.luns_of(unit).next().is_some() || self.placeholders.have(unit.number())
    }

    /// The units that are not in `other`.
    pub(crate) fn without(&self, other: &Self) -> Vec<Arc<LogicalUnit>> {
        self.each_unit().filter(|unit| other.luns_of(unit).next().is_none()).cloned().collect()
    }

    /// What is different in `after`, by logical unit number.
    pub(crate) fn changes_to(&self, after: &Self) -> Vec<InventoryChange> {
        let number = |inventory: &Self, lun| inventory.units.get(&lun).map(|unit| unit.number());
        let mut luns: Vec<_> = self.units.keys().chain(after.units.keys()).copied().collect();
        luns.sort_unstable();
        luns.dedup();
        let change = |lun| {
            let (before, after) = (number(self, lun), number(after, lun));
            let differs = before != after;
            let went = (differs && before.is_some()).then_some(InventoryChange::Went { lun });
            let came = (differs && after.is_some()).then_some(InventoryChange::Came { lun });
            went.into_iter().chain(came)
        };
        luns.into_iter().flat_map(change).collect()
    }
}

impl InventoryChange {
    /// The logical unit number.
    pub fn lun(self) -> u32 {
        let (Self::Came { lun } | Self::Went { lun }) = self;
        lun
    }
}

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.units.iter().map(|(lun, unit)| (lun, &unit.name))).finish()
    }
}
