//! What the program gives up before it serves anybody.
//!
//! * [`filter`]: each kind of thread may make the system calls of [`TABLE`], and no others.
//! * [`files`]: the files that may be opened, by the kernel's means; [`beneath`]: by looking.
//! * [`opener`]: a process that opens what the program has no right to.
//! * [`privileges`]: the user, and capabilities.
//!
//! Nothing here knows what the program does, but for the table, the one place that says what its threads need.

pub mod beneath;
pub mod files;
pub mod filter;
pub mod opener;
pub mod privileges;
mod table;
mod trap;

pub use table::{Kinds, Only, Row, TABLE};
