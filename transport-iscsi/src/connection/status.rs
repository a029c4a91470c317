//! What there is to tell of a connection's session.

use super::{Connection, Phase};
use crate::status::SessionStatus;
use lunette_store::Cx;

impl Connection {
    /// Its session, if it is logged in and not over.
    pub(crate) fn status(&self, cx: &dyn Cx) -> Option<SessionStatus> {
        let state = self.state.borrow();
        let Phase::FullFeature(full) = &state.phase else { return None };
        state.socket.as_ref()?;
        let info = full.session.info();
        let since = |then| cx.now().saturating_sub(then);
        Some(SessionStatus {
            tsih: info.tsih,
            target: state.target.as_ref().map(|target| target.name().to_owned()),
            group_tag: self.portal.group_tag,
            initiator: info.initiator_name.clone(),
            alias: info.initiator_alias.clone(),
            isid: info.isid,
            account: info.authenticated.clone(),
            address: self.peer,
            portal: self.reached,
            reactor: self.place.reactor.0,
            parameters: full.session.parameters().into(),
            age: since(state.started),
            idle: since(full.last_command.unwrap_or(state.started)),
            counters: full.counters,
            open_tasks: full.session.tasks().count(),
        })
    }
}
