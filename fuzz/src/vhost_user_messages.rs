//! A front end that sends messages to a back end.

use crate::input::Input;
use lunette_vhost_user::{
    Backend, Config, ConfigFlags, Decoder, Event, Features, Flags, InflightArea, MAX_CONFIG_SIZE, MAX_FDS,
    MAX_PAYLOAD, MAX_TABLE_REGIONS, MemoryRegion, MemoryTable, Message, Offer, VringAddress,
};
use std::fs::File;
use std::os::fd::OwnedFd;

const QUEUES: u16 = 4;
const SLOTS: u16 = 4;
const QUEUE_SIZE: u16 = 1024;

/// Messages with payloads of the right form and odd values, others, and bytes that are no message, cut anywhere and with
/// file descriptors beside them.
///
/// The state stays within what was offered, and a message that is refused does not change it. What the decoder holds is
/// bounded.
pub fn vhost_user_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let offer = Offer {
        features: Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX,
        protocol_features: Backend::SUPPORTED,
        queues: QUEUES,
        max_queue_size: QUEUE_SIZE,
        max_memory_slots: SLOTS,
    };
    let mut backend = Backend::new(offer);
    if input.flag() {
        let negotiate = Message::request(16, Backend::SUPPORTED.bits().to_ne_bytes());
        handle(&mut backend, negotiate);
    }
    let mut decoder = Decoder::new();
    while !input.is_empty() {
        let (bytes, fds) = match input.one_in(32) {
            true => (input.bytes(40).to_vec(), 0),
            false => message(&mut input),
        };
        let fds = if input.one_in(16) { input.pick(&[0, 1, 2, 8, 9]) } else { fds };
        let fds = (0..fds).map(|_| fd()).collect();
        let (head, tail) = bytes.split_at(input.below(bytes.len() + 1));
        for (piece, fds) in [(head, fds), (tail, Vec::new())] {
            decoder.feed(piece, fds);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => handle(&mut backend, message),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            assert!((1..=MAX_PAYLOAD).contains(&decoder.wanted()));
        }
    }
}

/// Handles a message as a transport would. The first fault that cannot be told ends the session; here it goes on, so that
/// more is tried.
fn handle(backend: &mut Backend, message: Message) {
    assert!(message.payload.len() <= MAX_PAYLOAD && message.fds.len() <= MAX_FDS);
    let before = backend.state().clone();
    let event = backend.handle(message);
    if matches!(event, Err(_) | Ok(Event::Refused { .. } | Event::Ignored { .. })) {
        assert_eq!(backend.state(), &before, "refused but in force");
    }
    let reply = event.ok().and_then(|event| match event {
        Event::Change(_, ack) => ack.done(true),
        Event::StopVring { index, reply } => {
            assert!(index < QUEUES);
            Some(backend.vring_stopped(reply, 0))
        }
        Event::ReadConfig { offset, size, reply } => {
            assert!(offset as usize + size as usize <= MAX_CONFIG_SIZE);
            Some(reply.from_space(&[0; 36]))
        }
        Event::GetInflight { area, reply } => {
            assert!(area.queues <= QUEUES && area.queue_size <= QUEUE_SIZE);
            Some(reply.share(4096, 0, fd()))
        }
        Event::MoveState { reply, .. } => {
            assert!(backend.state().vrings.iter().all(|vring| !vring.started));
            Some(reply.done(true))
        }
        Event::CheckState(reply) => Some(reply.done(false)),
        Event::Reply(reply) | Event::Refused { reply, .. } => Some(reply),
        Event::Ignored { .. } => None,
    });
    if let Some(reply) = reply {
        assert!(reply.flags.is_reply() && reply.payload.len() <= MAX_PAYLOAD);
    }
    check_state(backend);
}

