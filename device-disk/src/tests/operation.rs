use crate::Options;
use crate::testing::{
    Code, INVALID_FIELD, INVALID_PARAMETER, LIST_LENGTH, PROTECTED, RamKeeper, Rig, SIZE, SOFTWARE_PROTECTED,
    Seen, cdb,
};
use lunette_scsi::{Opcode, TaskManagementFunction as Function};
use lunette_store::Backing;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SANITIZING: Code = (2, 4, 0x1b);
const FORMATTING: Code = (2, 4, 4);
const SANITIZE_FAILED: Code = (3, 0x31, 3);
const FORMAT_FAILED: Code = (3, 0x31, 1);
const FORMAT_CORRUPTED: Code = (3, 0x31, 0);
const CHANGED: Code = (6, 0x28, 0);

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const FORMAT: [u8; 6] = [4, 0, 0, 0, 0, 0];
const FORMAT_WITH_LIST: [u8; 6] = [4, 0x10, 0, 0, 0, 0];
const FORMAT_WITH_LONG_LIST: [u8; 6] = [4, 0x30, 0, 0, 0, 0];
/// MODE SELECT with SP and no pages.
const SAVE_MODES: [u8; 6] = [0x15, 0x11, 0, 0, 0, 0];
const IMMEDIATE: u8 = 0x80;
const UNRESTRICTED: u8 = 0x20;
const OVERWRITE: u8 = 1;
const BLOCK_ERASE: u8 = 2;
const CRYPTOGRAPHIC_ERASE: u8 = 3;
const EXIT_FAILURE_MODE: u8 = 0x1f;
const SECOND: Duration = Duration::from_secs(1);
/// Seconds that an overwrite of the slow disk takes, as much as it has MiB.
const SECONDS: u64 = 8;

fn sanitize(byte_1: u8, length: u16) -> [u8; 10] {
    let [high, low] = length.to_be_bytes();
    [0x48, byte_1, 0, 0, 0, 0, 0, high, low, 0]
}

fn overwrite(byte_1: u8, list: &[u8]) -> [u8; 10] {
    sanitize(OVERWRITE | byte_1, list.len() as u16)
}

/// The parameter list of OVERWRITE.
fn list(flags: u8, pattern: &[u8]) -> Vec<u8> {
    let length = (pattern.len() as u16).to_be_bytes();
    [&[flags, 0], &length[..], pattern].concat()
}

fn full() -> Rig {
    Rig::with(Options { thin: false, ..Options::default() }, |_| {})
}

/// A disk of some MiB, of which it writes one in a second.
fn slow(store: &Arc<dyn Backing>, keeper: &Arc<RamKeeper>) -> Rig {
    let options = Options { thin: false, pace: 1 << 20, ..Options::default() };
    let rig = Rig::over(options, store.clone(), |caps| caps.fast_zero = false);
    rig.unit.keep_state(keeper.clone()).unwrap();
    rig
}

fn memory() -> Arc<dyn Backing> {
    Arc::new(Ram::new(SECONDS << 20).unwrap())
}

fn test(rig: &mut Rig, from: usize) -> Option<Code> {
    rig.ask_from(from, &TEST_UNIT_READY, &[], 0).code()
}

/// The first and the last block are all like this.
fn assert_holds(rig: &mut Rig, block: &[u8]) {
    let last = last_block(rig);
    for lba in [0, 1, last] {
        assert_eq!(rig.read(lba, 1), block);
    }
}

fn last_block(rig: &mut Rig) -> u64 {
    let capacity = rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).good();
    u32::from_be_bytes(capacity[..4].try_into().unwrap()).into()
}

