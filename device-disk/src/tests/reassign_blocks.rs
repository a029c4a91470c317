//! REASSIGN BLOCKS.

use crate::Options;
use crate::testing::*;
use lunette_scsi::{Opcode, Status};
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use lunette_store::{Backing, Caps, Cx, IoError, IoId, Op, Store, Submit};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const LONG_LBAS: u8 = 2;
const LONG_LIST: u8 = 1;
const UNREADABLE: Code = (3, 0x11, 0);

fn reassign(rig: &mut Rig, bits: u8, list: &[u8]) -> Answer {
    rig.ask(&[0x07, bits, 0, 0, 0, 0], list, 0)
}

fn list(lbas: &[u32]) -> Vec<u8> {
    let length = 4 * lbas.len() as u8;
    [0, 0, 0, length].into_iter().chain(lbas.iter().flat_map(|lba| lba.to_be_bytes())).collect()
}

/// Blocks that cannot be read before they are written.
#[derive(Clone)]
struct Defects(Arc<dyn Backing>, Arc<Mutex<BTreeMap<u64, IoError>>>);

struct DefectsStore(Defects, Rc<dyn Store>);

impl Backing for Defects {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(DefectsStore(self.clone(), self.0.attach(cx)))
    }
}

impl Store for DefectsStore {
    fn caps(&self) -> &Caps {
        self.1.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let (offset, length) = op.range();
        let blocks = offset / 512..(offset + length) / 512;
        let mut defects = self.0.1.lock().unwrap();
        match op {
            Op::Read { .. } if let Some((_, error)) = defects.range(blocks.clone()).next() => {
                Submit::Done(Err(*error))
            }
            Op::Write { .. } => {
                defects.retain(|lba, _| !blocks.contains(lba));
                self.1.submit(op, id, cx)
            }
            _ => self.1.submit(op, id, cx),
        }
    }
}

#[test]
fn blocks_are_written_anew() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    let data = pattern(8);
    rig.write(0, &data);
    rig.seen();
    reassign(&mut rig, 0, &list(&[2, 5])).good();
    let anew = |lba: u64| [Seen::Read(lba * 512, 512), Seen::Write(lba * 512, 512, true)];
    assert_eq!(rig.seen(), [anew(2), anew(5)].concat());
    let long = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7];
    reassign(&mut rig, LONG_LBAS, &long).good();
    reassign(&mut rig, LONG_LBAS | LONG_LIST, &long).good();
    reassign(&mut rig, LONG_LIST, &list(&[7])).good();
    assert_eq!(rig.seen(), [anew(7), anew(7), anew(7)].concat());
    reassign(&mut rig, 0, &list(&[])).good();
    assert_eq!(rig.seen(), []);
    assert_eq!(rig.read(0, 8), data);
}

/// A disk whose first 8 blocks hold a pattern, and the errors of those that cannot be read.
fn defective() -> (Rig, Arc<Mutex<BTreeMap<u64, IoError>>>) {
    let defects = Arc::<Mutex<BTreeMap<_, _>>>::default();
    let store = Defects(Arc::new(Ram::new(SIZE).unwrap()), defects.clone());
    let mut rig = Rig::over(Options::default(), Arc::new(store), |_| {});
    rig.write(0, &pattern(8));
    (rig, defects)
}

#[test]
fn what_the_medium_has_lost_becomes_zeroes() {
    // EIO, ENODATA, EBADMSG, EILSEQ and EREMOTEIO.
    const LOST: [i32; 5] = [5, 61, 74, 84, 121];
    let (mut rig, defects) = defective();
    defects.lock().unwrap().extend((2..).zip(LOST.map(IoError::Os)));
    let read = cdb(Opcode::READ_10, 0, 8);
    assert_eq!(rig.ask(&read, &[], 8 * 512).refused(), UNREADABLE);
    reassign(&mut rig, 0, &list(&[1, 2, 3, 4, 5, 6])).good();
    let mut data = pattern(8);
    data[2 * 512..7 * 512].fill(0);
    assert_eq!(rig.read(0, 8), data);
}

#[test]
fn what_may_be_read_later_stays() {
    // EINTR, ENOMEM, ETIMEDOUT and ESTALE.
    let passing = [4, 12, 110, 116].map(IoError::Os);
    for error in [&passing[..], &[IoError::Short { moved: 0 }, IoError::Gone]].concat() {
        let (mut rig, defects) = defective();
        defects.lock().unwrap().insert(3, error);
        rig.seen();
        let answer = reassign(&mut rig, 0, &list(&[2, 3, 4]));
        assert_eq!(answer.outcome.status, Status::CHECK_CONDITION, "{error}");
        assert_eq!(answer.outcome.sense.unwrap().command_specific, Some(3));
        let read = |lba: u64| Seen::Read(lba * 512, 512);
        assert_eq!(rig.seen(), [read(2), Seen::Write(2 * 512, 512, false), read(3)]);
        defects.lock().unwrap().clear();
        assert_eq!(rig.read(0, 8), pattern(8));
    }
}

#[test]
fn the_first_block_that_stays_defective_is_named() {
    let broken = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "eio:2560".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(broken), |_| {});
    let answer = reassign(&mut rig, 0, &list(&[4, 5, 6]));
    assert_eq!(answer.refused(), (4, 0x32, 0));
    assert_eq!(answer.outcome.sense.unwrap().command_specific, Some(5));
}

#[test]
fn wrong_lists_are_refused_before_anything_is_written() {
    let mut rig = Rig::new();
    let blocks = (SIZE / 512) as u32;
    assert_eq!(reassign(&mut rig, 0, &list(&[1, blocks])).refused(), OUT_OF_RANGE);
    let whole = list(&[1, 2]);
    for length in 0..whole.len() {
        assert_eq!(reassign(&mut rig, 0, &whole[..length]).refused(), LIST_LENGTH, "{length}");
    }
    for (bits, list, byte) in [
        (0, [1, 0, 0, 4, 0, 0, 0, 0], 0),
        (0, [0, 0, 0, 3, 0, 0, 0, 0], 2),
        (LONG_LBAS, [0, 0, 0, 4, 0, 0, 0, 0], 2),
        (LONG_LIST, [0, 1, 0, 4, 0, 0, 0, 0], 0),
        (LONG_LIST, [0xff, 0xff, 0xff, 0xfc, 0, 0, 0, 0], 0),
    ] {
        let answer = reassign(&mut rig, bits, &list);
        assert_eq!((answer.refused(), answer.field()), (INVALID_PARAMETER, Some((byte, None))), "{list:x?}");
    }
    assert_eq!(rig.seen(), []);
    let read_only = Arc::new(Ram::new(SIZE).unwrap().read_only());
    let mut rig = Rig::over(Options::default(), read_only, |_| {});
    assert_eq!(reassign(&mut rig, 0, &list(&[1])).refused(), PROTECTED);
}
