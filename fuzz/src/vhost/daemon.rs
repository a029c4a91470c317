//! Exports on simulated reactors, with real sockets and eventfds.

use lunette_store::held::{self, Operation};
use lunette_store::sim::{Sim, SimCx};
use lunette_store::{Cx, Interest, IoError, IoId, IoResult, ReactorId};
use lunette_transport_vhost_user::{Endpoint, Handle, Options, VhostUserExport, fuzzing};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunette_engine::TargetPort;

/// Most events until the daemon must have come to rest.
const PATIENCE: usize = 1 << 20;

/// Reactors, what they wait for, and the exports on them.
pub(super) struct Daemon {
    sim: Sim,
    reactors: usize,
    watches: Vec<Rc<Watches>>,
    handles: Vec<Handle>,
}

/// Where an export is reached.
pub(super) struct Address(SocketAddr);

impl Address {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("lunette-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(SocketAddr::from_abstract_name(name).expect("a name"))
    }

    pub(super) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect_addr(&self.0).expect("an export that listens");
        stream.set_nonblocking(true).expect("a socket");
        stream
    }
}

impl Daemon {
    pub(super) fn new(reactors: usize) -> Self {
        let mut sim = Sim::new(reactors as u16);
        let watches: Vec<_> = (0..reactors).map(|_| Rc::new(Watches::new())).collect();
        for (index, watches) in watches.iter().enumerate() {
            let watches = watches.clone();
            sim.cx(index).watch_by(move |id, watch| watches.change(id, watch));
        }
        Self { sim, reactors, watches, handles: Vec::new() }
    }

    /// Exports `targets`, on the reactors from `first` on, round robin.
    pub(super) fn export(
        &mut self,
        targets: BTreeMap<u8, Arc<TargetPort>>,
        request_queues: u16,
        first: usize,
    ) -> Address {
        let address = Address::new();
        let listener = UnixListener::bind_addr(&address.0).expect("a new name");
        let endpoint = Endpoint::adopt(listener.into()).expect("a socket that listens");
        let options = Options { request_queues, ..Options::with(endpoint) };
        let reactors = (first..first + self.reactors).map(|n| ReactorId((n % self.reactors) as u16));
        let export = VhostUserExport::new(options, targets);
        let poster = self.sim.cx(0).poster();
        self.handles.push(export.start(poster, &reactors.collect::<Vec<_>>()).expect("an export"));
        address
    }

    pub(super) fn cx(&mut self, index: usize) -> &mut SimCx {
        self.sim.cx(index % self.reactors)
    }

    /// Lets everything happen that can without time passing.
    pub(super) fn run(&mut self) {
        for _ in 0..PATIENCE {
            let busy = self.all(|sim, index| sim.step(index));
            if !busy && !self.look() && !self.all(|sim, index| sim.idle(index)) {
                return;
            }
        }
        panic!("the daemon never comes to rest");
    }

