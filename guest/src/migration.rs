//! A virtual machine that moves: the log of what the device has written, its memory at the other end, and the state of the
//! device.
//!
//! Memory that the guest writes to as well is copied with every round, as a monitor knows that without a log. What only the
//! device writes travels by the log alone: if a page is missing there, the copy differs.

use std::io::{Read, Write, pipe};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering::AcqRel;

use lunette_vhost_user::{Features, Frontend, FrontendRequest, LogArea, Reply, StateDirection};

use crate::error::Error;
use crate::memory::{GuestMemory, View};
use crate::monitor::Monitor;
use crate::session::{Session, Wanted};

const PAGE: u64 = LogArea::PAGE;

/// A dirty log.
pub struct Log {
    bytes: View,
    memory: GuestMemory,
}

impl Log {
    /// One that covers all of `memory`.
    pub fn new(memory: &GuestMemory) -> Result<Self, Error> {
        let regions = memory.regions()?;
        let ends = regions.iter().map(|(region, _)| region.guest_address + region.size);
        let pages = ends.max().unwrap_or(0).div_ceil(PAGE);
        let size = (pages.div_ceil(8) as usize).next_multiple_of(8);
        let memory = GuestMemory::with_size(size)?;
        Ok(Self { bytes: memory.view(0, size)?, memory })
    }

    /// Takes the pages that are marked, of all guest addresses from 0 on.
    pub fn take(&self) -> Vec<u64> {
        let marks = |at: usize| {
            let bits = self.bytes.u8(at).swap(0, AcqRel);
            (0..8).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| at as u64 * 8 + bit)
        };
        (0..self.bytes.length()).flat_map(marks).collect()
    }

    /// Has all that the device writes marked in it.
    pub fn begin(&self, monitor: &mut Monitor) -> Result<(), Error> {
        let (area, fd) = self.shared()?;
        monitor.session.done(|frontend| frontend.set_log_base(area, fd))?;
        monitor.log(true)
    }

    fn shared(&self) -> Result<(LogArea, OwnedFd), Error> {
        let (region, fd) = self.memory.regions()?.pop().expect("it has one region");
        Ok((LogArea { size: region.size, offset: 0 }, fd))
    }
}

/// A virtual machine on its way.
pub struct Migration {
    log: Log,
    /// At the other end.
    copy: GuestMemory,
    /// Guest addresses that only the device writes to.
    device: Vec<Range<u64>>,
}

impl Migration {
    /// Has everything logged, and copies it once. Only the device writes to `device` from now on, beside its part of the
    /// rings.
    pub fn begin(monitor: &mut Monitor, device: Vec<Range<u64>>) -> Result<Self, Error> {
        let log = Log::new(&monitor.memory)?;
        let mut copy = GuestMemory::new();
        for (region, _) in monitor.memory.regions()? {
            copy.add(region.guest_address, region.size as usize, crate::Backing::Memfd)?;
        }
        log.begin(monitor)?;
        let rings = (0..monitor.queue_count()).map(|index| {
            let device = &monitor.queue(index).ring().areas().device;
            device.address()..device.address() + device.length() as u64
        });
        let device = rings.chain(device).collect();
        let migration = Self { log, copy, device };
        for (region, _) in monitor.memory.regions()? {
            let bytes = monitor.memory.read(region.guest_address, region.size as usize)?;
            migration.copy.write(region.guest_address, &bytes)?;
        }
        Ok(migration)
    }

    /// Copies what was written since the last time. How many pages the device has written to.
    pub fn round(&self, monitor: &Monitor) -> Result<usize, Error> {
        let pages = self.log.take();
        for page in &pages {
            let bytes = monitor.memory.read(page * PAGE, PAGE as usize)?;
            self.copy.write(page * PAGE, &bytes)?;
        }
        for (region, _) in monitor.memory.regions()? {
            let end = region.guest_address + region.size;
            self.copy_guest(monitor, region.guest_address..end)?;
        }
        Ok(pages.len())
    }

