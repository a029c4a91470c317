use super::*;
use crate::order::TURNS_AT_A_TIME;
use crate::{Aborted, Delays, Limit, Limiter, Limits, Rate, Rates};
use lunette_scsi::Status;
use lunette_store::Post;
use std::num::NonZeroU64;
use std::time::Duration;

pub(super) fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst })
}

fn commands(per_second: u64) -> Rates {
    Rates { commands: rate(per_second, 1), bytes: None }
}

fn limits<const N: usize>(limits: [&Arc<Limit>; N]) -> Limits {
    limits.map(Arc::clone).into()
}

fn poster(rig: &mut Rig) -> Arc<dyn Post> {
    rig.sim.cx(0).poster()
}

/// The limits of each initiator, and of all others.
struct By(Vec<(&'static str, Limits)>);

impl Limiter for By {
    fn limits(&self, nexus: &Nexus) -> Limits {
        let theirs = self.0.iter().find(|(name, _)| **name == **nexus.name() || name.is_empty());
        theirs.map(|(_, limits)| limits.clone()).unwrap_or_default()
    }
}

fn limit_by(rig: &mut Rig, by: Vec<(&'static str, Limits)>) {
    let post = poster(rig);
    rig.unit.set_limiter(Arc::new(By(by)), &*post);
}

pub(super) fn limit_unit(rig: &mut Rig, limit: &Arc<Limit>) {
    limit_by(rig, vec![("", limits([limit]))]);
}

/// An initiator that always has so many commands there.
struct Busy {
    initiator: Initiator,
    depth: usize,
    under_way: usize,
    ended: u64,
    tag: u64,
}

impl Busy {
    fn new(rig: &mut Rig, nexus: &Arc<Nexus>, reactor: usize, depth: usize) -> Self {
        let initiator = rig.open(nexus, reactor);
        Self { initiator, depth, under_way: 0, ended: 0, tag: 100 }
    }

    fn go_on(&mut self, rig: &mut Rig) {
        let ended = self.initiator.good().len();
        self.ended += ended as u64;
        self.under_way -= ended;
        while self.under_way < self.depth {
            self.tag += 1;
            rig.read(&self.initiator, self.tag, "simple");
            self.under_way += 1;
        }
    }
}

/// Lets time pass in small steps, in which whatever comes to the store is done. Returns how many commands of each have ended.
fn run<const N: usize>(rig: &mut Rig, busy: &mut [Busy; N], time: Duration) -> [u64; N] {
    const STEP: Duration = Duration::from_micros(300);
    let before = busy.each_ref().map(|one| one.ended);
    for _ in 0..time.as_nanos() / STEP.as_nanos() {
        busy.iter_mut().for_each(|one| one.go_on(rig));
        rig.complete_all();
        rig.pass(STEP);
    }
    busy.iter_mut().for_each(|one| one.go_on(rig));
    std::array::from_fn(|index| busy[index].ended - before[index])
}

/// Whether there are as many as expected, give or take two in a hundred.
fn assert_about(count: u64, expected: u64) {
    assert!(count.abs_diff(expected) <= expected / 50 + 1, "{count} instead of {expected}");
}

pub(super) const SECOND: Duration = Duration::from_secs(1);

const MIB: u64 = 1 << 20;

/// Writes more than it is sent, and reads one byte.
pub(super) static SAME: Command<Toy> = Command {
    spec: CommandSpec::new(Opcode::ORWRITE_16, &[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None).limited(),
    decode: |_, _| {
        let plan = Plan::run(0, async move |run| {
            let memory = Rc::new(Memory::zeroed(1));
            run.read(0, &memory, 1).await.map(drop).map_err(|error| crate::sense_of(IoKind::Read, error))
        });
        Ok(plan.writing(128 * MIB))
    },
};

/// Two initiators, the first of which is limited.
fn limited_and_not(rig: &mut Rig, limit: &Arc<Limit>) -> [Initiator; 2] {
    let nexuses = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let both = nexuses.map(|nexus| rig.open(&nexus, 0));
    limit_by(rig, vec![("a", limits([limit]))]);
    both
}

fn statuses(of: &Initiator) -> Vec<Status> {
    let ended = of.events().into_iter().filter_map(|event| match event {
        Event::Ended(_, Completion::Ended(outcome)) => Some(outcome.status),
        _ => None,
    });
    ended.collect()
}

fn status(outcome: Option<Outcome>) -> Option<Status> {
    outcome.map(|outcome| outcome.status)
}

#[test]
fn initiators_of_a_unit_keep_to_its_rate_and_share_it_fairly() {
    let mut rig = Rig::new(2);
    // A limit that is there before its nexuses, whose first commands count too.
    let limit = Limit::new(commands(1000));
    limit_unit(&mut rig, &limit);
    let nexuses =
        ["iqn.a,i,0x01", "iqn.a,i,0x02", "iqn.b,i,0x01"].map(|name| Nexus::new(name, rig.port.clone()));
    let [one, two, other] = &nexuses;
    // One of them has two sessions, one has two queues, on different reactors.
    let mut busy =
        [Busy::new(&mut rig, one, 0, 16), Busy::new(&mut rig, two, 1, 3), Busy::new(&mut rig, other, 1, 2)];
    let [one, two, other] = run(&mut rig, &mut busy, 4 * SECOND);
    assert_about(one + two + other, 4000);
    assert_about(other, 2000);
    // Alone it gets everything.
    busy[0].depth = 0;
    busy[1].depth = 0;
    run(&mut rig, &mut busy, SECOND / 10);
    let [.., other] = run(&mut rig, &mut busy, SECOND);
    assert_about(other, 1000);
}

/// However late reactors look, tokens that have come by then are used: none are lost, and none are there twice.
#[test]
fn who_always_wants_more_gets_exactly_what_he_may() {
    const STEP: Duration = Duration::from_millis(7);
    for rates in [commands(1000), Rates { commands: None, bytes: rate(1000, 1) }] {
        let mut rig = Rig::new(1);
        let nexus = Nexus::new("a", rig.port.clone());
        let mut busy = Busy::new(&mut rig, &nexus, 0, 64);
        limit_unit(&mut rig, &Limit::new(rates));
        for step in 0..500 {
            busy.go_on(&mut rig);
            rig.complete_all();
            busy.go_on(&mut rig);
            // What comes in a hundredth of a second is there at first.
            let most = 10 + 7 * step;
            assert!((most - 1..=most).contains(&busy.ended), "{} instead of {most}", busy.ended);
            rig.pass(STEP);
        }
    }
}

#[test]
fn every_limit_of_a_command_counts() {
    let mut rig = Rig::new(1);
    let [a, b] = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let mut busy = [Busy::new(&mut rig, &a, 0, 4), Busy::new(&mut rig, &b, 0, 4)];
    let (unit, group, own) = (
        Limit::new(commands(1000)),
        Limit::new(commands(500)),
        Limit::new(Rates { commands: None, bytes: rate(100, 1) }),
    );
    limit_by(&mut rig, vec![("a", limits([&unit, &own, &group])), ("b", limits([&unit, &group]))]);
    let [a_has, b_has] = run(&mut rig, &mut busy, 2 * SECOND);
    assert_about(a_has, 200);
    assert_about(b_has, 800);
    limit_by(&mut rig, vec![("a", limits([&unit, &own, &group])), ("b", limits([&unit]))]);
    let [a_has, b_has] = run(&mut rig, &mut busy, SECOND);
    assert_about(a_has, 100);
    assert_about(b_has, 900);
}

#[test]
fn limits_are_changed_and_lifted_while_commands_wait() {
    let mut rig = Rig::new(1);
    let nexus = Nexus::new("a", rig.port.clone());
    let mut busy = [Busy::new(&mut rig, &nexus, 0, 8)];
    let limit = Limit::new(commands(1));
    limit_unit(&mut rig, &limit);
    run(&mut rig, &mut busy, SECOND / 4);
    let post = poster(&mut rig);
    limit.set(commands(2000), &*post);
    let [has] = run(&mut rig, &mut busy, SECOND);
    assert_about(has, 2000);
    limit.set(commands(1), &*post);
    run(&mut rig, &mut busy, SECOND / 4);
    assert_eq!(rig.at_store(), 0);
    limit_by(&mut rig, vec![]);
    assert_eq!(rig.at_store(), ROOM, "what has waited goes on at once");
    let [has] = run(&mut rig, &mut busy, SECOND / 10);
    assert!(has > 2000, "{has}");
    // Nothing is left that would wake up a reactor for ever.
    rig.pass(2 * SECOND);
    assert_eq!(rig.sim.cx(0).timers().count(), 0);
}

#[test]
fn what_waits_for_tokens_is_aborted_at_once_and_pays_nothing() {
    let mut rig = Rig::new(2);
    let [a, b] = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, b) = (rig.open(&a, 0), rig.open(&b, 1));
    let limit = Limit::new(commands(1));
    limit_unit(&mut rig, &limit);
    for tag in 1..=5 {
        rig.read(&a, tag, "simple");
        rig.read(&b, tag, "simple");
    }
    assert_eq!(rig.at_store(), 1);
    rig.complete_one(Ok(1));
    assert_eq!((a.good(), b.good().len()), (vec![1], 0));
    rig.manage(&a, TaskManagementFunction::AbortTask, 3);
    rig.sim.settle();
    let aborted = |tag| Event::Ended(tag, Completion::Aborted(Aborted::ByItsNexus));
    let done = Event::Managed(1000, ServiceResponse::FunctionComplete);
    assert_eq!(a.events(), [aborted(3), done]);
    rig.manage(&b, TaskManagementFunction::AbortTaskSet, 0);
    rig.sim.settle();
    assert_eq!(b.events().len(), 6);
    // The three that are left have their turns as if the others had not been there.
    for tag in [2, 4, 5] {
        rig.pass(SECOND * 99 / 100);
        assert_eq!(rig.at_store(), 0, "{tag}");
        rig.pass(SECOND / 50);
        assert_eq!(rig.at_store(), 1, "{tag}");
        rig.complete_one(Ok(1));
        assert_eq!(a.good(), [tag]);
    }
    // What has paid and is aborted before it has begun gets it back.
    rig.pass(5 * SECOND);
    rig.read(&a, 6, "simple");
    rig.read(&a, 7, "simple");
    rig.read(&b, 8, "simple");
    rig.complete_all();
    for _ in 0..2 {
        rig.sim.advance(SECOND + SECOND / 50);
        assert!(rig.sim.step(0));
    }
    // By now it is on its way to the other reactor that this one may begin.
    rig.manage(&b, TaskManagementFunction::AbortTask, 8);
    rig.complete_all();
    assert_eq!((a.good(), b.events().len()), (vec![6, 7], 2));
    rig.read(&a, 9, "simple");
    assert_eq!(rig.at_store(), 1);
}

#[test]
fn who_waits_is_counted_however_he_leaves() {
    let mut rig = Rig::new(2);
    let [a, b] = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, b) = (rig.open(&a, 0), rig.open(&b, 1));
    let delays = Arc::<Delays>::default();
    // Two limits are counted together.
    let each = [(); 2].map(|()| Limit::with_delays(commands(1), delays.clone()));
    limit_by(&mut rig, vec![("a", limits([&each[0]])), ("b", limits([&each[1]]))]);
    (1..=4).for_each(|tag| rig.read(&a, tag, "simple"));
    (1..=3).for_each(|tag| rig.read(&b, tag, "simple"));
    let counted = || (delays.waiting(), delays.waits());
    assert_eq!(counted(), (5, 5));
    rig.manage(&a, TaskManagementFunction::AbortTask, 3);
    rig.sim.settle();
    assert_eq!(counted(), (4, 5));
    rig.pass(SECOND * 11 / 10);
    assert_eq!(counted(), (2, 5));
    limit_by(&mut rig, vec![]);
    rig.complete_all();
    assert_eq!((a.events().len(), b.events().len(), counted()), (5, 3, (0, 5)));
}

#[test]
fn asking_and_steering_are_free_and_order_is_kept() {
    let mut rig = Rig::new(1);
    let nexus = Nexus::new("a", rig.port.clone());
    let a = rig.open(&nexus, 0);
    let limit = Limit::new(commands(10));
    limit_unit(&mut rig, &limit);
    rig.read(&a, 1, "ordered");
    rig.read(&a, 2, "simple");
    rig.read(&a, 3, "simple");
    assert!(rig.send(&a, 4, "head of queue", &ECHO.spec).is_some());
    let mut order = Vec::new();
    for _ in 0..60 {
        rig.complete_all();
        order.extend(a.good());
        rig.pass(SECOND / 100);
    }
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn what_others_have_to_wait_for_waits_for_no_tokens() {
    let mut rig = Rig::new(1);
    let limit = Limit::new(commands(1));
    let [a, b] = limited_and_not(&mut rig, &limit);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    // It would come after the second one, and the third would wait itself.
    assert_eq!(status(rig.send(&a, 3, "ordered", &ECHO.spec)), Some(Status::TASK_SET_FULL));
    assert_eq!(status(rig.send(&a, 3, "head of queue", &READ.spec)), Some(Status::TASK_SET_FULL));
    assert_eq!(status(rig.send(&a, 3, "head of queue", &ECHO.spec)), Some(Status::GOOD));
    rig.complete_all();
    assert_eq!(a.good(), [1]);
    // All before an ORDERED command goes on, and is paid for afterwards.
    rig.read(&b, 10, "ordered");
    assert_eq!(rig.at_store(), 1);
    rig.complete_all();
    assert_eq!((a.good(), b.good()), (vec![2], vec![10]));
    assert_eq!(status(rig.send(&a, 4, "ordered", &READ.spec)), Some(Status::BUSY));
    rig.pass(SECOND * 3 / 2);
    assert_eq!(status(rig.send(&a, 4, "ordered", &READ.spec)), Some(Status::BUSY));
    rig.pass(SECOND);
    rig.read(&a, 5, "ordered");
    rig.read(&a, 6, "simple");
    rig.complete_all();
    assert_eq!((a.good(), rig.at_store()), (vec![5], 0), "it has paid for itself");
    rig.pass(SECOND * 11 / 10);
    rig.complete_all();
    assert_eq!(a.good(), [6]);
    // While tokens are there they cost what others do.
    rig.pass(SECOND * 2);
    rig.read(&a, 7, "head of queue");
    rig.read(&a, 8, "simple");
    rig.complete_all();
    assert_eq!(a.good(), [7]);
}

#[test]
fn what_came_before_a_limit_and_is_waited_for_goes_into_debt() {
    let mut rig = Rig::new(1);
    let nexus = Nexus::new("a", rig.port.clone());
    let a = rig.open(&nexus, 0);
    rig.quiesced();
    (1..=3).for_each(|tag| rig.read(&a, tag, "ordered"));
    let limit = Limit::new(commands(1));
    limit_unit(&mut rig, &limit);
    rig.go_on();
    rig.complete_all();
    assert_eq!(a.good(), [1, 2, 3]);
    rig.read(&a, 4, "simple");
    rig.pass(SECOND * 29 / 10);
    assert_eq!(rig.at_store(), 0);
    rig.pass(SECOND / 5);
    assert_eq!(rig.at_store(), 1);
}

#[test]
fn a_command_that_costs_much_pays_in_turns_with_others() {
    let mut rig = Rig::new(1);
    let [a, b] = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, b) = (rig.open(&a, 0), rig.open(&b, 0));
    let limit = Limit::new(Rates { commands: None, bytes: rate(32 * MIB, 1) });
    limit_unit(&mut rig, &limit);
    assert_eq!(rig.send(&a, 1, "simple", &SAME.spec), None);
    rig.sim.settle();
    // Nobody waits for more than what is paid at a time, once before him and once beside him.
    let mut ended = Vec::new();
    for turn in 0..5 {
        rig.read(&b, turn, "simple");
        for _ in 0..21 {
            rig.pass(SECOND / 10);
        }
        rig.complete_all();
        assert_eq!(b.good(), [turn]);
        ended.extend(a.good().iter().map(|_| turn));
    }
    assert_eq!(ended, [1], "four times what comes in a second");
    // What it has paid is given back when it is aborted.
    rig.pass(SECOND);
    assert_eq!(rig.send(&a, 2, "simple", &SAME.spec), None);
    rig.pass(SECOND / 10);
    rig.manage(&a, TaskManagementFunction::AbortTask, 2);
    rig.sim.settle();
    assert_eq!(a.events().len(), 2);
    rig.read(&b, 20, "simple");
    rig.pass(SECOND / 10);
    rig.complete_all();
    assert_eq!(b.good(), [20]);
}

#[test]
fn what_waits_for_tokens_after_room_is_offered_room_again() {
    let mut rig = Rig::new(1);
    let limit = Limit::new(commands(1));
    let [a, _] = limited_and_not(&mut rig, &limit);
    let identity = Identity::new("2", Naa::locally_assigned(2));
    let neighbour = Held::new(MIB, ROOM);
    let neighbour = LogicalUnit::new("neighbour", identity, Box::new(Toy), Some(Arc::new(neighbour)));
    let port =
        TargetPort::new("other,t,0x0001", 1, Protocol::ISCSI, BTreeMap::from([(0, neighbour.clone())]));
    let nexus = Nexus::new("neighbour", port);
    let others = rig.open(&nexus, 0);
    rig.quiesced();
    (1..=2).for_each(|tag| rig.read(&a, tag, "simple"));
    rig.go_on();
    rig.complete_all();
    assert_eq!(a.good(), [1]);
    // Its store has no room because of another unit's commands, when the other one has paid.
    (1..=ROOM as u64).for_each(|tag| rig.read(&others, tag, "simple"));
    rig.pass(SECOND * 11 / 10);
    assert_eq!(rig.at_store(), ROOM);
    rig.complete_one(Ok(1));
    rig.pass(Duration::from_millis(2));
    assert_eq!(rig.at_store(), ROOM, "it has taken the room");
    rig.complete_all();
    assert_eq!(a.good(), [2]);
}

#[test]
fn what_is_let_go_comes_by_and_by_and_is_not_turned_away() {
    const MANY: u64 = 300;
    let mut rig = Rig::new(1);
    let nexus = Nexus::new("a", rig.port.clone());
    let a = rig.open(&nexus, 0);
    rig.unit.limit_waiting(2);
    let limit = Limit::new(commands(1));
    limit_unit(&mut rig, &limit);
    (0..MANY).for_each(|tag| rig.read(&a, tag, "simple"));
    rig.sim.settle();
    let post = poster(&mut rig);
    limit.set(commands(1_000_000_000), &*post);
    assert!(rig.sim.step(0));
    let waiting = rig.unit.waiting().count();
    assert!((1..=TURNS_AT_A_TIME).contains(&waiting), "{waiting}");
    rig.complete_all();
    assert_eq!(statuses(&a), vec![Status::GOOD; MANY as usize]);
    // The same when tokens are there all at once.
    limit.set(commands(1), &*post);
    (0..MANY).for_each(|tag| rig.read(&a, tag, "simple"));
    rig.sim.settle();
    limit.set(Rates::default(), &*post);
    rig.complete_all();
    assert_eq!(statuses(&a), vec![Status::GOOD; MANY as usize]);
    // And when there were none for a moment.
    limit.set(commands(100_000), &*post);
    for tag in 0..1000 {
        rig.read(&a, tag, "simple");
        rig.complete_all();
    }
    (0..MANY).for_each(|tag| rig.read(&a, tag, "simple"));
    rig.sim.advance(SECOND);
    while rig.unit.waiting().count() == 0 {
        assert!(rig.sim.step(0));
    }
    let waiting = rig.unit.waiting().count();
    assert!((1..=TURNS_AT_A_TIME).contains(&waiting), "{waiting}");
    rig.complete_all();
    assert_eq!(statuses(&a), vec![Status::GOOD; 1000 + MANY as usize]);
}

#[test]
fn who_is_called_up_has_paid_for_nothing() {
    let mut rig = Rig::new(1);
    let limit = Limit::new(commands(1));
    let [a, b] = limited_and_not(&mut rig, &limit);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    // It ends before it looks again.
    limit_by(&mut rig, vec![("b", limits([&limit]))]);
    rig.manage(&a, TaskManagementFunction::AbortTask, 2);
    rig.read(&b, 3, "simple");
    assert_eq!((rig.at_store(), a.events().len()), (1, 2));
    rig.complete_all();
    assert!(b.good().is_empty());
    rig.pass(SECOND * 11 / 10);
    rig.complete_all();
    assert_eq!(b.good(), [3]);
}

#[test]
fn who_begins_anew_or_not_at_all_gets_back_what_he_has_paid() {
    let mut rig = Rig::new(1);
    let [a, b] = ["a", "b"].map(|name| Nexus::new(name, rig.port.clone()));
    let (a, b) = (rig.open(&a, 0), rig.open(&b, 0));
    let (unit, own) = (Limit::new(Rates { commands: rate(1, 3), bytes: None }), Limit::new(commands(1)));
    limit_by(&mut rig, vec![("a", limits([&unit, &own])), ("b", limits([&unit]))]);
    rig.read(&a, 1, "simple");
    rig.read(&a, 2, "simple");
    rig.complete_all();
    assert_eq!(a.good(), [1]);
    limit_by(&mut rig, vec![("a", limits([&unit, &own])), ("b", limits([&unit]))]);
    rig.sim.settle();
    rig.manage(&a, TaskManagementFunction::AbortTask, 2);
    rig.sim.settle();
    assert_eq!(a.events().len(), 2);
    (3..=5).for_each(|tag| rig.read(&b, tag, "simple"));
    rig.complete_all();
    assert_eq!(b.good(), [3, 4]);
}

#[test]
fn sessions_that_end_leave_nothing_behind() {
    let mut rig = Rig::new(1);
    let nexus = Nexus::new("a", rig.port.clone());
    let a = rig.open(&nexus, 0);
    let limit = Limit::new(commands(1));
    limit_unit(&mut rig, &limit);
    (1..=5).for_each(|tag| rig.read(&a, tag, "simple"));
    rig.complete_all();
    a.session.turn_back(rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(a.events().len(), 5);
    (6..=9).for_each(|tag| rig.read(&a, tag, "simple"));
    a.session.close(7, rig.sim.cx(0));
    rig.sim.settle();
    assert_eq!(a.events().len(), 5, "four commands and the end");
    drop((a, nexus));
    rig.pass(3 * SECOND);
    assert_eq!(rig.sim.cx(0).timers().count(), 0);
    limit_by(&mut rig, vec![]);
    assert_eq!(Arc::strong_count(&limit), 1);
}
