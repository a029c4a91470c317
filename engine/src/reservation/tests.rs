use super::*;
use crate::checks::Refusal;
use lunette_scsi::reservation::{RegisterAndMoveList, ReserveOutList};
use lunette_scsi::{ReservationType as Type, Sense, SenseKey};

const ALL_TYPES: [Type; 6] = [
    Type::WRITE_EXCLUSIVE,
    Type::EXCLUSIVE_ACCESS,
    Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    Type::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    Type::WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    Type::EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
];

const PREEMPTED: AdditionalSense = AdditionalSense::RESERVATIONS_PREEMPTED;
const RELEASED: AdditionalSense = AdditionalSense::RESERVATIONS_RELEASED;
const REGISTRATION_LOST: AdditionalSense = AdditionalSense::REGISTRATIONS_PREEMPTED;

fn id(number: u8) -> TransportId {
    TransportId::Sas([0x30, 0, 0, 0, 0, 0, 0, number])
}

fn nexus(number: u8) -> Registrant {
    through("one", number)
}

fn through(port: &str, number: u8) -> Registrant {
    Registrant { initiator: id(number), port: port.into() }
}

/// Nexuses 1 to 3 with keys of 10 times that, but for those that are given others; nexus 1 may hold a reservation.
fn registered(keys: [u64; 3], held: Option<Type>) -> Reservations {
    let mut state = Reservations::default();
    for (number, key) in (1..).zip(keys).filter(|(_, key)| *key != 0) {
        state = state
            .register(&nexus(number), Existing::Matches, &ReserveOutList::new(0, key), &[])
            .unwrap()
            .after;
    }
    match held {
        Some(kind) => state.reserve(&nexus(1), keys[0], kind.0).unwrap().after,
        None => state,
    }
}

fn keys(state: &Reservations) -> Vec<(u8, u64)> {
    let number = |one: &Registration| match one.nexus.initiator {
        TransportId::Sas(address) => address[7],
        _ => panic!(),
    };
    state.registrations().iter().map(|one| (number(one), one.key)).collect()
}

fn told(change: &Change) -> Vec<(u8, AdditionalSense)> {
    let number = |nexus: &Registrant| (1..=9).find(|number| *nexus == self::nexus(*number)).unwrap();
    change.attentions.iter().map(|(nexus, condition)| (number(nexus), *condition)).collect()
}

