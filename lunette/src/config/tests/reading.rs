//! What configurations mean, in one file and in several.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

#[test]
fn the_notation_and_the_keys_mean_the_same() {
    let notation = r#"[[unit]]
lu = 'disk:/a\,b,r,size=1G,block=4096,direct=on,inline=off,serial=abc,wwn=naa.3000000000000001,version=spc-3,name=root,rotational=on,removable=on,pace=16M,atomic=16K,target=3,lun=7,queues=1+4-6,waiting=9,stuck-after=8,filter=deny:unmap,known-by=file,migratable=on,fault=eio:5'
"#;
    let keys = r#"[[unit]]
name = "root"
store = "/a,b"
read-only = true
size = "1G"
block = 4096
direct = true
inline = false
serial = "abc"
wwn = "naa.3000000000000001"
version = "spc-3"
rotational = true
removable = true
pace = "16M"
atomic = "16K"
waiting = 9
stuck-after = 8
queues = "1+4-6"
filter = "deny:unmap"
target = 3
lun = 7
known-by = "file"
migratable = true
fault = "eio:5"
"#;
    assert_eq!(model(notation), model(keys));
    assert_eq!(to_toml(&model(notation)).unwrap(), keys);
}

#[test]
fn relative_paths_begin_where_the_file_is() {
    let model = model(
        "[daemon]\nstate-dir = \"state\"\n[[unit]]\nname = \"a\"\nstore = \"a.img\"\n[[unit]]\nname = \"b\"\nstore = \"/b\"\n\
         [[vhost-user]]\nname = \"vm\"\nsocket = \"vm.sock\"\n[discovery]\nchap = { accounts = [{ name = \"x\", secret = { file = \
         \"chap/x\" } }] }\n",
    );
    let text = to_toml(&model).unwrap();
    for path in
        ["/etc/lunette/state", "/etc/lunette/a.img", "\"/b\"", "/etc/lunette/vm.sock", "/etc/lunette/chap/x"]
    {
        assert!(text.contains(path), "{path}: {text}");
    }
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn read(directory: &TempDir) -> Result<Model, String> {
    let path = directory.path().join("lunette.toml");
    let setting = Setting { looks_at_system: true, ..UNKNOWN };
    let loaded = load(&path, Files::WithDirectory, Document::default(), setting);
    loaded.map(|(model, _)| model).map_err(|report| report.to_string())
}

#[test]
fn the_files_of_a_directory_belong_together() {
    let directory = directory(&[
        (
            "lunette.toml",
            "[[vhost-user]]\nname = \"vm\"\nsocket = \"/run/vm\"\nunits = { 0 = \"a\", 1 = \"b\" }\n",
        ),
        ("conf.d/20-b.toml", "[[unit]]\nname = \"b\"\nstore = \"ram:2M\"\n"),
        ("conf.d/10-a.toml", "[[unit]]\nname = \"a\"\nstore = \"a.img\"\n[daemon]\nreactors = 2\n"),
        ("conf.d/.hidden.toml", "nonsense"),
        ("conf.d/a.toml.old", "nonsense"),
    ]);
    let model = read(&directory).unwrap();
    let stores: Vec<_> = model.units.values().map(|unit| unit.store.to_string()).collect();
    assert_eq!(stores, [directory.path().join("conf.d/a.img").to_str().unwrap(), "ram:2M"]);
    assert_eq!(model.daemon.reactors, Some(2));
}

#[test]
fn files_are_not_too_long_together() {
    let directory = directory(&[("lunette.toml", "")]);
    for name in ["conf.d/1.toml", "conf.d/2.toml", "conf.d/3.toml"] {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().set_len(15 << 20).unwrap();
    }
    let told = read(&directory).unwrap_err();
    assert!(told.contains("32 MiB together") && told.contains("conf.d/3.toml"), "{told}");
}

#[test]
fn what_is_said_in_two_files_is_told_with_both_places() {
    let unit = "[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n";
    let directory = directory(&[
        ("lunette.toml", &format!("[daemon]\nreactors = 1\n\n{unit}")),
        ("conf.d/a.toml", &format!("{unit}\n[daemon]\npoll = \"never\"\n")),
    ]);
    let told = read(&directory).unwrap_err();
    let (main, other) = (directory.path().join("lunette.toml"), directory.path().join("conf.d/a.toml"));
    assert!(told.contains("`daemon` is said twice"), "{told}");
    assert!(told.contains(&format!("--> {}:5:1\n", other.display())), "{told}");
    assert!(told.contains(&format!("= the other one is at {}:1:1\n", main.display())), "{told}");
    fs::write(&other, unit).unwrap();
    let told = read(&directory).unwrap_err();
    assert!(told.contains("two units of the name `a`"), "{told}");
    assert!(told.contains(&format!("--> {}:2:8\n", other.display())), "{told}");
    assert!(told.contains(&format!("= the other one is at {}:5:8\n", main.display())), "{told}");
}

#[test]
fn secrets_users_and_files_are_looked_at() {
    let target = "[[target]]\nname = \"iqn.2026-11.org.example:a\"\n[target.access.chap]\n";
    let target = target.replace("[target.access.chap]", "[[target.access]]\n[target.access.chap]");
    let account = |file: &str| format!("{{ name = \"{file}\", secret = {{ file = \"{file}\" }} }}");
    let directory =
        directory(&[("good", "a's own secret"), ("same", "a's own secret\n"), ("open", "open secret!")]);
    let path = |name: &str| directory.path().join(name);
    for (name, mode) in [("good", 0o600), ("same", 0o400), ("open", 0o644)] {
        fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
    for (text, place, part) in [
        (format!("{target}accounts = [{}]\n", account("open")), "5:39", "chmod 600"),
        (format!("{target}accounts = [{}]\n", account("none")), "5:39", "No such file"),
        (
            format!("{target}accounts = [{}]\ntarget = {}\n", account("good"), account("same")),
            "5:22",
            "RFC 7143 9.2.1",
        ),
        (
            "[[vhost-user]]\nname = \"v\"\nsocket = \"v\"\nowner = \"no-such-user\"\ngroup = \"4294967295\"\n".into(),
            "4:9",
            "there is no user `no-such-user`",
        ),
        ("[daemon]\ncontrol-read-groups = [\"no-such-group\"]\n".into(), "2:24", "no group `no-such-group`"),
        (
            "[[unit]]\nname = \"a\"\nstore = \"good\"\n[[unit]]\nname = \"b\"\nstore = \"link\"\n".into(),
            "6:9",
            "the same file",
        ),
    ] {
        fs::write(path("lunette.toml"), &text).unwrap();
        let told = read(&directory).unwrap_err();
        assert!(told.contains(part) && told.contains(&format!("lunette.toml:{place}\n")), "{text}: {told}");
        assert!(!told.contains("own secret"), "{told}");
    }
    let text = format!("{target}accounts = [{}]\n", account("good"));
    fs::write(path("lunette.toml"), &text).unwrap();
    read(&directory).unwrap();
    // Who looks need not be who serves.
    let text = format!("{target}accounts = [{{ name = \"a\", secret = {{ credential = \"chap-a\" }} }}]\n");
    fs::write(path("lunette.toml"), &text).unwrap();
    read(&directory).unwrap();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Also if the file says who that is.
    std::os::unix::fs::chown(path("good"), Some(65534), None).unwrap();
    for (user, can_be) in [("", false), ("[daemon]\nuser = \"65534\"\n", true)] {
        let text = format!("{target}accounts = [{}]\n{user}", account("good"));
        fs::write(path("lunette.toml"), &text).unwrap();
        assert_eq!(read(&directory).is_ok(), can_be, "{user}");
    }
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let text = "[[unit]]\nname = \"a\"\nstore = \"/a\"\n[[target]]\nname = \"iqn.2026-11.org.example:a\"\n";
    let (_, report) = from_text(Path::new("x"), text.into(), UNKNOWN).unwrap();
    let warnings: Vec<_> = report.warnings().map(|warning| warning.one_line()).collect();
    assert_eq!(
        warnings,
        [
            "x:1:1: the unit `a` is seen by nobody: no target or export names it, and it has no `lun`",
            "x:4:1: without a [[portal]] nobody reaches the targets, unless sockets are passed to the daemon"
        ]
    );
    let setting = Setting { iscsi_sockets: Some(false), ..UNKNOWN };
    // Portals may come while it runs.
    let (_, report) = from_text(Path::new("x"), text.into(), setting).unwrap();
    assert!(report.to_string().contains("warning: without a [[portal]]"), "{report}");
    let setting = Setting { iscsi_sockets: Some(true), ..UNKNOWN };
    assert_eq!(from_text(Path::new("x"), text.into(), setting).unwrap().1.warnings().count(), 1);
}

#[test]
fn the_portals_of_port_0_are_several() {
    let text = "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[portal]]\nlisten = \"127.0.0.1:0\"\ngroup = 2\n\
                [[target]]\nname = \"iqn.2026-11.org.example:a\"\n";
    assert_eq!(model(text).portals.len(), 2);
}

#[test]
fn relative_paths_are_told_whole() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("lunette.toml");
    std::fs::write(&path, "[[unit]]\nname = \"a\"\nstore = \"a.img\"\n").unwrap();
    // Made in this directory, so its path is relative already.
    let relative = Path::new(".").join(path.strip_prefix(std::env::current_dir().unwrap()).unwrap_or(&path));
    let (model, _) = load(&relative, Files::Alone, Document::default(), UNKNOWN).unwrap();
    let expected = std::path::absolute(directory.path()).unwrap().join("a.img");
    assert!(to_toml(&model).unwrap().contains(expected.to_str().unwrap()));
}
