use super::client::{ANSWERS, EACH, EVENTS, READERS_UNANSWERED, SHARE, UNANSWERED};
use super::*;
use crate::client::Connection;
use crate::plane::READS;
use crate::plane::tests::{Later, feed, plane};
use crate::{EventKind, Events};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const THING: EventKind = EventKind { name: "job.thing", summary: "" };

struct World {
    server: Server<AtomicU32>,
    later: Later,
    events: Events,
    path: PathBuf,
    refusals: Arc<AtomicUsize>,
    /// Can always be read.
    awake: File,
    _directory: tempfile::TempDir,
}

impl World {
    fn with(rules: AccessRules, clients: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let feed = feed();
        let (plane, later) = plane(&feed);
        let refusals = Arc::new(AtomicUsize::new(0));
        let count = refusals.clone();
        let refused = Box::new(move |_: &Credentials, _: &Failure| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let door = Door { rules, clients, refused };
        let events = feed.events();
        let server = Server::new(Some(UnixListener::bind(&path).unwrap()), door, plane, feed).unwrap();
        let awake = File::open("/dev/zero").unwrap();
        Self { server, later, events, path, refusals, awake, _directory: directory }
    }

    fn new() -> Self {
        Self::with(AccessRules::default(), 8)
    }

    /// One in which this process is a reader.
    fn for_readers(clients: usize) -> Option<Self> {
        let own = Credentials::own();
        let rules = AccessRules { user: own.uid + 1, administrators: Vec::new(), readers: own.groups };
        // root is never less than an administrator.
        (own.uid != 0).then(|| Self::with(rules, clients))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A connection of somebody who may only read, whoever runs the tests.
    fn connect_reader(&mut self) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        let server = &mut self.server;
        server.last += 1;
        let caller = Caller { role: Role::Reader, connection: Some(server.last), ..Caller::own() };
        server.clients.insert(server.last, Client::new(here, caller));
        there
    }

    /// Gives a turn, without sleeping before.
    fn turn(&mut self) {
        self.server.wait(&[self.awake.as_fd()]).unwrap();
        self.server.turn();
    }

    /// Has something happen, which the server notices.
    fn happen(&mut self) {
        self.events.emit(THING, "", Value::Null);
        self.server.wait(&[]).unwrap();
        self.server.turn();
    }

    /// Turns and work until nothing more comes of it.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.turn();
            self.later.work();
        }
    }

    /// What a client is told from now on, until nothing more comes.
    fn heard(&mut self, stream: &mut UnixStream) -> String {
        let mut bytes = Vec::new();
        loop {
            self.settle();
            let before = bytes.len();
            let ended = stream.read_to_end(&mut bytes);
            if bytes.len() == before || ended.is_ok() {
                return String::from_utf8(bytes).unwrap();
            }
        }
    }

    fn values(&mut self, stream: &mut UnixStream) -> Vec<Value> {
        self.heard(stream).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn request(id: u64, method: &str, params: &Value) -> String {
    rpc::request(id, method, params) + "\n"
}

fn say(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

#[test]
fn requests_come_in_pieces_and_several_at_a_time() {
    let mut world = World::new();
    let mut client = world.connect();
    let text = request(1, "number.get", &Value::Null);
    let (head, tail) = text.split_at(20);
    say(&mut client, head);
    world.settle();
    say(&mut client, &format!("{tail}{}", request(2, "number.no", &Value::Null)));
    let mut answers = world.values(&mut client);
    answers.sort_by_key(|answer| answer["id"].as_u64());
    assert_eq!((&answers[0]["result"], &answers[1]["error"]["code"]), (&json!(5), &json!(Failure::METHOD)));
    drop(client);
    world.settle();
    assert_eq!(world.server.clients(), 0);
}

#[test]
fn batches_are_answered_together_when_all_is_done() {
    let mut world = World::new();
    let mut client = world.connect();
    let get = r#"{"jsonrpc":"2.0","id":1,"method":"number.get"}"#;
    say(&mut client, &format!("[{get},5,{{\"jsonrpc\":\"2.0\",\"method\":\"number.get\"}}]\n"));
    say(&mut client, "[{\"jsonrpc\":\"2.0\",\"method\":\"number.get\"}]\n");
    say(&mut client, "{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}\n");
    let answers = world.values(&mut client);
    assert_eq!(answers.len(), 1, "notifications have no answer: {answers:?}");
    let batch = answers[0].as_array().unwrap();
    assert_eq!(batch.len(), 2);
    assert!(batch.iter().any(|answer| answer["result"] == 5));
    assert!(batch.iter().any(|answer| answer["error"]["code"] == Failure::REQUEST));
}

#[test]
fn a_last_line_needs_no_end_and_who_says_nothing_more_is_still_answered() {
    let mut world = World::new();
    let mut client = world.connect();
    say(&mut client, &format!("{}{}", request(1, "number.much", &Value::Null), "{\"jsonrpc\""));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let answers = world.values(&mut client);
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().any(|answer| answer["error"]["code"] == Failure::PARSE));
    assert!(answers.iter().any(|answer| answer["result"].is_string()));
    assert_eq!(world.server.clients(), 0);
}

#[test]
fn who_says_too_much_is_told_and_cut_off() {
    let mut world = World::new();
    let mut loud = world.connect();
    world.turn();
    let mut said = 0;
    while said < 16 << 20 && world.server.clients() == 1 {
        said += loud.write(&[b'x'; 65536]).unwrap_or(0);
        world.turn();
    }
    assert!((8 << 20..10 << 20).contains(&said), "{said}");
    let answers = world.values(&mut loud);
    assert_eq!(answers[0]["error"]["code"], Failure::REQUEST);
}

fn batch(count: usize, method: &str) -> String {
    let one = rpc::request(1, method, &Value::Null);
    format!("[{}]\n", vec![one; count].join(","))
}

#[test]
fn the_requests_of_a_batch_count_like_others() {
    let mut world = World::new();
    let mut reader = world.connect_reader();
    say(&mut reader, &batch(rpc::BATCH, "number.get"));
    for _ in 0..10 {
        world.turn();
        assert!(world.later.crews().len() <= READERS_UNANSWERED);
    }
    let answers = world.values(&mut reader);
    let all = answers[0].as_array().unwrap();
    assert!(all.len() == rpc::BATCH && all.iter().all(|one| one["result"] == 5), "{answers:?}");
}

#[test]
fn a_batch_that_asks_for_too_much_is_refused_from_there_on() {
    let mut world = World::new();
    let mut client = world.connect();
    say(&mut client, &batch(rpc::BATCH, "number.much"));
    let answers = world.values(&mut client);
    let (good, bad): (Vec<_>, Vec<_>) =
        answers[0].as_array().unwrap().iter().partition(|one| one["result"].is_string());
    assert!(good.len() >= 2 && good.len() <= UNANSWERED + 2, "{}", good.len());
    assert!(!bad.is_empty() && bad.iter().all(|one| one["error"]["code"] == Failure::BUSY));
    assert_eq!(world.server.clients.values().next().unwrap().kept(), 0);
    say(&mut client, &request(2, "number.get", &Value::Null));
    assert_eq!(world.values(&mut client)[0]["result"], 5);
}

#[test]
fn a_turn_is_so_much_work_however_many_ask() {
    let mut world = World::with(AccessRules::default(), 400);
    let much: String = (0..SHARE as u64).map(|id| request(id, "no.such", &Value::Null)).collect();
    let mut clients: Vec<_> = (0..300).map(|_| world.connect()).collect();
    while world.server.clients() < 300 {
        world.turn();
    }
    clients.iter_mut().for_each(|client| say(client, &much));
    let mut answered = |world: &mut World| {
        world.turn();
        let mut count = 0;
        for client in &mut clients {
            let mut bytes = Vec::new();
            let _ = client.read_to_end(&mut bytes);
            count += bytes.iter().filter(|byte| **byte == b'\n').count();
        }
        count
    };
    let first = answered(&mut world);
    assert!(first > 0 && first <= TURN / EACH, "{first}");
    assert!(world.server.has_more);
    let mut all = first;
    for _ in 0..300 * SHARE * EACH / TURN {
        all += answered(&mut world);
    }
    assert_eq!(all, 300 * SHARE, "each has had a turn");
}

#[test]
fn what_readers_leave_unread_is_bounded_for_all_together() {
    let mut world = World::with(AccessRules::default(), 100);
    let mut readers: Vec<_> = (0..40).map(|_| world.connect_reader()).collect();
    let mut calm = world.connect_reader();
    for _ in 0..8 {
        readers.iter_mut().for_each(|reader| drop(reader.write(batch(1, "number.much").as_bytes())));
        world.turn();
        world.later.work();
    }
    world.settle();
    let kept: usize = world.server.clients.values().map(Client::kept).sum();
    assert!(kept <= READERS_KEPT, "{kept}");
    let cut_off = world.refusals.load(Ordering::SeqCst);
    assert!(cut_off > 0 && world.server.clients() == 41 - cut_off, "{cut_off}");
    say(&mut calm, &request(1, "number.get", &Value::Null));
    assert_eq!(world.values(&mut calm)[0]["result"], 5, "who listens stays");
}

#[test]
fn one_user_does_not_take_the_room_of_all_readers() {
    let mut world = World::with(AccessRules::default(), 16);
    let _readers = [world.connect_reader(), world.connect_reader()];
    let uid = Caller::own().credentials.uid;
    let room = |role, uid| world.server.has_room(role, uid).is_ok();
    assert!(!room(Role::Reader, uid) && room(Role::Reader, uid + 1) && room(Role::Administrator, uid));
}

#[test]
fn what_takes_long_to_tell_is_left_to_workers() {
    let mut world = World::new();
    let mut client = world.connect();
    let methods = ["control.describe", "job.list", "job.show"];
    methods.into_iter().for_each(|method| say(&mut client, &request(1, method, &json!({ "job": 1 }))));
    say(&mut client, &request(1, "control.describe", &json!({})));
    say(&mut client, &request(1, "job.list", &json!({})));
    world.turn();
    assert_eq!(world.later.crews(), [crate::Crew::Administrators; 3]);
}

#[test]
fn who_does_not_listen_is_bounded() {
    let mut world = World::new();
    let mut deaf = world.connect();
    for number in 0..200 {
        let _ = deaf.write(request(number, "number.much", &Value::Null).as_bytes());
        world.turn();
        world.later.work();
    }
    world.settle();
    let client = world.server.clients.values().next().unwrap();
    assert!(client.waiting() <= ANSWERS + (UNANSWERED << 20), "{}", client.waiting());
    let answers = world.heard(&mut deaf);
    let answered = answers.lines().count();
    assert!(answered >= UNANSWERED && answers.ends_with('\n'), "it goes on when it listens: {answered}");
}

#[test]
fn who_never_takes_all_costs_no_more_than_what_waits() {
    let mut world = World::new();
    let mut slow = world.connect();
    let mut taken = 0;
    for number in 0..250 {
        let _ = slow.write(request(number, "number.much", &Value::Null).as_bytes());
        world.turn();
        world.later.work();
        taken += slow.read(&mut [0; 256 << 10]).unwrap_or(0);
        let most = 2 * (ANSWERS + (UNANSWERED << 20));
        let kept = world.server.clients.values().next().unwrap().kept();
        assert!(kept <= most, "{kept} after {taken}");
    }
    assert!(taken > 40 << 20, "{taken}");
}

#[test]
fn readers_who_ask_and_go_leave_nothing_behind() {
    let mut world = World::new();
    let mut client = world.connect();
    say(&mut client, &request(1, "number.count", &json!({ "to": 3 })));
    world.turn();
    for _ in 0..READS {
        let mut reader = world.connect_reader();
        let wait = request(1, "job.wait", &json!({ "job": 1 }));
        let get = request(2, "number.get", &Value::Null);
        say(
            &mut reader,
            &format!("{wait}[{}{}]\n", format!("{},", get.trim_end()).repeat(30), get.trim_end()),
        );
        world.turn();
        drop(reader);
        world.turn();
    }
    // What is refused comes to an end too.
    (0..rpc::BATCH).for_each(|_| world.turn());
    assert_eq!(world.server.clients(), 1);
    assert_eq!(world.server.plane.jobs.waiting_for(1), 0, "who has gone does not wait for a job");
    let reads = world.later.crews().iter().filter(|crew| **crew == crate::Crew::Readers).count();
    assert!(reads <= READS, "{reads}");
    let mut reader = world.connect_reader();
    say(&mut reader, &request(1, "number.get", &Value::Null));
    world.turn();
    let mut answer = String::new();
    let _ = reader.read_to_string(&mut answer);
    assert!(answer.contains(&Failure::BUSY.to_string()), "{answer}");
    world.settle();
    say(&mut reader, &request(2, "number.get", &Value::Null));
    assert!(world.values(&mut reader).iter().any(|answer| answer["result"].is_number()));
}

#[test]
fn one_that_asks_much_holds_up_no_other() {
    let mut world = World::new();
    let (mut busy, mut calm) = (world.connect(), world.connect());
    // It is asked of the connection, so the workers have no part in it.
    let much: String = (0..1000).map(|id| request(id, "no.such", &Value::Null)).collect();
    say(&mut busy, &much);
    say(&mut calm, &request(1, "no.such", &Value::Null));
    world.turn();
    let mut answer = Vec::new();
    let _ = calm.read_to_end(&mut answer);
    assert!(answer.ends_with(b"\n"), "after one turn");
    let mut of_busy = Vec::new();
    let _ = busy.read_to_end(&mut of_busy);
    assert_eq!(of_busy.iter().filter(|byte| **byte == b'\n').count(), SHARE);
    // Nothing arrives any more, and still the rest is answered: without waiting for anything.
    let mut answered = SHARE;
    while answered < 1000 {
        world.server.wait(&[]).unwrap();
        world.server.turn();
        of_busy.clear();
        let _ = busy.read_to_end(&mut of_busy);
        answered += of_busy.iter().filter(|byte| **byte == b'\n').count();
    }
}

#[test]
fn what_waits_for_workers_is_bounded_and_goes_on() {
    let mut world = World::new();
    let mut client = world.connect();
    let much: String = (0..100).map(|id| request(id, "number.get", &Value::Null)).collect();
    say(&mut client, &much);
    for _ in 0..20 {
        world.turn();
    }
    assert_eq!(world.later.crews().len(), UNANSWERED);
    assert_eq!(world.values(&mut client).len(), 100);
}

#[test]
fn there_is_room_for_so_many_and_others_are_told() {
    let mut world = World::with(AccessRules::default(), 3);
    let clients: Vec<_> = (0..3).map(|_| world.connect()).collect();
    world.settle();
    let mut refused: Vec<_> = (0..100).map(|_| world.connect()).collect();
    for stream in &mut refused {
        let answers = world.values(stream);
        assert_eq!(answers[0]["error"]["code"], Failure::BUSY);
    }
    assert_eq!((world.server.clients(), world.refusals.load(Ordering::SeqCst)), (3, 100));
    drop(clients);
    world.settle();
    let mut next = world.connect();
    say(&mut next, &request(1, "number.get", &Value::Null));
    assert_eq!(world.values(&mut next)[0]["result"], 5);
}

#[test]
fn strangers_are_refused_and_readers_read() {
    let nobody = AccessRules { user: u32::MAX - 1, administrators: Vec::new(), readers: Vec::new() };
    let Some(mut world) = World::for_readers(4) else { return };
    let mut reader = world.connect();
    say(&mut reader, &request(1, "number.get", &Value::Null));
    assert_eq!(world.values(&mut reader)[0]["result"], 5);
    say(&mut reader, &request(2, "number.set", &json!({ "to": 1 })));
    assert_eq!(world.values(&mut reader)[0]["error"]["code"], Failure::DENIED);
    let (_second, mut third) = (world.connect(), world.connect());
    assert_eq!(world.values(&mut third)[0]["error"]["code"], Failure::BUSY, "half is for administrators");
    let mut world = World::with(nobody, 4);
    let mut stranger = world.connect();
    assert_eq!(world.values(&mut stranger)[0]["error"]["code"], Failure::DENIED);
    assert_eq!(world.refusals.load(Ordering::SeqCst), 1);
}

#[test]
fn who_subscribes_is_told_what_happens() {
    let mut world = World::new();
    let mut client = world.connect();
    say(&mut client, &request(1, "events.subscribe", &json!({ "kinds": ["daemon"] })));
    let answers = world.values(&mut client);
    assert_eq!(answers[0]["result"]["subscription"], 1);
    say(&mut client, &request(2, "number.set", &json!({ "to": 6 })));
    let told = world.values(&mut client);
    let event = told.iter().find(|message| message["method"] == "event").unwrap();
    assert_eq!(
        (&event["params"]["kind"], &event["params"]["object"]),
        (&json!("daemon.changed"), &json!("number.set"))
    );
    say(&mut client, &request(3, "events.unsubscribe", &json!({ "subscription": 1 })));
    say(&mut client, &request(4, "number.set", &json!({ "to": 7 })));
    let after = world.values(&mut client);
    assert!(after.iter().all(|message| message["method"].is_null()), "{after:?}");
}

#[test]
fn who_subscribes_slowly_costs_no_memory_and_misses_some() {
    let mut world = World::new();
    let mut slow = world.connect();
    say(&mut slow, &request(1, "events.subscribe", &json!({})));
    world.settle();
    for _ in 0..20_000 {
        world.happen();
    }
    let client = world.server.clients.values().next().unwrap();
    assert!(client.waiting() < 2 * EVENTS, "{}", client.waiting());
    let told = world.values(&mut slow);
    let kinds: Vec<_> = told[1..].iter().map(|event| event["params"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "events.missed").count(), 1);
    let mut last = told[0]["result"]["sequence"].as_u64().unwrap();
    for event in &told[1..] {
        let params = &event["params"];
        last += params["details"]["count"].as_u64().unwrap_or(1);
        assert_eq!(params["sequence"], last, "nothing is lost unsaid");
    }
}

#[test]
fn who_comes_back_gets_what_happened_meanwhile() {
    let mut world = World::new();
    (0..5).for_each(|_| world.happen());
    let mut client = world.connect();
    let of_other_run = json!({ "since": 4, "instance": "another" });
    say(&mut client, &request(1, "events.subscribe", &of_other_run));
    let first = world.values(&mut client)[1]["params"]["sequence"].clone();
    assert_eq!(first, 1);
    let mut client = world.connect();
    let instance = world.server.plane.instance.clone();
    say(&mut client, &request(1, "events.subscribe", &json!({ "since": 4, "instance": instance })));
    assert_eq!(world.values(&mut client)[1]["params"]["sequence"], 5);
}

#[test]
fn jobs_may_end_with_their_connection() {
    let mut world = World::new();
    let (mut client, mut other) = (world.connect(), world.connect());
    let long = |attached: bool| json!({ "to": 3, "wait": true, "cancel_on_close": attached });
    say(&mut client, &request(1, "number.count", &long(true)));
    say(&mut other, &request(1, "number.count", &long(false)));
    world.turn();
    drop((client, other));
    for _ in 0..5 {
        world.turn();
    }
    assert_eq!(world.server.clients(), 0);
    world.later.work();
    assert_eq!(world.server.plane.daemon().load(Ordering::SeqCst), 8, "one of two was done");
}

#[test]
fn an_idle_client_may_stay_and_the_server_sleeps_meanwhile() {
    let mut world = World::new();
    let mut idle = world.connect();
    let mut half = world.connect();
    say(&mut half, "{\"half\":");
    world.settle();
    assert!(!world.server.has_more && world.server.clients() == 2);
    say(&mut idle, &request(1, "number.get", &Value::Null));
    assert_eq!(world.values(&mut idle)[0]["result"], 5);
}

#[test]
fn the_blocking_client_understands_the_server() {
    let mut world = World::new();
    let path = world.path.clone();
    let client = std::thread::spawn(move || {
        let mut connection = Connection::open(&path).unwrap();
        let _: Value = connection.call("events.subscribe", &json!({ "kinds": ["daemon"] })).unwrap();
        let set: Value = connection.call("number.set", &json!({ "to": 9 })).unwrap();
        let refused = connection.call::<Value>("number.set", &json!({ "to": 13 })).unwrap_err().to_string();
        (set["was"].clone(), refused, connection.event().unwrap().kind)
    });
    while !client.is_finished() {
        world.settle();
    }
    assert_eq!(client.join().unwrap(), (json!(5), "no such luck".into(), "daemon.changed".into()));
}

#[test]
fn a_refusal_reaches_the_blocking_client() {
    let mut world = World::with(AccessRules::default(), 0);
    let path = world.path.clone();
    let client = std::thread::spawn(move || {
        crate::call::<Value>(&path, "number.get", &json!({ "long": "x".repeat(1 << 20) }))
            .unwrap_err()
            .to_string()
    });
    while !client.is_finished() {
        world.settle();
    }
    assert!(client.join().unwrap().contains("connections already"));
}
