//! What is said to every target, one PDU at a time.

use anyhow::{Context, Result};
use lunette_iscsi::pdu::{
    DataOut, LoginRequest, LogoutRequest, NO_TAG, NopOut, Opcode, TaskManagementFunction,
    TaskManagementRequest, TextRequest, flag,
};

use crate::wire::{INITIATOR, Login, Place, Wire, login_request};

type Step = fn(&Place) -> Result<String>;

const READ: u8 = flag::READ;
const WRITE: u8 = flag::WRITE;
const NO_DIGESTS: [(&str, &str); 2] = [("HeaderDigest", "None"), ("DataDigest", "None")];
const DIGESTS: [(&str, &str); 2] = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
/// All write data is asked for.
const SOLICITED: [(&str, &str); 2] = [("InitialR2T", "Yes"), ("ImmediateData", "No")];
const IMMEDIATE: [(&str, &str); 2] = [("InitialR2T", "Yes"), ("ImmediateData", "Yes")];

/// READ(10), WRITE(10) and their kin.
fn cdb(opcode: u8, lba: u32, blocks: u8) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, 0, blocks, 0]
}

/// The offers of an ordinary initiator, and each answer as a line of its own.
const OFFERS: [(&str, &str); 14] = [
    ("HeaderDigest", "CRC32C,None"),
    ("DataDigest", "CRC32C,None"),
    ("MaxConnections", "4"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxBurstLength", "16776192"),
    ("FirstBurstLength", "262144"),
    ("DefaultTime2Wait", "0"),
    ("DefaultTime2Retain", "3600"),
    ("MaxOutstandingR2T", "16"),
    ("DataPDUInOrder", "No"),
    ("DataSequenceInOrder", "No"),
    ("ErrorRecoveryLevel", "2"),
];

fn names(place: &Place) -> Vec<(&str, &str)> {
    vec![INITIATOR, ("TargetName", &place.target), ("SessionType", "Normal")]
}

/// A login with these keys: how it ends, and what is answered about them.
fn keys(place: &Place, keys: &[(&str, &str)]) -> Result<String> {
    answered(Wire::login(place, login_request(), keys)?, keys)
}

fn answered(login: Login, keys: &[(&str, &str)]) -> Result<String> {
    Ok(match login {
        Login::Ended(how) => how,
        Login::Accepted(_, answers) => {
            let asked = |key: &str| keys.iter().any(|(asked, _)| *asked == key);
            let told =
                answers.iter().filter(|(key, _)| asked(key)).map(|(key, value)| format!("{key}={value}"));
            ["accepted".to_owned()].into_iter().chain(told).collect::<Vec<_>>().join(" ")
        }
    })
}

fn key(place: &Place, key: &str, value: &str) -> Result<String> {
    let login = Wire::login(place, login_request(), &[&names(place)[..], &[(key, value)]].concat())?;
    answered(login, &[(key, value)])
}

fn changed(place: &Place, change: impl FnOnce(&mut LoginRequest)) -> Result<String> {
    let mut request = login_request();
    change(&mut request);
    answered(Wire::login(place, request, &names(place))?, &[])
}

fn session(place: &Place) -> Result<Wire> {
    Wire::session(place, &NO_DIGESTS)
}

fn manage(place: &Place, function: u8, lun: [u8; 8], referenced: u32) -> Result<String> {
    let mut wire = session(place)?;
    let tag = wire.tag();
    let request = TaskManagementRequest {
        opcode: Opcode::TASK_MANAGEMENT_REQUEST.immediate(),
        flags: flag::FINAL | function,
        lun,
        task_tag: tag.into(),
        referenced_task_tag: referenced.into(),
        cmd_sn: wire.cmd_sn.into(),
        exp_stat_sn: wire.exp_stat_sn().into(),
        ref_cmd_sn: wire.cmd_sn.wrapping_sub(1).into(),
        ..Default::default()
    };
    wire.send(request, &[])?;
    wire.until_ended(tag)
}

fn function(place: &Place, function: TaskManagementFunction) -> Result<String> {
    manage(place, function.0, place.lun(), NO_TAG)
}

fn text(place: &Place, text: &[u8]) -> Result<String> {
    let mut wire = session(place)?;
    let tag = wire.tag();
    let request = TextRequest {
        opcode: Opcode::TEXT_REQUEST.immediate(),
        task_tag: tag.into(),
        transfer_tag: NO_TAG.into(),
        cmd_sn: wire.cmd_sn.into(),
        exp_stat_sn: wire.exp_stat_sn().into(),
        ..Default::default()
    };
    wire.send(request, text)?;
    let said = wire.until_ended(tag)?;
    Ok(said.replace(&place.target, "TARGET").replace(&place.portal.to_string(), "PORTAL"))
}

fn nop(wire: &Wire, tag: u32) -> NopOut {
    NopOut {
        opcode: Opcode::NOP_OUT.immediate(),
        task_tag: tag.into(),
        transfer_tag: NO_TAG.into(),
        cmd_sn: wire.cmd_sn.into(),
        exp_stat_sn: wire.exp_stat_sn().into(),
        ..Default::default()
    }
}

fn data_out(wire: &Wire, tag: u32, transfer_tag: u32, (number, offset): (u32, u32), last: bool) -> DataOut {
    DataOut {
        flags: if last { flag::FINAL } else { 0 },
        task_tag: tag.into(),
        transfer_tag: transfer_tag.into(),
        exp_stat_sn: wire.exp_stat_sn().into(),
        data_sn: number.into(),
        buffer_offset: offset.into(),
        ..Default::default()
    }
}

fn logout(place: &Place, reason: u8, cid: u16) -> Result<String> {
    let mut wire = session(place)?;
    let tag = wire.tag();
    let request = LogoutRequest {
        opcode: Opcode::LOGOUT_REQUEST.immediate(),
        flags: flag::FINAL | reason,
        task_tag: tag.into(),
        cid: cid.into(),
        cmd_sn: wire.cmd_sn.into(),
        exp_stat_sn: wire.exp_stat_sn().into(),
        ..Default::default()
    };
    wire.send(request, &[])?;
    wire.until_ended(tag)
}

fn read(place: &Place, blocks: u8, flags: u8, expected: u32) -> Result<String> {
    session(place)?.command(place.lun(), &cdb(0x28, 0, blocks), flags, expected, &[])
}

/// A WRITE(10) of so many blocks, whose data is all immediate.
fn write(place: &Place, blocks: u8, expected: u32, data: usize) -> Result<String> {
    let mut wire = Wire::session(place, &[NO_DIGESTS, IMMEDIATE].concat())?;
    wire.command(place.lun(), &cdb(0x2a, 0, blocks), WRITE, expected, &vec![0x5a; data])
}

/// The steps by name, in the order in which they are taken.
pub(crate) const STEPS: &[(&str, Step)] = &[
    ("login without InitiatorName", |place| {
        keys(place, &[("TargetName", &place.target), ("SessionType", "Normal")])
    }),
    ("login without TargetName", |place| keys(place, &[INITIATOR, ("SessionType", "Normal")])),
    ("login without SessionType", |place| keys(place, &[INITIATOR, ("TargetName", &place.target)])),
    ("login to an unknown target", |place| {
        keys(place, &[INITIATOR, ("TargetName", "iqn.2026-11.dev.lunette:nobody")])
    }),
    ("login with another session type", |place| {
        keys(place, &[INITIATOR, ("TargetName", &place.target), ("SessionType", "Other")])
    }),
    ("login with version 1 only", |place| changed(place, |it| (it.version_min, it.version_max) = (1, 1))),
    ("login with versions 0 to 5", |place| changed(place, |it| it.version_max = 5)),
    ("login to a session that is not there", |place| changed(place, |it| it.tsih = 0x7777.into())),
    ("login without the I bit", |place| changed(place, |it| it.opcode = Opcode::LOGIN_REQUEST)),
    ("login from a reserved stage", |place| changed(place, |it| it.flags = flag::TRANSIT | 2 << 2 | 3)),
    ("login back to an earlier stage", |place| changed(place, |it| it.flags = flag::TRANSIT | 1 << 2)),
    ("login with T and C bits", |place| changed(place, |it| it.flags |= flag::CONTINUE)),
    ("AuthMethod=CHAP where none is wanted", |place| {
        let request = LoginRequest { flags: flag::TRANSIT | 1, ..login_request() };
        let offer = ("AuthMethod", "CHAP");
        answered(Wire::login(place, request, &[&names(place)[..], &[offer]].concat())?, &[offer])
    }),
    ("AuthMethod=CHAP,None where none is wanted", |place| {
        let request = LoginRequest { flags: flag::TRANSIT | 1, ..login_request() };
        let offer = ("AuthMethod", "CHAP,None");
        answered(Wire::login(place, request, &[&names(place)[..], &[offer]].concat())?, &[offer])
    }),
    ("key X-org.example=1", |place| key(place, "X-org.example", "1")),
    ("key Unheard=1", |place| key(place, "Unheard", "1")),
    ("key HeaderDigest=MD5", |place| key(place, "HeaderDigest", "MD5")),
    ("key MaxRecvDataSegmentLength=511", |place| key(place, "MaxRecvDataSegmentLength", "511")),
    ("key MaxBurstLength=0x40000", |place| key(place, "MaxBurstLength", "0x40000")),
    ("key InitialR2T=Maybe", |place| key(place, "InitialR2T", "Maybe")),
    ("key IFMarker=Yes", |place| key(place, "IFMarker", "Yes")),
    ("key TaskReporting=RFC3720,FastAbort", |place| key(place, "TaskReporting", "RFC3720,FastAbort")),
    ("key iSCSIProtocolLevel=2", |place| key(place, "iSCSIProtocolLevel", "2")),
    ("the same key twice", |place| {
        let twice = [("MaxBurstLength", "65536"), ("MaxBurstLength", "131072")];
        keys(place, &[&names(place)[..], &twice].concat()).map(|said| said.replace(&place.target, "TARGET"))
    }),
    ("login text that is no text", |place| {
        let mut wire = Wire::connect(place)?;
        let request = LoginRequest { task_tag: 1.into(), ..login_request() };
        wire.send(request, b"no equals sign\0")?;
        wire.until(|_| true)
    }),
    ("a command instead of a login", |place| {
        let mut wire = Wire::connect(place)?;
        wire.command(place.lun(), &[0; 6], READ, 0, &[])
    }),
    ("the same initiator port again", |place| {
        let request = login_request();
        let mut first = match Wire::login(place, request, &names(place))? {
            Login::Accepted(wire, _) => wire,
            Login::Ended(how) => return Ok(how),
        };
        let second = answered(Wire::login(place, request, &names(place))?, &[])?;
        let ping = nop(&first, 1);
        first.send(ping, &[])?;
        Ok(format!("second {second}, first {}", first.until(|header| header[0] == Opcode::NOP_IN.0)?))
    }),
    ("text SendTargets=", |place| text(place, b"SendTargets=\0")),
    ("text SendTargets=All", |place| text(place, b"SendTargets=All\0")),
    ("text SendTargets of its own name", |place| {
        text(place, format!("SendTargets={}\0", place.target).as_bytes())
    }),
    ("text SendTargets of another name", |place| {
        text(place, b"SendTargets=iqn.2026-11.dev.lunette:nobody\0")
    }),
    ("text X-org.example=1", |place| text(place, b"X-org.example=1\0")),
    ("text MaxRecvDataSegmentLength=4096", |place| text(place, b"MaxRecvDataSegmentLength=4096\0")),
    ("text MaxBurstLength=4096", |place| text(place, b"MaxBurstLength=4096\0")),
    ("text without a value", |place| text(place, b"nothing\0")),
    ("empty text", |place| text(place, b"")),
    ("ping with data", |place| {
        let mut wire = session(place)?;
        let tag = wire.tag();
        wire.send(nop(&wire, tag), b"hello")?;
        wire.until_ended(tag)
    }),
    ("ping that wants no answer", |place| {
        let mut wire = session(place)?;
        wire.send(nop(&wire, NO_TAG), b"hello")?;
        wire.settled()
    }),
    ("ping within the order that wants no answer", |place| {
        let mut wire = session(place)?;
        wire.send(NopOut { opcode: Opcode::NOP_OUT, ..nop(&wire, NO_TAG) }, &[])?;
        wire.settled()
    }),
    ("an unknown opcode", |place| {
        let mut wire = session(place)?;
        let tag = wire.tag();
        wire.send(NopOut { opcode: Opcode(0x1f).immediate(), ..nop(&wire, tag) }, &[])?;
        wire.settled()
    }),
    ("an opcode of targets", |place| {
        let mut wire = session(place)?;
        let tag = wire.tag();
        wire.send(NopOut { opcode: Opcode::SCSI_RESPONSE, ..nop(&wire, tag) }, &[])?;
        wire.settled()
    }),
    ("SNACK at level 0", |place| {
        let mut wire = session(place)?;
        let tag = wire.tag();
        wire.send(NopOut { opcode: Opcode::SNACK_REQUEST, ..nop(&wire, tag) }, &[])?;
        wire.settled()
    }),
    ("login in full-feature phase", |place| {
        let mut wire = session(place)?;
        wire.send(LoginRequest { task_tag: 99.into(), cmd_sn: wire.cmd_sn.into(), ..login_request() }, &[])?;
        wire.settled()
    }),
    ("CmdSN beyond the window", |place| {
        let mut wire = session(place)?;
        wire.cmd_sn = wire.max_cmd_sn.wrapping_add(100);
        wire.start(place.lun(), &[0; 6], READ, 0, &[])?;
        wire.cmd_sn = wire.cmd_sn.wrapping_sub(1);
        wire.settled()
    }),
    ("CmdSN of the past", |place| {
        let mut wire = session(place)?;
        wire.cmd_sn = wire.cmd_sn.wrapping_sub(1);
        wire.start(place.lun(), &[0; 6], READ, 0, &[])?;
        wire.settled()
    }),
    ("two commands out of order", |place| {
        let mut wire = session(place)?;
        let next = wire.cmd_sn;
        wire.cmd_sn = next.wrapping_add(1);
        let late = wire.start(place.lun(), &[0; 6], READ, 0, &[])?;
        wire.cmd_sn = next;
        wire.start(place.lun(), &[0x12, 0, 0, 0, 36, 0], READ, 36, &[])?;
        wire.until_ended(late)
    }),
    ("a read that gets less than expected", |place| read(place, 1, READ, 1024)),
    ("a read that gets more than expected", |place| read(place, 2, READ, 512)),
    ("a read without the R bit", |place| read(place, 1, 0, 512)),
    ("a read with the W bit", |place| read(place, 1, WRITE, 512)),
    ("a read of no blocks", |place| read(place, 0, READ, 512)),
    ("a write of one block", |place| write(place, 1, 512, 512)),
    ("a write that gets less than expected", |place| write(place, 1, 1024, 1024)),
    ("a write that wants more than expected", |place| write(place, 2, 512, 512)),
    ("immediate data beyond what is expected", |place| write(place, 1, 512, 1024)),
    ("immediate data that was not agreed on", |place| {
        let mut wire = Wire::session(place, &[NO_DIGESTS, SOLICITED].concat())?;
        wire.command(place.lun(), &cdb(0x2a, 0, 1), WRITE, 512, &[0x5a; 512])
    }),
    ("unsolicited data that was not agreed on", |place| {
        let mut wire = Wire::session(place, &[NO_DIGESTS, SOLICITED].concat())?;
        let tag = wire.start(place.lun(), &cdb(0x2a, 0, 1), WRITE, 512, &[])?;
        let r2t = wire.until_ended(tag)?;
        wire.send(data_out(&wire, tag, NO_TAG, (0, 0), true), &[0x5a; 512])?;
        Ok(format!("{r2t}, {}", wire.until_ended(tag)?))
    }),
    ("data with a wrong DataSN", |place| solicited(place, (1, 0), 512, true)),
    ("data with a wrong offset", |place| solicited(place, (0, 4), 512, true)),
    ("less data than was asked for", |place| solicited(place, (0, 0), 256, true)),
    ("more data than was asked for", |place| solicited(place, (0, 0), 1024, true)),
    ("data for a task that is not there", |place| {
        let mut wire = session(place)?;
        wire.send(data_out(&wire, 0x7777, 0x7777, (0, 0), true), &[0x5a; 512])?;
        wire.settled()
    }),
    ("a wrong header digest", |place| {
        let mut wire = Wire::session(place, &DIGESTS)?;
        let tag = wire.tag();
        let mut bytes = wire.wire(nop(&wire, tag), &[]);
        bytes[48] ^= 1;
        wire.send_raw(&bytes)?;
        wire.settled()
    }),
    ("a wrong data digest of a ping", |place| {
        let mut wire = Wire::session(place, &DIGESTS)?;
        let tag = wire.tag();
        let mut bytes = wire.wire(nop(&wire, tag), b"hello");
        *bytes.last_mut().context("a digest")? ^= 1;
        wire.send_raw(&bytes)?;
        wire.settled()
    }),
    ("a wrong data digest of immediate data", |place| {
        let mut wire = Wire::session(place, &[DIGESTS, IMMEDIATE].concat())?;
        let tag = wire.tag();
        let mut header = lunette_iscsi::pdu::ScsiCommand {
            flags: flag::FINAL | WRITE,
            lun: place.lun(),
            task_tag: tag.into(),
            expected_length: 512.into(),
            cmd_sn: wire.cmd_sn.into(),
            exp_stat_sn: wire.exp_stat_sn().into(),
            ..Default::default()
        };
        header.cdb[..10].copy_from_slice(&cdb(0x2a, 0, 1));
        let mut bytes = wire.wire(header, &[0x5a; 512]);
        *bytes.last_mut().context("a digest")? ^= 1;
        wire.send_raw(&bytes)?;
        wire.cmd_sn = wire.cmd_sn.wrapping_add(1);
        wire.settled()
    }),
    ("ABORT TASK of no task", |place| manage(place, 1, place.lun(), 0x7777)),
    ("ABORT TASK SET", |place| function(place, TaskManagementFunction::ABORT_TASK_SET)),
    ("CLEAR ACA", |place| function(place, TaskManagementFunction::CLEAR_ACA)),
    ("CLEAR TASK SET", |place| function(place, TaskManagementFunction::CLEAR_TASK_SET)),
    ("LOGICAL UNIT RESET", |place| function(place, TaskManagementFunction::LOGICAL_UNIT_RESET)),
    ("LOGICAL UNIT RESET of no LUN", |place| manage(place, 5, [0, 99, 0, 0, 0, 0, 0, 0], NO_TAG)),
    ("TARGET WARM RESET", |place| function(place, TaskManagementFunction::TARGET_WARM_RESET)),
    ("TARGET COLD RESET", |place| function(place, TaskManagementFunction::TARGET_COLD_RESET)),
    ("TASK REASSIGN", |place| manage(place, 8, place.lun(), 0x7777)),
    ("QUERY TASK at protocol level 1", |place| manage(place, 9, place.lun(), 0x7777)),
    ("I_T NEXUS RESET at protocol level 1", |place| manage(place, 11, place.lun(), NO_TAG)),
    ("an unknown function", |place| manage(place, 0x70, place.lun(), NO_TAG)),
    ("TEST UNIT READY of no LUN", |place| {
        session(place)?.command([0, 99, 0, 0, 0, 0, 0, 0], &[0; 6], READ, 0, &[])
    }),
    ("INQUIRY of no LUN", |place| {
        session(place)?.command([0, 99, 0, 0, 0, 0, 0, 0], &[0x12, 0, 0, 0, 36, 0], READ, 36, &[])
    }),
    ("REPORT LUNS of no LUN", |place| {
        let cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
        session(place)?.command([0, 99, 0, 0, 0, 0, 0, 0], &cdb, READ, 16, &[])
    }),
    ("an operation code of nobody", |place| {
        session(place)?.command(place.lun(), &[0xc1, 0, 0, 0, 0, 0], READ, 0, &[])
    }),
    ("a reserved bit of a CDB", |place| {
        session(place)?.command(place.lun(), &[0, 0, 1, 0, 0, 0], READ, 0, &[])
    }),
    ("NACA in a CDB", |place| session(place)?.command(place.lun(), &[0, 0, 0, 0, 0, 4], READ, 0, &[])),
    ("logout of the session", |place| logout(place, 0, 0)),
    ("logout of the connection", |place| logout(place, 1, 0)),
    ("logout of another connection", |place| logout(place, 1, 7)),
    ("logout for recovery at level 0", |place| logout(place, 2, 0)),
    ("logout for no reason", |place| logout(place, 9, 0)),
];

/// A WRITE(10) of one block, and one PDU of data after its R2T.
fn solicited(place: &Place, at: (u32, u32), length: usize, last: bool) -> Result<String> {
    let mut wire = Wire::session(place, &[NO_DIGESTS, SOLICITED].concat())?;
    let tag = wire.start(place.lun(), &cdb(0x2a, 0, 1), WRITE, 512, &[])?;
    let transfer_tag = std::cell::Cell::new(0);
    wire.until(|header| {
        transfer_tag.set(u32::from_be_bytes([header[20], header[21], header[22], header[23]]));
        true
    })?;
    wire.send(data_out(&wire, tag, transfer_tag.get(), at, last), &vec![0x5a; length])?;
    wire.until_ended(tag)
}

/// Steps that are not taken with who is fragile: it writes past its buffers and may end at any time or, at the last, hears
/// nothing more now and then.
const VIOLENT: [&str; 4] = [
    "immediate data beyond what is expected",
    "data with a wrong offset",
    "more data than was asked for",
    "ping that wants no answer",
];

/// Takes all steps: their names, and what the target answers.
pub(crate) fn take(place: &Place) -> Vec<(String, String)> {
    let offers = Wire::login(place, login_request(), &[&names(place)[..], &OFFERS].concat());
    let mut said: Vec<(String, String)> = OFFERS
        .iter()
        .map(|(key, value)| {
            let answer = match &offers {
                Ok(Login::Accepted(_, answers)) => answers
                    .iter()
                    .find(|(name, _)| name == key)
                    .map_or("none".into(), |(_, answer)| answer.clone()),
                Ok(Login::Ended(how)) => how.clone(),
                Err(error) => format!("{error:#}"),
            };
            (format!("offer {key}={value}"), answer)
        })
        .collect();
    drop(offers);
    let steps = STEPS.iter().filter(|(name, _)| !(place.fragile && VIOLENT.contains(name)));
    said.extend(
        steps.map(|(name, step)| {
            ((*name).to_owned(), step(place).unwrap_or_else(|error| format!("{error:#}")))
        }),
    );
    said
}
