use std::net::SocketAddr;
use thiserror::Error;

/// Why a target or a portal cannot be offered.
#[derive(Debug, Error)]
pub enum Error {
    /// The name is not one (RFC 7143 4.2.7).
    #[error("`{0}` is not an iSCSI name: one looks like iqn.2026-11.dev.lunette:default")]
    Name(String),
    /// Another target has the name.
    #[error("there are two targets of the name {0}")]
    NameTaken(String),
    /// No target has the name.
    #[error("there is no target of the name {0}")]
    NoTarget(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A socket to take over is not one that iSCSI can use.
    #[error("cannot use the socket: {0}")]
    Socket(std::io::Error),
    /// The reactors have ended.
    #[error("cannot listen on {0}: the reactors have ended")]
    NoReactor(SocketAddr),
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum End {
    #[error("logged out")]
    LoggedOut,
    #[error("the initiator closed the connection")]
    Closed,
    #[error("{0}")]
    Socket(std::io::Error),
    #[error("{0}")]
    Protocol(lunette_iscsi::Error),
    #[error("the login took too long")]
    SlowLogin,
    #[error("others are to log in instead")]
    Evicted,
    #[error("too many logins from its address have failed")]
    Indebted,
    #[error("the initiator is silent")]
    Silent,
    #[error("the data of a command does not come, or comes too slowly")]
    NoData,
    #[error("commands that were sent before others do not come")]
    Gap,
    #[error("its requests and answers occupy too much memory")]
    Condemned,
    #[error("a PDU has begun and does not end")]
    SlowPdu,
    #[error("the initiator takes what is sent to it too slowly, or not at all")]
    SlowReader,
    #[error("the session that it was to replace does not end")]
    Blocked,
    #[error("the same initiator port has logged in anew")]
    Replaced,
    #[error("it was to be ended")]
    Unwanted,
    #[error("its target has been removed")]
    Removed,
    #[error("its target does not let it in any more: {0}")]
    Denied(&'static str),
    #[error("target cold reset")]
    ColdReset,
    #[error("the portal is stopped")]
    Stopped,
    #[error("it goes on in another process")]
    HandedOver,
}

impl End {
    /// Whether something was said at last that the initiator should hear.
    pub(crate) fn has_last_word(&self) -> bool {
        matches!(
            self,
            Self::LoggedOut
                | Self::Protocol(_)
                | Self::ColdReset
                | Self::Unwanted
                | Self::Removed
                | Self::Denied(_)
                | Self::Stopped
        )
    }
}

impl From<lunette_iscsi::Error> for End {
    fn from(error: lunette_iscsi::Error) -> Self {
        Self::Protocol(error)
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Socket(error)
    }
}
