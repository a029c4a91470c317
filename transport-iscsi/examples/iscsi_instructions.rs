//! Reads or writes over a connection of a disk that keeps nothing: for counting instructions.
//!
//! ```text
//! cargo build --release -p lunette-transport-iscsi --example iscsi_instructions
//! valgrind --tool=callgrind --toggle-collect='*transport_iscsi*Connection*Sink*::complete' \
//!     target/release/examples/iscsi_instructions write digests
//! ```
//!
//! The total that Callgrind collects, divided by the number of commands, is what one costs from the bytes that were received to
//! those that are sent, without the kernel.

use lunette_device_disk::{Disk, Options};
use lunette_engine::{Identity, LogicalUnit, TargetPort};
use lunette_iscsi::digest::crc32c;
use lunette_iscsi::pdu::{BHS, LoginRequest, ScsiCommand, flag};
use lunette_iscsi::text;
use lunette_reactor::{Io, Options as ReactorOptions, Poll, Reactors};
use lunette_scsi::{Naa, Protocol};
use lunette_store::{Backing, Caps, Cx, IoId, Op, Store, Submit};
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

/// Rounds, and commands in each of them.
const ROUNDS: u32 = 500;
const DEPTH: u32 = 32;
const LENGTH: usize = 4096;
const DIGEST: usize = 4;

/// Answers every operation at once and does nothing.
#[derive(Clone)]
struct Null(Caps);

impl Store for Null {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn submit(&self, op: Op<'_>, _: IoId, _: &mut dyn Cx) -> Submit {
        Submit::Done(self.0.check(&op).map(|()| op.range().1))
    }
}

impl Backing for Null {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn attach(&self, _: &mut dyn Cx) -> Rc<dyn Store> {
        Rc::new(self.clone())
    }
}

fn port(name: &str) -> Result<Arc<TargetPort>, Box<dyn Error>> {
    let store = lunette_store::ram::Ram::new(1 << 20)?;
    let null = Null(Caps { size: (1 << 30).into(), ..Backing::caps(&store).clone() });
    let disk = Disk::new(&Options::default(), &null.0)?;
    let identity = Identity::new("null", Naa::locally_assigned(1));
    let unit = LogicalUnit::new("null", identity, Box::new(disk), Some(Arc::new(null)));
    Ok(TargetPort::new(format!("{name},t,0x0001"), 1, Protocol::ISCSI, [(0, unit)].into()))
}

/// Takes the next PDU, whose data segment has this length at most.
fn receive(socket: &mut TcpStream, digests: bool) -> Result<[u8; BHS], Box<dyn Error>> {
    let mut header = [0; BHS];
    socket.read_exact(&mut header)?;
    let length = usize::from(header[6]) << 8 | usize::from(header[7]);
    let data = length.next_multiple_of(4) + if digests && length > 0 { DIGEST } else { 0 };
    socket.read_exact(&mut vec![0; data + if digests { DIGEST } else { 0 }])?;
    Ok(header)
}

fn login(socket: &mut TcpStream, target: &str, digest: &str) -> Result<(), Box<dyn Error>> {
    let mut keys = Vec::new();
    for (key, value) in [
        ("InitiatorName", "iqn.2026-11.dev.lunette:instructions"),
        ("TargetName", target),
        ("HeaderDigest", digest),
        ("DataDigest", digest),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
    ] {
        text::push(&mut keys, key, value);
    }
    let mut request = LoginRequest {
        // From operational negotiation to the full-feature phase.
        flags: flag::TRANSIT | 1 << 2 | 3,
        data_segment_length: (keys.len() as u32).into(),
        cmd_sn: 1.into(),
        ..LoginRequest::default()
    };
    loop {
        keys.resize(keys.len().next_multiple_of(4), 0);
        socket.write_all(&<[u8; BHS]>::from(request))?;
        socket.write_all(&keys)?;
        let header = receive(socket, false)?;
        if header[36] != 0 {
            return Err("the login is refused".into());
        }
        if header[1] & flag::TRANSIT != 0 {
            return Ok(());
        }
        keys.clear();
        request.data_segment_length = 0.into();
    }
}

/// A READ(10) or WRITE(10) of eight blocks, or TEST UNIT READY, with all its data.
fn command(number: u32, opcode: u8, digests: bool) -> Vec<u8> {
    let mut cdb = [0; 16];
    let (direction, data) = match opcode {
        0x28 => (flag::READ, 0),
        0x2a => (flag::WRITE, LENGTH),
        _ => (0, 0),
    };
    if opcode != 0 {
        cdb[..10].copy_from_slice(&[opcode, 0, 0, 0, number as u8, 0, 0, 0, 8, 0]);
    }
    let header: [u8; BHS] = ScsiCommand {
        flags: flag::FINAL | direction | 1,
        data_segment_length: (data as u32).into(),
        task_tag: number.into(),
        expected_length: if direction == 0 { 0 } else { LENGTH as u32 }.into(),
        cmd_sn: number.into(),
        cdb,
        ..ScsiCommand::default()
    }
    .into();
    let mut pdu = header.to_vec();
    if digests {
        pdu.extend(crc32c(&header));
    }
    if data > 0 {
        let data = vec![1; data];
        pdu.extend(&data);
        if digests {
            pdu.extend(crc32c(&data));
        }
    }
    pdu
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let digests = has("digests");
    let opcode = if has("write") { 0x2a } else { 0x28 };
    let name = "iqn.2026-11.dev.lunette:null".to_owned();
    // Valgrind does not let other threads run while one waits in io_uring_enter(2).
    let options =
        ReactorOptions { reactors: 1, poll: Poll::Never, io: Io::Epoll, ..ReactorOptions::default() };
    let reactors = Reactors::start(&options)?;
    let entity = NetworkEntity::new(EntityOptions::default());
    let groups = [(1, port(&name)?)].into();
    entity.add(TargetOptions { name: name.clone(), groups, ..TargetOptions::default() })?;
    let portal = Portal::start("127.0.0.1:0".parse()?, PortalOptions::default(), &entity, &reactors)?;

    let mut socket = TcpStream::connect(portal.address())?;
    login(&mut socket, &name, if digests { "CRC32C" } else { "None" })?;
    // The first command learns of the power-on.
    socket.write_all(&command(1, 0, digests))?;
    receive(&mut socket, digests)?;
    for round in 0..ROUNDS {
        let first = 2 + round * DEPTH;
        let batch: Vec<u8> =
            (first..first + DEPTH).flat_map(|number| command(number, opcode, digests)).collect();
        socket.write_all(&batch)?;
        for _ in 0..DEPTH {
            let header = receive(&mut socket, digests)?;
            assert_eq!(header[3], 0, "the status of a command");
        }
    }
    println!("{} requests", ROUNDS * DEPTH);
    drop(socket);
    portal.stop(&reactors);
    reactors.stop();
    Ok(())
}
