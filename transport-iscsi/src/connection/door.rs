//! Who may log in, and what there is to see.

use super::Connection;
use crate::access::{Denied, DiscoveryAccess};
use crate::local::Place;
use crate::offer::Offer;
use crate::patterns::among;
use crate::sessions::{Entry, InitiatorPort, NexusKey, NoSession};
use crate::{ChapPolicy, Redirect, Target};
use lunette_iscsi::params::Parameters;
use lunette_iscsi::pdu::LoginStatus;
use lunette_iscsi::target::{
    Admission, Directory, Identity, Refusal, SecurityMethod, SessionInfo, SessionType, TargetRecord,
};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The targets as one connection comes to them.
pub(super) struct Door<'a> {
    pub(super) connection: &'a Connection,
    /// Who knocks; `None` when the login is over.
    pub(super) visitor: Option<&'a mut Visitor>,
}

/// What the door knows of who logs in.
#[derive(Default)]
pub(super) struct Visitor {
    /// `None` in a discovery session, or as long as it is not known.
    pub(super) target: Option<Arc<Target>>,
    /// What that was when it was asked for.
    pub(super) offer: Option<Arc<Offer>>,
    /// The number of the access rule that counts for it.
    pub(super) rule: Option<usize>,
    /// What was opened at last.
    pub(super) opened: Option<Opened>,
}

impl Visitor {
    /// What the session would be of; `None` for discovery.
    fn nexus(&self, info: &SessionInfo, group: u16) -> Option<NexusKey> {
        let target = self.target.as_ref()?.name().to_owned();
        Some(NexusKey { target, group, initiator: InitiatorPort::of(info) })
    }

    /// As what it is let in.
    fn entry(&self, info: &SessionInfo, peer: SocketAddr) -> Entry {
        let rule = self.offer.as_ref().and_then(|offer| offer.id_of(self.rule));
        Entry::new(rule, info, peer.ip())
    }
}

/// A session that was opened, or joined.
pub(super) struct Opened {
    pub(super) tsih: u16,
    /// `None` in a discovery session.
    pub(super) initiator: Option<InitiatorPort>,
    pub(super) replaces: Option<Place>,
}

impl Door<'_> {
    fn visitor(&mut self) -> Result<&mut Visitor, Refusal> {
        let over = || Refusal::new(LoginStatus::INVALID_DURING_LOGIN, "the login is over");
        self.visitor.as_deref_mut().ok_or_else(over)
    }
}

impl Directory for Door<'_> {
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal> {
        let (info, Connection { portal, peer, .. }) = (identity.info, self.connection);
        if info.session_type == SessionType::Discovery {
            let options = portal.entity.options();
            let DiscoveryAccess { addresses, chap } = &options.discovery;
            if !among(addresses, peer.ip()) {
                let reason = "discovery is not for the initiator's address";
                return Err(Refusal::new(LoginStatus::NOT_AUTHORIZED, reason));
            }
            return Ok(Admission { methods: methods(chap.as_ref())?, ..Admission::default() });
        }
        let target = portal.entity.target(&info.target_name);
        let unknown = || Refusal::new(LoginStatus::NOT_FOUND, "there is no such target");
        let target = target.ok_or_else(unknown)?;
        let offer = target.offer();
        offer.port(portal.group_tag).ok_or_else(unknown)?;
        let denied = |denied: Denied| Refusal::new(LoginStatus::NOT_AUTHORIZED, denied.reason());
        let number = offer.rule_for(&info.initiator_name, peer.ip()).map_err(denied)?;
        let visitor = self.visitor()?;
        (visitor.target, visitor.rule) = (Some(target), number);
        let offer = visitor.offer.insert(offer);
        if let Some(Redirect { address, permanent }) = offer.options.redirect {
            return Err(Refusal::moved(address, permanent));
        }
        Ok(Admission {
            group_tag: portal.group_tag,
            alias: offer.options.alias.clone(),
            methods: methods(number.and_then(|number| offer.rule(number)?.chap.as_ref()))?,
            settings: Some(offer.options.settings),
        })
    }

    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal> {
        let Connection { portal, place, peer, .. } = self.connection;
        let visitor = self.visitor()?;
        let nexus = visitor.nexus(identity.info, portal.group_tag);
        let initiator = nexus.as_ref().map(|nexus| nexus.initiator.clone());
        let entry = visitor.entry(identity.info, *peer);
        let mut table = portal.entity.table();
        let (tsih, replaces) = table.open(nexus, entry, *place).map_err(refusal)?;
        table.agreed(tsih, identity.cid, *identity.parameters);
        visitor.opened = Some(Opened { tsih, initiator, replaces });
        Ok(tsih)
    }

    fn join(&mut self, identity: Identity<'_>) -> Result<Parameters, Refusal> {
        let Connection { portal, place, peer, .. } = self.connection;
        let (info, visitor) = (identity.info, self.visitor()?);
        // Discovery sessions have nothing to go on with.
        let nexus = visitor.nexus(info, portal.group_tag).ok_or(refusal(NoSession::Unknown))?;
        let names = (info.tsih, identity.cid);
        let joined = portal.entity.table().join(names, &nexus, &visitor.entry(info, *peer), *place);
        let (parameters, before) = joined.map_err(refusal)?;
        visitor.opened =
            Some(Opened { tsih: info.tsih, initiator: Some(nexus.initiator), replaces: Some(before) });
        Ok(parameters)
    }

    fn targets(
        &self,
        session: &SessionInfo,
        wanted: Option<&str>,
        show: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    ) {
        let Connection { portal, reached, peer, .. } = self.connection;
        let targets = match wanted {
            Some(name) => portal.entity.target(name).into_iter().collect(),
            None => portal.entity.targets(),
        };
        for target in targets {
            let offer = target.offer();
            if offer.rule_for(&session.initiator_name, peer.ip()).is_err() {
                continue;
            }
            let portals = portal.entity.portals_of(&offer, portal, *reached);
            let record = TargetRecord { name: target.name(), portals: &portals };
            if !portals.is_empty() && show(record).is_break() {
                return;
            }
        }
    }
}

fn refusal(why: NoSession) -> Refusal {
    let (status, reason) = match why {
        NoSession::Greedy => (LoginStatus::OUT_OF_RESOURCES, "the initiator has too many sessions"),
        NoSession::Full => (LoginStatus::OUT_OF_RESOURCES, "there are too many sessions"),
        NoSession::Taken => {
            let reason = "the session of this initiator port was let in by another access rule or account";
            (LoginStatus::NOT_AUTHORIZED, reason)
        }
        NoSession::Unknown => (LoginStatus::NO_SUCH_SESSION, "the initiator port has no such session"),
        NoSession::Occupied => (LoginStatus::TOO_MANY_CONNECTIONS, "the session has its connection"),
    };
    Refusal::new(status, reason)
}

/// What is to be proved in a login.
fn methods(chap: Option<&ChapPolicy>) -> Result<Vec<Box<dyn SecurityMethod>>, Refusal> {
    let Some(chap) = chap else { return Ok(Vec::new()) };
    let none = || Refusal::new(LoginStatus::TARGET_ERROR, "there are no random bytes for a challenge");
    Ok(vec![Box::new(chap.method().ok_or_else(none)?)])
}
