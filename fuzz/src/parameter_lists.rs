//! Parameter lists of MODE SELECT and UNMAP.

use crate::disks::{self, check_outcome};
use crate::input::Input;
use crate::lists;
use lunette_device_disk::Options;
use lunette_engine::{
    CommandFrame, Completion, LogicalUnit, Nexus, Outcome, PageControl, Responder, Session, Started,
};
use lunette_scsi::mode::ModePageCode;
use lunette_scsi::{Cdb, Lun, ServiceResponse, Status};
use lunette_store::sim::Sim;
use lunette_store::{Cx, Memory, Sg};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Lists made of mode pages that the disk has, or of block ranges, with bits flipped and bytes lost.
///
/// Only what is said to be changeable changes, a list that is refused changes nothing, and what MODE SENSE returns is
/// accepted by MODE SELECT. A refused UNMAP leaves the medium alone.
pub fn parameter_lists(data: &[u8]) {
    let mut input = Input::new(data);
    let mut rig = Rig::new(&mut input);
    rig.execute(&[0; 6], &[], 0);
    while !input.is_empty() {
        match input.below(4) {
            0 => rig.select(&mut input, false),
            1 | 2 => rig.select(&mut input, true),
            _ => rig.unmap(&mut input),
        }
    }
    rig.send_back();
}

#[derive(Default)]
struct Log(RefCell<Option<Outcome>>);

impl Responder for Log {
    fn command_ended(&self, _: u64, completion: Completion, _: &mut dyn Cx) {
        let Completion::Ended(outcome) = completion else { panic!("nothing aborts it") };
        assert!(self.0.replace(Some(outcome)).is_none());
    }

    fn management_ended(&self, _: u64, _: ServiceResponse, _: &mut dyn Cx) {}
}

struct Rig {
    sim: Sim,
    unit: Arc<LogicalUnit>,
    session: Session,
    log: Rc<Log>,
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let block_length = input.pick(&[512, 4096]);
        let unit = disks::disk(&Options { block_length, ..Options::default() }, None, input.one_in(8));
        let log = Rc::<Log>::default();
        let responder: Rc<dyn Responder> = log.clone();
        let mut sim = Sim::new(1);
        let nexus = Nexus::new("initiator", disks::port([unit.clone()]));
        let session = Session::open(nexus, Rc::downgrade(&responder), sim.cx(0));
        Self { sim, unit, session, log }
    }

    /// Carries a command out; its outcome and data.
    fn execute(&mut self, cdb: &[u8], list: &[u8], room: usize) -> (Outcome, Vec<u8>) {
        let cdb = Cdb::new(cdb).expect("a CDB");
        let (data_out, data_in) = (Memory::from_bytes(list), Memory::zeroed(room));
        let sent = list.len() as u64;
        let frame = CommandFrame { data_out: sent, ..CommandFrame::new(Lun::from_index(0), &cdb) };
        let (from, to) = ([data_out.seg()], [data_in.seg()]);
        let started = self.session.execute(&frame, Sg::new(&from), Sg::new(&to), self.sim.cx(0));
        let outcome = match started {
            Started::Ended(outcome) => outcome,
            Started::Pending => {
                self.sim.settle();
                self.log.0.take().expect("it ends")
            }
        };
        check_outcome(&outcome, list.len() as u64, room as u64);
        let mut data = data_in.to_vec();
        data.truncate(outcome.moved_in as usize);
        (outcome, data)
    }

    fn pages(&self, control: PageControl) -> Vec<Vec<u8>> {
        let page = |code: ModePageCode| self.unit.mode_page(code, control).expect("a page of its list");
        self.unit.mode_page_codes().into_iter().map(page).collect()
    }

    fn select(&mut self, input: &mut Input<'_>, ten: bool) {
        let mut list = lists::mode_pages(&self.unit, input, ten);
        lists::spoil(&mut list, input);
        let before = self.pages(PageControl::Current);
        let length = if input.one_in(8) { input.below(1 << 16) } else { list.len() };
        let [high, low] = (length as u16).to_be_bytes();
        let outcome = match ten {
            false => self.execute(&[0x15, 0x10, 0, 0, low, 0], &list, 0).0,
            true => self.execute(&[0x55, 0x10, 0, 0, 0, 0, 0, high, low, 0], &list, 0).0,
        };
        let after = self.pages(PageControl::Current);
        assert!(outcome.status == Status::GOOD || before == after, "refused but in force");
        let changeable = self.pages(PageControl::Changeable);
        for ((now, default), mask) in after.iter().zip(self.pages(PageControl::Default)).zip(changeable) {
            let header = if now[0] & 0x40 != 0 { 4 } else { 2 };
            let fields = now.iter().zip(&default).zip(&mask).enumerate();
            for (at, ((now, default), mask)) in fields {
                let mask = if at < header { 0 } else { *mask };
                assert_eq!((now ^ default) & !mask, 0, "byte {at} cannot change");
            }
        }
    }

    fn unmap(&mut self, input: &mut Input<'_>) {
        let mut list = lists::ranges(input);
        lists::spoil(&mut list, input);
        let [high, low] = (list.len() as u16).to_be_bytes();
        let block = vec![0xee; 8 * 4096];
        let blocks = (block.len() / self.block_length()) as u8;
        self.execute(&[0x2a, 0, 0, 0, 0, 0, 0, 0, blocks, 0], &block, 0);
        let read = [0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
        let before = self.execute(&read, &[], block.len()).1;
        let (outcome, _) = self.execute(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], &list, 0);
        let after = self.execute(&read, &[], block.len()).1;
        assert!(outcome.status == Status::GOOD || before == after, "refused but unmapped");
    }

    fn block_length(&mut self) -> usize {
        let (_, data) = self.execute(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8);
        u32::from_be_bytes(data[4..8].try_into().expect("8 bytes")) as usize
    }

    /// Sends all pages back as MODE SENSE returns them.
    fn send_back(&mut self) {
        let (outcome, list) = self.execute(&[0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0x10, 0, 0], &[], 4096);
        assert_eq!(outcome.status, Status::GOOD);
        let [high, low] = (list.len() as u16).to_be_bytes();
        let (outcome, _) = self.execute(&[0x55, 0x10, 0, 0, 0, 0, 0, high, low, 0], &list, 0);
        assert_eq!((outcome.status, outcome.sense), (Status::GOOD, None));
    }
}
