//! Drivers that keep the rules of VIRTIO, and others.

use super::daemon::Daemon;
use super::driver::Driver;
use super::guest::{Agreement, CONTROL, EVENTS, Guest, REQUESTS};
use super::memory::Memory;
use super::requests::{self, Request};
use crate::disks;
use crate::input::Input;
use lunette_engine::{CommandSpec, LogicalUnit};
use lunette_scsi::{AdditionalSense, Lun};
use lunette_store::IoError;
use lunette_transport_vhost_user::fuzzing;
use lunette_vhost_user::{Features, Reply};
use std::sync::Arc;
use std::time::Duration;

/// Most request queues.
const QUEUES: usize = 3;

/// Requests in chains of any form, on split and packed rings over several queues and reactors, with task management and
/// events beside them. Rings are stopped and memory is mapped anew in mid-flight. A third of the guests keep the rules on
/// all queues, a third on some of them; the others write what they please where they please.
///
/// The device never writes outside the memory that it was given. Of a guest that does not write everywhere, it writes to
/// nothing but the used rings and the writable buffers of chains that it has. To a queue that keeps the rules it returns
/// each chain once, with a response that fits, and calls the driver if it is asked to, whatever other queues do. A broken
/// ring is reported and not touched again, and so is one in which a chain comes that the device has already. At the end
/// nothing is left.
pub fn virtqueue(data: &[u8]) {
    fuzzing::fence_guest_memory();
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    while !input.is_empty() && !rig.stuck {
        rig.step(&mut input);
    }
    rig.finish();
}

