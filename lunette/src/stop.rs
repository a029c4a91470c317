//! Stopping: the exports first, then a flush of every unit, and no more than so long for either.
//!
//! A front end can keep its export from ending, and a store its unit from being flushed. Neither keeps other units from being
//! flushed, or the program from ending.

use crate::config::values::Name;
use crate::custodian::Custodian;
use crate::handover;
use crate::inherited::GivenSockets;
use crate::running::Running;
use crate::units::Units;
use anyhow::{Result, anyhow};
use lunette_engine::LogicalUnit;
use lunette_reactor::Reactors;
use lunette_store::{Backing, Cx, IoId, IoResult, Op, ReactorId, Sink, SinkId, Store, Submit};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

/// How long exports have to end, at least.
pub(crate) const EXPORTS: Duration = Duration::from_secs(10);
/// How much longer they have than the commands of iSCSI.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// The longest time that these may be given.
pub(crate) const LONGEST: Duration = Duration::from_secs(20);
/// How long what is handed over has to come to rest.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long the custodian may take to have all of it, and to forget what is kept against kills.
pub(crate) const GIVE: Duration = Duration::from_secs(10);
/// How long the units have to be flushed.
const FLUSH: Duration = Duration::from_secs(60);
/// What else takes a moment, as the control socket does.
const OTHERS: Duration = Duration::from_secs(3);

/// How long stopping may take, all in all, if exports have `exports_time`: less than the 90 seconds after which systemd kills, unless
/// it is said otherwise. So it is where everything is handed over before that; all of it fits into the `TimeoutStopSec=` of the
/// unit.
pub(crate) fn whole(exports_time: Duration, hands_over: bool) -> Duration {
    let stop = OTHERS + exports_time + FLUSH;
    if hands_over { stop + FLUSH + DRAIN + 2 * GIVE } else { stop }
}

/// How long exports have to end, if the commands of iSCSI are given `commands_time`.
pub(crate) fn exports_time(commands_time: Duration) -> Duration {
    EXPORTS.max(commands_time + AFTERWARDS)
}

/// How many units are flushed at a time, for each may take a thread.
const AT_A_TIME: usize = 64;
/// When none of them has answered for so long, as many more are.
const SILENCE: Duration = Duration::from_secs(1);

/// A time that all wait for no longer than.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The same, but no later than after `most`.
    pub(crate) fn within(self, most: Duration) -> Self {
        Self(self.0.min(Instant::now() + most))
    }
}

/// Stops all ways in and flushes every writable unit. Says what has not ended or cannot be flushed; the first of it is the
/// error.
pub(crate) fn stop(running: &Running, exports_time: Duration, deadline: Deadline) -> Result<()> {
    let stuck = running.stop(deadline.within(exports_time));
    for name in &stuck {
        tracing::warn!("{name} has not ended within {exports_time:?}: ending without it");
    }
    let flushed = flush(&running.units(), running.reactors, deadline.within(FLUSH));
    running.forget_failures();
    match stuck.is_empty() {
        true => flushed,
        false => flushed.and(Err(anyhow!("not ended: {}", stuck.join(", ")))),
    }
}

/// Hands everything over to another process. A service manager may end the service instead of starting it again, so every unit is
/// flushed before that, while it is still served. The custodian keeps records of guests by this number and the next. What does not
/// happen before the deadline has failed.
pub(crate) fn hand_over(
    running: &Running,
    given: &GivenSockets,
    (custodian, first): (&mut Custodian, u64),
    exports_time: Duration,
    deadline: Deadline,
) -> Result<()> {
    if custodian.is_manager() {
        // What cannot be flushed is logged. That it has failed goes along, so initiators hear of it when they ask for it.
        let _ = flush(&running.units(), running.reactors, deadline.within(FLUSH));
    }
    let begin = Instant::now();
    let left = running.leave(deadline.within(DRAIN), exports_time, deadline);
    for name in &left.stuck {
        tracing::warn!("{name} has not ended within {:?}: it is not handed over", DRAIN + exports_time);
    }
    let (sessions, exports) = (left.sessions.len(), left.exports.len());
    custodian.end_by(deadline.within(GIVE));
    handover::give(left, given, custodian, first)?;
    // What a service manager keeps is what the next process goes by. Another program may come to nothing yet.
    if custodian.is_manager() {
        running.forget_failures_known();
    }
    tracing::info!(sessions, exports, "everything is handed over, after {:?}", begin.elapsed());
    Ok(())
}

/// Flushes every writable unit; the first that cannot be flushed is reported. Those that do not answer hold up no other.
fn flush(units: &Units, reactors: &Reactors, deadline: Deadline) -> Result<()> {
    let (tell, told) = mpsc::channel();
    let mut next = units.iter().filter_map(|(name, unit)| Some((name.clone(), writable(&unit.unit)?)));
    let (mut under_way, mut failed) = (BTreeSet::new(), BTreeMap::new());
    let mut most = AT_A_TIME;
    loop {
        for (name, backing) in next.by_ref().take(most - under_way.len()) {
            under_way.insert(name.clone());
            begin_flush(name, backing, tell.clone(), reactors);
        }
        if under_way.is_empty() {
            break;
        }
        match told.recv_timeout(deadline.left().min(SILENCE)) {
            Ok((name, result)) => {
                under_way.remove(&name);
                failed.extend(result.err().map(|error| (name, error.into())));
            }
            Err(_) if deadline.left().is_zero() => break,
            Err(_) => most = under_way.len() + AT_A_TIME,
        }
    }
    let missing = under_way.into_iter().chain(next.map(|(name, _)| name));
    failed.extend(missing.map(|name| (name, anyhow!("it has taken too long"))));
    let failed = failed.into_iter().map(|(name, error)| {
        let error = error.context(format!("cannot flush {name}"));
        tracing::error!("{error:#}");
        error
    });
    failed.reduce(|first, _| first).map_or(Ok(()), Err)
}

fn writable(unit: &LogicalUnit) -> Option<Arc<dyn Backing>> {
    unit.backing().filter(|backing| !backing.caps().read_only).cloned()
}

/// What came of the flush of a unit.
type Flushed = (Name, IoResult);

/// Has the store of the unit `name` flushed, and `tell` told.
fn begin_flush(name: Name, backing: Arc<dyn Backing>, tell: Sender<Flushed>, reactors: &Reactors) {
    let begin = move |cx: &mut dyn Cx| {
        let store = backing.attach(cx);
        let flush = Rc::new(Flush { name, tell, _store: store.clone(), sink: Cell::new(None) });
        let sink = cx.register(flush.clone());
        flush.sink.set(Some(sink));
        let id = IoId { sink, token: 0 };
        match store.submit(Op::Flush, id, cx) {
            Submit::Queued => {}
            done => cx.complete(id, done.done().unwrap_or(Ok(0))),
        }
    };
    reactors.poster().post(ReactorId(0), Box::new(begin));
}

/// Waits for one flush.
struct Flush {
    name: Name,
    tell: Sender<Flushed>,
    /// Kept until its operation has completed.
    _store: Rc<dyn Store>,
    sink: Cell<Option<SinkId>>,
}

impl Sink for Flush {
    fn complete(&self, _: u64, result: IoResult, cx: &mut dyn Cx) {
        let _ = self.tell.send((self.name.clone(), result));
        if let Some(sink) = self.sink.take() {
            cx.unregister(sink);
        }
    }
}

#[cfg(test)]
mod tests;
