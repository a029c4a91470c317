use super::ranges::CLAIM;
use super::*;
use crate::NotReady;
use TaskManagementFunction as Function;
use lunette_scsi::{
    AccessState, AdditionalSense, Designator, Identifier, ReservationType, Sense, SenseKey, SenseKeySpecific,
    service_action,
};
use lunette_store::{Backing, Caps, IoError, Store};
use std::os::fd::RawFd;

const CHUNK: u32 = 256 << 10;

/// Two units, each on a reactor of its own.
struct Pair {
    rig: Rig,
    first: Initiator,
    second: Initiator,
    /// Data-out of commands.
    kept: Vec<Memory>,
}

fn name(number: u64) -> Naa {
    Naa::locally_assigned(number)
}

impl Pair {
    fn new() -> Self {
        Self::over(|backing| Arc::new(backing))
    }

    fn over(wrapped: fn(Held) -> Arc<dyn Backing>) -> Self {
        let mut rig = Rig::new(2);
        let units = [1, 2].map(|number: u64| {
            let identity = Identity::new(number.to_string(), name(number));
            LogicalUnit::new("toy", identity, Box::new(Toy), Some(wrapped(Held::new(1 << 20, ROOM))))
        });
        rig.unit = units[0].clone();
        for (unit, reactor) in units.iter().zip(0..) {
            unit.live_on([ReactorId(reactor)]);
        }
        let seen = (0..).zip(units.iter().cloned()).collect();
        let port = TargetPort::new("toy,t,0x0002", 2, Protocol::ISCSI, seen);
        let open = |rig: &mut Rig, name: &str, reactor| {
            let nexus = Nexus::new(name, port.clone());
            rig.session(&nexus, reactor)
        };
        let (first, second) = (open(&mut rig, "first", 0), open(&mut rig, "second", 1));
        let mut pair = Self { rig, first, second, kept: Vec::new() };
        for lun in [0, 1] {
            // Their power-on unit attentions.
            pair.send(0, lun, 0, "simple", &[0; 6], &[]);
            pair.send(1, lun, 0, "simple", &[0; 6], &[]);
        }
        pair.rig.complete_all();
        pair.first.events();
        pair.second.events();
        pair
    }

    fn initiator(&self, number: usize) -> &Initiator {
        if number == 0 { &self.first } else { &self.second }
    }

    /// Sends a command; its end, also one that comes at once, is among the initiator's events.
    fn send(&mut self, from: usize, lun: u32, tag: u64, attribute: &str, cdb: &[u8], data_out: &[u8]) {
        let cdb = Cdb::new(cdb).unwrap();
        let attribute = if attribute == "ordered" { TaskAttribute::Ordered } else { TaskAttribute::Simple };
        let sent = data_out.len() as u64;
        let data_out = Memory::from_bytes(data_out);
        let frame = CommandFrame {
            tag,
            attribute,
            cookie: tag,
            data_out: sent,
            ..CommandFrame::new(Lun::from_index(lun), &cdb)
        };
        let initiator = if from == 0 { &self.first } else { &self.second };
        let (out, into) = ([data_out.seg()], [initiator.memory.seg()]);
        let (out, into) = (Sg::new(&out), Sg::new(&into));
        let cx = self.rig.sim.cx(initiator.reactor);
        if let Started::Ended(outcome) = initiator.session.execute(&frame, out, into, cx) {
            initiator.log.0.borrow_mut().push(Event::Ended(tag, Completion::Ended(outcome)));
        }
        self.rig.sim.settle();
        self.kept.push(data_out);
    }

    /// A copy of `length` bytes by a command for the unit `lun`, from `source` to `destination`.
    fn copy(&mut self, from: usize, lun: u32, tag: u64, attribute: &str, ends: [u16; 2], length: u32) {
        self.copy_as(from, lun, tag, attribute, &list(ends, length));
    }

    /// The same with a list.
    fn copy_as(&mut self, from: usize, lun: u32, tag: u64, attribute: &str, list: &[u8]) {
        let mut cdb = [0; 16];
        cdb[0] = 0x83;
        cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
        self.send(from, lun, tag, attribute, &cdb, list);
    }