#[test]
fn formatting_clears_the_medium() {
    for (thin, cleared) in [(true, Seen::Zero(0, SIZE, true)), (false, Seen::Zero(0, SIZE, false))] {
        let mut rig = Rig::with(Options { thin, ..Options::default() }, |caps| caps.fast_zero = true);
        let other = rig.log_in();
        rig.write(0, &[1; 1024]);
        rig.write(SIZE / 512 - 1, &[1; 512]);
        rig.seen();
        rig.ask(&FORMAT, &[], 0).good();
        assert_eq!(rig.seen(), [cleared, Seen::Flush]);
        assert_holds(&mut rig, &[0; 512]);
        assert_eq!(test(&mut rig, other), Some(CHANGED));
        assert_eq!(test(&mut rig, other), None);
    }
}

#[test]
fn formatting_writes_a_pattern() {
    let mut rig = full();
    let pattern = [0x88, 0x08, 0, 0, 0, 1, 0, 3, 1, 2, 3];
    for (cdb, list) in [
        (FORMAT_WITH_LIST, [&[0, 0x88, 0, 0], &pattern[4..]].concat()),
        (FORMAT_WITH_LONG_LIST, [&[0, 0x88, 0, 0, 0, 0, 0, 0], &pattern[4..]].concat()),
    ] {
        rig.ask(&FORMAT, &[], 0).good();
        rig.ask(&cdb, &list, 0).good();
        let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(512).collect();
        assert_holds(&mut rig, &block);
    }
    // The default pattern.
    rig.ask(&FORMAT_WITH_LIST, &[0, 0x88, 0, 0, 0, 0, 0, 0], 0).good();
    assert_holds(&mut rig, &[0; 512]);
}

#[test]
fn formats_that_this_disk_cannot_have_are_refused() {
    let mut rig = Rig::new();
    let cdbs: [([u8; 6], (u16, u8)); 5] = [
        ([4, 0x80, 0, 0, 0, 0], (1, 7)),
        ([4, 0x40, 0, 0, 0, 0], (1, 6)),
        ([4, 0x08, 0, 0, 0, 0], (1, 3)),
        ([4, 0, 0, 0, 1, 0], (4, 0)),
        ([4, 0, 1, 0, 0, 0], (2, 0)),
    ];
    for (cdb, (byte, bit)) in cdbs {
        let answer = rig.ask(&cdb, &[], 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((byte, Some(bit)))));
    }
    type Field = (u16, Option<u8>);
    let lists: [(&[u8], Field); 14] = [
        (&[1, 0, 0, 0], (0, Some(0))),
        (&[0, 0x40, 0, 0], (1, Some(6))),
        (&[0, 0x20, 0, 0], (1, Some(5))),
        (&[0, 0x10, 0, 0], (1, Some(4))),
        (&[0, 0x08, 0, 0], (1, Some(3))),
        (&[0, 0x84, 0, 0], (1, Some(2))),
        (&[0, 0x81, 0, 0], (1, Some(0))),
        (&[0, 0, 0, 8], (2, None)),
        (&[0, 0x88, 0, 0, 0x20, 1, 0, 1, 0], (4, Some(5))),
        (&[0, 0x88, 0, 0, 0, 2, 0, 1, 0], (5, None)),
        (&[0, 0x88, 0, 0, 0, 0, 0, 1, 0], (6, None)),
        (&[0, 0x88, 0, 0, 0, 1, 0, 0], (6, None)),
        (&[0, 0x88, 0, 0, 0, 1, 2, 1, 0], (6, None)),
        (&[0, 0x88, 0, 0, 0, 1, 0xff, 0xff, 0], (6, None)),
    ];
    for (list, field) in lists {
        let answer = rig.ask(&FORMAT_WITH_LIST, list, 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_PARAMETER, Some(field)), "{list:x?}");
    }
    for (list, field) in [
        ([0, 0, 0, 0x10, 0, 0, 0, 0], (3, Some(4))),
        ([0, 0, 0, 1, 0, 0, 0, 0], (3, Some(0))),
        ([0, 0, 0, 0, 1, 0, 0, 0], (4, None)),
    ] {
        let answer = rig.ask(&FORMAT_WITH_LONG_LIST, &list, 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_PARAMETER, Some(field)));
    }
    let complete: [u8; 11] = [0, 0x88, 0, 0, 0, 1, 0, 3, 1, 2, 3];
    for length in (0..4).chain(4..complete.len()) {
        let answer = rig.ask(&FORMAT_WITH_LIST, &complete[..length], 0);
        assert_eq!(answer.refused(), LIST_LENGTH, "{length}");
    }
    // A list of defects that is empty, in any format.
    for format in 0..8 {
        rig.ask(&[4, 0x18 | format, 0, 0, 0, 0], &[0, 0xf0, 0, 0], 0).good();
    }
}

