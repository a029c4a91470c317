use super::*;
use crate::events::History;
use crate::ticket::tests::ticket;
use crate::{Credentials, NoParams, Status};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::Receiver;
use std::time::UNIX_EPOCH;

/// Tasks that are done when a test wants.
#[derive(Clone, Default)]
pub(crate) struct Later(Arc<Mutex<Vec<(Crew, Task)>>>);

impl Workers for Later {
    fn run(&self, crew: Crew, task: Task) {
        self.0.lock().unwrap().push((crew, task));
    }
}

/// None can be started.
struct NoThreads;

impl Workers for NoThreads {
    fn run(&self, _: Crew, task: Task) {
        drop(task);
    }
}

impl Later {
    pub(crate) fn crews(&self) -> Vec<Crew> {
        self.0.lock().unwrap().iter().map(|(crew, _)| *crew).collect()
    }

    /// Does all of them, also those that come from them.
    pub(crate) fn work(&self) {
        while !self.0.lock().unwrap().is_empty() {
            let (_, task) = self.0.lock().unwrap().remove(0);
            // A thread that panics is a fault of the test's method.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct To {
    to: u32,
}

/// The daemon of the tests is a number.
pub(crate) fn table() -> Table<AtomicU32> {
    fn get(call: &Call<'_, AtomicU32>, _: NoParams) -> Result<u32, Failure> {
        Ok(call.daemon.load(Ordering::SeqCst))
    }
    fn set(call: &Call<'_, AtomicU32>, To { to }: To) -> Result<Value, Failure> {
        match to {
            13 => Err(Failure::failed("no such luck")),
            14 => panic!("a fault"),
            _ => Ok(json!({ "was": call.daemon.swap(to, Ordering::SeqCst) })),
        }
    }
    fn count(call: &Call<'_, AtomicU32>, To { to }: To) -> Result<u32, Failure> {
        for step in 0..to {
            call.work.go_on()?;
            call.work.progress(f64::from(step) / f64::from(to), "counting");
            call.daemon.fetch_add(1, Ordering::SeqCst);
        }
        Ok(to)
    }
    fn much(_: &Call<'_, AtomicU32>, _: NoParams) -> Result<String, Failure> {
        Ok("x".repeat(1 << 19))
    }
    Table::new([
        Method::new(Effect::Reads, "number.get", "Tells it.", get),
        Method::new(Effect::Reads, "number.much", "Tells much.", much),
        Method::new(Effect::Changes, "number.set", "Sets it.", set),
        Method::new(Effect::Acts, "number.count", "Counts up.", count).long(),
        Method::new(Effect::Changes, "number.change", "Counts up.", count).long(),
        Method::new(Effect::Acts, "number.beside", "Counts up.", count).in_turn(),
        Method::new(Effect::Acts, "number.act", "Counts up.", count),
    ])
}

pub(crate) fn feed() -> Feed {
    Feed::new(|| UNIX_EPOCH + Duration::from_secs(1000), 1_000_000).unwrap()
}

pub(crate) fn plane(feed: &Feed) -> (Arc<Plane<AtomicU32>>, Later) {
    let later = Later::default();
    let about = About { version: "7", kinds: &[] };
    (Plane::new(AtomicU32::new(5), table(), about, later.clone(), feed), later)
}

struct World {
    plane: Arc<Plane<AtomicU32>>,
    later: Later,
    history: History,
}

impl World {
    fn new() -> Self {
        let feed = feed();
        let (plane, later) = plane(&feed);
        Self { plane, later, history: History::new(feed.inbox, Vec::new()) }
    }

    fn ask_as(&self, caller: Caller, method: &str, params: Value) -> Receiver<Result<Value, Failure>> {
        let (ticket, told) = ticket();
        let params = params.as_object().unwrap().clone();
        match self.plane.find(method, &caller) {
            Ok(method) => self.plane.carry_out(method, caller, params, ticket),
            Err(failure) => ticket.answer(Err(failure)),
        }
        told
    }

    fn ask(&self, method: &str, params: Value) -> Receiver<Result<Value, Failure>> {
        self.ask_as(Caller::own(), method, params)
    }

    /// The answer, when all is done.
    fn answer(&self, method: &str, params: Value) -> Result<Value, Failure> {
        let told = self.ask(method, params);
        self.later.work();
        told.try_recv().unwrap()
    }

    fn code(&self, method: &str, params: Value) -> i64 {
        self.answer(method, params).unwrap_err().code
    }

    fn kinds(&mut self) -> Vec<&'static str> {
        self.history.take_in();
        self.history.after(0).map(|event| event.kind).collect()
    }
}

fn reader() -> Caller {
    let credentials = Credentials { pid: 1, uid: 77, groups: Vec::new() };
    Caller { credentials, role: Role::Reader, connection: Some(1) }
}

#[test]
fn changes_move_the_generation_and_may_depend_on_it() {
    let mut world = World::new();
    let generation = world.plane.generation();
    assert_eq!(generation, 1_000_000);
    let first = world.answer("number.set", json!({ "to": 6, "if_generation": generation }));
    assert_eq!(first, Ok(json!({ "was": 5, "generation": generation + 1 })));
    let late = world.answer("number.set", json!({ "to": 7, "if_generation": generation })).unwrap_err();
    assert_eq!((late.code, late.data), (Failure::GENERATION, Some(json!({ "generation": generation + 1 }))));
    assert_eq!(world.answer("number.get", json!({})), Ok(json!(6)));
    assert_eq!(world.code("number.set", json!({ "to": 13 })), Failure::FAILED);
    assert_eq!(world.plane.generation(), generation + 1, "what has failed has changed nothing");
    assert_eq!(world.code("number.get", json!({ "if_generation": 1 })), Failure::PARAMETERS);
    assert_eq!(world.kinds(), ["daemon.changed"]);
}

#[test]
fn of_two_changes_that_depend_on_a_generation_one_is_refused() {
    let world = World::new();
    let generation = world.plane.generation();
    let ask = |to: u32| world.ask("number.set", json!({ "to": to, "if_generation": generation }));
    let (one, other) = (ask(6), ask(7));
    assert_eq!(world.later.crews().len(), 1, "one after the other");
    world.later.work();
    assert_eq!(one.recv().unwrap().unwrap()["was"], 5);
    assert_eq!(other.recv().unwrap().unwrap_err().code, Failure::GENERATION);
}

#[test]
fn a_fault_in_a_method_is_answered_and_holds_up_nobody() {
    let world = World::new();
    let (fault, next) =
        (world.ask("number.set", json!({ "to": 14 })), world.ask("number.set", json!({ "to": 6 })));
    world.later.work();
    assert_eq!(fault.recv().unwrap().unwrap_err().code, Failure::INTERNAL);
    assert_eq!(next.recv().unwrap().unwrap()["was"], 5);
    assert!(world.plane.stop(Duration::ZERO));
}

#[test]
fn readers_only_read_and_hold_up_no_administrator() {
    let world = World::new();
    let ask = |method| world.ask_as(reader(), method, json!({}));
    let read = ask("number.get");
    assert_eq!(world.later.crews(), [Crew::Readers]);
    world.later.work();
    assert_eq!(read.recv().unwrap(), Ok(json!(5)));
    for method in ["number.set", "number.count", "job.cancel"] {
        let failure = ask(method).recv().unwrap().unwrap_err();
        assert_eq!(failure.code, Failure::DENIED);
        assert!(failure.message.contains("user 77") && failure.message.contains(method), "{failure}");
    }
    world.ask("number.get", json!({}));
    world.ask("number.count", json!({ "to": 1 }));
    assert_eq!(world.later.crews(), [Crew::Administrators, Crew::Jobs]);
}

#[test]
fn what_takes_long_holds_up_neither_changes_nor_who_wants_to_know_something() {
    let world = World::new();
    let ask = |method| world.ask(method, json!({ "to": 1 }));
    for method in ["number.count", "number.act", "number.change", "number.set", "number.beside"] {
        ask(method);
    }
    assert_eq!(world.later.crews(), [Crew::Jobs, Crew::Acts, Crew::Changes], "changes take turns");
    let (beside, generation) = (ask("number.beside"), world.plane.generation());
    world.later.work();
    assert_eq!(beside.recv().unwrap(), Ok(json!(1)));
    assert_eq!(world.plane.generation(), generation + 2, "what is not a change does not count as one");
}

#[test]
fn what_nobody_can_carry_out_is_answered_and_holds_up_nothing() {
    let feed = feed();
    let about = About { version: "7", kinds: &[] };
    let plane = Plane::new(AtomicU32::new(5), table(), about, NoThreads, &feed);
    let world = World { plane, later: Later::default(), history: History::new(feed.inbox, Vec::new()) };
    for method in ["number.get", "number.set", "number.count", "number.change", "number.set"] {
        let params = match method {
            "number.get" => json!({}),
            "number.set" => json!({ "to": 1 }),
            _ => json!({ "to": 1, "wait": true }),
        };
        assert_eq!(
            world.ask(method, params).recv().unwrap().unwrap_err().code,
            Failure::INTERNAL,
            "{method}"
        );
    }
    let jobs = world.plane.jobs.statuses();
    assert!(jobs.len() == 2 && jobs.iter().all(|job| job.state == JobState::Failed), "{jobs:?}");
    assert!(world.plane.stop(Duration::ZERO), "nothing is under way");
}

#[test]
fn a_request_that_is_sent_again_is_carried_out_once() {
    let world = World::new();
    let ask = || world.ask("number.set", json!({ "to": 6, "request_id": "x" }));
    let (first, again) = (ask(), ask());
    world.later.work();
    let later = ask();
    let answers = [first, again, later].map(|told| told.recv().unwrap().unwrap());
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer["was"] == 5), "{answers:?}");
    assert_eq!(world.code("number.set", json!({ "to": 7, "request_id": "x" })), Failure::PARAMETERS);
}

