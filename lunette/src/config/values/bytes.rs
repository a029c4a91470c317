//! Numbers of bytes.

use crate::size;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;

/// Bytes, between `LEAST` and `MOST`: a number, or a text such as `256K`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bytes<const LEAST: u64, const MOST: u64>(pub(crate) u64);

/// Any size.
pub(crate) type Size = Bytes<1, { u64::MAX }>;
/// A rate in bytes a second; 0, which is written `off`, stands for none.
pub(crate) type Pace = Bytes<0, { u64::MAX }>;
/// Bytes of a sequence or a segment (RFC 7143 13: 512 to 2^24-1).
pub(crate) type Length = Bytes<512, { (1 << 24) - 1 }>;
/// Bytes to whose multiples WRITE ATOMIC keeps. What a disk takes is for the device to say.
pub(crate) type Granularity = Bytes<1, { u32::MAX as u64 }>;

impl<const LEAST: u64, const MOST: u64> FromStr for Bytes<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" if LEAST == 0 => Ok(Self(0)),
            _ => Self::checked(size::parse(text)?),
        }
    }
}

impl<const LEAST: u64, const MOST: u64> Bytes<LEAST, MOST> {
    fn checked(bytes: u64) -> Result<Self, String> {
        match (LEAST..=MOST).contains(&bytes) {
            true => Ok(Self(bytes)),
            false if MOST == u64::MAX => Err("it is at least one byte".into()),
            false => Err(format!("it is {LEAST} to {MOST} bytes")),
        }
    }
}

impl<const LEAST: u64, const MOST: u64> Display for Bytes<LEAST, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("off"),
            bytes => f.write_str(&size::exact(bytes)),
        }
    }
}

impl<const LEAST: u64, const MOST: u64> Serialize for Bytes<LEAST, MOST> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Bytes<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct BytesVisitor<const LEAST: u64, const MOST: u64>;
        impl<const LEAST: u64, const MOST: u64> Visitor<'_> for BytesVisitor<LEAST, MOST> {
            type Value = Bytes<LEAST, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text such as \"256K\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Self::Value, E> {
                Bytes::checked(bytes).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Self::Value, E> {
                let bytes = u64::try_from(bytes).map_err(|_| E::custom("bytes are not negative"))?;
                self.visit_u64(bytes)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(BytesVisitor)
    }
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for Bytes<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Bytes{LEAST}To{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = match LEAST {
            0 => "^(off|[0-9]+([bB]|[kmgtpKMGTP]([iI][bB])?)?)$",
            _ => "^[0-9]+([bB]|[kmgtpKMGTP]([iI][bB])?)?$",
        };
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": LEAST, "maximum": MOST },
            { "type": "string", "pattern": text }
        ]})
    }
}
