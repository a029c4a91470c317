use crate::client::{Client, LUN, READ, TARGET, WRITE, cdb, pattern, settings};
use crate::rig::{Rig, disk, target};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::{TaskManagementFunction as Function, TaskManagementResult as Answer};
use lunette_transport_iscsi::EntityOptions;
use std::io::Write;

const NONE: u32 = u32::MAX;

/// A session whose writes wait for R2Ts that it does not answer.
fn lazy(rig: &Rig, number: u8) -> Client {
    let parameters = Parameters {
        initial_r2t: true,
        immediate_data: false,
        header_digest: false,
        data_digest: false,
        ..Parameters::PREFERRED
    };
    let mut client = Client::ready(rig.address(), Settings { parameters, ..settings(number) });
    client.lazy = true;
    client
}

/// A write that waits for its data.
fn waiting_write(client: &mut Client) -> u32 {
    let requests = client.requests;
    let tag = client.command(&cdb(WRITE, 0, 8), 0, Some(vec![1; 4096]));
    client.until(|client| client.requests > requests);
    tag
}

#[test]
fn a_command_in_flight_is_aborted_without_a_response() {
    let rig = Rig::faulty("delay:100");
    let mut client = rig.client(1);
    let read = client.command(&cdb(READ, 0, 8), 4096, None);
    let write = client.command(&cdb(WRITE, 0, 8), 0, Some(vec![1; 4096]));
    // Sent together, so the read cannot end before.
    assert_eq!(client.managed(Function::ABORT_TASK, LUN, read), Answer::COMPLETE);
    assert_eq!(client.managed(Function::ABORT_TASK, LUN, read), Answer::NO_TASK);
    assert_eq!(client.finish(write).status, 0);
    assert_eq!(client.read(0, 8), [1; 4096]);
    assert!(client.ended.is_empty(), "no answer to the aborted read");
}

#[test]
fn a_command_that_waits_for_data_is_found_and_aborted() {
    let rig = Rig::new();
    let mut client = lazy(&rig, 1);
    let write = waiting_write(&mut client);
    assert_eq!(client.managed(Function::QUERY_TASK, LUN, write), Answer::SUCCEEDED);
    assert_eq!(client.managed(Function::QUERY_TASK_SET, LUN, NONE), Answer::SUCCEEDED);
    assert_eq!(client.managed(Function::ABORT_TASK, LUN, write), Answer::COMPLETE);
    assert_eq!(client.managed(Function::QUERY_TASK_SET, LUN, NONE), Answer::COMPLETE);
    assert_eq!(client.managed(Function::QUERY_TASK, LUN, write), Answer::COMPLETE);
    waiting_write(&mut client);
    assert_eq!(client.managed(Function::ABORT_TASK_SET, LUN, NONE), Answer::COMPLETE);
    assert_eq!(client.read(0, 8), [0; 4096]);
    assert!(client.ended.is_empty());
}

#[test]
fn a_reset_ends_the_commands_of_all_sessions() {
    for function in [Function::LOGICAL_UNIT_RESET, Function::TARGET_WARM_RESET] {
        let rig = Rig::new();
        let (mut one, mut two) = (lazy(&rig, 1), lazy(&rig, 2));
        let lost = waiting_write(&mut two);
        waiting_write(&mut one);
        assert_eq!(one.managed(function, LUN, NONE), Answer::COMPLETE);
        for client in [&mut one, &mut two] {
            let attention = client.run(&cdb(READ, 0, 8), 4096, None);
            assert_eq!((attention.status, attention.sense_code().0), (2, 6));
            assert_eq!(client.read(0, 8), [0; 4096]);
            assert!(client.ended.is_empty());
        }
        assert_eq!(two.managed(Function::ABORT_TASK, LUN, lost), Answer::NO_TASK);
    }
}

#[test]
fn data_that_comes_after_all_is_dropped() {
    let rig = Rig::new();
    let mut client = lazy(&rig, 1);
    for function in [Function::ABORT_TASK_SET, Function::LOGICAL_UNIT_RESET] {
        waiting_write(&mut client);
        let (tag, transfer_tag) = client.requested;
        assert_eq!(client.managed(function, LUN, NONE), Answer::COMPLETE, "without waiting for the data");
        let mut data_out = [0xff; 48 + 4096];
        data_out[..48].fill(0);
        data_out[..8].copy_from_slice(&[0x05, 0x80, 0, 0, 0, 0, 0x10, 0]);
        data_out[16..20].copy_from_slice(&tag.to_be_bytes());
        data_out[20..24].copy_from_slice(&transfer_tag.to_be_bytes());
        client.socket.write_all(&data_out).unwrap();
    }
    assert_eq!(client.run(&[0; 6], 0, None).sense_code(), (6, 0x29, 3));
    assert_eq!(client.read(0, 8), [0; 4096]);
}

#[test]
fn a_cold_reset_ends_all_sessions() {
    let rig = Rig::new();
    let (mut one, mut two) = (rig.client(1), rig.client(2));
    assert_eq!(one.managed(Function::TARGET_COLD_RESET, LUN, NONE), Answer::COMPLETE);
    one.until_closed();
    two.until_closed();
    rig.wait_for_connections(0);
    assert_eq!(rig.client(1).read(0, 1), [0; 512]);
}

#[test]
fn a_cold_reset_ends_the_sessions_of_all_portal_groups() {
    let rig = Rig::serving(EntityOptions::default(), target(TARGET, &[1, 2], &disk(1, None)), 2);
    let other = rig.another_portal("127.0.0.1:0", 2);
    let mut one = rig.client(1);
    let mut two = Client::ready(other.address(), settings(1));
    assert_eq!(rig.target.session_count(), 2);
    assert_eq!(one.managed(Function::TARGET_COLD_RESET, LUN, NONE), Answer::COMPLETE);
    one.until_closed();
    two.until_closed();
}

#[test]
fn functions_that_cannot_be_are_told_apart() {
    let rig = Rig::new();
    let mut client = rig.client(1);
    let no_lun = [0, 9, 0, 0, 0, 0, 0, 0];
    assert_eq!(client.managed(Function::LOGICAL_UNIT_RESET, no_lun, NONE), Answer::NO_LUN);
    assert_eq!(client.managed(Function::ABORT_TASK, LUN, 12345), Answer::NO_TASK);
    assert_eq!(client.managed(Function::CLEAR_ACA, LUN, NONE), Answer::COMPLETE);
    assert_eq!(client.managed(Function::TASK_REASSIGN, LUN, NONE), Answer::NO_REASSIGNMENT);
    assert_eq!(client.managed(Function(99), LUN, NONE), Answer::NOT_SUPPORTED);
    client.write(0, pattern(1, 512));
}
