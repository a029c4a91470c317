use super::*;
use crate::AccessError;
use crate::RamKeeper;
use lunette_scsi::target_port_groups::{encode_set_target_port_groups, parse_target_port_groups};
use lunette_scsi::{
    AccessState, AccessStatus, AdditionalSense, Designator, Identifier, Sense, SenseKey, Status,
    TargetPortGroup,
};

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 96, 0];
const REPORT: [u8; 12] = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
const READ_10: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const STANDBY: (u8, u8) = (0x04, 0x0b);
const UNAVAILABLE: (u8, u8) = (0x04, 0x0c);
const OFFLINE: (u8, u8) = (0x04, 0x12);
const TRANSITIONING: (u8, u8) = (0x04, 0x0a);

/// One unit behind port 1 in group 1 and port 2 in group 2.
struct Paths {
    rig: Rig,
    second: Arc<TargetPort>,
}

impl Paths {
    fn new() -> Self {
        let rig = Rig::new(1);
        let units = BTreeMap::from([(0, rig.unit.clone())]);
        let second = TargetPort::in_group(2, "toy,t,0x0002", 2, Protocol::ISCSI, units);
        Self { rig, second }
    }

    /// The same with a unit of which `keeper` keeps the state.
    fn kept(keeper: &Arc<RamKeeper>, configured: AccessState) -> Self {
        let paths = Self::new();
        paths.rig.unit.configure_access(2, configured, false).unwrap();
        paths.rig.unit.keep_state(keeper.clone()).unwrap();
        paths
    }

    /// An initiator at each port, which have seen their first unit attention.
    fn initiators(&mut self) -> (Initiator, Initiator) {
        let second = Nexus::new("second", self.second.clone());
        (self.rig.initiator(0), self.rig.open(&second, 0))
    }

