//! What the log says of logins. In a process of its own, whose log is its own.

#[path = "suite/client.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod client;
mod log;
#[path = "suite/rig.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod rig;

use client::{Client, TARGET, settings};
use lunette_iscsi::chap::{Accounts, Algorithm, Credentials, InitiatorChap, Secret};
use lunette_iscsi::initiator::Settings;
use lunette_iscsi::target::SessionType;
use lunette_transport_iscsi::{AccessControl, AccessRule, ChapPolicy, EntityOptions, TargetOptions};
use rig::Rig;
use std::sync::Arc;

const SECRET: &str = "correct horse battery";

struct Ada(Secret);

impl Accounts for Ada {
    fn secret(&self, name: &str) -> Option<&Secret> {
        (name == "ada").then_some(&self.0)
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

fn proving(name: &str, text: &str, offer: &[Algorithm]) -> Settings {
    let own = Credentials { name: name.to_owned(), secret: secret(text) };
    Settings { chap: Some(InitiatorChap::new(offer.to_vec(), own, None)), ..settings(1) }
}

#[test]
fn the_log_says_who_was_refused_where_and_why_but_no_secret() {
    let log = log::listen();
    let chap = ChapPolicy {
        algorithms: vec![Algorithm::Sha256],
        accounts: Arc::new(Ada(secret(SECRET))),
        own: Some(Credentials { name: "disk".to_owned(), secret: secret("what the disk knows") }),
    };
    let rules = vec![
        AccessRule { initiators: vec!["iqn.x".parse().unwrap()], ..AccessRule::default() },
        AccessRule {
            initiators: vec!["*:initiator1".parse().unwrap()],
            chap: Some(chap),
            ..AccessRule::default()
        },
        AccessRule {
            initiators: vec!["*:initiator2".parse().unwrap()],
            addresses: vec!["192.0.2.0/24".parse().unwrap()],
            ..AccessRule::default()
        },
    ];
    let target =
        TargetOptions { access: AccessControl { rules }, ..rig::target(TARGET, &[1], &rig::disk(1, None)) };
    let mut rig = Rig::serving(EntityOptions::default(), target, 1);
    let try_one = |settings| {
        let mut client = Client::connect(rig.address(), settings);
        while !client.logged_in {
            client.send();
            if client.receive().is_err() {
                break;
            }
        }
        drop(client);
        rig.wait_for_connections(0);
        log.try_iter().filter(|line| line.contains("iSCSI login")).collect::<String>()
    };
    let strong = [Algorithm::Sha256];
    let elsewhere = Settings { target_name: "iqn.2026-11.dev.lunette:none".to_owned(), ..settings(1) };
    let discovery =
        Settings { session_type: SessionType::Discovery, target_name: String::new(), ..settings(1) };
    let mut all = String::new();
    for (settings, expected) in [
        (proving("ada", SECRET, &strong), &["session=1", "rule=2", "account=\"ada\""][..]),
        (proving("ada", "wrong horse battery", &strong), &["rule=2", "the secret is wrong"]),
        (proving("eve", SECRET, &strong), &["rule=2", "there is no account of this name"]),
        (proving("ada", SECRET, &[Algorithm::Md5]), &["rule=2", "none of the initiator's CHAP algorithms"]),
        (settings(1), &["rule=2", "none of the methods that are asked for"]),
        (
            settings(2),
            &["initiator2", "the access rules that have the initiator's name do not have its address"],
        ),
        (settings(3), &["initiator3", "no access rule has the initiator's name"]),
        (elsewhere, &["lunette:none", "there is no such target"]),
        (discovery, &["discovery=true"]),
    ] {
        let line = try_one(settings);
        let always = ["initiator=\"iqn.2024-01.example:", "address=127.0.0.1:", "target_name=", "discovery="];
        for part in always.iter().chain(expected) {
            assert!(line.contains(part), "no {part} in {line}");
        }
        all += &line;
    }
    assert!(!all.contains("horse") && !all.contains("what the disk knows"), "{all}");
    assert!(rig.stop());
}
