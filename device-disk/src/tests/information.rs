//! What initiators leave with a unit: identifying information and the time; and what it says of security.

use crate::testing::*;
use std::sync::Arc;
use std::time::Duration;

const PERIPHERAL: u8 = 0;
const TEXT: u8 = 2;

fn identify(rig: &mut Rig, kind: u8, information: &[u8]) -> Answer {
    let [high, low] = (information.len() as u16).to_be_bytes();
    rig.ask(&[0xa4, 6, 0, 0, 0, 0, 0, 0, high, low, kind << 1, 0], information, 0)
}

fn identified(rig: &mut Rig, kind: u8) -> Answer {
    rig.ask(&[0xa3, 5, 0, 0, 0, 0, 0, 0, 4, 0, kind << 1, 0], &[], 1024)
}

#[test]
fn identifying_information_is_kept() {
    let keeper = Arc::<RamKeeper>::default();
    let mut rig = Rig::new();
    rig.unit.keep_state(keeper.clone()).unwrap();
    let second = rig.log_in();
    assert_eq!(identified(&mut rig, PERIPHERAL).good(), [0; 4]);
    identify(&mut rig, PERIPHERAL, &[7; 256]).good();
    assert_eq!(rig.ask_from(second, &[0; 6], &[], 0).refused(), (6, 0x3f, 5));
    identify(&mut rig, TEXT, b"shelf 3").good();
    for mut rig in [rig, Rig::new()] {
        let _ = rig.unit.keep_state(keeper.clone());
        assert_eq!(identified(&mut rig, PERIPHERAL).good(), [&[0, 0, 1, 0][..], &[7; 256]].concat());
        assert_eq!(identified(&mut rig, TEXT).good(), b"\0\0\0\x07shelf 3");
        assert_eq!(rig.ask(&[0xa3, 5, 0, 0, 0, 0, 0, 0, 0, 6, 4, 0], &[], 64).good(), b"\0\0\0\x07sh");
    }
    let mut rig = Rig::new();
    identify(&mut rig, TEXT, b"gone").good();
    identify(&mut rig, TEXT, b"").good();
    assert_eq!(identified(&mut rig, TEXT).good(), [0; 4]);
    let types = [0, 0, 0, 12, 0, 0, 1, 0, 4, 0, 1, 0, 0xfe, 0, 0, 0];
    assert_eq!(identified(&mut rig, 0x7f).good(), types);
    for unknown in [1, 3, 0x7e] {
        assert_eq!(identified(&mut rig, unknown).field(), Some((10, Some(7))));
        assert_eq!(identify(&mut rig, unknown, b"x").field(), Some((10, Some(7))));
    }
    assert_eq!(identify(&mut rig, TEXT, &[0; 257]).field(), Some((6, None)));
    let short = rig.ask(&[0xa4, 6, 0, 0, 0, 0, 0, 0, 0, 9, 4, 0], b"short", 0);
    assert_eq!(short.refused(), LIST_LENGTH);

    let mut rig = Rig::new();
    rig.unit.keep_state(Arc::new(RamKeeper::limited(0))).unwrap();
    assert_eq!(identify(&mut rig, TEXT, b"lost").refused(), (4, 0x44, 0));
    assert_eq!(identified(&mut rig, TEXT).good(), [0; 4]);
}

/// TIMESTAMP ORIGIN and TIMESTAMP.
fn timestamp(rig: &mut Rig) -> (u8, u64) {
    let data = rig.ask(&[0xa3, 0x0f, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[], 255).good();
    assert_eq!((data.len(), &data[..2]), (12, &[0, 10][..]));
    let mut milliseconds = [0; 8];
    milliseconds[2..].copy_from_slice(&data[4..10]);
    (data[2], u64::from_be_bytes(milliseconds))
}

fn set_timestamp(rig: &mut Rig, length: u8, milliseconds: u64) -> Answer {
    let mut list = vec![0; 12];
    list[4..10].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    list.truncate(length.into());
    rig.ask(&[0xa4, 0x0f, 0, 0, 0, 0, 0, 0, 0, length, 0, 0], &list, 0)
}

#[test]
fn the_time_goes_on() {
    let mut rig = Rig::new();
    let second = rig.log_in();
    let (origin, start) = timestamp(&mut rig);
    rig.pass(Duration::from_millis(30));
    assert_eq!((origin, timestamp(&mut rig)), (0, (0, start + 30)));
    rig.unit.set_clock(1_000_000);
    assert_eq!(timestamp(&mut rig), (3, 1_000_000 + start + 30));
    set_timestamp(&mut rig, 12, 0xf0ff_ffff_ffff).good();
    assert_eq!(rig.ask_from(second, &[0; 6], &[], 0).refused(), (6, 0x2a, 0x10));
    assert_eq!(timestamp(&mut rig), (2, 0xf0ff_ffff_ffff));
    rig.pass(Duration::from_millis(20));
    assert_eq!(timestamp(&mut rig), (2, 0xf100_0000_0013));
    rig.unit.set_clock(1_000_000);
    assert_eq!(timestamp(&mut rig), (2, 0xf100_0000_0013), "SCSIP");
    let late = set_timestamp(&mut rig, 12, 0xf100_0000_0000);
    assert_eq!((late.refused(), late.field()), (INVALID_PARAMETER, Some((4, None))));
    // TCMOS, SCSIP and IALUAE of the Control Extension page.
    assert_eq!(rig.ask(&[0x1a, 8, 0x0a, 1, 255, 0], &[], 255).good()[8], 0x07);
    set_timestamp(&mut rig, 0, 0).good();
    for short in 1..12 {
        assert_eq!(set_timestamp(&mut rig, short, 1).refused(), LIST_LENGTH);
    }
    assert_eq!(timestamp(&mut rig).0, 2);
    assert_eq!(rig.ask(&[0xa3, 0x0f, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0], &[], 255).good(), [0, 10, 2]);
}

#[test]
fn there_is_no_security_protocol() {
    let mut rig = Rig::new();
    let mut ask = |protocol, specific, units, length| {
        rig.ask(&[0xa2, protocol, 0, specific, units, 0, 0, 0, 0, length, 0, 0], &[], 1024)
    };
    assert_eq!(ask(0, 0, 0, 255).good(), [0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(ask(0, 0, 0, 3).good(), [0; 3]);
    assert_eq!(ask(0, 1, 0, 255).good(), [0; 4]);
    assert_eq!(ask(0, 0, 0x80, 1).good().len(), 512);
    assert_eq!(ask(0, 3, 0, 255).field(), Some((2, None)));
    for protocol in [1, 0x20, 0xef] {
        assert_eq!(ask(protocol, 0, 0, 255).field(), Some((1, None)));
    }
    for protocol in [0, 1] {
        let out = rig.ask(&[0xb5, protocol, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], &[0; 4], 0);
        assert_eq!((out.refused(), out.field()), (INVALID_FIELD, Some((1, None))));
    }
}
