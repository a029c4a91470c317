//! What the machines ask their owner: who may log in where, and which targets there are.

use std::net::SocketAddr;

use super::SessionInfo;
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

/// Who wants to log in, as claimed in the first login request.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The session as it would be; its TSIH is still 0.
    pub info: &'a SessionInfo,
    /// Connection identifier.
    pub cid: u16,
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// With this status.
    Status(LoginStatus),
    /// The target is elsewhere.
    Moved {
        /// Where.
        portal: Portal,
        /// For good, not just for now.
        permanent: bool,
    },
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

    /// Looks at the security keys of one login request and appends its answers to `out`
    /// (with [`text::push`](crate::text::push)).
    fn step(&mut self, keys: &[(&str, &str)], out: &mut Vec<u8>) -> SecurityStep;
}

/// The owner of the targets.
pub trait Directory {
    /// Decides, before any authentication, whether and how a login may go on. Refuse an unknown target with
    /// [`LoginStatus::NOT_FOUND`].
    fn admit(&mut self, identity: Identity<'_>) -> Result<Admission, Refusal>;

    /// Makes room for the session after authentication (see [`SessionInfo::authenticated`]) and returns its TSIH, which is never 0. A session of the
    /// same initiator, target and ISID is to be ended first (RFC 7143 6.3.5).
    fn open(&mut self, identity: Identity<'_>) -> Result<u16, Refusal>;

    /// Shows every target `initiator` may see.
    fn targets(&self, initiator: &str, show: &mut dyn FnMut(TargetRecord<'_>));
}
