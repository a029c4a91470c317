//! What the machines ask their owner: who may log in where, and which targets there are.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::{SessionInfo, Settings};
use crate::params::Parameters;
use crate::pdu::LoginStatus;

/// A network portal of a target, as SendTargets and redirections name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Address and port.
    pub address: SocketAddr,
    /// Target portal group tag.
    pub group_tag: u16,
}

impl std::fmt::Display for Portal {
    /// As in TargetAddress.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.address, self.group_tag)
    }
}

/// One target in the answer to SendTargets.
#[derive(Clone, Copy, Debug)]
pub struct TargetRecord<'a> {
    /// iSCSI name.
    pub name: &'a str,
    /// Where it can be reached.
    pub portals: &'a [Portal],
}

/// Who wants to log in: as claimed in the first login request, later also proved.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The session as it would be. Its TSIH is 0, or names a session that the initiator believes is open.
    pub info: &'a SessionInfo,
    /// Connection identifier.
    pub cid: u16,
    /// What was agreed on so far: before authentication nothing.
    pub parameters: &'a Parameters,
}

/// Why a login is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the initiator is told.
    pub status: LoginStatus,
    /// Where the target is, if it has moved.
    pub moved_to: Option<SocketAddr>,
    /// Why, for the log: the initiator is not told.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with this status, for this reason.
    pub fn new(status: LoginStatus, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, moved_to: None, reason: reason.into() }
    }

    /// The target is elsewhere, for good or just for now.
    pub fn moved(address: SocketAddr, permanent: bool) -> Self {
        let status = if permanent { LoginStatus::MOVED_PERMANENTLY } else { LoginStatus::MOVED_TEMPORARILY };
        Self { moved_to: Some(address), ..Self::new(status, format!("redirected to {address}")) }
    }
}

/// How a login may go on.
#[derive(Default)]
pub struct Admission {
    /// Tag of the portal group the connection came in through.
    pub group_tag: u16,
    /// TargetAlias; empty: none.
    pub alias: String,
    /// Security methods, any one of which the initiator must pass. Empty: none is needed.
    pub methods: Vec<Box<dyn SecurityMethod>>,
    /// What this target offers, if not what was given to [`Login::new`](super::Login::new).
    pub settings: Option<Settings>,
}

/// What a security method does after a login request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityStep {
    /// It needs another request.
    Continue,
    /// The initiator has proved who it is.
    Passed {
        /// Under which name.
        name: String,
    },
    /// It has not, for this reason, which it is not told.
    Failed(&'static str),
}

/// One value of AuthMethod, such as CHAP.
pub trait SecurityMethod {
    /// Its name in AuthMethod.
    fn name(&self) -> &'static str;

    /// Whether a key is one of its own. All others in the security stage are negotiated or not understood as ever (RFC 7143
    /// 6.2).
    fn has_key(&self, key: &str) -> bool;

    /// Looks at its keys in one login request and appends its answers to `out`
    /// (with [`text::push`](crate::text::push)).
    fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> SecurityStep;
}

/// The owner of the targets.
pub trait Directory {
    /// Decides, before any authentication, whether and how a login may go on. Refuse an unknown target with
    /// [`LoginStatus::NOT_FOUND`].
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal>;

    /// Makes room for the session after authentication (see [`SessionInfo::authenticated`]) and returns its TSIH,
    /// which is never 0. A session of the same initiator, portal group and ISID is to be ended first: that is
    /// session reinstatement (RFC 7143 6.3.5).
    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal>;

    /// After authentication a connection wants into the session that has its initiator, portal group, ISID and
    /// TSIH. If its CID is that of the session's connection, it is to take that one's place, and the tasks of the
    /// old one are to be ended: that is connection reinstatement (RFC 7143 6.3.4). Returns what was agreed for
    /// the session. Refuse another CID with [`LoginStatus::TOO_MANY_CONNECTIONS`].
    fn join(&mut self, identity: Identity<'_>) -> Result<Parameters, Refusal> {
        let reason = format!("there is no session {}", identity.info.tsih);
        Err(Refusal::new(LoginStatus::NO_SUCH_SESSION, reason))
    }

    /// Shows the targets that the initiator of this session may see, until `show` has enough: the one of the name `wanted`,
    /// in whatever case, or all.
    fn targets(
        &self,
        session: &SessionInfo,
        wanted: Option<&str>,
        show: &mut dyn FnMut(TargetRecord<'_>) -> ControlFlow<()>,
    );
}
