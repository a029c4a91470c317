//! The methods.

use crate::built_in::{self, BuiltIn};
use crate::plane::{Plane, Work};
use crate::{Caller, Failure, nearest};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// What a method does to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: readers may call it.
    Reads,
    /// It does something that is no part of the configuration: only administrators may call it.
    Acts,
    /// It changes the configuration. Only administrators may call it; such methods are carried out one after the other, and
    /// each that changes something moves the generation.
    Changes,
}

/// What a method is carried out with.
pub struct Call<'a, D> {
    /// What it works on.
    pub daemon: &'a D,
    /// Who has asked for it.
    pub caller: &'a Caller,
    /// Where it says how far it is, if it is [long](Method::long).
    pub work: &'a Work,
    pub(crate) plane: &'a Plane<D>,
}

/// A method whose parameters are understood.
pub(crate) type Prepared<D> = Box<dyn FnOnce(&Call<'_, D>) -> Result<Value, Failure> + Send>;

/// Understands the parameters of a method.
type Prepare<D> = Box<dyn Fn(Map<String, Value>) -> Result<Prepared<D>, Failure> + Send + Sync>;

/// A method without parameters takes these.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// A row of the [table](Table).
pub struct Method<D> {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) effect: Effect,
    pub(crate) is_long: bool,
    is_in_turn: bool,
    params: fn() -> Schema,
    result: fn() -> Schema,
    pub(crate) run: Run<D>,
}

pub(crate) enum Run<D> {
    /// By a worker.
    Aside(Prepare<D>),
    /// By this crate.
    BuiltIn(BuiltIn),
}

impl<D> Method<D> {
    /// A method named `object.verb`. Its parameters `P` should refuse unknown fields; the result `R` of one that
    /// [changes](Effect::Changes) something is an object or nothing.
    ///
    /// `run` may block, but not for long: if it needs more than a moment, let it be [long](Self::long).
    pub fn new<P, R>(
        effect: Effect,
        name: &'static str,
        summary: &'static str,
        run: fn(&Call<'_, D>, P) -> Result<R, Failure>,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + 'static,
        D: 'static,
    {
        let prepare = move |params| {
            let params: P = understand(name, params)?;
            let prepared: Prepared<D> = Box::new(move |call| value(&run(call, params)?));
            Ok(prepared)
        };
        Self::row::<P, R>(effect, name, summary, Run::Aside(Box::new(prepare)))
    }

    /// The same as a job: who has called it gets its number at once, or waits for the end if he wants to.
    pub fn long(self) -> Self {
        Self { is_long: true, ..self }
    }

    /// The same, carried out one after the other with all that [changes](Effect::Changes) something.
    pub fn in_turn(self) -> Self {
        Self { is_in_turn: true, ..self }
    }

    pub(crate) fn takes_turn(&self) -> bool {
        self.is_in_turn || self.effect == Effect::Changes
    }

    pub(crate) fn row<P: JsonSchema, R: JsonSchema>(
        effect: Effect,
        name: &'static str,
        summary: &'static str,
        run: Run<D>,
    ) -> Self {
        let params = || SchemaSettings::default().into_generator().into_root_schema_for::<P>();
        let result =
            || SchemaSettings::default().for_serialize().into_generator().into_root_schema_for::<R>();
        Self { name, summary, effect, is_long: false, is_in_turn: false, params, result, run }
    }

    /// The method of this crate that it is, if that concerns a connection.
    pub(crate) fn of_connection(&self) -> Option<BuiltIn> {
        match self.run {
            Run::BuiltIn(built_in) if built_in.is_of_connection() => Some(built_in),
            _ => None,
        }
    }

    /// What `control.describe` tells of it.
    pub(crate) fn described(&self) -> Described {
        let mut params = (self.params)();
        let common = Common::properties(self.effect, self.is_long);
        if let Some(schema) = params.as_object_mut().filter(|_| !common.is_empty()) {
            let properties = schema.entry("properties").or_insert_with(|| json!({}));
            if let Some(properties) = properties.as_object_mut() {
                properties.extend(common);
            }
        }
        Described {
            name: self.name.to_owned(),
            summary: self.summary.to_owned(),
            effect: self.effect,
            long: self.is_long,
            params: params.into(),
            result: (self.result)().into(),
        }
    }
}

/// The parameters of a method, or why they are none.
pub(crate) fn understand<P: DeserializeOwned>(
    method: &str,
    params: Map<String, Value>,
) -> Result<P, Failure> {
    let wrong = |error| Failure::parameters(format!("parameters of {method}: {error}"));
    serde_json::from_value(Value::Object(params)).map_err(wrong)
}

pub(crate) fn value(result: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| Failure::new(Failure::INTERNAL, error))
}

/// A method, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Described {
    /// `object.verb`.
    pub name: String,
    /// What it does.
    pub summary: String,
    /// Who may call it.
    pub effect: Effect,
    /// Whether it is a job.
    pub long: bool,
    /// JSON schema of the parameters.
    pub params: Value,
    /// JSON schema of the result.
    pub result: Value,
}

