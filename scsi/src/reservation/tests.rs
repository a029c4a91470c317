use proptest::prelude::*;

use super::*;

fn sas(last: u8) -> TransportId {
    TransportId::Sas([0x30, 0, 0, 0, 0, 0, 0, last])
}

fn iscsi() -> TransportId {
    TransportId::Iscsi { name: "iqn.x:y".into(), isid: Some([0x40, 0, 0, 0, 0, 1]) }
}

fn full_list() -> ReserveOutList {
    ReserveOutList {
        key: 0x0102_0304_0506_0708,
        action_key: 0x1112_1314_1516_1718,
        specify_initiator_ports: true,
        all_target_ports: true,
        persist: true,
        initiators: vec![sas(1), iscsi(), sas(2)],
    }
}

#[test]
fn reserve_out_layout() {
    let bytes = full_list().encode();
    assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((bytes[8], bytes[20]), (0x11, 0b1101));
    assert_eq!(bytes[24..28], [0, 0, 0, 24 + 32 + 24]);
    assert_eq!(ReserveOutList::parse(&bytes), Ok(full_list()));
    let plain = ReserveOutList { specify_initiator_ports: false, initiators: Vec::new(), ..full_list() };
    assert_eq!(plain.encode().len(), 24);
    assert_eq!(ReserveOutList::parse(&plain.encode()), Ok(plain));
}

#[test]
fn lists_of_another_length_are_refused() {
    let full = full_list().encode();
    for cut in 0..full.len() {
        assert!(ReserveOutList::parse(&full[..cut]).is_err(), "{cut}");
    }
    let plain = ReserveOutList { specify_initiator_ports: false, initiators: Vec::new(), ..full_list() };
    let long = [plain.encode(), vec![0; 4]].concat();
    assert_eq!(ReserveOutList::parse(&long), Err(LENGTH_ERROR));
    let moved = move_list().encode();
    for cut in 0..moved.len() {
        assert!(RegisterAndMoveList::parse(&moved[..cut]).is_err(), "{cut}");
    }
    assert_eq!(RegisterAndMoveList::parse(&[moved, vec![0]].concat()), Err(LENGTH_ERROR));
}

#[test]
fn a_wrong_transport_id_is_pointed_at() {
    let mut bytes = full_list().encode();
    bytes[28 + 24 + 3] = 27;
    let expected = Sense::invalid_field_in_parameter_list(28 + 24 + 2, None);
    assert_eq!(ReserveOutList::parse(&bytes), Err(expected));
    let none = Sense::invalid_field_in_parameter_list(20, None);
    assert_eq!(RegisterAndMoveList::parse(&[0; 24]), Err(none), "there is nothing to point at");
}

fn move_list() -> RegisterAndMoveList {
    RegisterAndMoveList {
        key: 1,
        action_key: 2,
        unregister: true,
        persist: false,
        relative_port: 0x0304,
        initiator: iscsi(),
    }
}

#[test]
fn register_and_move_layout() {
    let bytes = move_list().encode();
    assert_eq!((bytes[7], bytes[15], bytes[17]), (1, 2, 2));
    assert_eq!(bytes[18..24], [3, 4, 0, 0, 0, 32]);
    assert_eq!(RegisterAndMoveList::parse(&bytes), Ok(move_list()));
    let mut two = [bytes.clone(), sas(1).encode()].concat();
    two[23] = 32 + 24;
    assert_eq!(
        RegisterAndMoveList::parse(&two),
        Err(Sense::invalid_field_in_parameter_list(20, None)),
        "one TransportID"
    );
}

#[test]
fn what_is_read_back() {
    let keys = encode_keys(7, &[1, u64::MAX]);
    assert_eq!(keys[..8], [0, 0, 0, 7, 0, 0, 0, 16]);
    assert_eq!(parse_keys(&keys), (7, vec![1, u64::MAX]));
    assert_eq!(encode_reservation(3, None), [0, 0, 0, 3, 0, 0, 0, 0]);
    let kind = ReservationType::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY;
    let held = encode_reservation(3, Some((5, kind)));
    assert_eq!((held.len(), held[7], held[15], held[21]), (24, 16, 5, 6));
    assert_eq!(parse_reservation(&held), (3, Some((5, kind))));
}

#[test]
fn full_status_layout() {
    let holder = FullStatus {
        key: 5,
        holds: Some(ReservationType::WRITE_EXCLUSIVE),
        relative_port: 2,
        initiator: sas(9),
    };
    let other = FullStatus { holds: None, initiator: iscsi(), ..holder.clone() };
    let bytes = encode_full_status(1, &[holder, other]);
    assert_eq!(bytes[7], 48 + 24 + 32);
    assert_eq!((bytes[8 + 7], bytes[8 + 12], bytes[8 + 13], bytes[8 + 19], bytes[8 + 23]), (5, 1, 1, 2, 24));
    assert_eq!(bytes[32..56], sas(9).encode());
    assert_eq!((bytes[56 + 12], bytes[56 + 13], bytes[56 + 23]), (0, 0, 32));
}

#[test]
fn capabilities_layout() {
    assert_eq!(encode_capabilities(true, false), [0, 8, 0x1d, 0xc0, 0xea, 0x01, 0, 0]);
    assert_eq!(encode_capabilities(false, true)[2..4], [0x1c, 0xc1]);
    for kind in 0..16 {
        let bit = if kind < 8 { 0xea >> kind & 1 } else { 0x01 >> (kind - 8) & 1 };
        assert_eq!(reservation_type(kind).is_some(), bit == 1, "{kind}");
    }
    assert_eq!((scope(0x25), reservation_type(0x25)), (2, reservation_type(5)));
}

proptest! {
    #[test]
    fn random_lists_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ReserveOutList::parse(&bytes);
        let _ = RegisterAndMoveList::parse(&bytes);
        let _ = (parse_keys(&bytes), parse_reservation(&bytes));
    }
}
