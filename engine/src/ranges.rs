//! Ranges of a logical unit's bytes that commands have to themselves.
//!
//! COMPARE AND WRITE reads and then writes, and nothing may come between. Such a command claims its range; everything else
//! that reads or writes takes its own as one that others may share. READ and WRITE do so only once the unit has seen a
//! claim: the gates of its nexuses say that, and the first claim waits for the reads and writes that were begun before.

use crate::{Alarm, IoKind, Run, Steps, sense_of};
use lunette_scsi::Sense;
use lunette_store::IoError;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ranges of one unit that are in use, and who waits for one.
#[derive(Clone, Default)]
pub(crate) struct Ranges(Arc<Mutex<Places>>);

/// In order of arrival: a place gives way to older ones with which it conflicts, whether they wait or not, so nobody is
/// overtaken for ever.
#[derive(Default)]
struct Places {
    next: u64,
    /// All reads and writes take their ranges: those that were begun before they had to have ended.
    settled: bool,
    shared: BTreeMap<u64, Place>,
    claimed: BTreeMap<u64, Place>,
}

struct Place {
    bytes: Range<u64>,
    /// Older places that stand in its way.
    before: usize,
    alarm: Alarm,
    /// Why it will not be had.
    refused: Option<Sense>,
    /// Why no younger place in conflict with it will.
    refuses: Option<Sense>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Shared,
    Claimed,
}

/// The use of a range of bytes, or a place in the queue for one; given back when this is dropped.
///
/// Who has one waits for no other, but for copies, which take theirs in one order; and who has a [`Turn`](crate::Turn) waits for
/// none.
#[must_use = "the range is given back when this is dropped"]
pub struct RangeUse {
    ranges: Ranges,
    number: u64,
    kind: Use,
}

impl Steps {
    /// Takes a range of bytes for reads or writes beside those of others; waits for as long as somebody has a claim to it.
    ///
    /// # Errors
    /// When the work was aborted, or who has the range [refuses](RangeUse::refuse_others) it.
    pub async fn share(&self, bytes: Range<u64>) -> Result<RangeUse, Sense> {
        self.take(bytes, Use::Shared).await
    }

    /// Takes a range for this work alone, of which it is known that no command has it that takes no ranges.
    ///
    /// # Errors
    /// When who has the range [refuses](RangeUse::refuse_others) it.
    pub(crate) async fn claim_settled(&self, bytes: Range<u64>) -> Result<RangeUse, Sense> {
        self.take(bytes, Use::Claimed).await
    }

    async fn take(&self, bytes: Range<u64>, kind: Use) -> Result<RangeUse, Sense> {
        let range = self.unit.ranges().enter(bytes, kind, self.alarm());
        while !range.is_free()? {
            self.wait().await.map_err(aborted)?;
        }
        Ok(range)
    }
}

impl Run {
    /// Takes a range of bytes for this command alone: no other command reads or writes it meanwhile.
    ///
    /// # Errors
    /// When the command was aborted, or who has the range [refuses](RangeUse::refuse_others) it.
    pub async fn claim(&self, bytes: Range<u64>) -> Result<RangeUse, Sense> {
        if !self.unit.ranges().places().settled {
            self.unit.take_ranges();
            self.await_transfers().await.map_err(aborted)?;
            self.unit.ranges().places().settled = true;
        }
        self.take(bytes, Use::Claimed).await
    }
}

fn aborted(error: IoError) -> Sense {
    sense_of(IoKind::Read, error)
}

impl Ranges {
    fn enter(&self, bytes: Range<u64>, kind: Use, alarm: Alarm) -> RangeUse {
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        let before = places.in_conflict(&bytes, kind, 0).count();
        let refused = places.in_conflict(&bytes, kind, 0).find_map(|place| place.refuses);
        places.of(kind).insert(number, Place { bytes, before, alarm, refused, refuses: None });
        RangeUse { ranges: self.clone(), number, kind }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn of(&mut self, kind: Use) -> &mut BTreeMap<u64, Place> {
        match kind {
            Use::Shared => &mut self.shared,
            Use::Claimed => &mut self.claimed,
        }
    }

    /// The places from number `first` on that overlap, and of which one or the other is claimed.
    fn in_conflict(&mut self, bytes: &Range<u64>, kind: Use, first: u64) -> impl Iterator<Item = &mut Place> {
        let claimed = self.claimed.range_mut(first..);
        let shared = (kind == Use::Claimed).then(|| self.shared.range_mut(first..));
        let all = claimed.chain(shared.into_iter().flatten()).map(|(_, place)| place);
        all.filter(|place| place.bytes.start < bytes.end && bytes.start < place.bytes.end)
    }
}

impl RangeUse {
    fn is_free(&self) -> Result<bool, Sense> {
        match self.ranges.places().of(self.kind).get(&self.number) {
            Some(Place { refused: Some(sense), .. }) => Err(*sense),
            place => Ok(place.is_none_or(|place| place.before == 0)),
        }
    }

    /// Who waits for a part of the range, or comes for one while this has it, gets this sense data: it will be long.
    pub fn refuse_others(&self, sense: Sense) {
        let mut places = self.ranges.places();
        let Some(own) = places.of(self.kind).get_mut(&self.number) else { return };
        own.refuses = Some(sense);
        let bytes = own.bytes.clone();
        for place in places.in_conflict(&bytes, self.kind, self.number + 1) {
            place.refused = Some(sense);
            place.alarm.ring();
        }
    }
}

impl Drop for RangeUse {
    fn drop(&mut self) {
        let mut places = self.ranges.places();
        let Some(Place { bytes, .. }) = places.of(self.kind).remove(&self.number) else { return };
        for place in places.in_conflict(&bytes, self.kind, self.number) {
            place.before -= 1;
            if place.before == 0 {
                place.alarm.ring();
            }
        }
    }
}
