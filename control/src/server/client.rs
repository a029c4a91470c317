//! One connection.

use crate::events::{History, Subscriptions};
use crate::rpc::{self, Asked, Line};
use crate::{Caller, Failure, Role};
use rustix::event::{PollFd, PollFlags};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

/// Longest request of an administrator and of a reader, in bytes.
const REQUEST: usize = 8 << 20;
const READERS_REQUEST: usize = 64 << 10;
/// Bytes to be sent above which no more requests are taken, and above which no more events are.
pub(super) const ANSWERS: usize = 1 << 20;
pub(super) const EVENTS: usize = 64 << 10;
/// How many requests of an administrator and of a reader may be unanswered before no more are taken.
pub(super) const UNANSWERED: usize = 16;
pub(super) const READERS_UNANSWERED: usize = 4;
/// How many requests are taken in one turn.
pub(super) const SHARE: usize = 8;
/// A request is as much work as so many bytes of it, at least.
pub(super) const EACH: usize = 4 << 10;
/// How many bytes are received at a time.
const PORTION: usize = 64 << 10;

/// The connection has ended, or is of no use.
pub(super) struct Gone;

pub(super) struct Client {
    stream: UnixStream,
    pub(super) caller: Caller,
    pub(super) subscriptions: Subscriptions,
    /// What has come: lines, and the beginning of one.
    input: Vec<u8>,
    /// So much of it holds no end of a line.
    scanned: usize,
    /// What is to be sent, and how much of it was.
    output: Vec<u8>,
    sent: usize,
    /// It says nothing more, but may still listen.
    is_silent: bool,
    /// It neither says anything nor listens.
    has_hung_up: bool,
    is_ready: bool,
    /// The lines that are not answered, by number.
    lines: BTreeMap<u64, Answers>,
    last_line: u64,
    /// The requests of the last line that have not begun.
    next: VecDeque<Asked>,
    unanswered: usize,
    /// Bytes of answers that wait for others of their batch.
    held: usize,
}

/// The answers to the requests of a line, as far as they are there.
struct Answers {
    is_batch: bool,
    missing: usize,
    texts: Vec<String>,
}

impl Client {
    pub(super) fn new(stream: UnixStream, caller: Caller) -> Self {
        Self {
            stream,
            caller,
            subscriptions: Subscriptions::default(),
            input: Vec::new(),
            scanned: 0,
            output: Vec::new(),
            sent: 0,
            is_silent: false,
            has_hung_up: false,
            is_ready: true,
            lines: BTreeMap::new(),
            last_line: 0,
            next: VecDeque::new(),
            unanswered: 0,
            held: 0,
        }
    }

    pub(super) fn is_reader(&self) -> bool {
        self.caller.role == Role::Reader
    }

    pub(super) fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// How many bytes are kept of what is to be sent.
    pub(super) fn kept(&self) -> usize {
        self.output.len() + self.held
    }

    /// Whether more requests are taken. Those of a batch always are in the end: they are refused where too much is held.
    fn takes(&self) -> bool {
        let most = if self.is_reader() { READERS_UNANSWERED } else { UNANSWERED };
        let has_room = self.held < ANSWERS || !self.next.is_empty();
        self.waiting() < ANSWERS && self.unanswered < most && has_room
    }

    fn longest(&self) -> usize {
        if self.is_reader() { READERS_REQUEST } else { REQUEST }
    }

