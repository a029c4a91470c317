use std::io::pipe;

use super::*;
use crate::message::Flags;
use crate::payload::ConfigFlags;

fn offer() -> Offer {
    Offer {
        features: Features::VERSION_1 | Features::EVENT_IDX,
        protocol_features: ProtocolFeatures::all(),
        queues: 3,
        max_queue_size: 256,
        max_memory_slots: 3,
    }
}

fn backend(negotiated: ProtocolFeatures) -> Backend {
    let state = State { protocol_features: negotiated, ..State::default() };
    Backend::with(offer(), state)
}

fn fd() -> OwnedFd {
    pipe().unwrap().0.into()
}

fn request(request: FrontendRequest, payload: impl Into<Vec<u8>>) -> Message {
    Message::request(request.0, payload)
}

fn vring(which: FrontendRequest, index: u32, num: u32) -> Message {
    request(which, VringState { index, num }.as_bytes())
}

fn need_reply(mut message: Message) -> Message {
    message.flags.0 |= Flags::NEED_REPLY;
    message
}

fn with_fds(mut message: Message, count: usize) -> Message {
    message.fds = (0..count).map(|_| fd()).collect();
    message
}

fn region(guest_address: u64) -> MemoryRegion {
    MemoryRegion { guest_address, size: 0x1000, user_address: guest_address, mmap_offset: 0 }
}

fn single(request_: FrontendRequest, guest_address: u64, fds: usize) -> Message {
    let payload = SingleRegion { padding: 0, region: region(guest_address) };
    with_fds(request(request_, payload.as_bytes()), fds)
}

