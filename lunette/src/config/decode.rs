//! From the tree of a TOML file to values, with all mistakes and their places.
//!
//! serde stops at the first mistake. What is wrong is then skipped and everything is read once more, until nothing else is
//! wrong.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

/// A mistake at some bytes of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) place: Range<usize>,
    pub(super) kind: Kind,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// There is no such key; these are there.
    UnknownKey(String, &'static [&'static str]),
    /// There is no such word; these are there.
    UnknownWord(String, &'static [&'static str]),
    /// A table lacks a key.
    Missing(&'static str),
    /// Whatever else.
    Other(String),
}

/// The most mistakes that are looked for in one value: each costs reading it once more.
const MOST: usize = 32;

/// What a value means, unless something is wrong with it.
pub(super) fn decode<T: DeserializeOwned>(
    value: &Spanned<DeValue<'_>>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let skipped = Skipped::default();
    for _ in 0..MOST {
        let error = match T::deserialize(Node { value, skipped: &skipped }) {
            Ok(value) => return skipped.borrow().is_empty().then_some(value),
            Err(error) => error,
        };
        if !error.follows {
            let place = error.place.unwrap_or(value.span());
            faults.push(Fault { place, kind: error.kind });
        }
        match error.within {
            Some(within) => skipped.borrow_mut().insert(within),
            None => return None,
        };
    }
    None
}

/// The values with mistakes that were told, by their addresses in the tree.
type Skipped = RefCell<HashSet<*const DeValue<'static>>>;

fn address(value: &Spanned<DeValue<'_>>) -> *const DeValue<'static> {
    std::ptr::from_ref(value.get_ref()).cast()
}

/// A mistake on its way up.
#[derive(Debug)]
struct Error {
    kind: Kind,
    place: Option<Range<usize>>,
    /// The innermost entry or element that it is in.
    within: Option<*const DeValue<'static>>,
    /// It is there because of another one.
    follows: bool,
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self { kind, place: None, within: None, follows: false }
    }

    fn at(mut self, place: Range<usize>) -> Self {
        self.place.get_or_insert(place);
        self
    }

    fn within(mut self, value: &Spanned<DeValue<'_>>) -> Self {
        self.within.get_or_insert(address(value));
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    /// Never tells the text that stands there: it may be a secret.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(value) => format!("`{value}`"),
            Unexpected::Unsigned(value) => format!("the number {value}"),
            Unexpected::Signed(value) => format!("the number {value}"),
            Unexpected::Float(_) => "a number with a point".into(),
            Unexpected::Str(_) => "a text".into(),
            Unexpected::Seq => "a list".into(),
            Unexpected::Map => "a table".into(),
            _ => "something else".into(),
        };
        Self::custom(format!("here stands {found}, where there should be {}", plain(expected)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, words: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownWord(word.to_owned(), words))
    }

    fn unknown_field(key: &str, keys: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey(key.to_owned(), keys))
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::Missing(key))
    }
}

/// What serde and its derived code expect, in the words of people.
fn plain(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "a string" => "a text".into(),
        "a boolean" => "`true` or `false`".into(),
        "u8" => "a number from 0 to 255".into(),
        "u16" => "a number from 0 to 65535".into(),
        "u32" => "a number from 0 to 4294967295".into(),
        "a nonzero u16" => "a number from 1 to 65535".into(),
        "a nonzero u32" => "a number from 1 to 4294967295".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.starts_with("enum ") => "a text".into(),
        other => other.to_owned(),
    }
}

/// A value in the tree.
#[derive(Clone, Copy)]
struct Node<'a> {
    value: &'a Spanned<DeValue<'a>>,
    skipped: &'a Skipped,
}

impl<'a> Node<'a> {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Integer(number) => integer(number, visitor),
            DeValue::Float(number) => visitor.visit_f64(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(_) => {
                Err(de::Error::custom("here stands a date or a time, which nothing here is written as"))
            }
            DeValue::Array(list) => visitor.visit_seq(Elements { left: list.iter(), skipped: self.skipped }),
            DeValue::Table(table) => self.table(table, visitor),
        }
    }

    fn table<'de, V: Visitor<'de>>(self, table: &'a DeTable<'a>, visitor: V) -> Result<V::Value, Error> {
        let entries = Entries { left: table.iter(), value: None, skipped: self.skipped };
        visitor.visit_map(entries).map_err(|mut error| {
            let Kind::Missing(key) = error.kind else { return error };
            // It may be missing because it was skipped.
            error.follows |= error.place.is_none() && table.iter().any(|(other, _)| other.get_ref() == key);
            error.at(self.value.span())
        })
    }
}

fn integer<'de, V: Visitor<'de>>(number: &DeInteger<'_>, visitor: V) -> Result<V::Value, Error> {
    let (digits, radix) = (number.as_str(), number.radix());
    match (u64::from_str_radix(digits, radix), i64::from_str_radix(digits, radix)) {
        (Ok(number), _) => visitor.visit_u64(number),
        (_, Ok(number)) => visitor.visit_i64(number),
        _ => Err(de::Error::custom(format!("{number} is too large"))),
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor).map_err(|error| error.at(self.value.span()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// Enumerations are words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value.get_ref() {
            DeValue::String(word) => visitor.visit_enum(Word(word)),
            _ => self.visit(visitor),
        }
        .map_err(|error| error.at(self.value.span()))
    }

    /// A list is no table, though derived code would take the one for the other.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value.get_ref() {
            DeValue::Array(_) => {
                let error: Error = de::Error::invalid_type(Unexpected::Seq, &"a table");
                Err(error.at(self.value.span()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// A word of an enumeration.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(StrDeserializer::new(self.0))?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a table"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a table"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(de::Error::invalid_type(Unexpected::Str(self.0), &"a table"))
    }
}

/// The elements of a list.
struct Elements<'a, I> {
    left: I,
    skipped: &'a Skipped,
}

impl<'a, 'de, I: Iterator<Item = &'a Spanned<DeValue<'a>>>> SeqAccess<'de> for Elements<'a, I> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let skipped = self.skipped;
        let Some(value) = self.left.find(|value| !skipped.borrow().contains(&address(value))) else {
            return Ok(None);
        };
        let read = seed.deserialize(Node { value, skipped });
        read.map(Some).map_err(|error| error.at(value.span()).within(value))
    }
}

/// The entries of a table.
struct Entries<'a, I> {
    left: I,
    value: Option<&'a Spanned<DeValue<'a>>>,
    skipped: &'a Skipped,
}

impl<'a, 'de, I> MapAccess<'de> for Entries<'a, I>
where
    I: Iterator<Item = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)>,
{
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let skipped = self.skipped;
        let Some((key, value)) = self.left.find(|(_, value)| !skipped.borrow().contains(&address(value)))
        else {
            return Ok(None);
        };
        self.value = Some(value);
        let seeded = seed.deserialize(StrDeserializer::<Error>::new(key.get_ref()));
        seeded.map(Some).map_err(|error| error.at(key.span()).within(value))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().ok_or_else(|| <Error as de::Error>::custom("a value without a key"))?;
        let skipped = self.skipped;
        seed.deserialize(Node { value, skipped }).map_err(|mut error| {
            // A list may be empty because its elements were skipped.
            let DeValue::Array(list) = value.get_ref() else { return error.at(value.span()).within(value) };
            error.follows |= error.place.is_none()
                && list.iter().any(|element| skipped.borrow().contains(&address(element)));
            error.at(value.span()).within(value)
        })
    }
}
