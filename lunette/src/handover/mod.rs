//! Handing everything over to the next daemon, which goes on: a planned restart that initiators see as a pause.
//!
//! The old one brings all to rest ([`Running::leave`](crate::running::Running::leave)), has a [custodian](crate::custodian) keep the
//! descriptors, and beside them what there is to say: plain data in files in memory ([`give`]). The new one reads that before it
//! opens anything ([`take`]), like what a stranger says: what it cannot use it does without, as after any other start.

mod document;
mod give;
mod heir;
mod recorder;
mod take;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use give::{Left, LeftExport, Memory, give};
pub(crate) use heir::{Heir, Invocation};
pub(crate) use recorder::Recorder;
pub(crate) use take::{Handed, is_kept};
