//! Limits: how many commands a second, and how many bytes, some initiators and logical units get between them.
//!
//! A limit is a bucket of tokens for commands and one for bytes, which fill with time. A command takes what it is worth, and may
//! take more than there is as long as there is anything; the next ones wait until that is made up for. Whoever shares a limit
//! draws from the same buckets, on whichever reactors. Those that have to wait stand in one line, in which initiators have
//! turns, and in one turn pay for no more than is moved at once.
//!
//! Nobody waits for the limits of another: what would hold back others of its unit while it waited, as ORDERED commands do and
//! what came before them, does not wait. It is refused when it comes, or goes on and is made up for.

mod bucket;
mod line;
mod purse;
mod toll;

pub(crate) use purse::{Purse, Purses};
pub use toll::Limiter;
pub(crate) use toll::{Toll, Watched};

use crate::engine::Engine;
use crate::order::TURNS_AT_A_TIME;
use bucket::{Bucket, parts};
use line::{Line, Waiter};
use lunette_store::{Post, ReactorId};
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So much in a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// In each second.
    pub per_second: NonZeroU64,
    /// How much is possible at once after a pause. It is at least what comes in a hundredth of a second.
    pub burst: u64,
}

/// What a [`Limit`] allows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rates {
    /// Commands that work on the medium; `None`: any number.
    pub commands: Option<Rate>,
    /// Bytes that these move between initiators and logical units, or write, if that is more; `None`: any number.
    pub bytes: Option<Rate>,
}

/// What one command takes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Cost {
    /// One, if it is not a part of a command.
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
}

impl Cost {
    /// Of a command.
    pub(crate) fn command(bytes: u64) -> Self {
        Self { commands: 1, bytes }
    }

    /// Of so many that cost the same.
    fn times(self, count: u64) -> Self {
        let commands = self.commands.saturating_mul(count);
        Self { commands, bytes: self.bytes.saturating_mul(count) }
    }

    /// Of what a command does beyond what it has paid for.
    pub(crate) fn bytes(bytes: u64) -> Self {
        Self { commands: 0, bytes }
    }
}

/// What is counted of those who wait at limits that share it.
#[derive(Default, Debug)]
pub struct Delays {
    waiting: AtomicU64,
    waits: AtomicU64,
}

impl Delays {
    /// How many commands wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How often a command has begun to wait.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    fn begun(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, commands: usize) {
        self.waiting.fetch_sub(commands as u64, Ordering::Relaxed);
    }
}

/// What those who share it may do in a time.
// What commands look at lies in one line of the cache, and whatever else is near in others.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Limit {
    number: u32,
    commands: Bucket,
    bytes: Bucket,
    /// Somebody stands in the line.
    is_crowded: AtomicBool,
    line: Mutex<Line>,
    delays: Arc<Delays>,
}

/// Several, all of which count.
pub type Limits = Arc<[Arc<Limit>]>;

impl Limit {
    /// One that nobody has used yet.
    pub fn new(rates: Rates) -> Arc<Self> {
        Self::with_delays(rates, Arc::default())
    }

