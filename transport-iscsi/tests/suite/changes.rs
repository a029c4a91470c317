//! Disks that an operator changes while initiators use them.

use crate::client::{Client, READ, TARGET, WRITE, cdb, pattern};
use crate::rig::{Rig, target, unit};
use lunette_engine::{ChangeError, ChangeRequest, LogicalUnit};
use lunette_store::layer::stats::{Kind, Stats};
use lunette_store::{Backing, ram::Ram};
use lunette_store_file::{File, Options};
use lunette_transport_iscsi::EntityOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

const MIB: u64 = 1 << 20;
/// What is always there.
const LEAST: u64 = 8 * MIB;
const BLOCK: u64 = 512;
const CAPACITY_CHANGED: (u8, u8, u8) = (6, 0x2a, 9);
const MODE_CHANGED: (u8, u8, u8) = (6, 0x2a, 1);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const PROTECTED: (u8, u8, u8) = (7, 0x27, 0);

impl Rig {
    fn over(store: Arc<dyn Backing>) -> (Self, Arc<LogicalUnit>) {
        let unit = unit(1, store);
        (Self::serving(EntityOptions::default(), target(TARGET, &[1], &unit), 2), unit)
    }

    /// Asks for a change and waits until it is done.
    fn wait<T: Send + 'static>(
        &self,
        ask: impl FnOnce(
            &dyn lunette_store::Post,
            Box<dyn FnOnce(Result<T, ChangeError>) + Send>,
        ) -> ChangeRequest,
    ) -> Result<T, ChangeError> {
        let (tell, told) = mpsc::channel();
        ask(&*self.reactors.poster(), Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    fn resize(&self, unit: &Arc<LogicalUnit>, size: u64) -> Result<u64, ChangeError> {
        self.wait(|post, done| unit.resize(size, post, done))
    }
}

fn capacity(client: &mut Client) -> u64 {
    let data = loop {
        let ended = client.run(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, None);
        if ended.status == 0 {
            break ended.data;
        }
        assert_eq!(ended.sense_code(), CAPACITY_CHANGED);
    };
    (u64::from(u32::from_be_bytes([data[0], data[1], data[2], data[3]])) + 1) * BLOCK
}

/// Several commands at a time. The numbers of those that have ended well; the others must have come to one of `allowed`.
fn send_all(client: &mut Client, commands: &[(u8, u64)], allowed: &[(u8, u8, u8)]) -> Vec<usize> {
    let tags: Vec<u32> = commands
        .iter()
        .map(|(opcode, lba)| {
            let cdb = cdb(*opcode, *lba as u32, 8);
            let write = (*opcode == WRITE).then(|| pattern(*lba as u32, 4096));
            client.command(&cdb, if write.is_none() { 4096 } else { 0 }, write)
        })
        .collect();
    let mut good = Vec::new();
    for (number, tag) in tags.into_iter().enumerate() {
        let ended = client.finish(tag);
        if ended.status == 0 {
            let (opcode, lba) = commands[number];
            let holds = [vec![0; 4096], pattern(lba as u32, 4096)];
            assert!(
                opcode == WRITE || holds.contains(&ended.data),
                "what is read was written there, or nothing"
            );
            good.push(number);
        } else {
            assert_eq!(ended.status, 2);
            assert!(allowed.contains(&ended.sense_code()), "{:x?}", ended.sense_code());
        }
    }
    good
}

/// Writes and reads everywhere, by three initiators with eight commands under way each, as long as `change` takes.
fn under_load(rig: &Rig, reach: u64, allowed: &[(u8, u8, u8)], change: impl FnOnce()) -> u64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 1..4u8 {
            let (stop, done) = (&stop, &done);
            let mut client = rig.client(number);
            scope.spawn(move || {
                let mut at = u64::from(number) * 7919;
                while !stop.load(Ordering::Relaxed) {
                    let commands: Vec<_> = (0..8)
                        .map(|n| {
                            at = at
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1_442_695_040_888_963_407);
                            let lba = (at >> 20) % (reach / 4096) * 8;
                            (if n % 2 == 0 { WRITE } else { READ }, lba)
                        })
                        .collect();
                    done.fetch_add(send_all(&mut client, &commands, allowed).len() as u64, Ordering::Relaxed);
                }
            });
        }
        change();
        stop.store(true, Ordering::Relaxed);
    });
    done.into_inner()
}

