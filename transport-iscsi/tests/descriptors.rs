//! A process without descriptors. One of its own, for all of it shares the limit.

mod log;

use lunette_engine::TargetPort;
use lunette_reactor::{Options as ReactorOptions, Reactors};
use lunette_scsi::Protocol;
use lunette_store::ReactorId;
use lunette_transport_iscsi::{EntityOptions, NetworkEntity, Portal, PortalOptions, TargetOptions};
use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn connections_are_accepted_when_there_are_descriptors_again() {
    const TROUBLE: &str = "cannot accept iSCSI connections";
    let log = log::listen();
    let reactors = Reactors::start(&ReactorOptions { reactors: 1, ..ReactorOptions::default() }).unwrap();
    let port = TargetPort::new("test", 1, Protocol::ISCSI, BTreeMap::new());
    let entity = NetworkEntity::new(EntityOptions::default());
    let (name, groups) = ("iqn.2026-11.dev.lunette:test".to_owned(), BTreeMap::from([(1, port)]));
    entity.add(TargetOptions { name, groups, ..TargetOptions::default() }).unwrap();
    let portal =
        Portal::start("127.0.0.1:0".parse().unwrap(), PortalOptions::default(), &entity, &reactors).unwrap();

    let initiators = [(); 8].map(|()| socket(AddressFamily::INET, SocketType::STREAM, None).unwrap());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let mut said = Vec::new();
    for initiator in &initiators {
        connect(initiator, &portal.address()).unwrap();
        // It is noticed, whether that is said or not.
        (0..2).for_each(|_| reactors.call(ReactorId(0), |_| ()).unwrap());
        if said.is_empty() {
            said.extend(log.iter().find(|line| line.contains(TROUBLE)));
        }
    }
    setrlimit(Resource::Nofile, limit).unwrap();

    for initiator in initiators {
        // No login, so that it is closed.
        let mut initiator = TcpStream::from(initiator);
        initiator.write_all(&[0xff; 48]).unwrap();
        let _ = initiator.read_to_end(&mut Vec::new());
    }
    assert!(portal.stop(&reactors));
    said.extend(log.try_iter().filter(|line| line.contains(TROUBLE)));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("Too many open files"), "{said:?}");
}
