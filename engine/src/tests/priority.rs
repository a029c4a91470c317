use super::room::prioritized;
use super::*;
use TaskManagementFunction as Function;
use lunette_scsi::priority::NexusPriority;
use lunette_scsi::{AdditionalSense, Sense, TransportId, service_action};

const OWN: u8 = 0x00;
const OTHER: u8 = 0x40;
const ALL: u8 = 0x80;

struct Priorities {
    rig: Rig,
    a: Initiator,
    b: Initiator,
}

impl Priorities {
    fn new() -> Self {
        let mut rig = Rig::new(1);
        let mut open = |name| {
            let nexus = Nexus::new(name, rig.port.clone());
            Initiator { memory: Memory::zeroed(255), ..rig.open(&nexus, 0) }
        };
        let (a, b) = (open("naa.300000000000000a"), open("naa.300000000000000b"));
        Self { rig, a, b }
    }

    fn run(&mut self, of_a: bool, cdb: [u8; 12], list: &[u8]) -> Outcome {
        let from = if of_a { &self.a } else { &self.b };
        let (cdb, list) = (Cdb::new(&cdb).unwrap(), Memory::from_bytes(list));
        let frame = CommandFrame::new(Lun::from_index(0), &cdb);
        let (out, into) = ([list.seg()], [from.memory.seg()]);
        match from.session.execute(&frame, Sg::new(&out), Sg::new(&into), self.rig.sim.cx(0)) {
            Started::Ended(outcome) => outcome,
            Started::Pending => panic!("it waits for nothing"),
        }
    }

