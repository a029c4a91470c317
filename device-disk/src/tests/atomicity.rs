//! Commands that have their blocks to themselves, beside all others, on two reactors and over a store that takes its time.

use crate::testing::cdb;
use crate::{Disk, Options};
use lunette_engine::{
    CommandFrame, Completion, Identity, LogicalUnit, Nexus, Outcome, Responder, Session, Started, TargetPort,
};
use lunette_scsi::designator::Protocol;
use lunette_scsi::{Cdb, Lun, Naa, Opcode, SenseKey, ServiceResponse, TaskAttribute};
use lunette_store::sim::Sim;
use lunette_store::{Backing, Caps, Cx, IoId, IoResult, Memory, Op, ReactorId, Sg, SgList, Store, Submit};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const BLOCKS: usize = 4;

/// Keeps every operation until it is told to carry it out.
#[derive(Clone)]
struct Slow {
    caps: Caps,
    bytes: Arc<Mutex<Vec<u8>>>,
    waiting: Arc<Mutex<Vec<(ReactorId, IoId, Kept)>>>,
}

enum Kept {
    Read(u64, SgList),
    Write(u64, SgList),
    Nothing,
}

impl Backing for Slow {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

impl Store for Slow {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let mut sg = SgList::new();
        sg.assign(op.sg());
        let kept = match op {
            Op::Read { offset, .. } => Kept::Read(offset, sg),
            Op::Write { offset, .. } => Kept::Write(offset, sg),
            _ => Kept::Nothing,
        };
        self.waiting.lock().unwrap().push((cx.reactor(), id, kept));
        Submit::Queued
    }
}

impl Slow {
    /// Carries out one of its operations; whether there was one.
    fn carry_out(&self, which: usize, sim: &mut Sim) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        if waiting.is_empty() {
            return false;
        }
        let which = which % waiting.len();
        let (reactor, id, kept) = waiting.remove(which);
        let mut bytes = self.bytes.lock().unwrap();
        match kept {
            Kept::Read(at, sg) => {
                let length = sg.as_sg().len() as usize;
                sg.as_sg().copy_in(0, &bytes[at as usize..at as usize + length]);
            }
            Kept::Write(at, sg) => {
                let new = sg.as_sg().to_vec(u64::MAX);
                bytes[at as usize..at as usize + new.len()].copy_from_slice(&new);
            }
            Kept::Nothing => {}
        }
        let done: IoResult = Ok(0);
        sim.cx(usize::from(reactor.0)).complete(id, done);
        true
    }
}

#[derive(Default)]
struct Ended(RefCell<BTreeMap<u64, Outcome>>);

impl Responder for Ended {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        let Completion::Ended(outcome) = completion else { panic!("nobody aborts") };
        self.0.borrow_mut().insert(cookie, outcome);
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

/// Counts up: reads a block, then compares and writes until nobody else came between.
struct Counter {
    reactor: usize,
    session: Session,
    ended: Rc<Ended>,
    lba: u64,
    left: u32,
    known: Option<[u8; 512]>,
    next_tag: u64,
    memory: Memory,
}

impl Counter {
    /// Sends its next command unless one is under way.
    fn go_on(&mut self, head: bool, sim: &mut Sim) {
        if self.next_tag > 0 {
            let Some(outcome) = self.ended.0.borrow_mut().remove(&self.next_tag) else { return };
            self.take(&outcome);
        }
        if self.left == 0 && self.known.is_none() {
            return;
        }
        self.next_tag += 1;
        let mut bytes = cdb(Opcode::READ_16, self.lba, 1);
        if let Some(known) = self.known {
            let next = u64::from_be_bytes(known[..8].try_into().unwrap()) + 1;
            let mut new = known;
            new[..8].copy_from_slice(&next.to_be_bytes());
            self.memory = Memory::from_bytes(&[known, new].concat());
            bytes = cdb(Opcode::COMPARE_AND_WRITE, self.lba, 0);
            bytes[13] = 1;
        } else {
            self.memory = Memory::zeroed(512);
        }
        let cdb = Cdb::new(&bytes).unwrap();
        let (segs, writes) = ([self.memory.seg()], self.known.is_some());
        let (out, into) = if writes { (Sg::new(&segs), Sg::empty()) } else { (Sg::empty(), Sg::new(&segs)) };
        let command = CommandFrame {
            tag: self.next_tag,
            cookie: self.next_tag,
            data_out: out.len(),
            attribute: if head { TaskAttribute::HeadOfQueue } else { TaskAttribute::Simple },
            ..CommandFrame::new(Lun::from_index(0), &cdb)
        };
        if let Started::Ended(outcome) = self.session.execute(&command, out, into, sim.cx(self.reactor)) {
            self.ended.0.borrow_mut().insert(self.next_tag, outcome);
        }
    }

    fn take(&mut self, outcome: &Outcome) {
        match &outcome.sense {
            None if self.known.is_some() => {
                self.left -= 1;
                self.known = None;
            }
            None if self.left > 0 => self.known = Some(self.memory.to_vec().try_into().unwrap()),
            None => {}
            Some(sense) => {
                assert!([SenseKey::MISCOMPARE, SenseKey::UNIT_ATTENTION].contains(&sense.key), "{sense:?}");
                self.known = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_count_is_lost(
        choices in prop::collection::vec((0..4usize, any::<usize>(), any::<bool>()), 50..400),
        lbas in prop::collection::vec(0..2u64, 4),
    ) {
        let mut sim = Sim::new(2);
        let caps = Caps {
            size: ((BLOCKS * 512) as u64).into(),
            read_only: false,
            logical_block: 512,
            physical_block: 512,
            max_transfer: 1 << 20,
            volatile_cache: false,
            discard: None,
            fast_zero: false,
            rotational: false,
        };
        let slow = Slow { caps, bytes: Arc::new(Mutex::new(vec![0; BLOCKS * 512])), waiting: Arc::default() };
        let disk = Disk::new(&Options::default(), &slow.caps).unwrap();
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("disk", identity, Box::new(disk), Some(Arc::new(slow.clone())));
        let port = TargetPort::new("t,t,0x0001", 1, Protocol::ISCSI, BTreeMap::from([(0, unit)]));
        let mut counters: Vec<Counter> = lbas.iter().enumerate().map(|(number, lba)| {
            let ended = Rc::<Ended>::default();
            let responder: Rc<dyn Responder> = ended.clone();
            let nexus = Nexus::new(number.to_string(), port.clone());
            let reactor = number % 2;
            let session = Session::open(nexus, Rc::downgrade(&responder), sim.cx(reactor));
            Counter {
                reactor, session, ended, lba: *lba, left: 5, known: None, next_tag: 0, memory: Memory::zeroed(0),
            }
        }).collect();
        for (who, which, flag) in choices {
            match who {
                0 => counters[which % 4].go_on(flag, &mut sim),
                1 => { slow.carry_out(which, &mut sim); }
                _ => { sim.step(which % 2); }
            }
        }
        loop {
            counters.iter_mut().for_each(|counter| counter.go_on(false, &mut sim));
            sim.settle();
            if !slow.carry_out(0, &mut sim) && counters.iter().all(|counter| counter.left == 0) {
                break;
            }
        }
        let bytes = slow.bytes.lock().unwrap();
        for lba in 0..2 {
            let count = u64::from_be_bytes(bytes[lba * 512..lba * 512 + 8].try_into().unwrap());
            prop_assert_eq!(count, 5 * lbas.iter().filter(|other| **other == lba as u64).count() as u64);
        }
    }
}
