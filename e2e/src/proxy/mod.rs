//! A TCP proxy between an initiator and its target, which makes trouble on a seeded schedule.
//!
//! It knows of iSCSI only where a PDU begins and ends and what its parts are, so that it can spoil a chosen part. What would
//! go unnoticed it leaves alone: bits are flipped and bytes are lost only where both digests are on.

mod pdu;
mod relay;
mod trouble;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::tools;
use relay::Relay;
pub use trouble::{Injury, Trouble};

/// The proxy's program, which is built beside the tests.
const PROGRAM: &str = "iscsi-proxy";

/// What the proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// They are relayed.
    Open,
    /// They are ended and new ones refused, as if the host were there and the target were not. To take them and end them at
    /// once would be worse than that: a session of open-iscsi whose connection ends while it is being set up never comes
    /// back (open-iscsi issue 387).
    Closed,
    /// They stay and nothing passes, as if a cable were pulled.
    Silent,
}

impl Gate {
    const ALL: [(Gate, &str); 3] = [(Gate::Open, "open"), (Gate::Closed, "close"), (Gate::Silent, "silence")];
}

/// A proxy that runs. It ends with the value, and with this process.
pub struct Proxy {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Proxy {
    /// Listens on `listen` in a network namespace, and connects to `target` for each connection that comes.
    pub fn start(netns: &Netns, listen: SocketAddr, target: SocketAddr, trouble: &Trouble) -> Result<Proxy> {
        let program = tools::profile_dir()?.join(PROGRAM);
        let program = program.to_str().context("the path of the proxy is not UTF-8")?;
        let mut process = netns
            .command(program)?
            .args([listen.to_string(), target.to_string(), trouble.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(process.stdout.take().context("stdout is piped")?);
        let mut proxy = Proxy { process, orders, answers };
        proxy.report().context("the proxy did not start")?;
        Ok(proxy)
    }

    /// Relays connections, as it does from the start.
    pub fn open(&mut self) -> Result<()> {
        self.order("open").map(drop)
    }

    /// Ends all connections and refuses new ones.
    pub fn close(&mut self) -> Result<()> {
        self.order("close").map(drop)
    }

    /// Lets nothing pass any more, though all connections stay and new ones are taken.
    pub fn silence(&mut self) -> Result<()> {
        self.order("silence").map(drop)
    }

    /// Makes no more trouble of its own.
    pub fn calm(&mut self) -> Result<()> {
        self.order("calm").map(drop)
    }

    /// How often it has done what: `connections`, `pdus`, `split`, `late`, and each injury by its name, followed by `out`
    /// if it was on the way to the target and by `in` if it was on the way to the initiator.
    pub fn report(&mut self) -> Result<BTreeMap<String, u64>> {
        let line = self.order("report")?;
        let counts = line.split_terminator(',').map(|count| {
            let (name, number) = count.split_once('=').context("a count is NAME=NUMBER")?;
            Ok((name.to_owned(), number.parse()?))
        });
        counts.collect()
    }

    /// Gives an order, and the answer to it.
    fn order(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").context("the proxy has ended")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer = line.trim_end_matches('\n').strip_prefix("ok ");
        Ok(answer.with_context(|| format!("the proxy answers {line:?} to {order:?}"))?.to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the proxy as its program does: arguments are what [`Proxy::start`] gives, orders come on standard input.
pub fn serve() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, trouble] = &arguments[..] else {
        anyhow::bail!("usage: {PROGRAM} LISTEN TARGET TROUBLE");
    };
    let relay = Relay::start(listen.parse()?, target.parse()?, trouble.parse()?)?;
    for order in std::io::stdin().lines() {
        let order = order?;
        let gate = Gate::ALL.iter().find(|(_, name)| *name == order);
        let answer = match gate {
            Some((gate, _)) => {
                relay.set(*gate)?;
                String::new()
            }
            None if order == "calm" => {
                relay.calm();
                String::new()
            }
            None => {
                ensure!(order == "report", "unknown order {order:?}");
                relay.report().iter().map(|(name, number)| format!("{name}={number},")).collect()
            }
        };
        println!("ok {answer}");
    }
    Ok(())
}