    fn set(&mut self, of_a: bool, whose: u8, list: &[u8]) -> Option<Sense> {
        let action = service_action::SET_PRIORITY as u8;
        let cdb = [0xa4, action, whose, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
        self.run(of_a, cdb, list).sense.map(|sense| *sense)
    }

    /// The priority of the nexus itself, or, of those that do not have the initial one, the last bytes of their names.
    fn report(&mut self, of_a: bool, which: u8) -> Vec<(u8, u8)> {
        let action = service_action::REPORT_PRIORITY as u8;
        let outcome = self.run(of_a, [0xa3, action, which, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
        assert_eq!(outcome.sense, None);
        let data = if of_a { self.a.memory.to_vec() } else { self.b.memory.to_vec() };
        let descriptors = data[4..4 + usize::from(data[3])].chunks(32).map(NexusPriority::parse);
        let mut priorities: Vec<_> = descriptors
            .map(|one| match one.unwrap() {
                NexusPriority { priority, relative_port: 1, initiator: TransportId::Sas(address) } => {
                    (address[7], priority)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        priorities.sort_unstable();
        priorities
    }

    /// Whether a unit attention was pending that tells of another priority.
    fn told(&mut self, of_a: bool) -> bool {
        let sense = self.run(of_a, [0; 12], &[]).sense;
        sense.is_some_and(|sense| sense.additional == AdditionalSense::PRIORITY_CHANGED)
    }
}

fn list(priority: u8, name: u8) -> Vec<u8> {
    let initiator = TransportId::Sas([0x30, 0, 0, 0, 0, 0, 0, name]);
    NexusPriority { priority, relative_port: 1, initiator }.encode()
}

#[test]
fn each_nexus_has_a_priority() {
    let mut all = Priorities::new();
    assert_eq!((all.report(true, OWN), all.report(true, OTHER)), (vec![(0x0a, 0)], vec![]));
    assert_eq!(all.set(true, OWN, &[3]), None);
    assert_eq!((all.report(true, OWN), all.report(false, OTHER)), (vec![(0x0a, 3)], vec![(0x0a, 3)]));
    assert_eq!(all.report(false, OWN), [(0x0b, 0)]);
    assert!(!all.told(true) && !all.told(false));
    assert_eq!(all.set(true, OTHER, &list(15, 0x0b)), None);
    assert!(all.told(false) && !all.told(true));
    assert_eq!(all.report(true, OTHER), [(0x0a, 3), (0x0b, 15)]);
    // One that is not there.
    assert_eq!(all.set(true, OTHER, &list(1, 0x0c)), None);
    assert_eq!(all.set(true, OWN, &[0]), None);
    assert_eq!(all.report(true, OTHER), [(0x0b, 15), (0x0c, 1)]);
    assert_eq!(all.set(true, ALL, &[]), None);
    assert!(all.told(false) && !all.told(true));
    assert_eq!(all.report(true, OTHER), []);
}

#[test]
fn a_priority_outlasts_its_nexus_but_no_reset() {
    let mut all = Priorities::new();
    assert_eq!(all.set(true, OTHER, &list(2, 0x0b)), None);
    all.b.session.close(1, all.rig.sim.cx(0));
    all.rig.sim.settle();
    let nexus = Nexus::new("naa.300000000000000b", all.rig.port.clone());
    all.b = Initiator { memory: Memory::zeroed(255), ..all.rig.open(&nexus, 0) };
    assert_eq!(all.report(false, OWN), [(0x0b, 2)]);
    all.rig.manage(&all.a, Function::LogicalUnitReset, 0);
    all.rig.sim.settle();
    all.told(false);
    assert_eq!(all.report(false, OWN), [(0x0b, 0)]);
}

#[test]
fn initiators_that_have_left_make_room() {
    let mut all = Priorities::new();
    assert_eq!(all.set(true, OWN, &[3]), None);
    for number in 0..3000u16 {
        let [high, low] = number.to_be_bytes();
        let gone = TransportId::Sas([0x30, 0, 0, 0, 0, 1, high, low]);
        let list = NexusPriority { priority: 5, relative_port: 1, initiator: gone }.encode();
        assert_eq!(all.set(true, OTHER, &list), None, "{number}");
    }
    assert_eq!((all.set(false, OWN, &[4]), all.report(false, OWN)), (None, vec![(0x0b, 4)]));
    assert_eq!(all.report(true, OWN), [(0x0a, 3)]);
    assert!(all.rig.unit.priorities().len() <= 1024);
}

#[test]
fn commands_that_name_none_have_the_priority_of_their_nexus() {
    let mut all = Priorities::new();
    assert_eq!(all.set(true, OWN, &[15]), None);
    assert_eq!(all.set(false, OWN, &[2]), None);
    let Priorities { rig, a, b } = &mut all;
    for tag in 0..ROOM as u64 {
        rig.read(a, tag, "simple");
    }
    for (from, tag, priority) in [(&*a, 100, 0), (a, 101, 14), (b, 200, 0), (b, 201, 1)] {
        assert_eq!(prioritized(rig, from, tag, priority), None);
    }
    (0..ROOM).for_each(|_| rig.complete_one(Ok(1)));
    a.good();
    let mut order = Vec::new();
    for _ in 0..4 {
        rig.complete_one(Ok(1));
        order.extend(a.good().into_iter().chain(b.good()));
    }
    assert_eq!(order, [201, 200, 101, 100]);
}

#[test]
fn priorities_that_cannot_be_set() {
    let mut all = Priorities::new();
    let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(all.set(true, OWN, &[]), Some(length_error));
    assert_eq!(all.set(true, OTHER, &list(1, 0x0b)[..31]), Some(length_error));
    assert_eq!(all.set(true, 0xc0, &[1]), Some(Sense::invalid_field_in_cdb(2, Some(7))));
    let mut elsewhere = list(1, 0x0b);
    elsewhere[3] = 9;
    assert_eq!(all.set(true, OTHER, &elsewhere), Some(Sense::invalid_field_in_parameter_list(2, None)));
    let initiator = TransportId::Iscsi { name: "iqn.x".into(), isid: None };
    let device = NexusPriority { priority: 1, relative_port: 1, initiator }.encode();
    assert_eq!(all.set(true, OTHER, &device), Some(Sense::invalid_field_in_parameter_list(8, None)));
    let action = service_action::REPORT_PRIORITY as u8;
    let sense = all.run(true, [0xa3, action, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]).sense;
    assert_eq!(sense.as_deref(), Some(&Sense::invalid_field_in_cdb(2, Some(7))));
    assert_eq!(all.report(true, OTHER), []);
}
