//! A disk that an operator protects while it is used.

use crate::Options;
use crate::testing::*;
use lunette_engine::ChangeError;
use lunette_scsi::Opcode;
use lunette_store::layer::fault::Fault;
use lunette_store::ram::Ram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CHANGED: Code = (6, 0x2a, 1);

type Told = Arc<Mutex<Option<Result<(), ChangeError>>>>;

impl Rig {
    fn set_read_only(&mut self, read_only: bool) -> Told {
        let told = Told::default();
        let tell = told.clone();
        let poster = self.poster();
        self.unit.set_read_only(read_only, &*poster, move |result| *tell.lock().unwrap() = Some(result));
        self.skip(Duration::ZERO);
        told
    }

    /// WP of the mode parameter header, in both forms.
    fn is_protected(&mut self) -> bool {
        let six = self.ask(&[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).good()[2];
        let ten = self.ask(&[0x5a, 8, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).good()[3];
        assert_eq!(six, ten);
        six & 0x80 != 0
    }
}

#[test]
fn writes_are_refused_as_long_as_the_operator_wants() {
    let mut rig = Rig::new();
    let other = rig.log_in();
    rig.write(0, &[1; 512]);
    let mut unmap = vec![0; 24];
    (unmap[1], unmap[3], unmap[19]) = (22, 16, 1);
    let mut compare = cdb(Opcode::COMPARE_AND_WRITE, 0, 0);
    compare[13] = 1;
    let writes: [(&[u8], &[u8]); 5] = [
        (&cdb(Opcode::WRITE_10, 0, 1), &[2; 512]),
        (&cdb(Opcode::WRITE_SAME_16, 0, 1), &[2; 512]),
        (&compare, &[1; 1024]),
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap),
        (&[4, 0, 0, 0, 0, 0], &[]),
    ];
    assert_eq!(*rig.set_read_only(true).lock().unwrap(), Some(Ok(())));
    for from in [0, other] {
        assert_eq!(rig.ask_from(from, &[0; 6], &[], 0).refused(), CHANGED);
    }
    assert!(rig.is_protected() && rig.unit.is_read_only());
    rig.reset();
    for (cdb, data) in writes {
        assert_eq!(rig.ask(cdb, data, 0).refused(), PROTECTED, "{cdb:x?}, also after a reset");
    }
    assert_eq!(rig.read(0, 1), [1; 512]);
    rig.ask(&cdb(Opcode::SYNCHRONIZE_CACHE_10, 0, 0), &[], 0).good();

    assert_eq!(*rig.set_read_only(true).lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.ask(&[0; 6], &[], 0).code(), None, "nothing has changed");
    assert_eq!(*rig.set_read_only(false).lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert!(!rig.is_protected());
    rig.write(0, &[3; 512]);
}

#[test]
fn an_initiator_neither_lifts_it_nor_loses_its_own() {
    let mut rig = Rig::new();
    let select = |on: bool| {
        let mut list = vec![0; 16];
        list[4..].copy_from_slice(&[0x0a, 10, 2, 0, if on { 8 } else { 0 }, 0, 0, 0, 0xff, 0xff, 0, 0]);
        list
    };
    let page = rig.ask(&[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).good()[4..].to_vec();
    let select = |on: bool| {
        let mut list = [&[0; 4][..], &page].concat();
        list[4] &= 0x3f;
        list[8] = list[8] & !8 | select(on)[8];
        list
    };
    assert_eq!(*rig.set_read_only(true).lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    let write = cdb(Opcode::WRITE_10, 0, 1);
    for on in [true, false] {
        rig.ask(&[0x15, 0x10, 0, 0, 16, 0], &select(on), 0).good();
        assert_eq!(rig.ask(&write, &[1; 512], 0).refused(), PROTECTED);
    }
    rig.ask(&[0x15, 0x10, 0, 0, 16, 0], &select(true), 0).good();
    assert_eq!(*rig.set_read_only(false).lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.ask(&write, &[1; 512], 0).refused(), SOFTWARE_PROTECTED);
}

#[test]
fn what_has_begun_is_written_before_it_is_done() {
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    let late = rig.admit(&cdb(Opcode::WRITE_16, 3, 1), 512);
    rig.begin(&cdb(Opcode::WRITE_16, 2, 1), &[5; 512]);
    let told = rig.set_read_only(true);
    assert_eq!(rig.start(late, &[6; 512]).refused(), PROTECTED);
    assert_eq!(*told.lock().unwrap(), None);
    assert_eq!(rig.ended().code(), None);
    rig.skip(Duration::ZERO);
    assert_eq!(*told.lock().unwrap(), Some(Ok(())));
    rig.ask(&[0; 6], &[], 0).refused();
    assert_eq!(rig.read(2, 2), [[5; 512], [0; 512]].concat());
}

#[test]
fn what_is_withdrawn_protects_nothing() {
    let slow = Fault::new(Arc::new(Ram::new(SIZE).unwrap()), "delay:10".parse().unwrap());
    let mut rig = Rig::over(Options::default(), Arc::new(slow), |_| {});
    rig.begin(&cdb(Opcode::WRITE_16, 2, 1), &[5; 512]);
    let (told, poster) = (Told::default(), rig.poster());
    let tell = told.clone();
    let request = rig.unit.set_read_only(true, &*poster, move |result| *tell.lock().unwrap() = Some(result));
    rig.skip(Duration::ZERO);
    assert!(rig.unit.is_read_only() && request.withdraw(&*poster) && !rig.unit.is_read_only());
    assert_eq!(*told.lock().unwrap(), None);
    assert_eq!(rig.ended().code(), None);
    rig.skip(Duration::ZERO);
    assert_eq!(*told.lock().unwrap(), Some(Err(ChangeError::Withdrawn)));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    rig.write(2, &[1; 512]);
}

#[test]
fn what_goes_on_by_itself_is_not_stopped() {
    let mut rig = Rig::with(Options { pace: 1 << 20, thin: false, ..Options::default() }, |caps| {
        caps.fast_zero = false
    });
    rig.ask(&[0x48, 0x83, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(
        *rig.set_read_only(true).lock().unwrap(),
        Some(Err(ChangeError::Busy("sanitizing the medium")))
    );
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.ask(&[0; 6], &[], 0).code(), None);
    rig.write(0, &[1; 512]);
}

#[test]
fn a_store_that_is_read_only_stays_so() {
    let mut rig = Rig::over(Options::default(), Arc::new(Ram::new(SIZE).unwrap().read_only()), |_| {});
    let refused = *rig.set_read_only(false).lock().unwrap();
    assert_eq!(refused.unwrap().unwrap_err().to_string(), "the store was opened read-only");
    assert_eq!(*rig.set_read_only(true).lock().unwrap(), Some(Ok(())));
    assert_eq!(rig.ask(&[0; 6], &[], 0).refused(), CHANGED);
    assert_eq!(rig.ask(&cdb(Opcode::WRITE_10, 0, 1), &[1; 512], 0).refused(), PROTECTED);
}
