//! The values of a configuration: each is a text in TOML and JSON, and has one way to be read and one to be written, which the
//! notations of the command line share.

use crate::access::{self, GroupAccess};
use crate::notation::{self, MAX_LUNS};
use crate::size;
use lunette_engine::CommandFilter;
use lunette_iscsi::chap::Algorithm;
use lunette_iscsi::limits::MAX_VALUE;
use lunette_scsi::Naa;
use lunette_store::layer::fault;
use lunette_transport_iscsi::{self as iscsi, NamePattern, Network};
use schemars::{Schema, json_schema};
use serde::de::{self, Visitor};
use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

mod bytes;
mod foreign;

pub(crate) use bytes::{Bytes, Granularity, Length, Pace, Size};
pub(crate) use foreign::{Text, Written};

/// A value that is written as a text.
pub(crate) trait Value: Sized {
    /// Its name in the schema.
    const NAME: &'static str;

    /// Understands what was written, or says why it cannot be.
    fn read(text: &str) -> Result<Self, String>;
    /// Writes it so that it can be read.
    fn write(&self) -> String;
    /// Which texts there are.
    fn schema() -> Schema;
}

/// What is written as a text: through [`Value`].
macro_rules! written_as_text {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&$crate::config::values::Value::write(self))
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $crate::config::values::Value::read(text)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str($crate::config::values::TextVisitor($crate::config::values::Value::read))
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <Self as $crate::config::values::Value>::NAME.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <Self as $crate::config::values::Value>::schema()
            }
        }
    )*};
}

pub(super) use written_as_text;

written_as_text!(
    Name,
    Label,
    TargetName,
    FilePath,
    Lun,
    Place,
    Mode,
    Principal,
    StoreSpec,
    Queues,
    Accesses,
    Written<CommandFilter>,
    Written<fault::Plan>,
    Text<SocketAddr>,
    Text<Network>,
    Text<NamePattern>,
    Text<Algorithm>,
    Text<Naa>
);

/// Takes a text.
pub(super) struct TextVisitor<T>(pub(super) fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

/// The name of a unit. There are many copies of each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) struct Name(Arc<str>);

/// The longest name, in bytes.
const LONGEST_NAME: usize = 64;

impl Name {
    /// The text of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no name has been given yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A name that is made up for something without one; it is short and printable.
    pub(crate) fn of(text: &str) -> Self {
        Self(text.into())
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Value for Name {
    const NAME: &'static str = "Name";

    fn read(text: &str) -> Result<Self, String> {
        notation::printable("a name", text, LONGEST_NAME).map(|name| Self(name.into()))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "pattern": "^[ -~]*$" })
    }
}

/// What something of the outside is called: 1 to 255 bytes, none of them control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Label(String);

impl Label {
    /// The text of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Label {
    const NAME: &'static str = "Label";

    fn read(text: &str) -> Result<Self, String> {
        match text.is_empty() || text.len() > MAX_VALUE || text.contains(char::is_control) {
            true => Err("a name has 1 to 255 bytes, none of them control characters".into()),
            false => Ok(Self(text.to_owned())),
        }
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_VALUE })
    }
}

/// The iSCSI name of a target (RFC 7143 4.2.7), in its canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TargetName(String);

impl Value for TargetName {
    const NAME: &'static str = "TargetName";

    fn read(text: &str) -> Result<Self, String> {
        iscsi::Target::canonical_name(text).map(Self).map_err(|error| error.to_string())
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "maxLength": 223, "pattern": "^([Ii][Qq][Nn]|[Ee][Uu][Ii]|[Nn][Aa][Aa])\\." })
    }
}

/// The path of a file, directory or socket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FilePath(String);

impl FilePath {
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Has a relative path begin at `base`.
    pub(crate) fn rebase(&mut self, base: &Path) {
        if let Some(joined) = base.join(&self.0).to_str() {
            self.0 = joined.to_owned();
        }
    }
}

impl Value for FilePath {
    const NAME: &'static str = "FilePath";

    fn read(text: &str) -> Result<Self, String> {
        match text.is_empty() || text.contains('\0') || text.len() > LONGEST_PATH {
            true => Err(format!("a path has 1 to {LONGEST_PATH} bytes, none of them zero")),
            false => Ok(Self(text.to_owned())),
        }
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LONGEST_PATH })
    }
}

/// PATH_MAX of Linux, with its final zero.
const LONGEST_PATH: usize = 4095;

