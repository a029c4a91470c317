//! Arriving from another process: a session goes on where that has left it.

use super::full_feature::FullFeature;
use super::{Connection, Phase};
use crate::events::Events;
use crate::local::Place;
use crate::offer::Offer;
use crate::portal::Shared;
use crate::{SessionChange, Target};
use lunette_engine::{Nexus, Responder, Session};
use lunette_iscsi::target::Accepted;
use lunette_store::Cx;
use std::net::{SocketAddr, TcpStream};
use std::rc::Weak;
use std::sync::Arc;

/// A session that was let in again, and stands in the table of all.
pub(crate) struct Returning {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    /// The address that the initiator reached.
    pub(crate) reached: SocketAddr,
    pub(crate) place: Place,
    pub(crate) accepted: Accepted,
    /// What of the stream comes before what is still to be received.
    pub(crate) begun: Vec<u8>,
    pub(crate) target: Arc<Target>,
    /// What that was when the session was let in.
    pub(crate) offer: Arc<Offer>,
    pub(crate) nexus: Arc<Nexus>,
    pub(crate) events: Arc<Events>,
}

impl Connection {
    /// Goes on with a session.
    pub(crate) fn take_over(returning: Returning, portal: Arc<Shared>, cx: &mut dyn Cx) {
        let Returning { socket, peer, reached, place, accepted, begun, target, offer, nexus, events } =
            returning;
        let connection = Self::open(socket, (peer, reached), place, portal, cx);
        let mut state = connection.state.borrow_mut();
        let info = accepted.session.info();
        if target.may_log(cx) {
            tracing::info!(
                target_name = info.target_name,
                initiator = info.initiator_name,
                address = %connection.peer,
                session = info.tsih,
                account = info.authenticated,
                reactor = place.reactor.0,
                "iSCSI session goes on"
            );
        }
        connection.tell(SessionChange::Begun, info);
        state.tsih = Some(info.tsih);
        state.target = Some(target);
        state.events = Some(events);
        let responder: Weak<dyn Responder> = connection.me.clone();
        let nexus = Session::open(nexus, responder, cx);
        let mut full = FullFeature::new(accepted, Some(nexus), &connection.local.budget);
        // The initiator may wait for a word that it may send.
        full.machine.tell_window(&full.session, &mut state.out);
        state.phase = Phase::FullFeature(Box::new(full));
        state.stash = Some(begun);
        connection.tick_after(connection.portal.entity.options().idle_time, cx);
        connection.look_whether_current(&mut state, &offer, cx);
        connection.resume(&mut state, cx);
        connection.settle(&mut state, cx);
    }
}