    /// Copies what is not the device's alone.
    fn copy_guest(&self, monitor: &Monitor, range: Range<u64>) -> Result<(), Error> {
        let mut bytes = monitor.memory.read(range.start, (range.end - range.start) as usize)?;
        let offset = |address: u64| (address.clamp(range.start, range.end) - range.start) as usize;
        for device in &self.device {
            let kept = offset(device.start)..offset(device.end);
            bytes[kept.clone()]
                .copy_from_slice(&self.copy.read(range.start + kept.start as u64, kept.len())?);
        }
        self.copy.write(range.start, &bytes)
    }

    /// The pages in which the copy differs.
    pub fn differing(&self, monitor: &Monitor) -> Result<Vec<u64>, Error> {
        let mut pages = Vec::new();
        for (region, _) in monitor.memory.regions()? {
            let first = region.guest_address / PAGE;
            for page in first..first + region.size / PAGE {
                let (address, length) = (page * PAGE, PAGE as usize);
                if monitor.memory.read(address, length)? != self.copy.read(address, length)? {
                    pages.push(page);
                }
            }
        }
        Ok(pages)
    }

    /// Whether the device has marked anything since the last round.
    pub fn is_quiet(&self) -> bool {
        self.log.take().is_empty()
    }

    /// The virtual machine is stopped and all of it copied: goes on with the device at `socket`, with the copy and with
    /// `state`. Queues are to be started. What is left behind: the old session, and the memory there.
    pub fn finish(
        self,
        monitor: &mut Monitor,
        socket: &Path,
        wanted: &Wanted,
        state: Option<&[u8]>,
    ) -> Result<(Session, GuestMemory), Error> {
        let mut session = Session::connect(socket)?;
        session.negotiate(wanted)?;
        let mut copy = self.copy;
        monitor.memory.exchange(&mut copy)?;
        session.share(&monitor.memory)?;
        let old = std::mem::replace(&mut monitor.session, session);
        monitor.logging = false;
        if let Some(state) = state {
            monitor.session.load_state(state)?;
        }
        Ok((old, copy))
    }
}

impl Monitor {
    /// Has the device mark what it writes, or not any more.
    pub fn log(&mut self, on: bool) -> Result<(), Error> {
        let mut features = self.session.features();
        features.set(Features::LOG_ALL, on);
        self.session.set_features(features)?;
        self.logging = on;
        for index in 0..self.queue_count() {
            let address = self.queue(index).address(on);
            self.session.done(|frontend| frontend.set_vring_addr(address))?;
        }
        Ok(())
    }
}

impl Session {
    /// The state of the device, all of whose queues are stopped.
    pub fn save_state(&mut self) -> Result<Vec<u8>, Error> {
        let (mut reader, writer) = pipe().map_err(system)?;
        self.move_state(StateDirection::Save, writer.into())?;
        let mut state = Vec::new();
        reader.read_to_end(&mut state).map_err(system)?;
        self.check_state()?;
        Ok(state)
    }

    /// Gives the device, none of whose queues is started, its state.
    pub fn load_state(&mut self, state: &[u8]) -> Result<(), Error> {
        let (reader, mut writer) = pipe().map_err(system)?;
        self.move_state(StateDirection::Load, reader.into())?;
        // A device that reads no further says why when it is asked.
        let _ = writer.write_all(state);
        drop(writer);
        self.check_state()
    }

    fn move_state(&mut self, direction: StateDirection, fd: OwnedFd) -> Result<(), Error> {
        const REQUEST: FrontendRequest = FrontendRequest::SET_DEVICE_STATE_FD;
        match self.ask(|frontend| frontend.set_device_state_fd(direction, fd))? {
            Some(Reply::MoveState { success: true, fd: None }) => Ok(()),
            Some(Reply::MoveState { success: false, .. }) => Err(Error::Refused(REQUEST)),
            _ => Err(Error::Reply(REQUEST)),
        }
    }

    fn check_state(&mut self) -> Result<(), Error> {
        self.done(Frontend::check_device_state)
    }
}

fn system(error: std::io::Error) -> Error {
    Error::System { what: "move the state of a device", error }
}
