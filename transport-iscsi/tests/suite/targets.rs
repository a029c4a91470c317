//! Several targets and portals, and what initiators are told of them.

use crate::client::{Client, TARGET, settings};
use crate::rig::{Rig, disk, target};
use lunette_iscsi::Error as ProtocolError;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::LoginStatus;
use lunette_iscsi::target::{SessionType, Settings as TargetSettings};
use lunette_transport_iscsi::{EntityOptions, Portal, PortalOptions, TargetOptions};
use std::net::{SocketAddr, TcpListener};

const OTHER: &str = "iqn.2026-11.dev.lunette:other";

pub(crate) fn discovery(number: u8) -> Settings {
    Settings { session_type: SessionType::Discovery, target_name: String::new(), ..settings(number) }
}

/// The answer to SendTargets in a session with these settings.
pub(crate) fn targets(address: SocketAddr, settings: Settings, which: &str) -> String {
    let mut client = Client::connect(address, settings);
    client.until(|client| client.logged_in);
    client.initiator.text(format!("SendTargets={which}\0").as_bytes(), &mut client.out).unwrap();
    client.until(|client| !client.texts.is_empty());
    client.texts[0].replace('\0', "\n")
}

pub(crate) fn named(name: &str) -> Settings {
    Settings { target_name: name.to_owned(), ..settings(1) }
}

/// How a login is refused.
pub(crate) fn refusal(address: SocketAddr, settings: Settings) -> LoginStatus {
    let mut client = Client::connect(address, settings);
    loop {
        client.send();
        match client.receive() {
            Ok(true) => assert!(!client.logged_in, "it was let in"),
            Err(ProtocolError::LoginRefused(status)) => return status,
            other => panic!("{other:?} instead of a refusal"),
        }
    }
}

/// Two targets: one in the groups 1 and 2, the other only in 2.
fn two_targets() -> Rig {
    let rig = Rig::serving(EntityOptions::default(), target(TARGET, &[1, 2], &disk(1, None)), 2);
    rig.entity.add(target(OTHER, &[2], &disk(2, None))).unwrap();
    rig
}

#[test]
fn a_target_is_reached_through_the_portals_of_its_groups() {
    let rig = two_targets();
    let second = rig.another_portal("127.0.0.1:0", 2);
    let mut one = Client::ready(second.address(), named(TARGET));
    let mut other = Client::ready(second.address(), named("iqn.2026-11.dev.lunette:OTHER"));
    one.write(0, vec![1; 512]);
    other.write(0, vec![2; 512]);
    assert_eq!((one.read(0, 1), other.read(0, 1)), (vec![1; 512], vec![2; 512]));
    let handles = [one.initiator.tsih(), other.initiator.tsih()];
    assert_ne!(handles[0], handles[1]);
    assert_eq!(Client::ready(rig.address(), named(TARGET)).read(0, 1), [1; 512]);
    assert_eq!(refusal(rig.address(), named(OTHER)), LoginStatus::NOT_FOUND);
}

#[test]
fn each_target_has_settings_of_its_own() {
    let rig = two_targets();
    let second = rig.another_portal("127.0.0.1:0", 2);
    let parameters = Parameters { max_burst_length: 65_536, data_digest: false, ..Parameters::PREFERRED };
    let own = TargetSettings { parameters, command_window: 3, ..TargetSettings::default() };
    let name = "iqn.2026-11.dev.lunette:third";
    rig.entity.add(TargetOptions { settings: own, ..target(name, &[2], &disk(3, None)) }).unwrap();
    let agreed = |name| {
        let client = Client::ready(second.address(), named(name));
        let agreed = client.initiator.parameters();
        (agreed.max_burst_length, agreed.data_digest, client.initiator.window())
    };
    assert_eq!(agreed(name), (65_536, false, 3));
    let Parameters { max_burst_length, .. } = Parameters::PREFERRED;
    assert_eq!(agreed(OTHER), (max_burst_length, true, TargetSettings::default().command_window.into()));
}

