use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A directory with secrets `a` and `b`, and `copy`, which is the same as `a`.
fn secrets() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, secret) in
        [("a", "a's own secret"), ("b", "b's own secret"), ("copy", "a's own secret"), ("short", "x")]
    {
        let path = directory.path().join(name);
        fs::write(&path, secret).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    directory
}

fn read(directory: &TempDir, text: &str) -> Result<Plan> {
    let path = directory.path().join("iscsi.toml");
    let text = if text.contains("[[target]]") { text.to_owned() } else { format!("{text}{TARGET}") };
    fs::write(&path, text).unwrap();
    let unit = |name: &str, target, lun| (name.to_owned(), Address { target, lun });
    Plan::read(&path, &Names::from([unit("one", 0, 0), unit("two", 0, 1), unit("far", 3, 0)]), true)
}

fn refusal(text: &str) -> String {
    let error = read(&secrets(), text).err().unwrap_or_else(|| panic!("{text} is taken"));
    format!("{error:#}")
}

const TARGET: &str = "[[target]]\nname = \"iqn.2026-11.dev.lunette:a\"\n";

#[test]
fn a_target_is_open_and_shows_everything_if_nothing_else_is_said() {
    let plan = read(&secrets(), TARGET).unwrap();
    let target = &plan.targets[0];
    assert!(target.access.is_empty() && target.groups.is_empty() && target.luns.is_none());
    assert_eq!(target.settings.parameters, Settings::default().parameters);
    assert!(plan.shows(&Address { target: 0, lun: 1 }));
    assert!(!plan.shows(&Address { target: 3, lun: 0 }));
    assert!(plan.portals.is_empty() && plan.options.discovery.chap.is_none());
}

#[test]
fn units_are_found_by_their_names() {
    let plan = read(&secrets(), &format!("{TARGET}units = {{ 0 = \"far\", 7 = \"one\" }}\n")).unwrap();
    let (far, one, two) =
        (Address { target: 3, lun: 0 }, Address { target: 0, lun: 0 }, Address { target: 0, lun: 1 });
    assert_eq!(plan.targets[0].luns, Some(Luns::from([(0, far), (7, one)])));
    assert!(plan.shows(&far) && plan.shows(&one) && !plan.shows(&two));
    let rule = format!("{TARGET}units = {{}}\n[[target.access]]\nunits = {{ 3 = \"two\" }}\n");
    let plan = read(&secrets(), &rule).unwrap();
    assert!(plan.shows(&two) && !plan.shows(&one));
}

#[test]
fn parameters_are_those_of_the_standard() {
    let text = format!(
        "{TARGET}[target.parameters]\nheader-digest = \"require\"\ndata-digest = \"forbid\"\ninitial-r2t = true\n\
         immediate-data = false\nfirst-burst-length = 4096\nmax-burst-length = \"2M\"\n\
         max-recv-data-segment-length = \"64K\"\nmax-outstanding-r2t = 1\ncommand-window = 32\n"
    );
    let Settings { parameters, required_digests, command_window, .. } =
        read(&secrets(), &text).unwrap().targets[0].settings;
    assert!(parameters.header_digest && required_digests.header);
    assert!(!parameters.data_digest && !required_digests.data);
    assert!(parameters.initial_r2t && !parameters.immediate_data);
    assert_eq!((parameters.first_burst_length, parameters.max_burst_length), (4096, 2 << 20));
    assert_eq!((parameters.max_recv_data_segment_length, parameters.max_outstanding_r2t), (64 << 10, 1));
    assert_eq!(command_window, 32);
    for (line, part) in [
        ("first-burst-length = 511", "512 to 16777215"),
        ("max-burst-length = \"16M\"", "512 to 16777215"),
        ("max-burst-length = \"many\"", "`many` is not a size"),
        ("max-burst-length = true", "a length is a number of bytes"),
        ("max-outstanding-r2t = 0", "1 to 65535"),
        ("command-window = 5000", "1 to 4096"),
        ("data-digest = \"none\"", "`forbid`"),
        ("max-connections = 2", "unknown field `max-connections`"),
    ] {
        let error = refusal(&format!("{TARGET}[target.parameters]\n{line}\n"));
        assert!(error.contains(part) && error.contains("iscsi.toml:4:"), "{line}: {error}");
    }
}