/// The parameters that methods have besides their own.
#[derive(Default, PartialEq, Debug)]
pub(crate) struct Common {
    /// Refuse if something has changed since.
    pub(crate) if_generation: Option<u64>,
    /// Do the same thing only once.
    pub(crate) request_id: Option<String>,
    /// Answer when it is done.
    pub(crate) wait: bool,
    /// End it when the one who has asked for it is gone.
    pub(crate) cancel_on_close: bool,
}

/// Longest request identifier, in bytes.
const REQUEST_ID: usize = 128;

impl Common {
    /// Takes them out of `params`.
    pub(crate) fn take(
        effect: Effect,
        is_long: bool,
        params: &mut Map<String, Value>,
    ) -> Result<Self, Failure> {
        fn field<T: DeserializeOwned>(
            params: &mut Map<String, Value>,
            name: &str,
        ) -> Result<Option<T>, Failure> {
            let wrong = |error| Failure::parameters(format!("{name}: {error}"));
            params.remove(name).map_or(Ok(None), serde_json::from_value).map_err(wrong)
        }
        let mut common = Self::default();
        if effect == Effect::Changes {
            common.if_generation = field(params, "if_generation")?;
        }
        if effect != Effect::Reads {
            common.request_id = field(params, "request_id")?;
        }
        if is_long {
            common.wait = field(params, "wait")?.unwrap_or_default();
            common.cancel_on_close = field(params, "cancel_on_close")?.unwrap_or_default();
        }
        match &common.request_id {
            Some(id) if !(1..=REQUEST_ID).contains(&id.len()) => {
                Err(Failure::parameters(format!("request_id has 1 to {REQUEST_ID} bytes")))
            }
            _ => Ok(common),
        }
    }

    /// Their schemas.
    fn properties(effect: Effect, is_long: bool) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut add = |name: &str, what: &str, text: &str| {
            properties.insert(name.to_owned(), json!({ "type": what, "description": text }));
        };
        if effect == Effect::Changes {
            add("if_generation", "integer", "Refuse if something has changed since this generation.");
        }
        if effect != Effect::Reads {
            add(
                "request_id",
                "string",
                "A request of the same identifier and caller is carried out only once.",
            );
        }
        if is_long {
            add("wait", "boolean", "Answer when it is done, not at once with the number of the job.");
            add("cancel_on_close", "boolean", "Cancel the job when the connection is closed.");
        }
        properties
    }
}

/// All methods, by name.
pub struct Table<D> {
    rows: BTreeMap<&'static str, Method<D>>,
}

impl<D: Send + Sync + 'static> Table<D> {
    /// The methods of a daemon, and those that every daemon has.
    pub fn new(methods: impl IntoIterator<Item = Method<D>>) -> Self {
        let all = built_in::methods().into_iter().chain(methods);
        Self { rows: all.map(|method| (method.name, method)).collect() }
    }
}

impl<D> Table<D> {
    pub(crate) fn find(&self, name: &str) -> Result<&Method<D>, Failure> {
        self.rows.get(name).ok_or_else(|| {
            let hint = nearest::hint(name, self.rows.keys().copied());
            // Others choose the name, and it may be long.
            let name: String = name.chars().take(64).collect();
            Failure::new(Failure::METHOD, format!("there is no method `{name}`{hint}"))
        })
    }

