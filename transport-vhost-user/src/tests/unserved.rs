//! A daemon is killed, and the next one cannot have the units: the rings wait in it, and their notes with them.

use super::handover::{LAYOUTS, begin_hand_over, clear, frozen, noting, set, snapshot, status};
use super::lease::{Asked, Leased};
use super::recovery::settle;
use super::rings::{read_10, submit};
use super::*;
use crate::{DeviceState, HandedConnection, Role, Snapshot};
use lunette_guest::{Error, ScsiDriver, address, function, response};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;

/// A guest whose daemon was killed.
struct Orphan {
    old: Rig,
    driver: ScsiDriver,
}

impl Orphan {
    /// With so many requests in flight.
    fn new(features: Features, in_flight: u16) -> Self {
        let old = noting(Rig::held());
        let mut driver = ScsiDriver::connect(&old.socket, &set(features)).unwrap();
        driver.start().unwrap();
        // The first takes the unit attention.
        assert_eq!([2, 0, 0], [(); 3].map(|()| status(&mut driver, 0)));
        assert_eq!(status(&mut driver, 1), 0);
        (0..in_flight).for_each(|slot| submit(&mut driver, 0, slot, &read_10(slot)));
        driver.flush(0).unwrap();
        while held(&old.reactors, 0) != usize::from(in_flight) {
            std::thread::yield_now();
        }
        Self { old, driver }
    }

    /// Its daemon dies. What is known of it.
    fn kill(&self) -> HandedConnection {
        let handed = frozen(snapshot(&self.old));
        // Who is dead takes nothing from the rings any more.
        drop(begin_hand_over(&self.old));
        settle(&self.old);
        handed
    }

    fn bury(self) {
        drop(self.driver);
        release(&self.old.reactors, 0, 0);
        clear(&self.old);
    }

    /// What the nexus of the driver is like that has seen its unit attention.
    fn left(&self) -> DeviceState {
        DeviceState { nexuses: self.old.export.as_ref().unwrap().nexuses(), ..DeviceState::default() }
    }
}

/// Goes on with it without the units.
fn refused(handed: HandedConnection) -> Leased {
    let leased = Leased::resuming(handed);
    let (goes_on, take) = leased.taken_by();
    assert!(goes_on);
    take(Err("another host has them".to_owned()));
    leased
}

/// Refuses the units until there is something to return.
fn refuse_until<T>(leased: &Leased, mut done: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(done) = done() {
            return done;
        }
        if let Ok(Asked::Take(_, take)) = leased.asked.try_recv() {
            take(Err("another host has them".to_owned()));
        }
        std::thread::yield_now();
    }
}

/// What is known of a connection, unless that changes just now.
fn known(rig: &Rig) -> Option<HandedConnection> {
    let (tell, told) = channel();
    rig.export.as_ref().unwrap().snapshot(move |snapshot| tell.send(snapshot).unwrap());
    match told.recv().unwrap() {
        Snapshot::Connection(connection) => Some(*connection),
        _ => None,
    }
}

fn hand_over(leased: Leased) -> HandedConnection {
    let told = begin_hand_over(&leased.rig);
    let handed = refuse_until(&leased, || told.try_recv().ok());
    clear(&leased.rig);
    handed.connection.unwrap()
}

#[test]
fn rings_that_have_never_run_here_go_on_by_their_notes() {
    for features in LAYOUTS {
        for in_flight in [0, 2] {
            let mut orphan = Orphan::new(features, in_flight);
            let handed = hand_over(refused(hand_over(refused(orphan.kill()))));
            assert!(handed.record.drained && handed.record.rested.is_empty());
            let leased = Leased::resuming(handed);
            let (goes_on, take) = leased.taken_by();
            assert!(goes_on);
            take(Ok(Some(orphan.left())));
            let driver = &mut orphan.driver;
            for slot in 0..in_flight {
                let ended = driver.wait_for(0, slot).unwrap();
                assert_eq!((ended.response, ended.status), (0, 0), "{features:?}");
            }
            assert_eq!((status(driver, 0), status(driver, 1)), (0, 0), "{features:?}");
            // By now they have run, and come to rest in order.
            let told = begin_hand_over(&leased.rig);
            let (left, give) = leased.given();
            give(Ok(()));
            let handed = told.recv().unwrap().connection.unwrap();
            clear(&leased.rig);
            assert_eq!(handed.record.rested, (0..4).collect());
            let next = Leased::resuming(handed);
            next.taken_by().1(Ok(Some(left)));
            assert_eq!((status(driver, 0), status(driver, 1)), (0, 0), "{features:?}");
            orphan.bury();
            next.given().1(Ok(()));
        }
    }
}

