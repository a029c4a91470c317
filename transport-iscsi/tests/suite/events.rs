use crate::client::{Client, LUN, Message, READ, TARGET, WRITE, cdb, settings};
use crate::rig::{Rig, disk, target};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{AsyncEvent, TaskManagementFunction as Function, TaskManagementResult as Answer};
use lunette_iscsi::target::Settings as TargetSettings;
use lunette_scsi::AdditionalSense;
use lunette_transport_iscsi::{EntityOptions, TargetOptions};
use std::net::TcpStream;
use std::time::Duration;

const INVENTORY: AdditionalSense = AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED;
const CAPACITY: AdditionalSense = AdditionalSense::CAPACITY_DATA_HAS_CHANGED;

impl Rig {
    fn establish(&self, condition: AdditionalSense) {
        self.target.port(1).unwrap().luns().inventory().units()[&0].establish_attention(condition, None);
    }
}

impl Client {
    fn next_message(&mut self) -> Message {
        self.until(|client| !client.messages.is_empty());
        self.messages.remove(0)
    }

    fn attention(&mut self) -> (u8, u8, u8) {
        self.run(&[0; 6], 0, None).sense_code()
    }
}

#[test]
fn idle_initiators_hear_of_new_units_and_of_a_new_size() {
    let rig = Rig::new();
    let mut clients = [rig.client(1), rig.client(2)];
    for condition in [INVENTORY, CAPACITY] {
        rig.establish(condition);
        for client in &mut clients {
            let message = client.next_message();
            assert_eq!((message.event, message.lun, message.parameters), (AsyncEvent::SCSI, LUN, [0; 3]));
            let (length, sense) = message.data.split_at(2);
            assert_eq!(length, (sense.len() as u16).to_be_bytes());
            assert_eq!((sense[0], sense[2]), (0x70, 6), "a unit attention in the fixed format");
            assert_eq!(sense[12..14], [condition.asc, condition.ascq]);
            assert_eq!(client.attention(), (6, condition.asc, condition.ascq), "which is still pending");
            assert_eq!(client.read(0, 1), [0; 512]);
        }
    }
}

#[test]
fn initiators_hear_once_of_units_that_come_and_go() {
    let rig = Rig::new();
    let poster = rig.reactors.poster();
    let mut clients = [rig.client(1), rig.client(2)];
    let luns = rig.target.port(1).unwrap().luns().clone();
    let told = |client: &mut Client, lun: u8| {
        let message = client.next_message();
        assert_eq!((message.event, message.lun), (AsyncEvent::SCSI, [0, lun, 0, 0, 0, 0, 0, 0]));
        assert_eq!(message.data[14..16], [INVENTORY.asc, INVENTORY.ascq]);
    };
    let (second, third) = (disk(2, None), disk(3, None));
    luns.change(&*poster, |units| units.extend([(1, second), (2, third)]));
    for client in &mut clients {
        told(client, 0);
        assert_eq!(client.attention(), (6, INVENTORY.asc, INVENTORY.ascq));
        assert_eq!(client.luns(), [0, 1, 2]);
        assert_eq!(client.read(0, 1), [0; 512]);
        assert_eq!(client.messages, [], "no more than one");
    }
    luns.change(&*poster, |units| drop(units.remove(&0)));
    clients.iter_mut().for_each(|client| told(client, 1));
    luns.change(&*poster, |units| units.clear());
    for client in &mut clients {
        told(client, 0);
        assert_eq!(client.attention(), (5, 0x25, 0));
    }
}

#[test]
fn nobody_is_told_what_a_unit_attention_says_well_enough() {
    let rig = Rig::new();
    let (mut one, mut two) = (rig.client(1), rig.client(2));
    assert_eq!(one.managed(Function::LOGICAL_UNIT_RESET, LUN, u32::MAX), Answer::COMPLETE);
    rig.establish(AdditionalSense::MODE_PARAMETERS_CHANGED);
    for client in [&mut one, &mut two] {
        assert_eq!(client.attention().1, 0x29);
        assert_eq!(client.attention(), (6, 0x2a, 0x01));
        assert_eq!(client.read(0, 1), [0; 512]);
        assert_eq!(client.messages, [], "it would have come first");
    }
}

