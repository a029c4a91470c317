//! Random and mutated PDUs in every state: no panic, no endless loop, no answer out of proportion.

mod common;

use common::{Pair, Random, TargetEnd, cdb, initiator_settings, pattern};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{LogoutReason, NO_TAG, TaskManagementFunction};
use lunette_iscsi::target::Settings;
use lunette_iscsi::{Outbox, Piece, initiator};
use proptest::prelude::*;

/// Headers with plausible opcodes, tags and small data segments; the rest is random.
fn random_pdu(random: &mut Random) -> Vec<u8> {
    const OPCODES: [u8; 12] = [0x00, 0x40, 0x01, 0x41, 0x02, 0x42, 0x43, 0x04, 0x44, 0x05, 0x06, 0x10];
    let mut pdu: Vec<u8> = (0..48).map(|_| random.below(256) as u8).collect();
    if random.below(20) > 0 {
        pdu[0] = OPCODES[random.below(OPCODES.len())];
    }
    if pdu[0] & 0x3f == 3 && random.below(20) > 0 {
        pdu[0] = 5;
    }
    pdu[4] = if random.below(8) == 0 { random.below(70) as u8 } else { 0 };
    let length = if random.below(2) == 0 { 0 } else { random.below(600) };
    pdu[5..8].copy_from_slice(&[0, (length >> 8) as u8, length as u8]);
    for (field, values) in
        [(16, &[0, 1, 2, 3, NO_TAG][..]), (20, &[0, 1, 512, 4096, NO_TAG]), (24, &[0, 1, 2, 3, 130])]
    {
        if random.below(8) > 0 {
            pdu[field..field + 4].copy_from_slice(&values[random.below(values.len())].to_be_bytes());
        }
    }
    for field in [36, 40] {
        if random.below(4) > 0 {
            pdu[field..field + 4].copy_from_slice(&(random.below(3) as u32 * 512).to_be_bytes());
        }
    }
    let text = b"SendTargets=All\0X=1\0MaxRecvDataSegmentLength=512\0";
    pdu.extend((0..usize::from(pdu[4]) * 4).map(|_| random.below(4) as u8));
    pdu.extend((0..length).map(|index| text[index % text.len()]));
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}

/// What an initiator sends in a session with a bit of everything.
fn recording(parameters: Parameters) -> Vec<u8> {
    let mut pair = Pair::logged_in(parameters, parameters);
    for length in [100u32, 3000, 9000] {
        pair.command(&cdb(0, length, 0), 0, Some(pattern(1, length as usize)));
        pair.command(&cdb(0, length, 0), length, None);
    }
    pair.initiator.ping(b"ping", &mut pair.out);
    pair.initiator.text(b"SendTargets=All\0", &mut pair.out);
    let function = initiator::TaskManagementRequest {
        function: TaskManagementFunction::ABORT_TASK,
        lun: [0; 8],
        referenced_task_tag: 1,
        ref_cmd_sn: 2,
        immediate: true,
    };
    pair.initiator.task_management(&function, &mut pair.out);
    pair.initiator.logout(LogoutReason::CLOSE_SESSION, &mut pair.out);
    flatten(&pair.out, &pair)
}

fn flatten(out: &Outbox, pair: &Pair) -> Vec<u8> {
    let mut wire = Vec::new();
    for piece in out.pieces() {
        match piece {
            Piece::Bytes(bytes) => wire.extend(bytes),
            Piece::Payload { token, range } => {
                wire.extend(&pair.payloads[&token][range.start as usize..range.end as usize]);
            }
        }
    }
    wire
}

fn parameters(digests: bool, unsolicited: bool) -> Parameters {
    Parameters {
        header_digest: digests,
        data_digest: digests,
        initial_r2t: !unsolicited,
        max_burst_length: 4096,
        first_burst_length: 1024,
        max_recv_data_segment_length: 2048,
        ..Parameters::PREFERRED
    }
}

/// Feeds pieces of random size and checks the answers' size.
fn feed(target: &mut TargetEnd, mut wire: &[u8], random: &mut Random) -> usize {
    let mut answered = 0;
    while !wire.is_empty() {
        let (piece, rest) = wire.split_at(1 + random.below(wire.len().min(3000)));
        target.receive(piece);
        wire = rest;
        while !target.out.is_empty() {
            answered += target.send(random).len();
        }
    }
    answered
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn random_requests_in_full_feature_phase(seed in any::<u64>(), unsolicited: bool, lazy: bool) {
        let both = parameters(false, unsolicited);
        let mut pair = Pair::logged_in(both, both);
        pair.target.lazy = lazy;
        let mut random = Random(seed | 1);
        for _ in 0..60 {
            let pdu = random_pdu(&mut random);
            let answered = feed(&mut pair.target, &pdu, &mut random);
            let data = if lazy { 0 } else { 60 * 110_000 };
            prop_assert!(answered < data + 64 * 4096, "{answered}");
        }
        let session = &pair.target.accepted.as_ref().unwrap().session;
        prop_assert!(session.tasks().count() <= session.slots());
    }

    #[test]
    fn mutated_sessions(seed in any::<u64>(), digests: bool, unsolicited: bool) {
        let both = parameters(digests, unsolicited);
        let mut wire = recording(both);
        let mut random = Random(seed | 1);
        for _ in 0..1 + random.below(8) {
            let position = random.below(wire.len());
            wire[position] = random.below(256) as u8;
        }
        let mut pair = Pair::logged_in(both, both);
        feed(&mut pair.target, &wire, &mut random);
    }

    #[test]
    fn mutated_logins(seed in any::<u64>()) {
        let mut out = Outbox::default();
        let settings = initiator_settings(Parameters::PREFERRED);
        let _initiator = initiator::Initiator::new(settings, &mut out);
        let mut wire = Vec::new();
        for piece in out.pieces() {
            let Piece::Bytes(bytes) = piece else { unreachable!() };
            wire.extend(bytes);
        }
        let mut random = Random(seed | 1);
        for _ in 0..1 + random.below(4) {
            let position = random.below(wire.len());
            wire[position] = random.below(256) as u8;
        }
        let mut target = TargetEnd::new(Settings::default());
        let answered = feed(&mut target, &wire.repeat(3), &mut random);
        prop_assert!(answered < 4 * 9000);
    }

    #[test]
    fn random_answers_to_an_initiator(seed in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut random = Random(seed | 1);
        let both = parameters(false, true);
        let mut pair = Pair::logged_in(both, both);
        pair.command(&cdb(0, 6000, 0), 0, Some(pattern(1, 6000)));
        pair.command(&cdb(0, 6000, 0), 6000, None);
        for _ in 0..20 {
            let mut pdu = random_pdu(&mut random);
            pdu[0] |= 0x20;
            pdu[24..28].copy_from_slice(&(random.below(4) as u32).to_be_bytes());
            let mut input = pdu.as_slice();
            while let Ok(received) = pair.initiator.receive(input, &mut pair.out) {
                let more = received.event.is_some();
                input = &input[received.used..];
                if !more {
                    break;
                }
            }
        }
        let mut fresh = initiator::Initiator::new(initiator_settings(both), &mut Outbox::default());
        let _ = fresh.receive(&bytes, &mut Outbox::default());
    }
}
