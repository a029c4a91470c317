//! Changes of some keys of an object, which are written as those of the configuration.

use crate::config;
use crate::running::Permit;
use lunette_control::Failure;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::marker::PhantomData;

/// Which keys of a `T` become what; null: they are left out (RFC 7396). `name` says which object is meant, and what
/// [permits](Patched::PERMITS) something is no key of it.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Patch<T> {
    keys: Map<String, Value>,
    #[serde(skip)]
    of: PhantomData<T>,
}

/// What a change of an object may be permitted: the name, and what it means.
type Permitted = (&'static str, &'static str);

/// Objects that go and come again.
const RECREATE: Permitted =
    ("recreate", "The object may go and come again, if a key cannot be changed otherwise.");

/// An object whose keys can be changed.
pub(super) trait Patched: Serialize + DeserializeOwned {
    /// What a change does only when that is said.
    const PERMITS: &'static [Permitted] = &[RECREATE];
}

impl Patched for config::Unit {
    const PERMITS: &'static [Permitted] =
        &[RECREATE, ("shrink", "The unit may become smaller, and lose what is beyond.")];
}

impl Patched for config::Target {}

impl Patched for config::VhostUser {}

impl Patched for config::Throttle {}

impl<T: Patched> Patch<T> {
    /// The name of the object.
    pub(super) fn name<N: DeserializeOwned>(&self) -> Result<N, Failure> {
        let name = self.keys.get("name").cloned().ok_or_else(|| Failure::parameters("`name` is missing"))?;
        serde_json::from_value(name).map_err(|error| Failure::parameters(format!("name: {error}")))
    }

    /// What the change may do.
    pub(super) fn permit(&self) -> Result<Permit, Failure> {
        let (recreate, shrink) = (self.permits("recreate")?, self.permits("shrink")?);
        Ok(Permit { recreate, shrink, ..Permit::default() })
    }

    fn permits(&self, what: &str) -> Result<bool, Failure> {
        match self.keys.get(what).filter(|_| is_permit::<T>(what)) {
            None => Ok(false),
            Some(Value::Bool(is_permitted)) => Ok(*is_permitted),
            Some(_) => Err(Failure::parameters(format!("{what}: it is true or false"))),
        }
    }

    /// The object with its keys changed.
    pub(super) fn apply(&self, to: &T) -> Result<T, Failure> {
        let internal = |error| Failure::new(Failure::INTERNAL, error);
        let mut value = serde_json::to_value(to).map_err(internal)?;
        let keys = value.as_object_mut().ok_or_else(|| Failure::new(Failure::INTERNAL, "it is no object"))?;
        for (key, value) in self.keys.iter().filter(|(key, _)| !is_permit::<T>(key)) {
            match value {
                Value::Null => drop(keys.remove(key)),
                value => drop(keys.insert(key.clone(), value.clone())),
            }
        }
        serde_json::from_value(value).map_err(Failure::parameters)
    }
}

fn is_permit<T: Patched>(key: &str) -> bool {
    T::PERMITS.iter().any(|(what, _)| *what == key)
}

impl<T: Patched + JsonSchema> JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("PatchOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let whole = T::json_schema(generator).to_value();
        let of = whole.get("properties").and_then(Value::as_object);
        let optional = |(key, schema): (&String, &Value)| {
            let nullable = json!({ "anyOf": [schema, { "type": "null" }] });
            (key.clone(), if key == "name" { schema.clone() } else { nullable })
        };
        let mut properties: Map<String, Value> = of.into_iter().flatten().map(optional).collect();
        for (what, means) in T::PERMITS {
            properties.insert((*what).into(), json!({ "type": "boolean", "description": means }));
        }
        json_schema!({
            "type": "object",
            "properties": properties,
            "required": ["name"],
            "additionalProperties": false
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Unit;

    fn patch(value: Value) -> Patch<Unit> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn keys_are_set_and_left_out() {
        let unit = Unit { waiting: Some(3), ..Unit::new("ram:1M".parse().unwrap()) };
        let unit = patch(json!({ "name": "x" })).apply(&unit).unwrap();
        let change = json!({ "name": "x", "waiting": null, "read-only": true, "recreate": true });
        let changed = patch(change.clone()).apply(&unit).unwrap();
        assert_eq!((changed.waiting, changed.read_only), (None, true));
        let permit = patch(change).permit().unwrap();
        assert_eq!((permit.recreate, permit.shrink), (true, false));
        assert!(patch(json!({ "name": "x", "shrink": true })).permit().unwrap().shrink);
        assert_eq!(
            patch(json!({ "name": "x", "shrink": 1 })).permit().unwrap_err().code,
            Failure::PARAMETERS
        );
        for wrong in [json!({ "name": "x", "wating": 1 }), json!({ "name": "x", "store": null })] {
            assert_eq!(patch(wrong).apply(&unit).unwrap_err().code, Failure::PARAMETERS);
        }
        assert_eq!(patch(json!({})).name::<String>().unwrap_err().code, Failure::PARAMETERS);
    }
}
