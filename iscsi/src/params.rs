//! Operational parameters and how they are negotiated (RFC 7143 6.2, 13), as a table.

use crate::digest::Digests;
use crate::limits::{
    DEFAULT_FIRST_BURST, DEFAULT_MAX_BURST, DEFAULT_MAX_RECV_DATA_SEGMENT, DEFAULT_OUTSTANDING_R2T,
    LOGIN_DATA_SEGMENT,
};
use crate::text::{self, answer};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Operational parameters: what one side wants, or what both agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data segments.
    pub data_digest: bool,
    /// Connections in the session.
    pub max_connections: u32,
    /// No unsolicited Data-Out PDUs: every one answers an R2T.
    pub initial_r2t: bool,
    /// A SCSI Command may carry data.
    pub immediate_data: bool,
    /// Longest data segment in bytes. In what one side wants: what it receives; in what was agreed: what the
    /// *peer* receives.
    pub max_recv_data_segment_length: u32,
    /// Longest sequence of Data-In or solicited Data-Out PDUs, in bytes.
    pub max_burst_length: u32,
    /// Longest unsolicited data of one command, immediate data included, in bytes.
    pub first_burst_length: u32,
    /// Seconds to wait before a reconnection.
    pub default_time_to_wait: u32,
    /// Seconds a task outlives its connection.
    pub default_time_to_retain: u32,
    /// R2Ts open at once for one task.
    pub max_outstanding_r2t: u32,
    /// Data PDUs of a sequence come in order.
    pub data_pdu_in_order: bool,
    /// Sequences of a command come in order.
    pub data_sequence_in_order: bool,
    /// Error recovery level.
    pub error_recovery_level: u32,
    /// iSCSIProtocolLevel (RFC 7143 13.24). From [`SCSI_FEATURES`](Self::SCSI_FEATURES) on there is more to say.
    pub protocol_level: u32,
}

impl Parameters {
    /// The iSCSIProtocolLevel with command priorities, status qualifiers, and the task management functions from QUERY TASK on
    /// (RFC 7144).
    pub const SCSI_FEATURES: u32 = 2;

    /// What holds when nothing is negotiated (RFC 7143 13).
    pub const DEFAULT: Self = Self {
        header_digest: false,
        data_digest: false,
        max_connections: 1,
        initial_r2t: true,
        immediate_data: true,
        max_recv_data_segment_length: LOGIN_DATA_SEGMENT,
        max_burst_length: 262_144,
        first_burst_length: 65_536,
        default_time_to_wait: 2,
        default_time_to_retain: 20,
        max_outstanding_r2t: 1,
        data_pdu_in_order: true,
        data_sequence_in_order: true,
        error_recovery_level: 0,
        protocol_level: 1,
    };

    /// What this crate prefers: digests if the peer wants them, unsolicited data, large bursts.
    pub const PREFERRED: Self = Self {
        header_digest: true,
        data_digest: true,
        initial_r2t: false,
        max_recv_data_segment_length: DEFAULT_MAX_RECV_DATA_SEGMENT,
        max_burst_length: DEFAULT_MAX_BURST,
        first_burst_length: DEFAULT_FIRST_BURST,
        max_outstanding_r2t: DEFAULT_OUTSTANDING_R2T,
        default_time_to_retain: 0,
        protocol_level: Self::SCSI_FEATURES,
        ..Self::DEFAULT
    };
}

impl Parameters {
    /// Lengths of data segments that can be declared, in bytes (RFC 7143 13.12).
    pub(crate) const DATA_SEGMENT: RangeInclusive<u32> = LEAST_LENGTH..=LENGTH_MAX;

    /// Whether a negotiation can have come to this.
    pub(crate) fn are_possible(mut self) -> bool {
        TABLE.iter().all(|spec| match spec.rule {
            Rule::Min(field, low, high)
            | Rule::Max(field, low, high)
            | Rule::Capped(field, low, high, _)
            | Rule::Declare(field, low, high) => (low..=high).contains(field(&mut self)),
            Rule::And(_) | Rule::Or(_) | Rule::Digest(_) | Rule::TaskReporting => true,
        })
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self::DEFAULT
    }
}