    fn ask(&mut self, from: &Initiator, cdb: &[u8], data_out: &[u8]) -> (Outcome, Vec<u8>) {
        let cdb = Cdb::new(cdb).unwrap();
        let data_out = Memory::from_bytes(data_out);
        let data_in = Memory::zeroed(2048);
        let frame = CommandFrame { tag: 9, cookie: 9, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let cx = self.rig.sim.cx(0);
        let (out, into) = ([data_out.seg()], [data_in.seg()]);
        let outcome = match from.session.execute(&frame, Sg::new(&out), Sg::new(&into), cx) {
            Started::Ended(outcome) => outcome,
            Started::Pending => {
                self.rig.complete_all();
                match from.events().pop() {
                    Some(Event::Ended(9, Completion::Ended(outcome))) => outcome,
                    other => panic!("{other:?}"),
                }
            }
        };
        let data = data_in.to_vec()[..outcome.moved_in as usize].to_vec();
        (outcome, data)
    }

    /// The additional sense code of a refusal.
    fn refusal(&mut self, from: &Initiator, cdb: &[u8]) -> Option<(u8, u8)> {
        let (outcome, _) = self.ask(from, cdb, &[]);
        outcome.sense.map(|sense| (sense.additional.asc, sense.additional.ascq))
    }

    fn attention(&mut self, from: &Initiator) -> bool {
        match self.refusal(from, &TEST_UNIT_READY) {
            Some((0x2a, 0x06)) => true,
            None => false,
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, from: &Initiator, wanted: &[(AccessState, u16)]) -> Option<Sense> {
        self.set_list(from, &encode_set_target_port_groups(wanted))
    }

    fn set_list(&mut self, from: &Initiator, list: &[u8]) -> Option<Sense> {
        let length = list.len() as u8;
        let cdb = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, length, 0, 0];
        self.ask(from, &cdb, list).0.sense.map(|sense| *sense)
    }

    fn report(&mut self, from: &Initiator) -> Vec<TargetPortGroup> {
        let (outcome, data) = self.ask(from, &REPORT, &[]);
        assert_eq!(outcome.status, Status::GOOD);
        parse_target_port_groups(&data, false).unwrap()
    }

    fn states(&mut self, from: &Initiator) -> Vec<(u16, AccessState, AccessStatus)> {
        self.report(from).iter().map(|group| (group.id, group.state, group.status)).collect()
    }
}

#[test]
fn each_state_lets_through_what_the_standard_says() {
    let zero_length_select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    // CDBs, and whether they pass standby, unavailable and offline, and transitioning ports (SPC-4 5.15.2.4).
    let commands: [(&[u8], [bool; 3]); 11] = [
        (&INQUIRY, [true, true, true]),
        (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], [true, true, true]),
        (&[0x03, 0, 0, 0, 252, 0], [true, true, true]),
        (&REPORT, [true, true, true]),
        (&[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [true, true, false]),
        (&[0x1a, 0, 0x0a, 0, 252, 0], [true, false, false]),
        (&[0x5a, 0, 0x0a, 0, 0, 0, 0, 0, 252, 0], [true, false, false]),
        (&zero_length_select, [true, false, false]),
        (&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], [true, false, false]),
        (&TEST_UNIT_READY, [false, false, false]),
        (&READ_10, [false, false, false]),
    ];
    let states = [
        (AccessState::ACTIVE_NON_OPTIMIZED, None),
        (AccessState::STANDBY, Some((0, STANDBY))),
        (AccessState::UNAVAILABLE, Some((1, UNAVAILABLE))),
        (AccessState::OFFLINE, Some((1, OFFLINE))),
        (AccessState::TRANSITIONING, Some((2, TRANSITIONING))),
        (AccessState::ACTIVE_OPTIMIZED, None),
    ];
    let mut paths = Paths::new();
    let (first, second) = paths.initiators();
    for (state, refused) in states {
        paths.rig.unit.set_access(2, state).unwrap();
        assert_eq!(paths.refusal(&second, &TEST_UNIT_READY), Some((0x2a, 0x06)), "{state}");
        assert!(paths.attention(&first));
        for (cdb, passes) in commands {
            let expected = refused.and_then(|(column, code)| (!passes[column]).then_some(code));
            assert_eq!(paths.refusal(&second, cdb), expected, "{state} {cdb:02x?}");
            assert_eq!(paths.refusal(&first, cdb), None, "through the other port: {cdb:02x?}");
        }
        let reported = paths.ask(&second, &[0x03, 0, 0, 0, 252, 0], &[]).1;
        let expected = refused.map_or([0, 0, 0], |(_, (asc, ascq))| [SenseKey::NOT_READY.0, asc, ascq]);
        assert_eq!([reported[2] & 0xf, reported[12], reported[13]], expected, "REQUEST SENSE while {state}");
        let qualifier = if state == AccessState::UNAVAILABLE { 0x20 } else { 0 };
        assert_eq!(paths.ask(&second, &INQUIRY, &[]).1[0], qualifier, "{state}");
        assert_eq!(paths.ask(&second, &[0x12, 1, 0x80, 0, 96, 0], &[]).1[0], qualifier, "{state}");
    }
}

#[test]
fn groups_are_reported_with_their_ports() {
    let mut paths = Paths::new();
    let units = BTreeMap::from([(3, paths.rig.unit.clone()), (4, paths.rig.unit.clone())]);
    let _third = TargetPort::in_group(2, "third", 0x103, Protocol::SAS, units.clone());
    drop(TargetPort::in_group(7, "gone", 9, Protocol::SAS, units));
    paths.rig.unit.configure_access(2, AccessState::STANDBY, true).unwrap();
    let (first, second) = paths.initiators();
    let (state, status) = (AccessState::ACTIVE_OPTIMIZED, AccessStatus::NONE);
    let one = TargetPortGroup { id: 1, state, preferred: false, supported: 0xcf, status, ports: vec![1] };
    let state = AccessState::STANDBY;
    let two = TargetPortGroup { id: 2, state, preferred: true, ports: vec![2, 0x103], ..one.clone() };
    assert_eq!(paths.report(&first), [one.clone(), two.clone()]);
    assert_eq!(paths.report(&second), [one.clone(), two.clone()], "no unit attention: it began so");
    let (_, short) = paths.ask(&first, &REPORT, &[]);
    assert_eq!(short.len(), 32);
    assert_eq!(short[..4], [0, 0, 0, 28]);
    let extended = [0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
    let (_, long) = paths.ask(&first, &extended, &[]);
    assert_eq!(long[..8], [0, 0, 0, 32, 0x10, 0, 0, 0]);
    assert_eq!(parse_target_port_groups(&long, true), Ok(vec![one, two]));
    let (outcome, cut) = paths.ask(&first, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0], &[]);
    assert_eq!((outcome.status, &cut[..]), (Status::GOOD, &short[..9]));
    let (outcome, _) = paths.ask(&first, &[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], &[]);
    assert_eq!(*outcome.sense.unwrap(), Sense::invalid_field_in_cdb(1, Some(7)));
}

