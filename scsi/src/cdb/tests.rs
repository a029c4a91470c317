use proptest::prelude::*;

use super::*;

fn cdb(bytes: &[u8]) -> Cdb {
    Cdb::new(bytes).unwrap()
}

fn transfer(bytes: &[u8]) -> Transfer {
    Transfer::parse(&cdb(bytes)).unwrap()
}

#[test]
fn lengths() {
    assert_eq!(Cdb::new(&[]), Err(CdbError::Empty));
    assert_eq!(Cdb::new(&[0; 33]), Err(CdbError::TooLong(33)));
    assert_eq!(Cdb::new(&[0; 32]).unwrap().len(), 32);
}

#[test]
fn padding_is_cut_off() {
    let mut field = [0; 32];
    field[5] = 4;
    field[15] = 0xff;
    field[31] = 0xee;
    let ready = Cdb::from_padded(&field);
    assert_eq!((ready.as_bytes(), ready.control(), ready.naca()), (&[0, 0, 0, 0, 0, 4][..], 4, true));
    assert_eq!((ready, ready.u8(15), ready.u8(31)), (cdb(&[0, 0, 0, 0, 0, 4]), 0, 0));
    field[0] = 0x88;
    assert_eq!(Cdb::from_padded(&field), cdb(&field[..16]));
    assert_eq!(Cdb::from_padded(&[0xc0, 1, 2]), cdb(&[0xc0, 1, 2]));
    (field[0], field[7], field[9]) = (0x7f, 0x18, 0x09);
    let read = Cdb::from_padded(&field);
    assert_eq!((read.len(), read.service_action(), read.name()), (32, Some(9), Some("READ(32)")));
    assert_eq!(read.as_bytes(), field);
    field[7] = 0x10;
    assert_eq!(Cdb::from_padded(&field), cdb(&field[..24]));
}

#[test]
fn what_is_announced_but_not_there_is_missing() {
    assert_eq!(Cdb::from_padded(&[0x28, 0, 0]), cdb(&[0x28, 0, 0]));
    assert_eq!(Cdb::from_padded(&[]), cdb(&[0]));
    let mut field = [0xaa; 260];
    (field[0], field[7]) = (0x7f, 252);
    assert_eq!(Cdb::from_padded(&field), cdb(&field[..32]));
    assert_eq!(Cdb::from_padded(&field[..20]), cdb(&field[..20]));
}

#[test]
fn service_actions() {
    assert_eq!(cdb(&[0x9e, 0xf0, 0]).service_action(), Some(0x10));
    assert_eq!(cdb(&[0x28, 0x10, 0]).service_action(), None);
    assert_eq!(cdb(&[0x5f, 0x06]).name(), Some("PERSISTENT RESERVE OUT REGISTER AND IGNORE EXISTING KEY"));
}

#[test]
fn six_byte_transfers() {
    let read = transfer(&[0x08, 0xff, 0xff, 0xff, 0, 0]);
    assert_eq!((read.lba, read.blocks), (0x1f_ffff, 256), "bits 7 to 5 of byte 1 are no LBA");
    assert_eq!(transfer(&[0x0a, 0, 1, 2, 3, 0]).blocks, 3);
}

#[test]
fn ten_twelve_and_sixteen_byte_transfers() {
    let expected = Transfer {
        lba: 0x0102_0304,
        blocks: 0x0708,
        protect: 1,
        dpo: true,
        fua: true,
        group: 5,
        ..Transfer::default()
    };
    assert_eq!(transfer(&[0x2a, 0x38, 1, 2, 3, 4, 0xc5, 7, 8, 0]), expected);
    assert_eq!(transfer(&[0xaa, 0x38, 1, 2, 3, 4, 0, 0, 7, 8, 5, 0]), expected);
    let wide = Transfer { lba: 0x0102_0304_0506_0708, blocks: 0x090a_0b0c, ..expected };
    assert_eq!(transfer(&[0x88, 0x38, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5, 0]), wide);
    assert_eq!(
        transfer(&[0x9c, 0x38, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5, 0]),
        Transfer { blocks: 0x0b0c, ..wide }
    );
    assert_eq!(
        transfer(&[0x89, 0x38, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 12, 5, 0]),
        Transfer { blocks: 12, ..wide }
    );
}

#[test]
fn flags_mean_what_the_command_says() {
    let verify = transfer(&[0x2f, 0x56, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        (verify.protect, verify.dpo, verify.bytchk, verify.fua, verify.immed),
        (2, true, 3, false, false)
    );
    let flush = transfer(&[0x35, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((flush.immed, flush.bytchk, flush.blocks), (true, 0, 0));
    let same = transfer(&[0x93, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!((same.anchor, same.unmap, same.ndob, same.dpo, same.fua), (true, true, true, false, false));
    assert!(!transfer(&[0x41, 0x01, 0, 0, 0, 0, 0, 0, 1, 0]).ndob);
}

#[test]
fn other_commands_have_no_transfer() {
    assert_eq!(Transfer::parse(&cdb(&[0x12, 0, 0, 0, 36, 0])), None);
    let wrapping = Transfer { lba: u64::MAX, blocks: 1, ..Transfer::default() };
    assert_eq!(wrapping.end(), None);
}

#[test]
fn display() {
    assert_eq!(cdb(&[0x00, 0, 0, 0, 0, 0]).to_string(), "TEST UNIT READY [00 00 00 00 00 00]");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), at: usize) {
        let padded = (!bytes.is_empty()).then(|| Cdb::from_padded(&bytes));
        for cdb in Cdb::new(&bytes).into_iter().chain(padded) {
            prop_assert_eq!(cdb.as_bytes(), &bytes[..cdb.len()]);
            prop_assert_eq!(cdb, Cdb::new(&bytes[..cdb.len()]).unwrap());
            let _ = (cdb.service_action(), cdb.control(), cdb.to_string(), Transfer::parse(&cdb));
            let _ = (cdb.u8(at), cdb.u16(at), cdb.u24(at), cdb.u32(at), cdb.u64(at), cdb.bit(at, 7));
        }
    }
}