fn fault(result: Result<Event, Error>) -> Fault {
    match result {
        Err(Error::Frontend { fault, .. }) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn unsupported_protocol_features_and_queues_are_not_offered() {
    let backend = Backend::new(Offer { queues: 1000, ..offer() });
    assert_eq!(backend.offer().protocol_features, Backend::SUPPORTED);
    assert!(backend.offer().features.contains(Features::PROTOCOL_FEATURES));
    assert_eq!((backend.offer().queues, backend.state().vrings.len()), (256, 256));

    let backend = Backend::new(Offer { protocol_features: ProtocolFeatures::empty(), ..offer() });
    assert!(!backend.offer().features.contains(Features::PROTOCOL_FEATURES));
}

#[test]
fn unoffered_features_are_told_apart() {
    let mut backend = backend(ProtocolFeatures::empty());
    let bits = (1 << 2) | Features::VERSION_1.bits();
    let event = backend.handle(request(FrontendRequest::SET_FEATURES, bits.to_ne_bytes())).unwrap();
    let Event::Change(Change::SetFeatures { acked, unoffered }, _) = event else { panic!("{event:?}") };
    assert_eq!((acked, unoffered.bits()), (Features::VERSION_1, 1 << 2));
    assert_eq!(backend.state().features, Features::VERSION_1);
}

#[test]
fn rings_are_enabled_by_features_only_without_protocol_features() {
    for (bits, enabled) in
        [(Features::VERSION_1, true), (Features::VERSION_1 | Features::PROTOCOL_FEATURES, false)]
    {
        let mut backend = backend(ProtocolFeatures::empty());
        backend.handle(request(FrontendRequest::SET_FEATURES, bits.bits().to_ne_bytes())).unwrap();
        assert!(backend.state().vrings.iter().all(|vring| vring.enabled == enabled));
    }
}

#[test]
fn new_features_do_not_disable_rings() {
    let mut backend = backend(ProtocolFeatures::empty());
    backend.handle(vring(FrontendRequest::SET_VRING_ENABLE, 1, 1)).unwrap();
    let bits = Features::PROTOCOL_FEATURES.bits().to_ne_bytes();
    backend.handle(request(FrontendRequest::SET_FEATURES, bits)).unwrap();
    assert!(backend.state().vrings[1].enabled);
}

#[test]
fn a_ring_runs_from_kick_to_base() {
    let mut backend = backend(ProtocolFeatures::empty());
    let kick = |word: u64, fds| with_fds(request(FrontendRequest::SET_VRING_KICK, word.to_ne_bytes()), fds);
    let event = backend.handle(kick(2, 1)).unwrap();
    assert!(matches!(event, Event::Change(Change::SetVringKick { index: 2, fd: Some(_) }, _)));
    let event = backend.handle(kick(0x101, 0)).unwrap();
    assert!(matches!(event, Event::Change(Change::SetVringKick { index: 1, fd: None }, _)));
    let started =
        |backend: &Backend| backend.state().vrings.iter().map(|vring| vring.started).collect::<Vec<_>>();
    assert_eq!(started(&backend), [false, true, true]);

    let event = backend.handle(vring(FrontendRequest::GET_VRING_BASE, 2, 0)).unwrap();
    let Event::StopVring { index: 2, reply } = event else { panic!("{event:?}") };
    assert_eq!(started(&backend), [false, true, false]);
    let reply = backend.vring_stopped(reply, 77);
    assert_eq!(reply.flags, Flags(Flags::VERSION | Flags::REPLY));
    assert_eq!(reply.body::<VringState>(), Ok(VringState { index: 2, num: 77 }));
    assert_eq!(backend.state().vrings[2].base, 77, "where it starts again");

    backend.handle(vring(FrontendRequest::SET_VRING_BASE, 1, 0)).unwrap();
    assert_eq!(started(&backend), [false; 3], "it is about to be set up again");
}

#[test]
fn kick_descriptors_must_match_the_flag() {
    let mut backend = backend(ProtocolFeatures::empty());
    let kick = |word: u64, fds| with_fds(request(FrontendRequest::SET_VRING_KICK, word.to_ne_bytes()), fds);
    for (word, fds, expected) in [(0, 0, 1), (0, 2, 1), (0x100, 1, 0)] {
        assert_eq!(fault(backend.handle(kick(word, fds))), Fault::FdCount { expected, actual: fds });
    }
    assert!(!backend.state().vrings[0].started);
}

#[test]
fn ring_numbers_are_checked() {
    let mut backend = backend(ProtocolFeatures::empty());
    for num in [0, 3, 512, 0x1_0080] {
        let fault = fault(backend.handle(vring(FrontendRequest::SET_VRING_NUM, 0, num)));
        assert_eq!(fault, Fault::Value { field: "queue size", value: num.into() });
    }
    backend.handle(vring(FrontendRequest::SET_VRING_NUM, 0, 256)).unwrap();
    assert_eq!(backend.state().vrings[0].size, 256);
    assert!(backend.handle(vring(FrontendRequest::SET_VRING_BASE, 0, 0x1_0000)).is_err());
    assert!(backend.handle(vring(FrontendRequest::SET_VRING_ENABLE, 0, 2)).is_err());
    for request in
        [FrontendRequest::SET_VRING_NUM, FrontendRequest::GET_VRING_BASE, FrontendRequest::SET_VRING_BASE]
    {
        let fault = fault(backend.handle(vring(request, 3, 1)));
        assert_eq!(fault, Fault::NoSuchQueue { index: 3, queues: 3 });
    }
}

#[test]
fn acknowledgements_follow_the_outcome() {
    let mut backend = backend(ProtocolFeatures::REPLY_ACK);
    for success in [true, false] {
        let event = backend.handle(need_reply(vring(FrontendRequest::SET_VRING_NUM, 0, 128))).unwrap();
        let Event::Change(Change::SetVringSize { index: 0, size: 128 }, ack) = event else {
            panic!("{event:?}")
        };
        let reply = ack.done(success).unwrap();
        assert_eq!((reply.request, reply.flags.0), (FrontendRequest::SET_VRING_NUM.0, 5));
        assert_eq!(reply.body::<u64>().unwrap() == 0, success);
    }
    let event = backend.handle(vring(FrontendRequest::SET_VRING_NUM, 0, 128)).unwrap();
    let Event::Change(_, ack) = event else { panic!("{event:?}") };
    assert!(ack.done(false).is_none(), "not asked for");
}

#[test]
fn need_reply_counts_only_once_negotiated() {
    let mut backend = backend(ProtocolFeatures::empty());
    let event = backend.handle(need_reply(request(FrontendRequest::SET_OWNER, []))).unwrap();
    let Event::Change(Change::SetOwner, ack) = event else { panic!("{event:?}") };
    assert!(ack.done(true).is_none());
    let bits = ProtocolFeatures::REPLY_ACK.bits().to_ne_bytes();
    let event = backend.handle(need_reply(request(FrontendRequest::SET_PROTOCOL_FEATURES, bits))).unwrap();
    let Event::Change(_, ack) = event else { panic!("{event:?}") };
    assert!(ack.done(true).is_some());
}

#[test]
fn unknown_requests_do_not_end_the_connection() {
    let mut backend = backend(ProtocolFeatures::REPLY_ACK);
    let event = backend.handle(with_fds(request(FrontendRequest(99), [1, 2]), 1)).unwrap();
    assert!(matches!(event, Event::Ignored { request: FrontendRequest(99), fault: Fault::Unknown }));
    let event = backend.handle(need_reply(request(FrontendRequest(99), []))).unwrap();
    let Event::Refused { reply, .. } = event else { panic!("{event:?}") };
    assert_eq!(reply.body::<u64>(), Ok(1));
    let event = backend.handle(request(FrontendRequest::SET_STATUS, [0; 8])).unwrap();
    assert!(matches!(event, Event::Ignored { fault: Fault::NotNegotiated(ProtocolFeatures::STATUS), .. }));
}

#[test]
fn what_is_offered_may_be_asked_for_and_nobody_waits_for_ever() {
    let mut backend = Backend::new(offer());
    let event = backend.handle(request(FrontendRequest::GET_QUEUE_NUM, [])).unwrap();
    assert!(matches!(event, Event::Reply(reply) if reply.body::<u64>() == Ok(3)));
    let event = backend.handle(with_fds(request(FrontendRequest::SET_BACKEND_REQ_FD, []), 1)).unwrap();
    assert!(matches!(event, Event::Change(Change::SetBackendRequestFd(_), _)));
    for name in
        [FrontendRequest::GET_MAX_MEM_SLOTS, FrontendRequest::GET_STATUS, FrontendRequest::GET_INFLIGHT_FD]
    {
        assert!(matches!(fault(backend.handle(request(name, []))), Fault::NotNegotiated(_)), "{name}");
    }
}

#[test]
fn a_faulty_request_is_refused_if_its_sender_can_be_told() {
    let mut backend = backend(ProtocolFeatures::REPLY_ACK);
    let event = backend.handle(need_reply(vring(FrontendRequest::SET_VRING_NUM, 9, 128))).unwrap();
    let Event::Refused { fault, reply, .. } = event else { panic!("{event:?}") };
    assert_eq!(fault, Fault::NoSuchQueue { index: 9, queues: 3 });
    assert_eq!(reply.body::<u64>(), Ok(1));
    // An acknowledgement would be mistaken for the reply.
    assert!(backend.handle(need_reply(vring(FrontendRequest::GET_VRING_BASE, 9, 0))).is_err());
}

#[test]
fn payload_sizes_and_descriptor_counts_are_exact() {
    let mut backend = backend(Backend::SUPPORTED - ProtocolFeatures::REPLY_ACK);
    let too_long = fault(backend.handle(request(FrontendRequest::SET_FEATURES, [0; 9])));
    assert_eq!(too_long, Fault::PayloadSize { expected: 8, actual: 9 });
    let too_short = fault(backend.handle(request(FrontendRequest::SET_VRING_ADDR, [0; 39])));
    assert_eq!(too_short, Fault::PayloadSize { expected: 40, actual: 39 });
    let not_empty = fault(backend.handle(request(FrontendRequest::GET_FEATURES, [0; 8])));
    assert_eq!(not_empty, Fault::PayloadSize { expected: 0, actual: 8 });
    let stray = fault(backend.handle(with_fds(request(FrontendRequest::GET_FEATURES, []), 1)));
    assert_eq!(stray, Fault::FdCount { expected: 0, actual: 1 });
    let missing = fault(backend.handle(request(FrontendRequest::SET_BACKEND_REQ_FD, [])));
    assert_eq!(missing, Fault::FdCount { expected: 1, actual: 0 });
    let reply = fault(backend.handle(Message::reply(FrontendRequest::GET_FEATURES.0, [])));
    assert_eq!(reply, Fault::NotARequest);
}

#[test]
fn memory_tables_are_checked_whole() {
    let mut backend = backend(ProtocolFeatures::empty());
    let table = |addresses: &[u64], fds| {
        let regions = addresses.iter().map(|&address| region(address)).collect();
        with_fds(request(FrontendRequest::SET_MEM_TABLE, MemoryTable(regions).encode()), fds)
    };
    let event = backend.handle(table(&[0, 0x1000], 2)).unwrap();
    let Event::Change(Change::SetMemoryTable(shared), _) = event else { panic!("{event:?}") };
    assert_eq!(shared.iter().map(|shared| shared.region).collect::<Vec<_>>(), backend.state().memory);

    let before = backend.state().clone();
    assert_eq!(fault(backend.handle(table(&[0, 0x1000], 1))), Fault::FdCount { expected: 2, actual: 1 });
    assert_eq!(fault(backend.handle(table(&[0x1000, 0x800], 2))), Fault::RegionsOverlap(0x800));
    assert!(matches!(fault(backend.handle(table(&[0, u64::MAX], 2))), Fault::Region { .. }));
    assert_eq!(*backend.state(), before);
}

#[test]
fn memory_regions_come_and_go_one_by_one() {
    let mut backend = backend(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    for address in [0, 0x2000, 0x4000] {
        let event = backend.handle(single(FrontendRequest::ADD_MEM_REG, address, 1)).unwrap();
        assert!(matches!(event, Event::Change(Change::AddMemoryRegion(_), _)));
    }
    let full = fault(backend.handle(single(FrontendRequest::ADD_MEM_REG, 0x6000, 1)));
    assert_eq!(full, Fault::TooManyRegions(3));
    let event = backend.handle(single(FrontendRequest::REM_MEM_REG, 0x2000, 1)).unwrap();
    assert!(matches!(event, Event::Change(Change::RemoveMemoryRegion(gone), _) if gone == region(0x2000)));
    let gone = fault(backend.handle(single(FrontendRequest::REM_MEM_REG, 0x2000, 0)));
    assert_eq!(gone, Fault::NoSuchRegion(0x2000));
    let overlap = fault(backend.handle(single(FrontendRequest::ADD_MEM_REG, 0x3800, 1)));
    assert_eq!(overlap, Fault::RegionsOverlap(0x3800));
}

#[test]
fn features_enable_and_disable_only_rings_that_nobody_was_told_of() {
    use FrontendRequest as R;
    let mut backend = backend(ProtocolFeatures::empty());
    let (none, protocol) = (Features::VERSION_1, Features::VERSION_1 | Features::PROTOCOL_FEATURES);
    let mut enabled = |message| {
        backend.handle(message).unwrap();
        let vrings = backend.state().vrings.iter();
        vrings.map(|vring| vring.enabled).collect::<Vec<_>>()
    };
    let features = |features: Features| request(R::SET_FEATURES, features.bits().to_ne_bytes());
    assert_eq!(enabled(features(none)), [true; 3]);
    assert_eq!(enabled(features(protocol)), [false; 3]);
    assert_eq!(enabled(vring(R::SET_VRING_ENABLE, 1, 1)), [false, true, false]);
    assert_eq!(enabled(features(protocol)), [false, true, false]);
    assert_eq!(enabled(vring(R::SET_VRING_ENABLE, 1, 0)), [false; 3]);
    assert_eq!(enabled(features(none)), [true, false, true]);
    assert_eq!(enabled(request(R::RESET_OWNER, [])), [false; 3]);
    assert_eq!(enabled(features(none)), [true; 3]);
}

#[test]
fn a_kick_that_is_refused_starts_nothing() {
    let mut backend = backend(ProtocolFeatures::empty());
    let kick = || with_fds(request(FrontendRequest::SET_VRING_KICK, 1u64.to_ne_bytes()), 1);
    backend.handle(kick()).unwrap();
    backend.undo_kick(1);
    assert!(!backend.state().vrings[1].started);
    backend.handle(kick()).unwrap();
    backend.handle(kick()).unwrap();
    backend.undo_kick(1);
    assert!(backend.state().vrings[1].started, "by the one before");
}

#[test]
fn memory_changes_that_fail_are_undone() {
    let mut backend = backend(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    backend.handle(single(FrontendRequest::ADD_MEM_REG, 0, 1)).unwrap();
    let table = MemoryTable(vec![region(0x2000), region(0x4000)]).encode();
    for change in [
        with_fds(request(FrontendRequest::SET_MEM_TABLE, table), 2),
        single(FrontendRequest::ADD_MEM_REG, 0x2000, 1),
        single(FrontendRequest::REM_MEM_REG, 0, 0),
    ] {
        backend.handle(change).unwrap();
        assert_ne!(backend.state().memory, [region(0)]);
        backend.undo_memory_change();
        assert_eq!(backend.state().memory, [region(0)]);
    }
}

#[test]
fn config_is_read_past_its_end_as_zero() {
    let mut backend = backend(ProtocolFeatures::CONFIG);
    let ask = Config { offset: 2, flags: ConfigFlags::WRITABLE, bytes: vec![0; 4] };
    let event = backend.handle(request(FrontendRequest::GET_CONFIG, ask.encode())).unwrap();
    let Event::ReadConfig { offset: 2, size: 4, reply } = event else { panic!("{event:?}") };
    let reply = reply.from_space(&[9, 8, 7, 6]);
    assert_eq!(Config::parse(&reply.payload), Ok(Config { bytes: vec![7, 6, 0, 0], ..ask }));

    let beyond = Config { offset: 250, flags: ConfigFlags::WRITABLE, bytes: vec![0; 7] };
    let event = backend.handle(request(FrontendRequest::GET_CONFIG, beyond.encode())).unwrap();
    let Event::Refused { reply, .. } = event else { panic!("{event:?}") };
    assert!(reply.payload.is_empty());
}

#[test]
fn inflight_replies_are_as_long_as_the_request() {
    let mut backend = backend(ProtocolFeatures::INFLIGHT_SHMFD);
    let area = InflightArea { mmap_size: 0, mmap_offset: 0, queues: 3, queue_size: 128 };
    for size in [InflightArea::SIZE, InflightArea::PADDED_SIZE] {
        let event =
            backend.handle(request(FrontendRequest::GET_INFLIGHT_FD, &area.encode()[..size])).unwrap();
        let Event::GetInflight { area: asked, reply } = event else { panic!("{event:?}") };
        assert_eq!(asked, area);
        let reply = reply.share(8192, 4096, fd());
        assert_eq!((reply.payload.len(), reply.fds.len()), (size, 1));
        assert_eq!(InflightArea::parse(&reply.payload).unwrap().mmap_size, 8192);
    }
    let greedy = InflightArea { queues: 4, ..area };
    assert!(backend.handle(request(FrontendRequest::GET_INFLIGHT_FD, greedy.encode())).is_err());
}

#[test]
fn inband_notifications_need_the_side_channel() {
    let mut backend = Backend::new(offer());
    let set = |features: ProtocolFeatures| {
        request(FrontendRequest::SET_PROTOCOL_FEATURES, features.bits().to_ne_bytes())
    };
    assert_eq!(fault(backend.handle(set(ProtocolFeatures::INBAND_NOTIFICATIONS))), Fault::InbandAlone);
    assert!(backend.vring_call(1).is_none());
    let needed = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK;
    backend.handle(set(ProtocolFeatures::INBAND_NOTIFICATIONS | needed)).unwrap();
    let call = backend.vring_call(1).unwrap();
    assert_eq!(call.body::<VringState>(), Ok(VringState { index: 1, num: 0 }));
    assert!(backend.config_changed().is_none(), "CONFIG has not been negotiated");
    assert!(matches!(
        backend.handle(vring(FrontendRequest::VRING_KICK, 1, 0)).unwrap(),
        Event::Change(Change::KickVring { index: 1 }, _)
    ));
    assert!(backend.state().vrings[1].started);
}

#[test]
fn the_dirty_log_is_always_acknowledged() {
    let mut backend = backend(ProtocolFeatures::LOG_SHMFD);
    let area = LogArea { size: 4096, offset: 0 };
    let event = backend.handle(with_fds(request(FrontendRequest::SET_LOG_BASE, area.as_bytes()), 1)).unwrap();
    let Event::Change(Change::SetLogBase { .. }, ack) = event else { panic!("{event:?}") };
    assert_eq!(ack.done(true).unwrap().body::<u64>(), Ok(0));
}

#[test]
fn features_are_taken_back() {
    let mut backend = backend(ProtocolFeatures::empty());
    let set = |features: Features| request(FrontendRequest::SET_FEATURES, features.bits().to_ne_bytes());
    backend.handle(set(Features::VERSION_1)).unwrap();
    backend.handle(set(Features::VERSION_1 | Features::EVENT_IDX)).unwrap();
    backend.undo_features();
    assert_eq!(backend.state().features, Features::VERSION_1);
    let mut first = Backend::new(offer());
    let as_made = first.state().clone();
    first.handle(set(Features::VERSION_1)).unwrap();
    assert!(first.state().acknowledged && first.state().vrings.iter().all(|vring| vring.enabled));
    first.undo_features();
    assert_eq!(*first.state(), as_made);
}

#[test]
fn the_state_is_moved_while_no_ring_is_started() {
    let mut backend = backend(ProtocolFeatures::DEVICE_STATE);
    let transfer = |direction, phase| {
        let transfer = StateTransfer { direction, phase };
        with_fds(request(FrontendRequest::SET_DEVICE_STATE_FD, transfer.as_bytes()), 1)
    };
    let Event::MoveState { direction, reply, .. } = backend.handle(transfer(1, 0)).unwrap() else { panic!() };
    assert_eq!((direction, reply.done(true).body()), (StateDirection::Load, Ok(0x100_u64)));
    let check = || request(FrontendRequest::CHECK_DEVICE_STATE, []);
    let Event::CheckState(reply) = backend.handle(check()).unwrap() else { panic!() };
    assert_eq!(reply.done(false).body(), Ok(1_u64));
    let mut refused = |message| match backend.handle(message).unwrap() {
        Event::Refused { fault, reply, .. } => (fault, reply.body::<u64>().unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(transfer(2, 0)).1, 0x101);
    assert_eq!(refused(transfer(0, 1)).1, 0x101);
    let two = with_fds(transfer(0, 0), 2);
    assert_eq!(refused(two), (Fault::FdCount { expected: 1, actual: 2 }, 0x101));
    backend.handle(with_fds(request(FrontendRequest::SET_VRING_KICK, 1_u64.to_ne_bytes()), 1)).unwrap();
    let Event::Refused { fault, .. } = backend.handle(transfer(0, 0)).unwrap() else { panic!() };
    assert_eq!(fault, Fault::Started);
    // Who has not agreed on it, and asks all the same, is told no.
    backend.state.protocol_features = ProtocolFeatures::empty();
    assert!(matches!(backend.handle(check()).unwrap(), Event::Refused { .. }));
}

#[test]
fn resets_touch_the_rings() {
    let mut backend = backend(ProtocolFeatures::RESET_DEVICE);
    backend.handle(vring(FrontendRequest::SET_VRING_NUM, 0, 64)).unwrap();
    backend.handle(vring(FrontendRequest::SET_VRING_ENABLE, 0, 1)).unwrap();
    backend.handle(request(FrontendRequest::RESET_OWNER, [])).unwrap();
    assert_eq!(backend.state().vrings[0], Vring { size: 64, ..Vring::default() });
    backend.handle(request(FrontendRequest::RESET_DEVICE, [])).unwrap();
    assert_eq!(backend.state().vrings, vec![Vring::default(); 3]);
    // A front end without protocol features in its words does not enable rings.
    backend.handle(request(FrontendRequest::SET_FEATURES, [0; 8])).unwrap();
    backend.handle(request(FrontendRequest::RESET_DEVICE, [])).unwrap();
    assert_eq!(backend.state().vrings, vec![Vring { enabled: true, ..Vring::default() }; 3]);
}

#[test]
fn a_state_survives_being_written_down() {
    let mut backend = backend(ProtocolFeatures::MQ | ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    backend.handle(request(FrontendRequest::SET_FEATURES, Features::VERSION_1.bits().to_ne_bytes())).unwrap();
    backend.handle(single(FrontendRequest::ADD_MEM_REG, 0x1000, 1)).unwrap();
    backend.handle(vring(FrontendRequest::SET_VRING_NUM, 1, 64)).unwrap();
    backend.vring_left(1, 7);
    let text = serde_json::to_string(backend.state()).unwrap();
    let state: State = serde_json::from_str(&text).unwrap();
    assert_eq!(Backend::resume(offer(), state).unwrap().state(), backend.state());
    assert_eq!(backend.state().vrings[1].base, 7);
}

#[test]
fn a_state_of_another_version_is_taken_as_far_as_it_goes() {
    let text = r#"{"owned": true, "later": [1], "vrings": [{"size": 8, "later": 2}]}"#;
    let state: State = serde_json::from_str(text).unwrap();
    let backend = Backend::resume(offer(), state).unwrap();
    assert!(backend.state().owned);
    assert_eq!(backend.state().vrings[0], Vring { size: 8, ..Vring::default() });
    assert_eq!(backend.state().vrings.len(), 3);
}

#[test]
fn a_state_that_no_session_comes_to_is_refused() {
    let empty = MemoryRegion { size: 0, ..region(0) };
    let endless = MemoryRegion { size: 2, ..region(u64::MAX) };
    let memory = |memory: &[MemoryRegion]| State { memory: memory.to_vec(), ..State::default() };
    let vring = |vring: Vring| State { vrings: vec![vring], ..State::default() };
    let states = [
        State { features: Features::RING_PACKED, ..State::default() },
        State { protocol_features: ProtocolFeatures::XEN_MMAP, ..State::default() },
        State { vrings: vec![Vring::default(); 4], ..State::default() },
        memory(&[empty]),
        memory(&[endless]),
        memory(&[region(0), region(0xfff)]),
        memory(&[region(0), region(0x1000), region(0x2000), region(0x3000)]),
        vring(Vring { size: 512, ..Vring::default() }),
    ];
    for state in states {
        assert!(Backend::resume(offer(), state.clone()).is_err(), "{state:?}");
    }
    assert!(Backend::resume(offer(), memory(&[region(0), region(0x1000), region(0x2000)])).is_ok());
}

#[test]
fn a_ring_that_was_set_up_for_another_layout_is_a_state_like_any_other() {
    let offer = Offer { features: Features::RING_PACKED, ..offer() };
    let mut backend = Backend::new(offer.clone());
    let features = |features: Features| request(FrontendRequest::SET_FEATURES, features.bits().to_ne_bytes());
    backend.handle(features(Features::RING_PACKED)).unwrap();
    backend.handle(vring(FrontendRequest::SET_VRING_NUM, 1, 3)).unwrap();
    backend.handle(vring(FrontendRequest::SET_VRING_BASE, 1, 0x1_8000)).unwrap();
    backend.handle(features(Features::empty())).unwrap();
    assert!(Backend::resume(offer, backend.state().clone()).is_ok());
}
