//! Random models that hold together.

use super::*;
use crate::config::ExportKnownBy;
use crate::config::Unit;
use crate::config::check::check;
use crate::config::daemon::{Confine, Daemon, IoMode, PollMode, VhostUser};
use crate::config::iscsi::{
    Access, Account, Chap, Digest, Discovery, Limits, Luns, Parameters, PortGroup, Portal, Redirect, Target,
    Times,
};
use crate::config::report::Severity;
use crate::config::secret::SecretSource;
use crate::config::throttle::{Each, Throttle};
use crate::config::unit::{BlockLength, KnownBy, UnitLun, Version};
use crate::config::values::{Bytes, Lun, Place};
use crate::log::LogLevel;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use std::str::FromStr;
use std::sync::Arc;

fn one<T: FromStr<Err: std::fmt::Debug> + Clone + std::fmt::Debug + 'static>(
    texts: &'static [&'static str],
) -> impl Strategy<Value = T> {
    select(texts).prop_map(|text| text.parse().unwrap())
}

fn maybe<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, strategy)
}

fn some<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(strategy, 0..3)
}

const NAMES: &[&str] = &["a", "b", "c", "d e", "\"quoted\\", "#"];
const ACCESSES: &[&str] = &["1:standby", "2:optimized:preferred+65534:unavailable"];

prop_compose! {
    fn unit()(
        name in one(NAMES),
        store in one(&["/a", "/b", "/c\n", "/d:e", "ram:4K", "ram:1M", "./x:y", "relative"]),
        (read_only, direct, removable, migratable) in any::<(bool, bool, bool, bool)>(),
        (inline, rotational) in (maybe(any::<bool>()), maybe(any::<bool>())),
        size in maybe((1..=u64::MAX).prop_map(Bytes)),
        block in select(vec![512, 4096]),
        serial in maybe(one(&["x", "y", "z"])),
        wwn in maybe(one(&["naa.3000000000000001", "naa.60014050000000000000000000000002"])),
        (spc3, by_file) in any::<(bool, bool)>(),
        pace in maybe(any::<u64>().prop_map(Bytes)),
        atomic in maybe((1..=u64::from(u32::MAX)).prop_map(Bytes)),
        waiting in maybe(any::<u16>()),
        stuck_after in maybe(any::<std::num::NonZeroU16>()),
        queues in maybe(one(&["0", "0-3", "1+4-5+2"])),
        filter in maybe(one(&["deny:unmap", "allow:read+inquiry+9e/10"])),
        access in maybe(one(ACCESSES)),
        target in 0..2u8,
        lun in maybe((0..3u32).prop_map(UnitLun)),
        fault in maybe(one(&["eio:5", "delay:3"])),
    ) -> Unit {
        Unit {
            name, store, read_only, removable, rotational, block: BlockLength(block), serial, wwn, pace, atomic, waiting,
            stuck_after, queues, filter, access, target, lun, migratable, fault,
            version: if spc3 { Version::Spc3 } else { Version::Spc4 },
            known_by: if by_file { KnownBy::File } else { KnownBy::Name },
            ..Unit { size, direct, inline, ..Unit::new("ram:1M".parse().unwrap()) }
        }
    }
}

fn group() -> impl Strategy<Value = PortGroup> {
    (1..3u16).prop_map(PortGroup)
}

prop_compose! {
    fn portal()(
        listen in one(&["127.0.0.1:3260", "0.0.0.0:3260", "[::1]:3260", "[::]:0", "192.0.2.1:1"]),
        group in group(),
        advertise in some(one(&["198.51.100.1:3260"])),
    ) -> Portal {
        Portal { listen, group, advertise }
    }
}

fn luns() -> impl Strategy<Value = Luns> {
    proptest::collection::btree_map((0..6u32).prop_map(Lun), one(NAMES), 0..6)
}

fn account() -> impl Strategy<Value = Account> {
    let file = one(&["/chap/a", "/chap/\u{fc}"]).prop_map(SecretSource::File);
    let credential = one(&["chap-a"]).prop_map(SecretSource::Credential);
    (one(&["x", "y z"]), prop_oneof![file, credential]).prop_map(|(name, secret)| Account { name, secret })
}

