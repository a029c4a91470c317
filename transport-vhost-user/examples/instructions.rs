//! Reads or writes through a request queue on a simulated reactor, of a disk that keeps nothing: for counting instructions.
//!
//! ```text
//! cargo build --release -p lunette-transport-vhost-user --example instructions
//! valgrind --tool=callgrind --toggle-collect='lunette_transport_vhost_user::queue::run::*::run' \
//!     --toggle-collect='lunette_engine::engine::Engine::end_turn' \
//!     target/release/examples/instructions split indirect write
//! ```
//!
//! The total that Callgrind collects, divided by the number of requests, is what one costs from ring to ring, with its part of
//! what is done at the end of a turn. With `limited`, every request counts for a limit that allows more; with `single`, each comes
//! in a turn of its own; with `noted`, it is noted while it is in flight; with `logged`, what is written is marked in a dirty log.
//! With `pending`, the store answers later; with `segments=N`, the data is in so many runs of 4 KiB.
//! `times=N` does it all N times and tells how long that took, with the driver's part.

use lunette_device_disk::{Disk, Options};
use lunette_engine::{Identity, Limit, Limiter, Limits, LogicalUnit, Nexus, Rate, Rates, TargetPort};
use lunette_guest::GuestMemory;
use lunette_guest::ring::{Element, Form, Format, Ring, Setup};
use lunette_scsi::{Naa, Protocol};
use lunette_store::sim::Sim;
use lunette_store::{Backing, Caps, Cx, IoId, Op, Store, Submit};
use lunette_transport_vhost_user::fuzzing::{Queues, RingSetup};
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests, and how many of them come in a turn.
const REQUESTS: u16 = 32_000;
const DEPTH: u16 = 32;
/// How long a turn takes.
const TURN: Duration = Duration::from_micros(10);
const REQUEST: u16 = 2;

/// Answers every operation and does nothing. `pending`: in the next turn.
#[derive(Clone)]
struct Null {
    caps: Caps,
    pending: bool,
}

impl Store for Null {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&self, op: Op<'_>, id: IoId, cx: &mut dyn Cx) -> Submit {
        let result = self.caps.check(&op).map(|()| op.range().1);
        if self.pending {
            cx.complete(id, result);
            return Submit::Queued;
        }
        Submit::Done(result)
    }
}

impl Backing for Null {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

/// The same limit for everybody.
struct Common(Limits);

impl Limiter for Common {
    fn limits(&self, _: &Nexus) -> Limits {
        self.0.clone()
    }
}

/// Of commands and bytes, and never reached: the burst is enough for everything.
fn limit() -> Arc<Limit> {
    let rate = |burst| Rate { per_second: NonZeroU64::new(1 << 20).expect("not 0"), burst };
    Limit::new(Rates { commands: Some(rate(1 << 20)), bytes: Some(rate(1 << 32)) })
}

fn unit(pending: bool) -> Arc<LogicalUnit> {
    let store = lunette_store::ram::Ram::new(1 << 20).expect("a megabyte");
    let null = Null { caps: Caps { size: (1 << 30).into(), ..Backing::caps(&store).clone() }, pending };
    let disk = Disk::new(&Options::default(), &null.caps).expect("a disk");
    let identity = Identity::new("null", Naa::locally_assigned(1));
    LogicalUnit::new("null", identity, Box::new(disk), Some(Arc::new(null)))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let number = |word: &str| arguments.iter().find_map(|argument| argument.strip_prefix(word)?.parse().ok());
    let format = if has("packed") { Format::Packed } else { Format::Split };
    let form = if has("indirect") { Form::Indirect } else { Form::Chained };
    let segments: u64 = number("segments=").unwrap_or(1);
    let mut memory =
        GuestMemory::with_size(if segments > 1 { 1 << 24 } else { 1 << 20 }).expect("guest memory");
    let setup = Setup { format, size: 256, event_idx: true, table: 2 + segments.max(2) as usize };
    let mut ring = Ring::new(&mut memory, setup).expect("a ring");
    let buffers = memory.allocate(8192, 4096).expect("buffers");
    // READ(10) or WRITE(10) of eight blocks of LUN 0.
    let opcode = if has("write") { 0x2A } else { 0x28 };
    let mut header = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
    header.resize(19, 0);
    let [_, _, _, _, _, _, high, low] = (8 * segments).to_be_bytes();
    header.extend([opcode, 0, 0, 0, 0, 8, 0, high, low, 0]);
    buffers.write(0, &header);
    let element = |at: u64, length, writable| Element { address: buffers.address() + at, length, writable };
    let mut elements = vec![element(0, 51, false), element(64, 108, true)];
    for _ in 0..segments {
        match has("write") {
            true => elements.insert(1, element(4096, 4096, false)),
            false => elements.push(element(4096, 4096, true)),
        }
    }

    let mut sim = Sim::new(1);
    let unit = unit(has("pending"));
    if has("limited") {
        unit.set_limiter(Arc::new(Common([limit()].into())), &*sim.cx(0).poster());
    }
    let port = TargetPort::new("port", 1, Protocol::NONE, [(0, unit)].into());
    let nexus = Nexus::new("guest", port);
    let regions = memory.regions().expect("regions").into_iter();
    let table: Vec<_> = regions.map(|(region, fd)| SharedRegion { region, fd }).collect();
    let mut queues = Queues::new(&nexus, &table, sim.cx(0)).expect("memory that can be mapped");
    if has("noted") {
        let region = GuestMemory::with_size(1 << 16).expect("memory").regions().expect("regions").pop();
        let (region, fd) = region.expect("one region");
        let region = MemoryRegion { user_address: 0, ..region };
        assert!(queues.keep_notes(SharedRegion { region, fd }, setup.size));
    }
    if has("logged") {
        let region = GuestMemory::with_size(1 << 12).expect("memory").regions().expect("regions").pop();
        let (region, fd) = region.expect("one region");
        let region = MemoryRegion { user_address: 0, ..region };
        assert!(queues.keep_log(SharedRegion { region, fd }, ring.areas().device.address()));
    }
    let areas = ring.areas();
    let parts = [&areas.descriptors, &areas.driver, &areas.device].map(|area| area.user_address());
    let setup = RingSetup {
        size: setup.size,
        parts,
        packed: format == Format::Packed,
        base: ring.base(),
        event_index: true,
        indirect: true,
        sizes: [32, 96],
        bidirectional: false,
    };
    queues.start(REQUEST.into(), &setup, sim.cx(0));
    let depth = if has("single") { 1 } else { DEPTH };
    let count = u64::from(REQUESTS) * number("times=").unwrap_or(1);
    let begin = Instant::now();
    for _ in 0..count / u64::from(depth) {
        sim.advance(TURN);
        (0..depth).for_each(|token| ring.push(token, &elements, form).expect("room in the ring"));
        ring.publish().expect("a device that keeps the rules");
        assert!(queues.poll(REQUEST.into(), sim.cx(0)));
        sim.settle();
        for _ in 0..depth {
            let used = ring.pop().expect("a device that keeps the rules").expect("a used buffer");
            assert!(used.length >= 108);
        }
    }
    let nanoseconds = begin.elapsed().as_nanos() as f64 / count as f64;
    println!("{count} requests, {nanoseconds:.1} ns each");
}
