//! What tests need to talk to a disk: initiators, a store that can be watched, CDBs.

use crate::{Disk, Options};
pub(crate) use lunette_engine::RamKeeper;
use lunette_engine::{
    Admission, CommandFilter, CommandFrame, Completion, Identity, LogicalUnit, Management, Nexus, Outcome,
    Responder, Session, Started, Steps, TargetPort, TaskId,
};
use lunette_scsi::designator::Protocol;
use lunette_scsi::inquiry::SpcVersion;
use lunette_scsi::{
    Cdb, Lun, Naa, Opcode, Sense, ServiceResponse, Status, TaskAttribute, TaskManagementFunction,
};
use lunette_store::ram::Ram;
use lunette_store::sim::Sim;
use lunette_store::{
    Backing, Caps, Cx, IoError, IoId, Lane, Memory, Op, Post, Room, SeekTarget, Sg, Store, Submit,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Simulated time after which a command counts as stuck.
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes of the disks of these tests.
pub(crate) const SIZE: u64 = 1 << 20;

/// Sense key, additional sense code and qualifier.
pub(crate) type Code = (u8, u8, u8);
pub(crate) const INVALID_OPCODE: Code = (5, 0x20, 0);
pub(crate) const OUT_OF_RANGE: Code = (5, 0x21, 0);
pub(crate) const INVALID_FIELD: Code = (5, 0x24, 0);
pub(crate) const INVALID_PARAMETER: Code = (5, 0x26, 0);
pub(crate) const LIST_LENGTH: Code = (5, 0x1a, 0);
pub(crate) const PROTECTED: Code = (7, 0x27, 0);
pub(crate) const SOFTWARE_PROTECTED: Code = (7, 0x27, 2);
pub(crate) const MISCOMPARE: Code = (0xe, 0x1d, 0);

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// Data-in that was moved.
    pub(crate) data: Vec<u8>,
    /// It ended without giving other commands a turn.
    pub(crate) at_once: bool,
}

impl Answer {
    pub(crate) fn code(&self) -> Option<Code> {
        let sense = self.outcome.sense.as_ref()?;
        Some((sense.key.0, sense.additional.asc, sense.additional.ascq))
    }

    /// The sense code, of which there must be one.
    pub(crate) fn refused(&self) -> Code {
        assert_eq!(self.outcome.status, Status::CHECK_CONDITION);
        self.code().unwrap()
    }

    /// The byte and bit that the field pointer names.
    pub(crate) fn field(&self) -> Option<(u16, Option<u8>)> {
        use lunette_scsi::SenseKeySpecific::FieldPointer;
        match self.outcome.sense.as_ref()?.sense_key_specific? {
            FieldPointer { byte, bit, .. } => Some((byte, bit)),
            _ => None,
        }
    }

    pub(crate) fn information(&self) -> Option<u64> {
        self.outcome.sense.as_ref()?.information
    }

    /// The data-in of a command that ended with GOOD.
    pub(crate) fn good(self) -> Vec<u8> {
        assert_eq!((self.outcome.status, self.code()), (Status::GOOD, None));
        self.data
    }
}

#[derive(Default)]
struct Ended(RefCell<Option<Completion>>);

impl Responder for Ended {
    fn command_ended(&self, _: u64, completion: Completion, _: &mut dyn Cx) {
        self.0.replace(Some(completion));
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

struct Initiator {
    session: Session,
    ended: Rc<Ended>,
}

/// An operation that reached the store: offset and length, and for writes whether durable, for zeroes whether unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Read(u64, u64),
    Write(u64, u64, bool),
    Flush,
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Seek(u64, SeekTarget),
}

/// A store with capabilities of the test's choice that keeps a list of what it was asked.
#[derive(Clone)]
struct Watched {
    inner: Arc<dyn Backing>,
    caps: Caps,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct WatchedStore(Watched, Rc<dyn Store>);

impl Backing for Watched {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn is_lasting(&self) -> bool {
        self.inner.is_lasting()
    }

    fn lane(&self) -> Option<&Lane> {
        self.inner.lane()
    }

    fn room(&self) -> Result<Room, IoError> {
        self.inner.room()
    }

    fn is_resizable(&self) -> bool {
        self.inner.is_resizable()
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        self.inner.resize(size)
    }