#[test]
fn rings_that_stop_before_they_have_run_stop_where_their_notes_say() {
    for features in LAYOUTS {
        for in_flight in [0, 2] {
            let mut orphan = Orphan::new(features, in_flight);
            let leased = refused(orphan.kill());
            let driver = &mut orphan.driver;
            // Where that is, the guest knows as well.
            driver.stop(0).unwrap();
            driver.stop(1).unwrap();
            for queue in [0, 1] {
                driver.monitor.stop(queue).unwrap();
            }
            for slot in 0..in_flight {
                let ended = driver.wait_for(0, slot).unwrap();
                assert_eq!((ended.response, ended.status), (response::RESET, 0), "{features:?}");
            }
            assert_eq!(driver.outstanding(0), 0);
            (0..4).for_each(|queue| driver.monitor.start(queue).unwrap());
            let (goes_on, take) = leased.taken_by();
            assert!(goes_on, "{features:?}");
            take(Ok(Some(orphan.left())));
            let driver = &mut orphan.driver;
            assert_eq!((status(driver, 0), status(driver, 1)), (0, 0), "{features:?}");
            orphan.bury();
            leased.given().1(Ok(()));
        }
    }
}

#[test]
fn task_management_that_stops_before_it_is_carried_out_has_failed() {
    for features in LAYOUTS {
        let mut orphan = Orphan::new(features, 1);
        let abort = orphan.driver.send_task_management(function::ABORT_TASK, address(0, 0), 0).unwrap();
        settle(&orphan.old);
        let leased = refused(orphan.kill());
        orphan.driver.monitor.stop(0).unwrap();
        assert_eq!(orphan.driver.control_response(abort).unwrap(), [7], "TARGET FAILURE");
        // The other rings have run before, so the machine goes on.
        let (goes_on, take) = leased.taken_by();
        assert!(goes_on);
        take(Err("another host has them".to_owned()));
        orphan.bury();
    }
}

#[test]
fn nobody_is_told_where_a_ring_stands_whose_notes_are_of_no_use() {
    for features in LAYOUTS {
        let mut orphan = Orphan::new(features, 0);
        let handed = orphan.kill();
        let notes = File::from(handed.fds[&Role::Notes].try_clone().unwrap());
        let area = handed.record.notes.unwrap();
        // Of a ring of another size.
        notes.write_all_at(&[1, 0, 3, 0], 2 * (area.mmap_size / u64::from(area.queues)) + 8).unwrap();
        let _leased = refused(handed);
        assert!(matches!(orphan.driver.stop(0), Err(Error::Closed | Error::System { .. })));
        orphan.bury();
    }
}

/// It has come to rest, and waits again when its next daemon is killed.
#[test]
fn a_ring_at_rest_goes_on_after_a_kill() {
    for features in LAYOUTS {
        let mut orphan = Orphan::new(features, 0);
        let handed = begin_hand_over(&orphan.old).recv().unwrap().connection.unwrap();
        let leased = refused(handed);
        let handed = refuse_until(&leased, || known(&leased.rig).map(frozen));
        // Of what it does from now on nobody knows.
        drop(hand_over(leased));
        let next = Leased::resuming(handed);
        let (goes_on, take) = next.taken_by();
        assert!(goes_on);
        take(Ok(Some(orphan.left())));
        let driver = &mut orphan.driver;
        assert_eq!((status(driver, 0), status(driver, 1)), (0, 0), "{features:?}");
        orphan.bury();
        next.given().1(Ok(()));
    }
}

/// A machine begins, and its daemon is killed before the units could be had.
#[test]
fn rings_that_have_never_run_begin_after_a_kill() {
    for features in LAYOUTS {
        let leased = Leased::keeping_notes(true);
        let mut driver = ScsiDriver::connect(&leased.rig.socket, &set(features)).unwrap();
        driver.start().unwrap();
        let handed = refuse_until(&leased, || known(&leased.rig).map(frozen));
        assert_eq!(handed.record.waiting, (0..4).collect());
        let agreement = handed.record.agreement;
        drop(hand_over(leased));
        let next = Leased::resuming(handed);
        let (goes_on, take) = next.taken_by();
        assert!(!goes_on, "what came with the units is for another one");
        take(Ok(None));
        assert_eq!([2, 0, 0], [0, 0, 1].map(|queue| status(&mut driver, queue)), "{features:?}");
        // From now on they have notes of their own.
        let now = loop {
            if let Some(now) = known(&next.rig) {
                break now.record;
            }
        };
        assert!(now.waiting.is_empty() && now.agreement != agreement, "{features:?}");
        clear(&next.rig);
        drop(driver);
        next.given().1(Ok(()));
    }
}

/// By a front end that does not stop them before.
#[test]
fn rings_that_wait_and_are_set_up_anew_begin_anew() {
    for features in LAYOUTS {
        for in_flight in [0, 2] {
            let mut orphan = Orphan::new(features, in_flight);
            let leased = refused(orphan.kill());
            let driver = &mut orphan.driver;
            (0..2).for_each(|queue| driver.restart(queue).unwrap());
            (0..2).for_each(|queue| driver.monitor.start(queue).unwrap());
            loop {
                match leased.taken_by() {
                    (true, take) => take(Err("another host has them".to_owned())),
                    (false, take) => break take(Ok(None)),
                }
            }
            assert_eq!([2, 0, 0], [0, 0, 1].map(|queue| status(driver, queue)), "{features:?}");
            orphan.bury();
            leased.given().1(Ok(()));
        }
    }
}
