//! What the daemon has done: as the control socket tells it, and as metrics that are read by HTTP.

mod http;
mod snapshot;
mod text;

pub(crate) use http::Endpoint;
pub(crate) use snapshot::{
    Counts, ExportStats, InitiatorStats, ReactorStats, Stats, ThrottleStats, Times, UnitStats, stats,
};
