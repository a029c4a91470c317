//! Handing a connection to another process, which goes on with it: plain data, and descriptors beside it.
//!
//! All of it comes back through the hands of others, and maybe from another version: what does not fit together ends the
//! connection, and only that.

use crate::events::HandedEvents;
use lunette_vhost_user::{Features, InflightArea, LogArea, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;

/// What a descriptor of a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The connection itself.
    Socket,
    /// The file of a region of guest memory, in the order of the regions.
    Memory(u16),
    /// By which the driver notifies us of a queue.
    Kick(u16),
    /// By which we notify the driver of a queue.
    Call(u16),
    /// By which we say that a queue is broken.
    Error(u16),
    /// For requests of ours (SET_BACKEND_REQ_FD).
    Channel,
    /// The memory in which is noted what is in flight.
    Notes,
    /// The memory in which stands which agreement is in force.
    Ledger,
    /// The dirty log.
    Log,
    /// It came with the message that has not come whole.
    Unread(u16),
    /// It goes with the reply that has not been sent.
    Unsent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket => f.write_str("s"),
            Self::Memory(number) => write!(f, "m{number}"),
            Self::Kick(number) => write!(f, "k{number}"),
            Self::Call(number) => write!(f, "c{number}"),
            Self::Error(number) => write!(f, "e{number}"),
            Self::Channel => f.write_str("b"),
            Self::Notes => f.write_str("n"),
            Self::Ledger => f.write_str("a"),
            Self::Log => f.write_str("l"),
            Self::Unread(number) => write!(f, "u{number}"),
            Self::Unsent => f.write_str("r"),
        }
    }
}

/// A name that no [`Role`] has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no descriptor of a connection has such a name")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(name: &str) -> Result<Self, NoRole> {
        let number = |make: fn(u16) -> Self| {
            let role = name.get(1..).and_then(|digits| digits.parse().ok()).map(make).ok_or(NoRole)?;
            // One name for each.
            if role.to_string() == name { Ok(role) } else { Err(NoRole) }
        };
        match name.as_bytes() {
            b"s" => Ok(Self::Socket),
            b"b" => Ok(Self::Channel),
            b"n" => Ok(Self::Notes),
            b"a" => Ok(Self::Ledger),
            b"l" => Ok(Self::Log),
            b"r" => Ok(Self::Unsent),
            [b'm', ..] => number(Self::Memory),
            [b'k', ..] => number(Self::Kick),
            [b'c', ..] => number(Self::Call),
            [b'e', ..] => number(Self::Error),
            [b'u', ..] => number(Self::Unread),
            _ => Err(NoRole),
        }
    }
}

/// What was agreed on in a connection, and where it stands.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The rings have been stopped, those that ran: nothing of them changes any more.
    pub(crate) drained: bool,
    pub(crate) backend: State,
    /// Rings that were brought to rest in order, so that their bases are true. Others have not run in the process that left: they
    /// go on at what their notes say, if there are some.
    pub(crate) rested: BTreeSet<u16>,
    /// Rings that have not run since they were started, as their units had not come: their bases are true, though nothing is noted.
    pub(crate) waiting: BTreeSet<u16>,
    /// Rings that were found broken: they are left alone until the driver starts them anew.
    pub(crate) broken: BTreeSet<u16>,
    /// Of sense data and of CDBs, in bytes, if the driver may have changed them.
    pub(crate) sizes: Option<(u16, u16)>,
    /// Features that forbid to start any ring.
    pub(crate) forbidding: Features,
    /// The part of the next message that has come.
    pub(crate) unread: Vec<u8>,
    /// The part of the last reply that has not been sent.
    pub(crate) unsent: Vec<u8>,
    pub(crate) notes: Option<InflightArea>,
    pub(crate) log: Option<LogArea>,
    /// The number of the agreement: if another one stands in its memory, this is out of date.
    pub(crate) agreement: Option<u64>,
    pub(crate) events: HandedEvents,
}

impl Record {
    /// Whether the rings have been stopped: it is out of date as soon as they go on.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// The number of what was agreed on, the same as long as that is: nothing if nobody counts.
    pub fn agreement(&self) -> Option<u64> {
        self.agreement
    }
}

/// A connection on its way to another process.
#[derive(Debug)]
pub struct HandedConnection {
    /// What was agreed on.
    pub record: Record,
    /// The descriptors.
    pub fds: BTreeMap<Role, OwnedFd>,
}

/// What there is of a connection at a moment.
#[derive(Debug)]
pub enum Snapshot {
    /// There is none.
    Nothing,
    /// Something is being changed; the observer is told when that has come to something.
    Unsettled,
    /// What another process needs to go on.
    Connection(Box<HandedConnection>),
}

/// An export on its way to another process.
#[derive(Debug)]
pub struct HandedExport {
    /// The listening socket, if there is one.
    pub listener: Option<OwnedFd>,
    /// Device and inode of its file, if that was made for it.
    pub file: Option<(u64, u64)>,
    /// The connection, if a front end was there and stays.
    pub connection: Option<HandedConnection>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_roles() {
        use Role as R;
        let roles = [R::Socket, R::Memory(508), R::Kick(0), R::Call(255), R::Error(7), R::Channel, R::Notes];
        for role in roles.into_iter().chain([R::Log, R::Unread(3), R::Unsent, R::Ledger]) {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for name in ["", "k", "k01", "k+1", "k65536", "x1", "s1", "ä"] {
            assert_eq!(name.parse::<Role>(), Err(NoRole), "{name}");
        }
    }
}