    /// What `control.describe` tells of them.
    pub fn described(&self) -> Vec<Described> {
        self.rows.values().map(Method::described).collect()
    }
}

impl<D> fmt::Debug for Table<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.rows.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::tests::Later;
    use crate::{About, Feed};
    use std::time::UNIX_EPOCH;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Add {
        a: u32,
        #[serde(default)]
        b: u32,
    }

    fn table() -> Table<u32> {
        fn add(call: &Call<'_, u32>, params: Add) -> Result<u32, Failure> {
            Ok(call.daemon + params.a + params.b)
        }
        fn set(_: &Call<'_, u32>, _: NoParams) -> Result<(), Failure> {
            Ok(())
        }
        Table::new([
            Method::new(Effect::Reads, "number.add", "Adds.", add),
            Method::new(Effect::Changes, "number.set", "Sets.", set).long(),
        ])
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn parameters_and_results_are_typed() {
        let table = table();
        let Run::Aside(prepare) = &table.find("number.add").unwrap().run else { panic!() };
        let feed = Feed::new(|| UNIX_EPOCH, 0).unwrap();
        let about = About { version: "1", kinds: &[] };
        let plane = Plane::new(1, Table::new([]), about, Later::default(), &feed);
        let call = Call { daemon: &1, caller: &Caller::own(), work: &Work::quiet(), plane: &plane };
        assert_eq!(prepare(map(json!({ "a": 2, "b": 3 }))).unwrap()(&call), Ok(json!(6)));
        for wrong in [json!({}), json!({ "a": -1 }), json!({ "a": 1, "c": 1 })] {
            let failure = prepare(map(wrong)).err().unwrap();
            assert_eq!(failure.code, Failure::PARAMETERS);
            assert!(failure.message.starts_with("parameters of number.add: "), "{failure}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let failure = table().find("number.ad").err().unwrap();
        assert_eq!(failure.code, Failure::METHOD);
        assert_eq!(failure.message, "there is no method `number.ad`; did you mean `number.add`?");
        assert!(table().find(&"x".repeat(10_000)).err().unwrap().message.len() < 100);
    }

    #[test]
    fn methods_are_described_with_their_parameters() {
        let described = table().described();
        let of = |name: &str| described.iter().find(|method| method.name == name).unwrap();
        let names = |name: &str| {
            let properties = of(name).params["properties"].as_object().cloned().unwrap_or_default();
            properties.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names("number.add"), ["a", "b"]);
        assert_eq!(names("number.set"), ["cancel_on_close", "if_generation", "request_id", "wait"]);
        assert_eq!(of("number.add").result["type"], "integer");
        assert_eq!(of("number.add").params["additionalProperties"], false);
        assert!(of("number.set").long && of("number.set").effect == Effect::Changes);
        assert_eq!(of("control.describe").effect, Effect::Reads);
    }

    #[test]
    fn common_parameters_belong_to_those_who_have_them() {
        let all =
            json!({ "if_generation": 5, "request_id": "x", "wait": true, "cancel_on_close": true, "a": 1 });
        let left = |effect, is_long| {
            let mut params = map(all.clone());
            let common = Common::take(effect, is_long, &mut params).unwrap();
            (common, params.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        let (common, rest) = left(Effect::Changes, true);
        let request_id = Some("x".to_owned());
        let expected = Common { if_generation: Some(5), request_id, wait: true, cancel_on_close: true };
        assert_eq!((common, rest.as_str()), (expected, "a"));
        assert_eq!(left(Effect::Acts, false).1, "a cancel_on_close if_generation wait");
        assert_eq!(left(Effect::Reads, false).1, "a cancel_on_close if_generation request_id wait");
        for wrong in [json!({ "request_id": "" }), json!({ "request_id": 5 }), json!({ "wait": 1 })] {
            assert!(Common::take(Effect::Changes, true, &mut map(wrong)).is_err());
        }
    }
}