fn grows_and_shrinks(rig: &Rig, unit: &Arc<LogicalUnit>, store: &dyn Backing) {
    let mut idle = rig.client(9);
    for lba in (0..LEAST / BLOCK).step_by(8) {
        idle.write(lba as u32, pattern(lba as u32, 4096));
    }
    under_load(rig, 4 * LEAST, &[CAPACITY_CHANGED, OUT_OF_RANGE], || {
        for step in 0..60 {
            let size = LEAST + (step * 5 % 13) * 2 * MIB;
            assert_eq!(rig.resize(unit, size), Ok(size));
            assert_eq!(store.caps().size.get(), size);
            assert_eq!(capacity(&mut idle), size);
        }
    });
    assert!(!idle.messages.is_empty(), "who asks for nothing is told");
    assert_eq!(rig.resize(unit, LEAST), Ok(LEAST));
    assert_eq!(capacity(&mut idle), LEAST);
    for lba in (0..LEAST / BLOCK).step_by(8) {
        assert!(idle.read(lba as u32, 8) == pattern(lba as u32, 4096), "what was never taken away is whole");
    }
    assert_eq!(rig.resize(unit, 4 * LEAST), Ok(4 * LEAST));
    assert_eq!(capacity(&mut idle), 4 * LEAST);
    for lba in (LEAST / BLOCK..4 * LEAST / BLOCK).step_by(8) {
        assert!(idle.read(lba as u32, 8) == [0; 4096], "what was taken away has gone");
    }
}

#[test]
fn a_disk_in_memory_grows_and_shrinks_under_load() {
    let ram = Ram::new(LEAST).unwrap();
    let (rig, unit) = Rig::over(Arc::new(ram.clone()));
    grows_and_shrinks(&rig, &unit, &ram);
}

#[test]
fn a_disk_in_a_file_grows_and_shrinks_under_load_and_keeps_its_size() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.img");
    let options = Options { create_size: Some(LEAST), ..Options::default() };
    let file = File::open(&path, &options).unwrap();
    let (mut rig, unit) = Rig::over(Arc::new(file.clone()));
    grows_and_shrinks(&rig, &unit, &file);
    let mut client = rig.client(1);
    client.write((4 * LEAST / BLOCK) as u32 - 8, pattern(77, 4096));
    drop(client);
    rig.stop();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * LEAST);
    drop((file, unit, rig));
    let again = File::open(&path, &Options { create_size: None, ..options }).unwrap();
    let (rig, _unit) = Rig::over(Arc::new(again));
    assert_eq!(rig.client(1).read((4 * LEAST / BLOCK) as u32 - 8, 8), pattern(77, 4096));
}

#[test]
fn a_disk_is_protected_and_opened_under_load() {
    let stats = Arc::new(Stats::new(Arc::new(Ram::new(LEAST).unwrap())));
    let (rig, unit) = Rig::over(stats.clone());
    let mut other = rig.client(9);
    under_load(&rig, LEAST, &[MODE_CHANGED, PROTECTED], || {
        for _ in 0..30 {
            assert_eq!(rig.wait(|post, done| unit.set_read_only(true, post, done)), Ok(()));
            let written = stats.snapshot()[Kind::Write].operations;
            assert_eq!(other.run(&[0; 6], 0, None).sense_code(), MODE_CHANGED);
            assert_eq!(other.run(&[0x1a, 8, 0x0a, 0, 4, 0], 4, None).data[2] & 0x80, 0x80, "WP");
            assert_eq!(other.run(&cdb(WRITE, 0, 1), 0, Some(vec![1; 512])).sense_code(), PROTECTED);
            assert_eq!(stats.snapshot()[Kind::Write].operations, written, "nothing is written any more");
            assert_eq!(rig.wait(|post, done| unit.set_read_only(false, post, done)), Ok(()));
            assert_eq!(other.run(&[0; 6], 0, None).sense_code(), MODE_CHANGED);
            other.write(0, pattern(0, 4096));
        }
    });
}

#[test]
fn a_disk_is_quiet_for_a_while_under_load() {
    let stats = Arc::new(Stats::new(Arc::new(Ram::new(LEAST).unwrap())));
    let (rig, unit) = Rig::over(stats.clone());
    let mut other = rig.client(9);
    let done = under_load(&rig, LEAST, &[], || {
        for _ in 0..30 {
            assert_eq!(rig.wait(|post, done| unit.quiesce(post, done)), Ok(()));
            let before = stats.snapshot();
            let waits = other.command(&cdb(WRITE, 0, 8), 0, Some(pattern(0, 4096)));
            for (command, length) in [(&[0; 6], 0), (&[0x12, 0, 0, 0, 36, 0], 36), (&[3, 0, 0, 0, 18, 0], 18)]
            {
                assert_eq!(other.run(command, length, None).status, 0);
            }
            assert_eq!(other.luns(), [0]);
            assert!(!other.ended.contains_key(&waits));
            assert_eq!(stats.snapshot(), before, "nothing reaches the store");
            unit.resume_commands(&*rig.reactors.poster());
            assert_eq!(other.finish(waits).status, 0);
        }
    });
    assert!(done > 0);
}