#[test]
fn discovery_tells_all_portals_the_one_that_was_reached_first() {
    let rig = two_targets();
    let second = rig.another_portal("127.0.0.1:0", 2);
    let (first, second) = (rig.address(), second.address());
    let one = |portals: [(SocketAddr, u16); 2]| {
        let portals = portals.map(|(address, group)| format!("TargetAddress={address},{group}\n"));
        format!("TargetName={TARGET}\n{}{}", portals[0], portals[1])
    };
    let other = format!("TargetName={OTHER}\nTargetAddress={second},2\n");
    let (from_first, from_second) = (one([(first, 1), (second, 2)]), one([(second, 2), (first, 1)]));
    assert_eq!(targets(first, discovery(1), "All"), format!("{other}{from_first}"));
    assert_eq!(targets(second, discovery(1), "All"), format!("{other}{from_second}"));
    assert_eq!(targets(second, discovery(1), OTHER), other);
    assert_eq!(targets(second, discovery(1), "iqn.2026-11.dev.lunette:none"), "");
    assert_eq!(targets(second, named(TARGET), ""), from_second, "in a normal session");
}

#[test]
fn portals_that_have_ended_are_not_told() {
    let rig = two_targets();
    let second = rig.another_portal("127.0.0.1:0", 2);
    second.begin_stop(&rig.reactors);
    Rig::wait_for_end(&second);
    let expected = format!("TargetName={TARGET}\nTargetAddress={},1\n", rig.address());
    assert_eq!(targets(rig.address(), discovery(1), "All"), expected);
}

#[test]
fn ipv6_portals_and_wildcards_are_told_as_addresses() {
    let rig = two_targets();
    let ipv6 = rig.another_portal("[::1]:0", 2);
    let wildcard = rig.another_portal("[::]:0", 2);
    let port = wildcard.address().port();
    let other = |addresses: [String; 2]| {
        format!("TargetName={OTHER}\nTargetAddress={},2\nTargetAddress={},2\n", addresses[0], addresses[1])
    };
    let told = |address| targets(address, discovery(1), OTHER);
    assert_eq!(told(ipv6.address()), other([ipv6.address().to_string(), format!("[::1]:{port}")]));
    // A socket for IPv6 is one for IPv4 as well.
    let reached: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    assert_eq!(told(reached), other([reached.to_string(), ipv6.address().to_string()]));
    assert_eq!(Client::ready(ipv6.address(), named(OTHER)).read(0, 1), [0; 512]);
}

/// Whatever others of its group do.
#[test]
fn a_portal_can_be_told_by_other_addresses() {
    let rig = two_targets();
    let [one, two] = ["192.0.2.1:3260", "[2001:db8::1]:860"];
    let advertised = [one, two].map(|address| address.parse().unwrap()).to_vec();
    let translated = rig.open("127.0.0.1:0", PortalOptions { group_tag: 2, advertised });
    let wildcard = rig.another_portal("0.0.0.0:0", 2);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = PortalOptions { group_tag: 2, ..PortalOptions::default() };
    let adopted = Portal::adopt(socket, options, &rig.entity, &rig.reactors).unwrap();
    let reached = SocketAddr::from(([127, 0, 0, 1], wildcard.address().port()));
    let told = |address| targets(address, discovery(1), OTHER);
    let of = |addresses: [&str; 4]| {
        let addresses = addresses.map(|address| format!("TargetAddress={address},2\n"));
        format!("TargetName={OTHER}\n{}", addresses.concat())
    };
    let (reached, taken) = (reached.to_string(), adopted.address().to_string());
    assert_eq!(told(translated.address()), of([one, two, &reached, &taken]));
    assert_eq!(told(reached.parse().unwrap()), of([&reached, one, two, &taken]));
    translated.begin_stop(&rig.reactors);
    Rig::wait_for_end(&translated);
    assert!(!told(adopted.address()).contains(one), "it has ended");
}

#[test]
fn a_socket_can_be_taken_over_for_a_group() {
    let rig = two_targets();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = PortalOptions { group_tag: 2, ..PortalOptions::default() };
    let portal = Portal::adopt(socket, options, &rig.entity, &rig.reactors).unwrap();
    assert_eq!(portal.group_tag(), 2);
    assert_eq!(Client::ready(portal.address(), named(OTHER)).read(0, 1), [0; 512]);
}

/// Connections to different portals do not gather on the first reactor.
#[test]
fn reactors_are_chosen_over_all_portals() {
    let rig = two_targets();
    let second = rig.another_portal("127.0.0.1:0", 2);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::ready(rig.address(), settings(clients.len() as u8)));
        clients.push(Client::ready(second.address(), settings(clients.len() as u8)));
    }
    let connections = rig.entity.loads();
    assert_eq!(connections, [4, 4]);
}
