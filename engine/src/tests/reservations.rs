use super::*;
use crate::RamKeeper;
use crate::{Aborted, NotReady};
use TaskManagementFunction as Function;
use lunette_scsi::reservation::{ReserveOutList, parse_keys, parse_reservation};
use lunette_scsi::target_port_groups::encode_set_target_port_groups;
use lunette_scsi::{
    AccessState, AdditionalSense, ReservationType as Type, Sense, SenseKey, Status, TransportId,
    service_action,
};

const READ_KEYS: [u8; 10] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0];
const READ_RESERVATION: [u8; 10] = [0x5e, 1, 0, 0, 0, 0, 0, 0, 255, 0];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 255, 0];
const TEST_UNIT_READY: [u8; 6] = [0; 6];
pub(super) const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];

pub(super) const REGISTER: (u16, Type) = (service_action::REGISTER, Type(0));

pub(super) fn reserve(kind: Type) -> (u16, Type) {
    (service_action::RESERVE, kind)
}

impl Rig {
    /// A nexus of the initiator `name`, which has learnt that it is new.
    pub(super) fn named(&mut self, name: &str, reactor: usize) -> Initiator {
        let nexus = Nexus::new(name, self.port.clone());
        let mut initiator = self.session(&nexus, reactor);
        initiator.memory = Memory::zeroed(255);
        self.run(&initiator, &TEST_UNIT_READY, &[]);
        initiator
    }

