//! The target's side: [`Login`] first, then one [`Connection`] and its [`Session`].

mod connection;
mod directory;
mod handover;
mod login;
mod receive;
mod respond;
mod session;
mod tasks;
mod text;
mod upkeep;
mod window;
mod write;

pub use connection::{Command, Connection, Event, Received, TaskManagement};
pub use directory::{
    Admission, Directory, Identity, Portal, Refusal, SecurityMethod, SecurityStep, TargetRecord,
};
pub use handover::{NoSession, SessionState};
pub use login::{Accepted, Login, Progress, Settings};
pub use respond::{AsyncMessage, Residual, Response};
pub use session::{Session, SessionInfo, SessionType};
pub use tasks::TaskId;
pub use text::is_name;
pub use write::DataError;
