//! Hosts that connect again and again. In a process of its own, whose log is its own.

mod log;

use lunette_engine::TargetPort;
use lunette_iscsi::initiator::{Initiator, Settings};
use lunette_iscsi::{Outbox, Piece};
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::Protocol;
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn logins_that_are_refused_do_not_fill_the_log() {
    let log = log::listen();
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let port = TargetPort::new("test", 1, Protocol::ISCSI, BTreeMap::new());
    let entity = NetworkEntity::new(EntityOptions::default());
    let (name, groups) = ("iqn.2026-11.dev.lunette:test".to_owned(), BTreeMap::from([(1, port)]));
    entity.add(TargetOptions { name, groups, ..TargetOptions::default() }).unwrap();
    let portal =
        Portal::start("127.0.0.1:0".parse().unwrap(), PortalOptions::default(), &entity, &reactors).unwrap();

    let mut out = Outbox::default();
    let target_name = "iqn.2026-11.dev.lunette:other".to_owned();
    let _ = Initiator::new(Settings { target_name, ..Settings::default() }, &mut out);
    let login: Vec<u8> = out
        .pieces()
        .flat_map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.to_vec(),
            Piece::Payload { .. } => panic!("a login has no payload"),
        })
        .collect();
    for _ in 0..200 {
        let mut socket = TcpStream::connect(portal.address()).unwrap();
        socket.write_all(&login).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert!(portal.stop(&reactors));
    let said: Vec<_> = log.try_iter().collect();
    let refused = said.iter().filter(|line| line.contains("refused")).count();
    assert!((1..=50).contains(&refused), "{refused} lines");
    assert!(said.iter().any(|line| line.contains("messages are suppressed")), "{said:?}");
}
