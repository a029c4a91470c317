//! Who is let in, and what he sees.

use crate::client::{Client, LUN, READ, TARGET, cdb, settings};
use crate::rig::{self, Rig, disk};
use crate::targets::{discovery, named, refusal, targets};
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::chap::{Accounts, Algorithm, Challenge, Credentials, InitiatorChap, Secret};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::pdu::{LoginStatus, TaskManagementFunction as Function, TaskManagementResult as Answer};
use lunette_transport_iscsi::{
    AccessControl, AccessRule, ChapPolicy, DiscoveryAccess, EntityOptions, Redirect, TargetOptions,
};
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;

pub(crate) const ADA: (&str, &str) = ("ada", "what ada knows alone");
const BOB: (&str, &str) = ("bob", "what bob knows alone");
const DISK: (&str, &str) = ("disk", "what the disk knows");

fn credentials((name, secret): (&str, &str)) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret.as_bytes().to_vec()).unwrap() }
}

struct Known(HashMap<String, Secret>);

impl Accounts for Known {
    fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }
}

/// Asks for a proof of these.
pub(crate) fn policy(accounts: &[(&str, &str)], algorithms: &[Algorithm]) -> ChapPolicy {
    let known = accounts.iter().map(|account| (account.0.to_owned(), credentials(*account).secret));
    ChapPolicy {
        algorithms: algorithms.to_vec(),
        accounts: Arc::new(Known(known.collect())),
        own: Some(credentials(DISK)),
    }
}

/// `settings` with a proof.
pub(crate) fn proving(account: (&str, &str), offer: &[Algorithm], settings: Settings) -> Settings {
    let chap = InitiatorChap::new(offer.to_vec(), credentials(account), None);
    Settings { chap: Some(chap), ..settings }
}

/// The same, and the target is to prove that it is `expected`.
fn mutual(
    account: (&str, &str),
    expected: (&str, &str),
    offer: &[Algorithm],
    settings: Settings,
) -> Settings {
    let challenge = Challenge { identifier: 7, bytes: [7; Challenge::LENGTH] };
    let expected = Some((credentials(expected), challenge));
    let chap = InitiatorChap::new(offer.to_vec(), credentials(account), expected);
    Settings { chap: Some(chap), ..settings }
}

fn serving(rules: Vec<AccessRule>) -> Rig {
    let target = rig::target(TARGET, &[1], &disk(1, None));
    Rig::serving(EntityOptions::default(), TargetOptions { access: AccessControl { rules }, ..target }, 2)
}

fn asking(policy: ChapPolicy) -> Rig {
    serving(vec![AccessRule { chap: Some(policy), ..AccessRule::default() }])
}

fn rule(initiator: &str) -> AccessRule {
    AccessRule { initiators: vec![initiator.parse().unwrap()], ..AccessRule::default() }
}

#[test]
fn chap_proves_one_side_or_both_with_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let rig = asking(policy(&[ADA, BOB], &[algorithm]));
        for account in [ADA, BOB] {
            let mut client = Client::ready(rig.address(), proving(account, &Algorithm::ALL, settings(1)));
            assert_eq!(client.read(0, 1), [0; 512]);
            client.log_out();
        }
        let both = mutual(ADA, DISK, &[Algorithm::Md5, algorithm], settings(1));
        assert_eq!(Client::ready(rig.address(), both).read(0, 1), [0; 512]);
    }
}

#[test]
fn who_cannot_prove_it_is_not_let_in() {
    let rig = asking(policy(&[ADA, BOB], &[Algorithm::Sha256, Algorithm::Sha3_256]));
    let strong = [Algorithm::Sha256];
    let refused =
        |settings| assert_eq!(refusal(rig.address(), settings), LoginStatus::AUTHENTICATION_FAILURE);
    refused(settings(1));
    refused(Settings { first_stage: lunette_iscsi::pdu::Stage::OPERATIONAL, ..settings(1) });
    refused(proving(("ada", BOB.1), &strong, settings(1)));
    refused(proving(("eve", ADA.1), &strong, settings(1)));
    refused(proving(ADA, &[Algorithm::Md5, Algorithm::Sha1], settings(1)));
    rig.wait_for_connections(0);
    assert_eq!(rig.target.session_count(), 0);
}

