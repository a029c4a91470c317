//! Every command of a disk, one after the other, with lists that are made for it and then spoilt.

use crate::disks::{self, check_outcome};
use crate::input::Input;
use crate::lists;
use lunette_device_disk::{Disk, Options};
use lunette_engine::{
    CommandFrame, CommandSpec, Completion, Direction, Identity, LogicalUnit, Management, Nexus, Outcome,
    PageControl, RamKeeper, Responder, Session, Started, TargetPort, spc,
};
use lunette_scsi::{
    Cdb, Lun, Naa, Opcode, Protocol, Sense, SenseKey, SenseKeySpecific, ServiceResponse, Status,
    TaskManagementFunction,
};
use lunette_store::ram::Ram;
use lunette_store::sim::Sim;
use lunette_store::{Backing, Caps, Cx, IoError, IoId, Memory, Op, Room, Sg, Store, Submit};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIZE: u64 = 128 << 10;
/// What memory around and behind what is moved holds.
const FRESH: u8 = 0xa5;
/// Bytes around the initiator's buffers.
const MARGIN: usize = 64;

/// Commands of three initiators over two ports for two disks, with lists for PERSISTENT RESERVE OUT, EXTENDED COPY, MODE SELECT,
/// LOG SELECT, UNMAP, FORMAT UNIT, SANITIZE and so on; resets, lost nexuses and restarts in between.
///
/// Each command ends once, in time, with an outcome that agrees with its buffers, and leaves all other memory alone. A field
/// pointer points into the CDB, or into what was sent. A command that is refused for its CDB or list has changed neither
/// mode pages nor saved state nor medium. The store is only asked for what it can do. What was saved can be restored.
pub fn commands(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() {
        match input.below(32) {
            0 => rig.reset(&mut input),
            1 => rig.lose(&mut input),
            2 => rig.restart(),
            3 => rig.pass(Duration::from_secs(11)),
            // What was saved may leave little that can be done.
            4 | 5 => {
                rig.served.iter_mut().for_each(|served| served.keeper = Arc::default());
                rig.restart();
            }
            n => rig.send(n > 10, &mut input),
        }
    }
    rig.restart();
    for from in 0..INITIATORS {
        // Whatever it says.
        rig.execute(from, 0, &Cdb::new(&[0; 6]).expect("a CDB"), &[], 0);
    }
}

const INITIATORS: usize = 3;

/// A store that is asked for nothing that it cannot do, and counts what changes it.
#[derive(Clone)]
struct Boundary {
    ram: Arc<Ram>,
    caps: Caps,
    changes: Arc<AtomicU64>,
}

struct Attached(Boundary, Rc<dyn Store>);

impl Backing for Boundary {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn room(&self) -> Result<Room, IoError> {
        Ok(Room { free: SIZE, used: 0 })
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(Attached(self.clone(), self.ram.attach(cx)))
    }
}

impl Store for Attached {
    fn caps(&self) -> &Caps {
        &self.0.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let (offset, length) = op.range();
        let block = u64::from(self.0.caps.logical_block);
        assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE), "{op:?} is not inside");
        if !matches!(op, Op::Seek { .. }) {
            assert!((offset | length).is_multiple_of(block), "{op:?} is not of whole blocks");
        }
        assert!(op.sg().len() <= self.0.caps.max_transfer, "{op:?} is too long");
        if matches!(op, Op::Write { .. } | Op::Zero { .. } | Op::Discard { .. } | Op::Copy { .. }) {
            self.0.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.1.submit(op, id, cx)
    }
}

/// One disk, which can be made anew over what it has left.
struct Served {
    number: u64,
    options: Options,
    store: Boundary,
    keeper: Arc<RamKeeper>,
}

impl Served {
    fn new(number: u64, options: Options) -> Self {
        let ram = Ram::new(SIZE).expect("memory for a disk");
        let caps = Caps {
            logical_block: options.block_length,
            volatile_cache: true,
            max_transfer: 32 << 10,
            ..Backing::caps(&ram).clone()
        };
        let store = Boundary { ram: Arc::new(ram), caps, changes: Arc::default() };
        Self { number, options, store, keeper: Arc::default() }
    }

