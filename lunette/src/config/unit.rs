//! A logical unit, as a configuration describes it.

use super::values::{Accesses, Granularity, Name, Pace, Queues, Size, StoreSpec, Text, Value, Written};
use crate::notation::{self, MAX_LUNS};
use crate::state::MAX_SERIAL;
use lunette_engine::CommandFilter;
use lunette_scsi::Naa;
use lunette_scsi::inquiry::SpcVersion;
use lunette_store::layer::fault;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;

/// `[[unit]]`: a logical unit.
///
/// Instead of its keys it may have `lu`, with the notation of the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Unit {
    /// What the unit is called here, in logs, and, unless `known-by` says otherwise, in the state directory.
    pub(crate) name: Name,
    /// The device type.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub(crate) device: DeviceType,
    /// Where the bytes are: the path of a file or block device, or `ram:SIZE`. A relative path begins where the file is.
    pub(crate) store: StoreSpec,
    /// Writes are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) read_only: bool,
    /// A sparse file of this size is made if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<Size>,
    /// Logical block length in bytes: 512 or 4096.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) block: BlockLength,
    /// Go past the page cache (O_DIRECT).
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) direct: bool,
    /// Read and write without handing over to the kernel's workers, or never; otherwise where it cannot block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inline: Option<bool>,
    /// Unit serial number; otherwise one that is made once and kept in the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<Serial>,
    /// World-wide name (NAA); otherwise one that is made once and kept in the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wwn: Option<Text<Naa>>,
    /// The standard that the unit claims to follow.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) version: Version,
    /// Whether the medium rotates; otherwise what the store says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rotational: Option<bool>,
    /// Whether the medium can be ejected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) removable: bool,
    /// The most bytes that formatting and sanitizing write in a second, or `off`; otherwise 64M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pace: Option<Pace>,
    /// Bytes to whose multiples WRITE ATOMIC keeps; otherwise it takes any blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) atomic: Option<Granularity>,
    /// Commands that wait while the store has no room; otherwise 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<u16>,
    /// Seconds that the store may take for an operation; then commands fail at once until it answers. Otherwise as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stuck_after: Option<NonZeroU16>,
    /// Request queues on whose reactors the unit lives, as in `0-3` or `1+4`; otherwise all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queues: Option<Queues>,
    /// Commands that the unit carries out, as in `deny:unmap+write-same-16` or `allow:read+inquiry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<Written<CommandFilter>>,
    /// How it is accessible through target port groups, as in `1:optimized:preferred+2:standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<Accesses>,
    /// The target at which exports of virtual machines show it that say nothing of their own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) target: u8,
    /// The logical unit number at which targets and exports show it that say nothing of their own; otherwise they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lun: Option<UnitLun>,
    /// What it is recognised by in the state directory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) known_by: KnownBy,
    /// Another daemon with the same state directory may serve it too, where its virtual machine runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) migratable: bool,
    /// Injected faults, for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Written<fault::Plan>>,
}

/// Whether a value goes without saying.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Unit {
    /// A writable unit of 512-byte blocks with nothing else said, not even its name.
    pub(crate) fn new(store: StoreSpec) -> Self {
        Self {
            name: Name::default(),
            device: DeviceType::Disk,
            store,
            read_only: false,
            size: None,
            block: BlockLength::default(),
            direct: false,
            inline: None,
            serial: None,
            wwn: None,
            version: Version::default(),
            rotational: None,
            removable: false,
            pace: None,
            atomic: None,
            waiting: None,
            stuck_after: None,
            queues: None,
            filter: None,
            access: None,
            target: 0,
            lun: None,
            known_by: KnownBy::Name,
            migratable: false,
            fault: None,
        }
    }

    /// Whether its keys go together.
    ///
    /// # Errors
    /// The key that does not, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let StoreSpec::Ram(bytes) = self.store else { return Ok(()) };
        if self.size.is_some() {
            return Err(("size", "size= is for files; memory has its size in ram:SIZE".into()));
        }
        if self.direct || self.inline.is_some() {
            let key = if self.direct { "direct" } else { "inline" };
            return Err((key, "direct= and inline= are for files".into()));
        }
        if self.migratable {
            return Err(("migratable", "migratable= is for files, which two daemons can open".into()));
        }
        let block = u64::from(self.block.0);
        match bytes.is_multiple_of(block) {
            true => Ok(()),
            false => Err(("store", format!("{bytes} bytes are not a multiple of the block size {block}"))),
        }
    }
}

/// A device type.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceType {
    /// A disk (SBC).
    #[default]
    Disk,
}

/// The standard that a unit claims to follow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Version {
    /// As disks of QEMU and tgt do.
    #[serde(rename = "spc-3")]
    Spc3,
    /// SPC-4.
    #[default]
    #[serde(rename = "spc-4")]
    Spc4,
}

impl From<Version> for SpcVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::Spc3 => Self::SPC_3,
            Version::Spc4 => Self::SPC_4,
        }
    }
}

/// What a unit is recognised by in the state directory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KnownBy {
    /// By its name, wherever its bytes are.
    #[default]
    Name,
    /// By its file, or the path of it: the identity of a unit that had no name on the command line. Memory is then a new disk at
    /// every start.
    File,
}

/// Logical block length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockLength(pub(crate) u32);

impl Default for BlockLength {
    fn default() -> Self {
        Self(512)
    }
}

impl Serialize for BlockLength {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for BlockLength {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u32::deserialize(from)? {
            length @ (512 | 4096) => Ok(Self(length)),
            other => Err(de::Error::custom(format!("block={other}: blocks have 512 or 4096 bytes"))),
        }
    }
}

impl JsonSchema for BlockLength {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "BlockLength".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": [512, 4096] })
    }
}

/// Unit serial number: short printable ASCII.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Serial(String);

impl Serial {
    /// The text of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Serial {
    const NAME: &'static str = "Serial";

    fn read(text: &str) -> Result<Self, String> {
        notation::printable("serial", text, MAX_SERIAL).map(Self)
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_SERIAL, "pattern": "^[ -~]*$" })
    }
}

super::values::written_as_text!(Serial);

/// A logical unit number, as a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnitLun(pub(crate) u32);

impl Serialize for UnitLun {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for UnitLun {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = UnitLun;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a logical unit number, which is 0 to {}", MAX_LUNS - 1)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<UnitLun, E> {
                let lun = u32::try_from(number).ok().filter(|lun| *lun < MAX_LUNS);
                lun.map(UnitLun).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<UnitLun, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }
        from.deserialize_any(NumberVisitor)
    }
}

impl JsonSchema for UnitLun {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UnitLun".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": MAX_LUNS - 1 })
    }
}