    /// With which sense key the copy `id` of the first unit has failed, if that is known.
    fn failure_details(&mut self, id: u8) -> Option<SenseKey> {
        self.first.memory = Memory::zeroed(80);
        let action = service_action::RECEIVE_COPY_FAILURE_DETAILS_LID1 as u8;
        self.send(0, 0, 9, "simple", &[0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80, 0, 0], &[]);
        assert_eq!(self.first.good(), [9]);
        let details = self.first.memory.to_vec();
        (details[3] > 0).then(|| SenseKey(details[62] & 0x0f))
    }

    /// PERSISTENT RESERVE OUT for the second unit.
    fn reserve_out(&mut self, from: usize, tag: u64, action: u16, key: u64, action_key: u64) {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&key.to_be_bytes());
        list[8..16].copy_from_slice(&action_key.to_be_bytes());
        let cdb = [0x5f, action as u8, ReservationType::WRITE_EXCLUSIVE.0, 0, 0, 0, 0, 0, 24, 0];
        self.send(from, 1, tag, "simple", &cdb, &list);
    }

    /// The tag of the one command that has ended, and its sense data.
    fn failure(&self, from: usize) -> (u64, Sense) {
        match &self.initiator(from).events()[..] {
            [Event::Ended(tag, Completion::Ended(outcome))] => (*tag, **outcome.sense.as_ref().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self, from: usize) -> (u64, SenseKey, AdditionalSense) {
        let (tag, sense) = self.failure(from);
        (tag, sense.key, sense.additional)
    }
}

/// A list without an identifier that names units 1, 2 and 3, the last of which is not seen.
fn list([source, destination]: [u16; 2], length: u32) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[1] = 0x18;
    list[3] = 3 * 32;
    list[11] = 32;
    for number in 1..=3 {
        list.extend([0xe4, 0, 0, 0]);
        let start = list.len() - 4;
        list.extend(Designator::logical_unit(Identifier::Naa(name(number))).encode());
        list.resize(start + 32, 0);
        list[start + 31] = 1;
    }
    list.extend([0x0a, 0, 0, 0x1c]);
    list.extend(source.to_be_bytes());
    list.extend(destination.to_be_bytes());
    list.extend(length.to_be_bytes());
    list.extend([0; 20]);
    list
}

/// A store whose bytes are in a file, as far as anybody can see, and safe as soon as they are written.
struct InFile {
    held: Held,
    caps: Caps,
}

impl InFile {
    fn over(held: Held) -> Arc<dyn Backing> {
        let caps = Caps { volatile_cache: false, ..Backing::caps(&held).clone() };
        Arc::new(Self { held, caps })
    }
}

impl Backing for InFile {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(-1)
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        self.held.attach(cx)
    }
}

#[test]
fn files_hand_over_what_they_can() {
    let mut pair = Pair::over(InFile::over);
    pair.copy(0, 0, 1, "simple", [0, 1], 3 * CHUNK);
    assert_eq!(pair.rig.at_store(), 1, "both steps in one");
    pair.rig.complete_one(Ok(u64::from(CHUNK)));
    pair.rig.complete_one(Err(IoError::Unsupported));
    for _ in 0..4 {
        assert_eq!((pair.rig.at_store(), pair.first.events()), (1, vec![]), "a read or a write");
        pair.rig.complete_one(Ok(1));
    }
    assert_eq!((pair.rig.at_store(), pair.first.good()), (0, vec![1]));
    pair.copy(0, 0, 2, "simple", [0, 1], 2 * CHUNK);
    pair.rig.complete_one(Ok(u64::from(CHUNK)));
    pair.rig.complete_one(Err(IoError::NoSpace));
    let (_, sense) = pair.failure(0);
    assert_eq!((sense.additional, sense.information), (FAILED, Some(CHUNK.into())));
}

