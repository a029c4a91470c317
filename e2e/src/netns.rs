//! A network of the test's own.
//!
//! The namespace has no name: a process holds it, and it goes away with the last process inside.
//! That process waits on a pipe of ours, so it ends even when the test is killed.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::tools;

/// A network namespace with a loopback interface. Works as root and, where the kernel allows user
/// namespaces, without.
pub struct Netns {
    holder: Child,
}

impl Netns {
    /// Makes the namespace.
    pub fn new() -> Result<Netns> {
        tools::need(["nsenter", "ip"])?;
        let mut unshare = tools::command("unshare")?;
        if !is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let mut holder = unshare
            .args(["--net", "sh", "-c", "echo && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot make a network namespace")?;
        let mut line = [0];
        let stdout = holder.stdout.as_mut().context("stdout is piped")?;
        std::io::Read::read_exact(stdout, &mut line)
            .context("no network namespace: it takes root, or user namespaces")?;
        let netns = Netns { holder };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Makes the namespace with a tap interface that has `address` (such as `192.0.2.1/24`).
    pub fn with_tap(name: &str, address: &str) -> Result<Netns> {
        let netns = Netns::new()?;
        netns.ip(&format!("tuntap add {name} mode tap"))?;
        netns.ip(&format!("address add {address} dev {name}"))?;
        netns.ip(&format!("link set {name} up"))?;
        Ok(netns)
    }

    /// A command that runs a program of the host inside. Its process is the program itself.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = tools::command("nsenter")?;
        command.arg(format!("--target={}", self.holder.id()));
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--net", "--"]).arg(tools::program(program)?);
        Ok(command)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let mut ip = self.command("ip")?;
        tools::run(ip.args(arguments.split(' ')), tools::LIMIT)?.ok()?;
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_interfaces_are_inside() {
        let netns = Netns::with_tap("tap0", "192.0.2.1/24").unwrap();
        let mut ip = netns.command("ip").unwrap();
        let said = tools::run(ip.args(["-brief", "address"]), tools::LIMIT).unwrap();
        let said = said.ok().unwrap().stdout;
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("192.0.2.1/24"), "{said}");
    }
}