#[test]
fn a_target_that_cannot_prove_it_is_left() {
    let rig = asking(policy(&[ADA], &Algorithm::ALL));
    let wrong = mutual(ADA, ("disk", "what another disk knows"), &[Algorithm::Sha256], settings(1));
    let mut client = Client::connect(rig.address(), wrong);
    client.send();
    let error = loop {
        match client.receive() {
            Ok(open) => assert!(open, "the target closed the connection"),
            Err(error) => break error,
        }
        client.send();
    };
    assert!(matches!(error, ProtocolError::NotAuthenticated(_)), "{error}");
    // One without a secret does not even try.
    let rig = asking(ChapPolicy { own: None, ..policy(&[ADA], &Algorithm::ALL) });
    let asks = mutual(ADA, DISK, &[Algorithm::Sha256], settings(1));
    assert_eq!(refusal(rig.address(), asks), LoginStatus::AUTHENTICATION_FAILURE);
}

#[test]
fn rules_say_who_may_log_in_and_what_he_sees() {
    let (one, two, own) = (disk(1, None), disk(2, None), disk(3, None));
    let luns =
        |units: &[(u32, &Arc<_>)]| Some(units.iter().map(|(lun, unit)| (*lun, Arc::clone(unit))).collect());
    let rules = vec![
        AccessRule { luns: luns(&[(0, &one), (7, &two)]), ..rule("iqn.2024-01.example:initiator1") },
        AccessRule { luns: luns(&[(0, &two)]), ..rule("iqn.2024-01.example:initiator2") },
        AccessRule { addresses: vec!["192.0.2.0/24".parse().unwrap()], ..rule("*:initiator3") },
        rule("iqn.2024-01.EXAMPLE:*4"),
    ];
    let target = TargetOptions { access: AccessControl { rules }, ..rig::target(TARGET, &[1], &own) };
    let rig = Rig::serving(EntityOptions::default(), target, 2);
    let mut first = rig.client(1);
    let mut second = rig.client(2);
    let mut last = rig.client(4);
    assert_eq!(first.luns(), [0, 7]);
    assert_eq!(second.luns(), [0]);
    assert_eq!(last.luns(), [0]);
    // What one calls LUN 0 is LUN 7 for the other.
    second.write(0, vec![2; 512]);
    last.write(0, vec![4; 512]);
    assert_eq!(first.read(0, 1), [0; 512]);
    let mut read = || first.run_at(7, &cdb(READ, 0, 1), 512);
    assert_eq!(read().sense_code(), (6, 0x29, 0));
    assert_eq!(read().data, [2; 512]);
    assert_eq!(first.run_at(1, &cdb(READ, 0, 1), 512).sense_code(), (5, 0x25, 0), "no such LUN for it");
    for stranger in [3, 5] {
        assert_eq!(refusal(rig.address(), settings(stranger)), LoginStatus::NOT_AUTHORIZED);
        assert_eq!(targets(rig.address(), discovery(stranger), "All"), "", "as if it did not exist");
        assert_eq!(targets(rig.address(), discovery(stranger), TARGET), "");
    }
    assert!(targets(rig.address(), discovery(4), "All").starts_with(&format!("TargetName={TARGET}\n")));
}