    fn unit(&self) -> Arc<LogicalUnit> {
        let disk = Disk::new(&self.options, self.store.caps()).expect("suits the store");
        let identity = Identity::new(self.number.to_string(), Naa::locally_assigned(self.number));
        let unit = LogicalUnit::new("disk", identity, Box::new(disk), Some(Arc::new(self.store.clone())));
        unit.keep_state(self.keeper.clone()).expect("what was saved can be restored");
        unit
    }
}

#[derive(Default)]
struct Log(RefCell<Vec<Completion>>);

impl Responder for Log {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        assert_eq!(cookie, COOKIE);
        self.0.borrow_mut().push(completion);
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

const COOKIE: u64 = 7;

/// What a command that is refused must not change.
#[derive(PartialEq)]
struct State {
    mode_pages: Vec<Option<Vec<u8>>>,
    saved: Option<Vec<u8>>,
    /// How often the medium was changed.
    changes: u64,
}

struct Rig {
    sim: Sim,
    served: [Served; 2],
    units: Vec<Arc<LogicalUnit>>,
    ports: Vec<Arc<TargetPort>>,
    sessions: Vec<Session>,
    log: Rc<Log>,
    commands: Vec<&'static CommandSpec>,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let removable = input.flag();
        let small = Options { removable, ..Options::default() };
        let large = Options { block_length: 4096, thin: false, ..Options::default() };
        let mut rig = Self {
            sim: Sim::new(1),
            served: [Served::new(1, small), Served::new(2, large)],
            units: Vec::new(),
            ports: Vec::new(),
            sessions: Vec::new(),
            log: Rc::default(),
            commands: Vec::new(),
        };
        rig.begin();
        rig
    }

    /// Begins to serve the disks, and has all initiators log in.
    fn begin(&mut self) {
        self.units = self.served.iter().map(Served::unit).collect();
        let own = self.units.iter().flat_map(|unit| unit.device().commands());
        self.commands = own.chain(spc::COMMANDS.iter().map(|row| &row.spec)).collect();
        let port = |group: u16| {
            let name = format!("iqn.2026-11.dev.lunette:fuzz,t,0x000{group}");
            let units = (0..).zip(self.units.iter().cloned()).collect();
            TargetPort::in_group(group, name, group, Protocol::ISCSI, units)
        };
        self.ports = vec![port(1), port(2)];
        self.sessions = (0..INITIATORS).map(|from| self.log_in(from)).collect();
        let poster = self.sim.cx(0).poster();
        self.units.iter().for_each(|unit| unit.resume(&*poster));
        self.sim.settle();
        for from in 0..INITIATORS {
            for lun in 0..self.units.len() {
                self.execute(from, lun, &Cdb::new(&[0; 6]).expect("a CDB"), &[], 0);
            }
        }
    }

    /// The last one comes by the second port.
    fn log_in(&mut self, from: usize) -> Session {
        let port = self.ports[usize::from(from == INITIATORS - 1)].clone();
        let responder: Rc<dyn Responder> = self.log.clone();
        Session::open(Nexus::new(lists::INITIATORS[from], port), Rc::downgrade(&responder), self.sim.cx(0))
    }

    fn reset(&mut self, input: &mut Input<'_>) {
        use TaskManagementFunction as F;
        let function = input.pick(&[F::LogicalUnitReset, F::ITNexusReset, F::TargetWarmReset]);
        let (from, lun) = (input.below(INITIATORS), Lun::from_index(input.below(2) as u32));
        self.sessions[from].manage(&Management { function, lun, tag: 1 }, 1, self.sim.cx(0));
        self.sim.settle();
    }

    fn lose(&mut self, input: &mut Input<'_>) {
        let from = input.below(INITIATORS);
        self.sessions[from].close(1, self.sim.cx(0));
        self.sim.settle();
        self.sessions[from] = self.log_in(from);
    }

    /// The program ends, whatever goes on in the background, and begins again.
    fn restart(&mut self) {
        self.sessions.clear();
        self.sim = Sim::new(1);
        self.begin();
    }

    fn pass(&mut self, time: Duration) {
        self.sim.advance(time);
        self.sim.settle();
    }

