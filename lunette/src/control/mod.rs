//! Control of a daemon that runs: JSON-RPC 2.0 over a Unix socket, and the command line that speaks it.

mod client;
pub(crate) mod rpc;
pub(crate) mod server;
pub(crate) mod session;
mod table;

use crate::exports::Exports;
use lunette_reactor::Reactors;
use rpc::Failure;
use serde_json::Value;

/// Carries out a method.
pub(crate) fn call(
    method: &str,
    params: Value,
    exports: &Exports,
    reactors: &Reactors,
) -> Result<Value, Failure> {
    match method {
        session::LIST => session::list(exports, reactors),
        session::END => session::end(params, exports, reactors),
        _ => Err(Failure::new(Failure::METHOD, format!("there is no method `{method}`"))),
    }
}
