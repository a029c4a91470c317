//! The JSON schema of a configuration.

use super::document::Document;
use super::unit::Unit;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// `[[unit]]` as it may be written: with keys, or in the notation of the command line.
pub(super) struct UnitTable;

impl JsonSchema for UnitTable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UnitTable".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            generator.subschema_for::<Unit>(),
            {
                "type": "object",
                "properties": {
                    "lu": {
                        "type": "string",
                        "pattern": "^disk:",
                        "description": "The unit in the notation of the command line, with a name: `disk:/var/vm/a.img,w,name=a`."
                    }
                },
                "required": ["lu"],
                "additionalProperties": false
            }
        ]})
    }
}

/// The schema of a whole configuration (JSON Schema 2020-12), as JSON.
pub(crate) fn schema() -> serde_json::Value {
    SchemaGenerator::default().into_root_schema_for::<Document>().to_value()
}