    /// The same, where those who wait are counted in `delays`, perhaps with those of other limits.
    pub fn with_delays(rates: Rates, delays: Arc<Delays>) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let limit = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            commands: Bucket::default(),
            bytes: Bucket::default(),
            is_crowded: AtomicBool::new(false),
            line: Mutex::default(),
            delays,
        };
        limit.apply(rates);
        Arc::new(limit)
    }

    /// Whether all that may come at once after a pause may come `now`, by the clock of the reactors: a new one would allow the same.
    pub fn has_rested(&self, now: Duration) -> bool {
        self.commands.is_full(parts(now)) && self.bytes.is_full(parts(now))
    }

    /// Allows more or less from now on, also to those that wait.
    pub fn set(&self, rates: Rates, post: &dyn Post) {
        self.apply(rates);
        self.call_up(|_| true, post);
    }

    fn apply(&self, rates: Rates) {
        self.commands.set(rates.commands);
        self.bytes.set(rates.bytes);
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a command costs, unless it has to wait.
    #[inline]
    pub(crate) fn pay(&self, cost: Cost, now: Duration) -> bool {
        !cost.is_large() && !self.is_crowded.load(Ordering::Acquire) && self.draw(cost, now)
    }

    #[inline]
    fn draw(&self, cost: Cost, now: Duration) -> bool {
        let now = parts(now);
        if !self.commands.draw(cost.commands, now) {
            return false;
        }
        let has_drawn = self.bytes.draw(cost.bytes, now);
        if !has_drawn {
            self.commands.give_back(cost.commands);
        }
        has_drawn
    }

    /// Whether a command need not wait.
    fn is_free(&self, now: Duration) -> bool {
        let has_tokens = |bucket: &Bucket| bucket.has_tokens(parts(now));
        !self.is_crowded.load(Ordering::Acquire) && has_tokens(&self.commands) && has_tokens(&self.bytes)
    }

    /// Whether `cost` is only a small part of what is there, for which nobody waits.
    fn has_plenty(&self, cost: Cost, now: Duration) -> bool {
        let now = parts(now);
        let has_plenty =
            self.commands.has_plenty(cost.commands, now) && self.bytes.has_plenty(cost.bytes, now);
        has_plenty && !cost.is_large() && !self.is_crowded.load(Ordering::Acquire)
    }

    /// Whether a command of the initiator for this unit waits.
    fn holds_back(&self, initiator: &str, unit: u64) -> bool {
        self.is_crowded.load(Ordering::Acquire) && self.line().has(initiator, unit)
    }

    /// Takes what something costs that does not wait.
    pub(crate) fn charge(&self, cost: Cost, now: Duration) {
        self.commands.take(cost.commands, parts(now));
        self.bytes.take(cost.bytes, parts(now));
    }

    /// Gives back what a command has paid that is not carried out after all.
    pub(crate) fn refund(&self, cost: Cost) {
        self.commands.give_back(cost.commands);
        self.bytes.give_back(cost.bytes);
    }

    /// How long until there are tokens again.
    fn patience(&self, now: Duration) -> Duration {
        self.commands.empty_for(parts(now)).max(self.bytes.empty_for(parts(now)))
    }

    /// Has a command stand in the line. Returns its number there, and what the caller has to see to.
    fn enter(&self, waiter: Waiter, now: Duration) -> (u64, Option<Watch>) {
        let mut line = self.line();
        self.is_crowded.store(true, Ordering::Release);
        self.delays.begun();
        (line.enter(waiter), self.watch(&mut line, now))
    }

    fn watch(&self, line: &mut Line, now: Duration) -> Option<Watch> {
        line.watch().map(|number| Watch { number, after: self.patience(now) })
    }

    /// Lets those of the line have what there is, at the end of a watch. Returns them, and what the caller has to see to.
    fn admit(&self, watch: u64, now: Duration) -> (Vec<(u64, Waiter)>, Option<Watch>) {
        let mut line = self.line();
        let mut admitted = Vec::new();
        if !line.end_watch(watch) {
            return (admitted, None);
        }
        for _ in 0..TURNS_AT_A_TIME {
            let Some(portion) = line.portion().filter(|portion| self.draw(*portion, now)) else { break };
            admitted.extend(line.take_turn(portion));
        }
        self.is_crowded.store(!line.is_empty(), Ordering::Release);
        self.delays.ended(admitted.len());
        (admitted, self.watch(&mut line, now))
    }

    /// A command does not wait any more, and will not begin for having waited here. What it has paid is given back.
    fn leave(&self, number: u64, waiter: &Waiter) {
        let mut line = self.line();
        self.delays.ended(line.leave(number, waiter).into());
        self.refund(waiter.receipt.cancel());
        self.open_if_empty(&mut line);
    }

    /// Who comes next sees when there are tokens by now, if nobody waits.
    fn open_if_empty(&self, line: &mut Line) {
        if line.is_empty() {
            line.end_watches();
            self.is_crowded.store(false, Ordering::Release);
        }
    }

    /// Has those of the line look again what holds for them.
    pub(crate) fn call_up(&self, which: impl Fn(&Waiter) -> bool, post: &dyn Post) {
        let mut line = self.line();
        let called = line.take(which);
        self.delays.ended(called.len());
        self.open_if_empty(&mut line);
        called.iter().for_each(|waiter| self.refund(waiter.receipt.cancel()));
        drop(line);
        let reactors: BTreeSet<ReactorId> = called.iter().map(|waiter| waiter.reactor).collect();
        for reactor in reactors {
            let theirs = called.iter().filter(|waiter| waiter.reactor == reactor);
            let tasks: Vec<_> = theirs.map(|waiter| waiter.task).collect();
            post.post(reactor, Engine::message(move |engine, cx| engine.look_again(tasks, cx)));
        }
    }
}

/// Somebody has to look after so long, and say then which watch that was.
struct Watch {
    number: u64,
    after: Duration,
}
