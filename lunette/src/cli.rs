//! The command line.

pub(crate) mod keys;
pub(crate) mod objects;

use crate::client::names;
use crate::config::command::ConfigCommand;
use crate::config::values::Label;
use crate::config::{DEFAULT_FILE, IoMode, PollMode, Portal, Unit, VhostUser};
use crate::confinement::ConfineOptions;
use crate::control::ControlOptions;
use crate::log::LogLevel;
use crate::state::StateDir;
use clap::{Args, Parser, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use objects::{ExportCall, LuCall, PortalCall, TargetCall, ThrottleCall};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A user-space SCSI target: disks for virtual machines and the network.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Subcommand,
}

/// The name under which virtual machine managers start the program (QEMU's back-end program conventions). Its arguments are
/// then those of `serve`.
const BACK_END: &str = "lunette-vhost-user-scsi";

/// A user-space SCSI target for virtual machines: a vhost-user back end.
#[derive(Parser, Debug)]
#[command(name = BACK_END, version, max_term_width = 100)]
struct BackEnd {
    #[command(flatten)]
    serve: Serve,
}

/// What the program was called for.
#[derive(Debug)]
pub(crate) enum Call {
    PrintCapabilities,
    Serve(Box<Serve>),
    /// What speaks to a daemon.
    Client(ClientCall),
    Generate(Generate),
    Config(ConfigCommand),
}

impl Call {
    /// Understands the command line, whose first word is the program's name.
    pub(crate) fn parse(words: &[OsString]) -> Result<Self, clap::Error> {
        let program = words.first().map(Path::new).and_then(Path::file_name);
        let is_back_end = program.is_some_and(|name| name == BACK_END);
        let serves = is_back_end || words.get(1).is_some_and(|word| word == "serve");
        // Whatever else is there is to be ignored, so it need not be understood.
        if serves && words.iter().any(|word| word == "--print-capabilities") {
            return Ok(Self::PrintCapabilities);
        }
        if is_back_end {
            let serve = BackEnd::try_parse_from(words)?.serve;
            return Ok(Self::Serve(Box::new(Serve { is_back_end, ..serve })));
        }
        Ok(match Cli::try_parse_from(words)?.command {
            Subcommand::Serve(serve) => Self::Serve(serve),
            Subcommand::Client(call) => Self::Client(call),
            Subcommand::Generate(what) => Self::Generate(what),
            Subcommand::Config(command) => Self::Config(command),
        })
    }
}

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Subcommand {
    /// Serve logical units until SIGTERM or SIGINT
    ///
    /// Without any option: what /etc/lunette/lunette.toml says, or if there is no such file, a thin 1 GiB disk in the state
    /// directory, on iSCSI 127.0.0.1:3260 and on a vhost-user socket.
    Serve(Box<Serve>),
    #[command(flatten)]
    Client(ClientCall),
    #[command(flatten)]
    Config(ConfigCommand),
    #[command(flatten)]
    Generate(Generate),
}

/// What speaks to a daemon that runs.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum ClientCall {
    /// Show which daemon runs, and what you may do
    Status(StatusCall),
    /// Print the configuration of a daemon, as a file that brings forth the same
    Show(ShowCall),
    /// Change what a daemon serves to a configuration
    ///
    /// Shows what differs and does it, all or nothing, without disturbing what stays as it is.
    Apply(ApplyCall),
    /// Have a daemon apply the files that it was started from, as SIGHUP does
    Reload(ReloadCall),
    /// Have a daemon write its configuration to the file that it was started from, or to another
    Save(SaveCall),
    /// Take the place of a daemon, and serve on
    ///
    /// This program, maybe a newer one, becomes the daemon, with the same arguments: virtual machines and iSCSI sessions see a pause. A
    /// daemon that a service manager looks after is restarted there.
    Upgrade(UpgradeCall),
    /// See, create, change and delete logical units
    Lu(LuCall),
    /// See, create, change and delete iSCSI targets, and choose what they show
    Target(TargetCall),
    /// See, create and delete the addresses of iSCSI
    Portal(PortalCall),
    /// See, create, change and delete the sockets for virtual machines, and choose what they show
    Export(ExportCall),
    /// See, create, change and delete limits of commands and bytes a second
    Throttle(ThrottleCall),
    /// See and end the iSCSI sessions of a daemon
    Session(SessionCall),
    /// See, wait for and cancel what takes long
    Job(JobCall),
    /// Follow what happens in a daemon
    ///
    /// Goes on when the daemon is started again. What was missed is said.
    Events(EventsCall),
    /// Watch what logical units do, and for whom
    ///
    /// Shows what has happened since the last look: commands and bytes in a second, how long commands took, and those under way.
    Top(TopCall),
}

