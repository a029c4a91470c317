//! Changes of some keys of an object, which are written as those of the configuration.

use lunette_control::Failure;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::marker::PhantomData;

/// Which keys of a `T` become what; null: they are left out (RFC 7396). `name` says which object is meant, and `recreate` is
/// no key of it.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Patch<T> {
    keys: Map<String, Value>,
    #[serde(skip)]
    of: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Patch<T> {
    /// The name of the object.
    pub(super) fn name<N: DeserializeOwned>(&self) -> Result<N, Failure> {
        let name = self.keys.get("name").cloned().ok_or_else(|| Failure::parameters("`name` is missing"))?;
        serde_json::from_value(name).map_err(|error| Failure::parameters(format!("name: {error}")))
    }

    /// Whether the object may go and come again.
    pub(super) fn may_recreate(&self) -> Result<bool, Failure> {
        match self.keys.get("recreate") {
            None => Ok(false),
            Some(Value::Bool(recreate)) => Ok(*recreate),
            Some(_) => Err(Failure::parameters("recreate: it is true or false")),
        }
    }

    /// The object with its keys changed.
    pub(super) fn apply(&self, to: &T) -> Result<T, Failure> {
        let internal = |error| Failure::new(Failure::INTERNAL, error);
        let mut value = serde_json::to_value(to).map_err(internal)?;
        let keys = value.as_object_mut().ok_or_else(|| Failure::new(Failure::INTERNAL, "it is no object"))?;
        for (key, value) in self.keys.iter().filter(|(key, _)| *key != "recreate") {
            match value {
                Value::Null => drop(keys.remove(key)),
                value => drop(keys.insert(key.clone(), value.clone())),
            }
        }
        serde_json::from_value(value).map_err(Failure::parameters)
    }
}

impl<T: JsonSchema> JsonSchema for Patch<T> {
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
        let recreate = "The object may go and come again, if a key cannot be changed otherwise.";
        properties.insert("recreate".into(), json!({ "type": "boolean", "description": recreate }));
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
        assert!(patch(change).may_recreate().unwrap());
        for wrong in [json!({ "name": "x", "wating": 1 }), json!({ "name": "x", "store": null })] {
            assert_eq!(patch(wrong).apply(&unit).unwrap_err().code, Failure::PARAMETERS);
        }
        assert_eq!(patch(json!({})).name::<String>().unwrap_err().code, Failure::PARAMETERS);
    }
}
