//! Random and mangled messages: the back end survives them, and its state stays within what it offered.

use std::io::pipe;
use std::os::fd::OwnedFd;

use lunette_vhost_user::{
    Backend, Config, ConfigFlags, Decoder, Event, Features, Flags, Frontend, FrontendRequest, InflightArea,
    MAX_CONFIG_SIZE, MAX_TABLE_REGIONS, MemoryRegion, MemoryTable, Message, Offer, ProtocolFeatures, State,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn fd() -> OwnedFd {
    pipe().unwrap().0.into()
}

fn backend(negotiated: ProtocolFeatures) -> Backend {
    let offer = Offer {
        features: Features::VERSION_1,
        protocol_features: Backend::SUPPORTED,
        queues: 4,
        max_queue_size: 1024,
        max_memory_slots: 4,
    };
    Backend::resume(offer, State { protocol_features: negotiated & Backend::SUPPORTED, ..State::default() })
        .unwrap()
}

fn check_invariants(backend: &Backend) {
    let (offer, state) = (backend.offer(), backend.state());
    assert!(offer.features.contains(state.features));
    assert!(offer.protocol_features.contains(state.protocol_features));
    assert_eq!(state.vrings.len(), 4);
    assert!(
        state
            .vrings
            .iter()
            .all(|vring| vring.size == 0 || vring.size.is_power_of_two() && vring.size <= 1024)
    );
    assert!(state.memory.len() <= MAX_TABLE_REGIONS);
    for (i, a) in state.memory.iter().enumerate() {
        let end = a.guest_address.checked_add(a.size).expect("does not wrap");
        assert!(a.size > 0);
        let apart = |b: &MemoryRegion| end <= b.guest_address || b.guest_address + b.size <= a.guest_address;
        assert!(state.memory[i + 1..].iter().all(apart));
    }
}

/// Carries an event out, with the answer the transport would give.
fn answer(backend: &mut Backend, event: Event) {
    match event {
        Event::Change(_, ack) => drop(ack.done(true)),
        Event::StopVring { index, reply } => {
            assert!(index < 4);
            drop(backend.vring_stopped(reply, 0));
        }
        Event::ReadConfig { offset, size, reply } => {
            assert!(offset as usize + size as usize <= MAX_CONFIG_SIZE);
            drop(reply.from_space(&[0; 36]));
        }
        Event::GetInflight { reply, .. } => drop(reply.none()),
        Event::MoveState { reply, .. } => drop(reply.done(true)),
        Event::CheckState(reply) => drop(reply.done(true)),
        Event::Reply(_) | Event::Refused { .. } | Event::Ignored { .. } => {}
    }
}

fn small() -> impl Strategy<Value = u64> {
    prop_oneof![0..8u64, Just(0x100), Just(0x1000), Just(u64::MAX), any::<u64>()]
}

fn region() -> impl Strategy<Value = MemoryRegion> {
    (small(), small(), small(), small()).prop_map(|(guest_address, size, user_address, mmap_offset)| {
        MemoryRegion { guest_address, size, user_address, mmap_offset }
    })
}

/// Payloads of the right shape with odd values, and arbitrary bytes.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        small().prop_map(|word| word.to_ne_bytes().to_vec()),
        (0..6u32, 0..2000u32).prop_map(|(index, num)| [index.to_ne_bytes(), num.to_ne_bytes()].concat()),
        vec(small(), 5).prop_map(|words| words.iter().flat_map(|word| word.to_ne_bytes()).collect()),
        vec(region(), 0..10).prop_map(|regions| MemoryTable(regions).encode()),
        (0..300u32, vec(any::<u8>(), 0..300))
            .prop_map(|(offset, bytes)| { Config { offset, flags: ConfigFlags::WRITABLE, bytes }.encode() }),
        vec(any::<u8>(), 0..400),
    ]
}

