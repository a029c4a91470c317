//! Who may log in, and what there is to see.

use super::Connection;
use crate::Target;
use crate::local::Place;
use crate::sessions::{InitiatorPort, NexusKey};
use lunette_iscsi::pdu::LoginStatus;
use lunette_iscsi::target::{
    Admission, Directory, Identity, Refusal, SessionInfo, SessionType, TargetRecord,
};
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
    /// What was opened at last.
    pub(super) opened: Option<Opened>,
}

/// A session that was opened.
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
        let (info, portal) = (identity.info, &self.connection.portal);
        if info.session_type == SessionType::Discovery {
            return Ok(Admission::default());
        }
        let target = portal.entity.target(&info.target_name);
        let unknown = || Refusal::new(LoginStatus::NOT_FOUND, "there is no such target");
        let target = target.filter(|target| target.has_group(portal.group_tag)).ok_or_else(unknown)?;
        let (alias, settings) = (target.alias().to_owned(), Some(*target.settings()));
        self.visitor()?.target = Some(target);
        Ok(Admission { group_tag: portal.group_tag, alias, settings, ..Admission::default() })
    }

    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal> {
        let Connection { portal, place, .. } = self.connection;
        let visitor = self.visitor()?;
        let initiator = visitor.target.is_some().then(|| InitiatorPort::of(identity.info));
        let nexus = visitor.target.as_ref().zip(initiator.clone()).map(|(target, initiator)| NexusKey {
            target: target.name().to_owned(),
            group: portal.group_tag,
            initiator,
        });
        let full = || Refusal::new(LoginStatus::OUT_OF_RESOURCES, "there are too many sessions");
        let (tsih, replaces) = portal.entity.sessions().open(nexus, *place).ok_or_else(full)?;
        visitor.opened = Some(Opened { tsih, initiator, replaces });
        Ok(tsih)
    }

    fn targets(&self, _: &SessionInfo, show: &mut dyn FnMut(TargetRecord<'_>)) {
        let Connection { portal, reached, .. } = self.connection;
        for target in portal.entity.targets() {
            let portals = portal.entity.portals_of(&target, portal, *reached);
            if !portals.is_empty() {
                show(TargetRecord { name: target.name(), portals: &portals });
            }
        }
    }
}
