//! WRITE ATOMIC, over failures and power losses.

use crate::Options;
use crate::testing::*;
use lunette_scsi::Opcode;
use lunette_store::ram::Ram;
use lunette_store::{Backing, Caps, Cx, IoError, IoId, Op, Store, Submit};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const BLOCKS: u64 = SIZE / 512;
const NOT_READY: Code = (2, 0x04, 0x01);

fn write_atomic(lba: u64, blocks: u16) -> Vec<u8> {
    let mut cdb = cdb(Opcode::WRITE_ATOMIC_16, lba, 0);
    cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// Writes only half of what is long, and then fails or, with the power lost, says nothing any more.
#[derive(Clone)]
struct Torn {
    inner: Arc<dyn Backing>,
    answer: Submit,
}

struct TornStore(Torn, Rc<dyn Store>);

impl Backing for Torn {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(TornStore(self.clone(), self.inner.attach(cx)))
    }
}

impl Store for TornStore {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        match op {
            Op::Write { from, .. } if from.len() > 512 => {
                self.1.submit(op.with_sg(from.part(0, from.len() / 2)), id, cx);
                self.0.answer
            }
            _ => self.1.submit(op, id, cx),
        }
    }
}

/// Writes what it is given but for one block, and says that it has failed.
struct BadBlock(Arc<dyn Backing>);

impl BadBlock {
    const LBA: u64 = 1;
}

struct BadBlockStore(Rc<dyn Store>);

impl Backing for BadBlock {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(BadBlockStore(self.0.attach(cx)))
    }
}

impl Store for BadBlockStore {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let Op::Write { offset, from, durable } = op else { return self.0.submit(op, id, cx) };
        let mut answer = Submit::Done(Ok(from.len()));
        for at in (0..from.len()).step_by(512) {
            if offset + at == BadBlock::LBA * 512 {
                answer = Submit::Done(Err(IoError::Os(5)));
            } else {
                self.0.submit(Op::Write { offset: offset + at, from: from.part(at, 512), durable }, id, cx);
            }
        }
        answer
    }
}

fn keeping(rig: Rig, keeper: &Arc<RamKeeper>) -> Rig {
    rig.unit.keep_state(keeper.clone()).unwrap();
    rig
}

#[test]
fn blocks_are_written_within_the_limits() {
    let mut rig = Rig::new();
    let limits = rig.ask(&[0x12, 1, 0xb0, 0, 64, 0], &[], 64).good();
    assert_eq!(limits[44..64], [&2048u32.to_be_bytes()[..], &[0; 16]].concat());
    for (lba, blocks) in [(0, 1), (3, 7), (BLOCKS - 256, 256), (0, 2048)] {
        let new = vec![blocks as u8 | 1; blocks as usize * 512];
        rig.ask(&write_atomic(lba, blocks), &new, 0).good();
        assert_eq!(rig.read(lba, blocks.into()), new);
    }
    assert_eq!(rig.read(0, 2048), [1; SIZE as usize]);
    rig.ask(&write_atomic(BLOCKS, 0), &[], 0).good();
    assert_eq!(rig.ask(&write_atomic(BLOCKS - 1, 2), &[0; 1024], 0).refused(), OUT_OF_RANGE);
    let partial = rig.ask(&write_atomic(0, 2), &[0; 512], 0);
    assert_eq!(partial.refused(), INVALID_FIELD, "all or nothing");
    for (byte, bit) in [(1, 0x20), (10, 0x80), (11, 0x01)] {
        let answer = rig.ask(&with(write_atomic(0, 1), byte, bit), &[0; 512], 0);
        assert_eq!((answer.refused(), answer.field().unwrap().0), (INVALID_FIELD, byte as u16));
    }
    let mut small = Rig::with(Options::default(), |caps| caps.max_transfer = 1024);
    let long = small.ask(&write_atomic(0, 3), &[0; 1536], 0);
    assert_eq!((long.refused(), long.field()), (INVALID_FIELD, Some((12, None))));
}

