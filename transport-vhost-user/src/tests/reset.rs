//! What stops on a connection that stays is answered, and is in no notes any more.

use super::recovery::{LAYOUTS, QUEUES, SIZE, Survivor, give_up, set, settle, version, wait_for, wait_left};
use super::rings::{read_10, submit};
use super::{Rig, TEST_UNIT_READY};
use crate::local::Local;
use crate::testing::held::{held, release};
use lunette_guest::ring::Form;
use lunette_guest::{Command, ScsiDriver, Session, address, function, response};
use lunette_store::{Cx, ReactorId};
use lunette_vhost_user::Reply;
use std::os::unix::net::UnixStream;

/// Resets the device; what it holds ends meanwhile.
fn reset(guest: &mut Survivor, rig: &Rig) {
    let holds = [0, 1].into_iter().any(|on| held(&rig.reactors, on) > 0);
    let session = &mut guest.driver.monitor.session;
    let message = session.frontend().reset_device();
    session.send(message).unwrap();
    let is_busy =
        |cx: &mut dyn Cx| Local::on(cx).connections.borrow().values().any(|connection| connection.is_busy());
    while holds && !rig.reactors.call(ReactorId(0), is_busy).unwrap() {
        std::thread::yield_now();
    }
    settle(rig);
    settle(rig);
    give_up(&[rig]);
    assert!(matches!(session.reply().unwrap(), Reply::Ack { success: true, .. }));
}

/// Starts all rings as a driver does that has just found the device.
fn start_anew(guest: &mut Survivor) {
    for queue in [0, 1] {
        guest.driver.monitor.queue_mut(queue).ring_mut().reset(0);
        guest.driver.monitor.start(queue).unwrap();
    }
    [0, 1].into_iter().for_each(|queue| guest.driver.restart(queue).unwrap());
}

/// Nothing is carried out but what is asked for now.
fn is_clean(guest: &mut Survivor, rig: &Rig) {
    for queue in [0, 1] {
        // The first one is told of the reset.
        guest.driver.execute(queue, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        let ready = guest.driver.execute(queue, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        assert_eq!((ready.response, ready.status), (0, 0));
        assert_eq!(held(&rig.reactors, queue), 0, "taken again");
        assert_eq!(guest.driver.poll(queue).unwrap(), None);
    }
    assert_eq!(guest.driver.manage(function::QUERY_TASK_SET, address(0, 0), 0).unwrap(), response::OK);
}

#[test]
fn what_a_reset_has_aborted_is_not_taken_again() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(0, &[0, 1]);
        guest.read(1, &[0]);
        wait_for(&rig, 0, 2);
        wait_for(&rig, 1, 1);
        reset(&mut guest, &rig);
        assert_eq!([0, 1, 2, 3].map(|queue| version(&guest.notes, queue)), [0; 4]);
        start_anew(&mut guest);
        is_clean(&mut guest, &rig);
    }
}

/// Of a queue that only a former daemon has served.
#[test]
fn what_a_reset_finds_in_notes_is_not_taken_again() {
    for features in LAYOUTS {
        let rigs = [Rig::held(), Rig::held()];
        let mut guest = Survivor::begin(&rigs[0], set(features, Form::Chained));
        guest.read(1, &[0]);
        wait_for(&rigs[0], 1, 1);
        guest.go_on(&rigs[0], &rigs[1]);
        assert_eq!(version(&guest.notes, 3), 1);
        reset(&mut guest, &rigs[1]);
        assert_eq!(version(&guest.notes, 3), 0);
        start_anew(&mut guest);
        is_clean(&mut guest, &rigs[1]);
        give_up(&[&rigs[0]]);
    }
}

/// The connection ends before the device is reset: whoever comes next is not to do what the driver has forgotten.
#[test]
fn a_reset_that_was_begun_is_not_undone_by_the_end_of_its_connection() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(0, &[0]);
        wait_for(&rig, 0, 1);
        let session = &mut guest.driver.monitor.session;
        let message = session.frontend().reset_device();
        session.send(message).unwrap();
        let (end, _) = UnixStream::pair().unwrap();
        guest.driver.monitor.session = Session::new(end).unwrap();
        wait_left(&rig);
        give_up(&[&rig]);
        guest.driver.monitor.reconnect(&rig.socket, &guest.options.wanted, Some(&guest.notes)).unwrap();
        assert_eq!(version(&guest.notes, 2), 0);
        start_anew(&mut guest);
        is_clean(&mut guest, &rig);
    }
}

