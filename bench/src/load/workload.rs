//! What is asked of a disk.

use std::fmt;

use super::pattern::BLOCK;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Where the next transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Random,
    Sequential,
    /// Nowhere: the commands are TEST UNIT READY.
    None,
}

/// A steady load: `depth` commands of `size` bytes each, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) access: Access,
    pub(crate) direction: Direction,
    /// Bytes per command.
    pub(crate) size: usize,
    /// Commands in flight.
    pub(crate) depth: usize,
}

impl Workload {
    pub(crate) const fn random(direction: Direction, size: usize, depth: usize) -> Self {
        Self { access: Access::Random, direction, size, depth }
    }

    pub(crate) const fn sequential(direction: Direction, size: usize, depth: usize) -> Self {
        Self { access: Access::Sequential, direction, size, depth }
    }

    /// TEST UNIT READY.
    pub(crate) const fn no_data(depth: usize) -> Self {
        Self { access: Access::None, direction: Direction::Read, size: 0, depth }
    }

    /// Blocks per command.
    pub(crate) fn blocks(&self) -> u32 {
        (self.size / BLOCK) as u32
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Random => "random",
            Access::Sequential => "sequential",
            Access::None => return write!(f, "TEST UNIT READY QD{}", self.depth),
        };
        let direction = match self.direction {
            Direction::Read => "read",
            Direction::Write => "write",
        };
        write!(f, "{}k {access} {direction} QD{}", self.size >> 10, self.depth)
    }
}

/// Addresses of transfers of one size, aligned to that size, for ever.
pub(crate) struct Addresses {
    access: Access,
    blocks: u32,
    /// Transfers that fit on the disk.
    places: u64,
    state: u64,
}

impl Addresses {
    /// Over a disk of `capacity` blocks, which holds at least one transfer.
    pub(crate) fn new(access: Access, blocks: u32, capacity: u64, seed: u64) -> Self {
        let state = match access {
            Access::Random => seed | 1,
            Access::Sequential | Access::None => 0,
        };
        Self { access, blocks, places: capacity / u64::from(blocks.max(1)), state }
    }
}

impl Iterator for Addresses {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let place = match self.access {
            Access::None => 0,
            Access::Sequential => {
                let place = self.state;
                self.state = (place + 1) % self.places;
                place
            }
            Access::Random => {
                // xorshift64; its high half picks the place.
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                ((u128::from(self.state) * u128::from(self.places)) >> 64) as u64
            }
        };
        Some(place * u64::from(self.blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_addresses_wrap_before_a_partial_transfer() {
        let lbas: Vec<_> = Addresses::new(Access::Sequential, 8, 30, 1).take(5).collect();
        assert_eq!(lbas, [0, 8, 16, 0, 8]);
    }

    #[test]
    fn random_addresses_are_aligned_and_reach_every_place() {
        let mut seen = [false; 10];
        for lba in Addresses::new(Access::Random, 8, 87, 42).take(1000) {
            assert_eq!(lba % 8, 0);
            seen[(lba / 8) as usize] = true;
        }
        assert_eq!(seen.map(u8::from), [1; 10]);
    }

    #[test]
    fn names() {
        assert_eq!(Workload::random(Direction::Read, 4096, 32).to_string(), "4k random read QD32");
        assert_eq!(
            Workload::sequential(Direction::Write, 128 << 10, 8).to_string(),
            "128k sequential write QD8"
        );
        assert_eq!(Workload::no_data(32).to_string(), "TEST UNIT READY QD32");
    }
}