    fn send(&mut self, with_list: bool, input: &mut Input<'_>) {
        let (from, lun) = (input.below(INITIATORS), input.below(self.units.len()));
        if !input.one_in(8) {
            // Most commands should come to more than a unit attention.
            self.execute(from, lun, &Cdb::new(&[0; 6]).expect("a CDB"), &[], 0);
        }
        if !with_list {
            let (cdb, direction) = disks::cdb(&self.commands, input);
            let out = direction != Some(Direction::In);
            let length = if out { input.pick(&[0, 8, 24, 512, 4096]) } else { 0 };
            let data_out = input.pattern(length);
            let room = input.pick(&[0, 4, 36, 255, 4096]);
            self.execute(from, lun, &cdb, &data_out, room);
            return;
        }
        let takes_data = |spec: &&&CommandSpec| matches!(spec.direction, Direction::Out | Direction::Both);
        let rows: Vec<_> = self.commands.iter().filter(takes_data).copied().collect();
        let spec = input.pick(&rows);
        let known = lists::list(spec.opcode, spec.service_action, &self.units[lun], input);
        let (cdb, list) = match known {
            Some(mut list) => {
                lists::spoil(&mut list, input);
                (with_length(spec, list.len(), input), list)
            }
            None => blocks(spec, &self.units[lun], input),
        };
        let sent = if input.one_in(16) { input.below(list.len() + 1) } else { list.len() };
        let room = if spec.direction == Direction::Both { list.len() } else { 0 };
        self.execute(from, lun, &cdb, &list[..sent], room);
    }

    /// Carries a command out and looks at everything that must be true of it.
    fn execute(&mut self, from: usize, lun: usize, cdb: &Cdb, list: &[u8], room: usize) -> Outcome {
        let before = self.state();
        let data_out = Memory::from_bytes(&framed(list));
        let data_in = Memory::from_bytes(&framed(&vec![FRESH; room]));
        let (from_segs, to_segs) =
            ([data_out.seg().part(MARGIN, list.len())], [data_in.seg().part(MARGIN, room)]);
        let sent = list.len() as u64;
        let frame = CommandFrame {
            cookie: COOKIE,
            data_out: sent,
            ..CommandFrame::new(Lun::from_index(lun as u32), cdb)
        };
        let (from_sg, to_sg) = (Sg::new(&from_segs), Sg::new(&to_segs));
        let outcome = match self.sessions[from].execute(&frame, from_sg, to_sg, self.sim.cx(0)) {
            Started::Ended(outcome) => outcome,
            Started::Pending => self.wait(cdb),
        };
        self.sim.settle();
        assert!(self.log.0.borrow().is_empty(), "{cdb} ended twice");
        check_outcome(&outcome, sent, room as u64);
        assert_eq!(data_out.to_vec(), framed(list), "{cdb} has written to data-out");
        let data_in = data_in.to_vec();
        let moved = MARGIN..MARGIN + outcome.moved_in as usize;
        let around = data_in[..moved.start].iter().chain(&data_in[moved.end..]);
        assert!(around.copied().all(|byte| byte == FRESH), "{cdb} has written beside data-in");
        if let Some(sense) = &outcome.sense {
            check_pointer(sense, cdb, list.len());
            let refused = sense.key == SenseKey::ILLEGAL_REQUEST && outcome.status == Status::CHECK_CONDITION;
            let unchanged = before.is_none() || before == self.state();
            assert!(!refused || unchanged, "{cdb} was refused, but changed something: {sense:?}");
        }
        outcome
    }

    /// The end of a command that is under way.
    fn wait(&mut self, cdb: &Cdb) -> Outcome {
        for _ in 0..20_000 {
            self.sim.settle();
            if let Some(completion) = self.log.0.borrow_mut().pop() {
                let Completion::Ended(outcome) = completion else { panic!("nothing aborts {cdb}") };
                return outcome;
            }
            self.sim.advance(Duration::from_millis(1));
        }
        panic!("{cdb} never ends");
    }

    /// The state of both disks; `None` while work in the background may change it at any time.
    fn state(&self) -> Option<Vec<State>> {
        let pages = |unit: &Arc<LogicalUnit>| {
            let codes = unit.mode_page_codes();
            let all = [PageControl::Current, PageControl::Saved];
            all.iter().flat_map(|control| codes.iter().map(|code| unit.mode_page(*code, *control))).collect()
        };
        let state = |(unit, served): (&Arc<LogicalUnit>, &Served)| State {
            mode_pages: pages(unit),
            saved: served.keeper.state(),
            changes: served.store.changes.load(Ordering::Relaxed),
        };
        let quiet = self.units.iter().all(|unit| unit.ready().is_ok());
        quiet.then(|| self.units.iter().zip(&self.served).map(state).collect())
    }
}

