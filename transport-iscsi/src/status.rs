//! What there is to see of a session.

use lunette_iscsi::params::Parameters;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

/// Something that has happened to a session, or to one that was refused.
#[derive(Clone, Copy)]
pub struct SessionEvent<'a> {
    /// What it is.
    pub what: SessionChange<'a>,
    /// The initiator's name, as it says.
    pub initiator: &'a str,
    /// The initiator's address.
    pub address: SocketAddr,
    /// The target's name; `None`: it is for discovery, or no target was named.
    pub target: Option<&'a str>,
    /// Target session identifying handle; 0: there was none yet.
    pub tsih: u16,
    /// The CHAP name that the initiator has proved to be its own.
    pub account: Option<&'a str>,
}

/// What has happened to a session.
#[derive(Clone, Copy)]
pub enum SessionChange<'a> {
    /// The initiator has logged in.
    Begun,
    /// It has ended; why.
    Ended(&'a dyn Display),
    /// The initiator was not let in; why.
    Refused(&'a dyn Display),
}

/// A session: between whom it is, what was agreed on and what it has done.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub struct SessionStatus {
    /// Target session identifying handle, which no other session of the network entity has.
    pub tsih: u16,
    /// The target's name; `None` in a discovery session.
    pub target: Option<String>,
    /// The tag of the portal group that the session came through.
    pub group_tag: u16,
    /// The initiator's name, as it says.
    pub initiator: String,
    /// Its alias; empty: none.
    pub alias: String,
    /// The initiator's part of the session identifier.
    #[serde(serialize_with = "hexadecimal")]
    #[schemars(with = "String")]
    pub isid: [u8; 6],
    /// The CHAP name that the initiator has proved to be its own; `None` if it did not have to.
    pub account: Option<String>,
    /// The initiator's address.
    pub address: SocketAddr,
    /// The address that it has reached.
    pub portal: SocketAddr,
    /// The reactor that has its connection.
    pub reactor: u16,
    /// What was agreed on.
    pub parameters: SessionParameters,
    /// For how long there has been a connection. In JSON: seconds.
    #[serde(serialize_with = "seconds")]
    #[schemars(with = "f64")]
    pub age: Duration,
    /// How long ago the last command came, or the connection. In JSON: seconds.
    #[serde(serialize_with = "seconds")]
    #[schemars(with = "f64")]
    pub idle: Duration,
    /// What it has done.
    #[serde(flatten)]
    pub counters: SessionCounters,
    /// Commands and task management functions that are not answered.
    pub open_tasks: usize,
}

/// What was agreed on in a login, in the terms of RFC 7143 13.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "they are the keys of the standard")]
pub struct SessionParameters {
    pub header_digest: bool,
    pub data_digest: bool,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// The initiator's.
    pub max_recv_data_segment_length: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub max_outstanding_r2t: u32,
    pub error_recovery_level: u32,
    pub protocol_level: u32,
}

/// What a session has done. Its connection counts, on its reactor.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct SessionCounters {
    /// Commands that have come.
    pub commands: u64,
    /// Bytes of data-in of those that have ended: what the initiator has read.
    pub bytes_read: u64,
    /// Bytes of data-out of those that have ended: what the initiator has written.
    pub bytes_written: u64,
    /// Commands that have ended with neither GOOD nor CONDITION MET.
    pub errors: u64,
}

impl From<&Parameters> for SessionParameters {
    fn from(agreed: &Parameters) -> Self {
        Self {
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
            initial_r2t: agreed.initial_r2t,
            immediate_data: agreed.immediate_data,
            max_recv_data_segment_length: agreed.max_recv_data_segment_length,
            max_burst_length: agreed.max_burst_length,
            first_burst_length: agreed.first_burst_length,
            max_outstanding_r2t: agreed.max_outstanding_r2t,
            error_recovery_level: agreed.error_recovery_level,
            protocol_level: agreed.protocol_level,
        }
    }
}

/// How a session is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndHow {
    /// Its initiator is asked to log out within this time; then its connection is closed. A discovery session has nothing
    /// that is worth the wait.
    LogoutRequest(Duration),
    /// Its connection is closed.
    Drop,
}

fn hexadecimal<S: Serializer>(bytes: &[u8; 6], to: S) -> Result<S::Ok, S::Error> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    to.serialize_str(&digits)
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_millis() as f64 / 1000.0)
}
