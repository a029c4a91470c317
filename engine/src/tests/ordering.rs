use super::*;

#[test]
fn simple_tasks_run_beside_each_other() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    assert_eq!(rig.at_store(), 2);
}

#[test]
fn an_ordered_task_waits_for_older_ones_and_holds_younger_ones() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "ordered");
    rig.read(&a, 3, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1, "only the ordered task");
    assert_eq!(a.good(), [1]);
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [2]);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [3]);
}

#[test]
fn a_head_of_queue_task_does_not_wait() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "ordered");
    rig.read(&a, 3, "head of queue");
    assert_eq!(rig.at_store(), 2, "the simple and the head-of-queue task");
    rig.complete_all();
    assert_eq!(a.good(), [1, 3, 2]);
}

#[test]
fn simple_and_ordered_tasks_wait_for_the_head_of_the_queue() {
    let mut rig = Rig::new(3);
    let (a, b, c) = (rig.initiator(0), rig.initiator(1), rig.initiator(2));
    rig.read(&a, 1, "ordered");
    rig.read(&b, 2, "head of queue");
    rig.read(&c, 3, "simple");
    assert_eq!(rig.at_store(), 1, "it overtakes the ordered one on another reactor");
    rig.complete_one(Ok(1));
    assert_eq!((b.good(), rig.at_store()), (vec![2], 1));
    rig.read(&b, 4, "head of queue");
    assert_eq!(rig.at_store(), 2, "beside the ordered one");
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), rig.at_store()), (vec![1], 1), "task 3 waits for task 4");
    rig.complete_all();
    assert_eq!((b.good(), c.good()), (vec![4], vec![3]));
}

#[test]
fn the_order_of_arrival_is_that_of_the_unit() {
    let mut rig = Rig::new(3);
    let (a, b, c) = (rig.initiator(0), rig.initiator(1), rig.initiator(2));
    for (from, tag, attribute) in
        [(&a, 1, "ordered"), (&b, 2, "simple"), (&c, 3, "ordered"), (&b, 4, "simple"), (&a, 5, "ordered")]
    {
        rig.read(from, tag, attribute);
    }
    for (ended, tag) in [(&a, 1), (&b, 2), (&c, 3), (&b, 4), (&a, 5)] {
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Ok(1));
        assert_eq!(ended.good(), [tag]);
    }
}

#[test]
fn an_ordered_task_holds_what_comes_later_before_anybody_is_told() {
    let mut rig = Rig::new(2);
    let (a, b) = (rig.initiator(0), rig.initiator(1));
    rig.read(&a, 1, "ordered");
    rig.read(&b, 2, "simple");
    assert_eq!(rig.held(), [0, 0]);
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [1]);
}

#[test]
fn an_ordered_task_stops_the_other_reactors() {
    let mut rig = Rig::new(3);
    let (a, b, c) = (rig.initiator(0), rig.initiator(1), rig.initiator(2));
    rig.read(&a, 1, "simple");
    rig.read(&b, 2, "simple");
    rig.read(&a, 3, "ordered");
    assert_eq!(rig.at_store(), 2);
    rig.read(&b, 4, "simple");
    rig.read(&c, 5, "simple");
    assert_eq!(rig.at_store(), 2, "younger tasks wait on every reactor");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1, "one older task is still at work");
    rig.complete_one(Ok(1));
    assert_eq!(rig.at_store(), 1, "now the ordered task has the set to itself");
    assert_eq!((a.good(), b.good()), (vec![1], vec![2]));
    rig.complete_one(Ok(1));
    assert_eq!(a.good(), [3]);
    assert_eq!(rig.at_store(), 2);
    rig.complete_all();
    assert_eq!((b.good(), c.good()), (vec![4], vec![5]));
}

#[test]
fn ordered_tasks_of_several_reactors_take_turns() {
    let mut rig = Rig::new(3);
    let all = [rig.initiator(0), rig.initiator(1), rig.initiator(2)];
    for tag in 0..4 {
        for initiator in &all {
            rig.read(initiator, tag, "ordered");
        }
    }
    for _ in 0..12 {
        assert_eq!(rig.at_store(), 1);
        rig.complete_one(Ok(1));
    }
    assert_eq!(rig.at_store(), 0);
    for initiator in &all {
        assert_eq!(initiator.good(), [0, 1, 2, 3]);
        rig.read(initiator, 9, "simple");
    }
    assert_eq!(rig.at_store(), 3, "the barrier is gone");
}

#[test]
fn an_ordered_task_aborted_in_the_queue_for_the_barrier_holds_nobody_up() {
    let mut rig = Rig::new(3);
    let (a, b, c) = (rig.initiator(0), rig.initiator(1), rig.initiator(2));
    for (tag, initiator) in [(1, &a), (2, &a), (3, &b), (4, &c)] {
        rig.read(initiator, tag, "ordered");
    }
    assert_eq!(rig.at_store(), 1);
    // The first reactor takes the barrier again before the others can; they queue for it.
    rig.complete_one(Ok(1));
    rig.manage(&b, TaskManagementFunction::AbortTask, 3);
    rig.complete_all();
    assert_eq!((a.good(), c.good()), (vec![1, 2], vec![4]));
}