    fn measure(&self) -> Result<u64, IoError> {
        self.inner.measure()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(WatchedStore(self.clone(), self.inner.attach(cx)))
    }
}

impl Store for WatchedStore {
    fn caps(&self) -> &Caps {
        &self.0.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let (offset, length) = op.range();
        let block = u64::from(self.0.caps.logical_block);
        assert!((offset | length).is_multiple_of(block), "{op:?} is not of whole blocks");
        assert!(op.sg().len() <= self.0.caps.max_transfer, "{op:?} is too long");
        self.0.seen.lock().unwrap().push(match op {
            Op::Read { .. } => Seen::Read(offset, length),
            Op::Write { durable, .. } => Seen::Write(offset, length, durable),
            Op::Copy { .. } => unreachable!("its bytes are in no file"),
            Op::Flush => Seen::Flush,
            Op::Zero { unmap, .. } => Seen::Zero(offset, length, unmap),
            Op::Discard { .. } => Seen::Discard(offset, length),
            Op::Seek { target, .. } => Seen::Seek(offset, target),
        });
        self.1.submit(op, id, cx)
    }
}

/// A store that cannot be reached for a while.
#[derive(Clone)]
pub(crate) struct Away(Arc<dyn Backing>, Arc<AtomicBool>);

struct AwayStore(Away, Rc<dyn Store>);

impl Away {
    pub(crate) fn new(inner: Arc<dyn Backing>) -> Self {
        Self(inner, Arc::default())
    }

    pub(crate) fn set(&self, away: bool) {
        self.1.store(away, Ordering::Relaxed);
    }
}

impl Backing for Away {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(AwayStore(self.clone(), self.0.attach(cx)))
    }
}

impl Store for AwayStore {
    fn caps(&self) -> &Caps {
        self.1.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        match self.0.1.load(Ordering::Relaxed) {
            true => Submit::Done(Err(IoError::Gone)),
            false => self.1.submit(op, id, cx),
        }
    }
}

/// A disk with initiators.
pub(crate) struct Rig {
    sim: Sim,
    pub(crate) unit: Arc<LogicalUnit>,
    port: Arc<TargetPort>,
    initiators: Vec<Initiator>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Data-out of commands that were begun.
    kept: Vec<Memory>,
}

impl Rig {
    /// A disk of 1 MiB in memory, with blocks of 512 bytes and one initiator.
    pub(crate) fn new() -> Self {
        Self::with(Options::default(), |_| {})
    }

    /// The same with other options and capabilities of the store.
    pub(crate) fn with(options: Options, change: impl FnOnce(&mut Caps)) -> Self {
        Self::over(options, Arc::new(Ram::new(SIZE).unwrap()), change)
    }

    /// A disk that only carries out what passes a filter.
    pub(crate) fn filtered(filter: &str) -> Self {
        let store = Arc::new(Ram::new(SIZE).unwrap());
        Self::build(Options::default(), store, |_| {}, &filter.parse().unwrap(), SpcVersion::SPC_4)
    }

    /// A disk over another store.
    pub(crate) fn over(options: Options, inner: Arc<dyn Backing>, change: impl FnOnce(&mut Caps)) -> Self {
        Self::build(options, inner, change, &CommandFilter::default(), SpcVersion::SPC_4)
    }

    /// A disk that claims another standard.
    pub(crate) fn claiming(version: SpcVersion) -> Self {
        let store = Arc::new(Ram::new(SIZE).unwrap());
        Self::build(Options::default(), store, |_| {}, &CommandFilter::default(), version)
    }

    fn build(
        options: Options,
        inner: Arc<dyn Backing>,
        change: impl FnOnce(&mut Caps),
        filter: &CommandFilter,
        version: SpcVersion,
    ) -> Self {
        let mut caps = Caps { logical_block: options.block_length, ..inner.caps().clone() };
        change(&mut caps);
        let seen = Arc::default();
        let disk = Disk::new(&options, &caps).unwrap();
        let store = Watched { inner, caps, seen: Arc::clone(&seen) };
        let identity = Identity { version, ..Identity::new("0001", Naa::locally_assigned(1)) };
        let store: Option<Arc<dyn Backing>> = Some(Arc::new(store));
        let unit = LogicalUnit::filtered("disk", identity, Box::new(disk), store, filter);
        let units = BTreeMap::from([(0, unit.clone())]);
        let port = TargetPort::new("target,t,0x0001", 1, Protocol::ISCSI, units);
        let mut rig = Self { sim: Sim::new(2), unit, port, initiators: Vec::new(), seen, kept: Vec::new() };
        rig.log_in();
        rig
    }