#[test]
fn writes_keep_to_the_bounds_that_a_disk_has() {
    let bounded = |unit| Options { atomic_granularity: Some(unit), ..Options::default() };
    let mut rig = Rig::with(bounded(4096), |caps| caps.max_transfer = 100 * 512);
    let limits = rig.ask(&[0x12, 1, 0xb0, 0, 64, 0], &[], 64).good();
    assert_eq!(limits[44..56], [96u32, 8, 8].map(u32::to_be_bytes).concat());
    for (lba, blocks, refused) in
        [(8, 16, None), (1, 8, Some(2)), (8, 7, Some(12)), (0, 104, Some(12)), (3, 0, Some(2)), (8, 0, None)]
    {
        let answer = rig.ask(&write_atomic(lba, blocks), &vec![7; blocks as usize * 512], 0);
        match refused {
            Some(byte) => assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((byte, None)))),
            None => drop(answer.good()),
        }
    }
    for unit in [0, 256, 768, 2 << 20] {
        let caps = Backing::caps(&Ram::new(SIZE).unwrap()).clone();
        let refused = crate::Disk::new(&bounded(unit), &caps).unwrap_err();
        assert_eq!(refused, crate::OptionsError::AtomicGranularity(unit));
    }
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    for (error, code) in [(IoError::NoSpace, (7, 0x27, 0x07)), (IoError::Os(5), (3, 0x0c, 0))] {
        let keeper = Arc::new(RamKeeper::limited(9));
        let inner = Arc::new(Ram::new(SIZE).unwrap());
        let torn = Torn { inner, answer: Submit::Done(Err(error)) };
        let mut rig = keeping(Rig::over(Options::default(), Arc::new(torn), |_| {}), &keeper);
        for lba in 0..8 {
            rig.write(lba, &[lba as u8; 512]);
        }
        let before = rig.read(0, 8);
        assert_eq!(rig.ask(&write_atomic(1, 6), &[9; 6 * 512], 0).refused(), code);
        assert_eq!(rig.read(0, 8), before);
        rig.ask(&write_atomic(1, 1), &[9; 512], 0).good();
    }
}

#[test]
fn a_block_that_cannot_be_written_back_keeps_no_others_from_it() {
    let keeper = Arc::new(RamKeeper::limited(9));
    let bad = BadBlock(Arc::new(Ram::new(SIZE).unwrap()));
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(bad), |_| {}), &keeper);
    rig.write(0, &[1; 512]);
    rig.write(2, &[2; 6 * 512]);
    let before = rig.read(0, 8);
    assert_eq!(rig.ask(&write_atomic(0, 8), &[9; 8 * 512], 0).refused(), (3, 0x0c, 0));
    assert_eq!(rig.read(0, 8), before);
}

/// Half of what is new is written, and then nothing more until the store works again. Once it has failed no flush succeeds.
struct Broken {
    inner: Arc<dyn Backing>,
    works: Arc<AtomicBool>,
}

struct BrokenStore(Arc<AtomicBool>, Rc<dyn Store>);

impl Backing for Broken {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(BrokenStore(self.works.clone(), self.inner.attach(cx)))
    }
}

impl Store for BrokenStore {
    fn caps(&self) -> &Caps {
        self.1.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        match op {
            Op::Write { from, .. } if !self.0.load(Relaxed) => {
                let mut first = [0];
                from.copy_out(0, &mut first);
                if first == [9] {
                    self.1.submit(op.with_sg(from.part(0, 2048)), id, cx);
                }
                Submit::Done(Err(IoError::Os(5)))
            }
            Op::Flush => Submit::Done(Err(IoError::Os(5))),
            _ => self.1.submit(op, id, cx),
        }
    }
}

