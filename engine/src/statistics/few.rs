//! Counters by number, of which few are ever needed: no bigger than these, and no allocation.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counts by number, of at most `N` numbers, each up to 65535. One reactor alone writes here.
#[derive(Debug)]
pub(super) struct Few<const N: usize>([AtomicU32; N]);

impl<const N: usize> Default for Few<N> {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; N])
    }
}

impl<const N: usize> Few<N> {
    /// Counts `count` more of `number`. Returns whether there is room for that; otherwise nothing has changed.
    pub(super) fn count(&self, number: u16, count: u32) -> bool {
        // In the upper half of a slot that is used stands the number and 1.
        let Some(key) = number.checked_add(1) else { return false };
        let empty = u32::from(key) << 16;
        let of_it = self.0.iter().find_map(|slot| match slot.load(Relaxed) {
            0 => Some((slot, empty)),
            value => (value & 0xffff_0000 == empty).then_some((slot, value)),
        });
        let Some((slot, before)) = of_it else { return false };
        let Some(after) = before.checked_add(count).filter(|after| after & 0xffff_0000 == empty) else {
            return false;
        };
        slot.store(after, Relaxed);
        true
    }

    /// The numbers that were counted, and how often.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, u64)> {
        let used = self.0.iter().map(|slot| slot.load(Relaxed)).take_while(|value| *value != 0);
        used.map(|value| ((value >> 16) as u16 - 1, u64::from(value & 0xffff)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_are_counted_exactly_and_no_more() {
        let few = Few::<2>::default();
        assert!(few.count(7, 1) && few.count(0, 0xffff) && few.count(7, 2));
        assert!(!few.count(1, 1), "a third number");
        assert!(!few.count(0, 1) && !few.count(7, u32::MAX), "too many");
        assert!(few.counts().eq([(7, 3), (0, 0xffff)]));
        assert!(!Few::<1>::default().count(u16::MAX, 1));
        let last = Few::<1>::default();
        assert!(last.count(u16::MAX - 1, 0xffff) && !last.count(u16::MAX - 1, 1));
        assert!(last.counts().eq([(u16::MAX - 1, 0xffff)]));
    }
}