#[test]
fn discovery_has_its_own_proof() {
    let rules = vec![AccessRule { chap: Some(policy(&[BOB], &Algorithm::ALL)), ..AccessRule::default() }];
    let target =
        TargetOptions { access: AccessControl { rules }, ..rig::target(TARGET, &[1], &disk(1, None)) };
    let chap = Some(policy(&[ADA], &Algorithm::ALL));
    let options =
        EntityOptions { discovery: DiscoveryAccess { chap, ..Default::default() }, ..Default::default() };
    let rig = Rig::serving(options, target, 1);
    let prove = |account, settings| proving(account, &[Algorithm::Sha256], settings);
    let told = targets(rig.address(), prove(ADA, discovery(1)), "All");
    assert_eq!(told, format!("TargetName={TARGET}\nTargetAddress={},1\n", rig.address()));
    for settings in [discovery(1), prove(BOB, discovery(1)), prove(ADA, settings(1))] {
        assert_eq!(refusal(rig.address(), settings), LoginStatus::AUTHENTICATION_FAILURE);
    }
    assert_eq!(Client::ready(rig.address(), prove(BOB, settings(1))).read(0, 1), [0; 512]);
}

#[test]
fn discovery_may_be_for_some_addresses_only() {
    let discovery_access = DiscoveryAccess { addresses: vec!["192.0.2.0/24".parse().unwrap()], chap: None };
    let options = EntityOptions { discovery: discovery_access, ..EntityOptions::default() };
    let rig = Rig::with(options, None, 1);
    assert_eq!(refusal(rig.address(), discovery(1)), LoginStatus::NOT_AUTHORIZED);
    assert_eq!(rig.client(1).read(0, 1), [0; 512]);
}

#[test]
fn connections_from_elsewhere_are_closed_at_once() {
    let addresses = vec!["127.0.0.0/8".parse().unwrap()];
    let rig = Rig::with(EntityOptions { addresses, ..EntityOptions::default() }, None, 1);
    let ipv6 = rig.another_portal("[::1]:0", 1);
    let mut refused = TcpStream::connect(ipv6.address()).unwrap();
    refused.set_read_timeout(Some(EntityOptions::default().login_time / 2)).unwrap();
    let end = refused.read(&mut [0; 1]);
    assert!(
        end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |n| *n == 0),
        "{end:?}"
    );
    assert_eq!(ipv6.connection_count(), 0);
    // Also an IPv4 address on a socket for IPv6.
    let wildcard = rig.another_portal("[::]:0", 1);
    let address = format!("127.0.0.1:{}", wildcard.address().port()).parse().unwrap();
    assert_eq!(Client::ready(address, settings(1)).read(0, 1), [0; 512]);
}

#[test]
fn a_target_that_has_moved_sends_initiators_on() {
    let moved = |permanent| {
        let redirect = Some(Redirect { address: "192.0.2.1:3260".parse().unwrap(), permanent });
        let access = AccessControl { rules: vec![rule("iqn.2024-01.example:initiator1")] };
        let target = rig::target(TARGET, &[1], &disk(1, None));
        Rig::serving(EntityOptions::default(), TargetOptions { redirect, access, ..target }, 1)
    };
    let rig = moved(false);
    assert_eq!(refusal(rig.address(), settings(1)), LoginStatus::MOVED_TEMPORARILY);
    assert_eq!(refusal(rig.address(), settings(2)), LoginStatus::NOT_AUTHORIZED, "not even told where");
    let mut client = Client::connect(rig.address(), settings(1));
    client.send();
    let mut answer = Vec::new();
    client.socket.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[48..]).into_owned();
    assert!(text.starts_with("TargetAddress=192.0.2.1:3260\0"), "{text}");
    assert_eq!(refusal(moved(true).address(), settings(1)), LoginStatus::MOVED_PERMANENTLY);
}