fn check_state(backend: &Backend) {
    let (offer, state) = (backend.offer(), backend.state());
    assert!(offer.features.contains(state.features));
    assert!(offer.protocol_features.contains(state.protocol_features));
    assert_eq!(state.vrings.len(), usize::from(QUEUES));
    let sizes = state.vrings.iter().map(|vring| vring.size).filter(|size| *size != 0);
    assert!(sizes.into_iter().all(|size| size.is_power_of_two() && size <= QUEUE_SIZE));
    assert!(state.memory.len() <= MAX_TABLE_REGIONS.max(SLOTS.into()));
    let mut memory = state.memory.clone();
    memory.sort_by_key(|region| region.guest_address);
    let ends = memory.iter().map(|region| region.guest_address.checked_add(region.size).expect("no wrap"));
    let starts = memory.iter().skip(1).map(|region| region.guest_address);
    assert!(ends.zip(starts).all(|(end, next)| end <= next));
    assert!(memory.iter().all(|region| region.size > 0));
    // Another process can go on with it.
    assert_eq!(Backend::resume(offer.clone(), state.clone()).unwrap().state(), state);
}

/// A message, and how many file descriptors belong to it.
pub(crate) fn message(input: &mut Input<'_>) -> (Vec<u8>, usize) {
    let request = u32::from(input.u8() % 48);
    let payload = payload(request, input);
    let fds = match request {
        5 => payload.first().map_or(0, |regions| usize::from(*regions)),
        6 | 7 | 21 | 32 | 37 | 42 => 1,
        12..=14 => payload.get(1).map_or(0, |no_fd| usize::from(*no_fd == 0)),
        _ => 0,
    };
    let reply = if input.flag() { Flags::NEED_REPLY } else { 0 };
    let flags = if input.one_in(64) { input.u8().into() } else { Flags::VERSION | reply };
    let (bytes, _) = Message { request, flags: Flags(flags), payload, fds: Vec::new() }.into_parts();
    (bytes, fds)
}

/// Mostly what the request calls for.
fn payload(request: u32, input: &mut Input<'_>) -> Vec<u8> {
    let form = if input.one_in(16) { u32::from(input.u8() % 48) } else { request };
    let index = u32::from(input.u8() % 5);
    match form {
        2 | 16 => (input.u32() as u64 | u64::from(input.u8() & 7) << 32).to_ne_bytes().to_vec(),
        5 => MemoryTable((0..input.below(10)).map(|_| region(input)).collect()).encode(),
        8 => words(index, input.pick(&[0, 1, 2, 128, 1024, 2048, 0x1_0001])),
        9 => {
            let address = VringAddress {
                index,
                flags: input.u8().into(),
                descriptor: number(input),
                used: number(input),
                available: number(input),
                log: number(input),
            };
            let VringAddress { flags, descriptor, used, available, log, .. } = address;
            [words(index, flags), [descriptor, used, available, log].map(u64::to_ne_bytes).concat()].concat()
        }
        42 => words(input.pick(&[0, 1, 2]), input.pick(&[0, 0, 0, 1])),
        10 | 11 | 18 | 35 => words(index, input.pick(&[0, 1, 2, 0xffff, 0x1_0000])),
        12..=14 => (u64::from(index) | u64::from(input.u8() & 1) << 8).to_ne_bytes().to_vec(),
        24 | 25 => {
            let (offset, size) = (input.pick(&[0, 4, 36, 255, 256, u32::MAX]), input.below(257));
            Config { offset, flags: ConfigFlags(input.u8().into()), bytes: input.pattern(size) }.encode()
        }
        31 | 32 => {
            let (mmap_size, mmap_offset) = (number(input), number(input));
            let (queues, queue_size) = (input.below(6) as u16, input.pick(&[0, 128, 1024, 1025]));
            InflightArea { mmap_size, mmap_offset, queues, queue_size }.encode()
        }
        37 | 38 => {
            let table = MemoryTable(vec![region(input)]).encode();
            [&[0; 8], &table[8..]].concat()
        }
        6 => [number(input), number(input)].map(u64::to_ne_bytes).concat(),
        39 => number(input).to_ne_bytes().to_vec(),
        _ => {
            let length = input.pick(&[0, 0, 0, 1, 8, 16, 4096]);
            input.pattern(length)
        }
    }
}

fn words(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

fn region(input: &mut Input<'_>) -> MemoryRegion {
    MemoryRegion {
        guest_address: number(input),
        size: number(input),
        user_address: number(input),
        mmap_offset: number(input),
    }
}

fn number(input: &mut Input<'_>) -> u64 {
    match input.below(12) {
        0 => u64::MAX,
        1 => u64::from(input.u32()) << 32,
        n => n as u64 * 0x1000,
    }
}

fn fd() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null can be opened").into()
}