type Flag = fn(&mut Parameters) -> &mut bool;
type Number = fn(&mut Parameters) -> &mut u32;

/// How the result follows from the two values.
enum Rule {
    /// Yes if both say yes.
    And(Flag),
    /// Yes if one says yes.
    Or(Flag),
    /// The smaller number.
    Min(Number, u32, u32),
    /// The smaller number, and no more than what another key has come to.
    Capped(Number, u32, u32, Number),
    /// The larger number.
    Max(Number, u32, u32),
    /// Each side declares its own.
    Declare(Number, u32, u32),
    /// `CRC32C` and `None`; the first of the list that is supported.
    Digest(Flag),
    /// TaskReporting: a list of which only `RFC3720` is supported.
    TaskReporting,
}

/// For what a key is negotiated (RFC 7143 13: "Use" and "Irrelevant when").
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Each connection.
    Connection,
    /// The session: by its leading connection.
    Session,
    /// The session, unless it is a discovery session.
    NormalSession,
}

struct Spec {
    key: &'static str,
    scope: Scope,
    /// Allowed in full-feature phase too.
    any_time: bool,
    rule: Rule,
}

const LEAST_LENGTH: u32 = 512;
const LENGTH_MAX: u32 = (1 << 24) - 1;

const fn row(key: &'static str, scope: Scope, rule: Rule) -> Spec {
    Spec { key, scope, any_time: false, rule }
}

const fn connection(key: &'static str, rule: Rule) -> Spec {
    row(key, Scope::Connection, rule)
}

const fn session(key: &'static str, rule: Rule) -> Spec {
    row(key, Scope::Session, rule)
}

const fn normal(key: &'static str, rule: Rule) -> Spec {
    row(key, Scope::NormalSession, rule)
}

/// One row per key that has a result.
static TABLE: [Spec; 16] = [
    connection("HeaderDigest", Rule::Digest(|p| &mut p.header_digest)),
    connection("DataDigest", Rule::Digest(|p| &mut p.data_digest)),
    Spec {
        key: "MaxRecvDataSegmentLength",
        scope: Scope::Connection,
        any_time: true,
        rule: Rule::Declare(|p| &mut p.max_recv_data_segment_length, LEAST_LENGTH, LENGTH_MAX),
    },
    normal("MaxConnections", Rule::Min(|p| &mut p.max_connections, 1, 65_535)),
    normal("InitialR2T", Rule::Or(|p| &mut p.initial_r2t)),
    normal("ImmediateData", Rule::And(|p| &mut p.immediate_data)),
    normal("MaxBurstLength", Rule::Min(|p| &mut p.max_burst_length, LEAST_LENGTH, LENGTH_MAX)),
    // RFC 7143 13.14
    normal(
        "FirstBurstLength",
        Rule::Capped(|p| &mut p.first_burst_length, LEAST_LENGTH, LENGTH_MAX, |p| &mut p.max_burst_length),
    ),
    session("DefaultTime2Wait", Rule::Max(|p| &mut p.default_time_to_wait, 0, 3600)),
    session("DefaultTime2Retain", Rule::Min(|p| &mut p.default_time_to_retain, 0, 3600)),
    normal("MaxOutstandingR2T", Rule::Min(|p| &mut p.max_outstanding_r2t, 1, 65_535)),
    normal("DataPDUInOrder", Rule::Or(|p| &mut p.data_pdu_in_order)),
    normal("DataSequenceInOrder", Rule::Or(|p| &mut p.data_sequence_in_order)),
    session("ErrorRecoveryLevel", Rule::Min(|p| &mut p.error_recovery_level, 0, 2)),
    normal("TaskReporting", Rule::TaskReporting),
    normal("iSCSIProtocolLevel", Rule::Min(|p| &mut p.protocol_level, 0, 31)),
];

/// Keys of RFC 3720 that must not be called unknown (RFC 7143 13.25).
const OBSOLETE: [&str; 4] = ["IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt"];

/// When a key is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Login of a normal session.
    Login,
    /// Login of a discovery session.
    DiscoveryLogin,
    /// Login of another connection of a session.
    JoiningLogin,
    /// Text requests after the login.
    FullFeature,
}