#[test]
fn a_function_is_answered_by_a_control_queue_that_stops() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(1, &[0]);
        wait_for(&rig, 1, 1);
        let reset =
            guest.driver.send_task_management(function::LOGICAL_UNIT_RESET, address(0, 0), 0).unwrap();
        // It has come when a later one on the same queue is answered.
        guest.driver.manage(function::QUERY_TASK_SET, address(0, 0), 0).unwrap();
        let session = &mut guest.driver.monitor.session;
        let message = session.frontend().get_vring_base(0);
        session.send(message).unwrap();
        settle(&rig);
        settle(&rig);
        assert_eq!(guest.driver.poll_control(reset).unwrap(), None);
        release(&rig.reactors, 1, 0);
        assert!(matches!(guest.driver.monitor.session.reply().unwrap(), Reply::VringBase(_)));
        assert_eq!(guest.driver.poll_control(reset).unwrap(), Some(vec![response::OK]));
        assert_eq!(version(&guest.notes, 0), 0);
        guest.driver.monitor.start(0).unwrap();
        guest.driver.manage(function::QUERY_TASK_SET, address(0, 0), 0).unwrap();
        assert_eq!(guest.driver.poll_control(reset).unwrap(), None, "once");
    }
}

#[test]
fn a_command_whose_target_is_removed_while_its_queue_stops_is_answered() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(0, &[0]);
        wait_for(&rig, 0, 1);
        let session = &mut guest.driver.monitor.session;
        let message = session.frontend().get_vring_base(2);
        session.send(message).unwrap();
        settle(&rig);
        let (done, removed) = std::sync::mpsc::channel();
        assert!(rig.export.as_ref().unwrap().remove_target(0, move || done.send(()).unwrap()));
        settle(&rig);
        release(&rig.reactors, 0, 0);
        assert!(matches!(guest.driver.monitor.session.reply().unwrap(), Reply::VringBase(_)));
        removed.recv().unwrap();
        assert!(guest.driver.poll(0).unwrap().is_some(), "it is answered");
        assert_eq!(version(&guest.notes, 2), 0);
    }
}

/// Notes that come while a ring runs are not of what it has taken: nobody will go on with that.
#[test]
fn what_is_not_noted_is_answered_when_the_front_end_goes() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut driver = ScsiDriver::connect(&rig.socket, &set(features, Form::Chained)).unwrap();
        driver.execute(0, &Command::new(&TEST_UNIT_READY), &[], 0).unwrap();
        submit(&mut driver, 0, 0, &read_10(0));
        driver.flush(0).unwrap();
        wait_for(&rig, 0, 1);
        let _notes = driver.monitor.session.begin_notes(QUEUES, SIZE).unwrap().unwrap();
        driver.monitor.session = Session::new(UnixStream::pair().unwrap().0).unwrap();
        wait_left(&rig);
        release(&rig.reactors, 0, 0);
        let queue = driver.index(0);
        while !driver.monitor.queue(queue).ring().has_used() {
            std::thread::yield_now();
        }
        let ended = driver.poll(0).unwrap().expect("an answer");
        assert_eq!(ended.response, response::RESET);
    }
}

/// A queue that is disabled for a while has nothing in flight that a function would not find.
#[test]
fn task_management_does_not_wait_for_a_queue_that_has_been_served() {
    for features in LAYOUTS {
        let rig = Rig::held();
        let mut guest = Survivor::begin(&rig, set(features, Form::Chained));
        guest.read(1, &[0]);
        wait_for(&rig, 1, 1);
        guest.driver.monitor.enable(3, false).unwrap();
        // The control queue is told anew what it should be.
        guest.driver.monitor.enable(0, true).unwrap();
        let unit = address(0, 0);
        assert_eq!(guest.driver.manage(function::QUERY_TASK, unit, 0).unwrap(), response::FUNCTION_SUCCEEDED);
        // The same notes once more: what they say of a queue that runs is no news.
        guest.driver.monitor.enable(3, true).unwrap();
        guest.driver.monitor.session.give_notes(&guest.notes).unwrap();
        guest.driver.monitor.enable(0, true).unwrap();
        assert_eq!(guest.driver.manage(function::QUERY_TASK, unit, 0).unwrap(), response::FUNCTION_SUCCEEDED);
        give_up(&[&rig]);
    }
}
