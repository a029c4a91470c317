//! Targets that come, change and go while others are used.

use crate::access::{ADA, policy, proving};
use crate::client::{Client, LUN, Message, TARGET, settings};
use crate::rig::{self, Rig, disk, target};
use crate::targets::{named, refusal};
use lunette_engine::LogicalUnit;
use lunette_iscsi::chap::Algorithm;
use lunette_iscsi::pdu::{AsyncEvent, LoginStatus};
use lunette_iscsi::target::Settings as TargetSettings;
use lunette_transport_iscsi::{AccessControl, AccessRule, EntityOptions, TargetOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const OTHER: &str = "iqn.2026-11.dev.lunette:other";

type Units = BTreeMap<u32, Arc<LogicalUnit>>;

/// The initiator with this number sees these units.
fn rule(number: u8, units: &[(u32, &Arc<LogicalUnit>)]) -> AccessRule {
    let luns: Units = units.iter().map(|(lun, unit)| (*lun, Arc::clone(unit))).collect();
    AccessRule {
        initiators: vec![format!("iqn.2024-01.example:initiator{number}").parse().unwrap()],
        luns: Some(luns),
        ..AccessRule::default()
    }
}

impl Rig {
    /// The target has other rules from now on.
    fn has_rules(&self, rules: Vec<AccessRule>) {
        let groups = BTreeMap::from([(1, self.target.port(1).unwrap())]);
        let access = AccessControl { rules };
        let options = TargetOptions { name: TARGET.to_owned(), groups, access, ..TargetOptions::default() };
        self.entity.update(options, &self.reactors).unwrap();
    }

    fn with_rules(rules: Vec<AccessRule>) -> Self {
        let access = AccessControl { rules };
        let target = TargetOptions { access, ..target(TARGET, &[1], &disk(9, None)) };
        Self::serving(EntityOptions::default(), target, 2)
    }
}

/// The session goes on, and has heard nothing.
fn is_undisturbed(client: &mut Client, luns: &[u8]) {
    assert_eq!(client.luns(), luns);
    assert_eq!(client.run(&[0; 6], 0, None).status, 0);
    assert_eq!(client.messages, []);
}

fn is_cut(client: &mut Client) {
    client.until_closed();
    let events: Vec<_> = client.messages.iter().map(|message| message.event).collect();
    assert_eq!(events, [AsyncEvent::DROP_CONNECTION]);
}

#[test]
fn a_target_comes_and_goes_and_its_name_is_free_again() {
    let options = EntityOptions { stop_time: Duration::from_millis(50), ..EntityOptions::default() };
    let rig = Rig::with(options, None, 2);
    let mut bystander = rig.client(1);
    for round in 0..3 {
        let unit = disk(2, None);
        rig.entity.add(target(OTHER, &[1], &unit)).unwrap();
        assert!(rig.entity.add(target(OTHER, &[1], &unit)).is_err());
        let mut client = Client::ready(rig.address(), named(OTHER));
        assert!(rig.entity.remove(&OTHER.to_uppercase(), &rig.reactors));
        assert!(!rig.entity.remove(OTHER, &rig.reactors));
        assert_eq!(refusal(rig.address(), named(OTHER)), LoginStatus::NOT_FOUND);
        client.until(|client| !client.messages.is_empty());
        assert_eq!(client.messages[0].event, AsyncEvent::REQUEST_LOGOUT);
        if round == 0 {
            assert_eq!(client.read(0, 1), [0; 512], "what is sent until then is done");
            client.log_out();
        } else {
            client.until_closed();
            assert_eq!(client.messages[1].event, AsyncEvent::DROP_CONNECTION);
        }
        rig.wait_for_connections(1);
        let (done, told) = std::sync::mpsc::channel();
        assert!(unit.retire(&*rig.reactors.poster(), move || done.send(()).unwrap()));
        told.recv().unwrap();
        // The connection may still be on its way out.
        while Arc::strong_count(&unit) > 1 {
            std::thread::yield_now();
        }
    }
    is_undisturbed(&mut bystander, &[0]);
}

#[test]
fn sessions_that_new_rules_let_in_to_the_same_units_are_not_disturbed() {
    let (one, two, three) = (disk(1, None), disk(2, None), disk(3, None));
    let rig = Rig::with_rules(vec![rule(1, &[(0, &one)]), rule(2, &[(0, &two)]), rule(3, &[(0, &three)])]);
    let mut clients = [1, 2, 3].map(|number| rig.client(number));
    // In another order; by a rule for all names; and not at all.
    let for_all = AccessRule { initiators: Vec::new(), ..rule(0, &[(0, &one)]) };
    rig.has_rules(vec![rule(2, &[(0, &two)]), rule(4, &[(0, &one)]), for_all.clone()]);
    is_undisturbed(&mut clients[0], &[0]);
    is_undisturbed(&mut clients[1], &[0]);
    is_cut(&mut clients[2]);
    let mut client = rig.client(3);
    is_undisturbed(&mut client, &[0]);
    // Whoever is now of the rule for all sees what that shows.
    rig.has_rules(vec![rule(2, &[(0, &two)]), AccessRule { luns: rule(0, &[(0, &three)]).luns, ..for_all }]);
    is_undisturbed(&mut clients[1], &[0]);
    is_cut(&mut clients[0]);
    for mut client in [client, rig.client(5)] {
        assert_eq!(client.luns(), [0]);
        let serial = client.run(&[0x12, 1, 0x80, 0, 255, 0], 255, None).data;
        assert_eq!(serial[4..5], *b"3");
    }
    rig.has_rules(vec![rule(2, &[(0, &two)])]);
    assert_eq!(refusal(rig.address(), settings(5)), LoginStatus::NOT_AUTHORIZED);
    is_undisturbed(&mut clients[1], &[0]);
}

#[test]
fn the_units_of_a_rule_come_and_go_under_its_sessions() {
    let (one, two) = (disk(1, None), disk(2, None));
    let rig = Rig::with_rules(vec![rule(1, &[(0, &one)]), rule(2, &[(0, &one)])]);
    let (mut client, mut other) = (rig.client(1), rig.client(2));
    rig.has_rules(vec![rule(1, &[(0, &one), (5, &two)]), rule(2, &[(0, &one)])]);
    client.until(|client| !client.messages.is_empty());
    let Message { event, lun, .. } = client.messages.remove(0);
    assert_eq!((event, lun), (AsyncEvent::SCSI, LUN));
    assert_eq!(client.run(&[0; 6], 0, None).sense_code(), (6, 0x3f, 0x0e));
    is_undisturbed(&mut client, &[0, 5]);
    is_undisturbed(&mut other, &[0]);
    rig.has_rules(vec![rule(2, &[(0, &one)]), rule(1, &[(5, &two)])]);
    client.until(|client| !client.messages.is_empty());
    assert_eq!(client.luns(), [5]);
    assert_eq!(client.run(&[0; 6], 0, None).sense_code(), (5, 0x25, 0));
    is_undisturbed(&mut other, &[0]);
}

#[test]
fn a_rule_that_wants_a_proof_ends_sessions_without() {
    let one = disk(1, None);
    let rig = Rig::with_rules(vec![rule(1, &[(0, &one)])]);
    let mut client = rig.client(1);
    let asks = AccessRule { chap: Some(policy(&[ADA], &[Algorithm::Sha256])), ..rule(1, &[(0, &one)]) };
    rig.has_rules(vec![asks.clone()]);
    is_cut(&mut client);
    let mut client = Client::ready(rig.address(), proving(ADA, &[Algorithm::Sha256], settings(1)));
    rig.has_rules(vec![asks]);
    is_undisturbed(&mut client, &[0]);
    let another = policy(&[("eve", "what eve knows alone")], &[Algorithm::Sha256]);
    rig.has_rules(vec![AccessRule { chap: Some(another), ..rule(1, &[(0, &one)]) }]);
    is_cut(&mut client);
}

#[test]
fn settings_are_for_later_logins_and_another_port_for_no_session() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    let agreed = client.initiator.parameters().max_burst_length;
    let groups = BTreeMap::from([(1, rig.target.port(1).unwrap())]);
    let mut changed = TargetSettings::default();
    changed.parameters.max_burst_length = 65536;
    let options = TargetOptions {
        name: TARGET.to_owned(),
        alias: "changed".to_owned(),
        settings: changed,
        groups,
        ..TargetOptions::default()
    };
    rig.entity.update(options, &rig.reactors).unwrap();
    is_undisturbed(&mut client, &[0]);
    assert_eq!(client.initiator.parameters().max_burst_length, agreed);
    assert_eq!(
        (rig.target.alias(), rig.client(2).initiator.parameters().max_burst_length),
        ("changed".to_owned(), 65536)
    );
    let other_port = rig::target(TARGET, &[1], &disk(1, None));
    rig.entity.update(other_port, &rig.reactors).unwrap();
    is_cut(&mut client);
    let unknown = rig::target(OTHER, &[1], &disk(1, None));
    let error = rig.entity.update(unknown, &rig.reactors).unwrap_err();
    assert_eq!(error.to_string(), format!("there is no target of the name {OTHER}"));
}

#[test]
fn a_portal_stops_and_starts_again_beside_another() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..3 {
        let portal = rig.another_portal(&address, 1);
        address = portal.address().to_string();
        let mut second = Client::ready(portal.address(), settings(2));
        portal.begin_stop(&rig.reactors);
        second.until(|client| !client.messages.is_empty());
        second.log_out();
        Rig::wait_for_end(&portal);
        is_undisturbed(&mut client, &[0]);
    }
}