fn invalid(result: Result<Change, Refusal>) -> AdditionalSense {
    match result {
        Err(Refusal::Sense(sense)) if sense.key == SenseKey::ILLEGAL_REQUEST => sense.additional,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_may_register_and_what_becomes_of_it() {
    // SPC-4 tables for REGISTER and REGISTER AND IGNORE EXISTING KEY: the key that there is, both keys of the list, the key
    // that there is then.
    let cases = [
        (Existing::Matches, 0, 0, 0, Ok(0)),
        (Existing::Matches, 0, 0, 7, Ok(7)),
        (Existing::Matches, 0, 1, 0, Err(())),
        (Existing::Matches, 0, 1, 7, Err(())),
        (Existing::Matches, 10, 0, 7, Err(())),
        (Existing::Matches, 10, 9, 0, Err(())),
        (Existing::Matches, 10, 10, 0, Ok(0)),
        (Existing::Matches, 10, 10, 7, Ok(7)),
        (Existing::Matches, 10, 10, 10, Ok(10)),
        (Existing::Ignored, 0, 5, 0, Ok(0)),
        (Existing::Ignored, 0, 5, 7, Ok(7)),
        (Existing::Ignored, 10, 5, 7, Ok(7)),
        (Existing::Ignored, 10, 5, 0, Ok(0)),
    ];
    for (existing, before, key, action_key, expected) in cases {
        let state = registered([before, 20, 0], None);
        let result = state.register(&nexus(1), existing, &ReserveOutList::new(key, action_key), &[]);
        let case = (existing, before, key, action_key);
        match expected {
            Err(()) => assert_eq!(result, Err(Refusal::Conflict), "{case:?}"),
            Ok(after) => {
                let change = result.unwrap();
                assert_eq!(change.after.key_of(&nexus(1)).unwrap_or(0), after, "{case:?}");
                assert_eq!(change.after.key_of(&nexus(2)), Some(20));
                assert_eq!((change.attentions.len(), change.losers.len()), (0, 0));
                let counts = u32::from((before, action_key) != (0, 0));
                assert_eq!(change.after.generation(), state.generation() + counts, "{case:?}");
            }
        }
    }
}

#[test]
fn a_registration_for_other_initiator_ports() {
    let with = |key, action_key, numbers: &[u8]| ReserveOutList {
        specify_initiator_ports: true,
        initiators: numbers.iter().map(|number| id(*number)).collect(),
        ..ReserveOutList::new(key, action_key)
    };
    let state = registered([0, 20, 0], None);
    let change = state.register(&nexus(1), Existing::Matches, &with(0, 7, &[3, 3, 1]), &[]).unwrap();
    assert_eq!(keys(&change.after), [(2, 20), (1, 7), (3, 7)]);
    let refused = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
    let registered = state.register(&nexus(1), Existing::Matches, &with(0, 7, &[3, 2]), &[]);
    assert_eq!(invalid(registered), refused, "who is registered keeps its key");
    assert_eq!(invalid(state.register(&nexus(1), Existing::Ignored, &with(0, 7, &[3]), &[])), refused);
    assert_eq!(invalid(state.register(&nexus(2), Existing::Matches, &with(20, 7, &[3]), &[])), refused);
    assert_eq!(invalid(state.register(&nexus(2), Existing::Matches, &with(20, 0, &[3]), &[])), refused);
    let nothing = state.register(&nexus(1), Existing::Matches, &with(0, 0, &[3]), &[]).unwrap();
    assert_eq!(nothing.after, state);
}

#[test]
fn a_registration_through_all_target_ports() {
    let ports: Vec<Arc<str>> = ["one", "two", "three"].map(Arc::from).into();
    let all =
        |key, action_key| ReserveOutList { all_target_ports: true, ..ReserveOutList::new(key, action_key) };
    let key_at = |state: &Reservations, port: &str| state.key_of(&through(port, 1));
    let apart = Reservations::default()
        .register(&through("three", 1), Existing::Matches, &ReserveOutList::new(0, 9), &ports)
        .unwrap()
        .after;
    let state = apart.register(&nexus(1), Existing::Matches, &all(0, 7), &ports).unwrap().after;
    assert_eq!(["one", "two", "three"].map(|port| key_at(&state, port)), [Some(7), Some(7), Some(9)]);
    let state = state.register(&through("two", 1), Existing::Matches, &all(7, 8), &ports).unwrap().after;
    assert_eq!(["one", "two", "three"].map(|port| key_at(&state, port)), [Some(8), Some(8), Some(9)]);
    let state = state.register(&nexus(1), Existing::Ignored, &all(0, 5), &ports).unwrap().after;
    assert_eq!(["one", "two", "three"].map(|port| key_at(&state, port)), [Some(5); 3]);
    let state = state.register(&nexus(1), Existing::Matches, &all(5, 0), &ports).unwrap().after;
    assert_eq!(state.registrations(), []);
}

#[test]
fn there_is_room_for_so_many() {
    let initiators = (0..MAX_REGISTRATIONS as u64 - 1).map(|number| TransportId::Sas(number.to_be_bytes()));
    let mut list = ReserveOutList {
        specify_initiator_ports: true,
        initiators: initiators.collect(),
        ..ReserveOutList::new(0, 1)
    };
    let state = Reservations::default();
    let change = state.register(&nexus(1), Existing::Matches, &list, &[]).unwrap();
    assert_eq!(change.after.registrations().len(), MAX_REGISTRATIONS);
    list.initiators.push(id(2));
    let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
    assert_eq!(invalid(state.register(&nexus(1), Existing::Matches, &list, &[])), full);
}

/// However many initiator ports and target ports it is about, one initiator keeps nobody waiting by it.
#[test]
fn a_list_is_given_up_where_there_is_no_room() {
    let ports: Vec<Arc<str>> = (0..2000).map(|number| Arc::from(format!("port {number}"))).collect();
    let initiators = (0..2000u64).map(|number| TransportId::Sas(number.to_be_bytes())).collect();
    let all = ReserveOutList {
        specify_initiator_ports: true,
        all_target_ports: true,
        initiators,
        ..ReserveOutList::new(0, 1)
    };
    let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
    let result = Reservations::default().register(&nexus(1), Existing::Matches, &all, &ports);
    assert_eq!(invalid(result), full);
}

#[test]
fn what_each_type_keeps_whom_from() {
    for kind in ALL_TYPES {
        let state = registered([10, 20, 0], Some(kind));
        let verdict = |number| state.exclusion(&nexus(number));
        let excluded =
            Exclusion { from_reading: kind.excludes_reading(), from_writing: true, from_all: false };
        assert_eq!(verdict(1), Exclusion::default(), "the holder: {kind}");
        let registrant = if kind.admits_registrants() { Exclusion::default() } else { excluded };
        assert_eq!(verdict(2), registrant, "{kind}");
        assert_eq!(verdict(3), excluded, "{kind}");
        let elsewhere = state.exclusion(&through("two", 1));
        assert_eq!(elsewhere, excluded, "another port is another nexus: {kind}");
        assert_eq!(state.holds(&nexus(2)).is_some(), kind.is_held_by_all(), "{kind}");
        assert_eq!(state.reservation(), Some((if kind.is_held_by_all() { 0 } else { 10 }, kind)));
    }
    assert_eq!(registered([10, 20, 0], None).exclusion(&nexus(3)), Exclusion::default());
}

#[test]
fn who_may_reserve() {
    let free = registered([10, 20, 0], None);
    for (number, key) in [(1, 11), (1, 0), (3, 0), (3, 10)] {
        assert_eq!(free.reserve(&nexus(number), key, 1), Err(Refusal::Conflict), "{number} {key}");
    }
    for wrong in [0, 2, 4, 9, 0x15, 0x25] {
        let sense = AdditionalSense::INVALID_FIELD_IN_CDB;
        assert_eq!(invalid(free.reserve(&nexus(1), 10, wrong)), sense, "{wrong:#x}");
    }
    for held in ALL_TYPES {
        let state = registered([10, 20, 0], Some(held));
        assert_eq!(state.generation(), free.generation(), "RESERVE is not counted");
        for asked in ALL_TYPES {
            for (number, key) in [(1, 10), (2, 20)] {
                let same = asked == held && (number == 1 || held.is_held_by_all());
                let result = state.reserve(&nexus(number), key, asked.0);
                let expected = if same { Ok(Change::unchanged(&state)) } else { Err(Refusal::Conflict) };
                assert_eq!(result, expected, "{number}: {asked} while {held}");
            }
        }
    }
}

#[test]
fn who_may_release_and_who_is_told() {
    let invalid_release = AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION;
    for kind in ALL_TYPES {
        let state = registered([10, 20, 30], Some(kind));
        assert_eq!(state.release(&nexus(1), 11, kind.0), Err(Refusal::Conflict));
        assert_eq!(state.release(&nexus(4), 0, kind.0), Err(Refusal::Conflict));
        let other = ALL_TYPES.into_iter().find(|other| *other != kind).unwrap();
        assert_eq!(invalid(state.release(&nexus(1), 10, other.0)), invalid_release);
        assert_eq!(invalid(state.release(&nexus(1), 10, 0x10 | kind.0)), invalid_release);
        let by_holder = state.release(&nexus(1), 10, kind.0).unwrap();
        assert_eq!(by_holder.after.reservation(), None);
        assert_eq!(by_holder.after.generation(), state.generation());
        let expected: &[_] = if kind.admits_registrants() { &[(2, RELEASED), (3, RELEASED)] } else { &[] };
        assert_eq!(told(&by_holder), expected, "{kind}");
        let by_other = state.release(&nexus(2), 20, kind.0).unwrap();
        if kind.is_held_by_all() {
            assert_eq!(told(&by_other), [(1, RELEASED), (3, RELEASED)]);
        } else {
            assert_eq!(by_other, Change::unchanged(&state), "it holds nothing: {kind}");
        }
    }
    let free = registered([10, 0, 0], None);
    assert_eq!(free.release(&nexus(1), 10, 1), Ok(Change::unchanged(&free)));
}

#[test]
fn a_reservation_ends_with_the_registration_of_its_holder() {
    for kind in ALL_TYPES {
        let state = registered([10, 20, 30], Some(kind));
        let change = state.register(&nexus(1), Existing::Matches, &ReserveOutList::new(10, 0), &[]).unwrap();
        let (gone, expected): (_, &[_]) = match kind {
            _ if kind.is_held_by_all() => (false, &[]),
            _ if kind.admits_registrants() => (true, &[(2, RELEASED), (3, RELEASED)]),
            _ => (true, &[]),
        };
        assert_eq!((change.after.reservation().is_none(), &told(&change)[..]), (gone, expected), "{kind}");
        let other = state.register(&nexus(2), Existing::Matches, &ReserveOutList::new(20, 0), &[]).unwrap();
        assert_eq!((other.after.reservation(), told(&other)), (state.reservation(), vec![]), "{kind}");
        let last = registered([10, 0, 0], Some(kind));
        let last = last.register(&nexus(1), Existing::Ignored, &ReserveOutList::new(0, 0), &[]).unwrap();
        assert_eq!((last.after.reservation(), last.after.registrations().len()), (None, 0), "{kind}");
    }
}

#[test]
fn clear_leaves_nothing() {
    let state = registered([10, 20, 30], Some(Type::WRITE_EXCLUSIVE));
    assert_eq!(state.clear(&nexus(2), 21), Err(Refusal::Conflict));
    let change = state.clear(&nexus(2), 20).unwrap();
    assert_eq!((change.after.registrations().len(), change.after.reservation()), (0, None));
    assert_eq!(change.after.generation(), state.generation() + 1);
    assert_eq!(told(&change), [(1, PREEMPTED), (3, PREEMPTED)]);
    assert!(change.losers.is_empty());
}

/// A pre-emption by nexus 2: the keys, what nexus 1 holds, the key and the type asked for; then who is registered, what is
/// held under which key, and who is told what.
type Preemption =
    ([u64; 3], Option<Type>, u64, Type, Vec<(u8, u64)>, Option<(u64, Type)>, Vec<(u8, AdditionalSense)>);

#[test]
fn what_is_preempted() {
    let (we, ea, we_ro) =
        (Type::WRITE_EXCLUSIVE, Type::EXCLUSIVE_ACCESS, Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    let (we_ar, ea_ar) = (Type::WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type::EXCLUSIVE_ACCESS_ALL_REGISTRANTS);
    let lost = |number| (number, REGISTRATION_LOST);
    let cases: [Preemption; 12] = [
        // No reservation: only registrations.
        ([10, 20, 10], None, 10, we, vec![(2, 20)], None, vec![lost(1), lost(3)]),
        ([10, 20, 30], None, 20, we, vec![(1, 10), (3, 30)], None, vec![]),
        // Not the holder's key: the reservation stays, and the type is not looked at.
        ([10, 20, 30], Some(we), 30, Type(0), vec![(1, 10), (2, 20)], Some((10, we)), vec![lost(3)]),
        // The holder's key.
        ([10, 20, 30], Some(we), 10, we, vec![(2, 20), (3, 30)], Some((20, we)), vec![lost(1)]),
        (
            [10, 20, 30],
            Some(we),
            10,
            ea,
            vec![(2, 20), (3, 30)],
            Some((20, ea)),
            vec![(3, RELEASED), lost(1)],
        ),
        ([10, 20, 10], Some(we_ro), 10, ea, vec![(2, 20)], Some((20, ea)), vec![lost(1), lost(3)]),
        (
            [10, 20, 30],
            Some(ea),
            10,
            we_ar,
            vec![(2, 20), (3, 30)],
            Some((0, we_ar)),
            vec![(3, RELEASED), lost(1)],
        ),
        // Its own key is the holder's.
        ([10, 10, 30], Some(we), 10, we, vec![(2, 10), (3, 30)], Some((10, we)), vec![lost(1)]),
        // All registrants: zero stands for all.
        ([10, 20, 30], Some(we_ar), 0, ea, vec![(2, 20)], Some((20, ea)), vec![lost(1), lost(3)]),
        ([10, 20, 30], Some(we_ar), 10, ea, vec![(2, 20), (3, 30)], Some((0, we_ar)), vec![lost(1)]),
        ([10, 20, 30], Some(ea_ar), 20, we, vec![(1, 10), (3, 30)], Some((0, ea_ar)), vec![]),
        ([10, 10, 10], Some(ea_ar), 10, we, vec![], None, vec![lost(1), lost(3)]),
    ];
    for (before, held, target, kind, after, reservation, attentions) in cases {
        let state = registered(before, held);
        let case = format!("{before:?} {held:?} {target}");
        let change = state.preempt(&nexus(2), before[1], target, kind.0).unwrap();
        assert_eq!(keys(&change.after), after, "{case}");
        assert_eq!(change.after.reservation(), reservation, "{case}");
        assert_eq!(told(&change), attentions, "{case}");
        assert_eq!(change.after.generation(), state.generation() + 1);
        let gone = (1..=3).filter(|number| before[usize::from(*number) - 1] != 0);
        let gone: Vec<_> =
            gone.filter(|number| after.iter().all(|(left, _)| left != number)).map(nexus).collect();
        assert_eq!(change.losers, gone, "{case}");
    }
}

#[test]
fn a_holder_may_preempt_itself() {
    let kind = Type::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    let state = registered([10, 20, 10], Some(Type::WRITE_EXCLUSIVE));
    let change = state.preempt(&nexus(1), 10, 10, kind.0).unwrap();
    assert_eq!(keys(&change.after), [(1, 10), (2, 20)]);
    assert_eq!(change.after.holds(&nexus(1)), Some(kind));
    assert_eq!(told(&change), [(2, RELEASED), (3, REGISTRATION_LOST)]);
}

#[test]
fn preemptions_that_are_refused() {
    let state = registered([10, 20, 0], Some(Type::WRITE_EXCLUSIVE));
    assert_eq!(state.preempt(&nexus(2), 21, 10, 1), Err(Refusal::Conflict), "not its key");
    assert_eq!(state.preempt(&nexus(3), 0, 10, 1), Err(Refusal::Conflict), "not registered");
    assert_eq!(state.preempt(&nexus(2), 20, 99, 1), Err(Refusal::Conflict), "nobody has the key");
    let zero = Refusal::Sense(Sense::invalid_field_in_parameter_list(8, None));
    assert_eq!(state.preempt(&nexus(2), 20, 0, 1), Err(zero));
    let zero = registered([10, 20, 0], None).preempt(&nexus(2), 20, 0, 1);
    assert_eq!(invalid(zero), AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    for wrong in [0, 2, 9, 0x11] {
        let result = state.preempt(&nexus(2), 20, 10, wrong);
        assert_eq!(invalid(result), AdditionalSense::INVALID_FIELD_IN_CDB, "{wrong:#x}");
    }
}

fn to(number: u8, key: u64, action_key: u64) -> RegisterAndMoveList {
    RegisterAndMoveList {
        key,
        action_key,
        unregister: false,
        persist: false,
        relative_port: 1,
        initiator: id(number),
    }
}

#[test]
fn a_reservation_moves() {
    let kind = Type::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY;
    let state = registered([10, 20, 0], Some(kind));
    let moved =
        |list: &RegisterAndMoveList| state.register_and_move(&nexus(1), list, Some("one".into())).unwrap();
    let change = moved(&to(3, 10, 30));
    assert_eq!(keys(&change.after), [(1, 10), (2, 20), (3, 30)]);
    assert_eq!((change.after.holds(&nexus(3)), change.after.holds(&nexus(1))), (Some(kind), None));
    assert!(change.attentions.is_empty() && change.losers.is_empty());
    assert_eq!(change.after.generation(), state.generation() + 1);
    let change = moved(&RegisterAndMoveList { unregister: true, persist: true, ..to(2, 10, 25) });
    assert_eq!(keys(&change.after), [(2, 25)]);
    assert_eq!((change.after.holds(&nexus(2)), change.after.persist()), (Some(kind), true));
    assert!(change.attentions.is_empty(), "nothing was released");
    let port = Some("two".into());
    let change = state.register_and_move(&nexus(1), &to(2, 10, 30), port).unwrap();
    assert_eq!(change.after.holds(&through("two", 2)), Some(kind), "another port is another nexus");
    assert_eq!(change.after.holds(&nexus(2)), None);
}

#[test]
fn moves_that_are_refused() {
    let state = registered([10, 20, 0], Some(Type::WRITE_EXCLUSIVE));
    let move_by = |number, list: &RegisterAndMoveList, port: Option<&str>| {
        state.register_and_move(&nexus(number), list, port.map(Arc::from))
    };
    let one = Some("one");
    assert_eq!(move_by(3, &to(2, 0, 1), one), Err(Refusal::Conflict), "not registered");
    assert_eq!(move_by(1, &to(2, 11, 1), one), Err(Refusal::Conflict), "not its key");
    assert_eq!(move_by(2, &to(3, 20, 1), one), Err(Refusal::Conflict), "not the holder");
    let device = RegisterAndMoveList {
        initiator: TransportId::Iscsi { name: "iqn.x".into(), isid: None },
        ..to(0, 10, 1)
    };
    for (list, port, byte) in [
        (to(2, 10, 0), one, 8),
        (to(2, 10, 1), None, 18),
        (to(1, 10, 1), one, 24),
        (to(1, 10, 1), Some("two"), 24),
        (device, one, 24),
    ] {
        let refused = Refusal::Sense(Sense::invalid_field_in_parameter_list(byte, None));
        assert_eq!(move_by(1, &list, port), Err(refused), "{byte}");
    }
    for kind in ALL_TYPES.into_iter().filter(|kind| kind.is_held_by_all()) {
        let state = registered([10, 20, 0], Some(kind));
        let result = state.register_and_move(&nexus(1), &to(2, 10, 1), Some("one".into()));
        assert_eq!(result, Err(Refusal::Conflict), "all hold it");
    }
    let free = registered([10, 20, 0], None);
    let move_by = |list: &RegisterAndMoveList| free.register_and_move(&nexus(1), list, Some("one".into()));
    assert_eq!(move_by(&to(2, 11, 1)), Err(Refusal::Conflict));
    let nothing_to_move = Refusal::Sense(Sense::invalid_field_in_cdb(1, Some(4)));
    assert_eq!(move_by(&to(2, 10, 1)), Err(nothing_to_move));
}

#[test]
fn what_is_kept_comes_back() {
    for held in ALL_TYPES.into_iter().map(Some).chain([None]) {
        let mut state = registered([10, u64::MAX, 30], held);
        let list = ReserveOutList { persist: true, ..ReserveOutList::new(30, 31) };
        state = state.register(&nexus(3), Existing::Matches, &list, &[]).unwrap().after;
        let iscsi = TransportId::Iscsi { name: "iqn.x:é".into(), isid: Some([1, 2, 3, 4, 5, 6]) };
        state
            .registrations
            .push(Registration { nexus: Registrant { initiator: iscsi, port: "three".into() }, key: 1 });
        let text = serde_json::to_string(&state).unwrap();
        let restored: Reservations = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, Reservations { generation: 0, ..state });
    }
}

#[test]
fn what_was_never_kept_is_refused() {
    let initiator = "060000003000000000000001".to_owned() + &"00".repeat(12);
    let registration =
        |initiator: &str, key: u64| format!(r#"{{"initiator": "{initiator}", "port": "one", "key": {key}}}"#);
    let good = registration(&initiator, 1);
    let parse = |registrations: &str, reservation: &str| {
        let text = format!(r#"{{"registrations": [{registrations}], "reservation": {reservation}}}"#);
        serde_json::from_str::<Reservations>(&text)
    };
    assert!(parse(&good, "null").is_ok());
    assert!(parse(&good, r#"{"type": 1, "holder": 0}"#).is_ok());
    assert!(parse(&good, r#"{"type": 7, "holder": null}"#).is_ok());
    for reservation in [
        r#"{"type": 1, "holder": 1}"#,
        r#"{"type": 1, "holder": null}"#,
        r#"{"type": 7, "holder": 0}"#,
        r#"{"type": 2, "holder": 0}"#,
        r#"{"type": 17, "holder": 0}"#,
        r#"{"holder": 0}"#,
    ] {
        assert!(parse(&good, reservation).is_err(), "{reservation}");
    }
    assert!(parse("", r#"{"type": 7, "holder": null}"#).is_err());
    for wrong in [
        registration(&initiator, 0),
        registration(&initiator[1..], 1),
        registration(&initiator.replace('6', "x"), 1),
        registration(&(initiator.clone() + "00"), 1),
        registration("é", 1),
        format!("{good}, {good}"),
    ] {
        assert!(parse(&wrong, "null").is_err(), "{wrong}");
    }
}

impl Change {
    fn unchanged(state: &Reservations) -> Self {
        Self { after: state.clone(), attentions: Vec::new(), losers: Vec::new() }
    }
}