#[test]
fn an_inquiry_names_the_group_of_the_port_asked_through() {
    let mut paths = Paths::new();
    let (first, second) = paths.initiators();
    for (from, port, group) in [(&first, 1, 1), (&second, 2, 2)] {
        let standard = paths.ask(from, &INQUIRY, &[]).1;
        assert_eq!((standard[5] & 0x30, standard[6] & 0x10), (0x30, 0x10), "TPGS and MULTIP");
        let page = paths.ask(from, &[0x12, 1, 0x83, 1, 0, 0], &[]).1;
        let mut rest = &page[4..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let (designator, length) = Designator::parse(rest).unwrap();
            names.push(designator.identifier);
            rest = &rest[length..];
        }
        assert!(names.contains(&Identifier::RelativeTargetPort(port)), "{names:?}");
        assert!(names.contains(&Identifier::TargetPortGroup(group)), "{names:?}");
    }
}

#[test]
fn a_unit_claims_no_more_than_its_filter_leaves() {
    for (filter, claimed) in [
        ("deny:unmap", 0x30),
        ("deny:set-target-port-groups", 0x10),
        ("deny:report-target-port-groups", 0),
        ("deny:maintenance-in+maintenance-out", 0),
    ] {
        let mut rig = Rig::new(1);
        let identity = rig.unit.identity.clone();
        rig.unit = LogicalUnit::filtered("toy", identity, Box::new(Toy), None, &filter.parse().unwrap());
        let units = BTreeMap::from([(0, rig.unit.clone())]);
        rig.port = TargetPort::new("toy,t,0x0001", 1, Protocol::ISCSI, units);
        let second = rig.port.clone();
        let mut paths = Paths { rig, second };
        let (first, _) = paths.initiators();
        assert_eq!(paths.ask(&first, &INQUIRY, &[]).1[5] & 0x30, claimed, "{filter}");
    }
}

#[test]
fn an_initiator_moves_the_unit_and_all_others_are_told() {
    let mut paths = Paths::new();
    paths.rig.unit.configure_access(2, AccessState::STANDBY, false).unwrap();
    let (first, second) = paths.initiators();
    let (first_too, _) = paths.initiators();
    assert_eq!(paths.refusal(&second, &READ_10), Some(STANDBY));
    assert_eq!(paths.refusal(&first, &READ_10), None);
    let swap = [(AccessState::ACTIVE_OPTIMIZED, 2), (AccessState::STANDBY, 1)];
    assert_eq!(paths.set(&second, &swap), None);
    assert_eq!(paths.refusal(&second, &READ_10), None, "who asked is not told");
    assert_eq!(paths.refusal(&first, &READ_10), Some((0x2a, 0x06)));
    assert_eq!(paths.refusal(&first, &READ_10), Some(STANDBY));
    assert_eq!(paths.refusal(&first_too, &READ_10), Some((0x2a, 0x06)));
    let expected = [
        (1, AccessState::STANDBY, AccessStatus::EXPLICIT),
        (2, AccessState::ACTIVE_OPTIMIZED, AccessStatus::EXPLICIT),
    ];
    assert_eq!(paths.states(&first), expected);
    assert_eq!(paths.set(&second, &swap), None);
    assert_eq!(paths.refusal(&first, &READ_10), Some(STANDBY), "nothing changed, so nobody is told");
    paths.rig.unit.set_access(1, AccessState::ACTIVE_NON_OPTIMIZED).unwrap();
    assert!(paths.attention(&first) && paths.attention(&second), "a change by itself is told to all");
    assert_eq!(paths.states(&first)[0].2, AccessStatus::IMPLICIT);
}

