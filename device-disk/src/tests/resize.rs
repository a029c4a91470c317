//! A medium that becomes larger and smaller while it is used.

use crate::Options;
use crate::testing::*;
use lunette_engine::ChangeError;
use lunette_scsi::{Opcode, TaskAttribute};
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store::{Backing, IoError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CHANGED: Code = (6, 0x2a, 9);
const BLOCKS: u64 = SIZE / 512;
const READ_CAPACITY_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a change has come to, when it has.
type Told<T> = Arc<Mutex<Option<Result<T, ChangeError>>>>;

impl Rig {
    fn resize(&mut self, size: u64) -> Told<u64> {
        let told = Told::default();
        let tell = told.clone();
        let poster = self.poster();
        self.unit.resize(size, &*poster, move |result| *tell.lock().unwrap() = Some(result));
        self.skip(Duration::ZERO);
        told
    }

    /// The same when that needs not wait.
    fn resized(&mut self, size: u64) -> Result<u64, ChangeError> {
        let told = self.resize(size);
        told.lock().unwrap().take().expect("it was told at once")
    }

    /// The capacity as READ CAPACITY(10) and (16) and both forms of the block descriptor tell it, which agree.
    fn capacity(&mut self) -> u64 {
        let be = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let ten = self.ask(&READ_CAPACITY_10, &[], 8).good();
        let mut sixteen = [0; 16];
        (sixteen[0], sixteen[1], sixteen[13]) = (0x9e, 0x10, 32);
        let sixteen = self.ask(&sixteen, &[], 32).good();
        let short = self.ask(&[0x5a, 0, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good();
        let long = self.ask(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good();
        let told = [be(&ten[..4]) + 1, be(&sixteen[..8]) + 1, be(&short[8..12]), be(&long[8..16])];
        assert_eq!(told, [told[0]; 4]);
        told[0]
    }
}

#[test]
fn every_initiator_learns_of_a_larger_disk_and_can_use_all_of_it() {
    let mut rig = Rig::new();
    let other = rig.log_in();
    rig.write(BLOCKS - 1, &[7; 512]);
    assert_eq!(rig.ask(&cdb(Opcode::READ_16, BLOCKS, 1), &[], 512).refused(), OUT_OF_RANGE);
    assert_eq!(rig.resized(3 * SIZE), Ok(3 * SIZE));
    for from in [0, other] {
        assert_eq!(rig.ask_from(from, &[0; 6], &[], 0).refused(), CHANGED);
        assert_eq!(rig.ask_from(from, &[0; 6], &[], 0).code(), None);
    }
    assert_eq!(rig.capacity(), 3 * BLOCKS);
    assert_eq!(rig.read(BLOCKS - 1, 2), [[7; 512], [0; 512]].concat());
    rig.write(3 * BLOCKS - 1, &[8; 512]);
    assert_eq!(rig.read(3 * BLOCKS - 1, 1), [8; 512]);
    assert_eq!(rig.ask(&cdb(Opcode::READ_16, 3 * BLOCKS, 1), &[], 512).refused(), OUT_OF_RANGE);
    // WRITE SAME without a number of blocks, and GET LBA STATUS, go to the end that there is.
    rig.ask(&cdb(Opcode::WRITE_SAME_16, BLOCKS, 0), &[9; 512], 0).good();
    assert_eq!(rig.read(3 * BLOCKS - 1, 1), [9; 512]);
    let mut status = [0; 16];
    (status[0], status[1], status[13]) = (0x9e, 0x12, 255);
    let status = rig.ask(&status, &[], 255).good();
    assert_eq!(status[7] >> 1, 3, "it comes to the end of the medium");
}

#[test]
fn what_a_smaller_disk_has_lost_is_zero_when_it_comes_back() {
    let mut rig = Rig::new();
    let other = rig.log_in();
    for lba in 0..BLOCKS {
        rig.write(lba, &[1; 512]);
    }
    // Not even a page, and less than what a store in memory looks at as one.
    let size = SIZE / 2 + 512;
    assert_eq!(rig.resized(size), Ok(size));
    for from in [0, other] {
        assert_eq!(rig.ask_from(from, &[0; 6], &[], 0).refused(), CHANGED);
    }
    assert_eq!(rig.capacity(), size / 512);
    for opcode in [Opcode::READ_10, Opcode::READ_16, Opcode::VERIFY_16] {
        assert_eq!(rig.ask(&cdb(opcode, size / 512 - 1, 2), &[], 1024).refused(), OUT_OF_RANGE);
    }
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_16, size / 512, 1), &[1; 512], 0).refused(), OUT_OF_RANGE);
    assert_eq!(rig.resized(2 * SIZE), Ok(2 * SIZE));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.read(size / 512 - 1, 1), [1; 512]);
    for lba in size / 512..2 * BLOCKS {
        assert_eq!(rig.read(lba, 1), [0; 512], "{lba}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_for_people() {
    let mut rig = Rig::new();
    for (size, why) in [
        (0, "a size of 0 bytes leaves no block"),
        (1000, "1000 bytes are not a multiple of the block length, 512 bytes"),
        (u64::MAX - 511, "18446744073709551104 bytes are too many"),
    ] {
        assert_eq!(rig.resized(size).unwrap_err().to_string(), why);
    }
    let huge = rig.resized(1 << 62).unwrap_err().to_string();
    assert!(huge.starts_with("the store has failed: "), "{huge}");
    assert_eq!(rig.ask(&[0; 6], &[], 0).code(), None, "nobody is told");
    assert_eq!(rig.capacity(), BLOCKS);

    let mut rig = Rig::over(Options::default(), Arc::new(Ram::new(SIZE).unwrap().read_only()), |_| {});
    assert_eq!(rig.resized(2 * SIZE), Err(ChangeError::ReadOnlyStore));
    assert_eq!(rig.resized(SIZE), Ok(SIZE), "it has that already");
}

#[test]
fn what_has_begun_beyond_the_new_end_comes_to_its_end_first() {
    let ram = Ram::new(SIZE).unwrap();
    let slow = Fault::new(Arc::new(ram.clone()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    let late = rig.admit(&cdb(Opcode::WRITE_16, BLOCKS - 1, 1), 512);
    rig.begin(&cdb(Opcode::WRITE_16, BLOCKS - 2, 2), &[5; 1024]);
    let told = rig.resize(SIZE / 2);
    assert_eq!((*told.lock().unwrap(), ram.caps().size.get()), (None, SIZE), "nothing is taken away yet");
    assert_eq!(rig.start(late, &[6; 512]).refused(), OUT_OF_RANGE, "it was checked anew");
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.capacity(), BLOCKS / 2);
    assert_eq!(*told.lock().unwrap(), None);
    assert_eq!(rig.ended().code(), None);
    rig.skip(Duration::ZERO);
    assert_eq!((*told.lock().unwrap(), ram.caps().size.get()), (Some(Ok(SIZE / 2)), SIZE / 2));
}

#[test]
fn what_is_withdrawn_takes_nothing_away() {
    let ram = Ram::new(SIZE).unwrap();
    let slow = Fault::new(Arc::new(ram.clone()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    rig.begin(&cdb(Opcode::WRITE_16, BLOCKS - 1, 1), &[5; 512]);
    let (told, later) = (Told::default(), Told::default());
    let [tell, tell_later] = [told.clone(), later.clone()];
    let poster = rig.poster();
    let first = rig.unit.resize(SIZE / 2, &*poster, move |result| *tell.lock().unwrap() = Some(result));
    let second =
        rig.unit.resize(SIZE / 4, &*poster, move |result| *tell_later.lock().unwrap() = Some(result));
    rig.skip(Duration::ZERO);
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.capacity(), BLOCKS / 2);
    assert!(first.withdraw(&*poster) && second.withdraw(&*poster) && first.withdraw(&*poster));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.capacity(), BLOCKS, "at once");
    assert_eq!((*told.lock().unwrap(), *later.lock().unwrap()), (None, None));
    assert_eq!(rig.ended().code(), None);
    rig.skip(Duration::ZERO);
    let withdrawn = Some(Err(ChangeError::Withdrawn));
    assert_eq!((*told.lock().unwrap(), *later.lock().unwrap()), (withdrawn, withdrawn));
    assert_eq!((rig.capacity(), ram.caps().size.get()), (BLOCKS, SIZE));
    assert_eq!(rig.ask(&[0; 6], &[], 0).code(), None);
    let done = rig.unit.resize(SIZE / 2, &*poster, |_| ());
    rig.skip(Duration::ZERO);
    assert!(!done.withdraw(&*poster), "it is too late");
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!((rig.capacity(), ram.caps().size.get()), (BLOCKS / 2, SIZE / 2));
}

#[test]
fn a_command_that_waits_for_its_turn_is_checked_anew() {
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    let other = rig.log_in();
    rig.begin(&cdb(Opcode::WRITE_16, 0, 1), &[5; 512]);
    rig.send_as(TaskAttribute::Ordered, other, &cdb(Opcode::WRITE_16, BLOCKS - 1, 1), &[5; 512]);
    let told = rig.resize(SIZE / 2);
    assert_eq!(rig.answer(other).refused(), OUT_OF_RANGE);
    assert_eq!(*told.lock().unwrap(), Some(Ok(SIZE / 2)));
}

#[test]
fn a_disk_that_is_formatted_or_sanitized_keeps_its_size() {
    let mut rig = Rig::with(Options { pace: 1 << 20, thin: false, ..Options::default() }, |caps| {
        caps.fast_zero = false;
    });
    for (command, what) in [
        (&[4, 0x10, 0, 0, 0, 0][..], "formatting"),
        (&[0x48, 0x83, 0, 0, 0, 0, 0, 0, 0, 0][..], "sanitizing"),
    ] {
        let immediate = if command[0] == 4 { &[0, 0x82, 0, 0][..] } else { &[] };
        rig.ask(command, immediate, 0).good();
        for size in [SIZE / 2, 2 * SIZE] {
            let why = rig.resized(size).unwrap_err().to_string();
            let expected =
                format!("the logical unit is busy {what} the medium: try again when that has ended");
            assert_eq!(why, expected);
        }
        rig.pass(Duration::from_secs(2));
        assert_eq!(rig.capacity(), BLOCKS);
    }
    assert_eq!(rig.resized(2 * SIZE), Ok(2 * SIZE));
}

#[test]
fn nothing_is_formatted_while_the_size_changes() {
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    let other = rig.log_in();
    rig.begin(&cdb(Opcode::WRITE_16, BLOCKS - 1, 1), &[5; 512]);
    let told = rig.resize(SIZE / 2);
    assert_eq!(rig.ask_from(other, &[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.ask_from(other, &[4, 0, 0, 0, 0, 0], &[], 0).refused(), (2, 4, 7));
    rig.ended();
    rig.skip(Duration::ZERO);
    assert_eq!(*told.lock().unwrap(), Some(Ok(SIZE / 2)));
    rig.ask_from(other, &[4, 0, 0, 0, 0, 0], &[], 0).good();
}

#[test]
fn a_failed_format_is_repeated_first() {
    let broken = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "eio:4096".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(broken), |_| {});
    assert_eq!(rig.ask(&[4, 0, 0, 0, 0, 0], &[], 0).refused().0, 3);
    assert_eq!(rig.resized(2 * SIZE), Err(ChangeError::Unusable));
}

#[test]
fn a_write_that_cannot_be_undone_keeps_its_blocks() {
    let mut rig = Rig::new();
    // It can be saved that blocks are written, but not that they are.
    let keeper = Arc::new(RamKeeper::limited(1));
    rig.unit.keep_state(keeper.clone()).unwrap();
    let mut write = cdb(Opcode::WRITE_ATOMIC_16, BLOCKS - 2, 0);
    write[13] = 2;
    assert_eq!(rig.ask(&write, &[1; 1024], 0).refused().0, 4);
    let why = rig.resized(SIZE / 2).unwrap_err().to_string();
    assert!(why.starts_with("the logical unit is busy undoing a write"), "{why}");
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.capacity(), BLOCKS, "it was smaller for a moment");
    keeper.limit(10);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.resized(SIZE / 2), Ok(SIZE / 2));
}

#[test]
fn a_self_test_follows_the_size() {
    for size in [SIZE / 2, 4 * SIZE] {
        let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
        let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
        rig.ask(&[0x1d, 2 << 5, 0, 0, 0, 0], &[], 0).good();
        rig.pass(Duration::from_millis(45));
        let told = rig.resize(size);
        rig.pass(Duration::from_secs(2));
        assert_eq!(*told.lock().unwrap(), Some(Ok(size)));
        rig.seen();
        assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
        let results = rig.ask(&[0x4d, 0, 0x50, 0, 0, 0, 0, 4, 0, 0], &[], 1024).good();
        assert_eq!(results[8], 2 << 5, "the extended test in the background has passed");
    }
}

/// A store that takes note of a size and fails to make it.
struct Stubborn(Ram);

impl Backing for Stubborn {
    fn caps(&self) -> &lunette_store::Caps {
        Backing::caps(&self.0)
    }

    fn is_resizable(&self) -> bool {
        true
    }

    fn resize(&self, _: u64) -> Result<(), IoError> {
        Err(IoError::NoSpace)
    }

    fn attach(&self, cx: &mut dyn lunette_store::Cx) -> std::rc::Rc<dyn lunette_store::Store> {
        self.0.attach(cx)
    }
}

#[test]
fn a_store_that_fails_leaves_what_there_is() {
    for size in [SIZE / 2, 2 * SIZE] {
        let mut rig = Rig::over(Options::default(), Arc::new(Stubborn(Ram::new(SIZE).unwrap())), |_| {});
        let why = rig.resized(size).unwrap_err().to_string();
        assert_eq!(why, "the store has failed: no space left where the bytes are kept");
        let told = rig.ask(&[0; 6], &[], 0).code();
        assert_eq!(
            told,
            (size < SIZE).then_some(CHANGED),
            "who has seen the smaller size learns of the old one"
        );
        assert_eq!(rig.capacity(), BLOCKS);
        rig.write(BLOCKS - 1, &[1; 512]);
    }
}

/// A store of which others change the size.
struct Foreign(Ram, Arc<Mutex<u64>>);

impl Backing for Foreign {
    fn caps(&self) -> &lunette_store::Caps {
        Backing::caps(&self.0)
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        if size == *self.1.lock().unwrap() { self.0.resize(size) } else { Err(IoError::Unsupported) }
    }

    fn measure(&self) -> Result<u64, IoError> {
        Ok(*self.1.lock().unwrap())
    }

    fn attach(&self, cx: &mut dyn lunette_store::Cx) -> std::rc::Rc<dyn lunette_store::Store> {
        self.0.attach(cx)
    }
}

#[test]
fn a_size_that_others_make_is_taken_note_of_when_asked() {
    let actual = Arc::new(Mutex::new(SIZE));
    let store = Foreign(Ram::new(SIZE).unwrap(), actual.clone());
    let mut rig = Rig::over(Options::default(), Arc::new(store), |_| {});
    let refresh = |rig: &mut Rig| {
        let told = Told::default();
        let tell = told.clone();
        let poster = rig.poster();
        rig.unit.refresh(&*poster, move |result| *tell.lock().unwrap() = Some(result));
        rig.skip(Duration::ZERO);
        told.lock().unwrap().take().unwrap()
    };
    assert_eq!(refresh(&mut rig), Ok(SIZE));
    assert_eq!(rig.ask(&[0; 6], &[], 0).code(), None, "nothing has changed");
    for size in [2 * SIZE, SIZE / 2] {
        *actual.lock().unwrap() = size;
        assert_ne!(rig.capacity(), size / 512);
        assert_eq!(refresh(&mut rig), Ok(size));
        assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
        assert_eq!(rig.capacity(), size / 512);
    }
    *actual.lock().unwrap() = 1000;
    assert_eq!(refresh(&mut rig), Err(ChangeError::NotWholeBlocks { size: 1000, block_length: 512 }));
    assert_eq!(rig.resized(4 * SIZE), Err(ChangeError::NotResizable));
    assert_eq!(rig.capacity(), SIZE / 1024);
}
