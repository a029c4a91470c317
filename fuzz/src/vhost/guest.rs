//! A virtual machine with its monitor: memory, queues and a connection.

use super::daemon::{Address, Daemon};
use super::driver::{Driver, Shape};
use super::front_end::FrontEnd;
use super::memory::{self, Memory};
use super::requests::{Request, Sizes};
use crate::input::Input;
use lunette_vhost_user::{Config, ConfigFlags, Features, ProtocolFeatures, Reply};

pub(super) const CONTROL: usize = 0;
pub(super) const EVENTS: usize = 1;
pub(super) const REQUESTS: usize = 2;

/// VIRTIO_SCSI_F_INOUT, _HOTPLUG and _CHANGE.
const INOUT: Features = Features::from_bits_retain(1);
const EVENT_FEATURES: Features = Features::from_bits_retain(2 | 4);

/// What the monitor and its guest agree on with the device.
#[derive(Clone, Copy)]
pub(super) struct Agreement {
    pub(super) features: Features,
    pub(super) protocol: ProtocolFeatures,
    pub(super) sizes: Sizes,
}

impl Agreement {
    pub(super) const USUAL: Self = Self {
        features: Features::VERSION_1
            .union(Features::PROTOCOL_FEATURES)
            .union(Features::EVENT_IDX)
            .union(Features::INDIRECT_DESC),
        protocol: ProtocolFeatures::MQ
            .union(ProtocolFeatures::REPLY_ACK)
            .union(ProtocolFeatures::CONFIG)
            .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
            .union(ProtocolFeatures::RESET_DEVICE)
            .union(ProtocolFeatures::LOG_SHMFD)
            .union(ProtocolFeatures::DEVICE_STATE),
        sizes: Sizes::USUAL,
    };

    pub(super) fn any(input: &mut Input<'_>) -> Self {
        let mut features = Features::VERSION_1 | Features::PROTOCOL_FEATURES | EVENT_FEATURES;
        let layouts = [Features::EVENT_IDX, Features::INDIRECT_DESC, Features::RING_PACKED];
        let optional = layouts.into_iter().chain([Features::RING_RESET, INOUT]);
        features.extend(optional.filter(|_| input.flag()));
        let sizes = Sizes { cdb: input.pick(&[32, 32, 16, 40, 6]), sense: input.pick(&[96, 96, 252, 0, 20]) };
        Self { features, sizes, ..Self::USUAL }
    }

    /// Shapes of some queues.
    fn shape(&self, input: &mut Input<'_>) -> Shape {
        let packed = self.features.contains(Features::RING_PACKED);
        let sizes = if packed { [7, 16, 33] } else { [8, 16, 32] };
        Shape {
            packed,
            event_index: self.features.contains(Features::EVENT_IDX),
            indirect: self.features.contains(Features::INDIRECT_DESC),
            size: input.pick(&sizes),
        }
    }
}

/// A virtual machine.
pub(super) struct Guest {
    pub(super) front: FrontEnd,
    pub(super) memory: Memory,
    pub(super) drivers: Vec<Driver>,
    pub(super) agreement: Agreement,
    /// Writes where it pleases.
    pub(super) wild: bool,
    /// Memory that the device was given beside the usual, as places in the file.
    pub(super) more: Vec<std::ops::Range<u64>>,
}

impl Guest {
    /// Connects; the device knows nothing yet.
    pub(super) fn new(
        address: &Address,
        agreement: Agreement,
        request_queues: u16,
        input: &mut Input<'_>,
    ) -> Self {
        let mut memory = Memory::new();
        let new = |index| {
            let shape = agreement.shape(input);
            Driver::new(index, &mut memory, shape)
        };
        let drivers = (0..REQUESTS as u16 + request_queues).map(new).collect();
        let front = FrontEnd::new(address.connect());
        Self { front, memory, drivers, agreement, wild: false, more: Vec::new() }
    }

