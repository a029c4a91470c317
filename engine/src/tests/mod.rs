//! The engine driven over simulated reactors, with a store whose operations complete when the test says so.

mod access;
mod activity;
mod allegiance;
mod copy;
mod detached;
mod handover;
mod hop;
mod inventory;
mod limits;
mod masking;
mod ordering;
mod priority;
mod purses;
mod quiet;
mod ranges;
mod reservations;
mod retirement;
mod room;
mod simulation;
mod steps;
mod stuck;
mod task_management;
mod units;

use crate::{
    Admission, AttentionObserver, Command, CommandFrame, CommandSpec, Completion, Decoded, Device, Direction,
    Identity, Inventory, InventoryChange, Io, IoKind, LogicalUnit, Management, Nexus, Outcome, Plan, Request,
    Reservation, Responder, Session, Started, TargetPort, Timeouts,
};
use lunette_scsi::mode::BlockDescriptor;
use lunette_scsi::{Cdb, Lun, Naa, Opcode, Protocol, ServiceResponse, TaskAttribute, TaskManagementFunction};
use lunette_store::held::{self, Held};
use lunette_store::sim::Sim;
use lunette_store::{Cx, IoResult, Memory, ReactorId, Sg};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// READ(10) reads one byte of a [`Held`] store; service action 1 of A3h is a command of several steps.
struct Toy;

static READ: Command<Toy> = Command {
    spec: CommandSpec::new(Opcode::READ_10, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::In)
        .reservation(Reservation::Read)
        .timeouts(Timeouts::DATA)
        .limited()
        .when_ready(),
    decode: |_, _| Ok(Plan::Io(Io { kind: IoKind::Read, offset: 0, length: 1, granularity: 1 })),
};