    /// Adds an initiator, which has seen its power-on unit attention; returns its number.
    pub(crate) fn log_in(&mut self) -> usize {
        let ended = Rc::<Ended>::default();
        let responder: Rc<dyn Responder> = ended.clone();
        let nexus = Nexus::new(format!("initiator {}", self.initiators.len()), self.port.clone());
        let session = Session::open(nexus, Rc::downgrade(&responder), self.sim.cx(0));
        self.initiators.push(Initiator { session, ended });
        let number = self.initiators.len() - 1;
        assert_eq!(self.ask_from(number, &[0; 6], &[], 0).refused(), (6, 0x29, 0));
        number
    }

    /// Carries out a command of the first initiator.
    pub(crate) fn ask(&mut self, cdb: &[u8], data_out: &[u8], room: usize) -> Answer {
        self.ask_from(0, cdb, data_out, room)
    }

    pub(crate) fn ask_from(&mut self, from: usize, cdb: &[u8], data_out: &[u8], room: usize) -> Answer {
        const CANARY: [u8; 64] = [0xc5; 64];
        let cdb = Cdb::new(cdb).unwrap();
        let lun = Lun::from_index(0);
        let sent = data_out.len() as u64;
        let command = CommandFrame { tag: 1, data_out: sent, cookie: 1, ..CommandFrame::new(lun, &cdb) };
        let out = Memory::from_bytes(data_out);
        let into = Memory::from_bytes(&[&vec![0; room][..], &CANARY].concat());
        let (out_segs, in_segs) = ([out.seg()], [into.seg().part(0, room)]);
        let (out_sg, in_sg) = (Sg::new(&out_segs), Sg::new(&in_segs));
        let initiator = &self.initiators[from];
        let mut at_once = true;
        let outcome = match initiator.session.execute(&command, out_sg, in_sg, self.sim.cx(0)) {
            Started::Ended(outcome) => outcome,
            Started::Pending => {
                at_once = false;
                self.outcome(from)
            }
        };
        let mut data = into.to_vec();
        assert_eq!(data.split_off(room), CANARY, "bytes beyond the buffer were written");
        assert!(outcome.moved_in <= room as u64 && outcome.moved_out <= sent);
        data.truncate(outcome.moved_in as usize);
        Answer { outcome, data, at_once }
    }

    /// What becomes of the command that is under way.
    fn outcome(&mut self, from: usize) -> Outcome {
        let ended = &self.initiators[from].ended.0;
        self.sim.settle();
        // Stores may wait for timers.
        while ended.borrow().is_none() {
            self.sim.advance(Duration::from_millis(1));
            assert!(self.sim.step(0) || self.sim.cx(0).now() < LIMIT, "it never ends");
            self.sim.settle();
        }
        match ended.take() {
            Some(Completion::Ended(outcome)) => outcome,
            other => panic!("not ended: {other:?}"),
        }
    }

    /// Begins a command of the first initiator, and goes on until it waits for something.
    pub(crate) fn begin(&mut self, cdb: &[u8], data_out: &[u8]) {
        self.send(0, cdb, data_out);
        self.sim.settle();
    }

    /// Sends a command of an initiator that does not end at once. Nothing else happens.
    pub(crate) fn send(&mut self, from: usize, cdb: &[u8], data_out: &[u8]) {
        self.send_as(TaskAttribute::Simple, from, cdb, data_out);
    }

    pub(crate) fn send_as(&mut self, attribute: TaskAttribute, from: usize, cdb: &[u8], data_out: &[u8]) {
        let (cdb, out) = (Cdb::new(cdb).unwrap(), Memory::from_bytes(data_out));
        let sent = data_out.len() as u64;
        let frame = CommandFrame::new(Lun::from_index(0), &cdb);
        let command = CommandFrame { tag: 1, attribute, data_out: sent, cookie: 1, ..frame };
        let session = &self.initiators[from].session;
        let started = session.execute(&command, Sg::new(&[out.seg()]), Sg::empty(), self.sim.cx(0));
        assert!(matches!(started, Started::Pending));
        self.kept.push(out);
    }

