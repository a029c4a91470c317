//! Whole sessions between the two sides, in the order in which real front ends send their messages.

use std::io::pipe;
use std::os::fd::OwnedFd;

use lunette_vhost_user::{
    Ack, Backend, Change, Config, ConfigFlags, Decoder, Event, Features, Frontend, FrontendRequest,
    MemoryRegion, Message, Notice, Offer, ProtocolFeatures, Reply, VringAddress,
};

const QUEUES: u16 = 3;
const CONFIG_SPACE: [u8; 36] = [7; 36];

/// Both sides with the wire between them: each message arrives one byte at a time.
struct Session {
    frontend: Frontend,
    backend: Backend,
    to_backend: Decoder,
    to_frontend: Decoder,
    changes: Vec<Change>,
}

fn deliver(decoder: &mut Decoder, message: Message) -> Message {
    let (bytes, mut fds) = message.into_parts();
    for (i, byte) in bytes.iter().enumerate() {
        assert!(decoder.next_message().unwrap().is_none(), "complete after {i} of {} bytes", bytes.len());
        decoder.feed(&[*byte], std::mem::take(&mut fds));
    }
    decoder.next_message().unwrap().expect("a whole message")
}

impl Session {
    fn new(protocol_features: ProtocolFeatures) -> Self {
        let offer = Offer {
            features: Features::VERSION_1 | Features::EVENT_IDX | Features::INDIRECT_DESC,
            protocol_features,
            queues: QUEUES,
            max_queue_size: 1024,
            max_memory_slots: 8,
        };
        Self {
            frontend: Frontend::new(),
            backend: Backend::new(offer),
            to_backend: Decoder::new(),
            to_frontend: Decoder::new(),
            changes: Vec::new(),
        }
    }

    /// Sends a request the front end has built; the reply, if there is one.
    fn send(&mut self, build: impl FnOnce(&mut Frontend) -> Message) -> Option<Reply> {
        let request = build(&mut self.frontend);
        let request = deliver(&mut self.to_backend, request);
        let answer = match self.backend.handle(request).unwrap() {
            Event::Reply(reply) => Some(reply),
            Event::Change(change, ack) => {
                self.changes.push(change);
                ack.done(true)
            }
            Event::StopVring { index, reply } => {
                Some(self.backend.vring_stopped(reply, u32::from(index) + 100))
            }
            Event::ReadConfig { reply, .. } => Some(reply.from_space(&CONFIG_SPACE)),
            Event::GetInflight { reply, .. } => Some(reply.none()),
            other => panic!("{other:?}"),
        };
        let reply =
            answer.map(|answer| self.frontend.receive(deliver(&mut self.to_frontend, answer)).unwrap());
        assert!(!self.frontend.is_waiting());
        reply
    }

    /// Sends a request that is to be acknowledged.
    fn acked(&mut self, expected: FrontendRequest, build: impl FnOnce(&mut Frontend) -> Message) {
        match self.send(build) {
            Some(Reply::Ack { request, success: true }) if request == expected => {}
            other => panic!("{expected}: {other:?}"),
        }
    }

    /// Sends a request to which nothing is to come back.
    fn silent(&mut self, build: impl FnOnce(&mut Frontend) -> Message) {
        assert!(self.send(build).is_none());
    }

    fn running(&self) -> Vec<bool> {
        self.backend.state().vrings.iter().map(|vring| vring.started && vring.enabled).collect()
    }
}

fn fd() -> OwnedFd {
    pipe().unwrap().0.into()
}

fn region(guest_address: u64) -> MemoryRegion {
    MemoryRegion {
        guest_address,
        size: 0x1000_0000,
        user_address: 0x7f12_0000_0000 + guest_address,
        mmap_offset: 0,
    }
}

fn address(index: u32) -> VringAddress {
    let base = 0x7f12_0000_0000 + u64::from(index) * 0x10000;
    VringAddress { index, flags: 0, descriptor: base, used: base + 0x8000, available: base + 0x4000, log: 0 }
}