#[test]
fn overwriting_writes_the_pattern_so_many_times() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    let list = list(3, &[0xab, 0xcd]);
    rig.ask(&overwrite(0, &list), &list, 0).good();
    let seen = rig.seen();
    assert_eq!(seen.iter().filter(|seen| **seen == Seen::Flush).count(), 3);
    let written = |seen: &Seen| if let Seen::Write(_, length, _) = seen { *length } else { 0 };
    assert_eq!(seen.iter().map(written).sum::<u64>(), 3 * SIZE);
    assert_holds(&mut rig, &[0xab, 0xcd].repeat(256));
}

#[test]
fn wrong_patterns_are_refused() {
    let mut rig = Rig::new();
    for length in [0, 1, 2, 3, 4, 512 + 5, 0xffff] {
        let answer = rig.ask(&sanitize(OVERWRITE, length), &vec![1; length.into()], 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((7, None))));
    }
    let mut reserved = list(1, &[1]);
    reserved[1] = 1;
    for (list, field) in [
        (list(0, &[1]), (0, Some(4))),
        (list(0x21, &[1]), (0, Some(6))),
        (list(0x41, &[1]), (0, Some(6))),
        (reserved, (1, None)),
        (vec![1, 0, 0, 0, 1], (2, None)),
        (vec![1, 0, 0, 2, 1], (2, None)),
        (vec![1, 0, 0xff, 0xff, 1], (2, None)),
    ] {
        let answer = rig.ask(&overwrite(0, &list), &list, 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_PARAMETER, Some(field)));
    }
    for action in [BLOCK_ERASE, CRYPTOGRAPHIC_ERASE, EXIT_FAILURE_MODE] {
        assert_eq!(rig.ask(&sanitize(action, 8), &[0; 8], 0).refused(), INVALID_FIELD);
    }
    for action in (0..0x1f).filter(|action| !matches!(action, 1..=3)) {
        assert_eq!(rig.ask(&sanitize(action, 0), &[], 0).refused(), INVALID_FIELD);
    }
}

#[test]
fn erasing_gives_blocks_back_or_writes_zeroes() {
    for action in [BLOCK_ERASE, CRYPTOGRAPHIC_ERASE] {
        let mut rig = Rig::with(Options::default(), |caps| caps.fast_zero = true);
        rig.write(0, &[1; 1024]);
        rig.seen();
        rig.ask(&sanitize(action, 0), &[], 0).good();
        assert_eq!(rig.seen(), [Seen::Zero(0, SIZE, true), Seen::Flush]);
        assert_holds(&mut rig, &[0; 512]);
    }
    let mut rig = full();
    rig.write(0, &[1; 1024]);
    assert_eq!(rig.ask(&sanitize(BLOCK_ERASE, 0), &[], 0).refused(), INVALID_FIELD);
    rig.ask(&sanitize(CRYPTOGRAPHIC_ERASE, 0), &[], 0).good();
    assert_holds(&mut rig, &[0; 512]);
}

