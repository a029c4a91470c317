use super::*;
use crate::{EntityOptions, PortalOptions};
use lunette_iscsi::initiator::{Initiator, Settings};
use lunette_iscsi::pdu::Stage;
use lunette_iscsi::{Outbox, Piece};
use lunette_store::sim::Sim;
use std::io::Write;
use std::net::TcpListener;

/// A login that takes one request.
fn login() -> Vec<u8> {
    let settings = Settings {
        initiator_name: "iqn.2024-01.example:x".to_owned(),
        session_type: SessionType::Discovery,
        first_stage: Stage::OPERATIONAL,
        ..Settings::default()
    };
    let mut out = Outbox::default();
    Initiator::new(settings, &mut out);
    let bytes = out.pieces().flat_map(|piece| match piece {
        Piece::Bytes(bytes) => bytes.to_vec(),
        Piece::Payload { .. } => Vec::new(),
    });
    bytes.collect()
}

#[test]
fn a_tick_that_finishes_a_login_is_followed_by_one() {
    let mut sim = Sim::new(1);
    let entity = NetworkEntity::new(EntityOptions::default());
    entity.loads.spread_over(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portal = Shared::new(&listener, PortalOptions::default(), &entity).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    let login = login();
    client.write_all(&login).unwrap();
    while socket.peek(&mut vec![0; login.len()]).unwrap() < login.len() {}
    let place = Place::new(entity.loads.add().unwrap());
    Connection::start(socket, peer, place, Arc::new(portal), sim.cx(0));
    // Nobody has told of what has come.
    sim.advance(entity.options().login_time);
    sim.settle();
    let connection = Local::of(sim.cx(0)).connections().pop().unwrap();
    assert!(matches!(connection.state.borrow().phase, Phase::FullFeature(_)));
    assert!(sim.cx(0).timers().eq([connection.id(Token::TICK)]));
}
