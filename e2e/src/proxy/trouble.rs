//! Which PDU is spoilt, and how.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

use super::pdu::{Digests, Pdu};

/// What is done to a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Injury {
    /// A bit of the header is flipped.
    Header,
    /// A bit of the header's digest is flipped.
    HeaderDigest,
    /// A bit of the data is flipped.
    Data,
    /// A bit of the data's digest is flipped.
    DataDigest,
    /// Some bytes in the middle do not arrive.
    Loss,
    /// The connection ends in the middle.
    Cut,
}

impl Injury {
    /// All there are; for all but [`Injury::Cut`], both digests must be on.
    pub const ALL: [Injury; 6] =
        [Injury::Header, Injury::HeaderDigest, Injury::Data, Injury::DataDigest, Injury::Loss, Injury::Cut];

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Injury::Header => "header",
            Injury::HeaderDigest => "header digest",
            Injury::Data => "data",
            Injury::DataDigest => "data digest",
            Injury::Loss => "loss",
            Injury::Cut => "cut",
        }
    }

    /// Whether it can be done to a PDU, and would be noticed.
    fn fits(self, pdu: &Pdu, digests: Digests) -> bool {
        let noticed = digests.header && digests.data;
        match self {
            Injury::Header | Injury::HeaderDigest | Injury::Loss => noticed,
            Injury::Data | Injury::DataDigest => noticed && !pdu.data.is_empty(),
            Injury::Cut => true,
        }
    }
}

/// The trouble a proxy makes in full-feature phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Decides about everything.
    pub seed: u64,
    /// PDUs from one injury to the next, on average. All of `injuries` come in both directions, in random order, before any
    /// comes again.
    pub every: u64,
    /// What is done to PDUs; empty: nothing.
    pub injuries: Vec<Injury>,
    /// One PDU out of so many goes out in pieces; 0: none.
    pub split: u64,
    /// One PDU out of so many is up to 20 milliseconds late; 0: none.
    pub late: u64,
}

impl Trouble {
    /// None at all: connections pass, and can be ended.
    pub const NONE: Trouble = Trouble { seed: 0, every: 0, injuries: Vec::new(), split: 0, late: 0 };
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.seed, self.every, self.split, self.late)?;
        self.injuries.iter().try_for_each(|injury| write!(f, ",{}", injury.name()))
    }
}

impl FromStr for Trouble {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(',');
        let mut number = || Ok::<u64, Error>(words.next().context("a number is missing")?.parse()?);
        let [seed, every, split, late] = [number()?, number()?, number()?, number()?];
        let injuries = words.map(|word| {
            let known = Injury::ALL.into_iter().find(|injury| injury.name() == word);
            known.with_context(|| format!("unknown injury {word:?}"))
        });
        Ok(Trouble { seed, every, injuries: injuries.collect::<Result<_>>()?, split, late })
    }
}

/// The way a PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// To the target.
    Out,
    /// To the initiator.
    In,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::Out => "out",
            Direction::In => "in",
        }
    }
}

/// What becomes of one PDU.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) injury: Option<Injury>,
    pub(super) split: bool,
    pub(super) milliseconds: u64,
}

/// Decides about the PDUs of all connections, one after the other.
pub(super) struct Schedule {
    trouble: Trouble,
    pub(super) random: Random,
    /// Injuries still to come in this round.
    pending: Vec<(Injury, Direction)>,
    /// PDUs to leave alone before the next one.
    gap: u64,
}

impl Schedule {
    pub(super) fn new(trouble: Trouble) -> Self {
        let random = Random(trouble.seed);
        let mut schedule = Schedule { trouble, random, pending: Vec::new(), gap: 0 };
        schedule.rest();
        schedule
    }

    /// Makes no more trouble.
    pub(super) fn calm(&mut self) {
        self.trouble = Trouble::NONE;
        self.pending.clear();
    }

    fn rest(&mut self) {
        let every = self.trouble.every;
        self.gap = every / 2 + self.random.below(every.max(1));
        if self.pending.is_empty() {
            let injuries = self.trouble.injuries.iter();
            self.pending = injuries.flat_map(|it| [(*it, Direction::Out), (*it, Direction::In)]).collect();
            for at in (1..self.pending.len()).rev() {
                self.pending.swap(at, self.random.below(at as u64 + 1) as usize);
            }
        }
    }

    /// The fate of a PDU of the full-feature phase.
    pub(super) fn decide(&mut self, pdu: &Pdu, direction: Direction, digests: Digests) -> Fate {
        let mut one_of = |count: u64| count > 0 && self.random.below(count) == 0;
        let (split, late) = (one_of(self.trouble.split), one_of(self.trouble.late));
        let milliseconds = if late { 1 + self.random.below(20) } else { 0 };
        self.gap = self.gap.saturating_sub(1);
        let mut injury = None;
        if self.gap == 0
            && let Some(&(next, way)) = self.pending.last()
            && way == direction
            && next.fits(pdu, digests)
        {
            injury = Some(next);
            self.pending.pop();
            self.rest();
        }
        Fate { injury, split, milliseconds }
    }
}

/// A linear congruential generator (Knuth's MMIX).
pub(super) struct Random(u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Digests = Digests { header: true, data: true };

    fn pdu(length: u8) -> Pdu {
        let mut wire = vec![0; 48];
        wire[7] = length;
        wire.resize(48 + 4 + usize::from(length) + if length > 0 { 4 } else { 0 }, 0);
        Pdu::read(&mut &wire[..], || BOTH).unwrap().unwrap()
    }

    fn trouble() -> Trouble {
        Trouble { seed: 7, every: 10, injuries: Injury::ALL.to_vec(), split: 3, late: 5 }
    }

    #[test]
    fn a_text_says_it_all() {
        assert_eq!(trouble().to_string().parse::<Trouble>().unwrap(), trouble());
        assert_eq!(Trouble::NONE.to_string().parse::<Trouble>().unwrap(), Trouble::NONE);
        assert!("1,2,3".parse::<Trouble>().is_err());
        assert!("1,2,3,4,rust".parse::<Trouble>().is_err());
    }

    #[test]
    fn every_injury_comes_in_both_directions() {
        let mut schedule = Schedule::new(trouble());
        let mut seen = Vec::new();
        for number in 0..400 {
            let direction = if number % 2 == 0 { Direction::Out } else { Direction::In };
            let fate = schedule.decide(&pdu(8), direction, BOTH);
            seen.extend(fate.injury.map(|injury| (injury, direction)));
        }
        let mut first = seen[..2 * Injury::ALL.len()].to_vec();
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 2 * Injury::ALL.len(), "{seen:?}");
        assert!(seen.len() < 60, "there are PDUs between them: {}", seen.len());
    }

    #[test]
    fn what_nobody_would_notice_is_not_done() {
        let mut schedule = Schedule::new(Trouble { injuries: vec![Injury::Data], ..trouble() });
        let mut fates = |length, digests| {
            let ways = [Direction::Out, Direction::In];
            (0..100).filter(|n| schedule.decide(&pdu(length), ways[n % 2], digests).injury.is_some()).count()
        };
        assert_eq!(fates(0, BOTH), 0);
        assert_eq!(fates(8, Digests { header: true, data: false }), 0);
        assert!(fates(8, BOTH) > 0);
    }
}