#[test]
fn jobs_answer_at_once_or_when_they_have_ended() {
    let mut world = World::new();
    let job = world.ask("number.count", json!({ "to": 4 })).recv().unwrap().unwrap()["job"].clone();
    let waits = world.ask("number.count", json!({ "to": 2, "wait": true }));
    assert!(waits.try_recv().is_err());
    world.later.work();
    let shown = world.answer("job.show", json!({ "job": job })).unwrap();
    assert_eq!(
        (&shown["state"], &shown["result"], &shown["method"]),
        (&json!("done"), &json!(4), &json!("number.count"))
    );
    assert_eq!(waits.recv().unwrap(), Ok(json!(2)));
    let all = world.answer("job.list", json!({})).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(world.code("number.count", json!({ "to": -1 })), Failure::PARAMETERS);
    assert_eq!(world.code("job.show", json!({ "job": 99 })), Failure::NOT_FOUND);
    let kinds = world.kinds();
    assert_eq!(kinds.iter().filter(|kind| **kind == "job.ended").count(), 2, "{kinds:?}");
}

#[test]
fn jobs_that_are_cancelled_are_not_done() {
    let world = World::new();
    let waits = world.ask("number.count", json!({ "to": 4, "wait": true }));
    let status = world.ask("job.wait", json!({ "job": 1 }));
    assert_eq!(world.ask("job.cancel", json!({ "job": 1 })).recv().unwrap(), Ok(Value::Null));
    assert_eq!(waits.recv().unwrap().unwrap_err().code, Failure::CANCELLED);
    assert_eq!(status.recv().unwrap().unwrap()["state"], "cancelled");
    assert_eq!(world.answer("number.get", json!({})), Ok(json!(5)));
}