#[test]
fn qemu_7_2() {
    let mut s = Session::new(Backend::SUPPORTED);
    let Some(Reply::Features(offered)) = s.send(Frontend::get_features) else { panic!() };
    assert!(offered.contains(Features::PROTOCOL_FEATURES));
    let Some(Reply::ProtocolFeatures(protocol)) = s.send(Frontend::get_protocol_features) else { panic!() };
    // QEMU does not take CONFIG for a SCSI controller, and asks for acknowledgement here and there only.
    s.frontend.want_acks(false);
    let protocol = protocol - ProtocolFeatures::CONFIG - ProtocolFeatures::STATUS;
    s.silent(|f| f.set_protocol_features(protocol));
    assert!(matches!(s.send(Frontend::get_queue_num), Some(Reply::Queues(3))));
    assert!(matches!(s.send(Frontend::get_max_mem_slots), Some(Reply::MemorySlots(8))));
    s.frontend.want_acks(true);
    s.acked(FrontendRequest::SET_BACKEND_REQ_FD, |f| f.set_backend_req_fd(fd()));
    s.frontend.want_acks(false);
    s.silent(Frontend::set_owner);
    assert!(matches!(s.send(Frontend::get_features), Some(Reply::Features(again)) if again == offered));
    for index in 0..QUEUES as u8 {
        s.silent(|f| f.set_vring_call(index, Some(fd())));
        s.silent(|f| f.set_vring_err(index, Some(fd())));
    }

    // The firmware sets only the last ring up; later the kernel takes all of them. Memory is shared once.
    let regions = [region(0), region(0x1_0000_0000)];
    for (round, rings) in [2..3, 0..3].into_iter().enumerate() {
        s.silent(Frontend::reset_device);
        let reply = s.send(|f| f.get_inflight_fd(QUEUES, 128));
        assert!(matches!(reply, Some(Reply::Inflight(area, None)) if area.mmap_size == 0));
        let scsi_change = Features::from_bits_retain(1 << 2);
        let features = Features::VERSION_1 | Features::PROTOCOL_FEATURES | scsi_change;
        s.silent(|f| f.set_features(features));
        if round == 0 {
            s.frontend.want_acks(true);
            for region in regions {
                s.acked(FrontendRequest::ADD_MEM_REG, |f| f.add_mem_reg(region, fd()));
            }
            s.frontend.want_acks(false);
        }
        for index in rings.clone() {
            s.silent(|f| f.set_vring_num(index, 128));
            s.silent(|f| f.set_vring_base(index, 0));
            s.silent(|f| f.set_vring_addr(address(index)));
            s.silent(|f| f.set_vring_kick(index as u8, Some(fd())));
        }
        assert_eq!(s.running(), [false; 3]);
        for index in 0..u32::from(QUEUES) {
            s.silent(|f| f.set_vring_enable(index, true));
        }
        for index in 0..QUEUES as u8 {
            s.silent(|f| f.set_vring_call(index, Some(fd())));
        }
        assert_eq!(s.running(), [0, 1, 2].map(|index| rings.contains(&index)));
        assert_eq!(s.backend.state().memory, regions);
        let vring = &s.backend.state().vrings[2];
        assert_eq!((vring.size, vring.address), (128, Some(address(2))));
        for index in 0..u32::from(QUEUES) {
            s.silent(|f| f.set_vring_enable(index, false));
        }
        for index in rings {
            let reply = s.send(|f| f.get_vring_base(index));
            let Some(Reply::VringBase(state)) = reply else { panic!("{reply:?}") };
            assert_eq!((state.index, state.num), (index, index + 100));
        }
        assert_eq!(s.running(), [false; 3]);
    }
    let unoffered = s.changes.iter().find_map(|change| match change {
        Change::SetFeatures { unoffered, .. } => Some(unoffered.bits()),
        _ => None,
    });
    assert_eq!(unoffered, Some(1 << 2));
}