struct Rig {
    daemon: Daemon,
    guest: Guest,
    units: [Arc<LogicalUnit>; 4],
    commands: Vec<&'static CommandSpec>,
    /// A queue that is being stopped, with operations that are held, and whether its driver then forgets it.
    stopping: Option<(usize, bool)>,
    /// A reply waits for a condition that nobody clears.
    stuck: bool,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let units = super::disks();
        let port = disks::port(units.clone());
        let commands = disks::commands(port.luns().inventory().resolve(Lun::from_index(0)));
        let mut daemon = Daemon::new(2);
        let targets = [(0, port.clone()), (3, disks::port(units.clone()))];
        let address = daemon.export(targets.into(), QUEUES as u16, 0);
        daemon.run();
        let queues = 1 + input.below(QUEUES);
        let mut guest = Guest::new(&address, Agreement::any(input), queues as u16, input);
        cut(&mut guest, input);
        guest.set_up(&mut daemon);
        match input.below(3) {
            0 => {}
            1 => guest.drivers.iter_mut().for_each(|driver| driver.rogue = input.flag()),
            _ => {
                guest.wild = true;
                guest.drivers.iter_mut().for_each(|driver| driver.rogue = true);
            }
        }
        Self { daemon, guest, units, commands, stopping: None, stuck: false }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let queues = self.guest.drivers.len();
        let requests = |input: &mut Input<'_>| REQUESTS + input.below(queues - REQUESTS);
        let sizes = self.guest.agreement.sizes;
        match input.below(64) {
            0..16 => {
                let request = requests::any_command(&self.commands, sizes, input);
                self.send(requests(input), &request, input);
            }
            16..22 => {
                let request = requests::held_read(sizes, input);
                self.send(requests(input), &request, input);
            }
            22..27 => {
                let request = requests::control(input);
                self.send(CONTROL, &request, input);
            }
            27..30 => {
                let request = requests::event(input);
                self.send(EVENTS, &request, input);
            }
            30 => self.attention(input),
            31..40 => self.release(input),
            40..46 => self.pass_time(1 + input.below(3), input),
            46..50 => {
                let Self { daemon, guest, .. } = self;
                let events = input.below(8);
                guest.watch(|| daemon.run_a_little(events));
            }
            50 => self.remap(input),
            51..53 => self.stop(input.below(queues), input),
            53 => self.shatter(input.below(queues), Driver::shatter, input),
            54 => self.shatter(input.below(queues), Driver::repeat, input),
            _ if self.guest.wild && input.flag() => self.guest.memory.scribble(input),
            _ => {
                let rogues = self.guest.drivers.iter_mut().filter(|driver| driver.rogue);
                let mut rogues: Vec<_> = rogues.collect();
                if !rogues.is_empty() {
                    let which = input.below(rogues.len());
                    rogues[which].misbehave(input);
                }
            }
        }
    }

    /// Sends a request, and shows it to the device now or with the next one.
    fn send(&mut self, queue: usize, request: &Request, input: &mut Input<'_>) {
        if self.guest.push(queue, request, input) && !input.one_in(4) {
            self.guest.drivers[queue].flush();
        }
    }

    fn run(&mut self, input: &mut Input<'_>) {
        self.guest.run(&mut self.daemon);
        self.guest.collect(input);
        self.stopped();
    }

    fn release(&mut self, input: &mut Input<'_>) {
        let failure = match input.below(8) {
            0 => Some(IoError::Os(5)),
            1 => Some(IoError::Short { moved: 512 }),
            2 => Some(input.pick(&[IoError::Memory, IoError::Gone, IoError::NoSpace, IoError::Aborted])),
            _ => None,
        };
        let (reactor, which) = (input.below(2), input.below(24));
        let Self { daemon, guest, .. } = self;
        guest.watch(|| daemon.release(reactor, which, failure));
        self.run(input);
    }

    fn pass_time(&mut self, ticks: usize, input: &mut Input<'_>) {
        for _ in 0..ticks {
            self.daemon.advance(Duration::from_millis(5));
            self.run(input);
        }
    }

    /// Something has happened to a unit that the driver is to be told of.
    fn attention(&mut self, input: &mut Input<'_>) {
        let conditions =
            [AdditionalSense::CAPACITY_DATA_HAS_CHANGED, AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED];
        self.units[input.below(4)].establish_attention(input.pick(&conditions), None);
    }

    /// Divides the memory otherwise.
    fn remap(&mut self, input: &mut Input<'_>) {
        if self.stopping.is_some() {
            return;
        }
        cut(&mut self.guest, input);
        let message = self.guest.front.protocol.set_mem_table(self.guest.memory.shared());
        self.guest.front.send(message);
        // The reply comes when nothing is under way any more in the former memory.
        self.run(input);
        self.release_all(input);
        match self.has_allegiance() {
            true => {
                self.guest.front.take_replies();
                self.stuck = self.guest.front.protocol.is_waiting();
            }
            false => drop(self.guest.expect_success()),
        }
    }

    /// Whether commands may wait for ever: what is written over a CDB may set NACA, and nobody clears the condition that
    /// follows.
    fn has_allegiance(&self) -> bool {
        self.units.iter().any(|unit| unit.has_allegiance())
    }

    /// Ends all operations, and those that can only begin then.
    fn release_all(&mut self, input: &mut Input<'_>) {
        for _ in 0..1000 {
            let Self { daemon, guest, .. } = self;
            guest.watch(|| (0..2).for_each(|reactor| daemon.release(reactor, 0, None)));
            self.pass_time(1, input);
            if self.daemon.held() == 0 {
                self.wait_for_delays(input);
                if self.daemon.held() == 0 {
                    break;
                }
            }
        }
    }

    /// Lets operations end that the fault layer delays: a self-test has dozens, one after the other. A queue that stops at
    /// last is started again.
    fn wait_for_delays(&mut self, input: &mut Input<'_>) {
        for tick in 0..80 {
            let mut answering = self.guest.drivers.iter().filter(|driver| driver.index != EVENTS as u16);
            if tick >= 8 && answering.all(Driver::is_idle) {
                return;
            }
            self.pass_time(1, input);
        }
    }

    /// Asks for a queue to be stopped, which it is when nothing of it is under way.
    fn stop(&mut self, queue: usize, input: &mut Input<'_>) {
        if self.stopping.is_some() {
            return;
        }
        let message = self.guest.front.protocol.get_vring_base(queue as u32);
        self.guest.front.send(message);
        let resets = self.guest.agreement.features.contains(Features::RING_RESET) && input.flag();
        self.stopping = Some((queue, resets));
        if input.flag() {
            self.run(input);
        }
    }

    /// Has a driver break its ring that has kept the rules. The device must find that out and say so, on this queue only.
    fn shatter(
        &mut self,
        queue: usize,
        how: fn(&mut Driver, &mut Memory, &mut Input<'_>) -> bool,
        input: &mut Input<'_>,
    ) {
        let driver = &mut self.guest.drivers[queue];
        // Event buffers are taken only when there are events.
        if driver.rogue || queue == EVENTS || self.stopping.is_some() {
            return;
        }
        driver.flush();
        self.run(input);
        let Guest { drivers, memory, .. } = &mut self.guest;
        if how(&mut drivers[queue], memory, input) {
            self.run(input);
            assert!(self.guest.drivers[queue].is_broken(), "nobody is told that queue {queue} is broken");
        }
    }

    /// Starts the queue again that was to stop, if it has.
    fn stopped(&mut self) {
        let Some((queue, resets)) = self.stopping else { return };
        let replies = self.guest.front.replies();
        let Some(Reply::VringBase(state)) = replies.first() else { return };
        self.stopping = None;
        let driver = &mut self.guest.drivers[queue];
        if !driver.rogue {
            driver.check_base(state.num);
        }
        if driver.rogue || resets {
            driver.reset();
        }
        self.guest.start(queue);
        // What was sent meanwhile may have gone without a kick.
        self.guest.drivers[queue].kick();
        self.guest.run(&mut self.daemon);
        self.guest.expect_success();
    }

    fn finish(mut self) {
        let mut input = Input::new(&[]);
        self.guest.drivers.iter_mut().for_each(|driver| driver.flush());
        self.run(&mut input);
        self.release_all(&mut input);
        let waits = self.has_allegiance();
        assert!(self.stopping.is_none() || waits, "a queue never stops");
        let must_end = |driver: &&Driver| !driver.rogue && driver.index != EVENTS as u16 && !waits;
        let tame = self.guest.drivers.iter().filter(must_end);
        tame.for_each(|driver| assert!(driver.is_idle(), "queue {}: a chain never comes back", driver.index));
        drop(self.guest);
        // What has waited for the end of the condition may begin before it is aborted.
        self.daemon.wind_down(0);
        self.daemon.stop();
    }
}

/// Divides memory into regions, but no ring and no indirect table.
fn cut(guest: &mut Guest, input: &mut Input<'_>) {
    let mut cuts = Vec::new();
    for _ in 0..input.below(4) {
        let ring = &guest.drivers[input.below(guest.drivers.len())];
        let cut = match input.flag() {
            true => ring.between_tables(input),
            false => guest.memory.writable(0, input),
        };
        cuts.push(cut);
    }
    guest.memory.cuts = cuts;
}