    /// Agrees on features and shares the memory, but starts no queue.
    pub(super) fn introduce(&mut self) {
        let Self { front: FrontEnd { protocol, .. }, agreement, .. } = self;
        let config = |offset, size: u16| Config {
            offset,
            flags: ConfigFlags::WRITABLE,
            bytes: u32::from(size).to_le_bytes().into(),
        };
        let mut messages = vec![
            protocol.get_features(),
            protocol.get_protocol_features(),
            protocol.set_protocol_features(agreement.protocol),
            protocol.set_owner(),
            protocol.set_features(agreement.features),
            protocol.set_config(&config(20, agreement.sizes.sense)),
            protocol.set_config(&config(24, agreement.sizes.cdb)),
        ];
        messages.push(protocol.set_mem_table(self.memory.shared()));
        messages.into_iter().for_each(|message| self.front.send(message));
    }

    /// Sets a queue up and starts it where its ring stands.
    pub(super) fn start(&mut self, queue: usize) {
        let driver = &mut self.drivers[queue];
        driver.started = true;
        let (index, byte) = (u32::from(driver.index), driver.index as u8);
        let [kick, call, error] = driver.fds().map(Some);
        let protocol = &mut self.front.protocol;
        let messages = [
            protocol.set_vring_num(index, driver.size().into()),
            protocol.set_vring_base(index, driver.base()),
            protocol.set_vring_addr(driver.address()),
            protocol.set_vring_err(byte, error),
            protocol.set_vring_call(byte, call),
            protocol.set_vring_kick(byte, kick),
            protocol.set_vring_enable(index, true),
        ];
        messages.into_iter().for_each(|message| self.front.send(message));
    }

    /// Agrees, shares the memory, starts all queues.
    pub(super) fn set_up(&mut self, daemon: &mut Daemon) {
        self.introduce();
        (0..self.drivers.len()).for_each(|queue| self.start(queue));
        self.run(daemon);
        self.expect_success();
    }

    /// All replies have come, and none says no.
    pub(super) fn expect_success(&mut self) -> Vec<Reply> {
        let replies = self.front.replies();
        assert!(!self.front.closed, "the device closes the connection");
        assert!(!self.front.protocol.is_waiting(), "a reply is missing");
        assert!(
            !replies.iter().any(|reply| matches!(reply, Reply::Ack { success: false, .. })),
            "{replies:?}"
        );
        replies
    }

    /// Puts a request into a queue. It is shown to the device by [`flush`](Driver::flush).
    pub(super) fn push(&mut self, queue: usize, request: &Request, input: &mut Input<'_>) -> bool {
        let Self { drivers, memory, .. } = self;
        let Request { readable, writable, least } = request;
        !memory.truncated && drivers[queue].send(memory, readable, *writable, *least, input)
    }

    /// Lets the daemon do all that it can. It writes nowhere but where the guest has told it to.
    pub(super) fn run(&mut self, daemon: &mut Daemon) {
        self.watch(|| daemon.run());
    }

    /// Has something happen that makes the device write nowhere but where the guest has told it to, and nowhere at all if its
    /// queues have stopped.
    pub(super) fn watch(&mut self, act: impl FnOnce()) {
        self.memory.snapshot();
        let mut allowed = self.more.clone();
        match self.wild {
            _ if self.front.has_stopped() => allowed.clear(),
            true => allowed.extend(memory::everything()),
            false => self.drivers.iter().for_each(|driver| driver.allowed(&mut allowed)),
        }
        act();
        self.memory.check(&allowed);
    }

    /// Takes back what the device has returned.
    pub(super) fn collect(&mut self, input: &mut Input<'_>) {
        if self.wild || self.memory.truncated {
            return;
        }
        for driver in self.drivers.iter_mut().filter(|driver| driver.started) {
            assert!(driver.rogue || !driver.is_broken(), "queue {} is called broken", driver.index);
            driver.collect(input);
        }
    }
}