#[test]
fn few_commands_work_until_it_has_ended() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let pattern = list(1, &[7]);
    let format = [0, 0x8a, 0, 0, 0, 1, 0, 1, 7];
    let sanitize = overwrite(IMMEDIATE, &pattern);
    let operations: [(&[u8], &[u8], Code); 2] =
        [(&sanitize, &pattern, SANITIZING), (&FORMAT_WITH_LIST, &format, FORMATTING)];
    for (begin, data, code) in operations {
        let mut rig = slow(&store, &keeper);
        let other = rig.log_in();
        rig.ask(begin, data, 0).good();
        rig.pass(Duration::from_millis(1500));
        let refused: [&[u8]; 11] = [
            &TEST_UNIT_READY,
            &cdb(Opcode::READ_16, 0, 1),
            &cdb(Opcode::WRITE_10, 0, 1),
            &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x1b, 0, 0, 0, 1, 0],
            &[0x1e, 0, 0, 0, 1, 0],
            &SAVE_MODES,
            &[0x55, 0x11, 0, 0, 0, 0, 0, 0, 0, 0],
            &FORMAT,
            &sanitize,
            &[0x48, EXIT_FAILURE_MODE, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for cdb in refused {
            let answer = rig.ask_from(other, cdb, &pattern, 512);
            assert_eq!(answer.refused(), code, "{cdb:x?}");
        }
        for cdb in [&[0x12, 0, 0, 0, 36, 0][..], &[0x1a, 0, 0x3f, 0, 255, 0]] {
            rig.ask(cdb, &[], 255).good();
        }
        rig.ask(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16).good();
        let sense = rig.ask(&[3, 0, 0, 0, 18, 0], &[], 18).good();
        assert_eq!((sense[2], sense[12], sense[13]), code);
        assert_eq!(sense[15], 0x80);
        let progress = u64::from(u16::from_be_bytes([sense[16], sense[17]]));
        assert_eq!(progress * SECONDS / 65535, 1, "one of eight");
        for function in [Function::AbortTaskSet, Function::LogicalUnitReset, Function::ITNexusReset] {
            rig.manage(other, function);
        }
        rig.close(other);
        rig.pass(Duration::from_secs(SECONDS - 2));
        while test(&mut rig, 0).is_some_and(|code| code.0 == 6) {}
        assert_eq!(test(&mut rig, 0), Some(code));
        rig.pass(Duration::from_secs(2));
        assert_eq!(test(&mut rig, 0), None);
        assert_holds(&mut rig, &[7; 512]);
    }
}

/// Such as a copy by the copy manager of another unit, which is no command of this one.
#[test]
fn it_waits_for_whatever_has_a_range_of_the_medium() {
    let mut rig = full();
    let ended = Arc::<Mutex<bool>>::default();
    let end = ended.clone();
    rig.background(async move |steps| {
        let _range = steps.share(512..1024).await?;
        steps.sleep(SECOND).await.unwrap();
        *end.lock().unwrap() = true;
        Ok(())
    });
    rig.begin(&FORMAT, &[]);
    rig.skip(SECOND / 2);
    assert_eq!((rig.seen(), test(&mut rig, 0)), (vec![], Some(FORMATTING)));
    rig.ended().good();
    assert!(*ended.lock().unwrap());
}

/// From where it was at most five seconds before.
#[test]
fn it_goes_on_after_a_restart() {
    for (passes, killed_after, left) in
        [(1, 2500, SECONDS), (1, 6500, SECONDS - 5), (2, 9500, 2 * SECONDS - 5), (2, 14500, 2 * SECONDS - 10)]
    {
        let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
        let mut rig = slow(&store, &keeper);
        rig.write(2048 * SECONDS - 1, &[1; 512]);
        let pattern = list(passes, &[7]);
        rig.ask(&overwrite(IMMEDIATE, &pattern), &pattern, 0).good();
        rig.pass(Duration::from_millis(killed_after));
        assert_eq!(test(&mut rig, 0), Some(SANITIZING));
        drop(rig);
        let mut rig = slow(&store, &keeper);
        assert_eq!(test(&mut rig, 0), Some(SANITIZING), "before it goes on");
        rig.resume();
        rig.pass(SECOND * (left as u32 - 1));
        assert_eq!(test(&mut rig, 0), Some(SANITIZING));
        rig.pass(SECOND * 2);
        assert_eq!(test(&mut rig, 0), Some(CHANGED));
        assert_holds(&mut rig, &[7; 512]);
        drop(rig);
        let mut rig = slow(&store, &keeper);
        rig.resume();
        assert_eq!(test(&mut rig, 0), None, "it is over");
    }
}

