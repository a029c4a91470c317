//! What reservations do to each command, by the tables of the standards.

use crate::Options;
use crate::testing::*;
use lunette_engine::{Reservation, spc};
use lunette_scsi::{Cdb, Opcode};

/// Processed also while another initiator has reserved the unit with RESERVE (SPC-2 table 10).
const EXEMPT: &[&str] =
    &["INQUIRY", "LOG SENSE", "RELEASE", "REPORT IDENTIFYING INFORMATION", "REPORT LUNS", "REQUEST SENSE"];

/// Allowed under every persistent reservation of another (SPC-4 5.12, SBC-4 4.17), or a matter of the command itself.
const ALLOWED: &[&str] = &[
    "PERSISTENT RESERVE IN",
    "PERSISTENT RESERVE OUT",
    "READ CAPACITY",
    "RECEIVE COPY FAILURE DETAILS",
    "RECEIVE COPY OPERATING PARAMETERS",
    "RECEIVE COPY STATUS",
    "REPORT ALIASES",
    "REPORT PRIORITY",
    "REPORT REFERRALS",
    "REPORT TARGET PORT GROUPS",
    "REPORT TIMESTAMP",
    "RESERVE",
    "TEST UNIT READY",
];

/// Allowed under Write Exclusive reservations of another.
const READ: &[&str] = &[
    "GET LBA STATUS",
    "MODE SENSE",
    "PRE-FETCH",
    "READ",
    "READ BUFFER",
    "READ DEFECT DATA",
    "RECEIVE DIAGNOSTIC RESULTS",
    "REPORT SUPPORTED OPERATION CODES",
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    "SECURITY PROTOCOL IN",
    "VERIFY",
];

/// All other commands conflict with every reservation of another.
fn by_the_standards(name: &str) -> Reservation {
    let name = name.split('(').next().unwrap_or(name);
    let name = match name.split_once(" RESERVE ").map(|(first, rest)| (first, rest.split(' ').next())) {
        Some(("PERSISTENT", Some("IN"))) => "PERSISTENT RESERVE IN",
        Some(("PERSISTENT", Some("OUT"))) => "PERSISTENT RESERVE OUT",
        _ => name,
    };
    match name {
        _ if EXEMPT.contains(&name) => Reservation::Exempt,
        _ if ALLOWED.contains(&name) => Reservation::Allowed,
        _ if READ.contains(&name) => Reservation::Read,
        _ => Reservation::Write,
    }
}

#[test]
fn every_command_is_excluded_as_the_standards_say() {
    for thin in [false, true] {
        let rig = Rig::with(Options { thin, ..Options::default() }, |_| {});
        for spec in rig.unit.device().commands().chain(spc::COMMANDS.iter().map(|command| &command.spec)) {
            assert_eq!(spec.reservation, by_the_standards(spec.name), "{}", spec.name);
        }
    }
}

#[test]
fn commands_that_are_excluded_by_what_they_ask_for() {
    let rig = Rig::new();
    let of = |bytes: [u8; 6]| {
        let spec = rig.unit.device().commands().find(|spec| spec.opcode == Opcode(bytes[0])).unwrap();
        spec.reservation_of(&Cdb::new(&bytes).unwrap())
    };
    let start_stop = |byte| of([0x1b, 0, 0, 0, byte, 0]);
    assert_eq!([0x01, 0x03].map(start_stop), [Reservation::Allowed; 2]);
    assert_eq!([0x00, 0x02, 0x11, 0x30].map(start_stop), [Reservation::Write; 4]);
    let prevent = |byte| of([0x1e, 0, 0, 0, byte, 0]);
    assert_eq!([0, 1].map(prevent), [Reservation::Exempt, Reservation::Write]);
}
