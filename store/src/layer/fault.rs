//! Faults on purpose: errors, delays and short transfers, for tests.

use crate::{
    Backing, Caps, Cx, IoError, IoId, IoResult, Lane, Op, Pending, Relay, Room, Seg, Sg, Sink, Store, Submit,
    attach_relay,
};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What goes wrong. As text: any of `delay:MS`, `eio:OFFSET`, `short:OFFSET`, `enospc:OFFSET` and `torn:OFFSET`, joined by `+`;
/// offsets are in bytes, and an operation is hit when its range contains the byte.
///
/// ```
/// use lunette_store::layer::fault::Plan;
/// let plan: Plan = "delay:20+eio:4096+eio:8192".parse()?;
/// assert_eq!(plan.eio, [4096, 8192]);
/// assert!("eio:4k".parse::<Plan>().is_err());
/// # Ok::<(), lunette_store::layer::fault::PlanError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// How long every operation is held back before it reaches the store.
    pub delay: Duration,
    /// Everything that touches one of these bytes fails with `EIO`.
    pub eio: Vec<u64>,
    /// Reads and writes end before these bytes, with [`IoError::Short`].
    pub short: Vec<u64>,
    /// Writes and zeroing that touch these bytes fail with [`IoError::NoSpace`].
    pub enospc: Vec<u64>,
    /// Writes end before these bytes and never complete, as when the program is killed meanwhile.
    pub torn: Vec<u64>,
}

/// What is wrong with the text of a [`Plan`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PlanError {
    /// Not one of the known faults.
    #[error("unknown fault {0:?}: expected delay:MS, eio:OFFSET, short:OFFSET, enospc:OFFSET or torn:OFFSET")]
    Unknown(String),
    /// Not a decimal number.
    #[error("{0:?} is not a decimal number")]
    Number(String),
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for fault in text.split('+') {
            let unknown = || PlanError::Unknown(fault.to_owned());
            let (name, value) = fault.split_once(':').ok_or_else(unknown)?;
            let number: Result<u64, _> = value.parse();
            let number = || number.map_err(|_| PlanError::Number(value.to_owned()));
            match name {
                "delay" => plan.delay = Duration::from_millis(number()?),
                "eio" => plan.eio.push(number()?),
                "short" => plan.short.push(number()?),
                "enospc" => plan.enospc.push(number()?),
                "torn" => plan.torn.push(number()?),
                _ => return Err(unknown()),
            }
        }
        Ok(plan)
    }
}

impl Plan {
    fn verdict(&self, op: &Op<'_>) -> Verdict {
        let (offset, length) = op.range();
        let hit = |bytes: &[u64]| {
            let inside = |byte: &&u64| byte.checked_sub(offset).is_some_and(|at| at < length);
            bytes.iter().filter(inside).min().copied()
        };
        let takes_room = matches!(op, Op::Write { .. } | Op::Zero { .. } | Op::Copy { .. });
        if hit(&self.eio).is_some() {
            Verdict::Fail(IoError::Os(libc::EIO))
        } else if takes_room && hit(&self.enospc).is_some() {
            Verdict::Fail(IoError::NoSpace)
        } else if let Some(end) = hit(&self.torn)
            && matches!(op, Op::Write { .. })
        {
            Verdict::Torn(end - offset)
        } else if let Some(end) = hit(&self.short)
            && !op.sg().is_empty()
        {
            Verdict::Short(end - offset)
        } else {
            Verdict::Pass
        }
    }
}

enum Verdict {
    Pass,
    Fail(IoError),
    Short(u64),
    Torn(u64),
}

/// Another store, with faults.
pub struct Fault {
    inner: Arc<dyn Backing>,
    plan: Plan,
}

impl Fault {
    /// `inner`, with the faults of `plan`.
    pub fn new(inner: Arc<dyn Backing>, plan: Plan) -> Self {
        Self { inner, plan }
    }
}