/// Else a second one would go on writing when the first has made the unit ready.
#[test]
fn it_goes_on_once_however_often_that_is_said() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let mut rig = slow(&store, &keeper);
    let pattern = list(1, &[7]);
    rig.ask(&overwrite(IMMEDIATE, &pattern), &pattern, 0).good();
    rig.pass(SECOND / 2);
    drop(rig);
    let mut rig = slow(&store, &keeper);
    rig.resume();
    rig.resume();
    rig.pass(SECOND * (SECONDS as u32 + 1));
    let writes =
        rig.seen().into_iter().map(|seen| if let Seen::Write(_, length, _) = seen { length } else { 0 });
    assert_eq!(writes.sum::<u64>(), SECONDS << 20);
}

#[test]
fn a_unit_that_is_retired_leaves_the_rest_to_the_next_of_its_state() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let pattern = list(1, &[7]);
    let mut rig = slow(&store, &keeper);
    rig.begin(&overwrite(0, &pattern), &pattern);
    rig.pass(SECOND * 2 + SECOND / 2);
    assert!(rig.retire(), "no time passes");
    assert_eq!(rig.answer(0).refused(), (5, 0x25, 0));
    let mut rig = slow(&store, &keeper);
    assert_eq!(test(&mut rig, 0), Some(SANITIZING));
    rig.resume();
    rig.pass(SECOND * (SECONDS as u32 - 4));
    while test(&mut rig, 0).is_some_and(|code| code.0 == 6) {}
    assert_eq!(test(&mut rig, 0), Some(SANITIZING));
    rig.pass(SECOND * 2);
    while test(&mut rig, 0).is_some_and(|code| code.0 == 6) {}
    assert_eq!(test(&mut rig, 0), None, "three of eight were done before");
    assert_holds(&mut rig, &[7; 512]);
}

/// What was written before it was saved how far it has come does not stay in a cache.
#[test]
fn what_need_not_be_done_again_is_safe() {
    let options = Options { thin: false, pace: 1 << 20, ..Options::default() };
    let mut rig = Rig::over(options, memory(), |caps| caps.volatile_cache = true);
    let keeper = Arc::<RamKeeper>::default();
    rig.unit.keep_state(keeper.clone()).unwrap();
    let pattern = list(1, &[7]);
    rig.ask(&overwrite(IMMEDIATE, &pattern), &pattern, 0).good();
    let saved = |keeper: &RamKeeper| keeper.state();
    let first = saved(&keeper);
    rig.pass(SECOND * 4);
    assert_eq!(saved(&keeper), first);
    rig.seen();
    rig.pass(SECOND + SECOND / 2);
    assert_ne!(saved(&keeper), first);
    let seen = rig.seen();
    let flushed = seen.iter().position(|seen| *seen == Seen::Flush);
    let written = seen.iter().position(|seen| matches!(seen, Seen::Write(at, ..) if *at >= 5 << 20));
    assert!(flushed.is_some() && flushed < written, "{seen:?}");
}

#[test]
fn state_of_another_disk_is_damage() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let pattern = list(1, &[7]);
    slow(&store, &keeper).ask(&overwrite(IMMEDIATE, &pattern), &pattern, 0).good();
    let mut rig = Rig::over(Options { block_length: 4096, ..Options::default() }, store, |_| {});
    rig.unit.keep_state(keeper).unwrap_err();
    assert_eq!(test(&mut rig, 0), Some((2, 4, 3)));
    rig.resume();
    rig.pass(Duration::from_secs(1));
    assert_eq!(test(&mut rig, 0), Some((2, 4, 3)));
}