/// A logical unit number of an iSCSI target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Lun(pub(crate) u32);

impl Value for Lun {
    const NAME: &'static str = "Lun";

    fn read(text: &str) -> Result<Self, String> {
        let lun = decimal(text).filter(|lun| *lun < MAX_LUNS);
        lun.map(Self)
            .ok_or_else(|| format!("`{text}` is not a logical unit number, which is 0 to {}", MAX_LUNS - 1))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(0|[1-9][0-9]{0,4})$" })
    }
}

/// A number in its one decimal form, so that two texts are two numbers.
fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

/// Where a virtual machine sees a unit: `LUN` of target 0, or `TARGET:LUN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    pub(crate) target: u8,
    pub(crate) lun: u32,
}

impl Value for Place {
    const NAME: &'static str = "Place";

    fn read(text: &str) -> Result<Self, String> {
        let (target, lun) = text.split_once(':').unwrap_or(("0", text));
        let target = decimal(target).and_then(|target| u8::try_from(target).ok());
        let lun = decimal(lun).filter(|lun| *lun < MAX_LUNS);
        match (target, lun) {
            (Some(target), Some(lun)) => Ok(Self { target, lun }),
            _ => Err(format!(
                "`{text}` is not a place: that is a logical unit number, 0 to {}, or TARGET:LUN with a target from 0 to 255",
                MAX_LUNS - 1
            )),
        }
    }

    fn write(&self) -> String {
        match self.target {
            0 => self.lun.to_string(),
            target => format!("{target}:{}", self.lun),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]{1,3}:)?[0-9]{1,5}$" })
    }
}

/// Permission bits of a socket's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mode(pub(crate) u32);

impl Value for Mode {
    const NAME: &'static str = "Mode";

    fn read(text: &str) -> Result<Self, String> {
        let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("mode={text}: a mode is octal, up to 0777"))
    }

    fn write(&self) -> String {
        format!("{:04o}", self.0)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^0*[0-7]{1,3}$" })
    }
}

/// A user or group, by name or number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Principal(String);

impl Principal {
    /// The text of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Principal {
    const NAME: &'static str = "Principal";

    fn read(text: &str) -> Result<Self, String> {
        notation::printable("the name of a user or group", text, 256).map(Self)
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 256 })
    }
}

/// Where the bytes of a logical unit are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StoreSpec {
    /// A file or block device.
    Path(FilePath),
    /// Memory of this many bytes.
    Ram(u64),
}

impl Value for StoreSpec {
    const NAME: &'static str = "Store";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the store is missing: a path, or ram:SIZE".into());
        }
        match text.split_once(':') {
            Some(("ram", bytes)) => Ok(Self::Ram(size::parse(bytes)?)),
            Some((scheme, _))
                if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') =>
            {
                Err(format!(
                    "there is no store `{scheme}:`; a store is a path or ram:SIZE (write ./{text} for a file of that name)"
                ))
            }
            _ => FilePath::read(text).map(Self::Path),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Path(path) if path.0.starts_with('/') => path.write(),
            // So that it is never taken for a scheme.
            Self::Path(path) if path.0.contains(':') && !path.0.starts_with('.') => format!("./{path}"),
            Self::Path(path) => path.write(),
            Self::Ram(bytes) => format!("ram:{}", size::exact(*bytes)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// Request queues, as in `0`, `0-3` or `1+4-5`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Queues(pub(crate) Vec<u16>);

impl Value for Queues {
    const NAME: &'static str = "Queues";

    fn read(text: &str) -> Result<Self, String> {
        notation::queues(text).map(Self)
    }

    fn write(&self) -> String {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for &queue in &self.0 {
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(queue) => *last = *last.start()..=queue,
                _ => ranges.push(queue..=queue),
            }
        }
        let range = |range: &RangeInclusive<u16>| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        };
        ranges.iter().map(range).collect::<Vec<_>>().join("+")
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(-[0-9]+)?(\\+[0-9]+(-[0-9]+)?)*$" })
    }
}

/// How a unit begins to be accessible through target port groups.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Accesses(pub(crate) Vec<GroupAccess>);

impl Value for Accesses {
    const NAME: &'static str = "Accesses";

    fn read(text: &str) -> Result<Self, String> {
        access::access(text).map(Self)
    }

    fn write(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+:[a-z-]+(:preferred)?(\\+[0-9]+:[a-z-]+(:preferred)?)*$" })
    }
}
