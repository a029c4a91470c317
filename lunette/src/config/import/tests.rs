//! Configurations as they are in use, and what is made of them.

use super::*;
use crate::config::document::Model;
use crate::config::load::from_text;
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
    assert_eq!(names, ["backup", "backup-2", "looker", "userA"]);
    assert_eq!(std::fs::read_to_string(secrets.join("backup-2")).unwrap(), "secretpass12");
    // Once more changes nothing; another secret is not overwritten.
    import(&path, Some(&secrets)).unwrap();
    std::fs::write(secrets.join("backup"), "somebody else's").unwrap();
    assert!(import(&path, Some(&secrets)).unwrap_err().to_string().contains("cannot write"));
    let (printed, _) = import(&path, None).unwrap();
    assert!(printed.starts_with("# chap/backup: put the secret there"), "{printed}");
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