#[test]
fn a_failure_lasts_until_another_one_succeeds() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let broken: Arc<dyn Backing> = Arc::new(Fault::new(store.clone(), "eio:2097152".parse().unwrap()));
    let pattern = list(1, &[7]);
    let mut rig = slow(&broken, &keeper);
    assert_eq!(rig.ask(&overwrite(0, &pattern), &pattern, 0).refused(), SANITIZE_FAILED);
    drop(rig);
    let mut rig = slow(&store, &keeper);
    rig.resume();
    rig.pass(Duration::from_secs(1));
    rig.reset();
    assert_eq!(test(&mut rig, 0), Some(SANITIZE_FAILED));
    assert_eq!(rig.ask(&cdb(Opcode::READ_16, 0, 1), &[], 512).refused(), SANITIZE_FAILED);
    assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), SANITIZE_FAILED);
    for (cdb, bit) in [(sanitize(EXIT_FAILURE_MODE, 0), 4), (overwrite(UNRESTRICTED, &pattern), 5)] {
        let answer = rig.ask(&cdb, &pattern, 0);
        assert_eq!((answer.refused(), answer.field()), (INVALID_FIELD, Some((1, Some(bit)))));
    }
    rig.ask(&overwrite(0, &pattern), &pattern, 0).good();
    assert_holds(&mut rig, &[7; 512]);
}

#[test]
fn an_unrestricted_failure_can_be_given_up() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let broken: Arc<dyn Backing> = Arc::new(Fault::new(store, "eio:2097152".parse().unwrap()));
    let pattern = list(1, &[7]);
    let mut rig = slow(&broken, &keeper);
    let other = rig.log_in();
    rig.ask(&sanitize(EXIT_FAILURE_MODE, 0), &[], 0).good();
    assert_eq!(rig.ask(&overwrite(UNRESTRICTED, &pattern), &pattern, 0).refused(), SANITIZE_FAILED);
    rig.ask(&sanitize(EXIT_FAILURE_MODE, 0), &[], 0).good();
    assert_eq!(test(&mut rig, 0), None);
    assert_eq!(test(&mut rig, other), Some(CHANGED));
    drop(rig);
    assert_eq!(test(&mut slow(&broken, &keeper), 0), None);
}

/// It waits for its turn, which another command has; meanwhile the next one begins.
#[test]
fn giving_up_a_failure_leaves_its_successor_alone() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let broken: Arc<dyn Backing> = Arc::new(Fault::new(store.clone(), "eio:2097152".parse().unwrap()));
    let pattern = list(1, &[7]);
    let again = overwrite(UNRESTRICTED | IMMEDIATE, &pattern);
    slow(&broken, &keeper).ask(&again, &pattern, 0).good();
    let mut rig = slow(&broken, &keeper);
    rig.resume();
    rig.pass(Duration::from_secs(SECONDS));
    drop(rig);
    let mut rig = slow(&store, &keeper);
    let (second, third) = (rig.log_in(), rig.log_in());
    assert_eq!(test(&mut rig, 0), Some(SANITIZE_FAILED));
    rig.send(0, &SAVE_MODES, &[]);
    rig.send(second, &sanitize(EXIT_FAILURE_MODE, 0), &[]);
    rig.send(third, &again, &pattern);
    rig.answer(0).good();
    assert_eq!(rig.answer(second).refused(), SANITIZING);
    rig.answer(third).good();
    rig.pass(Duration::from_secs(SECONDS - 1));
    assert_eq!(test(&mut rig, 0), Some(SANITIZING));
    rig.pass(Duration::from_secs(2));
    assert_eq!(test(&mut rig, 0), Some(CHANGED));
    assert_holds(&mut rig, &[7; 512]);
}

#[test]
fn a_format_that_failed_leaves_a_corrupted_medium() {
    let (store, keeper) = (memory(), Arc::<RamKeeper>::default());
    let broken: Arc<dyn Backing> = Arc::new(Fault::new(store.clone(), "enospc:2097152".parse().unwrap()));
    let mut rig = slow(&broken, &keeper);
    assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), FORMAT_FAILED);
    assert_eq!(test(&mut rig, 0), Some(FORMAT_CORRUPTED));
    drop(rig);
    let mut rig = slow(&store, &keeper);
    assert_eq!(test(&mut rig, 0), Some(FORMAT_CORRUPTED));
    rig.ask(&FORMAT, &[], 0).good();
    assert_eq!(test(&mut rig, 0), None);
}

