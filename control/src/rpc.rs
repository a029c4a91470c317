//! Requests and answers, as texts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

/// Why a request is not carried out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs: one of those below.
    pub code: i64,
    /// For people.
    pub message: String,
}

impl Failure {
    /// It is not JSON.
    pub const PARSE: i64 = -32700;
    /// It is not a request.
    pub const REQUEST: i64 = -32600;
    /// There is no such method.
    pub const METHOD: i64 = -32601;
    /// The method does not take these parameters.
    pub const PARAMETERS: i64 = -32602;
    /// What it speaks of is not there.
    pub const NOT_FOUND: i64 = -32001;

    /// One with a code of JSON-RPC 2.0, or of the owner's.
    pub fn new(code: i64, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    /// There is no such method.
    pub fn no_method(method: &str) -> Self {
        Self::new(Self::METHOD, format!("there is no method `{method}`"))
    }
}

/// The way from a method and its parameters to a result.
pub type Call<'a> = dyn FnMut(&str, Value) -> Result<Value, Failure> + 'a;

#[derive(Deserialize)]
struct Request {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Value,
    /// A request without it is a notification, which has no answer.
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
}

/// `null` is an identifier too.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// A request, without the end of its line.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

/// The result that an answer has for the request `id`.
///
/// # Errors
/// The outer one when it is no answer to that.
pub(crate) fn result(id: u64, line: &str) -> Result<Result<Value, Failure>, &'static str> {
    #[derive(Deserialize)]
    struct Answer {
        id: Value,
        #[serde(default, deserialize_with = "present")]
        result: Option<Value>,
        error: Option<Failure>,
    }
    let answer: Answer = serde_json::from_str(line).map_err(|_| "the answer is not JSON-RPC")?;
    match answer {
        Answer { error: Some(failure), result: None, .. } => Ok(Err(failure)),
        Answer { result: Some(result), error: None, id: whose } if whose == json!(id) => Ok(Ok(result)),
        _ => Err("the answer belongs to another request"),
    }
}

/// Most requests in one batch: their answers are kept until all are there.
const BATCH: usize = 32;

/// Answers one line; `None` where there is nothing to be said.
pub(crate) fn answer(line: &[u8], call: &mut Call<'_>) -> Option<String> {
    let answer = match serde_json::from_slice(line) {
        Err(error) => Some(failed(Value::Null, &Failure::new(Failure::PARSE, error))),
        Ok(Value::Array(requests)) if (1..=BATCH).contains(&requests.len()) => {
            let answers: Vec<_> = requests.into_iter().filter_map(|request| one(request, call)).collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        Ok(Value::Array(_)) => {
            let what = format!("a batch has 1 to {BATCH} requests");
            Some(failed(Value::Null, &Failure::new(Failure::REQUEST, what)))
        }
        Ok(request) => one(request, call),
    };
    answer.map(|answer| answer.to_string())
}

fn one(request: Value, call: &mut Call<'_>) -> Option<Value> {
    let request = match serde_json::from_value::<Request>(request) {
        Ok(request) if request.jsonrpc == "2.0" => request,
        Ok(_) => return Some(failed(Value::Null, &Failure::new(Failure::REQUEST, "jsonrpc is not \"2.0\""))),
        Err(error) => return Some(failed(Value::Null, &Failure::new(Failure::REQUEST, error))),
    };
    let result = call(&request.method, request.params);
    let id = request.id?;
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(failure) => failed(id, &failure),
    })
}

fn failed(id: Value, failure: &Failure) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Option<Value> {
        let answer = answer(line.as_bytes(), &mut |method, params| match method {
            "echo" => Ok(params),
            _ => Err(Failure::new(Failure::METHOD, format!("there is no method `{method}`"))),
        });
        answer.map(|text| serde_json::from_str(&text).unwrap())
    }

    fn code(line: &str) -> i64 {
        said(line).unwrap()["error"]["code"].as_i64().unwrap()
    }

    #[test]
    fn requests_are_answered_under_their_identifier() {
        assert_eq!(
            said(r#"{"jsonrpc":"2.0","id":"x","method":"echo","params":[1]}"#),
            Some(json!({ "jsonrpc": "2.0", "id": "x", "result": [1] }))
        );
        let own = request(7, "echo", &json!({ "a": 1 }));
        let answer = said(&own).unwrap().to_string();
        assert_eq!(result(7, &answer), Ok(Ok(json!({ "a": 1 }))));
        assert!(result(8, &answer).is_err());
        assert!(result(7, "{}").is_err());
        let failure = said(&request(7, "no", &Value::Null)).unwrap().to_string();
        assert_eq!(result(7, &failure), Ok(Err(Failure::new(-32601, "there is no method `no`"))));
    }

    #[test]
    fn notifications_have_no_answer_and_null_is_an_identifier() {
        assert_eq!(said(r#"{"jsonrpc":"2.0","method":"echo"}"#), None);
        assert_eq!(said(r#"[{"jsonrpc":"2.0","method":"echo"}]"#), None);
        let null = said(r#"{"jsonrpc":"2.0","id":null,"method":"echo"}"#);
        assert_eq!(null, Some(json!({ "jsonrpc": "2.0", "id": null, "result": null })));
    }

    #[test]
    fn batches_are_answered_together() {
        let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"echo"},5,{"jsonrpc":"2.0","method":"echo"}]"#;
        let answers = said(batch).unwrap();
        assert_eq!(answers[0]["id"], 1);
        assert_eq!(answers[1]["error"]["code"], Failure::REQUEST);
        assert_eq!(answers.as_array().unwrap().len(), 2);
        assert_eq!(code(&format!("[{}0]", "0,".repeat(BATCH))), Failure::REQUEST);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (line, expected) in [
            ("", Failure::PARSE),
            ("{", Failure::PARSE),
            ("[]", Failure::REQUEST),
            ("null", Failure::REQUEST),
            (r#"{"id":1,"method":"echo"}"#, Failure::REQUEST),
            (r#"{"jsonrpc":"1.0","id":1,"method":"echo"}"#, Failure::REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"other"}"#, Failure::METHOD),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }
}
