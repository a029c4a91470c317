//! Clients of the control socket that say anything in any pieces, listen or do not, come and go, beside one that behaves.

use crate::input::Input;
use lunette_control::{
    About, Call, Crew, Door, Effect, EventKind, Events, Failure, Feed, Method, NoParams, Plane, Server,
    Table, Task, Workers,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// Most connections; one of them is for the client that behaves.
const CLIENTS: usize = 4;
const HAPPENED: EventKind = EventKind { name: "number.happened", summary: "" };
const METHODS: [&str; 12] = [
    "number.get",
    "number.set",
    "number.count",
    "control.status",
    "control.describe",
    "events.subscribe",
    "events.unsubscribe",
    "job.list",
    "job.show",
    "job.wait",
    "job.cancel",
    "number.gte",
];
const NAMES: [&str; 10] = [
    "to",
    "job",
    "wait",
    "cancel_on_close",
    "if_generation",
    "request_id",
    "since",
    "kinds",
    "subscription",
    "x",
];
const VALUES: [&str; 14] = [
    "0",
    "1",
    "2",
    "-1",
    "1e999",
    "18446744073709551615",
    "true",
    "null",
    "\"a\"",
    "[]",
    "[\"number\"]",
    "{}",
    "\"\\ud800\"",
    "1.5",
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct To {
    to: u64,
}

/// The daemon is a number.
fn table() -> Table<AtomicU64> {
    fn get(call: &Call<'_, AtomicU64>, _: NoParams) -> Result<u64, Failure> {
        Ok(call.daemon.load(Ordering::Relaxed))
    }
    fn set(call: &Call<'_, AtomicU64>, To { to }: To) -> Result<Value, Failure> {
        match to {
            2 => Err(Failure::failed("no")),
            _ => Ok(json!({ "was": call.daemon.swap(to, Ordering::Relaxed) })),
        }
    }
    fn count(call: &Call<'_, AtomicU64>, To { to }: To) -> Result<u64, Failure> {
        for step in 0..to.min(3) {
            call.work.go_on()?;
            call.work.progress(step as f64 / 3.0, "counting");
        }
        Ok(to)
    }
    Table::new([
        Method::new(Effect::Reads, "number.get", "Tells it.", get),
        Method::new(Effect::Changes, "number.set", "Sets it.", set),
        Method::new(Effect::Acts, "number.count", "Counts.", count).long(),
    ])
}

/// Tasks that wait until it is their turn.
#[derive(Clone, Default)]
struct Later(Arc<Mutex<VecDeque<Task>>>);

impl Workers for Later {
    fn run(&self, _: Crew, task: Task) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }
}

impl Later {
    fn work(&self) {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(task) = task {
            task();
        }
    }
}

/// A client, and what it has heard of a line.
struct Client {
    stream: UnixStream,
    heard: Vec<u8>,
    /// It has said nothing but whole requests, each with its number.
    is_clean: bool,
    asked: u64,
    answered: u64,
    /// There was no room for it.
    is_refused: bool,
}

impl Client {
    fn say(&mut self, bytes: &[u8]) {
        // What there is no room for is not said, and so a line is cut.
        match self.stream.write(bytes) {
            Ok(length) if length == bytes.len() => {}
            _ => self.is_clean = false,
        }
    }

    /// Listens, and checks what it is told. Returns how much that was.
    fn listen(&mut self) -> usize {
        let mut bytes = [0; 65536];
        let length = match self.stream.read(&mut bytes) {
            Ok(length) => length,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset),
                    "{error}"
                );
                0
            }
        };
        self.heard.extend_from_slice(&bytes[..length]);
        while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).expect("it is JSON");
            match value {
                Value::Array(all) => {
                    assert!(!all.is_empty(), "an empty batch");
                    all.iter().for_each(|one| self.told(one));
                }
                one => self.told(&one),
            }
        }
        length
    }

    fn told(&mut self, message: &Value) {
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        if message["method"] == "event" {
            assert!(message.get("id").is_none() && message["params"]["sequence"].is_u64(), "{message}");
            return;
        }
        let object = message.as_object().expect("an object");
        assert!(object.contains_key("id"), "{message}");
        assert!(object.contains_key("result") != object.contains_key("error"), "{message}");
        if let Some(error) = object.get("error") {
            assert!(error["code"].is_i64() && error["message"].is_string(), "{message}");
            assert_ne!(error["code"], Failure::INTERNAL, "{message}");
            self.is_refused |= error["code"] == Failure::BUSY && object["id"].is_null();
        }
        self.answered += 1;
    }
}