#[test]
fn nobody_uses_a_disk_on_which_a_write_is_half_undone() {
    let keeper = Arc::new(RamKeeper::limited(99));
    let inner: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
    let works = Arc::new(AtomicBool::new(true));
    let broken = || Arc::new(Broken { inner: inner.clone(), works: works.clone() });
    let mut rig = keeping(Rig::over(Options::default(), broken(), |_| {}), &keeper);
    rig.write(0, &pattern(8));
    works.store(false, Relaxed);
    assert_eq!(rig.ask(&write_atomic(0, 8), &[9; 4096], 0).refused(), (3, 0x0c, 0), "it is told at once");
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 0, 8), &[], 4096).refused(), (2, 0x04, 0x03));
    works.store(true, Relaxed);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.read(0, 8), pattern(8));
    works.store(false, Relaxed);
    assert_eq!(rig.ask(&write_atomic(0, 8), &[9; 4096], 0).refused(), (3, 0x0c, 0));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), (2, 0x04, 0x01));
    // Nor after a restart.
    let mut rig = keeping(Rig::over(Options::default(), broken(), |_| {}), &keeper);
    rig.resume();
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), (2, 0x04, 0x03));
    works.store(true, Relaxed);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.read(0, 8), pattern(8));
    rig.ask(&write_atomic(0, 8), &[9; 4096], 0).good();
    assert_eq!(rig.read(0, 8), [9; 4096]);
}

#[test]
fn a_disk_that_keeps_no_state_promises_nothing() {
    let lasting = Torn { inner: Arc::new(Ram::new(SIZE).unwrap()), answer: Submit::Queued };
    let mut rig = Rig::over(Options::default(), Arc::new(lasting.clone()), |_| {});
    let longest = |rig: &mut Rig| rig.ask(&[0x12, 1, 0xb0, 0, 64, 0], &[], 64).good()[44..48].to_vec();
    assert_eq!(longest(&mut rig), [0; 4]);
    let answer = rig.ask(&write_atomic(0, 1), &[0; 512], 0);
    assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((12, None))));
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(lasting), |_| {}), &Arc::default());
    assert_eq!(longest(&mut rig), 2048u32.to_be_bytes());
}

#[test]
fn after_a_power_loss_there_is_all_or_nothing() {
    let keeper = Arc::new(RamKeeper::limited(99));
    let inner: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
    let mut rig = keeping(Rig::over(Options::default(), inner.clone(), |_| {}), &keeper);
    rig.ask(&write_atomic(0, 8), &[1; 4096], 0).good();
    let torn = Torn { inner: inner.clone(), answer: Submit::Queued };
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(torn), |_| {}), &keeper);
    assert_eq!(rig.read(0, 8), [1; 4096], "it was done");
    rig.begin(&write_atomic(0, 8), &[2; 4096]);
    let mut rig = keeping(Rig::over(Options::default(), inner.clone(), |_| {}), &keeper);
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 0, 8), &[], 4096).refused(), NOT_READY);
    rig.resume();
    assert_eq!(rig.read(0, 8), [1; 4096], "it was not");
    // What was written back once is not written back again.
    rig.write(0, &[3; 4096]);
    let mut rig = keeping(Rig::over(Options::default(), inner, |_| {}), &keeper);
    rig.resume();
    assert_eq!(rig.read(0, 8), [3; 4096]);
}

/// The store comes later than the disk.
#[test]
fn what_cannot_be_written_back_yet_keeps_the_disk_from_being_ready() {
    let keeper = Arc::new(RamKeeper::limited(99));
    let inner: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
    let torn = Torn { inner: inner.clone(), answer: Submit::Queued };
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(torn), |_| {}), &keeper);
    rig.begin(&write_atomic(0, 8), &[2; 4096]);
    let away = Away::new(inner);
    away.set(true);
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(away.clone()), |_| {}), &keeper);
    rig.resume();
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), (2, 0x04, 0x03));
    away.set(false);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.read(0, 8), [0; 4096]);
}

