//! tgtd on the host, set up from `targets.conf` by tgt-admin.

use super::*;
use lunette_e2e::open_iscsi;
use lunette_e2e::tools::Guarded;
use std::process::Command;

const CONTROL_PORT: &str = "39";

/// tgtd on all addresses of a namespace.
struct Tgt<'a> {
    netns: &'a Netns,
    folder: &'a Path,
    _process: Guarded,
}

impl<'a> Tgt<'a> {
    fn start(netns: &'a Netns, folder: &'a Path, configuration: &Path) -> Result<Self> {
        let mut daemon = netns.command("tgtd")?;
        daemon.args(["--foreground", "--control-port", CONTROL_PORT]);
        let tgt = Tgt { netns, folder, _process: Guarded::spawn(Self::of(folder, &mut daemon))? };
        tools::wait_until("tgtd", || Ok(tgt.administer(&["--show"]).is_ok()))?;
        tgt.administer(&["--execute", "--conf", &configuration.display().to_string()])?;
        Ok(tgt)
    }

    fn of<'b>(folder: &Path, command: &'b mut Command) -> &'b mut Command {
        command.env("TGT_IPC_SOCKET", folder.join("control"))
    }

    fn administer(&self, words: &[&str]) -> Result<String> {
        let mut admin = self.netns.command("tgt-admin")?;
        admin.args(["--control-port", CONTROL_PORT]).args(words);
        let said = tools::run(Self::of(self.folder, &mut admin), tools::LIMIT)?.ok()?;
        Ok(said.stdout)
    }
}

const ONE: &str = "iqn.2007-04.com.example:one";
const CHAP: &str = "node.session.auth.authmethod CHAP \
    node.session.auth.username backup node.session.auth.password secretpass12 \
    node.session.auth.username_in disks node.session.auth.password_in secretpass34";

const VIEWS: [View; 2] = [
    View { target: ONE, luns: "1 2", settings: CHAP },
    View { target: "iqn.2007-04.com.example:two", luns: "1 7", settings: "" },
];

/// The guest's address is in the first target's list, its name in the second's. The last two have one account.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "default-driver iscsi
<target iqn.2007-04.com.example:two>
    <backing-store {folder}/told.img>
        lun 7
        scsi_id 1626364656667686961626364656667
        scsi_sn SERIAL0001
        readonly 1
    </backing-store>
    <backing-store {folder}/large.img>
        block-size 4096
    </backing-store>
    initiator-address 203.0.113.9
    initiator-name iqn.2026-11.dev.lunette:guest
</target>
<target {ONE}>
    backing-store {folder}/b.img
    backing-store {folder}/a.img
    initiator-address 192.0.2.0/24
    incominguser backup secretpass12
    outgoinguser disks secretpass34
</target>
<target iqn.2007-04.com.example:three>
    backing-store {folder}/three.img
    initiator-address ALL
    incominguser backup secretpass56
</target>
"
    )
}

const ATTEMPTS: [Attempt; 7] = [
    ("iqn.2026-11.dev.lunette:any", "backup%secretpass12@", "iqn.2007-04.com.example:one/1"),
    ("iqn.2026-11.dev.lunette:any", "backup%secretpass56@", "iqn.2007-04.com.example:one/1"),
    ("iqn.2026-11.dev.lunette:any", "", "iqn.2007-04.com.example:one/1"),
    ("iqn.2026-11.dev.lunette:guest", "", "iqn.2007-04.com.example:two/7"),
    ("iqn.2026-11.dev.lunette:any", "", "iqn.2007-04.com.example:two/7"),
    ("iqn.2026-11.dev.lunette:any", "backup%secretpass12@", "iqn.2007-04.com.example:three/1"),
    ("iqn.2026-11.dev.lunette:any", "backup%secretpass56@", "iqn.2007-04.com.example:three/1"),
];

