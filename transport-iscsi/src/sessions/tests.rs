use super::*;
use lunette_store::ReactorId;

fn nexus(target: &str, group: u16, isid: u8) -> Option<NexusKey> {
    let initiator = InitiatorPort { name: "iqn.x".to_owned(), isid: [0, 0, 0, 0, 0, isid] };
    Some(NexusKey { target: target.to_owned(), group, initiator })
}

/// An entry by the target's access rule `rule`, with a proof if there is an account, from an address that ends with `last`.
fn from(rule: usize, account: Option<&str>, last: u8) -> Entry {
    let origin = Origin::of([192, 0, 2, last].into());
    Entry { rule: Some(RuleId(rule as u64)), account: account.map(str::to_owned), origin }
}

/// An entry where there are no rules.
fn free() -> Entry {
    Entry { rule: None, ..from(0, None, 1) }
}

fn place(connection: u64) -> Place {
    Place { reactor: ReactorId(0), connection }
}

#[test]
fn a_session_is_replaced_by_one_of_the_same_nexus() {
    let mut table = SessionTable::new(4);
    assert_eq!(table.open(nexus("a", 1, 1), free(), place(1)), Ok((1, None)));
    assert_eq!(table.open(nexus("a", 1, 2), free(), place(2)), Ok((2, None)));
    assert_eq!(table.open(nexus("a", 1, 1), free(), place(3)), Ok((3, Some(place(1)))));
    assert_eq!(table.places_of("a").len(), 2);
    table.close(1, place(1));
    assert_eq!(table.places_of("a").len(), 2);
    table.close(3, place(3));
    assert_eq!(table.places_of("a"), [place(2)]);
    assert_eq!(table.open(nexus("a", 2, 2), free(), place(4)), Ok((4, None)), "in another group");
    assert_eq!(table.open(nexus("b", 1, 2), free(), place(5)), Ok((5, None)), "with another target");
    assert_eq!(table.open(None, free(), place(6)), Ok((6, None)));
    assert_eq!(table.open(None, free(), place(7)), Ok((7, None)), "discovery replaces nothing");
    assert_eq!(table.places_of("a").len(), 2);
    assert_eq!(table.places_of("b"), [place(5)]);
}

#[test]
fn a_session_is_replaced_only_by_the_same_rule_and_account() {
    let mut table = SessionTable::new(4);
    let mut log_in = |rule, account, at| table.open(nexus("a", 1, 1), from(rule, account, 1), place(at));
    assert_eq!(log_in(0, Some("ada"), 1), Ok((1, None)));
    assert_eq!(log_in(0, Some("bob"), 2), Err(NoSession::Taken));
    assert_eq!(log_in(1, Some("ada"), 3), Err(NoSession::Taken), "another ada");
    assert_eq!(log_in(2, None, 4), Err(NoSession::Taken));
    assert_eq!(log_in(0, Some("ada"), 5), Ok((2, Some(place(1)))));
    assert_eq!(table.places_of("a"), [place(5)]);
    let mut log_in = |rule, account, at| table.open(nexus("b", 1, 1), from(rule, account, 1), place(at));
    assert_eq!(log_in(2, None, 6), Ok((3, None)));
    assert_eq!(log_in(3, None, 7), Err(NoSession::Taken), "nobody is not somebody else");
    assert_eq!(log_in(0, Some("ada"), 8), Err(NoSession::Taken));
    assert_eq!(log_in(2, None, 9), Ok((4, Some(place(6)))));
}

#[test]
fn so_is_a_session_whose_end_takes_its_time() {
    let mut table = SessionTable::new(4);
    let mut log_in = |account, at| table.open(nexus("a", 1, 1), from(0, Some(account), 1), place(at));
    assert_eq!(log_in("ada", 1), Ok((1, None)));
    assert_eq!(log_in("ada", 2), Ok((2, Some(place(1)))));
    // The first still ends.
    table.close(2, place(2));
    let mut log_in = |account, at| table.open(nexus("a", 1, 1), from(0, Some(account), 1), place(at));
    assert_eq!(log_in("bob", 3), Err(NoSession::Taken));
    assert_eq!(log_in("ada", 4), Ok((3, Some(place(1)))));
    table.close(3, place(4));
    table.close(1, place(1));
    let mut log_in = |account, at| table.open(nexus("a", 1, 1), from(0, Some(account), 1), place(at));
    assert_eq!(log_in("bob", 5), Ok((4, None)), "it is over");
}

