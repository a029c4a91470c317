//! The room that is left for a thin disk, and being told when it runs out.

use crate::Options;
use crate::testing::*;
use lunette_scsi::mode::ProvisioningThreshold;
use lunette_store::ram::Ram;
use lunette_store::{Backing, Caps, Cx, IoError, Lane, Room, Store};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const REACHED: Code = (6, 0x38, 0x07);
/// A threshold set.
const SET: u64 = 2048 * 512;

/// Memory with as much room as the test says.
#[derive(Clone)]
struct Roomy(Arc<dyn Backing>, Arc<Mutex<Result<Room, IoError>>>, Arc<Lane>);

impl Backing for Roomy {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn lane(&self) -> Option<&Lane> {
        Some(&self.2)
    }

    fn room(&self) -> Result<Room, IoError> {
        *self.1.lock().unwrap()
    }

    fn attach(&self, cx: &mut dyn Cx) -> Rc<dyn Store> {
        self.0.attach(cx)
    }
}

fn rig(options: Options) -> (Rig, Roomy) {
    let room = Ok(Room { free: 9 * SET, used: 3 * SET });
    let store = Roomy(Arc::new(Ram::new(SIZE).unwrap()), Arc::new(Mutex::new(room)), Arc::default());
    (Rig::over(options, Arc::new(store.clone()), |_| {}), store)
}

impl Roomy {
    fn leave(&self, free: u64) {
        *self.1.lock().unwrap() = Ok(Room { free, used: 0 });
    }
}

fn select(rig: &mut Rig, enabled: bool, count: u32) -> Answer {
    let page = ProvisioningThreshold { enabled, count, resource: 1, ..Default::default() };
    let list = [&[0; 4][..], &page.encode(false)].concat();
    rig.ask(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list, 0)
}

fn exponent(rig: &mut Rig) -> u8 {
    rig.ask(&[0x12, 1, 0xb2, 0, 255, 0], &[], 255).good()[4]
}

const OFTEN: Duration = Duration::from_secs(10);

/// What both initiators are told next.
fn told(rig: &mut Rig, after: Duration) -> [Option<Code>; 2] {
    rig.skip(after);
    [0, 1].map(|from| rig.ask_from(from, &TEST_UNIT_READY, &[], 0).code())
}

#[test]
fn all_are_told_each_time_that_the_threshold_is_reached() {
    let (mut rig, store) = rig(Options::default());
    assert_eq!((rig.log_in(), exponent(&mut rig)), (1, 11));
    rig.resume();
    store.leave(0);
    assert_eq!(told(&mut rig, OFTEN), [None; 2], "it is off until it is set");
    store.leave(5 * SET);
    select(&mut rig, true, 4).good();
    assert_eq!(told(&mut rig, OFTEN), [None, Some((6, 0x2a, 0x01))], "mode parameters changed");
    assert_eq!(told(&mut rig, OFTEN), [None; 2]);
    for _ in 0..2 {
        store.leave(5 * SET - 1);
        assert_eq!(told(&mut rig, OFTEN), [Some(REACHED); 2]);
        store.leave(SET);
        assert_eq!(told(&mut rig, OFTEN), [None; 2], "once is enough");
        store.leave(5 * SET);
        assert_eq!(told(&mut rig, OFTEN), [None; 2]);
    }
    *store.1.lock().unwrap() = Err(IoError::Os(5));
    assert_eq!(told(&mut rig, OFTEN), [None; 2], "nothing is known");
}

#[test]
fn the_room_is_looked_at_for_as_long_as_somebody_wants_to_be_told() {
    let (mut rig, store) = rig(Options::default());
    let look = vec![Some(store.2.number())];
    rig.resume();
    rig.skip(OFTEN);
    assert_eq!(rig.lanes(), []);
    for round in 0..2 {
        select(&mut rig, true, 4).good();
        rig.skip(Duration::ZERO);
        assert_eq!(rig.lanes(), look, "round {round}: at once, in a lane of the store's");
        select(&mut rig, true, 5).good();
        rig.skip(Duration::ZERO);
        assert_eq!(rig.lanes(), [], "once");
        rig.skip(OFTEN);
        assert_eq!(rig.lanes(), look);
        select(&mut rig, false, 5).good();
        rig.skip(OFTEN);
        rig.skip(OFTEN);
        assert_eq!(rig.lanes(), []);
    }
}

#[test]
fn a_saved_threshold_is_watched_over_resets_and_restarts() {
    let (mut rig, store) = rig(Options::default());
    let look = vec![Some(store.2.number())];
    rig.unit.keep_state(Arc::new(lunette_engine::RamKeeper::default())).unwrap();
    let page = ProvisioningThreshold { enabled: true, count: 4, resource: 1, ..Default::default() };
    let list = [&[0; 4][..], &page.encode(false)].concat();
    rig.ask(&[0x15, 0x11, 0, 0, list.len() as u8, 0], &list, 0).good();
    assert_eq!(rig.lanes(), look);
    select(&mut rig, false, 4).good();
    rig.skip(OFTEN);
    assert_eq!(rig.lanes(), look, "a reset would set it again");
}

#[test]
fn the_log_says_how_much_room_there_is() {
    let (mut rig, store) = rig(Options::default());
    let log = |rig: &mut Rig, room| rig.ask(&[0x4d, 0, 0x4c, 0, 0, 0, 0, 0, 255, 0], &[], room);
    let available = [0, 1, 0x23, 8, 0, 0, 0, 9, 2, 0, 0, 0];
    let used = [0, 2, 0x23, 8, 0, 0, 0, 3, 1, 0, 0, 0];
    assert_eq!(log(&mut rig, 255).good()[2..], [&[0, 24][..], &available, &used].concat());
    assert_eq!(rig.lanes(), [Some(store.2.number())], "it may take long");
    store.leave(u64::MAX);
    assert_eq!(log(&mut rig, 12).good()[8..12], [0xff; 4]);
    let from = |rig: &mut Rig, first| rig.ask(&[0x4d, 0, 0x4c, 0, 0, 0, first, 0, 255, 0], &[], 255);
    assert_eq!(from(&mut rig, 2).good()[..6], [0x8c, 0, 0, 12, 0, 2]);
    assert_eq!(from(&mut rig, 3).refused(), INVALID_FIELD);
    *store.1.lock().unwrap() = Err(IoError::Os(5));
    assert_eq!(log(&mut rig, 255).good()[2..], [0, 0], "nothing can be seen");
}

#[test]
fn without_known_room_there_is_no_threshold() {
    let (mut thick, _) = rig(Options { thin: false, ..Options::default() });
    for rig in [&mut thick, &mut Rig::new()] {
        assert_eq!(exponent(rig), 0);
        assert_eq!(rig.ask(&[0x1a, 0, 0x1c, 2, 255, 0], &[], 255).refused(), INVALID_FIELD);
        assert_eq!(select(rig, true, 1).refused(), INVALID_PARAMETER);
        rig.resume();
    }
}
