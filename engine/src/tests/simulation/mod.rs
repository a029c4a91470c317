//! Seeded schedules: several nexuses on several reactors throw commands, task management functions and resets at one unit
//! whose store delays, reorders, refuses and fails, and a plain model says what may be seen of it.
//!
//! A failure names its seed; `LUNETTE_SEED=… cargo test -p lunette-engine simulation -- --nocapture` runs that schedule alone
//! and tells it, `LUNETTE_SCHEDULES=…` runs so many.

mod disk;
mod model;
mod random;
mod schedule;
mod transport;
mod world;

use model::Tally;
use schedule::Schedule;
use world::lock;

const REACTORS: usize = 3;
/// The reactors on which each nexus has sessions.
const QUEUES: [&[usize]; 3] = [&[0, 1], &[1, 2], &[2]];
const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;

fn key(nexus: usize) -> u64 {
    0x10 + nexus as u64
}

/// Names the seed when a check fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was LUNETTE_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, tells: bool, tally: &mut Tally) {
    let _naming = Naming(seed);
    let mut schedule = Schedule::new(seed, tells);
    schedule.run();
    tally.add(&lock(&schedule.world));
}

#[test]
fn schedules_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let mut tally = Tally::default();
    if let Some(seed) = number("LUNETTE_SEED") {
        return run(seed, true, &mut tally);
    }
    let full = std::env::var_os("LUNETTE_TEST_FULL").is_some();
    let schedules = number("LUNETTE_SCHEDULES").unwrap_or(if full { 50_000 } else { 3000 });
    (0..schedules).for_each(|seed| run(seed, false, &mut tally));
    assert!(schedules < 1000 || tally.is_complete(20), "{tally:?}");
}