impl Backing for Fault {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn is_lasting(&self) -> bool {
        self.inner.is_lasting()
    }

    fn lane(&self) -> Option<&Lane> {
        self.inner.lane()
    }

    fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.inner.memory()
    }

    fn room(&self) -> Result<Room, IoError> {
        self.inner.room()
    }

    fn is_resizable(&self) -> bool {
        self.inner.is_resizable()
    }

    fn resize(&self, size: u64) -> Result<(), IoError> {
        self.inner.resize(size)
    }

    fn measure(&self) -> Result<u64, IoError> {
        self.inner.measure()
    }

    fn has_failed(&self) -> bool {
        self.inner.has_failed()
    }

    fn set_failed(&self) {
        self.inner.set_failed();
    }

    fn keep_failure(&self, keep: Box<dyn Fn() + Send + Sync>) {
        self.inner.keep_failure(keep);
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        let attached =
            Attached { inner: self.inner.attach(cx), plan: self.plan.clone(), pending: Pending::default() };
        attach_relay(cx, attached)
    }
}

struct Attached {
    inner: Rc<dyn Store>,
    plan: Plan,
    pending: Pending<Kept>,
}

enum Kept {
    /// Waits for its timer; the operation with an empty list, and the list.
    Held(IoId, Op<'static>, Vec<Seg>),
    /// On its way, and will be called short.
    Cut(IoId),
    /// Nobody will hear of it.
    Torn,
}

/// How long an operation waits when the inner store is full.
const RETRY: Duration = Duration::from_millis(1);

impl Attached {
    fn hold(&self, op: Op<'_>, id: IoId, delay: Duration, cx: &mut dyn Cx) {
        let segs = op.sg().iter().collect();
        let timer = self.pending.keep(Kept::Held(id, op.with_sg(Sg::empty()), segs));
        cx.timer(delay, timer);
    }

    fn pass(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        match self.plan.verdict(&op) {
            Verdict::Pass => self.inner.submit(op, id, cx),
            Verdict::Fail(error) => Submit::Done(Err(error)),
            Verdict::Torn(length) => {
                let torn = self.pending.keep(Kept::Torn);
                let submit = self.inner.submit(op.with_sg(op.sg().part(0, length)), torn, cx);
                if submit != Submit::Queued {
                    self.pending.take(torn.token);
                }
                if submit == Submit::Full { submit } else { Submit::Queued }
            }
            Verdict::Short(0) => Submit::Done(Err(IoError::Short { moved: 0 })),
            Verdict::Short(length) => {
                let cut = self.pending.keep(Kept::Cut(id));
                let part = op.sg().part(0, length);
                let submit = self.inner.submit(op.with_sg(part), cut, cx);
                if submit != Submit::Queued {
                    self.pending.take(cut.token);
                }
                match submit {
                    Submit::Done(result) => Submit::Done(shortened(result)),
                    other => other,
                }
            }
        }
    }
}

fn shortened(result: IoResult) -> IoResult {
    result.and_then(|moved| Err(IoError::Short { moved }))
}

impl Store for Attached {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        if let Err(error) = self.caps().check(&op) {
            return Submit::Done(Err(error));
        }
        if self.plan.delay.is_zero() {
            return self.pass(op, id, cx);
        }
        self.hold(op, id, self.plan.delay, cx);
        Submit::Queued
    }

    fn release(&self, cx: &mut dyn Cx) {
        self.inner.release(cx);
    }
}

impl Sink for Attached {
    fn complete(&self, token: u64, result: IoResult, cx: &mut dyn Cx) {
        match self.pending.take(token) {
            Some(Kept::Held(id, op, segs)) => {
                let op = op.with_sg(Sg::new(&segs));
                match self.pass(op, id, cx) {
                    Submit::Done(result) => cx.complete(id, result),
                    Submit::Queued => {}
                    Submit::Full => self.hold(op, id, RETRY, cx),
                }
            }
            Some(Kept::Cut(id)) => cx.complete(id, shortened(result)),
            Some(Kept::Torn) | None => {}
        }
    }
}