struct World {
    server: Server<AtomicU64>,
    later: Later,
    events: Events,
    path: std::path::PathBuf,
    /// Can always be read, so that nothing is waited for.
    awake: File,
    honest: Client,
    others: [Option<Client>; CLIENTS],
}

impl World {
    fn new(folder: &std::path::Path) -> Self {
        let path = folder.join("control.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let feed = Feed::new(|| UNIX_EPOCH, 0).expect("descriptors");
        let (events, later) = (feed.events(), Later::default());
        let about = About { version: "1", kinds: &[HAPPENED] };
        let plane = Plane::new(AtomicU64::new(5), table(), about, later.clone(), &feed);
        let door = Door { clients: CLIENTS, ..Door::default() };
        let server = Server::new(Some(listener), door, plane, feed).expect("a server");
        let honest = connect(&path);
        let awake = File::open("/dev/zero").expect("/dev/zero");
        let mut world =
            Self { server, later, events, path, awake, honest, others: [const { None }; CLIENTS] };
        world.turn();
        world
    }

    fn turn(&mut self) {
        self.server.wait(&[self.awake.as_fd()]).expect("poll");
        self.server.turn();
        assert!(self.server.clients() <= CLIENTS, "{}", self.server.clients());
    }

    /// The client that behaves is answered, soon, whatever the others do.
    fn check(&mut self) {
        self.honest.asked += 1;
        self.honest.say(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"control.status\"}\n");
        for _ in 0..2 {
            self.turn();
        }
        while self.honest.listen() > 0 {}
        assert_eq!(self.honest.answered, self.honest.asked, "the client that behaves is answered");
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let which = input.below(CLIENTS);
        let Some(client) = &mut self.others[which] else {
            self.others[which] = Some(connect(&self.path));
            return;
        };
        match input.below(12) {
            0 => {
                let length = input.below(64);
                client.is_clean = false;
                client.say(input.bytes(length));
            }
            1 => {
                client.is_clean = false;
                let length = 1 + input.below(65536);
                client.say(&input.pattern(length));
            }
            2..=5 => {
                let request = request(input);
                client.asked += 1;
                client.say(format!("{request}\n").as_bytes());
            }
            6 => {
                let count = 1 + input.below(40);
                let batch: Vec<_> = (0..count).map(|_| request(input)).collect();
                client.is_clean = false;
                client.say(format!("[{}]\n", batch.join(",")).as_bytes());
            }
            7 => drop(client.listen()),
            8 => drop(client.stream.shutdown(Shutdown::Write)),
            9 => self.others[which] = None,
            10 => self.events.emit(HAPPENED, "1", json!({ "a": input.u8() })),
            _ => self.later.work(),
        }
        if input.flag() {
            self.turn();
        }
    }

    /// Everybody listens until nothing more comes; then those who have asked properly have an answer each.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 8 {
            self.turn();
            self.later.work();
            let heard: usize = self.others.iter_mut().flatten().map(Client::listen).sum();
            quiet = if heard == 0 { quiet + 1 } else { 0 };
            quiet = if self.later.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                quiet
            } else {
                0
            };
        }
        let clean = |client: &&Client| client.is_clean && !client.is_refused;
        for Client { answered, asked, .. } in self.others.iter().flatten().filter(clean) {
            assert_eq!(answered, asked, "each request is answered once");
        }
    }
}

fn connect(path: &std::path::Path) -> Client {
    let stream = UnixStream::connect(path).expect("room in the queue of the socket");
    stream.set_nonblocking(true).expect("a socket");
    Client { stream, heard: Vec::new(), is_clean: true, asked: 0, answered: 0, is_refused: false }
}

/// Something like a request.
fn request(input: &mut Input<'_>) -> String {
    let method = input.pick(&METHODS);
    let mut params = Vec::new();
    for _ in 0..input.below(4) {
        params.push(format!("\"{}\":{}", input.pick(&NAMES), input.pick(&VALUES)));
    }
    let id = input.pick(&["1", "2", "\"x\"", "null", "1"]);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{}}}}}"#, params.join(","))
}

/// Drives a server of the control socket.
pub fn control(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(folder.path());
    let mut input = Input::new(bytes);
    let mut steps = 0;
    while !input.is_empty() && steps < 400 {
        world.step(&mut input);
        steps += 1;
        if steps % 16 == 0 {
            world.check();
        }
    }
    world.settle();
    world.check();
}
