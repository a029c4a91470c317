//! What other crates read and write, as values of a configuration.

use super::Value;
use lunette_engine::CommandFilter;
use lunette_iscsi::chap::Algorithm;
use lunette_scsi::Naa;
use lunette_store::layer::fault;
use lunette_transport_iscsi::{NamePattern, Network};
use schemars::{Schema, json_schema};
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

/// Something of another crate as a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) struct Text<T>(pub(crate) T);

/// A value of another crate that is kept with its text. Two are the same if they mean the same.
#[derive(Clone, Debug)]
pub(crate) struct Written<T> {
    text: String,
    pub(crate) value: T,
}

impl<T: PartialEq> PartialEq for Written<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Written<T> {}

impl<T: FromStr<Err: Display>> Written<T> {
    fn parse(key: &str, text: &str) -> Result<Self, String> {
        let value = text.parse().map_err(|error| format!("{key}={text}: {error}"))?;
        Ok(Self { text: text.to_owned(), value })
    }
}

impl Value for Written<CommandFilter> {
    const NAME: &'static str = "CommandFilter";

    fn read(text: &str) -> Result<Self, String> {
        Self::parse("filter", text)
    }

    fn write(&self) -> String {
        self.text.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(allow|deny):" })
    }
}

impl Value for Written<fault::Plan> {
    const NAME: &'static str = "Fault";

    fn read(text: &str) -> Result<Self, String> {
        Self::parse("fault", text)
    }

    fn write(&self) -> String {
        self.text.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl Value for Text<SocketAddr> {
    const NAME: &'static str = "SocketAddress";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "`{text}` is not an address and port, which are written 192.0.2.1:3260 or [2001:db8::1]:3260"
            )
        })
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]+$" })
    }
}

/// `read` of something that has a notation of its own.
fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<Text<T>, String> {
    text.parse().map(Text).map_err(|why: T::Err| match why.to_string() {
        why if why.contains(text) => why,
        why => format!("`{text}`: {why}"),
    })
}

impl Value for Text<Network> {
    const NAME: &'static str = "Network";

    fn read(text: &str) -> Result<Self, String> {
        parse(text)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" })
    }
}

impl Value for Text<NamePattern> {
    const NAME: &'static str = "InitiatorPattern";

    fn read(text: &str) -> Result<Self, String> {
        parse(text)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

impl Value for Text<Algorithm> {
    const NAME: &'static str = "Algorithm";

    fn read(text: &str) -> Result<Self, String> {
        parse(text)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "enum": Algorithm::ALL.map(Algorithm::name) })
    }
}

impl Value for Text<Naa> {
    const NAME: &'static str = "Naa";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error| format!("wwn={text}: {error}"))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^\\s*([Nn][Aa][Aa]\\.|0[Xx])?([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32})\\s*$"
        })
    }
}