impl Spec {
    fn is_relevant(&self, phase: Phase) -> bool {
        match phase {
            Phase::Login | Phase::FullFeature => true,
            Phase::DiscoveryLogin => self.scope != Scope::NormalSession,
            Phase::JoiningLogin => self.scope == Scope::Connection,
        }
    }
}

/// One negotiation: what we want, what was agreed so far, which keys were seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiation {
    ours: Parameters,
    /// Which digests must be agreed on.
    required: Parameters,
    agreed: Parameters,
    seen: u32,
}

/// A key was sent twice (RFC 7143 6.3, 6.4: an initiator error).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

impl Negotiation {
    /// Starts from the defaults of the standard.
    pub fn new(mut ours: Parameters) -> Self {
        ours.first_burst_length = ours.first_burst_length.min(ours.max_burst_length);
        Self { ours, required: Parameters::DEFAULT, agreed: Parameters::DEFAULT, seen: 0 }
    }

    /// Leaves no choice about these digests: the first choice of a peer that may also do without is passed over.
    pub fn requiring(mut self, digests: Digests) -> Self {
        (self.required.header_digest, self.required.data_digest) = (digests.header, digests.data);
        self
    }

    /// Another negotiation begins, in which keys may come again. What was agreed holds on.
    pub fn begin(&mut self) {
        self.seen = 0;
    }

    /// What was agreed so far.
    pub fn agreed(&self) -> Parameters {
        let mut agreed = self.agreed;
        agreed.first_burst_length = agreed.first_burst_length.min(agreed.max_burst_length);
        agreed
    }

    /// Takes over what holds for the whole session from another connection of it.
    pub(crate) fn join(&mut self, session: Parameters) {
        let Parameters { header_digest, data_digest, max_recv_data_segment_length, .. } = self.agreed;
        self.agreed = Parameters { header_digest, data_digest, max_recv_data_segment_length, ..session };
    }