    /// How the command that was begun ends, which has not yet.
    pub(crate) fn ended(&mut self) -> Answer {
        assert!(self.initiators[0].ended.0.borrow().is_none(), "it has ended");
        self.answer(0)
    }

    /// How the command that was begun has ended.
    pub(crate) fn ended_already(&mut self) -> Answer {
        assert!(self.initiators[0].ended.0.borrow().is_some(), "it has not ended");
        self.answer(0)
    }

    /// How a command that was sent ends.
    pub(crate) fn answer(&mut self, from: usize) -> Answer {
        Answer { outcome: self.outcome(from), data: Vec::new(), at_once: false }
    }

    /// How late it is, in simulated time.
    pub(crate) fn now(&mut self) -> Duration {
        self.sim.cx(0).now()
    }

    /// For what an operator asks of the unit.
    pub(crate) fn poster(&mut self) -> Arc<dyn Post> {
        self.sim.cx(0).poster()
    }

    /// Begins work in the background of the unit.
    pub(crate) fn background<F>(&mut self, work: impl FnOnce(Steps) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Sense>> + 'static,
    {
        self.unit.begin(&*self.sim.cx(0).poster(), work);
        self.sim.settle();
    }

    /// Lets a command of the first initiator in whose data-out is still to come.
    pub(crate) fn admit(&mut self, cdb: &[u8], data_out: u64) -> TaskId {
        let cdb = Cdb::new(cdb).unwrap();
        let command = CommandFrame { tag: 2, data_out, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        match self.initiators[0].session.admit(&command, self.sim.cx(0)) {
            Admission::Admitted { task, .. } => task,
            Admission::Ended(outcome) => panic!("{outcome:?}"),
        }
    }

    /// Its data-out has come.
    pub(crate) fn start(&mut self, task: TaskId, data_out: &[u8]) -> Answer {
        let out = Memory::from_bytes(data_out);
        let session = &self.initiators[0].session;
        let outcome = match session.start(task, Sg::new(&[out.seg()]), Sg::empty(), self.sim.cx(0)) {
            Started::Ended(outcome) => outcome,
            Started::Pending => self.outcome(0),
        };
        Answer { outcome, data: Vec::new(), at_once: false }
    }

    /// The unit goes on with what is in its saved state.
    pub(crate) fn resume(&mut self) {
        self.unit.resume(&*self.sim.cx(0).poster());
        self.sim.settle();
    }

    /// The unit is retired. Returns whether it is in nobody's hands now.
    pub(crate) fn retire(&mut self) -> bool {
        let done = Arc::<AtomicBool>::default();
        let note = done.clone();
        self.unit.retire(&*self.sim.cx(0).poster(), move || note.store(true, Ordering::Relaxed));
        self.sim.settle();
        done.load(Ordering::Relaxed)
    }

    /// The initiators do not see the unit any more, and then see it again.
    pub(crate) fn go_and_come(&mut self) {
        let poster = self.sim.cx(0).poster();
        let unit = self.port.luns().change(&*poster, |units| units.remove(&0)).unwrap();
        self.port.luns().change(&*poster, |units| units.insert(0, unit));
    }

    /// Goes on from where another process stopped, in which were as many initiators.
    pub(crate) fn take_over(&mut self, before: &Rig) {
        let state = before.unit.hand_over(Duration::ZERO, Duration::ZERO);
        self.unit.take_over(state, Duration::ZERO, Duration::ZERO).unwrap();
        for (now, before) in self.initiators.iter().zip(&before.initiators) {
            now.session.nexus().take_over(&before.session.nexus().hand_over()).unwrap();
        }
    }

    /// A logical unit reset by the first initiator, which then has seen its unit attention.
    pub(crate) fn reset(&mut self) {
        self.manage(0, TaskManagementFunction::LogicalUnitReset);
        assert_eq!(self.ask(&[0; 6], &[], 0).refused().0, 6);
    }

    /// A task management function of an initiator.
    pub(crate) fn manage(&mut self, from: usize, function: TaskManagementFunction) {
        let function = Management { function, lun: Lun::from_index(0), tag: 1 };
        self.initiators[from].session.manage(&function, 0, self.sim.cx(0));
        self.sim.settle();
    }

    /// The nexus of an initiator is lost; it must not ask again.
    pub(crate) fn close(&mut self, from: usize) {
        self.initiators[from].session.close(0, self.sim.cx(0));
        self.sim.settle();
    }

    /// Begins a command on another reactor when its nexus has just been lost here, which is not known there yet.
    pub(crate) fn begin_when_lost(&mut self, cdb: &[u8]) {
        let ended = Rc::<Ended>::default();
        let responder: Rc<dyn Responder> = ended.clone();
        let nexus = Nexus::new("lost", self.port.clone());
        let open = |sim: &mut Sim, on| Session::open(nexus.clone(), Rc::downgrade(&responder), sim.cx(on));
        let (here, there) = (open(&mut self.sim, 0), open(&mut self.sim, 1));
        let begin = |sim: &mut Sim, cdb: &[u8]| {
            let cdb = Cdb::new(cdb).unwrap();
            let command = CommandFrame::new(Lun::from_index(0), &cdb);
            there.execute(&command, Sg::empty(), Sg::empty(), sim.cx(1))
        };
        assert!(matches!(begin(&mut self.sim, &[0; 6]), Started::Ended(_)), "unit attention");
        here.close(0, self.sim.cx(0));
        assert!(matches!(begin(&mut self.sim, cdb), Started::Pending));
        self.initiators.push(Initiator { session: there, ended });
    }

    /// Lets time pass at once, for what waits for one moment.
    pub(crate) fn skip(&mut self, time: Duration) {
        self.sim.advance(time);
        self.sim.settle();
    }

    /// Lets time pass in small steps, for work in the background.
    pub(crate) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.sim.advance(Duration::from_millis(1));
            self.sim.settle();
        }
    }

