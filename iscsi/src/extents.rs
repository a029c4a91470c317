//! Which bytes of a transfer are there.

use std::ops::Range;

use crate::limits::MAX_EXTENTS;

/// Bytes that came, in any order. Those that came in order, from the start on, take no list.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Everything before this place is there.
    prefix: u32,
    /// What is there after a gap: sorted, apart from each other.
    rest: Vec<Range<u32>>,
}

/// Why bytes are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Some of them are there already.
    Overlap,
    /// There are more than [`MAX_EXTENTS`] gaps.
    Fragments,
}

impl Extents {
    /// The first `prefix` bytes are there.
    pub(crate) fn new(prefix: u32) -> Self {
        Self { prefix, rest: Vec::new() }
    }

    /// Everything before this place is there.
    pub(crate) fn prefix(&self) -> u32 {
        self.prefix
    }

    /// How many bytes there are.
    pub(crate) fn count(&self) -> u32 {
        self.prefix + self.rest.iter().map(|extent| extent.end - extent.start).sum::<u32>()
    }

    /// Whether there are gaps.
    pub(crate) fn has_gaps(&self) -> bool {
        !self.rest.is_empty()
    }

    pub(crate) fn insert(&mut self, new: Range<u32>) -> Result<(), Misfit> {
        if new.is_empty() {
            return Ok(());
        }
        let at = self.rest.partition_point(|extent| extent.start < new.start);
        let before = at.checked_sub(1).map_or(self.prefix, |before| self.rest[before].end);
        let after = self.rest.get(at).map(|after| after.start);
        if new.start < before || after.is_some_and(|after| after < new.end) {
            return Err(Misfit::Overlap);
        }
        match (new.start == before, after == Some(new.end)) {
            (true, true) => {
                let end = self.rest.remove(at).end;
                *self.end_before(at) = end;
            }
            (true, false) => *self.end_before(at) = new.end,
            (false, true) => self.rest[at].start = new.start,
            (false, false) if self.rest.len() >= MAX_EXTENTS => return Err(Misfit::Fragments),
            (false, false) => self.rest.insert(at, new),
        }
        Ok(())
    }

    /// The end of what is there before the extent `at`.
    fn end_before(&mut self, at: usize) -> &mut u32 {
        match at.checked_sub(1) {
            Some(before) => &mut self.rest[before].end,
            None => &mut self.prefix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_a_list_of_bytes_would(ranges in prop::collection::vec((0u32..60, 0u32..12), 0..40)) {
            let mut there = [false; 80];
            let mut extents = Extents::new(4);
            there[..4].fill(true);
            for (start, length) in ranges {
                let range = start as usize..(start + length) as usize;
                let overlaps = there[range.clone()].iter().any(|byte| *byte);
                let expected = if overlaps { Err(Misfit::Overlap) } else { Ok(()) };
                prop_assert_eq!(extents.insert(start..start + length), expected);
                if !overlaps {
                    there[range].fill(true);
                }
                let prefix = there.iter().position(|byte| !byte).unwrap();
                prop_assert_eq!(extents.prefix() as usize, prefix);
                prop_assert_eq!(extents.has_gaps(), there[prefix..].contains(&true));
                prop_assert_eq!(extents.count() as usize, there.iter().filter(|byte| **byte).count());
                let starts = there.windows(2).filter(|pair| !pair[0] && pair[1]).count();
                prop_assert_eq!(extents.rest.len(), starts, "neighbours are one");
            }
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let mut extents = Extents::new(0);
        for extent in 1..=MAX_EXTENTS as u32 {
            extents.insert(2 * extent..2 * extent + 1).unwrap();
        }
        assert_eq!(extents.insert(1000..1001), Err(Misfit::Fragments));
        assert_eq!(extents.insert(1..2), Ok(()), "closing a gap takes no room");
    }
}