proptest! {
    #[test]
    fn any_messages(
        negotiated in any::<u64>(),
        messages in vec((0..48u32, 0..16u32, payload(), 0..3usize), 1..40),
    ) {
        let mut backend = backend(ProtocolFeatures::from_bits_retain(negotiated));
        for (request, flags, payload, fds) in messages {
            let message = Message { request, flags: Flags(flags), payload, fds: (0..fds).map(|_| fd()).collect() };
            let before = backend.state().clone();
            match backend.handle(message) {
                Ok(event @ (Event::Refused { .. } | Event::Ignored { .. })) => {
                    prop_assert_eq!(backend.state(), &before);
                    answer(&mut backend, event);
                }
                Ok(event) => answer(&mut backend, event),
                Err(_) => prop_assert_eq!(backend.state(), &before),
            }
            check_invariants(&backend);
        }
    }

    #[test]
    fn any_bytes(pieces in vec(vec(any::<u8>(), 0..64), 0..64)) {
        let mut decoder = Decoder::new();
        let mut backend = backend(Backend::SUPPORTED);
        'stream: for piece in pieces {
            decoder.feed(&piece, vec![fd()]);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => {
                    if let Ok(event) = backend.handle(message) {
                        answer(&mut backend, event);
                    }
                }
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            prop_assert!(decoder.wanted() > 0);
        }
        check_invariants(&backend);
    }

    #[test]
    fn mangled_session(flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut frontend = Frontend::new();
        let area = MemoryRegion { guest_address: 0, size: 0x1000, user_address: 0x1000, mmap_offset: 0 };
        let messages = [
            frontend.get_features(),
            frontend.set_protocol_features(Backend::SUPPORTED),
            frontend.set_mem_table([(area, fd())]),
            frontend.set_vring_num(0, 128),
            frontend.set_vring_kick(0, Some(fd())),
            frontend.get_inflight_fd(2, 128),
            frontend.get_vring_base(0),
        ];
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        for message in messages {
            let (more, beside) = message.into_parts();
            fds.extend(beside.into_iter().map(|fd| (bytes.len(), fd)));
            bytes.extend(more);
        }
        for (index, flip) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut decoder = Decoder::new();
        let mut backend = backend(ProtocolFeatures::empty());
        'stream: for (at, byte) in bytes.iter().enumerate() {
            let (now, later) = fds.into_iter().partition::<Vec<_>, _>(|(start, _)| *start == at);
            fds = later;
            decoder.feed(&[*byte], now.into_iter().map(|(_, fd)| fd).collect());
            match decoder.next_message() {
                Ok(Some(message)) => {
                    if let Ok(event) = backend.handle(message) {
                        answer(&mut backend, event);
                    }
                }
                Ok(None) => {}
                Err(_) => break 'stream,
            }
        }
        check_invariants(&backend);
    }

    #[test]
    fn any_reply(request in 0..48u32, flags in 0..16u32, payload in payload(), negotiated in any::<u64>()) {
        let mut frontend = Frontend::new();
        frontend.want_acks(false);
        frontend.set_protocol_features(ProtocolFeatures::from_bits_retain(negotiated));
        frontend.want_acks(true);
        frontend.request(FrontendRequest(request), []);
        let waiting = frontend.is_waiting();
        let taken = frontend.receive(Message { request, flags: Flags(flags), payload: payload.clone(), fds: Vec::new() });
        prop_assert!(taken.is_err() || waiting && flags == 5);
        let _ = frontend.receive_notice(Message { request, flags: Flags(flags), payload, fds: Vec::new() });
    }

    #[test]
    fn messages_round_trip_at_any_split(
        messages in vec((any::<u32>(), any::<bool>(), vec(any::<u8>(), 0..300), 0..8usize), 1..8),
        splits in vec(1..100usize, 1..20),
    ) {
        let mut decoder = Decoder::new();
        let mut splits = splits.into_iter().cycle();
        for (request, reply, payload, fds) in messages {
            let message = if reply { Message::reply(request, &payload[..]) } else { Message::request(request, &payload[..]) };
            let flags = message.flags;
            let message = Message { fds: (0..fds).map(|_| fd()).collect(), ..message };
            let (bytes, mut beside) = message.into_parts();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                prop_assert!(decoder.next_message().unwrap().is_none());
                let (piece, after) = rest.split_at(splits.next().unwrap().min(rest.len()));
                decoder.feed(piece, std::mem::take(&mut beside));
                rest = after;
            }
            let back = decoder.next_message().unwrap().unwrap();
            prop_assert_eq!((back.request, back.flags, back.fds.len()), (request, flags, fds));
            prop_assert_eq!(back.payload, payload);
        }
    }

    #[test]
    fn payloads_round_trip(
        regions in vec(region(), 0..=MAX_TABLE_REGIONS),
        (offset, bytes) in (0..100u32, vec(any::<u8>(), 0..=156)),
        (mmap_size, mmap_offset, queues, queue_size) in any::<(u64, u64, u16, u16)>(),
    ) {
        let table = MemoryTable(regions);
        prop_assert_eq!(MemoryTable::parse(&table.encode()), Ok(table));
        let config = Config { offset, flags: ConfigFlags::LIVE_MIGRATION, bytes };
        prop_assert_eq!(Config::parse(&config.encode()), Ok(config));
        let area = InflightArea { mmap_size, mmap_offset, queues, queue_size };
        prop_assert_eq!(InflightArea::parse(&area.encode()), Ok(area));
    }
}
