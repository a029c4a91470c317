//! Requests, answers and notifications, as texts (JSON-RPC 2.0).

use crate::Failure;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// Most requests in one batch: their answers are kept until all are there.
pub(crate) const BATCH: usize = 32;

/// What one line asks for.
#[derive(Debug)]
pub(crate) enum Line {
    One(Asked),
    /// To be answered together (clause 6).
    Batch(Vec<Asked>),
}

/// A request, or why something is none, with the identifier to answer under.
#[derive(Debug)]
pub(crate) struct Asked {
    /// `None`: it wants no answer.
    pub(crate) id: Option<Value>,
    pub(crate) what: Result<Request, Failure>,
}

/// What is to be carried out.
#[derive(PartialEq, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) params: Map<String, Value>,
}

impl Asked {
    fn wrong(id: Value, failure: Failure) -> Self {
        Self { id: Some(id), what: Err(failure) }
    }
}

/// `null` is an identifier, and a result, too.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Understands one line.
pub(crate) fn parse(line: &[u8]) -> Line {
    let refused = |what: Failure| Line::One(Asked::wrong(Value::Null, what));
    match serde_json::from_slice(line) {
        Err(error) => refused(Failure::new(Failure::PARSE, error)),
        Ok(Value::Array(all)) if (1..=BATCH).contains(&all.len()) => {
            Line::Batch(all.into_iter().map(one).collect())
        }
        Ok(Value::Array(_)) => {
            refused(Failure::new(Failure::REQUEST, format!("a batch has 1 to {BATCH} requests")))
        }
        Ok(value) => Line::One(one(value)),
    }
}

fn one(value: Value) -> Asked {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Members {
        jsonrpc: String,
        method: String,
        #[serde(default)]
        params: Value,
        #[serde(default, deserialize_with = "present")]
        id: Option<Value>,
    }
    // Under its identifier, if it can be told, also where the rest is wrong.
    let told = value.get("id").filter(|id| is_identifier(id)).cloned().unwrap_or_default();
    let wrong = |code, why: String| Asked::wrong(told, Failure::new(code, why));
    if !value.is_object() {
        return wrong(Failure::REQUEST, "a request is an object".into());
    }
    let members = match serde_json::from_value::<Members>(value) {
        Err(error) => return wrong(Failure::REQUEST, error.to_string()),
        Ok(members) if members.jsonrpc != "2.0" => {
            return wrong(Failure::REQUEST, "jsonrpc is not \"2.0\"".into());
        }
        Ok(Members { id: Some(id), .. }) if !is_identifier(&id) => {
            return wrong(Failure::REQUEST, "an identifier is a text, a number or null".into());
        }
        Ok(members) => members,
    };
    let params = match members.params {
        Value::Object(params) => Ok(params),
        Value::Null => Ok(Map::new()),
        Value::Array(params) if params.is_empty() => Ok(Map::new()),
        Value::Array(_) => Err(Failure::parameters("parameters are given by name, in an object")),
        _ => return wrong(Failure::REQUEST, "parameters are given by name, in an object".into()),
    };
    Asked { id: members.id, what: params.map(|params| Request { method: members.method, params }) }
}

fn is_identifier(id: &Value) -> bool {
    matches!(id, Value::String(_) | Value::Number(_) | Value::Null)
}

/// The answer to the request `id`, without the end of its line.
pub(crate) fn answer(id: &Value, result: &Result<Value, Failure>) -> String {
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(failure) => json!({ "jsonrpc": "2.0", "id": id, "error": failure }),
    }
    .to_string()
}

/// A request, without the end of its line.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

/// A notification, which nobody answers, without the end of its line.
pub(crate) fn notification(method: &str, params: &impl Serialize) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

/// What a daemon says.
#[derive(PartialEq, Debug)]
pub(crate) enum Said {
    /// The answer to request `id`; `None`: to what it could not tell from others.
    Answer(Option<u64>, Result<Value, Failure>),
    Notification(String, Value),
}