    /// Starts a command; its outcome if it has ended by itself.
    pub(super) fn try_run(
        &mut self,
        from: &Initiator,
        tag: u64,
        cdb: &[u8],
        data_out: &[u8],
    ) -> Option<Outcome> {
        let (cdb, data) = (Cdb::new(cdb).unwrap(), Memory::from_bytes(data_out));
        let length = data_out.len() as u64;
        let frame = CommandFrame {
            tag,
            cookie: tag,
            data_out: length,
            ..CommandFrame::new(Lun::from_index(0), &cdb)
        };
        let (seg, cx) = (data.seg(), self.sim.cx(from.reactor));
        let started = from.session.execute(&frame, Sg::new(&[seg]), Sg::new(&[from.memory.seg()]), cx);
        self.sim.settle();
        match started {
            Started::Ended(outcome) => Some(outcome),
            Started::Pending => {
                let mut events = from.log.0.borrow_mut();
                let ended = |event: &Event| matches!(event, Event::Ended(ended, _) if *ended == tag);
                match events.iter().position(ended).map(|at| events.remove(at))? {
                    Event::Ended(_, Completion::Ended(outcome)) => Some(outcome),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    pub(super) fn run(&mut self, from: &Initiator, cdb: &[u8], data_out: &[u8]) -> Outcome {
        self.try_run(from, 77, cdb, data_out).expect("it ends by itself")
    }

    fn out(&mut self, from: &Initiator, (action, kind): (u16, Type), key: u64, action_key: u64) -> Outcome {
        self.out_list(from, (action, kind), &ReserveOutList::new(key, action_key))
    }

    fn out_list(&mut self, from: &Initiator, of: (u16, Type), list: &ReserveOutList) -> Outcome {
        let (cdb, list) = out_cdb(of, list);
        self.run(from, &cdb, &list)
    }

    pub(super) fn good(&mut self, from: &Initiator, of: (u16, Type), key: u64, action_key: u64) {
        let outcome = self.out(from, of, key, action_key);
        assert_eq!((outcome.status, &outcome.sense), (Status::GOOD, &None), "{of:?}");
    }

    pub(super) fn keys(&mut self, from: &Initiator) -> Vec<u64> {
        assert_eq!(self.run(from, &READ_KEYS, &[]).status, Status::GOOD);
        parse_keys(&from.memory.to_vec()).1
    }

    pub(super) fn reservation(&mut self, from: &Initiator) -> Option<(u64, Type)> {
        assert_eq!(self.run(from, &READ_RESERVATION, &[]).status, Status::GOOD);
        parse_reservation(&from.memory.to_vec()).1
    }

    /// Whether a READ is let through.
    pub(super) fn reads(&mut self, from: &Initiator) -> bool {
        match self.try_run(from, 78, &READ, &[]) {
            None => {
                self.complete_all();
                from.log.0.borrow_mut().clear();
                true
            }
            Some(outcome) => {
                assert_eq!(outcome.status, Status::RESERVATION_CONFLICT, "{outcome:?}");
                false
            }
        }
    }

    /// The unit attention condition that is reported next.
    pub(super) fn told(&mut self, from: &Initiator) -> Option<AdditionalSense> {
        let outcome = self.run(from, &TEST_UNIT_READY, &[]);
        let sense = outcome.sense?;
        assert_eq!(sense.key, SenseKey::UNIT_ATTENTION);
        Some(sense.additional)
    }

    pub(super) fn close(&mut self, from: &Initiator) {
        from.session.close(1, self.sim.cx(from.reactor));
        self.sim.settle();
    }
}

fn out_cdb((action, kind): (u16, Type), list: &ReserveOutList) -> ([u8; 10], Vec<u8>) {
    let list = list.encode();
    ([0x5f, action as u8, kind.0, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

#[test]
fn a_reservation_holds_against_everybody_else() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.named("a", 0), rig.named("b", 1));
    rig.good(&a, REGISTER, 0, 1);
    assert_eq!(rig.out(&b, reserve(Type::EXCLUSIVE_ACCESS), 0, 0).status, Status::RESERVATION_CONFLICT);
    rig.good(&a, reserve(Type::EXCLUSIVE_ACCESS), 1, 0);
    let late = rig.named("late", 1);
    let elsewhere = rig.named("a", 1);
    assert!(rig.reads(&a) && rig.reads(&elsewhere), "the same initiator port");
    assert!(!rig.reads(&b) && !rig.reads(&late));
    assert_eq!(rig.run(&b, &INQUIRY, &[]).status, Status::GOOD);
    assert_eq!(rig.run(&b, &TEST_UNIT_READY, &[]).status, Status::GOOD);
    assert_eq!((rig.keys(&b), rig.reservation(&b)), (vec![1], Some((1, Type::EXCLUSIVE_ACCESS))));
    rig.good(&a, (service_action::RELEASE, Type::EXCLUSIVE_ACCESS), 1, 0);
    assert!(rig.reads(&b) && rig.reads(&late));
}

#[test]
fn only_those_whom_it_concerns_are_told() {
    let mut rig = Rig::new(2);
    let all = ["a", "b", "c", "outside"].map(|name| rig.named(name, 0));
    let [a, b, c, outside] = &all;
    for (number, from) in (1..).zip([a, b, c]) {
        rig.good(from, REGISTER, 0, number);
    }
    rig.good(a, reserve(Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY), 1, 0);
    rig.good(a, (service_action::RELEASE, Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY), 1, 0);
    let released = Some(AdditionalSense::RESERVATIONS_RELEASED);
    assert_eq!([a, b, c, outside].map(|from| rig.told(from)), [None, released, released, None]);
    rig.good(b, (service_action::PREEMPT, Type(0)), 2, 3);
    let lost = Some(AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!([a, b, c, outside].map(|from| rig.told(from)), [None, None, lost, None]);
    rig.good(b, (service_action::CLEAR, Type(0)), 2, 0);
    let preempted = Some(AdditionalSense::RESERVATIONS_PREEMPTED);
    assert_eq!([a, b, c, outside].map(|from| rig.told(from)), [preempted, None, None, None]);
    assert!(rig.keys(a).is_empty());
}

#[test]
fn registrations_survive_the_end_of_the_nexus_and_resets() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.named("a", 0), rig.named("b", 1));
    rig.good(&a, REGISTER, 0, 1);
    rig.good(&a, reserve(Type::EXCLUSIVE_ACCESS), 1, 0);
    rig.manage(&b, Function::LogicalUnitReset, 0);
    rig.close(&a);
    drop(a);
    assert_eq!(rig.told(&b), Some(AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED));
    assert!(!rig.reads(&b));
    let a = rig.named("a", 1);
    assert!(rig.reads(&a));
    rig.good(&a, (service_action::CLEAR, Type(0)), 1, 0);
}

#[test]
fn preempt_and_abort_lets_no_command_of_the_loser_go_on() {
    let mut rig = Rig::new(2);
    let (a, b, c) = (rig.named("a", 0), rig.named("b", 1), rig.named("c", 1));
    for (number, from) in (1..).zip([&a, &b, &c]) {
        rig.good(from, REGISTER, 0, number);
    }
    rig.good(&b, reserve(Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY), 2, 0);
    for (tag, from) in [(5, &b), (6, &c)] {
        assert_eq!(rig.try_run(from, tag, &READ, &[]), None);
    }
    let preempt = (service_action::PREEMPT_AND_ABORT, Type::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY);
    let (cdb, data) = out_cdb(preempt, &ReserveOutList::new(1, 2));
    assert_eq!(rig.try_run(&a, 7, &cdb, &data), None, "the store has memory of the loser");
    assert_eq!(rig.told(&b), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(rig.run(&b, &READ, &[]).status, Status::RESERVATION_CONFLICT, "already");
    rig.complete_one(Ok(1));
    assert_eq!(b.events(), [Event::Ended(5, Completion::Aborted(Aborted::ByAnotherNexus))]);
    assert_eq!(a.good(), [7]);
    rig.complete_all();
    assert_eq!(c.good(), [6], "it is still registered");
    assert_eq!(rig.told(&c), Some(AdditionalSense::RESERVATIONS_RELEASED));
    // Of a nexus that is not there now there is nothing to abort.
    rig.close(&c);
    drop(c);
    rig.good(&a, (service_action::PREEMPT_AND_ABORT, Type(0)), 1, 3);
    assert_eq!(rig.keys(&a), [1]);
}

#[test]
fn a_command_that_waits_for_its_turn_meets_the_new_reservation() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.named("a", 0), rig.named("b", 0));
    rig.good(&a, REGISTER, 0, 1);
    rig.read(&b, 1, "simple");
    rig.read(&b, 2, "ordered");
    let (cdb, data) = out_cdb(reserve(Type::EXCLUSIVE_ACCESS), &ReserveOutList::new(1, 0));
    let cdb = Cdb::new(&cdb).unwrap();
    let memory = Memory::from_bytes(&data);
    let frame = CommandFrame {
        attribute: TaskAttribute::HeadOfQueue,
        data_out: 24,
        ..CommandFrame::new(Lun::from_index(0), &cdb)
    };
    let started = a.session.execute(&frame, Sg::new(&[memory.seg()]), Sg::empty(), rig.sim.cx(0));
    assert!(matches!(started, Started::Ended(outcome) if outcome.status == Status::GOOD));
    rig.complete_all();
    let [Event::Ended(1, _), Event::Ended(2, Completion::Ended(outcome))] = &b.events()[..] else { panic!() };
    assert_eq!(outcome.status, Status::RESERVATION_CONFLICT);
}

#[test]
fn reserve_excludes_everything_that_is_not_exempt() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.named("a", 0), rig.named("b", 1));
    let conflicts = |rig: &mut Rig, from: &Initiator, cdb: &[u8]| {
        rig.run(from, cdb, &[]).status == Status::RESERVATION_CONFLICT
    };
    assert!(!conflicts(&mut rig, &a, &RESERVE_6));
    assert!(!conflicts(&mut rig, &a, &RESERVE_6), "again");
    assert!(conflicts(&mut rig, &b, &RESERVE_6));
    assert!(rig.reads(&a) && !rig.reads(&b));
    assert!(conflicts(&mut rig, &b, &TEST_UNIT_READY) && !conflicts(&mut rig, &b, &INQUIRY));
    let mode_sense = [0x1a, 0, 0x3f, 0, 255, 0];
    assert!(conflicts(&mut rig, &b, &mode_sense) && !conflicts(&mut rig, &a, &mode_sense));
    for from in [&a, &b] {
        assert!(conflicts(&mut rig, from, &READ_KEYS));
        assert_eq!(rig.out(from, REGISTER, 0, 1).status, Status::RESERVATION_CONFLICT);
    }
    assert!(!conflicts(&mut rig, &b, &RELEASE_6));
    assert!(!rig.reads(&b), "it was not its own");
    assert!(!conflicts(&mut rig, &a, &RELEASE_6));
    assert!(rig.reads(&b));
}

#[test]
fn reserve_ends_with_its_nexus_and_with_resets() {
    let mut rig = Rig::new(2);
    let b = rig.named("b", 1);
    let end: [fn(&mut Rig, &Initiator); 4] = [
        |rig, a| rig.close(a),
        |rig, a| rig.manage(a, Function::ITNexusReset, 0),
        |rig, a| rig.manage(a, Function::LogicalUnitReset, 0),
        |rig, a| rig.manage(a, Function::TargetWarmReset, 0),
    ];
    for end in end {
        let a = rig.named("a", 0);
        assert_eq!(rig.run(&a, &RESERVE_6, &[]).status, Status::GOOD);
        assert!(!rig.reads(&b));
        end(&mut rig, &a);
        while rig.told(&b).is_some() {}
        assert!(rig.reads(&b));
    }
}

#[test]
fn a_reserve_that_comes_when_its_nexus_is_lost_elsewhere_reserves_nothing() {
    let mut rig = Rig::new(2);
    let b = rig.named("b", 1);
    let nexus = Nexus::new("a", rig.port.clone());
    let (here, there) = (rig.open(&nexus, 0), rig.open(&nexus, 1));
    here.session.close(1, rig.sim.cx(0));
    // Before the word of it has got there.
    assert_eq!(rig.try_run(&there, 2, &RESERVE_6, &[]).unwrap().status, Status::GOOD);
    assert!(rig.reads(&b));
}

#[test]
fn reserve_and_release_beside_persistent_reservations() {
    // SPC-4 5.12.3: those whom the reservation lets in are told GOOD, and nothing happens.
    let registered = [(Type::WRITE_EXCLUSIVE, false), (Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY, true)];
    for (kind, lets_in) in registered {
        let mut rig = Rig::new(1);
        let (a, b, c) = (rig.named("a", 0), rig.named("b", 0), rig.named("c", 0));
        rig.good(&a, REGISTER, 0, 1);
        rig.good(&b, REGISTER, 0, 2);
        assert_eq!(rig.run(&a, &RESERVE_6, &[]).status, Status::RESERVATION_CONFLICT, "only registered");
        assert_eq!(rig.run(&c, &RELEASE_6, &[]).status, Status::RESERVATION_CONFLICT);
        rig.good(&a, reserve(kind), 1, 0);
        for (from, good) in [(&a, true), (&b, lets_in), (&c, false)] {
            for cdb in [RESERVE_6, RELEASE_6] {
                assert_eq!(rig.run(from, &cdb, &[]).status == Status::GOOD, good, "{kind}");
            }
        }
        assert_eq!(rig.reservation(&a), Some((1, kind)));
        assert!(rig.reads(&c));
    }
}

fn persistent(key: u64, action_key: u64) -> ReserveOutList {
    ReserveOutList { persist: true, ..ReserveOutList::new(key, action_key) }
}

#[test]
fn what_persists_is_there_again_after_a_restart() {
    let keeper = Arc::new(RamKeeper::default());
    let kind = Type::EXCLUSIVE_ACCESS;
    let restart = || {
        let mut rig = Rig::new(1);
        rig.unit.keep_state(keeper.clone()).unwrap();
        let names = ["a", "b"].map(|name| rig.named(name, 0));
        (rig, names)
    };
    let (mut rig, [a, _]) = restart();
    rig.good(&a, REGISTER, 0, 1);
    rig.good(&a, reserve(kind), 1, 0);
    let (mut rig, [a, b]) = restart();
    assert_eq!((rig.keys(&a), rig.reads(&b)), (vec![], true), "APTPL was zero");
    assert_eq!(rig.out_list(&a, REGISTER, &persistent(0, 1)).status, Status::GOOD);
    rig.good(&a, reserve(kind), 1, 0);
    let (mut rig, [a, b]) = restart();
    assert_eq!(rig.run(&b, &READ_KEYS, &[]).status, Status::GOOD);
    assert_eq!(parse_keys(&b.memory.to_vec()), (0, vec![1]), "PRGENERATION starts anew");
    assert_eq!((rig.reads(&a), rig.reads(&b)), (true, false));
    rig.good(&a, REGISTER, 1, 2);
    let (mut rig, [a, b]) = restart();
    assert_eq!((rig.keys(&a), rig.reads(&b)), (vec![], true), "APTPL is zero again");
}

#[test]
fn whoever_an_initiator_says_it_is_its_registration_comes_back() {
    let long = format!("iqn.{},i,0x000000000001", "İ".repeat(109));
    for name in ["Guest", "naa.3000000000000001", "iqn.X,i,0x400000000000,i,0x000000000001", &long] {
        let keeper = Arc::new(RamKeeper::default());
        let restart = || {
            let mut rig = Rig::new(1);
            rig.unit.keep_state(keeper.clone()).unwrap();
            let a = rig.named(name, 0);
            (rig, a)
        };
        let (mut rig, a) = restart();
        assert_eq!(rig.out_list(&a, REGISTER, &persistent(0, 1)).status, Status::GOOD);
        rig.good(&a, reserve(Type::EXCLUSIVE_ACCESS), 1, 0);
        let (mut rig, a) = restart();
        assert!(rig.reads(&a), "{name}");
    }
}

#[test]
fn only_register_names_initiator_ports() {
    let mut rig = Rig::new(1);
    let a = rig.named("a", 0);
    rig.good(&a, REGISTER, 0, 1);
    let initiators = vec![TransportId::Sas([0x30; 8])];
    let named = ReserveOutList { specify_initiator_ports: true, initiators, ..ReserveOutList::new(1, 1) };
    for action in [
        service_action::REGISTER_AND_IGNORE_EXISTING_KEY,
        service_action::RESERVE,
        service_action::RELEASE,
        service_action::CLEAR,
        service_action::PREEMPT,
        service_action::PREEMPT_AND_ABORT,
    ] {
        let outcome = rig.out_list(&a, (action, Type::WRITE_EXCLUSIVE), &named);
        let invalid = Sense::invalid_field_in_parameter_list(20, Some(3));
        assert_eq!(outcome.sense.as_deref(), Some(&invalid), "{action}");
    }
    assert_eq!((rig.keys(&a), rig.reservation(&a)), (vec![1], None));
}

#[test]
fn what_cannot_be_saved_has_not_happened() {
    let mut rig = Rig::new(1);
    let a = rig.named("a", 0);
    let outcome = rig.out_list(&a, REGISTER, &persistent(0, 1));
    let aptpl = Sense::invalid_field_in_parameter_list(20, Some(0));
    assert_eq!(outcome.sense.as_deref(), Some(&aptpl), "nothing is kept");
    rig.unit.keep_state(Arc::new(RamKeeper::limited(0))).unwrap();
    let outcome = rig.out_list(&a, REGISTER, &persistent(0, 1));
    assert_eq!(outcome.sense.unwrap().additional, AdditionalSense::INTERNAL_TARGET_FAILURE);
    assert!(rig.keys(&a).is_empty());
    rig.good(&a, REGISTER, 0, 1);
}

#[test]
fn a_unit_whose_reservations_are_damaged_stays_closed() {
    let mut rig = Rig::new(1);
    let a = rig.named("a", 0);
    let damaged = RamKeeper::holding(*br#"{"reservations": 5}"#);
    rig.unit.keep_state(Arc::new(damaged)).unwrap_err();
    rig.unit.set_not_ready(Some(NotReady::because(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION)));
    rig.unit.set_not_ready(None);
    let why = AdditionalSense::LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED;
    for cdb in [&TEST_UNIT_READY[..], &READ_KEYS, &RESERVE_6] {
        assert_eq!(rig.run(&a, cdb, &[]).sense.as_deref(), Some(&Sense::not_ready(why)));
    }
    assert_eq!(rig.out(&a, REGISTER, 0, 1).sense.as_deref(), Some(&Sense::not_ready(why)));
    // What could not be kept is not promised.
    let information = [0xa4, 0x06, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    let standby = encode_set_target_port_groups(&[(AccessState::STANDBY, 1)]);
    for (cdb, list) in [(information, &b"x"[..]), ([0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &standby)] {
        assert_eq!(rig.run(&a, &cdb, list).sense.as_deref(), Some(&Sense::not_ready(why)));
    }
    assert_eq!(
        rig.send(&a, 1, "simple", &steps::SLEEP.spec).unwrap().sense,
        Some(Sense::not_ready(why).into())
    );
}
