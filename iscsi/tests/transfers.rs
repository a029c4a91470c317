//! Commands and their data, in every mix of parameters, over pipes that cut the stream anywhere.

mod common;

use common::{Pair, cdb, initiator_settings, pattern};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::target::{Residual, Settings};
use proptest::prelude::*;

/// Lengths below, at and far above those of the commands.
fn length() -> impl Strategy<Value = u32> {
    prop_oneof![512u32..20_000, 512u32..=600, 20_000u32..300_000, Just(1 << 18), Just((1 << 24) - 1)]
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let flags = any::<[bool; 6]>();
    (flags, length(), length(), length(), prop_oneof![1u32..6, Just(65_535)]).prop_map(
        |(flags, segment, burst, first_burst, outstanding)| {
            let [header_digest, data_digest, initial_r2t, immediate_data, pdus, sequences] = flags;
            Parameters {
                header_digest,
                data_digest,
                initial_r2t,
                immediate_data,
                max_recv_data_segment_length: segment,
                max_burst_length: burst,
                first_burst_length: first_burst,
                max_outstanding_r2t: outstanding,
                data_pdu_in_order: pdus,
                data_sequence_in_order: sequences,
                ..Parameters::PREFERRED
            }
        },
    )
}

/// Expected length and what the device moves, of a read and a write part.
fn command() -> impl Strategy<Value = (u32, u32, u32)> {
    let length = || prop_oneof![Just(0u32), 1u32..2000, 1u32..100_000];
    (length(), length(), length())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn every_byte_arrives(
        target in parameters(),
        initiator in parameters(),
        first_cmd_sn in prop_oneof![Just(1u32), Just(u32::MAX - 3)],
        window in 1u16..20,
        commands in prop::collection::vec(command(), 1..12),
        seed in any::<u64>(),
    ) {
        let settings = Settings { parameters: target, command_window: window, ..Settings::default() };
        let wanted = lunette_iscsi::initiator::Settings { first_cmd_sn, ..initiator_settings(initiator) };
        let mut pair = Pair::new(settings, wanted, seed);
        pair.run();
        prop_assert!(pair.logged_in, "{:?} {:?}", pair.error, pair.target.error);
        let agreed = *pair.initiator.parameters();
        prop_assert_eq!(agreed.initial_r2t, target.initial_r2t || initiator.initial_r2t);
        prop_assert_eq!(agreed.immediate_data, target.immediate_data && initiator.immediate_data);
        prop_assert_eq!(agreed.data_pdu_in_order, target.data_pdu_in_order || initiator.data_pdu_in_order);
        prop_assert!(agreed.first_burst_length <= agreed.max_burst_length);
        if !agreed.data_pdu_in_order {
            pair.scramble();
        }
        let mut sent = Vec::new();
        for (index, &(read, write, moves)) in commands.iter().enumerate() {
            let seed = index as u8;
            let data = (write > 0).then(|| pattern(!seed, write as usize));
            let cdb = cdb(seed, moves, 0);
            let tag = loop {
                match pair.command(&cdb, read, data.clone()) {
                    Some(tag) => break tag,
                    None => pair.run(),
                }
            };
            sent.push((tag, seed, read, write, moves));
        }
        pair.run();
        prop_assert_eq!((pair.error, pair.target.error), (None, None));
        prop_assert!(pair.rejects.is_empty());
        for &(tag, seed, read, write, moves) in &sent {
            let ended = pair.ended.get(&tag).expect("every command ends");
            prop_assert_eq!((ended.status, &ended.sense), (0, &vec![]));
            let moved = read.min(moves) as usize;
            prop_assert_eq!(&ended.data[..moved], &pattern(seed, moves as usize)[..moved]);
            prop_assert!(ended.data[moved..].iter().all(|&byte| byte == 0));
            if write > 0 {
                let moved = write.min(moves) as usize;
                prop_assert_eq!(&pair.target.written[&tag], &pattern(!seed, write as usize)[..moved]);
            }
            let of = |expected: u32| match moves {
                _ if expected == 0 => Residual::Exact,
                moves if moves < expected => Residual::Underflow(expected - moves),
                moves if moves > expected => Residual::Overflow(moves - expected),
                _ => Residual::Exact,
            };
            prop_assert_eq!(ended.residual, of(if write > 0 { write } else { read }));
            prop_assert_eq!(ended.read_residual, if write > 0 { of(read) } else { Residual::Exact });
        }
        let order: Vec<u32> = sent.iter().map(|&(tag, ..)| tag).collect();
        prop_assert_eq!(&pair.target.delivered, &order);
        prop_assert_eq!((pair.target.payloads(), pair.payloads.len()), (0, 0), "all payloads were given back");
        prop_assert_eq!(pair.target.accepted.as_ref().unwrap().session.tasks().count(), 0);
        prop_assert_eq!(pair.initiator.window(), u32::from(window), "the window opens again");
    }
}

