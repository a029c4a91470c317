//! Who may log in, and what there is to see.

use crate::Target;
use crate::local::Place;
use crate::target::InitiatorPort;
use lunette_iscsi::pdu::LoginStatus;
use lunette_iscsi::target::{
    Admission, Directory, Identity, Portal, Refusal, SessionInfo, SessionType, TargetRecord,
};
use std::net::SocketAddr;

/// A target as one connection comes to it.
pub(super) struct Door<'a> {
    pub(super) target: &'a Target,
    pub(super) reached: SocketAddr,
    pub(super) place: Place,
    /// Who has knocked.
    pub(super) name: &'a mut String,
    pub(super) opened: Option<Opened>,
}

/// A normal session that was opened.
pub(super) struct Opened {
    pub(super) initiator: InitiatorPort,
    pub(super) replaces: Option<Place>,
}

impl Directory for Door<'_> {
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal> {
        let info = identity.info;
        self.name.clone_from(&info.initiator_name);
        let known = info.target_name.eq_ignore_ascii_case(self.target.name());
        if info.session_type == SessionType::Normal && !known {
            return Err(Refusal::new(
                LoginStatus::NOT_FOUND,
                format!("there is no target {}", info.target_name),
            ));
        }
        Ok(Admission { group_tag: self.target.options.portal_group, ..Admission::default() })
    }

    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal> {
        let full = Refusal::new(LoginStatus::OUT_OF_RESOURCES, "there are too many sessions");
        if identity.info.session_type == SessionType::Discovery {
            return self.target.new_tsih().ok_or(full);
        }
        let initiator = InitiatorPort::of(identity.info);
        let (tsih, replaces) = self.target.open(&initiator, self.place).ok_or(full)?;
        self.opened = Some(Opened { initiator, replaces });
        Ok(tsih)
    }

    fn targets(&self, _: &SessionInfo, show: &mut dyn FnMut(TargetRecord<'_>)) {
        let portals = [Portal { address: self.reached, group_tag: self.target.options.portal_group }];
        show(TargetRecord { name: self.target.name(), portals: &portals });
    }
}