#[test]
fn initiators_that_are_asked_to_log_out_have_time_for_it() {
    let rig = Rig::faulty("delay:100");
    let (mut client, mut idle) = (rig.client(1), rig.client(2));
    let read = client.command(&cdb(READ, 0, 8), 4096, None);
    client.send();
    // The read is under way when a later command has been answered.
    client.run(&[0; 6], 0, None);
    rig.portal().begin_stop(&rig.reactors);
    let seconds = EntityOptions::default().stop_time.as_secs() as u16;
    for client in [&mut client, &mut idle] {
        let Message { event, parameters, .. } = client.next_message();
        assert_eq!((event, parameters), (AsyncEvent::REQUEST_LOGOUT, [0, 0, seconds]));
    }
    assert!(TcpStream::connect(rig.address()).is_err());
    assert_eq!(client.finish(read).status, 0, "what is under way ends");
    assert_eq!(client.read(0, 1), [0; 512], "and what is sent until then is done");
    client.log_out();
    assert_eq!(rig.portal().connection_count(), 1);
    idle.log_out();
    Rig::wait_for_end(rig.portal());
    assert!(client.messages.is_empty() && idle.messages.is_empty());
}

#[test]
fn an_initiator_that_does_not_log_out_is_told_that_it_is_cut() {
    let rig = Rig::with(
        EntityOptions { stop_time: Duration::from_millis(20), ..EntityOptions::default() },
        None,
        1,
    );
    let mut client = rig.client(1);
    let mut discovery = Client::connect(rig.address(), crate::sessions::discovery());
    discovery.until(|client| client.logged_in);
    rig.portal().begin_stop(&rig.reactors);
    Rig::wait_for_end(rig.portal());
    client.until_closed();
    let told: Vec<_> = client.messages.iter().map(|message| (message.event, message.parameters)).collect();
    let agreed = Parameters::PREFERRED;
    let times = [agreed.default_time_to_wait, agreed.default_time_to_retain].map(|time| time as u16);
    assert_eq!(
        told,
        [(AsyncEvent::REQUEST_LOGOUT, [0, 0, 1]), (AsyncEvent::DROP_CONNECTION, [0, times[0], times[1]])]
    );
    discovery.until_closed();
    assert_eq!(discovery.messages, []);
}

#[test]
fn a_cold_reset_is_announced() {
    let rig = Rig::new();
    let (mut one, mut two) = (rig.client(1), rig.client(2));
    assert_eq!(one.managed(Function::TARGET_COLD_RESET, LUN, u32::MAX), Answer::COMPLETE);
    for client in [&mut one, &mut two] {
        client.until_closed();
        assert_eq!(client.messages.len(), 1);
        assert_eq!(client.messages[0].event, AsyncEvent::DROP_SESSION);
    }
}

#[test]
fn an_initiator_whose_commands_others_abort_hears_that_it_may_send_again() {
    // Pings would tell as well.
    let entity = EntityOptions { idle_time: Duration::from_secs(24 * 60 * 60), ..EntityOptions::default() };
    let narrow = TargetSettings { command_window: 4, ..TargetSettings::default() };
    let options = TargetOptions { settings: narrow, ..target(TARGET, &[1], &disk(1, None)) };
    let rig = Rig::serving(entity, options, 2);
    let parameters = Parameters { initial_r2t: true, immediate_data: false, ..Parameters::PREFERRED };
    let mut blocked = Client::ready(rig.address(), Settings { parameters, ..settings(1) });
    let mut other = rig.client(2);
    blocked.lazy = true;
    while blocked.try_command(&cdb(WRITE, 0, 8), 0, Some(vec![1; 4096])).is_some() {}
    blocked.until(|client| client.requests == 4);
    assert!(blocked.try_command(&[0; 6], 0, None).is_none(), "the window is closed");
    assert_eq!(other.managed(Function::CLEAR_TASK_SET, LUN, u32::MAX), Answer::COMPLETE);
    blocked.socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let tag = loop {
        assert!(blocked.receive().unwrap(), "nothing comes");
        if let Some(tag) = blocked.try_command(&[0; 6], 0, None) {
            break tag;
        }
    };
    assert_eq!(blocked.finish(tag).sense_code(), (6, 0x2f, 0), "its commands were cleared");
}

#[test]
fn sessions_of_two_portals_are_told_apart() {
    let rig = Rig::serving(EntityOptions::default(), target(TARGET, &[1, 2], &disk(1, None)), 2);
    let second = rig.another_portal("127.0.0.1:0", 2);
    let mut stays = rig.client(1);
    let mut leaves = Client::ready(second.address(), settings(1));
    second.begin_stop(&rig.reactors);
    assert_eq!(leaves.next_message().event, AsyncEvent::REQUEST_LOGOUT);
    leaves.log_out();
    Rig::wait_for_end(&second);
    assert_eq!(stays.read(0, 1), [0; 512]);
    assert_eq!(stays.messages, []);
}
