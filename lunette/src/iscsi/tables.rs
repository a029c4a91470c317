//! The tables of the iSCSI configuration, as they are written in TOML.

use super::secret::SecretSource;
use crate::access;
use crate::notation::MAX_LUNS;
use crate::size;
use crate::stop;
use lunette_engine::TargetPort;
use lunette_iscsi::chap::Algorithm;
use lunette_iscsi::limits::{MAX_COMMAND_WINDOW, MAX_VALUE};
use lunette_transport_iscsi::{self as iscsi, NamePattern, Network};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tables {
    /// Where connections may come from; none: from anywhere.
    #[serde(default, deserialize_with = "texts")]
    pub(crate) addresses: Vec<Network>,
    #[serde(default, rename = "portal")]
    pub(crate) portals: Vec<Portal>,
    pub(crate) discovery: Option<Discovery>,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) times: Times,
    #[serde(default, rename = "target")]
    pub(crate) targets: Vec<Target>,
}

/// `[[portal]]`: an address on which initiators reach the targets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Portal {
    #[serde(deserialize_with = "text")]
    pub(crate) listen: SocketAddr,
    /// The target portal group, and the target port group, that it belongs to.
    #[serde(default = "default_group", deserialize_with = "group")]
    pub(crate) group: u16,
    /// How initiators reach it, if not by the address that it listens on.
    #[serde(default, deserialize_with = "texts")]
    pub(crate) advertise: Vec<SocketAddr>,
}

/// `[limits]`: how many may connect and log in, and how often. An address is an IPv4 address or an IPv6 network of 64 bits.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Limits {
    pub(crate) connections: Option<NonZeroU32>,
    pub(crate) logins: Option<NonZeroU32>,
    pub(crate) logins_of_address: Option<NonZeroU32>,
    pub(crate) login_burst: Option<NonZeroU32>,
    pub(crate) login_rate: Option<NonZeroU32>,
    pub(crate) failure_weight: Option<u32>,
    pub(crate) sessions_of_initiator: Option<NonZeroU32>,
}

/// `[times]`, in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Times {
    pub(crate) login: Option<NonZeroU16>,
    pub(crate) idle: Option<NonZeroU16>,
    pub(crate) silence: Option<NonZeroU16>,
    #[serde(default, deserialize_with = "stop_time")]
    pub(crate) stop: Option<NonZeroU16>,
}

/// `[discovery]`: who may ask which targets there are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Discovery {
    /// None: all.
    #[serde(default, deserialize_with = "texts")]
    pub(crate) addresses: Vec<Network>,
    pub(crate) chap: Option<Spanned<Chap>>,
}

/// `[[target]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Target {
    pub(crate) name: Spanned<Name>,
    #[serde(default, deserialize_with = "alias")]
    pub(crate) alias: String,
    /// The target portal groups through which it is reached; none: all.
    pub(crate) groups: Option<Spanned<BTreeSet<u16>>>,
    /// None: those of target 0 with the numbers that they have there.
    pub(crate) units: Option<Units>,
    /// Where initiators are sent instead of being let in.
    pub(crate) redirect: Option<Redirect>,
    #[serde(default)]
    pub(crate) parameters: Parameters,
    /// The first that fits counts; none: everyone is let in.
    #[serde(default)]
    pub(crate) access: Vec<Spanned<Access>>,
}

/// The names of units by the logical unit numbers at which they are seen.
pub(crate) type Units = BTreeMap<Lun, Spanned<String>>;

/// `[[target.access]]`: what some initiators may do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Access {
    /// None: all.
    #[serde(default, deserialize_with = "texts")]
    pub(crate) initiators: Vec<NamePattern>,
    /// None: all.
    #[serde(default, deserialize_with = "texts")]
    pub(crate) addresses: Vec<Network>,
    /// None: those of the target.
    pub(crate) units: Option<Units>,
    pub(crate) chap: Option<Spanned<Chap>>,
}