/// A copy waits for one of its ranges only while it has none of a later unit: the claims between these two would close a ring.
#[test]
fn files_that_cross_do_not_wait_for_each_other() {
    let mut pair = Pair::over(InFile::over);
    const CLAIM_10: [u8; 10] = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    pair.send(0, 0, 1, "simple", &CLAIM_10, &[]);
    pair.copy(0, 0, 2, "simple", [0, 1], 1);
    pair.send(0, 0, 3, "simple", &CLAIM_10, &[]);
    pair.copy(1, 1, 4, "simple", [1, 0], 1);
    pair.send(1, 1, 5, "simple", &CLAIM_10, &[]);
    pair.rig.complete_all();
    let (mut first, mut second) = (pair.first.good(), pair.second.good());
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!((first, second), (vec![1, 2, 3], vec![4, 5]));
}

const FAILED: AdditionalSense = AdditionalSense::THIRD_PARTY_DEVICE_FAILURE;
const READ_10: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn copies_that_cross_wait_at_no_barrier() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "ordered", [0, 1], 3 * CHUNK);
    pair.copy(1, 1, 2, "ordered", [1, 0], 3 * CHUNK);
    pair.send(0, 1, 3, "ordered", &READ_10, &[]);
    pair.send(1, 0, 4, "ordered", &READ_10, &[]);
    assert_eq!(pair.rig.at_store(), 2, "both copies, and nothing else");
    pair.rig.complete_all();
    let (first, mut second) = (pair.first.good(), pair.second.good());
    second.sort_unstable();
    assert_eq!((first, second), (vec![1, 3], vec![2, 4]));
}

#[test]
fn others_go_on_between_chunks() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], 2 * CHUNK);
    pair.send(1, 1, 2, "simple", &READ_10, &[]);
    assert_eq!(pair.rig.at_store(), 2);
    pair.rig.complete_the_last();
    assert_eq!((pair.first.good(), pair.second.good()), (vec![], vec![2]));
    pair.rig.complete_all();
    assert_eq!(pair.first.good(), [1]);
}

#[test]
fn a_reset_of_the_other_unit_ends_a_copy_when_nothing_is_under_way_there() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], 2 * CHUNK);
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.rig.at_store(), 1, "the first write");
    let reset = Management { function: Function::LogicalUnitReset, lun: Lun::from_index(1), tag: 0 };
    pair.second.session.manage(&reset, 1000, pair.rig.sim.cx(1));
    assert_eq!(pair.rig.at_store(), 1);
    assert_eq!((pair.first.events(), pair.second.events()), (vec![], vec![]));
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.rig.at_store(), 0);
    assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, FAILED));
    assert_eq!(pair.second.events(), [Event::Managed(1000, ServiceResponse::FunctionComplete)]);
}

#[test]
fn a_reset_of_the_other_unit_ends_a_copy_that_has_not_come_to_it() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], CHUNK);
    assert_eq!(pair.rig.at_store(), 1, "the read");
    let reset = Management { function: Function::LogicalUnitReset, lun: Lun::from_index(1), tag: 0 };
    pair.second.session.manage(&reset, 1000, pair.rig.sim.cx(1));
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.rig.at_store(), 0);
    assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, FAILED));
}

#[test]
fn how_a_copy_has_failed_is_known_unless_it_was_aborted_itself() {
    let mut pair = Pair::new();
    let (id, mut known) = (5, list([0, 1], CHUNK));
    known[..2].copy_from_slice(&[id, 0]);
    pair.copy_as(0, 0, 1, "simple", &known);
    let reset = Management { function: Function::LogicalUnitReset, lun: Lun::from_index(1), tag: 0 };
    pair.second.session.manage(&reset, 1000, pair.rig.sim.cx(1));
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, FAILED));
    assert_eq!((pair.failure_details(id), pair.failure_details(id)), (Some(SenseKey::COPY_ABORTED), None));
    pair.copy_as(0, 0, 1, "simple", &known);
    pair.rig.manage(&pair.first, Function::AbortTask, 1);
    pair.rig.complete_one(Ok(1));
    pair.first.events();
    assert_eq!(pair.failure_details(id), None);
}