static TWO_STEPS: Command<Toy> = Command {
    spec: CommandSpec::new(Opcode::VERIFY_10, &[0x2f, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None)
        .reservation(Reservation::Read)
        .timeouts(Timeouts::DATA)
        .limited()
        .when_ready(),
    decode: |toy, request| {
        let failed = toy.io_failed(
            &Io { kind: IoKind::Read, offset: 0, length: 1, granularity: 1 },
            lunette_store::IoError::Os(5),
        );
        let _ = request;
        Ok(Plan::run(0, move |run| async move {
            let memory = Rc::new(Memory::zeroed(1));
            run.read(0, &memory, 1).await.map_err(|_| failed)?;
            run.read(0, &memory, 1).await.map_err(|_| failed)?;
            Ok(())
        }))
    },
};

/// Gives back the priority and the reference number that it came with.
static ECHO: Command<Toy> = Command {
    spec: CommandSpec::new(Opcode::READ_BUFFER_10, &[0x3c, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::In),
    decode: |_, request| Ok(Plan::data(vec![request.priority, request.reference_number], 2)),
};

static COMMANDS: [&Command<Toy>; 12] = [
    &READ,
    &TWO_STEPS,
    &ECHO,
    &steps::TAKE_TURN,
    &steps::SLEEP,
    &steps::ABORT_OTHERS,
    &steps::SAVE,
    &steps::SETTLE,
    &ranges::CLAIM,
    &steps::DETACH,
    &steps::APART,
    &limits::SAME,
];

impl Device for Toy {
    fn peripheral(&self) -> u8 {
        0
    }

    fn commands(&self) -> Box<dyn Iterator<Item = &'static CommandSpec>> {
        Box::new(COMMANDS.iter().map(|command| &command.spec))
    }

    fn decode(&self, row: usize, request: &Request<'_>) -> Decoded {
        (COMMANDS[row].decode)(self, request)
    }

    fn block_descriptor(&self, long: bool) -> Option<BlockDescriptor> {
        let (blocks, block_length) = (1 << 20, 1);
        Some(match long {
            true => BlockDescriptor::Long { blocks, block_length },
            false => BlockDescriptor::short(blocks, block_length),
        })
    }
}

/// How many operations the store of a [`Rig`] holds at most on a reactor.
const ROOM: usize = 8;

/// What a transport was told.
#[derive(Debug, PartialEq)]
enum Event {
    Ended(u64, Completion),
    Managed(u64, ServiceResponse),
}

#[derive(Default)]
struct Log(RefCell<Vec<Event>>);

impl Responder for Log {
    fn command_ended(&self, cookie: u64, completion: Completion, _: &mut dyn Cx) {
        self.0.borrow_mut().push(Event::Ended(cookie, completion));
    }

    fn management_ended(&self, cookie: u64, response: ServiceResponse, _: &mut dyn Cx) {
        self.0.borrow_mut().push(Event::Managed(cookie, response));
    }
}

/// One initiator on one reactor.
struct Initiator {
    reactor: usize,
    session: Session,
    log: Rc<Log>,
    memory: Memory,
}

struct Rig {
    sim: Sim,
    port: Arc<TargetPort>,
    unit: Arc<LogicalUnit>,
    reactors: usize,
}

impl Rig {
    fn new(reactors: u16) -> Self {
        Self::with_unit(reactors, 1 << 20)
    }

    /// With a unit of so many bytes.
    fn with_unit(reactors: u16, size: u64) -> Self {
        let backing = Held::new(size, ROOM);
        let identity = Identity::new("1", Naa::locally_assigned(1));
        let unit = LogicalUnit::new("toy", identity, Box::new(Toy), Some(Arc::new(backing)));
        let port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, BTreeMap::from([(0, unit.clone())]));
        Self { sim: Sim::new(reactors), port, unit, reactors: reactors.into() }
    }

    /// A new nexus whose power-on unit attention has been reported.
    fn initiator(&mut self, reactor: usize) -> Initiator {
        let nexus = Nexus::new("initiator", self.port.clone());
        self.open(&nexus, reactor)
    }

    /// A session that has sent nothing.
    fn session(&mut self, nexus: &Arc<Nexus>, reactor: usize) -> Initiator {
        let log = Rc::<Log>::default();
        let responder: Rc<dyn Responder> = log.clone();
        let session = Session::open(nexus.clone(), Rc::downgrade(&responder), self.sim.cx(reactor));
        Initiator { reactor, session, log, memory: Memory::zeroed(1) }
    }

    fn open(&mut self, nexus: &Arc<Nexus>, reactor: usize) -> Initiator {
        let initiator = self.session(nexus, reactor);
        self.send(&initiator, 0, "simple", &READ.spec);
        self.complete_all();
        initiator.log.0.borrow_mut().clear();
        initiator
    }

    fn send(
        &mut self,
        from: &Initiator,
        tag: u64,
        attribute: &str,
        command: &CommandSpec,
    ) -> Option<Outcome> {
        let attribute = match attribute {
            "simple" => TaskAttribute::Simple,
            "ordered" => TaskAttribute::Ordered,
            _ => TaskAttribute::HeadOfQueue,
        };
        let mut bytes = [0; 10];
        bytes[0] = command.opcode.0;
        let cdb = Cdb::new(&bytes).unwrap();
        let frame =
            CommandFrame { tag, attribute, cookie: tag, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let cx = self.sim.cx(from.reactor);
        match from.session.execute(&frame, Sg::empty(), Sg::new(&[from.memory.seg()]), cx) {
            Started::Ended(outcome) => Some(outcome),
            Started::Pending => None,
        }
    }

    fn read(&mut self, from: &Initiator, tag: u64, attribute: &str) {
        assert_eq!(self.send(from, tag, attribute, &READ.spec), None);
    }

    fn manage(&mut self, from: &Initiator, function: TaskManagementFunction, tag: u64) {
        let management = Management { function, lun: Lun::from_index(0), tag };
        from.session.manage(&management, 1000, self.sim.cx(from.reactor));
    }

    /// How many operations the store holds.
    fn at_store(&mut self) -> usize {
        self.sim.settle();
        self.held().iter().sum()
    }

    /// How many operations the store holds on each reactor.
    fn held(&mut self) -> Vec<usize> {
        (0..self.reactors).map(|reactor| held::count(self.sim.cx(reactor))).collect()
    }

    /// Completes the operation with this number, those of the first reactor first, if there is one.
    fn complete(&mut self, mut which: usize, result: IoResult) {
        for (reactor, count) in self.held().into_iter().enumerate() {
            let cx = self.sim.cx(reactor);
            if let Some(operation) = held::take(which, cx) {
                return cx.complete(operation.id, result);
            }
            which -= count;
        }
    }

    /// Completes the oldest operation of the first reactor that has one.
    fn complete_one(&mut self, result: IoResult) {
        self.complete(0, result);
        self.sim.settle();
    }

    /// Completes the youngest operation of the last reactor that has one.
    fn complete_the_last(&mut self) {
        let last = self.at_store() - 1;
        self.complete(last, Ok(1));
        self.sim.settle();
    }

    fn complete_all(&mut self) {
        while self.at_store() > 0 {
            self.complete_one(Ok(1));
        }
    }

    fn pass(&mut self, time: std::time::Duration) {
        self.sim.advance(time);
        self.sim.settle();
    }
}

impl Initiator {
    /// The tags of the commands that ended with GOOD, in order; forgets everything reported so far.
    fn good(&self) -> Vec<u64> {
        let events = self.log.0.take();
        let good = events.into_iter().map(|event| match event {
            Event::Ended(tag, Completion::Ended(outcome)) if outcome.sense.is_none() => tag,
            other => panic!("{other:?}"),
        });
        good.collect()
    }

    fn events(&self) -> Vec<Event> {
        self.log.0.take()
    }
}