#[test]
fn a_task_that_waits_for_its_data_is_older_than_an_ordered_one() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let cdb = Cdb::new(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let frame = CommandFrame { tag: 1, cookie: 1, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let Admission::Admitted { task, wanted_in, .. } = a.session.admit(&frame, rig.sim.cx(0)) else {
        panic!()
    };
    assert_eq!(wanted_in, 1);
    rig.read(&a, 2, "ordered");
    assert_eq!(rig.at_store(), 0);
    let started = a.session.start(task, Sg::empty(), Sg::new(&[a.memory.seg()]), rig.sim.cx(0));
    assert!(matches!(started, Started::Pending));
    rig.complete_all();
    assert_eq!(a.good(), [1, 2]);
}

#[test]
fn a_reactor_that_joins_during_a_barrier_waits() {
    let mut rig = Rig::new(2);
    let a = rig.initiator(0);
    rig.read(&a, 1, "ordered");
    assert_eq!(rig.at_store(), 1);
    let nexus = Nexus::new("late", rig.port.clone());
    let log = Rc::<Log>::default();
    let responder: Rc<dyn Responder> = log.clone();
    let session = Session::open(nexus, Rc::downgrade(&responder), rig.sim.cx(1));
    let late = Initiator { reactor: 1, session, log, memory: Memory::zeroed(1) };
    assert!(rig.send(&late, 0, "simple", &READ.spec).unwrap().sense.is_some(), "power on");
    rig.read(&late, 1, "simple");
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!((a.good(), late.good()), (vec![1], vec![1]));
}

/// MODE SENSE(6) of the Control page, without a block descriptor.
const MODE_SENSE: [u8; 6] = [0x1a, 0x08, 0x0a, 0, 16, 0];
/// MODE SELECT(6) of as many bytes.
const MODE_SELECT: [u8; 6] = [0x15, 0x10, 0, 0, 16, 0];

fn send_cdb(
    rig: &mut Rig,
    from: &Initiator,
    tag: u64,
    ordered: bool,
    cdb: [u8; 6],
    data: &Memory,
) -> Started {
    let cdb = Cdb::new(&cdb).unwrap();
    let is_out = cdb.as_bytes()[0] == MODE_SELECT[0];
    let attribute = if ordered { TaskAttribute::Ordered } else { TaskAttribute::Simple };
    let data_out = if is_out { data.len() as u64 } else { 0 };
    let frame =
        CommandFrame { tag, attribute, data_out, cookie: tag, ..CommandFrame::new(Lun::from_index(0), &cdb) };
    let data = [data.seg()];
    let (out, into) = if is_out { (Sg::new(&data), Sg::empty()) } else { (Sg::empty(), Sg::new(&data)) };
    from.session.execute(&frame, out, into, rig.sim.cx(from.reactor))
}

#[test]
fn a_task_that_waited_sees_what_an_older_one_changed() {
    const DESCRIPTOR_SENSE: u8 = 0x04;
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let (before, after) = (Memory::zeroed(16), Memory::zeroed(16));
    assert!(matches!(send_cdb(&mut rig, &a, 0, false, MODE_SENSE, &before), Started::Ended(_)));
    let mut control = before.to_vec();
    (control[0], control[6]) = (0, control[6] | DESCRIPTOR_SENSE);
    let list = Memory::from_bytes(&control);
    rig.read(&a, 1, "simple");
    assert!(matches!(send_cdb(&mut rig, &a, 2, true, MODE_SELECT, &list), Started::Pending));
    assert!(matches!(send_cdb(&mut rig, &a, 3, false, MODE_SENSE, &after), Started::Pending));
    rig.complete_all();
    assert_eq!(a.good(), [1, 2, 3]);
    assert_eq!(after.to_vec()[4..], control[4..]);
}

#[test]
fn priority_and_reference_number_reach_the_device_also_after_a_wait() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    let mut cdb = [0; 10];
    cdb[0] = ECHO.spec.opcode.0;
    let cdb = Cdb::new(&cdb).unwrap();
    for attribute in [TaskAttribute::Simple, TaskAttribute::Ordered] {
        let (priority, reference_number) = (3, 200);
        let command = CommandFrame::new(Lun::from_index(0), &cdb);
        let command = CommandFrame { attribute, priority, reference_number, ..command };
        let memory = Memory::zeroed(2);
        let started = a.session.execute(&command, Sg::empty(), Sg::new(&[memory.seg()]), rig.sim.cx(0));
        assert_eq!(matches!(started, Started::Pending), attribute == TaskAttribute::Ordered);
        rig.sim.settle();
        assert_eq!(memory.to_vec(), [3, 200]);
    }
}

#[test]
fn others_have_their_turn_while_many_tasks_get_theirs() {
    let mut rig = Rig::new(1);
    let a = rig.initiator(0);
    rig.read(&a, 0, "ordered");
    for tag in 1..=200 {
        assert_eq!(rig.send(&a, tag, "simple", &ECHO.spec), None);
    }
    assert_eq!(rig.at_store(), 1);
    rig.complete(0, Ok(1));
    let mut steps = Vec::new();
    while rig.sim.step(0) {
        steps.push(a.good().len());
    }
    assert_eq!(steps.iter().sum::<usize>(), 201);
    assert!(steps.iter().all(|ended| *ended <= crate::order::TURNS_AT_A_TIME), "{steps:?}");
}