#[test]
fn preempt_and_abort_is_answered_when_nothing_of_a_copy_is_under_way() {
    let mut pair = Pair::new();
    pair.reserve_out(0, 1, service_action::REGISTER, 0, 1);
    pair.reserve_out(1, 1, service_action::REGISTER, 0, 2);
    assert_eq!((pair.first.good(), pair.second.good()), (vec![1], vec![1]));
    for [source, destination] in [[0, 1], [1, 0]] {
        pair.copy(0, 0, 2, "simple", [source, destination], 2 * CHUNK);
        if destination == 1 {
            pair.rig.complete_one(Ok(1));
        }
        assert_eq!(pair.rig.at_store(), 1, "an operation on the second unit");
        pair.reserve_out(1, 3, service_action::PREEMPT_AND_ABORT, 2, 1);
        assert_eq!((pair.first.events(), pair.second.events()), (vec![], vec![]));
        pair.rig.complete_one(Ok(1));
        assert_eq!(pair.rig.at_store(), 0);
        assert_eq!(pair.refusal(0), (2, SenseKey::COPY_ABORTED, FAILED));
        assert_eq!(pair.second.good(), [3]);
        // For the next time, behind the unit attention.
        pair.reserve_out(0, 4, service_action::REGISTER, 0, 1);
        pair.reserve_out(0, 5, service_action::REGISTER, 0, 1);
        pair.first.events();
    }
}

#[test]
fn a_change_of_access_is_heeded_at_every_chunk() {
    let mut pair = Pair::new();
    let units = pair.first.session.nexus().inventory().units().clone();
    for (lun, state) in [(1, AccessState::STANDBY), (0, AccessState::UNAVAILABLE)] {
        pair.copy(0, 0, 1, "simple", [0, 1], 3 * CHUNK);
        pair.rig.complete_one(Ok(1));
        pair.rig.complete_one(Ok(1));
        units[&lun].set_access(1, state).unwrap();
        assert_eq!(pair.rig.at_store(), 1, "what has begun ends");
        pair.rig.complete_all();
        let (tag, sense) = pair.failure(0);
        let not_reachable = AdditionalSense::COPY_TARGET_DEVICE_NOT_REACHABLE;
        assert_eq!((tag, sense.key, sense.additional), (1, SenseKey::COPY_ABORTED, not_reachable), "{state}");
        units[&lun].set_access(1, AccessState::ACTIVE_OPTIMIZED).unwrap();
        pair.send(0, 0, 2, "simple", &READ_10, &[]);
        pair.rig.complete_all();
        pair.first.events();
    }
}

#[test]
fn a_copy_that_fails_says_where() {
    let described_at =
        |byte| SenseKeySpecific::SegmentPointer { in_segment_descriptor: false, byte, bit: None };
    for (operations, residual, end) in
        [(0, None, 0), (1, None, 1), (2, Some(2 * CHUNK), 0), (5, Some(CHUNK), 1)]
    {
        let mut pair = Pair::new();
        pair.copy(0, 0, 1, "simple", [0, 1], 3 * CHUNK);
        for _ in 0..operations {
            pair.rig.complete_one(Ok(1));
        }
        pair.rig.complete_one(Err(IoError::Os(5)));
        let (_, sense) = pair.failure(0);
        assert_eq!((sense.key, sense.additional), (SenseKey::COPY_ABORTED, FAILED));
        assert_eq!(sense.information, residual.map(u64::from), "{operations}");
        assert_eq!(sense.sense_key_specific, Some(described_at(16 + 32 * end)), "{operations}");
    }
}

#[test]
fn a_task_management_function_ends_a_copy() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], 2 * CHUNK);
    // It is no task of the other unit.
    let clear = Management { function: Function::ClearTaskSet, lun: Lun::from_index(1), tag: 0 };
    pair.second.session.manage(&clear, 1000, pair.rig.sim.cx(1));
    pair.rig.complete_one(Ok(1));
    assert_eq!((pair.rig.at_store(), pair.first.events()), (1, vec![]));
    pair.rig.manage(&pair.first, Function::AbortTask, 1);
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.rig.at_store(), 0);
    let aborted = Event::Ended(1, Completion::Aborted(crate::Aborted::ByItsNexus));
    assert_eq!(pair.first.events()[0], aborted);
}

