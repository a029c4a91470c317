//! What there is to see of sessions.

use crate::client::{Client, READ, TARGET, cdb, settings};
use crate::rig::Rig;
use crate::targets::discovery;
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{AsyncEvent, Stage};
use lunette_store::ReactorId;
use lunette_transport_iscsi::{EndHow, EntityOptions, SessionStatus};
use std::sync::mpsc::channel;
use std::time::Duration;

fn table(rig: &Rig) -> Vec<SessionStatus> {
    rig.entity.sessions(&rig.reactors)
}

#[test]
fn sessions_are_listed_with_what_they_have_done() {
    let rig = Rig::new();
    assert_eq!(table(&rig), []);
    let parameters = Parameters { header_digest: false, max_burst_length: 65_536, ..Parameters::PREFERRED };
    let mut client = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
    client.write(0, vec![1; 2048]);
    assert_eq!(client.read(0, 3).len(), 1536);
    let beyond = client.run(&cdb(READ, u32::MAX, 1), 512, None);
    assert_eq!(beyond.sense_code(), (5, 0x21, 0));
    client.lazy = true;
    client.command(&cdb(crate::client::WRITE, 0, 1024), 0, Some(vec![1; 1024 * 512]));
    client.until(|client| client.requests > 0);
    let mut other = Client::connect(rig.address(), discovery(2));
    other.until(|client| client.logged_in);

    let [session, discovery] = &table(&rig)[..] else { panic!("{:?}", table(&rig)) };
    assert_eq!(session.tsih, client.initiator.tsih());
    assert_eq!((session.target.as_deref(), session.group_tag), (Some(TARGET), 1));
    assert_eq!(session.initiator, "iqn.2024-01.example:initiator1");
    assert_eq!(session.isid, [0x80, 0, 0, 0, 0, 1]);
    assert_eq!(session.address, client.socket.local_addr().unwrap());
    assert_eq!((session.portal, session.account.as_deref()), (rig.address(), None));
    assert_eq!((session.parameters.header_digest, session.parameters.data_digest), (false, true));
    assert_eq!(session.parameters.max_burst_length, 65_536);
    let counters = session.counters;
    // TEST UNIT READY met a unit attention.
    assert_eq!((counters.commands, counters.errors, session.open_tasks), (5, 2, 1));
    assert_eq!((counters.bytes_read, counters.bytes_written), (1536, 2048));
    assert!(session.idle <= session.age);

    assert_eq!((discovery.tsih, &discovery.target), (other.initiator.tsih(), &None));
    assert_eq!((discovery.counters.commands, discovery.open_tasks), (0, 0));
    assert_ne!(session.reactor, discovery.reactor);
    drop(client);
    drop(other);
    rig.wait_for_connections(0);
    assert_eq!(table(&rig), []);
}

#[test]
fn sessions_can_be_written_as_json() {
    let rig = Rig::new();
    let client = rig.client(1);
    let json = serde_json::to_value(table(&rig)).unwrap();
    let session = &json[0];
    assert_eq!(session["tsih"], client.initiator.tsih());
    assert_eq!(session["isid"], "800000000001");
    assert_eq!(session["address"], client.socket.local_addr().unwrap().to_string());
    assert_eq!(session["account"], serde_json::Value::Null);
    assert_eq!(session["parameters"]["immediate_data"], true);
    assert_eq!(session["commands"], 1);
    assert!(session["age"].is_f64(), "{session}");
}

const LONG: Duration = Duration::from_secs(3600);

fn end(rig: &Rig, client: &Client, how: EndHow) -> bool {
    rig.entity.end_session(client.initiator.tsih(), how, &rig.reactors)
}

#[test]
fn a_session_can_be_dropped() {
    let rig = Rig::new();
    let (mut client, mut bystander) = (rig.client(1), rig.client(2));
    assert!(end(&rig, &client, EndHow::Drop));
    client.until_closed();
    assert_eq!(client.messages[0].event, AsyncEvent::DROP_CONNECTION);
    rig.wait_for_connections(1);
    assert!(!end(&rig, &client, EndHow::Drop), "it is no more");
    assert_eq!(bystander.read(0, 1), [0; 512]);
    assert_eq!(rig.client(1).read(0, 1), [0; 512], "its initiator may come again");
}

/// Another connection that wants to go on with the session comes before its end or after, never in between.
#[test]
fn a_session_does_not_escape_its_end() {
    let rig = Rig::new();
    let (mut bystander, client) = (rig.client(1), rig.client(2));
    let [_, session] = &table(&rig)[..] else { panic!("{:?}", table(&rig)) };
    let (go_on, told) = channel::<()>();
    rig.reactors.poster().post(ReactorId(session.reactor), Box::new(move |_| _ = told.recv()));
    assert!(end(&rig, &client, EndHow::Drop));
    let joins = Some((client.initiator.tsih(), *client.initiator.parameters()));
    let first_stage = Stage::OPERATIONAL;
    let mut heir = Client::connect(rig.address(), Settings { joins, first_stage, ..settings(2) });
    heir.send();
    assert_eq!(bystander.read(0, 1), [0; 512]);
    drop(go_on);
    while heir.receive().unwrap_or(false) {}
    assert!(!heir.logged_in, "it goes on");
    rig.wait_for_connections(1);
}

#[test]
fn an_initiator_can_be_asked_to_log_out() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    assert!(end(&rig, &client, EndHow::LogoutRequest(LONG)));
    client.until(|client| !client.messages.is_empty());
    let message = &client.messages[0];
    assert_eq!((message.event, message.parameters), (AsyncEvent::REQUEST_LOGOUT, [0, 0, 3600]));
    assert_eq!(client.read(0, 1), [0; 512], "until then it goes on");
    client.log_out();
    rig.wait_for_connections(0);
}

#[test]
fn who_does_not_log_out_in_time_is_dropped() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    assert!(end(&rig, &client, EndHow::LogoutRequest(LONG)));
    assert!(end(&rig, &client, EndHow::LogoutRequest(Duration::from_millis(10))), "the shorter time counts");
    client.until_closed();
    let events: Vec<_> = client.messages.iter().map(|message| message.event).collect();
    let asked = AsyncEvent::REQUEST_LOGOUT;
    assert_eq!(events, [asked, asked, AsyncEvent::DROP_CONNECTION]);
}

#[test]
fn a_portal_that_stops_waits_no_longer_for_those_who_were_asked_before() {
    let options = EntityOptions { stop_time: Duration::from_millis(10), ..EntityOptions::default() };
    let mut rig = Rig::with(options, None, 1);
    let mut client = rig.client(1);
    assert!(end(&rig, &client, EndHow::LogoutRequest(Duration::MAX)));
    assert!(rig.stop());
    client.until_closed();
}

#[test]
fn discovery_sessions_can_be_ended() {
    let rig = Rig::new();
    for how in [EndHow::Drop, EndHow::LogoutRequest(LONG)] {
        let mut client = Client::connect(rig.address(), discovery(1));
        client.until(|client| client.logged_in);
        assert!(end(&rig, &client, how));
        client.until_closed();
    }
    rig.wait_for_connections(0);
}
