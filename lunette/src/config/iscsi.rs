//! The iSCSI part of a configuration: portals, targets and who may do what.

use super::secret::SecretSource;
use super::unit::is_default;
use super::values::{Label, Length, Lun, Name, TargetName, Text};
use crate::access;
use crate::stop;
use lunette_engine::TargetPort;
use lunette_iscsi::chap::Algorithm;
use lunette_iscsi::limits::{MAX_COMMAND_WINDOW, MAX_VALUE};
use lunette_transport_iscsi::{NamePattern, Network};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

/// `[[portal]]`: an address on which initiators reach the targets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Portal {
    /// Address and port; `0.0.0.0` and `[::]` stand for all addresses, port 0 for one that is free.
    pub(crate) listen: Text<SocketAddr>,
    /// The target portal group, and the target port group, that it belongs to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) group: PortGroup,
    /// How initiators reach it, if not by the address that it listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) advertise: Vec<Text<SocketAddr>>,
}

/// The number of a target port group, 1 to 65534.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub(crate) struct PortGroup(pub(crate) u16);

impl Default for PortGroup {
    fn default() -> Self {
        Self(TargetPort::DEFAULT_GROUP)
    }
}

impl<'de> Deserialize<'de> for PortGroup {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let group = u16::deserialize(from)?;
        access::group(&group.to_string()).map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for PortGroup {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PortGroup".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 65534 })
    }
}

/// `[limits]`: how many may connect and log in by iSCSI, and how often. An address is an IPv4 address or an IPv6 network of 64
/// bits.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Limits {
    /// Connections of all, otherwise 4096; one address gets no more than it leaves to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<NonZeroU32>,
    /// Logins under way, otherwise 512; one more ends the oldest of the address that has most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logins: Option<NonZeroU32>,
    /// Logins under way from one address, otherwise 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logins_of_address: Option<NonZeroU32>,
    /// Logins that an address may begin at once, otherwise 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login_burst: Option<NonZeroU32>,
    /// Logins that an address may begin in each second after that, otherwise 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login_rate: Option<NonZeroU32>,
    /// As how many more logins one counts that has not proved who it is, otherwise 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_weight: Option<u32>,
    /// Sessions that one initiator name has from one address with one account, otherwise 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sessions_of_initiator: Option<NonZeroU32>,
}

/// `[times]` of iSCSI, in seconds.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Times {
    /// How long a login may take, otherwise 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<NonZeroU16>,
    /// After how long a silent initiator is asked for a sign of life, otherwise 45.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<NonZeroU16>,
    /// How long it has for that, for the data of a command, and for the rest of a PDU, otherwise 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) silence: Option<NonZeroU16>,
    /// How long commands in flight have when the daemon stops, otherwise 5, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stop_time")]
    #[schemars(range(min = 1, max = 20))]
    pub(crate) stop: Option<NonZeroU16>,
}

/// `[discovery]`: who may ask by iSCSI which targets there are.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Discovery {
    /// From which addresses and networks; otherwise from all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) addresses: Vec<Text<Network>>,
    /// How it has to prove who it is; otherwise it need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chap: Option<Chap>,
}

/// `[[target]]`: an iSCSI target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Target {
    /// iSCSI name: `iqn.`, `eui.` or `naa.`
    pub(crate) name: TargetName,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "alias")]
    #[schemars(length(max = 255))]
    pub(crate) alias: String,
    /// The portal groups through which it is reached, as in `[1, 2]`; otherwise all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) groups: BTreeSet<PortGroup>,
    /// The names of units at their logical unit numbers; without it those that have a `lun` of their own and the target 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<Luns>,
    /// Where initiators that have a rule are sent instead of being let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redirect: Option<Redirect>,
    /// What is agreed to in a login.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) parameters: Parameters,
    /// Rules: the first one that fits counts. Without rules everyone is let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) access: Vec<Access>,
}

impl Target {
    /// A target that is open to everyone and says nothing else.
    pub(crate) fn new(name: TargetName) -> Self {
        Self {
            name,
            alias: String::new(),
            groups: BTreeSet::new(),
            units: None,
            redirect: None,
            parameters: Parameters::default(),
            access: Vec::new(),
        }
    }
}

/// The names of units by the logical unit numbers at which they are seen.
pub(crate) type Luns = BTreeMap<Lun, Name>;