#[test]
fn reservations_are_heeded_at_every_chunk() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], 2 * CHUNK);
    pair.rig.complete_one(Ok(1));
    pair.rig.complete_one(Ok(1));
    pair.send(1, 1, 2, "simple", &[0x16, 0, 0, 0, 0, 0], &[]);
    assert_eq!((pair.second.good(), pair.rig.at_store()), (vec![2], 1));
    pair.rig.complete_all();
    assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, FAILED));
    // Who has reserved it copies on.
    pair.copy(1, 1, 3, "simple", [0, 1], 1);
    pair.rig.complete_all();
    assert_eq!(pair.second.good(), [3]);
}

#[test]
fn a_claim_that_keeps_a_unit_busy_is_not_waited_for() {
    let mut pair = Pair::new();
    pair.copy(0, 0, 1, "simple", [0, 1], CHUNK);
    pair.send(1, 1, 2, "simple", CLAIM.spec.usage, &[]);
    assert_eq!(pair.rig.at_store(), 2, "the copy's read, and that of who has the claim");
    let unit = pair.first.session.nexus().inventory().units().values().nth(1).unwrap().clone();
    unit.set_not_ready(Some(NotReady::because(AdditionalSense::LOGICAL_UNIT_NOT_READY_FORMAT_IN_PROGRESS)));
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, FAILED));
    assert_eq!((pair.rig.at_store(), pair.second.events()), (1, vec![]));
    pair.rig.complete_one(Ok(1));
    assert_eq!(pair.second.good(), [2]);
}

#[test]
fn units_that_the_nexus_does_not_see_are_out_of_reach() {
    let mut pair = Pair::new();
    for ends in [[2, 0], [0, 2]] {
        pair.copy(0, 0, 1, "simple", ends, 1);
        let unreachable = AdditionalSense::COPY_TARGET_DEVICE_NOT_REACHABLE;
        assert_eq!(pair.refusal(0), (1, SenseKey::COPY_ABORTED, unreachable));
    }
    pair.copy(0, 0, 2, "simple", [0, 3], 1);
    let unreachable = AdditionalSense::UNREACHABLE_COPY_TARGET;
    assert_eq!(pair.refusal(0), (2, SenseKey::COPY_ABORTED, unreachable));
}

#[test]
fn a_unit_is_quiet_when_copies_of_others_have_left_it_and_takes_no_new_ones() {
    let mut pair = Pair::new();
    let seen = pair.first.session.nexus().luns().inventory();
    let [first, second] = [0, 1].map(|lun| seen.resolve(Lun::from_index(lun)).clone());
    let quiet = Arc::new(Mutex::new(None));
    pair.copy(0, 0, 1, "simple", [0, 1], 2 * CHUNK);
    let (tell, poster) = (quiet.clone(), pair.rig.sim.cx(0).poster());
    second.quiesce(&*poster, move |result| *tell.lock().unwrap() = Some(result));
    for _ in 0..4 {
        assert_eq!((pair.rig.at_store(), *quiet.lock().unwrap()), (1, None));
        pair.rig.complete_one(Ok(CHUNK.into()));
    }
    assert_eq!(pair.first.good(), [1]);
    assert_eq!(pair.rig.held(), [0, 1], "the flush");
    pair.rig.complete_one(Ok(0));
    assert_eq!(*quiet.lock().unwrap(), Some(Ok(())));

    pair.copy(0, 0, 2, "simple", [0, 1], CHUNK);
    assert_eq!(pair.refusal(0), (2, SenseKey::COPY_ABORTED, FAILED));
    pair.copy(0, 0, 3, "simple", [0, 0], CHUNK);
    pair.rig.complete_all();
    assert_eq!(pair.first.good(), [3], "the other unit is not quiet");
    second.resume_commands(&*poster);
    pair.copy(0, 0, 4, "simple", [0, 1], CHUNK);
    pair.rig.complete_all();
    assert_eq!((pair.first.good(), first.is_quiesced()), (vec![4], false));
}