#[test]
fn user_mode_linux() {
    let mut s = Session::new(Backend::SUPPORTED);
    s.silent(Frontend::set_owner);
    let Some(Reply::Features(offered)) = s.send(Frontend::get_features) else { panic!() };
    let Some(Reply::ProtocolFeatures(protocol)) = s.send(Frontend::get_protocol_features) else { panic!() };
    let taken = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
    assert!(protocol.contains(taken));
    // Acknowledgements are wanted from this message on, itself included.
    s.acked(FrontendRequest::SET_PROTOCOL_FEATURES, |f| f.set_protocol_features(taken));
    s.acked(FrontendRequest::SET_BACKEND_REQ_FD, |f| f.set_backend_req_fd(fd()));
    assert!(matches!(s.changes.last(), Some(Change::SetBackendRequestFd(_))));
    s.acked(FrontendRequest::SET_FEATURES, |f| f.set_features(offered));

    let ask = Config { offset: 0, flags: ConfigFlags::WRITABLE, bytes: vec![0; 24] };
    let reply = s.send(|f| f.get_config(&ask));
    let Some(Reply::Config(Some(config))) = reply else { panic!("{reply:?}") };
    assert_eq!(config.bytes, CONFIG_SPACE[..24]);
    let cdb_size = Config { offset: 24, flags: ConfigFlags::WRITABLE, bytes: 32u32.to_le_bytes().to_vec() };
    s.acked(FrontendRequest::SET_CONFIG, |f| f.set_config(&cdb_size));
    assert!(matches!(s.changes.last(), Some(Change::SetConfig(config)) if *config == cdb_size));

    // One region in a table with room for two: a payload of 72 bytes.
    s.acked(FrontendRequest::SET_MEM_TABLE, |f| {
        let mut message = f.set_mem_table([(region(0x60_0000), fd())]);
        message.payload.resize(72, 0);
        message
    });
    assert_eq!(s.backend.state().memory, [region(0x60_0000)]);
    for index in 0..u32::from(QUEUES) {
        s.acked(FrontendRequest::SET_VRING_CALL, |f| f.set_vring_call(index as u8, Some(fd())));
        s.acked(FrontendRequest::SET_VRING_NUM, |f| f.set_vring_num(index, 256));
        s.acked(FrontendRequest::SET_VRING_BASE, |f| f.set_vring_base(index, 0));
        s.acked(FrontendRequest::SET_VRING_ADDR, |f| {
            f.set_vring_addr(VringAddress { log: u64::MAX, ..address(index) })
        });
    }
    for index in 0..u32::from(QUEUES) {
        s.acked(FrontendRequest::SET_VRING_KICK, |f| f.set_vring_kick(index as u8, Some(fd())));
        s.acked(FrontendRequest::SET_VRING_ENABLE, |f| f.set_vring_enable(index, true));
    }
    assert_eq!(s.running(), [true; 3]);

    let changed = s.backend.config_changed().expect("CONFIG and BACKEND_REQ are negotiated");
    let (notice, ack): (Notice, Ack) =
        s.frontend.receive_notice(deliver(&mut s.to_frontend, changed)).unwrap();
    assert!(matches!(notice, Notice::ConfigChanged));
    assert!(ack.done(true).is_none(), "the side channel is a pipe and carries no reply");

    // Unbinding the driver: rings are disabled but never stopped.
    for index in (0..u32::from(QUEUES)).rev() {
        s.acked(FrontendRequest::SET_VRING_ENABLE, |f| f.set_vring_enable(index, false));
    }
    assert!(matches!(s.send(Frontend::get_features), Some(Reply::Features(_))));
    assert!(s.backend.state().vrings.iter().all(|vring| vring.started && !vring.enabled));
}

#[test]
fn a_front_end_without_protocol_features() {
    let mut s = Session::new(ProtocolFeatures::empty());
    s.silent(Frontend::set_owner);
    let Some(Reply::Features(offered)) = s.send(Frontend::get_features) else { panic!() };
    s.silent(|f| f.set_features(offered));
    s.silent(|f| f.set_mem_table([(region(0), fd()), (region(0x2000_0000), fd())]));
    s.silent(|f| f.set_vring_kick(0, None));
    assert_eq!(s.running(), [true, false, false]);
}

#[test]
fn a_session_goes_on_in_another_process() {
    let mut s = Session::new(Backend::SUPPORTED);
    s.acked(FrontendRequest::SET_PROTOCOL_FEATURES, |f| f.set_protocol_features(ProtocolFeatures::REPLY_ACK));
    s.acked(FrontendRequest::SET_VRING_NUM, |f| f.set_vring_num(1, 64));
    let (offer, state) = (s.backend.offer().clone(), s.backend.state().clone());
    s.backend = Backend::resume(offer, state.clone()).unwrap();
    assert_eq!(*s.backend.state(), state);
    s.acked(FrontendRequest::SET_VRING_ENABLE, |f| f.set_vring_enable(1, true));
    assert_eq!(s.backend.state().vrings[1].size, 64);
}

#[test]
fn replies_out_of_turn_are_errors() {
    let mut frontend = Frontend::new();
    let stray = Message::reply(FrontendRequest::GET_FEATURES.0, 0u64.to_ne_bytes());
    assert!(frontend.receive(stray).unwrap_err().to_string().contains("out of turn"));
    frontend.get_features();
    let no_reply = Message::request(FrontendRequest::GET_FEATURES.0, 0u64.to_ne_bytes());
    assert_eq!(
        frontend.receive(no_reply).unwrap_err().to_string(),
        "reply to GET_FEATURES: flags 0x1 are not those of a reply"
    );
}