#[test]
fn a_connection_takes_the_place_of_its_predecessor_only() {
    let mut table = SessionTable::new(4);
    let agreed = Parameters { max_burst_length: 4096, ..Parameters::DEFAULT };
    table.open(nexus("a", 1, 1), from(0, Some("ada"), 1), place(1)).unwrap();
    table.agreed(1, 7, agreed);
    let mut join = |tsih, cid, isid, rule, account| {
        table.join((tsih, cid), &nexus("a", 1, isid).unwrap(), &from(rule, account, 2), place(2))
    };
    assert_eq!(join(2, 7, 1, 0, Some("ada")), Err(NoSession::Unknown));
    assert_eq!(join(1, 7, 2, 0, Some("ada")), Err(NoSession::Unknown));
    assert_eq!(join(1, 8, 1, 0, Some("ada")), Err(NoSession::Occupied));
    assert_eq!(join(1, 7, 1, 0, None), Err(NoSession::Taken));
    assert_eq!(join(1, 7, 1, 1, Some("ada")), Err(NoSession::Taken));
    assert_eq!(join(1, 7, 1, 0, Some("ada")), Ok((agreed, place(1))));
    table.close(1, place(1));
    assert_eq!(table.place_of(1), Some(place(2)));
    table.close(1, place(2));
    assert_eq!(table.place_of(1), None);
}

#[test]
fn a_session_that_has_been_replaced_cannot_be_joined() {
    let mut table = SessionTable::new(4);
    for (tsih, at) in [(1, 1), (2, 2)] {
        assert_eq!(table.open(nexus("a", 1, 1), free(), place(at)).unwrap().0, tsih);
        table.agreed(tsih, 0, Parameters::DEFAULT);
    }
    let mut join = |tsih| table.join((tsih, 0), &nexus("a", 1, 1).unwrap(), &free(), place(3));
    assert_eq!(join(1), Err(NoSession::Unknown));
    assert_eq!(join(2), Ok((Parameters::DEFAULT, place(2))));
}

#[test]
fn nobody_goes_on_with_a_session_that_has_to_end() {
    let mut table = SessionTable::new(4);
    assert_eq!(table.begin_end(1), None);
    assert_eq!(table.open(nexus("a", 1, 1), free(), place(1)).unwrap().0, 1);
    table.agreed(1, 0, Parameters::DEFAULT);
    assert_eq!(table.begin_end(1), Some(place(1)));
    let joined = table.join((1, 0), &nexus("a", 1, 1).unwrap(), &free(), place(2));
    assert_eq!(joined, Err(NoSession::Unknown));
    assert_eq!(table.open(nexus("a", 1, 1), free(), place(3)), Ok((2, Some(place(1)))), "it may come anew");
}

#[test]
fn the_sessions_of_one_rule_are_found() {
    let mut table = SessionTable::new(4);
    let rules = [("a", 1, 0), ("a", 2, 0), ("a", 3, 1), ("b", 4, 0)];
    for (target, isid, rule) in rules {
        table.open(nexus(target, isid.into(), isid), from(rule, None, 1), place(isid.into())).unwrap();
    }
    let mut places = table.places_of_rule(1);
    places.sort_by_key(|place| place.connection);
    assert_eq!(places, [place(1), place(2)], "through both portal groups");
    assert_eq!(table.places_of_rule(3), [place(3)]);
    assert_eq!(table.places_of_rule(9), []);
}

#[test]
fn an_initiator_has_so_many_sessions() {
    let mut table = SessionTable::new(2);
    assert_eq!(table.open(nexus("a", 1, 1), free(), place(1)), Ok((1, None)));
    assert_eq!(table.open(nexus("b", 1, 1), free(), place(2)), Ok((2, None)));
    assert_eq!(table.open(nexus("a", 1, 2), free(), place(3)), Err(NoSession::Greedy));
    let initiator = InitiatorPort { name: "iqn.y".to_owned(), isid: [0; 6] };
    let other = NexusKey { target: "a".to_owned(), group: 1, initiator };
    assert_eq!(table.open(Some(other), free(), place(4)), Ok((3, None)));
    assert_eq!(
        table.open(nexus("a", 1, 1), free(), place(5)),
        Ok((4, Some(place(1)))),
        "in place of another"
    );
    assert_eq!(table.open(None, free(), place(6)), Ok((5, None)), "discovery");
    table.close(2, place(2));
    assert_eq!(table.open(nexus("a", 1, 2), free(), place(7)), Ok((6, None)));
}