prop_compose! {
    fn chap()(
        algorithms in subsequence(vec!["sha3-256", "sha256", "sha1", "md5"], 0..4),
        accounts in proptest::collection::vec(account(), 1..3),
        target in maybe(account()),
        short_secrets in any::<bool>(),
    ) -> Chap {
        Chap { algorithms: algorithms.iter().map(|name| name.parse().unwrap()).collect(), accounts, target, short_secrets }
    }
}

prop_compose! {
    fn rule()(
        initiators in some(one(&["iqn.2026-11.org.example:*", "iqn.1993-08.org.debian:01:a?"])),
        addresses in some(one(&["192.0.2.0/24", "2001:db8::/64"])),
        units in maybe(luns()),
        chap in maybe(chap()),
    ) -> Access {
        Access { initiators, addresses, units, chap }
    }
}

prop_compose! {
    fn parameters()(
        header_digest in maybe(select(vec![Digest::Forbid, Digest::Allow, Digest::Require])),
        data_digest in maybe(select(vec![Digest::Forbid, Digest::Require])),
        (initial_r2t, immediate_data) in (maybe(any::<bool>()), maybe(any::<bool>())),
        lengths in proptest::array::uniform3(maybe((512..1u64 << 24).prop_map(Bytes))),
        max_outstanding_r2t in maybe(1..=65535u32),
        command_window in maybe(1..=4096u16),
    ) -> Parameters {
        let [max_recv_data_segment_length, max_burst_length, first_burst_length] = lengths;
        Parameters {
            header_digest, data_digest, initial_r2t, immediate_data, max_outstanding_r2t, command_window,
            max_recv_data_segment_length, max_burst_length, first_burst_length,
        }
    }
}

prop_compose! {
    fn target()(
        name in one(&["iqn.2026-11.org.example:a", "iqn.2026-11.org.example:b", "naa.3000000000000001"]),
        alias in select(vec!["", "disks \u{1f4bf} 'of' \"a\"\\"]),
        groups in proptest::collection::btree_set(group(), 0..2),
        units in maybe(luns()),
        redirect in maybe((one(&["192.0.2.9:3260"]), any::<bool>())),
        parameters in parameters(),
        access in some(rule()),
    ) -> Target {
        let redirect = redirect.map(|(address, permanent)| Redirect { address, permanent });
        Target { name, alias: alias.into(), groups, units, redirect, parameters, access }
    }
}

prop_compose! {
    fn export()(
        name in one(&["vm1", "vm2", "vm\u{e4}"]),
        socket in one(&["/run/1", "/run/2", "/run/3"]),
        mode in maybe(one(&["0660", "7"])),
        (owner, group_) in (maybe(one(&["root", "1000"])), maybe(one(&["kvm"]))),
        (client, port_group, by_name) in (any::<bool>(), group(), any::<bool>()),
        units in maybe(proptest::collection::btree_map((0..2u8, 0..4u32), one(NAMES), 0..6)),
    ) -> VhostUser {
        let places = |units: std::collections::BTreeMap<(u8, u32), _>| {
            units.into_iter().map(|((target, lun), name)| (Place { target, lun }, name)).collect()
        };
        let known_by = if by_name { ExportKnownBy::Name } else { ExportKnownBy::Socket };
        let (mode, group) = if client { (None, None) } else { (mode, group_) };
        let units = units.map(places);
        VhostUser { name, socket, client, mode, owner, group, port_group, known_by, units }
    }
}

prop_compose! {
    fn throttle()(
        name in one(&["gold", "silver"]),
        rates in (maybe(1..9u64), maybe(1..9u64), maybe(1..9u64), maybe(1..9u64)),
        units in some(one(NAMES)),
        initiators in some(one(&["iqn.2026-11.org.example:*"])),
        exports in some(one(&["vm1", "vm2"])),
        each in maybe(select(vec![Each::Unit, Each::Initiator])),
    ) -> Throttle {
        let number = |number: Option<u64>| number.and_then(std::num::NonZeroU64::new);
        Throttle {
            name, iops: number(rates.0), iops_burst: number(rates.1), bandwidth: rates.2.map(Bytes),
            bandwidth_burst: rates.3.map(Bytes), units, initiators, exports, each,
        }
    }
}