    /// Answers the key `key=value` of the peer. The answer, if one is due, is appended to `out`.
    pub fn answer(
        &mut self,
        phase: Phase,
        key: &str,
        value: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Repeated> {
        if [answer::REJECT, answer::IRRELEVANT, answer::NOT_UNDERSTOOD].contains(&value) {
            return Ok(());
        }
        let Some((index, spec)) = find(key) else {
            let obsolete = OBSOLETE.contains(&key);
            text::push(out, key, if obsolete { answer::REJECT } else { answer::NOT_UNDERSTOOD });
            return Ok(());
        };
        let bit = 1 << index;
        if self.seen & bit != 0 {
            return Err(Repeated);
        }
        self.seen |= bit;
        if phase == Phase::FullFeature && !spec.any_time {
            text::push(out, key, answer::REJECT);
            return Ok(());
        }
        if !spec.is_relevant(phase) {
            text::push(out, key, answer::IRRELEVANT);
            return Ok(());
        }
        if let Some(result) = self.combine(&spec.rule, value) {
            text::push(out, key, &result);
        }
        Ok(())
    }

    /// The result of an offer; `None`: a declaration, which has no answer.
    fn combine(&mut self, rule: &Rule, value: &str) -> Option<String> {
        let reject = || Some(answer::REJECT.to_owned());
        match *rule {
            Rule::And(field) | Rule::Or(field) => {
                let Some(theirs) = yes_or_no(value) else {
                    return reject();
                };
                let ours = *field(&mut self.ours);
                let result = if matches!(rule, Rule::And(_)) { theirs && ours } else { theirs || ours };
                *field(&mut self.agreed) = result;
                Some(yes_no(result).to_owned())
            }
            Rule::Min(field, low, high) | Rule::Max(field, low, high) | Rule::Capped(field, low, high, _) => {
                let Some(theirs) = number_within(value, low, high) else {
                    return reject();
                };
                let ours = *field(&mut self.ours);
                let result = match *rule {
                    Rule::Max(..) => theirs.max(ours),
                    Rule::Capped(.., cap) => theirs.min(ours).min(*cap(&mut self.agreed)),
                    _ => theirs.min(ours),
                };
                *field(&mut self.agreed) = result;
                Some(result.to_string())
            }
            Rule::Declare(field, low, high) => {
                let Some(theirs) = number_within(value, low, high) else {
                    return reject();
                };
                *field(&mut self.agreed) = theirs;
                None
            }
            Rule::Digest(field) => {
                let (ours, required) = (*field(&mut self.ours), *field(&mut self.required));
                let supported = |choice: &&str| *choice == "None" && !required || *choice == "CRC32C" && ours;
                let Some(choice) = value.split(',').find(supported) else {
                    return reject();
                };
                *field(&mut self.agreed) = choice == "CRC32C";
                Some(choice.to_owned())
            }
            Rule::TaskReporting => match value.split(',').find(|choice| *choice == "RFC3720") {
                Some(choice) => Some(choice.to_owned()),
                None => reject(),
            },
        }
    }

    /// Appends our MaxRecvDataSegmentLength.
    pub fn declare(&self, out: &mut Vec<u8>) {
        text::push(out, "MaxRecvDataSegmentLength", &self.ours.max_recv_data_segment_length.to_string());
    }

    /// Appends an offer of every key, as an initiator does.
    pub fn offer(&self, phase: Phase, out: &mut Vec<u8>) {
        let mut ours = self.ours;
        for spec in TABLE.iter().filter(|spec| spec.is_relevant(phase)) {
            let number;
            let value = match spec.rule {
                Rule::And(field) | Rule::Or(field) => yes_no(*field(&mut ours)),
                Rule::Min(field, ..)
                | Rule::Capped(field, ..)
                | Rule::Max(field, ..)
                | Rule::Declare(field, ..) => {
                    number = field(&mut ours).to_string();
                    &number
                }
                Rule::Digest(field) if *field(&mut ours) => "CRC32C,None",
                Rule::Digest(_) => "None",
                Rule::TaskReporting => "RFC3720",
            };
            text::push(out, spec.key, value);
        }
    }

    /// Takes the answer to an offer of ours; false if it cannot follow from the offer.
    pub fn accept(&mut self, key: &str, value: &str) -> bool {
        let Some((_, spec)) = find(key) else {
            return true;
        };
        if [answer::REJECT, answer::IRRELEVANT, answer::NOT_UNDERSTOOD].contains(&value) {
            return !matches!(spec.rule, Rule::Declare(..));
        }
        match spec.rule {
            Rule::And(field) | Rule::Or(field) => {
                let Some(result) = yes_or_no(value) else {
                    return false;
                };
                let ours = *field(&mut self.ours);
                *field(&mut self.agreed) = result;
                if matches!(spec.rule, Rule::And(_)) { ours || !result } else { result || !ours }
            }
            Rule::Min(field, low, high)
            | Rule::Capped(field, low, high, _)
            | Rule::Max(field, low, high)
            | Rule::Declare(field, low, high) => {
                let Some(result) = number_within(value, low, high) else {
                    return false;
                };
                let ours = *field(&mut self.ours);
                *field(&mut self.agreed) = result;
                match spec.rule {
                    Rule::Min(..) | Rule::Capped(..) => result <= ours,
                    Rule::Max(..) => result >= ours,
                    _ => true,
                }
            }
            Rule::Digest(field) => {
                *field(&mut self.agreed) = value == "CRC32C";
                value == "None" || value == "CRC32C" && *field(&mut self.ours)
            }
            Rule::TaskReporting => value == "RFC3720",
        }
    }
}

/// Whether the result of a key depends on those of others in the same text, so that it is answered after them.
pub(crate) fn is_capped(key: &str) -> bool {
    find(key).is_some_and(|(_, spec)| matches!(spec.rule, Rule::Capped(..)))
}

fn find(key: &str) -> Option<(usize, &'static Spec)> {
    TABLE.iter().enumerate().find(|(_, spec)| spec.key == key)
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn number_within(value: &str, low: u32, high: u32) -> Option<u32> {
    text::number(value).filter(|number| (low..=high).contains(number))
}

#[cfg(test)]
mod tests;
