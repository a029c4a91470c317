//! Unit attention conditions (SAM-5 5.14) of one I_T_L nexus.

use lunette_scsi::{AdditionalSense, Sense};
use std::collections::VecDeque;

/// How many different conditions are kept; beyond that the oldest gives way.
const LIMIT: usize = 16;

/// The pending conditions, in the order in which they are reported.
#[derive(Default, Debug)]
pub(crate) struct Attentions {
    pending: VecDeque<AdditionalSense>,
}

impl Attentions {
    /// Adds a condition. A reset (29h) supersedes every earlier condition, and only the most severe reset is reported
    /// (SPC-4 table 49 ranks them by additional sense code qualifier: power on and reset before nexus loss).
    pub(crate) fn establish(&mut self, condition: AdditionalSense) {
        if is_reset(condition) {
            let rank = |other: &AdditionalSense| is_reset(*other) && other.ascq <= condition.ascq;
            if self.pending.iter().any(rank) {
                return;
            }
            self.pending.clear();
        } else if self.pending.contains(&condition) {
            return;
        }
        if self.pending.len() == LIMIT {
            self.pending.pop_front();
        }
        self.pending.push_back(condition);
    }

    /// Takes the condition to report next.
    pub(crate) fn take(&mut self) -> Option<Sense> {
        self.pending.pop_front().map(Sense::unit_attention)
    }

    /// Puts back what was taken and not reported, unless a reset has come meanwhile.
    pub(crate) fn give_back(&mut self, condition: AdditionalSense) {
        if !self.pending.contains(&condition) && !self.pending.iter().copied().any(is_reset) {
            self.pending.push_front(condition);
            self.pending.truncate(LIMIT);
        }
    }

    /// Forgets a condition that the initiator has learnt of otherwise.
    pub(crate) fn forget(&mut self, condition: AdditionalSense) {
        self.pending.retain(|other| *other != condition);
    }

    /// All of them, in that order.
    pub(crate) fn all(&self) -> impl Iterator<Item = AdditionalSense> {
        self.pending.iter().copied()
    }

    /// `before` were pending already where the nexus comes from, so it was not powered on; what has come since stays.
    pub(crate) fn go_on(&mut self, before: impl IntoIterator<Item = AdditionalSense>) {
        let since = std::mem::take(&mut self.pending);
        let power_on = AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
        let since = since.into_iter().filter(|condition| *condition != power_on);
        before.into_iter().chain(since).for_each(|condition| self.establish(condition));
    }

    /// The condition that would be reported next.
    pub(crate) fn peek(&self) -> Option<AdditionalSense> {
        self.pending.front().copied()
    }
}

fn is_reset(condition: AdditionalSense) -> bool {
    condition.asc == 0x29
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(attentions: &mut Attentions) -> Vec<AdditionalSense> {
        std::iter::from_fn(|| attentions.take()).map(|sense| sense.additional).collect()
    }

    #[test]
    fn a_reset_supersedes_what_came_before_but_not_what_comes_after() {
        let mut a = Attentions::default();
        a.establish(AdditionalSense::MODE_PARAMETERS_CHANGED);
        a.establish(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        a.establish(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(
            all(&mut a),
            [AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED, AdditionalSense::CAPACITY_DATA_HAS_CHANGED]
        );
    }

    #[test]
    fn power_on_is_not_replaced_by_a_weaker_reset() {
        let mut a = Attentions::default();
        a.establish(AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED);
        a.establish(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        assert_eq!(all(&mut a), [AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED]);
    }

    #[test]
    fn what_was_not_reported_comes_first_again_but_not_after_a_reset() {
        let (capacity, modes) =
            (AdditionalSense::CAPACITY_DATA_HAS_CHANGED, AdditionalSense::MODE_PARAMETERS_CHANGED);
        let mut a = Attentions::default();
        a.establish(capacity);
        a.take();
        a.establish(modes);
        a.give_back(capacity);
        a.give_back(modes);
        assert_eq!(all(&mut a), [capacity, modes]);
        a.establish(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        a.give_back(capacity);
        assert_eq!(all(&mut a), [AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED]);
    }

    #[test]
    fn who_goes_on_has_what_was_pending_and_what_has_come_since() {
        let power_on = AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
        let (capacity, modes) =
            (AdditionalSense::CAPACITY_DATA_HAS_CHANGED, AdditionalSense::MODE_PARAMETERS_CHANGED);
        let mut a = Attentions::default();
        a.establish(power_on);
        a.establish(capacity);
        a.go_on([modes]);
        assert_eq!(a.all().collect::<Vec<_>>(), [modes, capacity]);
        a.go_on([power_on]);
        assert_eq!(all(&mut a), [power_on, modes, capacity]);
    }

    #[test]
    fn a_condition_is_reported_once() {
        let mut a = Attentions::default();
        a.establish(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        a.establish(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(all(&mut a).len(), 1);
        a.establish(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        a.forget(AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(a.peek(), None);
    }
}