prop_compose! {
    fn daemon()(
        (state_dir, control) in (maybe(one(&["/s", "/t"])), maybe(one(&["/run/1", "/run/c"]))),
        groups in (some(one(&["adm"])), some(one(&["4"]))),
        control_clients in maybe((1..=4096u16).prop_map(|clients| std::num::NonZeroU16::new(clients).unwrap())),
        metrics in maybe(one(&["127.0.0.1:9260", "[::1]:1", "/run/m"])),
        allowed_paths in some(one(&["/", "/srv"])),
        reactors in maybe(any::<u16>()),
        poll in maybe(select(vec![PollMode::Adaptive, PollMode::Always, PollMode::Never])),
        io in maybe(select(vec![IoMode::Auto, IoMode::Epoll])),
        (pin_memory, save_changes) in any::<(bool, bool)>(),
        (confine, user, group) in (
            maybe(select(vec![Confine::On, Confine::Log, Confine::Off])),
            maybe(one(&["root"])),
            maybe(one(&["0"])),
        ),
        log_level in maybe(select(vec![LogLevel::Warn, LogLevel::Trace])),
    ) -> Daemon {
        Daemon {
            state_dir,
            control,
            control_admin_groups: groups.0,
            control_read_groups: groups.1,
            control_clients, metrics, log_level, allowed_paths, reactors, poll, io, pin_memory, confine, user, group, save_changes,
        }
    }
}

prop_compose! {
    fn settings()(
        addresses in some(one(&["192.0.2.0/24"])),
        discovery_addresses in some(one(&["2001:db8::/32"])),
        chap in maybe(chap()),
        numbers in proptest::collection::vec(maybe(1..u16::MAX), 11),
        stop in maybe(1..=20u16),
    ) -> Document {
        let number = |index: usize| numbers[index].and_then(|number| std::num::NonZeroU32::new(number.into()));
        let time = |index: usize| numbers[index].and_then(std::num::NonZeroU16::new);
        Document {
            addresses,
            discovery: Discovery { addresses: discovery_addresses, chap },
            limits: Limits {
                connections: number(0), logins: number(1), logins_of_address: number(2), login_burst: number(3),
                login_rate: number(4), failure_weight: numbers[5].map(u32::from), sessions_of_initiator: number(6),
            },
            times: Times {
                login: time(7), idle: time(8), silence: time(9), stop: stop.and_then(std::num::NonZeroU16::new),
            },
            ..Document::default()
        }
    }
}

/// Whether it holds together, with what else there may be.
pub(super) fn holds(document: &Document) -> bool {
    let setting = Setting { is_whole: false, ..UNKNOWN };
    check(document, setting).iter().all(|issue| issue.severity == Severity::Warning)
}

/// Keeps what goes with what is there already.
fn add<T: Clone>(document: &mut Document, list: fn(&mut Document) -> &mut Vec<T>, more: Vec<T>) {
    for one in more {
        list(document).push(one);
        if !holds(document) {
            list(document).pop();
        }
    }
}

prop_compose! {
    /// A model. What it names is there.
    pub(super) fn models()(
        settings in settings(),
        daemon in daemon(),
        units in proptest::collection::vec(unit(), 0..6),
        portals in some(portal()),
        mut targets in proptest::collection::vec(target(), 0..3),
        mut exports in proptest::collection::vec(export(), 0..4),
        throttles in proptest::collection::vec(throttle(), 0..4),
        choice in any::<Index>(),
    ) -> Model {
        let mut document = Document { daemon, ..settings };
        if !holds(&document) {
            document.discovery.chap = None;
        }
        add(&mut document, |document| &mut document.units, units.into_iter().map(Arc::new).collect());
        add(&mut document, |document| &mut document.portals, portals);
        let names: Vec<_> = document.units.iter().map(|unit| unit.name.clone()).collect();
        let mend = |name: &mut crate::config::values::Name| {
            if !names.is_empty() && !names.contains(name) {
                *name = choice.get(&names).clone();
            }
        };
        for target in &mut targets {
            let rules = target.access.iter_mut().filter_map(|rule| rule.units.as_mut());
            target.units.iter_mut().chain(rules).flat_map(|units| units.values_mut()).for_each(mend);
        }
        exports.iter_mut().filter_map(|export| export.units.as_mut()).flat_map(|units| units.values_mut()).for_each(mend);
        add(&mut document, |document| &mut document.targets, targets);
        add(&mut document, |document| &mut document.vhost_user, exports);
        add(&mut document, |document| &mut document.throttles, throttles);
        Model::from(document)
    }
}
