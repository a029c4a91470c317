//! What a logical unit saves: state that is not configuration and outlives the program.

use crate::turns::Turn;
use crate::{LogicalUnit, Steps};
use lunette_scsi::{AdditionalSense, Sense};
use lunette_store::IoError;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps the state of one logical unit.
pub trait StateKeeper: Send + Sync {
    /// What was saved last; `None` if nothing ever was.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was saved.
    fn load(&self) -> Result<Option<Vec<u8>>, StateError>;

    /// Saves `state` in place of what was saved before. It survives a power loss when this returns; if it fails, either one
    /// or the other does. May block.
    ///
    /// # Errors
    /// When it cannot be written.
    fn save(&self, state: &[u8]) -> Result<(), StateError>;
}

/// Keeps state in memory: for unit tests and fuzzers, as [`sim`](lunette_store::sim) is.
#[derive(Default, Debug)]
pub struct RamKeeper(Mutex<Ram>);

#[derive(Default, Debug)]
struct Ram {
    state: Option<Vec<u8>>,
    /// How many more times it can be saved, if not always.
    saves: Option<usize>,
}

impl RamKeeper {
    /// Nothing was saved, and it can be only so many times.
    pub fn limited(saves: usize) -> Self {
        let keeper = Self::default();
        keeper.limit(saves);
        keeper
    }

    /// From now on, state can be saved only so many times.
    pub fn limit(&self, saves: usize) {
        self.ram().saves = Some(saves);
    }

    /// This was saved.
    pub fn holding(state: impl Into<Vec<u8>>) -> Self {
        let keeper = Self::default();
        keeper.hold(state);
        keeper
    }

    /// From now on, this counts as what was saved last.
    pub fn hold(&self, state: impl Into<Vec<u8>>) {
        self.ram().state = Some(state.into());
    }

    /// What was saved last.
    pub fn state(&self) -> Option<Vec<u8>> {
        self.ram().state.clone()
    }

    fn ram(&self) -> MutexGuard<'_, Ram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateKeeper for RamKeeper {
    fn load(&self) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.state())
    }

    fn save(&self, state: &[u8]) -> Result<(), StateError> {
        let mut ram = self.ram();
        if let Some(left) = &mut ram.saves {
            *left = left.checked_sub(1).ok_or_else(|| StateError("no room for the state".into()))?;
        }
        ram.state = Some(state.to_vec());
        Ok(())
    }
}

/// Why state cannot be read or saved, for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);

/// The saved state, by the names of its sections. What an older or newer program has left is kept.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Saved(BTreeMap<String, Value>);

impl Saved {
    /// Reads what a [keeper](StateKeeper) was given.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        serde_json::from_slice(bytes).map(Self).map_err(|error| StateError(format!("damaged state: {error}")))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StateError> {
        serde_json::to_vec_pretty(&self.0).map_err(|error| StateError(error.to_string()))
    }

    /// A section, or its default if it was never saved.
    ///
    /// # Errors
    /// When there is something else in its place.
    pub fn get<T: DeserializeOwned + Default>(&self, section: &str) -> Result<T, StateError> {
        let Some(value) = self.0.get(section) else { return Ok(T::default()) };
        let damaged = |error| StateError(format!("damaged state, section `{section}`: {error}"));
        T::deserialize(value).map_err(damaged)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the sections.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sets a section; one that is `None` is not kept.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn set<T: Serialize>(&mut self, section: &str, value: &T) -> Result<(), StateError> {
        let value = serde_json::to_value(value).map_err(|error| StateError(error.to_string()))?;
        if value.is_null() {
            self.0.remove(section);
        } else {
            self.0.insert(section.to_owned(), value);
        }
        Ok(())
    }
}

/// Bytes that are saved as a text of hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HexBytes(pub Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        let digits: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect();
        to.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] if pair.iter().all(u8::is_ascii_hexdigit) => {
                let digit = |byte: &u8| (*byte as char).to_digit(16).unwrap_or(0) as u8;
                Ok(digit(high) << 4 | digit(low))
            }
            _ => Err(D::Error::custom("bytes are pairs of hexadecimal digits")),
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

impl Steps {
    /// Waits for the right to change the unit's state, which one has at a time.
    ///
    /// # Errors
    /// When the command was aborted.
    pub async fn turn(&self) -> Result<Turn, Sense> {
        self.unit.turns().take(self).await
    }

    /// Sets one section of the saved state, and then puts `apply` into effect: not before it survives a power loss, and
    /// also if the command is aborted meanwhile. A unit of which nothing is kept only applies it.
    ///
    /// # Errors
    /// HARDWARE ERROR when it cannot be saved; nothing has changed then, as far as that can be known. NOT READY if what was
    /// saved before cannot be used: nothing may take its place.
    pub async fn save<T: Serialize + Send + 'static>(
        &self,
        _: &Turn,
        section: &str,
        value: T,
        apply: impl FnOnce(&LogicalUnit) + Send + 'static,
    ) -> Result<(), Sense> {
        self.unit.intact()?;
        let failed = || Sense::hardware_error(AdditionalSense::INTERNAL_TARGET_FAILURE);
        let Some(keeper) = self.unit.keeper().cloned() else {
            apply(&self.unit);
            return Ok(());
        };
        let (unit, section) = (self.unit.clone(), section.to_owned());
        // To copy and encode it takes long too.
        let save = move || {
            let mut saved = Saved::clone(&unit.saved());
            let encoded = saved.set(&section, &value).and_then(|()| saved.encode());
            encoded.and_then(|bytes| keeper.save(&bytes)).map_err(|_| IoError::Gone)?;
            unit.set_saved(saved);
            apply(&unit);
            Ok(0)
        };
        match self.call(save).await {
            Ok(_) => Ok(()),
            Err(IoError::Aborted) => {
                Err(Sense::aborted_command(AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION))
            }
            Err(_) => Err(failed()),
        }
    }
}