#[test]
fn what_tgt_serves_is_served() -> Result<()> {
    tools::need(["tgtd", "tgtadm", "tgt-admin"])?;
    let netns = open_iscsi::network()?;
    let folder = tools::temp_dir()?;
    let path = |name: &str| folder.path().join(name);
    for (name, size) in [("told.img", 8), ("large.img", 16), ("a.img", 4), ("b.img", 2), ("three.img", 1)] {
        disk(&path(name), size << 20)?;
    }
    fs::write(path("targets.conf"), configuration(folder.path()))?;
    let mut guest = open_iscsi::guest(&netns)?;
    let tgt = Tgt::start(&netns, folder.path(), &path("targets.conf"))?;
    let theirs = seen(&mut guest, PORTAL, &VIEWS)?;
    let let_in_by_them = let_in(&mut guest, host(), &ATTEMPTS)?;
    let dump = tgt.administer(&["--dump"])?;
    drop(tgt);

    let (ours, told) = imported(&path("targets.conf"), folder.path(), &[])?;
    let daemon = served(&netns, &ours)?.start()?;
    assert_eq!(seen(&mut guest, PORTAL, &VIEWS)?, theirs);
    assert_eq!(let_in(&mut guest, host(), &ATTEMPTS)?, let_in_by_them);
    assert_eq!(let_in_by_them.iter().filter(|is_let_in| **is_let_in).count(), 3, "{let_in_by_them:?}");
    assert!(told.contains("the secret of backup is the one of line"), "{told}");
    daemon.stop()?;

    // The dump has neither numbers nor identities nor secrets, so there is less to keep.
    let again = path("again");
    fs::create_dir(&again)?;
    fs::write(path("dumped.conf"), dump)?;
    let missing = [("backup", "secretpass12"), ("disks", "secretpass34")];
    let (ours, told) = imported(&path("dumped.conf"), &again, &missing)?;
    assert!(told.contains("`192.0.2.0/24` is taken as an initiator-address"), "{told}");
    let daemon = served(&netns, &ours)?.start()?;
    let of_one =
        |text: &str| text.lines().filter(|line| line.starts_with(ONE)).collect::<Vec<_>>().join("\n");
    assert_eq!(of_one(&seen(&mut guest, PORTAL, &VIEWS[..1])?), of_one(&theirs));
    assert_eq!(let_in(&mut guest, host(), &ATTEMPTS[..3])?, let_in_by_them[..3]);
    daemon.stop()?;
    guest.power_off()?;
    Ok(())
}

/// The keys of a section of targets.conf(5).
fn documented(page: &str, section: &str) -> Vec<String> {
    let rest = page.split_once(&format!(".SH \"{section}\"\n")).map_or("", |(_, rest)| rest);
    let section = rest.split("\n.SH ").next().unwrap_or_default();
    let keys =
        section.lines().filter_map(|line| line.strip_prefix("\\fB")?.split([' ', '\\']).next().map(|_| line));
    keys.filter_map(|line| {
        let text = line.strip_prefix("\\fB")?.split("\\fR").next()?.replace("\\-", "-").replace("\\&", "");
        Some(text.split_whitespace().next()?.to_owned())
    })
    .collect()
}

#[test]
fn every_key_of_the_manual_is_imported_or_told() -> Result<()> {
    tools::need(["tgt-admin", "zcat"])?;
    let page = tools::output("zcat", ["/usr/share/man/man5/targets.conf.5.gz"])?.ok()?.stdout;
    let folder = tools::temp_dir()?;
    let understood = |globals: &str, of_target: &str, of_unit: &str| -> Result<String> {
        let path = folder.path().join("targets.conf");
        let text = format!(
            "<target {ONE}>\n<backing-store /srv/a.img>\n{of_unit}\n</backing-store>\n{of_target}\n</target>\n{globals}\n"
        );
        fs::write(&path, text)?;
        let said = lunette(&["import", &path.display().to_string()])?.ok()?;
        Ok(format!("{}{}", said.stdout, said.stderr))
    };
    let nothing = understood("", "", "")?;
    // How the configuration is applied, and by whom.
    let without_meaning = ["ignore-errors", "control-port", "allow-in-use"];
    let mut count = 0;
    for (section, place) in
        [("GLOBAL DIRECTIVES", 0), ("TARGET-LEVEL DIRECTIVES", 1), ("LUN-LEVEL DIRECTIVES", 2)]
    {
        for key in documented(&page, &section.replace('-', "\\-")) {
            let line = match key.as_str() {
                "<target" => continue,
                "include" => "include /nonexistent/none-*.conf".to_owned(),
                "write-cache" => "write-cache off".to_owned(),
                "incomingdiscoveryuser" | "outgoingdiscoveryuser" | "incominguser" | "outgoinguser" => {
                    format!("{key} somebody secretpass12")
                }
                key => format!("{key} 9"),
            };
            let mut lines = ["", "", ""];
            lines[place] = &line;
            let [globals, of_target, of_unit] = lines;
            let is_seen = understood(globals, of_target, of_unit)? != nothing;
            let is_silent = key == "include" || without_meaning.contains(&&*key);
            assert_eq!(is_seen, !is_silent, "{line}");
            count += 1;
        }
    }
    assert!(count >= 38, "{count} keys are documented");
    Ok(())
}