impl Relay for Attached {
    type Kept = Kept;

    fn pending(&self) -> &Pending<Kept> {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, SinkId, ram::Ram, sim::Sim};
    use std::cell::{Cell, RefCell};

    #[derive(Default)]
    struct Log(RefCell<Vec<(u64, IoResult)>>);

    impl Sink for Log {
        fn complete(&self, token: u64, result: IoResult, _cx: &mut dyn Cx) {
            self.0.borrow_mut().push((token, result));
        }
    }

    struct Rig {
        sim: Sim,
        ram: Ram,
        store: Rc<dyn Store>,
        log: Rc<Log>,
        sink: SinkId,
    }

    impl Rig {
        fn new(plan: &str) -> Self {
            let mut sim = Sim::new(1);
            let ram = Ram::new(1 << 16).unwrap();
            let fault = Fault::new(Arc::new(ram.clone()), plan.parse().unwrap());
            let log = Rc::new(Log::default());
            let sink = sim.cx(0).register(log.clone());
            let store = fault.attach(sim.cx(0));
            Self { sim, ram, store, log, sink }
        }

        fn submit(&mut self, op: Op<'_>, token: u64) -> Submit {
            let id = IoId { sink: self.sink, token };
            self.store.submit(op, id, self.sim.cx(0))
        }

        fn content(&mut self, offset: u64, length: usize) -> Vec<u8> {
            let back = Memory::zeroed(length);
            let to = [back.seg()];
            let read = Op::Read { offset, to: Sg::new(&to) };
            let id = IoId { sink: self.sink, token: 0 };
            let store = self.ram.attach(self.sim.cx(0));
            let done = Submit::Done(Ok(length as u64));
            assert_eq!(store.submit(read, id, self.sim.cx(0)), done);
            back.to_vec()
        }
    }

