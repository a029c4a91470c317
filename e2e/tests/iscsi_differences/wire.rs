//! A connection that says what it is told to and puts into words what it hears.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lunette_iscsi::digest::crc32c;
use lunette_iscsi::pdu::{
    BHS, DataIn, Header, LoginRequest, LoginResponse, NO_TAG, NopOut, Opcode, ReadyToTransfer, Reject,
    ScsiCommand, ScsiResponse, TaskManagementResponse, flag,
};
use lunette_iscsi::text;

/// Who says nothing for this long is taken to say nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// From operational negotiation to full-feature phase.
const STRAIGHT_THROUGH: u8 = flag::TRANSIT | 1 << 2 | 3;

/// Keys that ask for no answer.
const DECLARED: [&str; 5] =
    ["MaxRecvDataSegmentLength", "TargetAddress", "TargetAlias", "TargetName", "TargetPortalGroupTag"];

/// Where a disk is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) portal: SocketAddr,
    pub(crate) target: String,
    pub(crate) lun: u8,
    /// It does not survive everything.
    pub(crate) fragile: bool,
}

impl Place {
    pub(crate) fn lun(&self) -> [u8; 8] {
        [0, self.lun, 0, 0, 0, 0, 0, 0]
    }
}

/// What was heard.
enum Heard {
    Pdu([u8; BHS], Vec<u8>),
    Closed,
    Nothing,
}

/// How the target has answered a login.
pub(crate) enum Login {
    Accepted(Wire, Vec<(String, String)>),
    Ended(String),
}

/// A connection.
pub(crate) struct Wire {
    socket: TcpStream,
    pub(crate) cmd_sn: u32,
    pub(crate) max_cmd_sn: u32,
    exp_stat_sn: u32,
    next_tag: u32,
    digests: bool,
}

pub(crate) const INITIATOR: (&str, &str) = ("InitiatorName", "iqn.2026-11.dev.lunette:wire");

/// A first login request for a session of its own.
pub(crate) fn login_request() -> LoginRequest {
    static SESSIONS: AtomicU16 = AtomicU16::new(1);
    let [high, low] = SESSIONS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    LoginRequest { flags: STRAIGHT_THROUGH, isid: [0x80, 0, 0, 0, high, low], ..Default::default() }
}