    /// The lanes that were used since this was last asked.
    pub(crate) fn lanes(&mut self) -> Vec<Option<u32>> {
        self.sim.cx(0).take_lanes()
    }

    /// What reached the store since this was last asked.
    pub(crate) fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The content of some blocks.
    pub(crate) fn read(&mut self, lba: u64, blocks: u32) -> Vec<u8> {
        let length = blocks as usize * self.block();
        self.ask(&cdb(Opcode::READ_16, lba, blocks), &[], length).good()
    }

    /// Writes whole blocks.
    pub(crate) fn write(&mut self, lba: u64, data: &[u8]) {
        let blocks = data.len() / self.block();
        self.ask(&cdb(Opcode::WRITE_16, lba, blocks as u32), data, 0).good();
    }

    pub(crate) fn block(&self) -> usize {
        self.unit.device().block_descriptor(true).map_or(0, |descriptor| match descriptor {
            lunette_scsi::mode::BlockDescriptor::Long { block_length, .. } => block_length as usize,
            _ => 0,
        })
    }
}

/// The CDB of a command that names blocks, in the form of its opcode.
pub(crate) fn cdb(opcode: Opcode, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![0; opcode.cdb_length().unwrap()];
    cdb[0] = opcode.0;
    match cdb.len() {
        6 => {
            cdb[1..4].copy_from_slice(&(lba as u32).to_be_bytes()[1..]);
            cdb[4] = blocks as u8;
        }
        10 => {
            cdb[2..6].copy_from_slice(&(lba as u32).to_be_bytes());
            cdb[7..9].copy_from_slice(&(blocks as u16).to_be_bytes());
        }
        12 => {
            cdb[2..6].copy_from_slice(&(lba as u32).to_be_bytes());
            cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
        }
        _ => {
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        }
    }
    cdb
}

/// The same CDB with bits set.
pub(crate) fn with(mut cdb: Vec<u8>, byte: usize, bits: u8) -> Vec<u8> {
    cdb[byte] |= bits;
    cdb
}

/// `blocks` blocks of 512 bytes, no two alike.
pub(crate) fn pattern(blocks: usize) -> Vec<u8> {
    (0..blocks * 512).map(|n| (n % 251) as u8 ^ (n / 512) as u8).collect()
}