    fn write(offset: u64, segs: &[Seg]) -> Op<'_> {
        Op::Write { offset, from: Sg::new(segs), durable: false }
    }

    #[test]
    fn errors_hit_the_operations_that_touch_their_byte() {
        let mut rig = Rig::new("eio:1000+enospc:2000");
        let memory = Memory::zeroed(1000);
        let segs = [memory.seg()];
        let eio = Submit::Done(Err(IoError::Os(libc::EIO)));
        assert_eq!(rig.submit(write(0, &segs), 0), Submit::Done(Ok(1000)));
        assert_eq!(rig.submit(write(1, &segs), 0), eio);
        assert_eq!(rig.submit(write(1000, &segs), 0), eio);
        let full = Submit::Done(Err(IoError::NoSpace));
        assert_eq!(rig.submit(write(1001, &segs), 0), full);
        let read = Op::Read { offset: 1001, to: Sg::new(&segs) };
        assert_eq!(rig.submit(read, 0), Submit::Done(Ok(1000)));
        let discard = Op::Discard { offset: 0, length: 1 << 16 };
        assert_eq!(rig.submit(discard, 0), eio);
        assert_eq!(rig.submit(Op::Flush, 0), Submit::Done(Ok(0)));
    }

    #[test]
    fn a_short_write_moves_the_bytes_before_the_fault() {
        let mut rig = Rig::new("short:100");
        let memory = Memory::from_bytes(&[7; 200]);
        let segs = [memory.seg()];
        let short = |moved| Submit::Done(Err(IoError::Short { moved }));
        assert_eq!(rig.submit(write(50, &segs), 0), short(50));
        assert_eq!(rig.content(99, 2), [7, 0]);
        assert_eq!(rig.submit(write(100, &segs), 0), short(0));
    }

    #[test]
    fn a_torn_write_moves_the_bytes_before_the_fault_and_says_nothing() {
        let mut rig = Rig::new("torn:100");
        let memory = Memory::from_bytes(&[7; 200]);
        let segs = [memory.seg()];
        for offset in [50, 100] {
            assert_eq!(rig.submit(write(offset, &segs), 0), Submit::Queued);
        }
        rig.sim.settle();
        assert!(rig.log.0.borrow().is_empty());
        assert_eq!(rig.content(99, 2), [7, 0]);
        let read = Op::Read { offset: 0, to: Sg::new(&segs) };
        assert_eq!(rig.submit(read, 0), Submit::Done(Ok(200)));
    }

    #[test]
    fn a_delayed_operation_reaches_the_store_after_its_time() {
        let mut rig = Rig::new("delay:10+eio:5000+short:6000");
        let memory = Memory::from_bytes(&[7; 512]);
        let segs = [memory.seg()];
        assert_eq!(rig.submit(write(0, &segs), 1), Submit::Queued);
        assert_eq!(rig.submit(write(5000, &segs), 2), Submit::Queued);
        assert_eq!(rig.submit(write(5900, &segs), 3), Submit::Queued);
        rig.sim.advance(Duration::from_millis(9));
        rig.sim.settle();
        assert_eq!(rig.content(0, 1), [0]);
        assert!(rig.log.0.borrow().is_empty());
        rig.sim.advance(Duration::from_millis(1));
        rig.sim.settle();
        assert_eq!(rig.content(0, 1), [7]);
        let expected =
            [(1, Ok(512)), (2, Err(IoError::Os(libc::EIO))), (3, Err(IoError::Short { moved: 100 }))];
        assert_eq!(*rig.log.0.borrow(), expected);
    }

    #[test]
    fn bad_plans_are_named() {
        let error = |text: &str| text.parse::<Plan>().unwrap_err().to_string();
        assert_eq!(error("eio:x"), "\"x\" is not a decimal number");
        assert!(error("delay:1+eoi:5").starts_with("unknown fault \"eoi:5\""));
        assert!(error("").starts_with("unknown fault"));
    }

    #[test]
    fn a_handle_dropped_while_idle_leaves_nothing_behind() {
        let Rig { mut sim, store, .. } = Rig::new("delay:10");
        drop(store);
        assert!(sim.step(0), "the sink is unregistered");
        assert!(!sim.step(0));
    }

    #[test]
    fn a_handle_dropped_too_early_still_completes() {
        let mut rig = Rig::new("delay:10");
        rig.submit(Op::Flush, 1);
        let Rig { mut sim, store, log, .. } = rig;
        drop(store);
        sim.advance(Duration::from_millis(10));
        sim.settle();
        assert_eq!(*log.0.borrow(), [(1, Ok(0))]);
    }

    #[test]
    fn a_full_store_is_tried_again() {
        struct Busy(Cell<u32>, Caps);
        impl Store for Busy {
            fn caps(&self) -> &Caps {
                &self.1
            }
            fn submit(&self, _op: Op<'_>, _id: IoId, _cx: &mut dyn Cx) -> Submit {
                match self.0.replace(self.0.get().saturating_sub(1)) {
                    0 => Submit::Done(Ok(0)),
                    _ => Submit::Full,
                }
            }
        }
        let mut rig = Rig::new("delay:10");
        let busy = Busy(Cell::new(2), Backing::caps(&rig.ram).clone());
        let attached =
            Attached { inner: Rc::new(busy), plan: "delay:10".parse().unwrap(), pending: Pending::default() };
        rig.store = attach_relay(rig.sim.cx(0), attached);
        rig.submit(Op::Flush, 1);
        rig.sim.advance(Duration::from_millis(11));
        rig.sim.settle();
        assert!(rig.log.0.borrow().is_empty());
        rig.sim.advance(RETRY);
        rig.sim.settle();
        rig.sim.advance(RETRY);
        rig.sim.settle();
        assert_eq!(*rig.log.0.borrow(), [(1, Ok(0))]);
    }
}