    /// Lets a few events happen.
    pub(super) fn run_a_little(&mut self, events: usize) {
        for n in 0..events {
            if !self.sim.step(n % self.reactors) {
                self.look();
            }
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.sim.advance(by);
    }

    fn all(&mut self, mut act: impl FnMut(&mut Sim, usize) -> bool) -> bool {
        (0..self.reactors).fold(false, |any, index| act(&mut self.sim, index) | any)
    }

    /// Tells the reactors of descriptors that have become ready. Whether there were any.
    fn look(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.reactors {
            for id in self.watches[index].ready() {
                any = true;
                self.sim.cx(index).complete(id.0, id.1);
            }
        }
        any
    }

    /// Ends one of the operations that are held, if there is any, after moving its bytes: all of them if it succeeds.
    pub(super) fn release(&mut self, reactor: usize, which: usize, failure: Option<IoError>) {
        let cx = self.cx(reactor);
        if let Some(operation) = which.checked_rem(held::count(cx)).and_then(|index| held::take(index, cx)) {
            cx.complete(operation.id, carry_out(&operation, failure));
        }
    }

    /// Ends all operations, until no more than `residents` connections and queues are left.
    pub(super) fn wind_down(&mut self, residents: usize) {
        for _ in 0..2000 {
            self.run();
            if (self.residents(), self.held()) == (residents, 0) {
                return;
            }
            (0..self.reactors).for_each(|reactor| self.release(reactor, 0, None));
            self.advance(Duration::from_millis(2));
        }
        let (left, held) = (self.residents(), self.held());
        panic!("{left} connections and queues are left, not {residents}, and {held} operations are held");
    }

    /// How many operations are held.
    pub(super) fn held(&mut self) -> usize {
        (0..self.reactors).map(|index| held::count(self.sim.cx(index))).sum()
    }

    /// Connections and queues that there are.
    pub(super) fn residents(&mut self) -> usize {
        let count = |cx: &mut SimCx| fuzzing::residents(cx)[1..].iter().sum::<usize>();
        (0..self.reactors).map(|index| count(self.sim.cx(index))).sum()
    }

    /// Ends all exports. All operations have to be released before.
    pub(super) fn stop(mut self) {
        self.handles.iter().for_each(Handle::begin_stop);
        for _ in 0..8 {
            self.run();
            self.advance(Duration::from_secs(1));
        }
        for index in 0..self.reactors {
            assert_eq!(
                fuzzing::residents(self.sim.cx(index)),
                [0; 3],
                "exports, connections, queues are left"
            );
            assert!(self.watches[index].by_id.borrow().is_empty(), "descriptors are still watched");
        }
    }
}

/// Moves the bytes of an operation, as many as a store might that ends so.
fn carry_out(operation: &Operation, failure: Option<IoError>) -> IoResult {
    let (offset, length) = operation.range;
    let moved = match failure {
        None => length,
        Some(IoError::Short { moved }) => moved.min(length),
        Some(_) => length / 2,
    };
    let memory = operation.memory.as_sg();
    if operation.reads {
        memory.copy_in(0, &vec![(offset / 512) as u8; moved as usize]);
    } else {
        memory.to_vec(moved);
    }
    match failure {
        None => Ok(length),
        Some(IoError::Short { .. }) => Err(IoError::Short { moved }),
        Some(other) => Err(other),
    }
}

/// The descriptors that one reactor watches, edge-triggered.
struct Watches {
    epoll: OwnedFd,
    ourselves: OwnedFd,
    next: RefCell<u64>,
    by_id: RefCell<HashMap<IoId, (u64, OwnedFd)>>,
    /// Those that cannot be watched.
    refused: RefCell<Vec<(IoId, i32)>>,
}

impl Watches {
    fn new() -> Self {
        Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance"),
            ourselves: pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd of this process"),
            next: RefCell::new(0),
            by_id: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    fn change(&self, id: IoId, watch: Option<(RawFd, Interest)>) {
        if let Some((_, fd)) = self.by_id.borrow_mut().remove(&id) {
            epoll::delete(&self.epoll, &fd).expect("it is watched");
        }
        let Some((fd, interest)) = watch else { return };
        // A number is no descriptor that one may use, a copy of it is.
        let fd = pidfd_getfd(&self.ourselves, fd, PidfdGetfdFlags::empty()).expect("an open descriptor");
        let flags = match interest {
            Interest::Readable => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Interest::Writable => epoll::EventFlags::OUT,
        };
        *self.next.borrow_mut() += 1;
        let number = *self.next.borrow();
        let data = epoll::EventData::new_u64(number);
        match epoll::add(&self.epoll, &fd, data, flags | epoll::EventFlags::ET) {
            Ok(()) => drop(self.by_id.borrow_mut().insert(id, (number, fd))),
            Err(error) => self.refused.borrow_mut().push((id, error.raw_os_error())),
        }
    }

    fn ready(&self) -> Vec<(IoId, IoResult)> {
        let refused = self.refused.take().into_iter();
        let mut told: Vec<_> = refused.map(|(id, errno)| (id, Err(IoError::from_errno(errno)))).collect();
        let mut events = Vec::with_capacity(64);
        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&rustix::time::Timespec::default()))
            .expect("an epoll instance");
        let by_id = self.by_id.borrow();
        for event in events {
            let data = event.data;
            let found = by_id.iter().find(|(_, (number, _))| *number == data.u64());
            told.extend(found.map(|(id, _)| (*id, Ok(0))));
        }
        told
    }
}