    /// What to wait for.
    pub(super) fn source(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !self.is_silent && self.takes());
        flags.set(PollFlags::OUT, self.waiting() > 0);
        PollFd::new(&self.stream, flags)
    }

    pub(super) fn set_ready(&mut self, ready: PollFlags) {
        self.is_ready = ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        self.has_hung_up = ready.intersects(PollFlags::HUP | PollFlags::ERR);
    }

    /// Hands requests to `begin` with the number of their line, as many as are this turn's share, and no more than all clients
    /// have `left` of theirs, in bytes.
    pub(super) fn take(
        &mut self,
        left: &mut usize,
        mut begin: impl FnMut(&mut Self, u64, Asked),
    ) -> Result<(), Gone> {
        if self.has_hung_up && (self.is_silent || !self.takes()) && !self.has_more() {
            return Err(Gone);
        }
        for _ in 0..SHARE {
            if *left == 0 || !self.takes() {
                break;
            }
            if self.next.is_empty() {
                let Some(line) = self.line()? else { break };
                *left = left.saturating_sub(line.len());
                self.understand(&line);
            }
            let Some(mut asked) = self.next.pop_front() else { break };
            if self.held >= ANSWERS {
                let why = format!("the answers before this one in the batch have more than {ANSWERS} bytes");
                asked.what = Err(Failure::busy(why));
            }
            *left = left.saturating_sub(EACH);
            self.unanswered += 1;
            begin(self, self.last_line, asked);
        }
        Ok(())
    }

    /// What it says next.
    fn understand(&mut self, line: &[u8]) {
        let (is_batch, asked) = match rpc::parse(line) {
            Line::One(asked) => (false, vec![asked]),
            Line::Batch(asked) => (true, asked),
        };
        self.last_line += 1;
        self.lines.insert(self.last_line, Answers { is_batch, missing: asked.len(), texts: Vec::new() });
        self.next = asked.into();
    }

    /// Whether there is a request that can be taken.
    pub(super) fn has_more(&mut self) -> bool {
        let is_last = self.is_silent && !self.input.is_empty();
        self.takes() && (is_last || !self.next.is_empty() || self.end_of_line().is_some())
    }

    /// The next line, if it is there.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        if self.end_of_line().is_none() && std::mem::take(&mut self.is_ready) && !self.is_silent {
            self.receive()?;
        }
        let (end, longest) = (self.end_of_line(), self.longest());
        if end.unwrap_or(self.input.len()) > longest {
            self.last_word(Failure::new(Failure::REQUEST, format!("a request has at most {longest} bytes")));
            return Ok(None);
        }
        let line = match end {
            Some(end) => self.input.drain(..=end).take(end).collect(),
            // The last line may have no end.
            None if self.is_silent && !self.input.is_empty() => std::mem::take(&mut self.input),
            None => return Ok(None),
        };
        self.scanned = 0;
        Ok(Some(line))
    }

    fn end_of_line(&mut self) -> Option<usize> {
        let found = self.input[self.scanned..].iter().position(|byte| *byte == b'\n');
        let end = found.map(|at| self.scanned + at);
        self.scanned = end.unwrap_or(self.input.len());
        end
    }

    fn receive(&mut self) -> Result<(), Gone> {
        let before = self.input.len();
        self.input.resize(before + PORTION, 0);
        let received = self.stream.read(&mut self.input[before..]);
        self.input.truncate(before + *received.as_ref().unwrap_or(&0));
        match received {
            Ok(0) => self.is_silent = true,
            // There may be more.
            Ok(length) => self.is_ready = length == PORTION,
            Err(error) => transient(&error)?,
        }
        Ok(())
    }

    /// Refuses what has come, and all that may come.
    fn last_word(&mut self, failure: Failure) {
        self.put(&rpc::answer(&Value::Null, &Err(failure)));
        self.input = Vec::new();
        self.scanned = 0;
        self.is_silent = true;
    }

    fn put(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.push(b'\n');
    }

    /// One request of a line has its answer; those of a batch are told together.
    pub(super) fn answered(&mut self, line: u64, text: Option<String>) {
        let Some(answers) = self.lines.get_mut(&line) else { return };
        self.held += text.as_ref().map_or(0, String::len);
        answers.texts.extend(text);
        answers.missing -= 1;
        self.unanswered -= 1;
        if answers.missing > 0 {
            return;
        }
        let Some(Answers { is_batch, texts, .. }) = self.lines.remove(&line) else { return };
        self.held -= texts.iter().map(String::len).sum::<usize>();
        match is_batch {
            _ if texts.is_empty() => {}
            true => self.put(&format!("[{}]", texts.join(","))),
            false => texts.iter().for_each(|text| self.put(text)),
        }
    }

    /// Sends what there is, and the events that are due, as far as there is room.
    pub(super) fn send(&mut self, history: &History) -> Result<(), Gone> {
        loop {
            let mut subscriptions = std::mem::take(&mut self.subscriptions);
            let all = subscriptions.serve(history, |line| {
                let has_room = self.waiting() < EVENTS;
                if has_room {
                    self.put(&line);
                }
                has_room
            });
            self.subscriptions = subscriptions;
            self.flush()?;
            if all || self.waiting() > 0 {
                break;
            }
        }
        let is_over = self.is_silent && self.input.is_empty() && self.waiting() == 0;
        let owes = !self.lines.is_empty() || !self.subscriptions.is_empty();
        if is_over && !owes { Err(Gone) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        while self.waiting() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) => {
                    self.forget_sent();
                    return transient(&error);
                }
            }
        }
        self.forget_sent();
        self.output.shrink_to(EVENTS);
        Ok(())
    }

    /// Gives back the room of what was sent, once that is the greater part: there may always be something left.
    fn forget_sent(&mut self) {
        if self.sent >= self.waiting() {
            self.output.drain(..std::mem::take(&mut self.sent));
        }
    }
}

/// Whether an error does not stay.
fn transient(error: &std::io::Error) -> Result<(), Gone> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
        _ => Err(Gone),
    }
}