#[test]
fn nobody_takes_over_the_session_of_another_account() {
    let rig = asking(policy(&[ADA, BOB], &Algorithm::ALL));
    let prove = |account| proving(account, &[Algorithm::Sha1], settings(1));
    let mut old = Client::ready(rig.address(), prove(ADA));
    assert_eq!(refusal(rig.address(), prove(BOB)), LoginStatus::NOT_AUTHORIZED);
    assert_eq!(old.read(0, 1), [0; 512], "it goes on");
    let mut new = Client::ready(rig.address(), prove(ADA));
    old.until_closed();
    assert_eq!(new.read(0, 1), [0; 512]);
    new.log_out();
    assert_eq!(Client::ready(rig.address(), prove(BOB)).read(0, 1), [0; 512], "now it is free");
}

/// Names prove nothing, and so a rule without a proof does not open what another has given.
#[test]
fn nobody_takes_over_a_session_by_another_rule() {
    let from = |network: &str| vec![network.parse().unwrap()];
    let rules = vec![
        AccessRule { addresses: from("127.0.0.1"), ..AccessRule::default() },
        AccessRule { addresses: from("::1"), ..AccessRule::default() },
    ];
    let rig = serving(rules);
    let other = rig.another_portal("[::1]:0", 1);
    let mut old = rig.client(1);
    let joins = Some((old.initiator.tsih(), *old.initiator.parameters()));
    for joins in [None, joins] {
        let settings = Settings { joins, ..settings(1) };
        assert_eq!(refusal(other.address(), settings), LoginStatus::NOT_AUTHORIZED);
    }
    assert_eq!(old.read(0, 1), [0; 512], "it goes on");
    old.log_out();
    rig.wait_for_connections(0);
    assert_eq!(Client::ready(other.address(), settings(1)).read(0, 1), [0; 512], "now it is free");
}

/// Who sees some of a target's units only does not end what others do with the rest.
#[test]
fn a_cold_reset_does_not_go_beyond_the_rule() {
    let (own, shared) = (disk(1, None), disk(2, None));
    let luns = |units: [(u32, &Arc<_>); 1]| {
        Some(units.into_iter().map(|(lun, unit)| (lun, Arc::clone(unit))).collect())
    };
    let rules = vec![
        AccessRule { luns: luns([(0, &shared)]), ..rule("*:initiator1") },
        AccessRule { luns: luns([(0, &shared)]), ..rule("*:initiator2") },
        rule("*:initiator3"),
    ];
    let target = TargetOptions { access: AccessControl { rules }, ..rig::target(TARGET, &[1], &own) };
    // On one reactor, so that all is done before the next command.
    let rig = Rig::serving(EntityOptions::default(), target, 1);
    let (mut one, mut two, mut three) = (rig.client(1), rig.client(2), rig.client(3));
    let mut twin = Client::ready(rig.address(), Settings { isid: [0x80, 0, 0, 0, 0, 9], ..settings(2) });
    assert_eq!(two.managed(Function::TARGET_COLD_RESET, LUN, u32::MAX), Answer::COMPLETE);
    two.until_closed();
    twin.until_closed();
    assert_eq!(three.read(0, 1), [0; 512], "nothing has happened to it");
    assert_eq!(one.run(&cdb(READ, 0, 1), 512, None).sense_code().0, 6, "its unit has been reset");
    assert_eq!(one.read(0, 1), [0; 512]);
    assert_eq!(rig.target.session_count(), 2);
}

/// Two targets may have the same LUN map for different initiators.
#[test]
fn a_target_of_several_groups_masks_in_all_of_them() {
    let (shown, hidden) = (disk(1, None), disk(2, None));
    let rules = vec![AccessRule { luns: Some(BTreeMap::from([(3, shown)])), ..AccessRule::default() }];
    let target = TargetOptions { access: AccessControl { rules }, ..rig::target(TARGET, &[1, 2], &hidden) };
    let rig = Rig::serving(EntityOptions::default(), target, 1);
    let second = rig.another_portal("127.0.0.1:0", 2);
    for address in [rig.address(), second.address()] {
        let mut client = Client::connect(address, named(TARGET));
        client.until(|client| client.logged_in);
        assert_eq!(client.luns(), [3]);
        client.log_out();
    }
}