/// `[[target.access]]`: what some initiators may do.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Access {
    /// Names, in which `*` and `?` stand for any characters and any one; otherwise all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) initiators: Vec<Text<NamePattern>>,
    /// Addresses and networks, as in `192.0.2.0/24`; otherwise all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) addresses: Vec<Text<Network>>,
    /// What they see, by logical unit number, instead of what the target shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<Luns>,
    /// How they have to prove who they are; otherwise they need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chap: Option<Chap>,
}

/// `chap`: how an initiator proves who it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Chap {
    /// Those that are accepted, the first that the initiator knows is used; otherwise all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[schemars(length(min = 1))]
    pub(crate) algorithms: Vec<Text<Algorithm>>,
    /// Names and secrets, any one of which is let in.
    pub(crate) accounts: Vec<Account>,
    /// The name and secret by which the target proves itself to those who ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Account>,
    /// Secrets may have fewer than 12 bytes, and be so short that they can be guessed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) short_secrets: bool,
}

/// A name and what proves it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Account {
    /// What it is called in a login (CHAP_N).
    pub(crate) name: Label,
    /// Where its secret is.
    pub(crate) secret: SecretSource,
}

/// `redirect`: where a target has moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Redirect {
    /// Address and port.
    pub(crate) address: Text<SocketAddr>,
    /// For good; initiators may then forget the old place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) permanent: bool,
}

/// `parameters`: what the target wants in a login (RFC 7143 13), under the names of the standard.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Parameters {
    /// CRC32C of headers; otherwise if the initiator wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) header_digest: Option<Digest>,
    /// CRC32C of data; otherwise if the initiator wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_digest: Option<Digest>,
    /// All data that does not come with its command waits to be asked for; otherwise not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initial_r2t: Option<bool>,
    /// Commands may carry data; otherwise they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) immediate_data: Option<bool>,
    /// Data of one PDU that we receive, otherwise 256K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_recv_data_segment_length: Option<Length>,
    /// Data of one answer, or one request for data, otherwise 1M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_burst_length: Option<Length>,
    /// Data that comes unasked with a command, otherwise 256K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_burst_length: Option<Length>,
    /// Requests for data of one command at a time, otherwise 4.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "outstanding_r2t")]
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) max_outstanding_r2t: Option<u32>,
    /// Commands that a session may have open at once, otherwise 128.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "command_window")]
    #[schemars(range(min = 1, max = 4096))]
    pub(crate) command_window: Option<u16>,
}

/// Whether a digest is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Digest {
    /// Never.
    Forbid,
    /// If the initiator wants it.
    Allow,
    /// Always: who does not want it is not let in.
    Require,
}

/// Some of them. That there are none is not what an empty list says: without the list there is no such condition.
pub(super) fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>, L: FromIterator<T>>(
    from: D,
) -> Result<L, D::Error> {
    let list = Vec::<T>::deserialize(from)?;
    match list.is_empty() {
        true => Err(D::Error::custom("the list is empty: leave it out, or say what is in it")),
        false => Ok(list.into_iter().collect()),
    }
}

/// TargetAlias (RFC 7143 13.6).
fn alias<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match text.len() <= MAX_VALUE && !text.contains(char::is_control) {
        true => Ok(text),
        false => Err(D::Error::custom("an alias has at most 255 bytes, none of them control characters")),
    }
}

/// MaxOutstandingR2T (RFC 7143 13.17).
fn outstanding_r2t<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(from)? {
        count @ 1..=65_535 => Ok(Some(count)),
        _ => Err(D::Error::custom("1 to 65535 requests for data of a command may be open at a time")),
    }
}

/// No longer than that, so that what is then to be flushed has its time before a service manager kills.
fn stop_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU16>, D::Error> {
    let time = NonZeroU16::deserialize(from)?;
    match Duration::from_secs(time.get().into()) <= stop::LONGEST {
        true => Ok(Some(time)),
        false => {
            Err(D::Error::custom(format!("commands have at most {:?} when the daemon stops", stop::LONGEST)))
        }
    }
}

fn command_window<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(from)? {
        count @ 1..=MAX_COMMAND_WINDOW => Ok(Some(count)),
        _ => Err(D::Error::custom(format!("1 to {MAX_COMMAND_WINDOW} commands may be open at a time"))),
    }
}
