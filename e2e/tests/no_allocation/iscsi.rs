//! By iSCSI.

use super::{SIZE, STRETCH, expect_clean, open, unit};
use lunette_engine::TargetPort;
use lunette_iscsi::digest::crc32c;
use lunette_iscsi::pdu::{
    BHS, DataOut, Header, LoginRequest, LoginResponse, Opcode, ReadyToTransfer, ScsiCommand, flag,
};
use lunette_iscsi::text;
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::Protocol;
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
use std::io::{Read, Write};
use std::net::TcpStream;

const TARGET: &str = "iqn.2026-11.dev.lunette:test";
const DEPTH: usize = 32;
const DIGEST: usize = 4;
/// Longest data segment of either side, and longest burst.
const SEGMENT: usize = 64 << 10;

/// An initiator that does what it is told and no more.
struct Client {
    socket: TcpStream,
    digests: bool,
    cmd_sn: u32,
    output: Vec<u8>,
}

impl Client {
    fn login(portal: &Portal, digests: bool) -> Self {
        let socket = TcpStream::connect(portal.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut client = Self { socket, digests: false, cmd_sn: 1, output: Vec::new() };
        let digest = if digests { "CRC32C" } else { "None" };
        let segment = SEGMENT.to_string();
        let mut keys = Vec::new();
        for (key, value) in [
            ("InitiatorName", "iqn.2026-11.dev.lunette:initiator"),
            ("TargetName", TARGET),
            ("HeaderDigest", digest),
            ("DataDigest", digest),
            ("MaxRecvDataSegmentLength", &segment),
            ("MaxBurstLength", &segment),
        ] {
            text::push(&mut keys, key, value);
        }
        loop {
            // From operational negotiation to the full-feature phase.
            let request = LoginRequest {
                flags: flag::TRANSIT | 1 << 2 | 3,
                data_segment_length: (keys.len() as u32).into(),
                cmd_sn: 1.into(),
                ..LoginRequest::default()
            };
            keys.resize(keys.len().next_multiple_of(4), 0);
            client.push(request.into(), &keys);
            client.flush();
            keys.clear();
            let (header, _) = client.receive();
            let response: &LoginResponse = header.as_ref();
            assert_eq!(response.status.get(), 0);
            if response.flags & flag::TRANSIT != 0 {
                break;
            }
        }
        client.digests = digests;
        // The first command learns of the power-on.
        client.command(0, &[0; 6], 0, 0);
        client.flush();
        client.receive();
        client
    }

    fn push(&mut self, header: [u8; BHS], data: &[u8]) {
        self.output.extend(header);
        if self.digests {
            self.output.extend(crc32c(&header));
        }
        self.output.extend(data);
        if self.digests && !data.is_empty() {
            self.output.extend(crc32c(data));
        }
    }

    fn flush(&mut self) {
        self.socket.write_all(&self.output).unwrap();
        self.output.clear();
    }

    /// A command with so much data, of which so much comes with it.
    fn command(&mut self, tag: usize, cdb: &[u8], length: usize, immediate: usize) {
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        let direction = match cdb[0] {
            0x28 => flag::READ,
            0x2a => flag::WRITE,
            _ => 0,
        };
        let header = ScsiCommand {
            flags: flag::FINAL | direction | 1,
            data_segment_length: (immediate as u32).into(),
            task_tag: (tag as u32).into(),
            expected_length: (length as u32).into(),
            cmd_sn: self.cmd_sn.into(),
            cdb: padded,
            ..ScsiCommand::default()
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.push(header.into(), &[7; SEGMENT][..immediate]);
    }

    fn data_out(&mut self, asked: &ReadyToTransfer) {
        let length = asked.desired_length.get();
        let header = DataOut {
            flags: flag::FINAL,
            data_segment_length: length.into(),
            task_tag: asked.task_tag,
            transfer_tag: asked.transfer_tag,
            buffer_offset: asked.buffer_offset,
            ..DataOut::default()
        };
        self.push(header.into(), &[7; SEGMENT][..length as usize]);
    }

    /// The next PDU's header, and its data segment.
    fn receive(&mut self) -> ([u8; BHS], Vec<u8>) {
        let mut header = [0; BHS];
        self.socket.read_exact(&mut header).unwrap();
        let common: &Header = header.as_ref();
        let length = (common.data_segment_length.get() as usize).next_multiple_of(4);
        let digests = if self.digests { DIGEST + if length > 0 { DIGEST } else { 0 } } else { 0 };
        let mut rest = vec![0; length + digests];
        self.socket.read_exact(&mut rest).unwrap();
        (header, rest)
    }

    /// Has so many commands carried out, always as many as the queue is deep.
    fn transfer(&mut self, opcode: u8, length: usize, immediate: usize, count: usize) {
        let mut sent = 0;
        let mut ended = 0;
        let send = |client: &mut Self, tag: usize, n: usize| {
            let blocks = length / 512;
            let lba = ((n * blocks) % (SIZE as usize / 512 - blocks)) as u32;
            let lba = lba.to_be_bytes();
            let [high, low] = (blocks as u16).to_be_bytes();
            let cdb = [opcode, 0, lba[0], lba[1], lba[2], lba[3], 0, high, low, 0];
            client.command(tag, &cdb, length, immediate);
        };
        while sent < DEPTH {
            send(self, sent, sent);
            sent += 1;
        }
        while ended < sent {
            self.flush();
            let (header, _) = self.receive();
            let common: &Header = header.as_ref();
            let tag = common.task_tag.get() as usize;
            match common.opcode.kind() {
                Opcode::READY_TO_TRANSFER => self.data_out(header.as_ref()),
                Opcode::DATA_IN if header[1] & flag::STATUS == 0 => {}
                Opcode::DATA_IN | Opcode::SCSI_RESPONSE => {
                    assert_eq!(header[3], 0, "the status");
                    ended += 1;
                    if sent < count {
                        send(self, tag, sent);
                        sent += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn check(store: &str, digests: bool) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let units = [(0, unit(open(folder.path(), store)))].into();
    let port = TargetPort::new(format!("{TARGET},t,0x0001"), 1, Protocol::ISCSI, units);
    let entity = NetworkEntity::new(EntityOptions::default());
    let groups = [(1, port)].into();
    entity.add(TargetOptions { name: TARGET.to_owned(), groups, ..TargetOptions::default() }).unwrap();
    let portal =
        Portal::start("127.0.0.1:0".parse().unwrap(), PortalOptions::default(), &entity, &reactors).unwrap();

    let mut client = Client::login(&portal, digests);
    for (name, opcode, length, immediate) in [
        ("WRITE with its data", 0x2a, 8192, 8192),
        ("WRITE with a part of its data", 0x2a, 32 << 10, 8192),
        ("WRITE with R2T", 0x2a, 128 << 10, 0),
        ("READ", 0x28, 8192, 0),
        ("READ of several PDUs", 0x28, 128 << 10, 0),
    ] {
        let what = format!("{name}, {store}, digests: {digests}");
        let count = STRETCH.min((16 << 20) / length);
        expect_clean(&reactors, &what, || client.transfer(opcode, length, immediate, count));
    }
    drop(client);
    portal.stop(&reactors);
    reactors.stop();
}

#[test]
fn memory() {
    check("memory", false);
    check("memory", true);
}

#[test]
fn page_cache() {
    check("page cache", false);
}

#[test]
fn past_the_page_cache() {
    check("direct", true);
}