/// `chap`: how an initiator proves who it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Chap {
    #[serde(default = "all_algorithms", deserialize_with = "texts")]
    pub(crate) algorithms: Vec<Algorithm>,
    /// Those who are let in.
    pub(crate) accounts: Vec<Account>,
    /// What the target proves itself with, to those who ask.
    pub(crate) target: Option<Account>,
    /// Secrets may be so short that they can be guessed.
    #[serde(default)]
    pub(crate) short_secrets: bool,
}

/// A name and what proves it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Account {
    pub(crate) name: Spanned<String>,
    pub(crate) secret: Spanned<SecretSource>,
}

/// `redirect`: where a target has moved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Redirect {
    #[serde(deserialize_with = "text")]
    pub(crate) address: SocketAddr,
    /// For good; initiators may then forget the old place.
    #[serde(default)]
    pub(crate) permanent: bool,
}

/// `parameters`: what the target wants in a login (RFC 7143 13), under the names of the standard.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Parameters {
    pub(crate) header_digest: Option<Digest>,
    pub(crate) data_digest: Option<Digest>,
    pub(crate) initial_r2t: Option<bool>,
    pub(crate) immediate_data: Option<bool>,
    pub(crate) max_recv_data_segment_length: Option<Length>,
    pub(crate) max_burst_length: Option<Length>,
    pub(crate) first_burst_length: Option<Length>,
    #[serde(default, deserialize_with = "outstanding_r2t")]
    pub(crate) max_outstanding_r2t: Option<u32>,
    /// Commands that an initiator may have open at once.
    #[serde(default, deserialize_with = "command_window")]
    pub(crate) command_window: Option<u16>,
}

/// Whether a digest is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Digest {
    /// Never.
    Forbid,
    /// If the initiator wants it.
    Allow,
    /// Always: who does not want it is not let in.
    Require,
}

/// The name of a target.
#[derive(Debug)]
pub(crate) struct Name(pub(crate) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        iscsi::Target::canonical_name(&String::deserialize(from)?).map(Self).map_err(D::Error::custom)
    }
}

/// A logical unit number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lun(pub(crate) u32);

impl<'de> Deserialize<'de> for Lun {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let lun = text.parse().ok().filter(|lun| *lun < MAX_LUNS);
        lun.map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not a logical unit number, which is 0 to {}", MAX_LUNS - 1))
        })
    }
}

/// Bytes of a sequence or a segment (RFC 7143 13: 512 to 2^24-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Length(pub(crate) u32);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a length is a number of bytes, or a text such as \"256K\"")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let bytes = match Written::deserialize(from)? {
            Written::Number(bytes) => bytes,
            Written::Text(text) => size::parse(&text).map_err(D::Error::custom)?,
        };
        let length = u32::try_from(bytes).ok().filter(|length| (512..1 << 24).contains(length));
        length.map(Self).ok_or_else(|| D::Error::custom("a length is 512 to 16777215 bytes"))
    }
}

fn default_group() -> u16 {
    TargetPort::DEFAULT_GROUP
}

fn all_algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.into()
}

/// TargetAlias (RFC 7143 13.6).
fn alias<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match text.len() <= MAX_VALUE && !text.contains(char::is_control) {
        true => Ok(text),
        false => Err(D::Error::custom("an alias has at most 255 bytes, none of them control characters")),
    }
}

/// The number of a target port group.
fn group<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let group = u16::deserialize(from)?;
    access::group(&group.to_string()).map_err(D::Error::custom)
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

/// A value that is written as a text.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
    parse(&String::deserialize(from)?)
}

/// Some of them. That there are none is not what an empty list says: without the list there is no such condition.
fn texts<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.is_empty() {
        return Err(D::Error::custom("the list is empty: leave it out, or say what is in it"));
    }
    texts.iter().map(|text| parse(text)).collect()
}

fn parse<T: FromStr<Err: Display>, E: Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(|why| E::custom(format!("`{text}`: {why}")))
}