/// Not a sample, but each combination.
#[test]
fn every_combination_of_parameters() {
    let mut combinations = 0;
    let flags = || [false, true].into_iter();
    for (immediate_data, initial_r2t) in flags().flat_map(|one| flags().map(move |other| (one, other))) {
        for (pdus, sequences) in flags().flat_map(|one| flags().map(move |other| (one, other))) {
            for segment in [512, 5000, (1 << 24) - 1] {
                for (first_burst, burst) in
                    [(512, 512), (512, 3000), (3000, 3000), (3000, 1 << 20), ((1 << 24) - 1, (1 << 24) - 1)]
                {
                    for outstanding in [1, 3, 65_535] {
                        combine(&Parameters {
                            header_digest: false,
                            data_digest: false,
                            immediate_data,
                            initial_r2t,
                            data_pdu_in_order: pdus,
                            data_sequence_in_order: sequences,
                            max_recv_data_segment_length: segment,
                            first_burst_length: first_burst,
                            max_burst_length: burst,
                            max_outstanding_r2t: outstanding,
                            ..Parameters::PREFERRED
                        });
                        combinations += 1;
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 720);
}

/// Writes and reads around the lengths that matter.
fn combine(both: &Parameters) {
    let mut pair = Pair::logged_in(*both, *both);
    assert_eq!(
        Parameters { max_recv_data_segment_length: 0, ..*pair.initiator.parameters() },
        Parameters { max_recv_data_segment_length: 0, ..*both }
    );
    if !both.data_pdu_in_order {
        pair.scramble();
    }
    for length in [511u32, 512, 513, 3000, 3001, 10_000] {
        let data = pattern(7, length as usize);
        let write = pair.command(&cdb(0, length, 0), 0, Some(data.clone())).unwrap();
        let read = pair.command(&cdb(9, length, 0), length, None).unwrap();
        pair.run();
        assert_eq!((pair.error, pair.target.error), (None, None), "{both:?}");
        assert!(pair.target.written[&write] == data, "{length} {both:?}");
        assert!(pair.ended[&read].data == pattern(9, length as usize), "{length} {both:?}");
    }
    assert!(pair.target.failures.is_empty() && pair.rejects.is_empty(), "{both:?}");
}

#[test]
fn status_and_sense_come_after_the_data() {
    let mut pair = Pair::logged_in(Parameters::PREFERRED, Parameters::PREFERRED);
    let tag = pair.command(&cdb(3, 5000, 0x18), 5000, None).unwrap();
    pair.run();
    let ended = &pair.ended[&tag];
    assert_eq!((ended.status, ended.data.as_slice()), (0x18, pattern(3, 5000).as_slice()));
}

#[test]
fn long_cdbs_arrive_whole() {
    let mut pair = Pair::logged_in(Parameters::PREFERRED, Parameters::PREFERRED);
    let mut long = [0; 260];
    long[..16].copy_from_slice(&cdb(1, 100, 0));
    let tag = pair.command(&long, 100, Some(vec![9; 100])).unwrap();
    assert_eq!(pair.command(&[0; 261], 0, None), None);
    pair.run();
    assert_eq!((pair.error, pair.ended[&tag].status), (None, 0));
    assert_eq!(pair.target.written[&tag], [9; 100]);
}
