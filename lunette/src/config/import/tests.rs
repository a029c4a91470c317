//! Configurations as they are in use, and what is made of them.

use super::*;
use crate::config::document::Model;
use crate::config::load::from_text;
use crate::config::values::Lun;
use std::os::unix::fs::PermissionsExt;

const TGT: &str = include_str!("tests/targets.conf");
const LIO: &str = include_str!("tests/saveconfig.json");

fn imported(text: &str) -> (String, String) {
    let import = understand(Path::new("/etc/x.conf"), text, DIRECTORY.into())
        .unwrap_or_else(|error| panic!("{error:#}"));
    (document_to_toml(&import.document).unwrap(), import.told(Path::new("x")))
}

/// It can be used.
fn model(text: &str) -> Model {
    let setting =
        Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: false, is_whole: true };
    from_text(Path::new("/etc/lunette/lunette.toml"), text.to_owned(), setting)
        .unwrap_or_else(|report| panic!("{report}"))
        .0
}

fn matches(kind: &str, text: &str) {
    let (printed, told) = imported(text);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/import/tests");
    for (ending, said) in [("toml", &printed), ("lost", &told)] {
        let path = root.join(format!("{kind}.{ending}"));
        if std::env::var_os("LUNETTE_TEST_BLESS").is_some() {
            std::fs::write(&path, said).unwrap();
        }
        assert_eq!(
            *said,
            std::fs::read_to_string(&path).unwrap(),
            "{kind}.{ending}: LUNETTE_TEST_BLESS=1 writes it"
        );
    }
    model(&printed);
    assert!(!printed.contains("secretpass") && !told.contains("secretpass"));
}

#[test]
fn tgt_configurations_are_taken_over() {
    matches("tgt", TGT);
}

#[test]
fn lio_configurations_are_taken_over() {
    matches("lio", LIO);
}

#[test]
fn identities_are_those_that_initiators_know() {
    let wwn = |naa: Option<Text<Naa>>| naa.unwrap().to_string();
    // As seen from tgtd 1.0.85.
    assert_eq!(wwn(naa_of_tgt("IET     00010001")), "naa.60000000000000000e00000000010001");
    assert_eq!(wwn(naa_of_tgt("naa.5000c500a1b2c3d4")), "naa.6000000000000aa05000c500a1b2c3d4");
    assert!(naa_of_tgt(&"1".repeat(32)).is_none());
    // 001405h and the first 25 digits of the serial number.
    assert_eq!(
        wwn(naa_of_lio("4e28d341-9390-438c-8a9d-fab978375200")),
        "naa.60014054e28d3419390438c8a9dfab97"
    );
    assert_eq!(wwn(naa_of_lio("xyz-1")), "naa.60014051000000000000000000000000");
}

#[test]
fn secrets_are_written_for_the_daemon_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (path, secrets) = (directory.path().join("targets.conf"), directory.path().join("chap"));
    std::fs::write(&path, TGT).unwrap();
    let (printed, _) = import(&path, Some(&secrets)).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&secrets).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(printed.contains(entry.path().to_str().unwrap()));
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    // To tgt an account has one secret, the first. One that is not known is not written.
    assert_eq!(names, ["backup", "looker", "userA"]);
    assert_eq!(std::fs::read_to_string(secrets.join("backup")).unwrap(), "secretpass99");
    assert!(printed.starts_with(&format!("# {}: put the secret there", secrets.join("left").display())));
    // Once more changes nothing; another secret is not overwritten.
    import(&path, Some(&secrets)).unwrap();
    std::fs::write(secrets.join("backup"), "somebody else's").unwrap();
    assert!(import(&path, Some(&secrets)).unwrap_err().to_string().contains("cannot write"));
    let (printed, _) = import(&path, None).unwrap();
    assert!(printed.starts_with("# chap/backup: put the secret there"), "{printed}");
}

#[test]
fn neither_secrets_at_misspelt_keys_nor_what_steers_terminals_is_told() {
    let target = "<target iqn.2026-11.org.example:a>\n";
    let (_, told) = imported(&format!(
        "{target}IncomingUser joe secretpass12\npassword secretpass12\nodd\u{1b}[2J 1\nMaxConnections 8\n</target>"
    ));
    assert!(told.contains("`IncomingUser` has nothing") && told.contains("not with 8"), "{told}");
    assert!(!told.contains("secretpass") && !told.contains('\u{1b}'), "{told}");
    let (_, told) = imported(
        r#"{"targets":[{"fabric":"iscsi","wwn":"iqn.2026-11.org.example:a","tpgs":[{"tag":1,
        "attributes":{"generate_node_acls":1,"demo_mode_write_protect":0},"parameters":{"chap_passwd":"secretpass12"}}]}]}"#,
    );
    assert!(told.contains("`chap_passwd`") && !told.contains("secretpass"), "{told}");
}