#[test]
fn what_another_disk_has_left_is_damage() {
    let larger_blocks = Options { block_length: 4096, ..Options::default() };
    for (lba, blocks, size, options) in [
        (BLOCKS - 8, 8, SIZE - 512, Options::default()),
        (8, 7, SIZE, larger_blocks.clone()),
        (9, 8, SIZE, larger_blocks),
    ] {
        let keeper = Arc::new(RamKeeper::limited(99));
        let torn = Torn { inner: Arc::new(Ram::new(SIZE).unwrap()), answer: Submit::Queued };
        let mut rig = keeping(Rig::over(Options::default(), Arc::new(torn), |_| {}), &keeper);
        rig.begin(&write_atomic(lba, blocks), &vec![2; blocks as usize * 512]);
        let mut rig = Rig::over(options, Arc::new(Ram::new(size).unwrap()), |_| {});
        rig.unit.keep_state(keeper).unwrap_err();
        rig.resume();
        assert_eq!(rig.seen(), [], "nor is any of it written");
        assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), (2, 0x04, 0x03));
    }
}

/// Several at a time, in a store that never answers: fencing works, and all is undone.
#[test]
fn writes_that_are_stuck_hold_up_nobody_else() {
    let keeper = Arc::new(RamKeeper::limited(99));
    let inner: Arc<dyn Backing> = Arc::new(Ram::new(SIZE).unwrap());
    let torn = Torn { inner: inner.clone(), answer: Submit::Queued };
    let mut rig = keeping(Rig::over(Options::default(), Arc::new(torn), |_| {}), &keeper);
    let others: Vec<_> = (0..6).map(|_| rig.log_in()).collect();
    for (lba, block) in (0..).zip(pattern(40).chunks(512)) {
        rig.write(lba, block);
    }
    rig.seen();
    for (from, lba) in others[1..].iter().zip((0..).step_by(8)) {
        rig.send(*from, &write_atomic(lba, 8), &[99; 4096]);
    }
    rig.skip(Duration::ZERO);
    let seen = rig.seen();
    let lbas = [0, 8, 16, 24].map(|lba: u64| lba * 512);
    let reads = lbas.map(|offset| Seen::Read(offset, 4096));
    let writes = lbas.map(|offset| Seen::Write(offset, 4096, false));
    assert_eq!(seen.len(), 8, "the fifth waits");
    assert!([reads, writes].concat().iter().all(|op| seen.contains(op)));
    const REGISTER: [u8; 10] = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    rig.ask_from(others[0], &REGISTER, &[0; 24], 0).good();
    let mut rig = keeping(Rig::over(Options::default(), inner, |_| {}), &keeper);
    rig.resume();
    assert_eq!(rig.read(0, 40), pattern(40));
}

#[test]
fn nothing_is_written_before_the_old_content_is_safe() {
    let keeper = Arc::new(RamKeeper::limited(0));
    let mut rig = keeping(Rig::new(), &keeper);
    rig.begin(&write_atomic(0, 1), &[1; 512]);
    assert_eq!(rig.seen(), [Seen::Read(0, 512)]);
    // Others need not wait to be told that nothing can be saved.
    let other = rig.log_in();
    const SAVE_MODES: [u8; 6] = [0x15, 0x11, 0, 0, 0, 0];
    assert_eq!(rig.ask_from(other, &SAVE_MODES, &[], 0).refused(), (4, 0x44, 0));
    // One that may have been saved has to be forgotten before anybody writes there.
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.answer(0).refused(), (4, 0x44, 0));
    assert_eq!(rig.ask(&cdb(Opcode::READ_10, 0, 1), &[], 512).refused(), (4, 0x44, 0));
    assert_eq!(rig.read(1, 1), [0; 512], "all else can be used");
    keeper.limit(1);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.read(0, 1), [0; 512]);
}
