//! Files on real reactors, with io_uring and with epoll: what was written is read back, whatever the mode.

use lunette_reactor::{Io, Options as ReactorOptions, Reactors};
use lunette_store::{Backing, Cx, IoId, IoResult, Memory, Op, ReactorId, Sg, Sink, SinkId, Store, Submit};
use lunette_store_file::{File, OpenError, Options};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};

/// One operation; memory begins `skew` bytes after a page boundary and is cut into two segments of odd length.
enum Command {
    Read(u64, usize),
    Write(u64, Vec<u8>, bool),
    Flush,
    Zero(u64, u64, bool),
    Discard(u64, u64),
}

type Answers = Vec<(IoResult, Vec<u8>)>;

/// Commands on their way at the same time.
struct Batch {
    memories: Vec<Memory>,
    skew: usize,
    results: RefCell<Vec<Option<IoResult>>>,
    sink: Cell<Option<SinkId>>,
    store: RefCell<Option<Rc<dyn Store>>>,
    answer: Sender<Answers>,
}

impl Batch {
    fn submit(&self, commands: &[Command], cx: &mut dyn Cx) {
        let (Some(sink), Some(store)) = (self.sink.get(), self.store.borrow().clone()) else {
            return;
        };
        for (token, (command, memory)) in commands.iter().zip(&self.memories).enumerate() {
            let all = memory.seg().part(self.skew, usize::MAX);
            let half = if self.skew == 0 { all.len() } else { all.len() / 3 };
            let segs = [all.part(0, half), all.part(half, usize::MAX)];
            let op = match *command {
                Command::Read(offset, _) => Op::Read { offset, to: Sg::new(&segs) },
                Command::Write(offset, _, durable) => Op::Write { offset, from: Sg::new(&segs), durable },
                Command::Flush => Op::Flush,
                Command::Zero(offset, length, unmap) => Op::Zero { offset, length, unmap },
                Command::Discard(offset, length) => Op::Discard { offset, length },
            };
            let token = token as u64;
            match store.submit(op, IoId { sink, token }, cx) {
                Submit::Done(result) => self.complete(token, result, cx),
                Submit::Queued => {}
                Submit::Full => panic!("a reactor takes that many"),
            }
        }
    }
}

impl Sink for Batch {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        let mut results = self.results.borrow_mut();
        let before = results[token as usize].replace(result);
        assert_eq!(before, None, "completed once");
        let Some(results) = results.iter().copied().collect::<Option<Vec<_>>>() else {
            return;
        };
        self.store.take();
        cx.unregister(self.sink.take().unwrap());
        let bytes = |memory: &Memory| memory.to_vec().split_off(self.skew);
        let bytes = self.memories.iter().map(bytes);
        let answers = results.into_iter().zip(bytes).collect();
        self.answer.send(answers).unwrap();
    }
}

fn run(reactors: &Reactors, on: u16, file: &File, skew: usize, commands: Vec<Command>) -> Answers {
    let (answer, answers) = channel();
    let file = file.clone();
    let submitted = reactors.call(ReactorId(on), move |cx| {
        let memory = |command: &Command| match command {
            Command::Read(_, length) => Memory::from_bytes(&vec![0xee; skew + length]),
            Command::Write(_, bytes, _) => Memory::from_bytes(&[&vec![0; skew], &bytes[..]].concat()),
            _ => Memory::zeroed(skew),
        };
        let batch = Rc::new(Batch {
            memories: commands.iter().map(memory).collect(),
            skew,
            results: RefCell::new(vec![None; commands.len()]),
            sink: Cell::default(),
            store: RefCell::default(),
            answer,
        });
        batch.sink.set(Some(cx.register(batch.clone())));
        batch.store.replace(Some(file.attach(cx)));
        batch.submit(&commands, cx);
    });
    assert_eq!(submitted, Some(()));
    answers.recv().expect("all complete")
}

const SIZE: usize = 4 << 20;
const SLOT: usize = 64 << 10;

/// Rounds of commands that do not overlap, each checked against a model.
fn exercise(reactors: &Reactors, file: &File, skew: usize) {
    let mut seed = 1u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    let mut model = vec![0u8; SIZE];
    for round in 0..12 {
        let mut commands = vec![Command::Flush];
        for slot in (0..SIZE).step_by(SLOT) {
            let from = slot + random(SLOT / 4096) * 4096;
            let length = (1 + random((slot + SLOT - from) / 4096)) * 4096;
            let end = from + length;
            commands.push(match random(5) {
                0 => Command::Read(from as u64, length),
                1 | 2 => {
                    let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + round) as u8).collect();
                    model[from..end].copy_from_slice(&bytes);
                    Command::Write(from as u64, bytes, random(4) == 0)
                }
                3 => {
                    model[from..end].fill(0);
                    Command::Zero(from as u64, length as u64, random(2) == 0)
                }
                _ => {
                    model[from..end].fill(0);
                    Command::Discard(from as u64, length as u64)
                }
            });
        }
        let on = round as u16 % reactors.count();
        let check: Vec<_> = commands
            .iter()
            .map(|command| match command {
                Command::Read(from, length) => Some(*from as usize..*from as usize + length),
                _ => None,
            })
            .collect();
        let answers = run(reactors, on, file, skew, commands);
        for ((result, bytes), range) in answers.into_iter().zip(check) {
            let moved = result.unwrap();
            if let Some(range) = range {
                assert_eq!(moved as usize, range.len());
                assert!(bytes == model[range], "round {round}");
            }
        }
    }
    let whole = vec![Command::Read(0, SIZE)];
    let (result, bytes) = run(reactors, 0, file, skew, whole).remove(0);
    assert_eq!(result, Ok(SIZE as u64));
    assert!(bytes == model);
}

fn every_mode(io: Io) {
    let reactors = Reactors::start(&ReactorOptions { reactors: 2, io, ..ReactorOptions::default() }).unwrap();
    let program = std::env::current_exe().unwrap();
    for place in [program.parent().unwrap(), Path::new("/dev/shm")] {
        for (direct, inline) in [(false, None), (false, Some(false)), (false, Some(true)), (true, None)] {
            for skew in [0, 5] {
                let directory = tempfile::tempdir_in(place).unwrap();
                let options = Options {
                    direct,
                    inline,
                    create_size: Some(SIZE as u64),
                    logical_block: 4096,
                    ..Options::default()
                };
                match File::open(&directory.path().join("disk.img"), &options) {
                    Ok(file) => exercise(&reactors, &file, skew),
                    Err(OpenError::NoDirect(_)) => eprintln!("skipped: no direct I/O here"),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    reactors.stop();
}

#[test]
fn what_was_written_is_read_with_io_uring() {
    every_mode(Io::Auto);
}

#[test]
fn what_was_written_is_read_with_epoll() {
    every_mode(Io::Epoll);
}

#[test]
fn the_lock_is_dropped_when_the_last_handle_is() {
    let reactors = Reactors::start(&ReactorOptions::default()).unwrap();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("disk.img");
    let options = Options { create_size: Some(4096), ..Options::default() };
    let file = File::open(&path, &options).unwrap();
    let answers = run(&reactors, 0, &file, 0, vec![Command::Flush]);
    assert_eq!(answers[0].0, Ok(0));
    drop(file);
    // The handle's sink goes at the reactor's next turn.
    reactors.call(ReactorId(0), |_| ());
    File::open(&path, &options).unwrap();
}
