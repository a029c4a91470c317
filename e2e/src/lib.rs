//! End-to-end rigs: what it takes to show `lunette` to unmodified kernels and clients.
//!
//! The crate exists so that a scenario reads as a short test: start a daemon, boot a guest, run a
//! script, look at what it says. The library knows the daemon only from outside (command line,
//! output, sockets, signals) and must not depend on any other crate of the workspace. Tests may:
//! some are a virtual machine themselves (`lunette-guest`), some count what a path inside allocates.
//!
//! * [`daemon::Lunette`] starts, stops, kills and restarts the daemon.
//! * [`uml::Uml`] boots User-Mode Linux, [`qemu::Qemu`] boots a Debian kernel without KVM. Both run
//!   on the file system of the host, below an overlay, and give a [`guest::Guest`] to run scripts in.
//! * [`manager::Manager`] stands in for systemd, and [`systemd::Systemd`] is one.
//! * [`netns::Netns`] is a network of the test's own; [`proxy::Proxy`] stands in it between an initiator and its target and
//!   makes trouble.
//! * [`held::Held`] is a guest that holds its disk reserved and busy, [`loaded::Loaded`] one with a load by both ways.
//! * [`open_iscsi`] is a guest that is an initiator of that network.
//! * [`iscsi_test_cu`] runs libiscsi's conformance suite test by test.
//! * [`differences`] compares what several targets answer.
//! * [`control::Control`] speaks to the control socket.
//! * [`usage`] says what the daemon holds.
//! * [`tools`] runs host commands with a time limit; [`checks`] holds what several scenarios share.
//!
//! Everything a rig starts ends with the value that stands for it. Time limits only catch hangs.
//!
//! ```
//! use lunette_e2e::tools;
//!
//! let said = tools::output("echo", ["ready"])?.ok()?;
//! assert_eq!(said.stdout, "ready\n");
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod checks;
pub mod control;
pub mod daemon;
pub mod differences;
pub mod frozen;
pub mod guest;
pub mod held;
pub mod iscsi_test_cu;
pub mod loaded;
pub mod loop_device;
pub mod manager;
pub mod netns;
pub mod open_iscsi;
pub mod proxy;
pub mod qemu;
pub mod strace;
pub mod systemd;
pub mod tools;
pub mod uml;
pub mod usage;