/// What is made from the command line itself.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Generate {
    /// Print what has a shell complete command lines, as in: source <(lunette completions bash)
    ///
    /// Names are those of the daemon that runs.
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write a manual page for each command
    Man {
        /// An existing directory
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

/// A shell that completes command lines.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `show`.
#[derive(Args, Debug)]
pub(crate) struct ShowCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
}

/// `apply`.
#[derive(Args, Debug)]
pub(crate) struct ApplyCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// The configuration; the files in `conf.d` beside it belong to it
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) permitted: Permitted,
    /// As JSON, with everything that is known
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reload`.
#[derive(Args, Debug)]
pub(crate) struct ReloadCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// Also if changes that were made since, and are not saved, are lost
    #[arg(long)]
    pub(crate) discard: bool,
    #[command(flatten)]
    pub(crate) permitted: Permitted,
    /// As JSON, with everything that is known
    #[arg(long)]
    pub(crate) json: bool,
}

/// What may happen to what is served.
#[derive(Args, Debug)]
pub(crate) struct Permitted {
    /// Units may become smaller, and lose what is beyond
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Leave out what needs a restart of the daemon
    #[arg(long)]
    pub(crate) except_restart: bool,
}

/// `save`.
#[derive(Args, Debug)]
pub(crate) struct SaveCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// Another file than the one that it was started from
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// Also if somebody else has changed that
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// `upgrade`.
#[derive(Args, Debug)]
pub(crate) struct UpgradeCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// Also if changes that were made since the start, and are not saved, are lost
    #[arg(long)]
    pub(crate) discard: bool,
    /// How to start, with `serve` first, if not as the daemon was; needed where that has become another user
    #[arg(last = true, value_name = "WORDS")]
    pub(crate) words: Vec<OsString>,
}

/// `events`.
#[derive(Args, Debug)]
pub(crate) struct EventsCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// A JSON object on each line
    #[arg(long)]
    pub(crate) json: bool,
    /// Only events of this kind, as in session.begun, or of all kinds of a type, as in session (may be repeated)
    #[arg(long = "kind", value_name = "KIND", add = ArgValueCandidates::new(names::event_kinds))]
    pub(crate) kinds: Vec<String>,
    /// Only events of this object (may be repeated)
    #[arg(long = "object", value_name = "NAME", add = ArgValueCandidates::new(names::objects))]
    pub(crate) objects: Vec<String>,
    /// First what has happened after the event of this number, as far as the daemon still knows it; 0: all of that
    #[arg(long, value_name = "NUMBER")]
    pub(crate) since: Option<u64>,
}

/// `top`.
#[derive(Args, Debug)]
pub(crate) struct TopCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    /// Only this logical unit
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(names::units))]
    pub(crate) unit: Option<String>,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub(crate) interval: f64,
    /// Look once, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// A JSON object for each look, with everything that is known
    #[arg(long)]
    pub(crate) json: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("there are 0.1 to 86400 seconds between two looks".into()),
    }
}

/// `job`.
#[derive(Args, Debug)]
pub(crate) struct JobCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: JobCommand,
}

/// What is to be done with jobs.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum JobCommand {
    /// Show what goes on, and what has ended of late
    List {
        /// As JSON, with everything that is known
        #[arg(long)]
        json: bool,
    },
    /// Show one job with what came of it, as JSON
    Show {
        /// Number of the job
        #[arg(add = ArgValueCandidates::new(names::jobs))]
        job: u64,
    },
    /// Show how far a job is until it has ended
    Wait {
        /// Number of the job
        #[arg(add = ArgValueCandidates::new(names::jobs))]
        job: u64,
        /// Have Ctrl-C cancel the job
        #[arg(long)]
        cancel: bool,
    },
    /// Ask a job to end
    Cancel {
        /// Number of the job
        #[arg(add = ArgValueCandidates::new(names::jobs))]
        job: u64,
    },
}

/// `session`.
#[derive(Args, Debug)]
pub(crate) struct SessionCall {
    #[command(flatten)]
    pub(crate) control: ControlSocket,
    #[command(subcommand)]
    pub(crate) command: SessionCommand,
}

/// What is to be done with sessions.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum SessionCommand {
    /// Show who is logged in, from where, what was agreed and what has been done
    List {
        /// As JSON, with everything that is known
        #[arg(long)]
        json: bool,
    },
    /// End a session
    ///
    /// The initiator is asked to log out, and most then log in again: this moves it to another portal or has it see what has
    /// changed. To keep it away, change who has access.
    End {
        /// Number of the session, as `list` shows it
        #[arg(value_name = "SESSION", add = ArgValueCandidates::new(names::sessions))]
        session: u16,
        /// Close the connection at once
        #[arg(long)]
        now: bool,
        /// Seconds after which the connection is closed
        #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "now")]
        within: u16,
    },
}

/// Which daemon is spoken to.
#[derive(Args, Clone, Default, Debug)]
pub(crate) struct ControlSocket {
    /// Control socket of the daemon [default: $LUNETTE_CONTROL, control.sock in the state directory, or that of the service]
    #[arg(long, value_name = "SOCKET", global = true, value_hint = ValueHint::FilePath)]
    control: Option<PathBuf>,
    /// State directory of the daemon [default: as for serve]
    #[arg(long, value_name = "DIRECTORY", global = true, value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
}

/// The name of the control socket in a state directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// The control socket of the service (packaging/systemd/lunette-control.socket).
const CONTROL_OF_SERVICE: &str = "/run/lunette/control.sock";

impl ControlSocket {
    /// Where the socket is: that which is said, or the places where it may be, in their order.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        self.places_with(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn places_with(&self, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        let in_state = |directory: &Path| vec![directory.join(CONTROL_SOCKET)];
        match (&self.control, &self.state_dir) {
            (Some(control), _) => return vec![control.clone()],
            (None, Some(directory)) => return in_state(directory),
            (None, None) => {}
        }
        if let Some(control) = variable("LUNETTE_CONTROL") {
            return vec![control.into()];
        }
        let mut places = in_state(&StateDir::default_path());
        if variable(StateDir::VARIABLE).is_none() {
            places.push(CONTROL_OF_SERVICE.into());
        }
        places
    }

    /// Whether the command line says which.
    pub(crate) fn is_said(&self) -> bool {
        self.control.is_some() || self.state_dir.is_some()
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    /// Serve what this file, and those in `conf.d` beside it, say (docs/configuration.md)
    ///
    /// Written in TOML. Options of the daemon itself, from --state-dir on, count more than the file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["units", "iscsi", "vhost_user", "socket_paths", "target", "iscsi_config"])]
    pub(crate) config: Option<PathBuf>,

    /// A logical unit, as in disk:/var/vm/a.img,w or disk:ram:4G (may be repeated)
    ///
    /// Written `TYPE:STORE[,r|w][,key=value…]`. TYPE is `disk`. STORE is the path of a file or block device, or
    /// ram:SIZE. `r` refuses writes. Keys: size= (create a sparse file of this size if there is none),
    /// block=512|4096, direct=on|off, inline=on|off, serial=, wwn= (NAA name), version=spc-3|spc-4, name=,
    /// known-by=name|file (what its identity belongs to), migratable=on|off (another daemon with the same state directory
    /// may serve it too, where its virtual machine runs; see docs/migration.md), rotational=on|off, removable=on|off, pace= (bytes that
    /// formatting and sanitizing write in a second, as in
    /// 200M, or off; otherwise 64M), atomic= (bytes to whose multiples WRITE ATOMIC keeps, as in 16K; otherwise it
    /// takes any blocks), waiting= (commands that wait while the store has no room, otherwise 256; the next are
    /// answered TASK SET FULL or BUSY), stuck-after= (seconds that the store may take for an operation; then commands
    /// fail at once until it answers; otherwise as long as it takes), target= (0 to 255, otherwise 0; not for iSCSI, whose target is 0), lun= (0 to
    /// 16383, otherwise numbered from 0 in each target, in the order given), queues= (request queues, as in 0, 0-3 or
    /// 1+4, on whose reactors the unit lives), filter= (commands that the unit carries out, as in
    /// deny:unmap+write-same-16 or allow:read+inquiry+9e/10), access= (how it is accessible through target port
    /// groups, as in 1:optimized:preferred+2:standby; also non-optimized, unavailable). A comma in a path is written
    /// `\,`.
    #[arg(long = "lu", value_name = "UNIT")]
    pub(crate) units: Vec<Unit>,

    /// Serve iSCSI on this address; port 0 chooses one (may be repeated)
    ///
    /// Written `ADDRESS:PORT[,group=N]`, with the target port group of the portal (1 to 65534, otherwise 1).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) iscsi: Vec<Portal>,

    /// Serve virtual machines on this vhost-user socket, as in /run/vm1.sock,owner=:kvm (may be repeated)
    ///
    /// Written `SOCKET[,client=on][,mode=0660][,owner=[USER][:GROUP]][,group=N][,name=NAME]`, by names or numbers. Whoever
    /// may write to the socket's file can read and write the disks; that is the daemon's user alone (mode=0600), and the
    /// group if `owner=` names one (mode=0660). With client=on the socket is the virtual machine monitor's, and the daemon
    /// connects to it, again and again; owner=USER is who has to listen there then. The target port group is 1 to 65534,
    /// otherwise 1. `name=` has the virtual machine be known by that instead of the socket's path. A comma in a path is
    /// written `\,`.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) vhost_user: Vec<VhostUser>,

    /// The same, with nothing but a path; for virtual machine managers
    #[arg(long = "socket-path", value_name = "PATH", conflicts_with = "fds")]
    pub(crate) socket_paths: Vec<PathBuf>,

    /// Serve virtual machines on this open vhost-user socket (may be repeated)
    ///
    /// One that listens is served like that of --vhost-user. One that is connected is served until it ends; when none
    /// of all that is served is left, the program ends.
    #[arg(long = "fd", value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) fds: Vec<i32>,

    /// Print what kind of vhost-user back end this is, as JSON, and ignore all other options
    #[arg(long)]
    pub(crate) print_capabilities: bool,

    /// Run as a back end that a virtual machine manager has started: without iSCSI unless that is asked for.
    #[arg(skip)]
    pub(crate) is_back_end: bool,

    /// Bring the memory of virtual machines in as a whole, and lock it
    ///
    /// No command then waits for a page of guest memory. It takes a while when a guest starts, and the right to lock that
    /// much (RLIMIT_MEMLOCK); without the right the memory is used as it is.
    #[arg(long)]
    pub(crate) pin_memory: bool,

    /// Serve iSCSI as this file says: portals, targets, and who sees what (docs/iscsi.md)
    ///
    /// Written in TOML. Without it there is one target with all units, which everyone who reaches a portal may use.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["iscsi", "target"])]
    pub(crate) iscsi_config: Option<PathBuf>,

    /// Socket by which the daemon is controlled [default: control.sock in the state directory]
    ///
    /// The daemon's user and root may control it, and those whom the next options name.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) control_access: ControlOptions,

    /// Serve metrics by HTTP at this loopback address or Unix socket (docs/metrics.md)
    ///
    /// As in 127.0.0.1:9260 or /run/lunette/metrics.sock. Port 0 chooses one.
    #[arg(long, value_name = "PLACE")]
    pub(crate) metrics: Option<Label>,

    /// How much is logged [default: info]
    ///
    /// LUNETTE_LOG says it more precisely, and counts more.
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,

    #[command(flatten)]
    pub(crate) confine: ConfineOptions,

    /// Name of the iSCSI target [default: iqn.2026-11.dev.lunette:default]
    #[arg(long, value_name = "IQN")]
    pub(crate) target: Option<String>,

    /// Where identities are kept [default: $LUNETTE_STATE_DIR, /var/lib/lunette or ~/.local/state/lunette]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Number of reactor threads; 0, or nothing, means one for each CPU
    #[arg(long, value_name = "N")]
    pub(crate) reactors: Option<u16>,

    /// What a reactor does when it has nothing to do [default: adaptive]
    #[arg(long, value_enum)]
    pub(crate) poll: Option<PollMode>,

    /// How a reactor talks to the kernel [default: auto]
    #[arg(long, value_enum)]
    pub(crate) io: Option<IoMode>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notation::KEYS;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn call(words: &[&str]) -> Result<Call, clap::Error> {
        Call::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn serve(words: &[&str]) -> Serve {
        match call(words).unwrap() {
            Call::Serve(serve) => *serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_a_back_end_its_arguments_are_those_of_serve() {
        BackEnd::command().debug_assert();
        let plain = serve(&["lunette", "serve", "--socket-path", "/a,b"]);
        assert_eq!((plain.socket_paths, plain.is_back_end), (vec!["/a,b".into()], false));
        let back_end = serve(&["/usr/libexec/lunette-vhost-user-scsi", "--fd=7"]);
        assert_eq!((back_end.fds, back_end.is_back_end), (vec![7], true));
    }

    #[test]
    fn capabilities_are_printed_whatever_else_is_said() {
        for words in [
            &["lunette-vhost-user-scsi", "--print-capabilities"][..],
            &["lunette-vhost-user-scsi", "--fd=x", "--nonsense", "--print-capabilities"],
            &["lunette", "serve", "--print-capabilities", "--socket-path=/a", "--fd=3"],
        ] {
            assert!(matches!(call(words), Ok(Call::PrintCapabilities)), "{words:?}");
        }
        assert!(call(&["lunette", "--print-capabilities"]).is_err());
    }

    #[test]
    fn descriptors_and_paths_are_checked() {
        for (words, part) in [
            (&["--fd", "2"][..], "3.."),
            (&["--fd", "x"], "invalid digit"),
            (&["--fd", "3", "--socket-path", "/a"], "cannot be used with"),
            (&["--vhost-user", "/a,owner=no-such-user-here"], "there is no user"),
        ] {
            let error = call(&[&["lunette", "serve"], words].concat()).unwrap_err().to_string();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }

    #[test]
    fn the_control_socket_is_the_one_that_is_said_or_where_it_may_be() {
        let places = |words: &[&str], set: &[(&str, &str)]| {
            let Call::Client(ClientCall::Status(call)) =
                call(&[&["lunette", "status"], words].concat()).unwrap()
            else {
                panic!("{words:?}");
            };
            let value = |name: &str| set.iter().find(|(its, _)| *its == name).map(|(_, value)| value.into());
            call.control.places_with(value)
        };
        let both = [("LUNETTE_CONTROL", "/c"), ("LUNETTE_STATE_DIR", "/s")];
        assert_eq!(places(&["--control", "/a", "--state-dir", "/b"], &both), [Path::new("/a")]);
        assert_eq!(places(&["--state-dir", "/b"], &both), [Path::new("/b/control.sock")]);
        assert_eq!(places(&[], &both), [Path::new("/c")]);
        assert_eq!(places(&[], &both[1..]).len(), 1, "the state directory is said");
        let state = StateDir::default_path().join("control.sock");
        assert_eq!(places(&[], &[]), [state, "/run/lunette/control.sock".into()]);
    }

    #[test]
    fn help_tells_every_key_of_a_unit() {
        let serve = Cli::command().find_subcommand("serve").cloned().unwrap();
        let units = serve.get_arguments().find(|argument| argument.get_id() == "units").unwrap();
        let help = units.get_long_help().unwrap().to_string();
        for key in KEYS {
            assert!(help.contains(&format!(" {key}=")), "{key}: {help}");
        }
    }

    #[test]
    fn a_bad_unit_is_reported_with_its_reason() {
        let error =
            Cli::try_parse_from(["lunette", "serve", "--lu", "disk:/a,block=1"]).unwrap_err().to_string();
        assert!(error.contains("blocks have 512 or 4096 bytes"), "{error}");
    }
}