impl Wire {
    pub(crate) fn connect(place: &Place) -> Result<Wire> {
        let socket = TcpStream::connect(place.portal).context("cannot connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire { socket, cmd_sn: 1, max_cmd_sn: 1, exp_stat_sn: 0, next_tag: 1, digests: false })
    }

    /// Logs in with a request and these keys, and goes on as long as the target has more to negotiate.
    pub(crate) fn login(place: &Place, request: LoginRequest, keys: &[(&str, &str)]) -> Result<Login> {
        let mut wire = Wire::connect(place)?;
        let mut text = Vec::new();
        for (key, value) in keys {
            text::push(&mut text, key, value);
        }
        let mut request =
            LoginRequest { task_tag: 1.into(), cmd_sn: wire.cmd_sn.into(), exp_stat_sn: 0.into(), ..request };
        let mut answers = Vec::new();
        for _ in 0..10 {
            wire.send(request, &text)?;
            let (header, data) = match wire.receive()? {
                Heard::Pdu(header, data) => (header, data),
                Heard::Closed => return Ok(Login::Ended("closed".into())),
                Heard::Nothing => return Ok(Login::Ended("silence".into())),
            };
            let response: &LoginResponse = header.as_ref();
            if response.opcode.kind() != Opcode::LOGIN_RESPONSE {
                return Ok(Login::Ended(wire.describe(&header, &data)));
            }
            let status = response.status.get();
            if status != 0 {
                return Ok(Login::Ended(format!("login status {status:04x}")));
            }
            text.clear();
            for (key, value) in text::parse(&data).context("a login answer is no text")? {
                // What we have not offered is an offer of the target's.
                if !keys.iter().any(|(offered, _)| *offered == key) && !DECLARED.contains(&key) {
                    let choice = value.split(',').find(|choice| *choice == "None").unwrap_or(value);
                    text::push(&mut text, key, choice);
                }
                answers.push((key.to_owned(), value.to_owned()));
            }
            wire.exp_stat_sn = response.stat_sn.get().wrapping_add(1);
            if response.flags & flag::TRANSIT != 0 && response.flags & 3 == 3 {
                let both = ["HeaderDigest", "DataDigest"].map(|key| (key.to_owned(), "CRC32C".to_owned()));
                wire.digests = both.iter().all(|pair| answers.contains(pair));
                return Ok(Login::Accepted(wire, answers));
            }
            let next =
                if response.flags & flag::TRANSIT != 0 { response.flags & 3 } else { request.flags >> 2 & 3 };
            request.flags = flag::TRANSIT | next << 2 | 3;
            request.exp_stat_sn = wire.exp_stat_sn.into();
        }
        bail!("the login does not end");
    }

    /// A session with these keys, whose unit attentions are taken.
    pub(crate) fn session(place: &Place, keys: &[(&str, &str)]) -> Result<Wire> {
        // LIO takes a length that is not declared for none, and sends empty Data-In PDUs for ever.
        let segment = ("MaxRecvDataSegmentLength", "262144");
        let names = [INITIATOR, ("TargetName", place.target.as_str()), ("SessionType", "Normal"), segment];
        let mut wire = match Wire::login(place, login_request(), &[&names, keys].concat())? {
            Login::Accepted(wire, _) => wire,
            Login::Ended(how) => bail!("the login ended: {how}"),
        };
        for _ in 0..10 {
            if wire.command(place.lun(), &[0; 6], flag::READ, 0, &[])? == "status 00" {
                return Ok(wire);
            }
        }
        bail!("the disk does not become ready")
    }

    pub(crate) fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// A PDU as it goes out: its lengths and digests are right.
    pub(crate) fn wire(&self, header: impl Into<[u8; BHS]>, data: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = header.into().to_vec();
        bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        if self.digests {
            bytes.extend(crc32c(&bytes));
        }
        let start = bytes.len();
        bytes.extend(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.digests && !data.is_empty() {
            bytes.extend(crc32c(&bytes[start..]));
        }
        bytes
    }

    pub(crate) fn send(&mut self, header: impl Into<[u8; BHS]>, data: &[u8]) -> Result<()> {
        let bytes = self.wire(header, data);
        self.send_raw(&bytes)
    }

    /// What cannot be sent any more is no error: the answer says that the connection is closed.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match self.socket.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn receive(&mut self) -> Result<Heard> {
        let mut header = [0; BHS];
        let mut rest = Vec::new();
        let digest = if self.digests { 4 } else { 0 };
        let whole = self.socket.read_exact(&mut header).and_then(|()| {
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let after = if length > 0 { digest } else { 0 };
            rest.resize(digest + length.next_multiple_of(4) + after, 0);
            self.socket.read_exact(&mut rest)?;
            rest.drain(..digest);
            rest.truncate(length);
            Ok(())
        });
        match whole {
            Ok(()) => Ok(Heard::Pdu(header, rest)),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    Ok(Heard::Closed)
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Heard::Nothing),
                _ => Err(error.into()),
            },
        }
    }

    /// Listens until something comes that ends the task `tag`, and says what came.
    pub(crate) fn until_ended(&mut self, tag: u32) -> Result<String> {
        self.until(|header| {
            let common: &Header = header.as_ref();
            match common.opcode.kind() {
                // A rejected PDU has no task of its own.
                Opcode::REJECT | Opcode::ASYNCHRONOUS_MESSAGE => true,
                Opcode::DATA_IN => common.task_tag.get() == tag && header[1] & flag::STATUS != 0,
                Opcode::READY_TO_TRANSFER => true,
                _ => common.task_tag.get() == tag,
            }
        })
    }

    /// Says what has come of the PDUs sent so far: the answer to a ping comes after all that is to be said about them.
    pub(crate) fn settled(&mut self) -> Result<String> {
        let tag = self.tag();
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn.into(), self.exp_stat_sn.into());
        let opcode = Opcode::NOP_OUT.immediate();
        let ping = NopOut {
            opcode,
            task_tag: tag.into(),
            transfer_tag: NO_TAG.into(),
            cmd_sn,
            exp_stat_sn,
            ..Default::default()
        };
        self.send(ping, &[])?;
        let heard = self.until(|header| AsRef::<Header>::as_ref(header).task_tag.get() == tag)?;
        let before = heard.strip_suffix("pong 0").unwrap_or(&heard).trim_end_matches(", ");
        Ok(if before.is_empty() { "nothing" } else { before }.to_owned())
    }

    /// Listens until `last`, the end of the connection, or in vain.
    pub(crate) fn until(&mut self, last: impl Fn(&[u8; BHS]) -> bool) -> Result<String> {
        let mut said: Vec<String> = Vec::new();
        let mut bytes = 0;
        loop {
            match self.receive()? {
                Heard::Pdu(header, data) => {
                    if header[0] == Opcode::DATA_IN.0 {
                        bytes += data.len();
                        if header[1] & flag::STATUS == 0 {
                            continue;
                        }
                    }
                    if bytes > 0 {
                        said.push(format!("data {bytes}"));
                        bytes = 0;
                    }
                    said.push(self.describe(&header, &data));
                    if last(&header) {
                        break;
                    }
                }
                Heard::Closed => {
                    said.push("closed".into());
                    break;
                }
                Heard::Nothing => {
                    said.push("silence".into());
                    break;
                }
            }
        }
        Ok(said.join(", "))
    }

    fn describe(&mut self, header: &[u8; BHS], data: &[u8]) -> String {
        let response: &ScsiResponse = header.as_ref();
        let opcode = response.opcode.kind();
        // Data-In counts only if it has a status; an R2T never.
        let counts = opcode != Opcode::READY_TO_TRANSFER
            && (opcode != Opcode::DATA_IN || header[1] & flag::STATUS != 0)
            && (opcode != Opcode::NOP_IN || response.task_tag.get() != NO_TAG);
        if counts {
            self.exp_stat_sn = response.stat_sn.get().wrapping_add(1);
        }
        self.max_cmd_sn = response.max_cmd_sn.get();
        let residual = |flags: u8, count: u32| match flags & (flag::OVERFLOW | flag::UNDERFLOW) {
            0 => String::new(),
            flag::OVERFLOW => format!(" over {count}"),
            _ => format!(" under {count}"),
        };
        match opcode {
            Opcode::SCSI_RESPONSE if response.response.0 != 0 => {
                format!("response {:02x}", response.response.0)
            }
            Opcode::SCSI_RESPONSE => {
                let sense = match data.get(2..).unwrap_or_default() {
                    [0x70 | 0xf0, _, key, ..] if data.len() > 15 => {
                        format!(" {:x}/{:02x}/{:02x}", key & 0xf, data[14], data[15])
                    }
                    [0x72 | 0x73, key, code, qualifier, ..] => format!(" {key:x}/{code:02x}/{qualifier:02x}"),
                    _ => String::new(),
                };
                format!(
                    "status {:02x}{sense}{}",
                    response.status,
                    residual(response.flags, response.residual.get())
                )
            }
            Opcode::DATA_IN => {
                let data_in: &DataIn = header.as_ref();
                format!("status {:02x}{}", data_in.status, residual(data_in.flags, data_in.residual.get()))
            }
            Opcode::READY_TO_TRANSFER => {
                let request: &ReadyToTransfer = header.as_ref();
                format!("R2T {}+{}", request.buffer_offset, request.desired_length)
            }
            Opcode::TASK_MANAGEMENT_RESPONSE => {
                let managed: &TaskManagementResponse = header.as_ref();
                format!("function response {}", managed.result.0)
            }
            Opcode::REJECT => {
                let reject: &Reject = header.as_ref();
                format!("reject {:02x}", reject.reason.0)
            }
            Opcode::TEXT_RESPONSE => {
                let text = String::from_utf8_lossy(data).trim_end_matches('\0').replace('\0', " ");
                format!("text [{text}]")
            }
            Opcode::LOGOUT_RESPONSE => format!("logout response {}", header[2]),
            Opcode::NOP_IN if response.task_tag.get() == NO_TAG => "ping".into(),
            Opcode::NOP_IN => format!("pong {}", data.len()),
            Opcode::ASYNCHRONOUS_MESSAGE => format!("asynchronous event {}", header[36]),
            Opcode::LOGIN_RESPONSE => format!("login status {:02x}{:02x}", header[36], header[37]),
            other => format!("opcode {:02x}", other.0),
        }
    }

    /// A command in the order of CmdSN, with its immediate data.
    pub(crate) fn start(
        &mut self,
        lun: [u8; 8],
        cdb: &[u8],
        flags: u8,
        expected: u32,
        data: &[u8],
    ) -> Result<u32> {
        let tag = self.tag();
        let mut header = ScsiCommand {
            flags: flag::FINAL | flags,
            lun,
            task_tag: tag.into(),
            expected_length: expected.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..Default::default()
        };
        header.cdb[..cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(header, data)?;
        Ok(tag)
    }

    /// A command, and what comes of it.
    pub(crate) fn command(
        &mut self,
        lun: [u8; 8],
        cdb: &[u8],
        flags: u8,
        expected: u32,
        data: &[u8],
    ) -> Result<String> {
        let tag = self.start(lun, cdb, flags, expected, data)?;
        self.until_ended(tag)
    }

    pub(crate) fn exp_stat_sn(&self) -> u32 {
        self.exp_stat_sn
    }
}
