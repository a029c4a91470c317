//! A disk that is quiet for a while.

use crate::Options;
use crate::testing::*;
use lunette_engine::ChangeError;
use lunette_scsi::Opcode;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Told = Arc<Mutex<Option<Result<(), ChangeError>>>>;

impl Rig {
    fn quiesce(&mut self) -> Told {
        let told = Told::default();
        let tell = told.clone();
        let poster = self.poster();
        self.unit.quiesce(&*poster, move |result| *tell.lock().unwrap() = Some(result));
        self.skip(Duration::ZERO);
        told
    }

    fn go_on(&mut self) {
        let poster = self.poster();
        self.unit.resume_commands(&*poster);
        self.skip(Duration::ZERO);
    }
}

#[test]
fn nothing_reaches_the_store_of_a_quiet_disk() {
    let mut rig = Rig::with(Options::default(), |caps| caps.volatile_cache = true);
    rig.write(0, &[1; 512]);
    rig.seen();
    assert_eq!(*rig.quiesce().lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.seen(), [Seen::Flush]);
    rig.begin(&cdb(Opcode::WRITE_16, 0, 1), &[2; 512]);
    rig.ask(&[0; 6], &[], 0).good();
    rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8).good();
    assert_eq!(rig.seen(), []);
    rig.go_on();
    assert_eq!(rig.ended_already().code(), None);
    assert_eq!(rig.read(0, 1), [2; 512]);
}

#[test]
fn a_disk_whose_store_caches_nothing_or_takes_no_writes_is_not_flushed() {
    let ram = || Arc::new(Ram::new(SIZE).unwrap());
    let mut plain = Rig::over(Options::default(), ram(), |caps| caps.volatile_cache = false);
    let mut protected = Rig::over(Options::default(), ram(), |caps| {
        (caps.volatile_cache, caps.read_only) = (true, true);
    });
    for rig in [&mut plain, &mut protected] {
        assert_eq!(*rig.quiesce().lock().unwrap(), Some(Ok(())));
        assert_eq!(rig.seen(), []);
    }
}

#[test]
fn a_disk_that_works_by_itself_does_not_become_quiet() {
    let mut rig = Rig::with(Options { pace: 1 << 20, thin: false, ..Options::default() }, |caps| {
        caps.fast_zero = false
    });
    rig.ask(&[0x48, 0x83, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0).good();
    let busy = Some(Err(ChangeError::Busy("sanitizing the medium")));
    assert_eq!((*rig.quiesce().lock().unwrap(), rig.unit.is_quiesced()), (busy, false));
    rig.pass(Duration::from_secs(2));
    rig.write(0, &[1; 512]);
    assert_eq!(*rig.quiesce().lock().unwrap(), Some(Ok(())));
}

#[test]
fn what_begins_to_sanitize_just_before_is_noticed() {
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
    let options = Options { pace: 1 << 20, thin: false, ..Options::default() };
    let mut rig = Rig::over(options, Arc::new(slow), |caps| caps.fast_zero = false);
    let other = rig.log_in();
    rig.begin(&cdb(Opcode::WRITE_16, 0, 1), &[1; 512]);
    // It waits for the write, and then goes on in the background.
    rig.send(other, &[0x48, 0x83, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    let told = rig.quiesce();
    rig.pass(Duration::from_millis(100));
    assert_eq!(*told.lock().unwrap(), Some(Err(ChangeError::Busy("sanitizing the medium"))));
    assert!(!rig.unit.is_quiesced());
}

#[test]
fn a_quiet_disk_is_resized_and_what_waits_goes_by_that() {
    let mut rig = Rig::new();
    assert_eq!(*rig.quiesce().lock().unwrap(), Some(Ok(())));
    rig.begin(&cdb(Opcode::WRITE_16, SIZE / 512 - 1, 1), &[1; 512]);
    let size = Arc::new(Mutex::new(None));
    let (tell, poster) = (size.clone(), rig.poster());
    rig.unit.resize(SIZE / 2, &*poster, move |result| *tell.lock().unwrap() = Some(result));
    rig.skip(Duration::ZERO);
    assert_eq!(*size.lock().unwrap(), Some(Ok(SIZE / 2)));
    rig.go_on();
    assert_eq!(rig.ended_already().refused(), OUT_OF_RANGE);
}
