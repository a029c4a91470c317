//! Control of a daemon that runs: the control socket, its methods, and the command line that calls them.

pub(crate) mod session;
mod table;

use crate::exports::Exports;
use anyhow::Result;
use lunette_control::{Failure, Server};
use lunette_reactor::Reactors;
use lunette_transport_vhost_user::{Access, SocketFile};
use serde_json::Value;
use std::path::Path;

/// The control socket: who may write to its file, the daemon's own user, may control the daemon.
pub(crate) struct ControlSocket {
    pub(crate) server: Server,
    _file: SocketFile,
}

impl ControlSocket {
    /// Listens at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (listener, file) = SocketFile::bind(path, &Access::default())?;
        Ok(Self { server: Server::new(listener)?, _file: file })
    }
}

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
        _ => Err(Failure::no_method(method)),
    }
}
