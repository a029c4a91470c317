//! MODE SENSE and MODE SELECT.

use crate::Options;
use crate::testing::*;
use std::sync::Arc;

const MODE_PARAMETERS_CHANGED: Code = (6, 0x2a, 1);
/// Pages with subpages, ascending.
const PAGES: [(u8, u8); 8] = [(1, 0), (2, 0), (7, 0), (8, 0), (0x0a, 0), (0x0a, 1), (0x1a, 0), (0x1c, 0)];
/// PS: a page that can be saved.
const PS: u8 = 0x80;

/// MODE SENSE(6) of a page, without block descriptor.
fn sense_6(rig: &mut Rig, control: u8, page: u8, subpage: u8) -> Answer {
    rig.ask(&[0x1a, 0x08, control << 6 | page, subpage, 255, 0], &[], 255)
}

fn page(rig: &mut Rig, control: u8, page: u8) -> Vec<u8> {
    sense_6(rig, control, page, 0).good().split_off(4)
}

fn select_6(rig: &mut Rig, list: &[u8]) -> Answer {
    rig.ask(&[0x15, 0x10, 0, 0, list.len() as u8, 0], list, 0)
}

fn select_page(rig: &mut Rig, page: &[u8]) -> Answer {
    select_6(rig, &[&[0; 4], page].concat())
}

/// The Control page with D_SENSE and SWP.
fn control(descriptor_sense: bool, write_protect: bool) -> [u8; 12] {
    let bit = |on, mask| if on { mask } else { 0 };
    [PS | 0x0a, 0x0a, bit(descriptor_sense, 0x04), 0x10, bit(write_protect, 0x08), 0, 0, 0, 0xff, 0xff, 0, 0]
}

/// The codes of the pages in mode data after its header.
fn codes(mut pages: &[u8]) -> Vec<(u8, u8)> {
    let mut codes = Vec::new();
    while let [first, second, ..] = *pages {
        let (code, length) = match first & 0x40 {
            0 => ((first & 0x3f, 0), 2 + usize::from(second)),
            _ => ((first & 0x3f, second), 4 + usize::from(u16::from_be_bytes([pages[2], pages[3]]))),
        };
        codes.push(code);
        pages = &pages[length..];
    }
    codes
}

#[test]
fn pages_by_code_and_all_at_once() {
    let mut rig = Rig::new();
    let asked = |rig: &mut Rig, code, subpage| codes(&sense_6(rig, 0, code, subpage).good()[4..]);
    let pages: Vec<_> = PAGES.into_iter().filter(|(_, subpage)| *subpage == 0).collect();
    assert_eq!(asked(&mut rig, 0x3f, 0), pages);
    assert_eq!(asked(&mut rig, 0x3f, 0xff), PAGES);
    assert_eq!(asked(&mut rig, 0x0a, 0xff), [(0x0a, 0), (0x0a, 1)]);
    for code in 0..0x3f {
        for subpage in 0..=255 {
            let answer = sense_6(&mut rig, 0, code, subpage);
            let known = PAGES.iter().any(|(page, _)| *page == code);
            if PAGES.contains(&(code, subpage)) {
                assert_eq!(codes(&answer.good()[4..]), [(code, subpage)]);
            } else if known && subpage == 0xff {
                answer.good();
            } else {
                assert_eq!(answer.field(), Some(if known { (3, None) } else { (2, Some(5)) }));
            }
        }
    }
    assert_eq!(sense_6(&mut rig, 0, 0x3f, 1).field(), Some((3, None)));
}

#[test]
fn current_changeable_default_and_saved_values() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    for code in [1, 2, 7, 8, 0x0a, 0x1a, 0x1c] {
        assert_eq!(page(&mut rig, 0, code), page(&mut rig, 2, code));
        assert_eq!(page(&mut rig, 0, code), page(&mut rig, 3, code));
        assert_eq!(page(&mut rig, 0, code)[0] & PS != 0, matches!(code, 8 | 0x0a));
    }
    let mut changeable = vec![0; 12];
    (changeable[0], changeable[1], changeable[2], changeable[4]) = (PS | 0x0a, 0x0a, 0x04, 0x08);
    (changeable[3], changeable[5]) = (0x06, 0x40);
    assert_eq!(page(&mut rig, 1, 0x0a), changeable);
    assert_eq!(page(&mut rig, 1, 0x08)[2], 0x04);
    assert_eq!(page(&mut rig, 0, 0x08)[2], 0x04, "WCE");
    select_page(&mut rig, &control(true, false)).good();
    assert_eq!(page(&mut rig, 0, 0x0a), control(true, false));
    assert_eq!(page(&mut rig, 2, 0x0a), control(false, false));
}