#[test]
fn portals_tell_what_they_advertise() {
    let portals = "[[portal]]\nlisten = \"0.0.0.0:3260\"\nadvertise = [\"198.51.100.1:3260\"]\n\
                   [[portal]]\nlisten = \"[::1]:3261\"\ngroup = 2\n\
                   [[portal]]\nlisten = \"0.0.0.0:3262\"\n";
    let plan = read(&secrets(), portals).unwrap();
    let told = "198.51.100.1:3260".parse().unwrap();
    let expected =
        [("0.0.0.0:3260", 1, vec![told]), ("[::1]:3261", 2, Vec::new()), ("0.0.0.0:3262", 1, Vec::new())];
    assert_eq!(plan.portals.len(), expected.len());
    for (portal, (listen, group_tag, advertised)) in plan.portals.iter().zip(expected) {
        assert_eq!(portal.listen.to_string(), listen);
        assert_eq!(portal.options, PortalOptions { group_tag, advertised });
    }
    for (line, part) in [
        ("listen = \"localhost\"", "`localhost`"),
        ("listen = \"127.0.0.1:1\"\ngroup = 0", "1 to 65534"),
        ("listen = \"127.0.0.1:1\"\nadvertise = [\"x\"]", "`x`"),
        ("group = 1", "missing field `listen`"),
    ] {
        let error = refusal(&format!("[[portal]]\n{line}\n"));
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn accounts_have_their_secrets() {
    let chap = "[discovery]\nchap = { accounts = [{ name = \"x\", secret = { file = \"a\" } }], \
                target = { name = \"t\", secret = { file = \"b\" } }, algorithms = [\"sha256\", \"md5\"] }\n";
    let plan = read(&secrets(), chap).unwrap();
    let chap = plan.options.discovery.chap.as_ref().unwrap();
    assert!(chap.accounts.secret("x").is_some() && chap.accounts.secret("y").is_none());
    assert_eq!(chap.own.as_ref().unwrap().name, "t");
    let names: Vec<_> = chap.algorithms.iter().map(|algorithm| algorithm.name()).collect();
    assert_eq!(names, ["sha256", "md5"]);
}

#[test]
fn what_proves_nothing_is_refused() {
    let a = "{ name = \"x\", secret = { file = \"a\" } }";
    let copy = a.replace("\"a\"", "\"copy\"");
    for (chap, part) in [
        ("accounts = []".to_owned(), "without accounts"),
        (format!("accounts = [{a}], algorithms = []"), "the list is empty"),
        (format!("accounts = [{a}], algorithms = [\"md4\"]"), "sha3-256, sha256, sha1 and md5"),
        (format!("accounts = [{a}, {a}]"), "two accounts of the name `x`"),
        (format!("accounts = [{a}], target = {copy}"), "RFC 7143 9.2.1"),
        (format!("accounts = [{}]", a.replace("\"x\"", "\"\"")), "1 to 255 bytes"),
        (format!("accounts = [{}]", a.replace("\"a\"", "\"short\"")), "has 1 bytes"),
        (format!("accounts = [{}]", a.replace("{ file = \"a\" }", "\"topsecret\"")), "a secret is written"),
        (format!("accounts = [{}]", a.replace("file =", "fle =")), "a secret is written"),
    ] {
        let error = refusal(&format!("[discovery]\nchap = {{ {chap} }}\n"));
        assert!(error.contains(part) && error.contains("iscsi.toml:2:"), "{chap}: {error}");
        assert!(!error.contains("topsecret") && !error.contains("own secret"), "{error}");
    }
    let short = a.replace("\"a\"", "\"short\"");
    read(&secrets(), &format!("[discovery]\nchap = {{ accounts = [{short}], short-secrets = true }}\n"))
        .unwrap();
}

#[test]
fn unknown_words_are_told() {
    for (text, part) in [
        ("[[targets]]\nname = 1\n", "unknown field `targets`"),
        ("[[target]]\n", "missing field `name`"),
        ("[[target]]\nname = \"disks\"\n", "`disks` is not an iSCSI name"),
        ("[discovery]\ninitiators = [\"iqn.2026-11.a:*\"]\n", "unknown field `initiators`"),
        ("[discovery]\nunits = { 0 = \"one\" }\n", "unknown field `units`"),
        ("[[target]]\nname = \"iqn.2026-11.a:b\"\nalias = \"a\\nb\"\n", "control characters"),
    ] {
        let error = refusal(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let rule = "[[target.access]]\n";
    for (text, line, part) in [
        (format!("{TARGET}{TARGET}"), 4, "two targets of the name iqn.2026-11.dev.lunette:a"),
        (format!("{TARGET}groups = [1, 2]\n"), 3, "no portal belongs to the portal group 2"),
        (format!("{TARGET}groups = []\n"), 3, "without portal groups"),
        (format!("{TARGET}{rule}initiators = []\n"), 4, "the list is empty"),
        (format!("addresses = []\n{TARGET}"), 1, "the list is empty"),
        (format!("{TARGET}{rule}initiators = [\"db*\"]\n"), 4, "`db*`"),
        (format!("{TARGET}{rule}{rule}addresses = [\"192.0.2.1\"]\n"), 4, "never counts"),
        (format!("[times]\nstop = 21\n{TARGET}"), 2, "at most 20s"),
        (TARGET.replace("lunette:a", "lunette:a_b"), 2, "is not an iSCSI name"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(part) && error.contains(&format!("iscsi.toml:{line}:")), "{text}: {error}");
    }
    let path = secrets().path().join("iscsi.toml");
    let read = |text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        Plan::read(&path, &Names::new(), false).map(drop).map_err(|error| error.to_string())
    };
    assert!(read(TARGET).unwrap_err().contains("without a [[portal]]"));
    let portal = "[[portal]]\nlisten = \"127.0.0.1:0\"\n";
    assert!(read(portal).unwrap_err().contains("without a [[target]]"));
    assert_eq!(read(&format!("{portal}{TARGET}")), Ok(()));
}

#[test]
fn limits_and_times_are_taken() {
    let text = "addresses = [\"192.0.2.0/24\"]\n[limits]\nconnections = 10\nlogins = 9\nlogins-of-address = 8\n\
                login-burst = 7\nlogin-rate = 6\nfailure-weight = 0\nsessions-of-initiator = 5\n\
                [times]\nlogin = 1\nidle = 2\nsilence = 3\nstop = 4\n";
    let options = read(&secrets(), text).unwrap().options;
    let limits = &options.logins;
    assert_eq!((limits.connections, limits.logins, limits.logins_of_address), (10, 9, 8));
    assert_eq!((limits.burst, limits.rate, limits.failure_weight), (7, 6, 0));
    assert_eq!((limits.sessions_of_initiator, options.addresses.len()), (5, 1));
    let times = [options.login_time, options.idle_time, options.silence_time, options.stop_time];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3, 4]);
    for line in
        ["[limits]\nlogins = 0", "[times]\nidle = 0", "[times]\nidle = 1.5", "[limits]\nconnections = -1"]
    {
        assert!(refusal(line).contains("iscsi.toml:2:"), "{line}");
    }
}