#[test]
fn who_only_has_the_name_of_another_does_not_use_up_its_sessions() {
    let mut table = SessionTable::new(1);
    let mut open = |isid, account, last| {
        table.open(nexus("a", 1, isid), from(0, account, last), place(isid.into())).map(|(tsih, _)| tsih)
    };
    assert_eq!(open(1, None, 1), Ok(1));
    assert_eq!(open(2, None, 1), Err(NoSession::Greedy));
    assert_eq!(open(2, None, 2), Ok(2), "from elsewhere");
    assert_eq!(open(3, Some("ada"), 1), Ok(3), "as somebody");
    assert_eq!(open(4, Some("bob"), 1), Ok(4));
    assert_eq!(open(5, Some("ada"), 1), Err(NoSession::Greedy));
    assert_eq!(open(1, None, 2), Err(NoSession::Greedy), "not by the way of a session of its own, either");
}

#[test]
fn handles_in_use_and_zero_are_left_out() {
    let mut table = SessionTable::new(4);
    table.open(None, free(), place(1)).unwrap();
    table.last_tsih = u16::MAX;
    assert_eq!(table.open(None, free(), place(2)).unwrap().0, 2);
}

#[test]
fn initiator_ports_have_a_name() {
    let info = SessionInfo {
        initiator_name: "IQN.x".to_owned(),
        isid: [0, 0, 0, 0, 0, 10],
        ..SessionInfo::default()
    };
    assert_eq!(InitiatorPort::of(&info).to_string(), "iqn.x,i,0x00000000000a");
}

#[test]
fn who_waits_leaves_his_predecessor_to_his_successor() {
    let mut table = SessionTable::new(4);
    let open = |table: &mut SessionTable, at| table.open(nexus("a", 1, 1), free(), place(at)).unwrap();
    let (first, None) = open(&mut table, 1) else { panic!("there is nobody") };
    assert_eq!(table.turn(first, place(1)), Turn::Now);
    let (second, before) = open(&mut table, 2);
    assert_eq!((before, table.turn(second, place(2))), (Some(place(1)), Turn::After(place(1))));
    let (third, before) = open(&mut table, 3);
    assert_eq!((before, table.turn(third, place(3))), (Some(place(2)), Turn::After(place(1))));
    assert_eq!(table.turn(second, place(2)), Turn::Gone);
    table.close(second, place(2));
    assert_eq!(table.turn(third, place(3)), Turn::After(place(1)));
    table.close(third, place(3));
    let (fourth, before) = open(&mut table, 4);
    assert_eq!((before, table.turn(fourth, place(4))), (Some(place(1)), Turn::After(place(1))));
    table.close(first, place(1));
    assert_eq!(table.turn(fourth, place(4)), Turn::Now);
    let (fifth, before) = open(&mut table, 5);
    assert_eq!(
        (before, table.turn(fifth, place(5))),
        (Some(place(4)), Turn::After(place(4))),
        "it has begun"
    );
    table.close(fifth, place(5));
    table.close(fourth, place(4));
    assert!(table.by_nexus.is_empty() && table.open.is_empty());
}

#[test]
fn so_does_who_waits_for_a_connection_of_the_same_session() {
    let mut table = SessionTable::new(4);
    table.open(nexus("a", 1, 1), free(), place(1)).unwrap();
    table.agreed(1, 0, Parameters::DEFAULT);
    for at in [2, 3] {
        let joined = table.join((1, 0), &nexus("a", 1, 1).unwrap(), &free(), place(at));
        assert_eq!(joined, Ok((Parameters::DEFAULT, place(at - 1))));
        assert_eq!(table.turn(1, place(at)), Turn::After(place(1)));
        assert_eq!(table.turn(1, place(at - 1)), Turn::Gone);
    }
    table.close(1, place(2));
    table.close(1, place(3));
    assert_eq!(table.place_of(1), None);
    let (tsih, before) = table.open(nexus("a", 1, 1), free(), place(4)).unwrap();
    assert_eq!((before, table.turn(tsih, place(4))), (Some(place(1)), Turn::After(place(1))));
    table.close(1, place(1));
    assert_eq!(table.turn(tsih, place(4)), Turn::Now);
    table.close(tsih, place(4));
    assert!(table.by_nexus.is_empty() && table.open.is_empty());
}