#[test]
fn a_long_change_is_a_change() {
    let world = World::new();
    let generation = world.plane.generation();
    let long = world.ask("number.change", json!({ "to": 3, "wait": true, "if_generation": generation }));
    let next = world.ask("number.set", json!({ "to": 100 }));
    world.later.work();
    assert_eq!(long.recv().unwrap(), Ok(json!({ "result": 3, "generation": generation + 1 })));
    assert_eq!(next.recv().unwrap(), Ok(json!({ "was": 8, "generation": generation + 2 })));
}

#[test]
fn a_daemon_that_stops_changes_nothing_more() {
    let world = World::new();
    let (set, count) = (
        world.ask("number.set", json!({ "to": 6 })),
        world.ask("number.count", json!({ "to": 1, "wait": true })),
    );
    assert!(!world.plane.stop(Duration::ZERO), "they are under way");
    assert_eq!(count.recv().unwrap().unwrap_err().code, Failure::CANCELLED);
    world.later.work();
    assert_eq!(set.recv().unwrap().unwrap_err().code, Failure::STOPPING);
    assert!(world.plane.stop(Duration::ZERO));
    assert_eq!(world.answer("number.get", json!({})), Ok(json!(5)));
}

#[test]
fn the_daemon_tells_who_it_is() {
    let world = World::new();
    let status: Status = serde_json::from_value(world.answer("control.status", json!({})).unwrap()).unwrap();
    assert_eq!(
        (status.version.as_str(), status.generation, status.role),
        ("7", 1_000_000, Role::Administrator)
    );
    let description = world.answer("control.describe", json!({})).unwrap();
    let names = |of: &str| {
        let all = description[of].as_array().unwrap();
        all.iter().map(|one| one.get("name").unwrap_or(&one["is"]).clone()).collect::<Vec<_>>()
    };
    assert!(names("methods").contains(&json!("number.set")) && names("methods").contains(&json!("job.list")));
    assert!(names("events").contains(&json!("job.ended")) && names("errors").contains(&json!(-32003)));
    assert_eq!(world.code("control.status", json!({ "a": 1 })), Failure::PARAMETERS);
    assert_eq!(world.code("events.subscribe", json!({})), Failure::FAILED);
}

#[test]
fn the_daemon_calls_its_own_methods() {
    let world = World::new();
    let (ticket, told) = ticket();
    world.plane.call_own("number.set", Map::from_iter([("to".to_owned(), json!(9))]), ticket);
    world.later.work();
    assert_eq!(told.recv().unwrap().unwrap()["was"], 5);
    assert_eq!(world.plane.daemon().load(Ordering::SeqCst), 9);
}