#[test]
fn headers_and_block_descriptors() {
    let mut rig = Rig::new();
    let six = rig.ask(&[0x1a, 0, 0x0a, 0, 255, 0], &[], 255).good();
    assert_eq!(six[..12], [23, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let ten = rig.ask(&[0x5a, 0, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good();
    assert_eq!(ten[..16], [0, 26, 0, 0x10, 0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let long = rig.ask(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good();
    assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(long[8..24], [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    let without = rig.ask(&[0x5a, 0x08, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good();
    assert_eq!(without[8..], control(false, false));
    for length in 0..=24 {
        assert_eq!(rig.ask(&[0x1a, 0, 0x0a, 0, length, 0], &[], 255).good(), six[..usize::from(length)]);
    }
}

#[test]
fn what_is_sensed_can_be_selected() {
    let mut rig = Rig::new();
    let six = rig.ask(&[0x1a, 0, 0x3f, 0xff, 255, 0], &[], 255).good();
    select_6(&mut rig, &six).good();
    for long in [0, 0x10] {
        let ten = rig.ask(&[0x5a, long, 0x3f, 0xff, 0, 0, 0, 1, 0, 0], &[], 256).good();
        let select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, ten.len() as u8, 0];
        rig.ask(&select, &ten, 0).good();
    }
    let second = rig.log_in();
    select_6(&mut rig, &six).good();
    rig.ask_from(second, &[0; 6], &[], 0).good();
}

#[test]
fn others_are_told_of_a_change() {
    let mut rig = Rig::new();
    let second = rig.log_in();
    select_page(&mut rig, &control(true, false)).good();
    rig.ask(&[0; 6], &[], 0).good();
    let told = rig.ask_from(second, &[0; 6], &[], 0);
    assert_eq!(told.refused(), MODE_PARAMETERS_CHANGED);
    assert!(told.outcome.descriptor_sense);
    rig.ask_from(second, &[0; 6], &[], 0).good();
}

#[test]
fn a_reset_brings_the_defaults_back() {
    let mut rig = Rig::new();
    select_page(&mut rig, &control(true, true)).good();
    rig.reset();
    assert_eq!(page(&mut rig, 0, 0x0a), control(false, false));
    rig.write(0, &pattern(1));
}

/// MODE SELECT(6) with SP.
fn save(rig: &mut Rig, pages: &[u8]) -> Answer {
    let list = [&[0; 4], pages].concat();
    rig.ask(&[0x15, 0x11, 0, 0, list.len() as u8, 0], &list, 0)
}

#[test]
fn saved_values_come_back_after_a_reset() {
    let mut rig = Rig::new();
    save(&mut rig, &control(true, false)).good();
    assert_eq!(page(&mut rig, 3, 0x0a), control(true, false));
    assert_eq!(page(&mut rig, 2, 0x0a), control(false, false));
    select_page(&mut rig, &control(false, true)).good();
    assert_eq!(page(&mut rig, 3, 0x0a), control(true, false), "was not saved");
    rig.reset();
    assert_eq!(page(&mut rig, 0, 0x0a), control(true, false));
    // What is in force is saved as well, also by a list of nothing.
    select_page(&mut rig, &control(true, true)).good();
    rig.ask(&[0x55, 0x01, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(page(&mut rig, 3, 0x0a), control(true, true));
    let refused = save(&mut rig, &[0x0a, 1, 0]);
    assert_eq!(refused.refused(), INVALID_PARAMETER);
    assert_eq!(page(&mut rig, 3, 0x0a), control(true, true));
}

#[test]
fn saved_values_come_back_after_a_restart() {
    let keeper = Arc::<RamKeeper>::default();
    let cached = || Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    let mut rig = cached();
    rig.unit.keep_state(keeper.clone()).unwrap();
    let mut caching = page(&mut rig, 0, 8);
    caching[2] = 0;
    let second = rig.log_in();
    save(&mut rig, &[&control(true, false)[..], &caching].concat()).good();
    assert_eq!(rig.ask_from(second, &[0; 6], &[], 0).refused(), MODE_PARAMETERS_CHANGED);
    select_page(&mut rig, &control(false, false)).good();

    let mut rig = cached();
    rig.unit.keep_state(keeper.clone()).unwrap();
    assert_eq!(page(&mut rig, 0, 0x0a), control(true, false));
    assert_eq!(page(&mut rig, 0, 8), caching);
    assert!(!rig.unit.write_cache_enabled() && rig.unit.descriptor_sense());

    // Bits that cannot be changed any more are those of the page.
    let mut rig = Rig::new();
    rig.unit.keep_state(keeper.clone()).unwrap();
    assert_eq!(page(&mut rig, 0, 8), page(&mut rig, 2, 8));
    let text = String::from_utf8(keeper.state().unwrap()).unwrap();
    for (from, to) in [("0A", "0a"), ("\"0a", "\"zz"), ("\"0a0a", "\"0a0a0")] {
        let damaged = text.replacen(from, to, 1);
        let rig = Rig::new();
        keeper.hold(damaged.clone());
        let kept = rig.unit.keep_state(keeper.clone());
        assert_eq!(kept.is_err(), from != "0A", "{damaged}");
        assert_eq!(rig.unit.ready().is_err(), kept.is_err());
    }
}

#[test]
fn what_cannot_be_saved_does_not_count() {
    let mut rig = Rig::new();
    rig.unit.keep_state(Arc::new(RamKeeper::limited(0))).unwrap();
    assert_eq!(save(&mut rig, &control(true, true)).refused(), (4, 0x44, 0));
    for control_field in [0, 3] {
        assert_eq!(page(&mut rig, control_field, 0x0a), control(false, false));
    }
}

#[test]
fn software_write_protection() {
    use lunette_scsi::Opcode;
    let mut rig = Rig::new();
    select_page(&mut rig, &control(false, true)).good();
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_10, 0, 1), &pattern(1), 0).refused(), SOFTWARE_PROTECTED);
    assert_eq!(rig.read(0, 1), [0; 512]);
    assert_eq!(rig.ask(&[0x1a, 8, 0x0a, 0, 4, 0], &[], 4).good()[2], 0x90);
    select_page(&mut rig, &control(false, false)).good();
    rig.write(0, &pattern(1));
}

#[test]
fn all_pages_of_a_list_or_none() {
    let mut rig = Rig::new();
    let second = rig.log_in();
    let mut caching = page(&mut rig, 0, 8);
    caching[2] = 0x01;
    let list = [&[0; 4][..], &control(true, true), &caching].concat();
    let refused = select_6(&mut rig, &list);
    assert_eq!((refused.refused(), refused.field()), (INVALID_PARAMETER, Some((18, Some(0)))));
    assert_eq!(page(&mut rig, 0, 0x0a), control(false, false));
    rig.ask_from(second, &[0; 6], &[], 0).good();
}

#[test]
fn mistakes_are_pointed_at() {
    let mut rig = Rig::new();
    let at = |answer: Answer| {
        assert_eq!(answer.refused(), INVALID_PARAMETER);
        answer.field().unwrap()
    };
    let mut wrong = control(false, false);
    wrong[3] = 0x20;
    assert_eq!(at(select_page(&mut rig, &wrong)), (7, Some(5)));
    assert_eq!(at(select_page(&mut rig, &[0x03, 1, 0])), (4, Some(5)), "no such page");
    assert_eq!(at(select_page(&mut rig, &[0x0a, 1, 0])), (5, None), "another length");
    assert_eq!(at(select_page(&mut rig, &[0x4a, 1, 0, 1, 0])), (6, None), "another length");
    assert_eq!(at(select_6(&mut rig, &[0, 1, 0, 0])), (1, None), "medium type");
    let descriptor = |bytes: [u8; 8]| [&[0, 0, 0, 8][..], &bytes].concat();
    assert_eq!(at(select_6(&mut rig, &descriptor([0, 0, 8, 1, 0, 0, 2, 0]))), (4, None));
    assert_eq!(at(select_6(&mut rig, &descriptor([0, 0, 8, 0, 0, 0, 16, 0]))), (9, None));
    select_6(&mut rig, &descriptor([0, 0, 0, 0, 0, 0, 2, 0])).good();
    select_6(&mut rig, &descriptor([0, 0, 8, 0, 0, 0, 2, 0])).good();
    let cdb_field = |rig: &mut Rig, byte_1| rig.ask(&[0x15, byte_1, 0, 0, 4, 0], &[0; 4], 0).field();
    assert_eq!(cdb_field(&mut rig, 0x00), Some((1, Some(4))), "PF");
    assert_eq!(cdb_field(&mut rig, 0x12), Some((1, Some(1))), "RTD");
}

#[test]
fn lists_of_any_length_are_answered() {
    let mut rig = Rig::new();
    rig.ask(&[0x15, 0x10, 0, 0, 0, 0], &[], 0).good();
    let whole = [&[0; 4][..], &control(false, false)].concat();
    for length in 1..whole.len() {
        let answer = select_6(&mut rig, &whole[..length]);
        if length == 4 { assert_eq!(answer.good(), b"") } else { assert_eq!(answer.refused(), LIST_LENGTH) }
    }
    assert_eq!(rig.ask(&[0x15, 0x10, 0, 0, 16, 0], &whole[..10], 0).refused(), LIST_LENGTH);
    for length in 0..=64 {
        for byte in [0, 8, 0x0a, 0x4a, 0xff] {
            let list = vec![byte; length];
            select_6(&mut rig, &list);
            rig.ask(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, length as u8, 0], &list, 0);
        }
    }
}
