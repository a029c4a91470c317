//! Runs every fuzz target on random inputs and on the inputs that are kept in `corpus`.

use lunette_fuzz::TARGETS;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Small random numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// Random bytes, small ones more often than others.
    fn input(&mut self) -> Vec<u8> {
        let length = self.below(4096);
        let masks = [0xff, 0xff, 0x0f, 0x3f];
        let mask = masks[self.below(masks.len())];
        (0..length).map(|_| self.next() as u8 & mask).collect()
    }
}

/// How many inputs are tried: `few`, or as many as there is time for.
fn counts(few: u64) -> u64 {
    if std::env::var_os("LUNETTE_TEST_FULL").is_some() { 5_000 } else { few }
}

/// Held by targets that look at what their whole process has open.
static ALONE: Mutex<()> = Mutex::new(());

fn run_alone(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run_some(name, 75);
}

fn run(name: &str) {
    run_some(name, 300);
}

fn run_some(name: &str, few: u64) {
    let (_, target) = TARGETS.iter().find(|(other, _)| *other == name).expect("a target");
    let first = std::env::var("LUNETTE_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = first.map_or(1..=counts(few), |seed| seed..=seed);
    println!("{name}: seeds {seeds:?}");
    for seed in seeds {
        let input = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).input();
        if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
            eprintln!("{name} fails with LUNETTE_TEST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    replay(name, *target);
}

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        target(&std::fs::read(&path).expect("a file"));
    }
}

#[test]
fn chap() {
    run("chap");
}

#[test]
fn commands() {
    run_some("commands", 100);
}

#[test]
fn config() {
    run("config");
}

#[test]
fn control() {
    run_some("control", 100);
}

#[test]
fn decode() {
    run("decode");
}

#[test]
fn iscsi_initiator() {
    run("iscsi_initiator");
}

#[test]
fn iscsi_target() {
    run("iscsi_target");
}

#[test]
fn notes() {
    run_some("notes", 100);
}

#[test]
fn parameter_lists() {
    run("parameter_lists");
}

#[test]
fn parsers() {
    run("parsers");
}

#[test]
fn vhost_user_messages() {
    run("vhost_user_messages");
}

#[test]
fn vhost_user_session() {
    run_alone("vhost_user_session");
}

#[test]
fn virtqueue() {
    run_alone("virtqueue");
}
