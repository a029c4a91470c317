//! What commands for a disk take from limits.

use super::extended_copy::{list, segment};
use crate::Options;
use crate::testing::*;
use lunette_engine::{Limit, Limiter, Limits, Nexus, Rate, Rates};
use std::num::NonZeroU64;
use std::sync::Arc;

/// The same for everybody.
struct All(Limits);

impl Limiter for All {
    fn limits(&self, _: &Nexus) -> Limits {
        self.0.clone()
    }
}

/// For how many milliseconds a READ waits after `cdb`.
fn wait_after(rates: Rates, cdb: &[u8], data_out: &[u8]) -> u128 {
    let mut rig = Rig::with(Options { thin: true, ..Options::default() }, |_| {});
    let poster = rig.poster();
    rig.unit.set_limiter(Arc::new(All([Limit::new(rates)].into())), &*poster);
    rig.ask(cdb, data_out, 512).good();
    let before = rig.now();
    rig.read(0, 1);
    (rig.now() - before).as_millis()
}

fn rate(per_second: u64) -> Option<Rate> {
    NonZeroU64::new(per_second).map(|per_second| Rate { per_second, burst: 1 })
}

#[test]
fn all_that_works_on_the_medium_counts_and_what_asks_does_not() {
    let block = [7; 512];
    let copy = list(1, &[segment(0x02, 512, 0, 1024, [0, 0])]);
    let mut copy_cdb = [0; 16];
    copy_cdb[0] = 0x83;
    copy_cdb[13] = copy.len() as u8;
    // One range of 1024 blocks.
    let unmap = [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0];
    let same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
    let cases: [(&[u8], &[u8], bool, u128); 8] = [
        (&[0x12, 0, 0, 0, 36, 0], &[], false, 0),
        (&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], false, 0),
        (&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], false, 0),
        (&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], true, 0),
        (&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &block, true, 0),
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap, true, 0),
        // The bytes that it writes, not those that it is sent.
        (&same, &block, true, 500),
        // What it reads and what it writes.
        (&copy_cdb, &copy, true, 500),
    ];
    for (cdb, data_out, counts, milliseconds) in cases {
        let commands = wait_after(Rates { commands: rate(10), bytes: None }, cdb, data_out);
        assert_eq!((95..=105).contains(&commands), counts, "{cdb:x?}: {commands} ms");
        assert!(counts || commands == 0, "{cdb:x?}: {commands} ms");
        let bytes = wait_after(Rates { commands: None, bytes: rate(1 << 20) }, cdb, data_out);
        assert!(
            (milliseconds.saturating_sub(20)..=milliseconds + 2).contains(&bytes),
            "{cdb:x?}: {bytes} ms"
        );
    }
}