/// Understands what a daemon says.
///
/// # Errors
/// When it is neither an answer nor a notification.
pub(crate) fn said(line: &[u8]) -> Result<Said, &'static str> {
    #[derive(Deserialize)]
    struct Members {
        #[serde(default)]
        id: Value,
        #[serde(default, deserialize_with = "present")]
        result: Option<Value>,
        error: Option<Failure>,
        method: Option<String>,
        #[serde(default)]
        params: Value,
    }
    let members: Members = serde_json::from_slice(line).map_err(|_| "the answer is not JSON-RPC")?;
    match members {
        Members { method: Some(method), params, id: Value::Null, result: None, error: None } => {
            Ok(Said::Notification(method, params))
        }
        Members { method: None, id, result: Some(result), error: None, .. } => {
            Ok(Said::Answer(id.as_u64(), Ok(result)))
        }
        Members { method: None, id, result: None, error: Some(failure), .. } => {
            Ok(Said::Answer(id.as_u64(), Err(failure)))
        }
        _ => Err("it is neither an answer nor a notification"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        match parse(line.as_bytes()) {
            Line::One(asked) => asked,
            Line::Batch(_) => panic!("a batch: {line}"),
        }
    }

    fn code(line: &str) -> (Value, i64) {
        let asked = asked(line);
        (asked.id.unwrap(), asked.what.unwrap_err().code)
    }

    #[test]
    fn requests_have_a_method_and_parameters_by_name() {
        let of = |params: &str| {
            asked(&format!(r#"{{"jsonrpc":"2.0","id":"x","method":"a.b"{params}}}"#)).what.unwrap()
        };
        let request =
            |params: Value| Request { method: "a.b".into(), params: params.as_object().unwrap().clone() };
        assert_eq!(of(r#","params":{"p":1}"#), request(json!({ "p": 1 })));
        for none in ["", r#","params":null"#, r#","params":[]"#, r#","params":{}"#] {
            assert_eq!(of(none), request(json!({})), "{none}");
        }
        let own = asked(&super::request(7, "a.b", &json!({ "p": 1 })));
        assert_eq!((own.id, own.what), (Some(json!(7)), Ok(request(json!({ "p": 1 })))));
    }

    #[test]
    fn notifications_have_no_identifier_and_null_is_one() {
        assert_eq!(asked(r#"{"jsonrpc":"2.0","method":"m"}"#).id, None);
        assert_eq!(asked(r#"{"jsonrpc":"2.0","method":"m","id":null}"#).id, Some(Value::Null));
    }

    #[test]
    fn batches_hold_what_they_hold() {
        let line = r#"[{"jsonrpc":"2.0","id":1,"method":"m"},5,{"jsonrpc":"2.0","method":"m"}]"#;
        let Line::Batch(all) = parse(line.as_bytes()) else { panic!() };
        let kinds: Vec<_> = all.iter().map(|asked| (asked.id.clone(), asked.what.is_ok())).collect();
        assert_eq!(kinds, [(Some(json!(1)), true), (Some(Value::Null), false), (None, true)]);
        assert_eq!(code(&format!("[{}0]", "0,".repeat(BATCH))), (Value::Null, Failure::REQUEST));
    }

    #[test]
    fn what_is_no_request_is_refused_under_its_identifier_if_it_has_one() {
        let deep = "[".repeat(100_000);
        for (line, id, expected) in [
            ("", json!(null), Failure::PARSE),
            ("{", json!(null), Failure::PARSE),
            (deep.as_str(), json!(null), Failure::PARSE),
            (r#"{"jsonrpc":"2.0","id":1e999,"method":"m"}"#, json!(null), Failure::PARSE),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, json!(null), Failure::PARSE),
            ("[]", json!(null), Failure::REQUEST),
            ("null", json!(null), Failure::REQUEST),
            (r#"["2.0","m"]"#, json!(null), Failure::REQUEST),
            (r#"{"id":1,"method":"m"}"#, json!(1), Failure::REQUEST),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, json!(1), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, json!(null), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, json!(null), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":"a","method":5}"#, json!("a"), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","parms":{}}"#, json!(1), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":5}"#, json!(1), Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[5]}"#, json!(1), Failure::PARAMETERS),
        ] {
            let Line::One(asked) = parse(line.as_bytes()) else { continue };
            let found = (asked.id.unwrap(), asked.what.unwrap_err().code);
            assert_eq!(found, (id, expected), "{}", &line[..line.len().min(60)]);
        }
        let Line::One(asked) = parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}") else { panic!() };
        assert_eq!(asked.what.unwrap_err().code, Failure::PARSE, "it is not UTF-8");
    }

    #[test]
    fn what_a_daemon_says_is_understood() {
        let good: Result<Value, Failure> = Ok(Value::Null);
        assert_eq!(said(answer(&json!(7), &good).as_bytes()), Ok(Said::Answer(Some(7), good)));
        let bad = Err(Failure::new(-32601, "no").with_data(json!({ "a": 1 })));
        assert_eq!(said(answer(&json!(7), &bad).as_bytes()), Ok(Said::Answer(Some(7), bad.clone())));
        assert_eq!(said(answer(&Value::Null, &bad).as_bytes()), Ok(Said::Answer(None, bad)));
        let event = notification("event", &json!({ "sequence": 1 }));
        assert_eq!(said(event.as_bytes()), Ok(Said::Notification("event".into(), json!({ "sequence": 1 }))));
        for line in ["", "{}", "5", r#"{"id":1,"result":1,"error":{"code":1,"message":""}}"#] {
            assert!(said(line.as_bytes()).is_err(), "{line}");
        }
    }
}