#[test]
fn lists_that_ask_for_the_impossible_change_nothing() {
    let mut paths = Paths::new();
    let (first, _) = paths.initiators();
    let (good, bad) = ((AccessState::STANDBY, 2), AccessState::ACTIVE_OPTIMIZED);
    let wrong = |at, bit| Some(Sense::invalid_field_in_parameter_list(at, bit));
    for (list, expected) in [
        ([good, (bad, 3)], wrong(10, None)),
        ([good, (bad, 0xffff)], wrong(10, None)),
        ([good, (bad, 2)], wrong(10, None)),
        ([good, (AccessState::OFFLINE, 3)], wrong(10, None)),
        ([good, (AccessState::TRANSITIONING, 1)], wrong(8, Some(3))),
        ([good, (AccessState::LOGICAL_BLOCK_DEPENDENT, 1)], wrong(8, Some(3))),
        ([(AccessState(0x7), 1), good], wrong(4, Some(3))),
    ] {
        assert_eq!(paths.set(&first, &list), expected, "{list:?}");
    }
    let list = encode_set_target_port_groups(&[good]);
    let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    for length in [1, 3, 5, 7] {
        assert_eq!(paths.set_list(&first, &list[..length]), Some(length_error), "{length}");
    }
    let missing = paths.ask(&first, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &list[..4]).0;
    assert_eq!(missing.sense.map(|sense| *sense), Some(length_error), "fewer bytes than announced");
    let long = paths.ask(&first, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &list).0;
    assert_eq!(long.sense.map(|sense| *sense), Some(Sense::invalid_field_in_cdb(6, None)));
    assert_eq!(paths.set_list(&first, &[]), None);
    assert_eq!(paths.set_list(&first, &list[..4]), None);
    paths.rig.unit.set_access(2, AccessState::TRANSITIONING).unwrap();
    assert!(paths.attention(&first));
    let changing = AdditionalSense::LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION;
    assert_eq!(paths.set(&first, &[good]), Some(Sense::not_ready(changing)));
    assert_eq!(paths.states(&first)[1].1, AccessState::TRANSITIONING);
}

#[test]
fn the_operator_is_told_what_is_impossible() {
    let unit = Paths::new().rig.unit;
    let standby = AccessState::STANDBY;
    assert_eq!(unit.set_access(3, standby), Err(AccessError::NoSuchGroup(3)));
    for state in [AccessState::LOGICAL_BLOCK_DEPENDENT, AccessState(7)] {
        assert_eq!(unit.set_access(1, state), Err(AccessError::Unsupported(state)));
        assert_eq!(unit.configure_access(1, state, false), Err(AccessError::Unsupported(state)));
    }
    for state in [AccessState::OFFLINE, AccessState::TRANSITIONING] {
        assert_eq!(unit.configure_access(1, state, false), Err(AccessError::Unsupported(state)));
    }
}