/// The bytes with a margin on both sides.
fn framed(bytes: &[u8]) -> Vec<u8> {
    [&[FRESH; MARGIN][..], bytes, &[FRESH; MARGIN]].concat()
}

/// A field pointer points at something that was sent.
fn check_pointer(sense: &Sense, cdb: &Cdb, list: usize) {
    match sense.sense_key_specific {
        Some(SenseKeySpecific::FieldPointer { in_cdb: true, byte, .. }) => {
            // A CDB that is too short ends where something is missing.
            assert!(usize::from(byte) <= cdb.len(), "{cdb}: {sense:?}");
        }
        Some(SenseKeySpecific::FieldPointer { in_cdb: false, byte, .. }) => {
            assert!(usize::from(byte) < list, "{cdb} with {list} bytes: {sense:?}");
        }
        Some(SenseKeySpecific::SegmentPointer { in_segment_descriptor: false, byte, .. }) => {
            assert!(usize::from(byte) < list, "{cdb} with {list} bytes: {sense:?}");
        }
        _ => {}
    }
}

/// A CDB for a list of this length, now and then of another; all other bits that the command knows are anything.
fn with_length(spec: &CommandSpec, length: usize, input: &mut Input<'_>) -> Cdb {
    let mut bytes: Vec<u8> = spec.usage.iter().map(|usage| usage & input.u8()).collect();
    bytes[0] = spec.opcode.0;
    if let Some(action) = spec.service_action {
        bytes[1] = bytes[1] & 0xe0 & spec.usage[1] | action as u8;
    }
    match spec.opcode {
        // PF; without it there is no list.
        Opcode::MODE_SELECT_6 | Opcode::MODE_SELECT_10 | Opcode::SEND_DIAGNOSTIC if !input.one_in(8) => {
            bytes[1] = bytes[1] & 0x01 | 0x10;
        }
        // Cumulative values of the pages that the list names.
        Opcode::LOG_SELECT if !input.one_in(4) => bytes[1..4].copy_from_slice(&[0, 0x40, 0]),
        // The length of the list is said by LONGLIST alone.
        Opcode::FORMAT_UNIT if !input.one_in(4) => bytes[1] = bytes[1] & 0x20 | 0x10,
        // Scope, and a type that there is.
        Opcode::PERSISTENT_RESERVE_OUT if !input.one_in(8) => bytes[2] = input.pick(&[1, 3, 5, 6, 7, 8]),
        Opcode::WRITE_BUFFER if !input.one_in(8) => {
            bytes[1..6].copy_from_slice(&[input.pick(&[0x02, 0x0a]), 0, 0, input.u8(), 0]);
        }
        _ => {}
    }
    if let Some((at, width)) = spec.opcode.data_out_length_at() {
        let length = if input.one_in(16) { input.u16().into() } else { length as u32 };
        bytes[at..at + width].copy_from_slice(&length.to_be_bytes()[4 - width..]);
    }
    Cdb::new(&bytes).expect("1 to 32 bytes")
}

/// A command that writes or compares blocks, with its data.
fn blocks(spec: &CommandSpec, unit: &LogicalUnit, input: &mut Input<'_>) -> (Cdb, Vec<u8>) {
    let block = match unit.device().block_descriptor(true) {
        Some(lunette_scsi::mode::BlockDescriptor::Long { block_length, .. }) => block_length as usize,
        _ => 512,
    };
    let count = input.below(6);
    let mut bytes = vec![0; spec.usage.len()];
    bytes[0] = spec.opcode.0;
    bytes[1] = spec.usage[1] & input.u8();
    if let Some((at, width)) = spec.opcode.data_out_length_at() {
        bytes[at..at + width].copy_from_slice(&(count as u32).to_be_bytes()[4 - width..]);
    }
    let lba_at = match bytes.len() {
        6 => 3,
        10 | 12 => 5,
        _ => 9,
    };
    bytes[lba_at] = input.u8();
    let blocks = match spec.opcode {
        Opcode::COMPARE_AND_WRITE => 2 * count,
        Opcode::WRITE_SAME_10 | Opcode::WRITE_SAME_16 => 1,
        _ => count,
    };
    (Cdb::new(&bytes).expect("1 to 32 bytes"), input.pattern(blocks * block))
}