#[test]
fn many_units_have_names_and_numbers_of_their_own() {
    let stores: String = (0..5000).map(|number| format!("backing-store /srv/{number:04}/disk\n")).collect();
    let text = format!(
        "<target iqn.2026-11.org.example:a>\n<backing-store /first>\nlun 2\n</backing-store>\n{stores}</target>"
    );
    let import = understand(Path::new("/etc/x.conf"), &text, DIRECTORY.into()).unwrap();
    let luns = import.document.targets[0].units.as_ref().unwrap();
    let at = |lun| luns[&Lun(lun)].to_string();
    assert_eq!([at(1), at(2), at(3), at(5001)], ["disk", "first", "disk-2", "disk-5000"]);
    assert_eq!(import.document.units.len(), 5001);
}

#[test]
fn nobody_is_let_in_who_was_not() {
    for (text, part) in [
        (
            "<target iqn.2026-11.org.example:a>\ninitiator-address db.example.org\nbacking-store /a\n</target>",
            "more would be let in",
        ),
        (
            "<target iqn.2026-11.org.example:a>\nincominguser lonely\nbacking-store /a\n</target>",
            "more would be let in",
        ),
        (
            r#"{"targets":[{"fabric":"iscsi","wwn":"iqn.2026-11.org.example:a","tpgs":[{"tag":1}]}]}"#,
            "nobody may log in to it",
        ),
        (
            r#"{"targets":[{"fabric":"iscsi","wwn":"iqn.2026-11.org.example:a","tpgs":[{"tag":1,"attributes":{"generate_node_acls":1}}]}]}"#,
            "others may only read",
        ),
    ] {
        let (printed, told) = imported(text);
        assert!(!printed.contains("[[target]]") && told.contains(part), "{printed}{told}");
    }
}

/// The access rules of a LIO target with these initiators and attributes.
fn rules_of_lio(acls: &str, attributes: &str) -> (String, String) {
    let (printed, told) = imported(&format!(
        r#"{{"storage_objects":[{{"plugin":"fileio","name":"d","dev":"/d","size":4096,"wwn":"a"}}],
        "targets":[{{"fabric":"iscsi","wwn":"iqn.2026-11.org.example:a","tpgs":[{{"tag":1,
        "luns":[{{"index":0,"storage_object":"/backstores/fileio/d"}}],"node_acls":[{acls}],
        "chap_userid":"group","chap_password":"secretpass00","attributes":{{{attributes}}}}}]}}]}}"#
    ));
    let rules = printed.find("[[target.access]]").map_or("", |at| &printed[at..]);
    (rules.replace("[[target.access]]\n", "").replace("\n\n", "\n"), told)
}

#[test]
fn initiators_of_lio_prove_what_they_had_to_prove() {
    let acl = |name: &str, more: &str| format!(r#"{{"node_wwn":"iqn.2026-11.org.example:{name}"{more}}}"#);
    let secret = r#","chap_userid":"me","chap_password":"secretpass11""#;
    let own = |proof: i8| format!(r#","attributes":{{"authentication":{proof}}}"#);
    let (seen, proof) =
        ("units = { }", r#"chap = { accounts = [{ name = "me", secret = { file = "chap/me" } }] }"#);
    let rule = |name: &str| format!("initiators = [\"iqn.2026-11.org.example:{name}\"]\n{seen}\n");
    let demo = r#""generate_node_acls":1,"demo_mode_write_protect":0"#;
    for (acls, attributes, expected) in [
        // The initiator's own attribute counts, also against the group's.
        (
            acl("on", &format!("{secret}{}", own(1))),
            r#""authentication":0"#,
            format!("{}{proof}\n", rule("on")),
        ),
        (acl("off", &own(0)), r#""authentication":1"#, rule("off")),
        (acl("as", &own(-1)), r#""authentication":0"#, rule("as")),
        // The group's secrets are not those of initiators that are named.
        (acl("none", &own(-1)), r#""authentication":1"#, String::new()),
        // Who has no secret does not come in among all others.
        (acl("none", &own(1)), demo, rule("none")),
        // No pattern.
        (acl("*", ""), r#""authentication":0"#, String::new()),
    ] {
        let (rules, told) = rules_of_lio(&acls, attributes);
        assert_eq!(rules, expected, "{acls} {attributes}: {told}");
        assert_eq!(told.contains("left out"), expected.is_empty() || acls.contains("none"), "{told}");
    }
}

#[test]
fn what_is_nothing_of_that_is_refused() {
    for text in ["{", "{\"targets\": 1, ", "<target", "</target>", "<target a>\n"] {
        if let Ok(import) = understand(Path::new("/x"), text, DIRECTORY.into()) {
            assert!(import.document.targets.is_empty(), "{text}");
        }
    }
    let deep = "[".repeat(100_000);
    assert!(understand(Path::new("/x"), &format!("{{\"targets\": {deep}"), DIRECTORY.into()).is_err());
}