#[test]
fn what_cannot_be_saved_does_not_begin() {
    let keeper = Arc::new(RamKeeper::limited(0));
    let mut rig = slow(&memory(), &keeper);
    rig.write(0, &[1; 1024]);
    let pattern = list(1, &[7]);
    assert_eq!(rig.ask(&overwrite(0, &pattern), &pattern, 0).refused(), (4, 0x44, 0));
    assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), (4, 0x44, 0));
    rig.pass(Duration::from_secs(1));
    assert_eq!(test(&mut rig, 0), None);
    assert_eq!(rig.read(0, 1), [1; 512]);
}

#[test]
fn what_is_write_protected_is_not_erased() {
    let read_only = Arc::new(Ram::new(SIZE).unwrap().read_only());
    let mut rig = Rig::over(Options::default(), read_only, |_| {});
    let mut by_software = Rig::new();
    const PROTECT: [u8; 16] = [0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0];
    by_software.ask(&[0x15, 0x10, 0, 0, 16, 0], &PROTECT, 0).good();
    let pattern = list(1, &[7]);
    for cdb in
        [&FORMAT[..], &overwrite(0, &pattern), &sanitize(BLOCK_ERASE, 0), &sanitize(CRYPTOGRAPHIC_ERASE, 0)]
    {
        assert_eq!(rig.ask(cdb, &pattern, 0).refused(), PROTECTED);
        assert_eq!(by_software.ask(cdb, &pattern, 0).refused(), SOFTWARE_PROTECTED);
    }
}

#[test]
fn what_is_stopped_or_ejected_is_not_erased() {
    for (removable, bits, code) in [(false, 0, (2, 4, 2)), (true, 2, (2, 0x3a, 2))] {
        let broken = Arc::new(Fault::new(memory(), "enospc:2097152".parse().unwrap()));
        let mut rig = Rig::over(Options { removable, ..Options::default() }, broken, |_| {});
        assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), FORMAT_FAILED);
        rig.ask(&[0x1b, 0, 0, 0, bits, 0], &[], 0).good();
        assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), code, "though it has failed before");
    }
    let mut rig = Rig::new();
    rig.ask(&[0x1b, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(rig.ask(&FORMAT, &[], 0).refused(), (2, 4, 2));
    let mut rig = Rig::with(Options { removable: true, ..Options::default() }, |_| {});
    rig.ask(&[0x1b, 0, 0, 0, 2, 0], &[], 0).good();
    assert_eq!(rig.ask(&sanitize(BLOCK_ERASE, 0), &[], 0).refused(), (2, 0x3a, 2));
}

/// Nobody knows whose the medium is.
#[test]
fn a_disk_whose_reservations_are_unknown_is_not_erased() {
    let mut rig = full();
    rig.write(0, &[7; 512]);
    let damaged = RamKeeper::holding(*br#"{"reservations": 5}"#);
    rig.unit.keep_state(Arc::new(damaged)).unwrap_err();
    rig.seen();
    let (exit, stop, prevent) =
        (sanitize(EXIT_FAILURE_MODE, 0), [0x1b, 0, 0, 0, 0, 0], [0x1e, 0, 0, 0, 1, 0]);
    let list = list(1, &[0]);
    for (cdb, list) in [
        (&FORMAT[..], &[][..]),
        (&overwrite(0, &list), &list),
        (&sanitize(CRYPTOGRAPHIC_ERASE, 0), &[]),
        (&exit, &[]),
        (&stop, &[]),
        (&prevent, &[]),
    ] {
        assert_eq!(rig.ask(cdb, list, 0).refused(), (2, 4, 3), "{cdb:02x?}");
    }
    assert_eq!(rig.seen(), []);
}