#[test]
fn a_port_is_offline_until_its_group_is_set() {
    let mut paths = Paths::new();
    let units = BTreeMap::from([(0, paths.rig.unit.clone())]);
    let third = TargetPort::in_group(2, "third", 3, Protocol::ISCSI, units);
    let (first, second) = paths.initiators();
    let third = paths.rig.open(&Nexus::new("third", third), 0);
    assert_eq!(paths.set(&first, &[(AccessState::OFFLINE, 2)]), None);
    assert_eq!(paths.refusal(&second, &READ_10), Some((0x2a, 0x06)));
    assert_eq!(paths.refusal(&second, &READ_10), Some(OFFLINE));
    assert!(paths.attention(&third));
    assert_eq!(paths.refusal(&third, &READ_10), None, "the other port of the group goes on");
    let groups = paths.report(&first);
    let of: Vec<_> = groups.iter().map(|group| (group.id, group.state.0, &group.ports[..])).collect();
    assert_eq!(of, [(1, 0, &[1][..]), (2, 0, &[2, 3]), (0xffff, 0xe, &[2])]);
    assert_eq!(paths.set(&second, &[(AccessState::ACTIVE_OPTIMIZED, 2)]), None);
    assert_eq!(paths.refusal(&second, &READ_10), None);
    assert_eq!(paths.report(&second).len(), 2);
}

#[test]
fn what_waits_is_looked_at_again() {
    let mut paths = Paths::new();
    let (_, second) = paths.initiators();
    paths.rig.read(&second, 1, "simple");
    paths.rig.read(&second, 2, "ordered");
    let cdb = Cdb::new(&READ_10).unwrap();
    let frame = CommandFrame { tag: 3, cookie: 3, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    assert_eq!(paths.rig.at_store(), 1);
    paths.rig.unit.set_access(2, AccessState::STANDBY).unwrap();
    let Admission::Ended(outcome) = second.session.admit(&frame, paths.rig.sim.cx(0)) else { panic!() };
    assert_eq!(outcome.sense.unwrap().additional, AdditionalSense::ASYMMETRIC_ACCESS_STATE_CHANGED);
    paths.rig.complete_all();
    let ends = second.events().into_iter().map(|event| match event {
        Event::Ended(tag, Completion::Ended(outcome)) => {
            (tag, outcome.sense.map(|sense| (sense.additional.asc, sense.additional.ascq)))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(1, None), (2, Some(STANDBY))], "what had begun ends");
}

#[test]
fn explicit_changes_last_until_others_are_configured() {
    let keeper = Arc::<RamKeeper>::default();
    let mut paths = Paths::kept(&keeper, AccessState::STANDBY);
    let (first, _) = paths.initiators();
    let wanted =
        [(AccessState::ACTIVE_NON_OPTIMIZED, 2), (AccessState::UNAVAILABLE, 1), (AccessState::OFFLINE, 1)];
    assert_eq!(paths.set(&first, &wanted), None);
    let expected = [
        (1, AccessState::UNAVAILABLE, AccessStatus::EXPLICIT),
        (2, AccessState::ACTIVE_NON_OPTIMIZED, AccessStatus::EXPLICIT),
        (0xffff, AccessState::OFFLINE, AccessStatus::NONE),
    ];
    assert_eq!(paths.states(&first), expected);
    let mut again = Paths::kept(&keeper, AccessState::STANDBY);
    let (first, second) = again.initiators();
    assert_eq!(again.states(&second), expected);
    assert_eq!(again.refusal(&first, &READ_10), Some(OFFLINE), "from the first command on");
    assert_eq!(again.refusal(&second, &READ_10), None);
    again.rig.unit.set_access(1, AccessState::ACTIVE_OPTIMIZED).unwrap();
    assert!(again.attention(&first));

    let mut other = Paths::kept(&keeper, AccessState::UNAVAILABLE);
    let (first, _) = other.initiators();
    let states = other.states(&first);
    assert_eq!(states[1], (2, AccessState::UNAVAILABLE, AccessStatus::NONE), "as configured now");
    assert_eq!(states[0], expected[0], "changes by itself are not saved");
}

#[test]
fn what_cannot_be_saved_is_not_changed() {
    let mut paths = Paths::new();
    paths.rig.unit.keep_state(Arc::new(RamKeeper::limited(0))).unwrap();
    let (first, _) = paths.initiators();
    let sense = paths.set(&first, &[(AccessState::STANDBY, 1)]).unwrap();
    assert_eq!(sense.key, SenseKey::HARDWARE_ERROR);
    assert_eq!(paths.refusal(&first, &READ_10), None);
}
