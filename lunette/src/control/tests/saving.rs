//! What is kept of changes, and what others write to the file meanwhile.

use super::*;
use tempfile::TempDir;

/// A daemon that has begun with a file of this text, and a way to call its methods until they have ended.
fn of_file(text: &str) -> (TempDir, impl Fn(&str, Value) -> Result<Value, Failure> + use<>) {
    let Rig { running, folder, feed, .. } = Rig::of_file(text);
    let plane = plane(Daemon::new(running, feed.events(), Heir::new(|| ())), &feed);
    let call = move |method: &str, mut params: Value| {
        if method.starts_with("config.") && !["config.save", "config.show"].contains(&method) {
            params["wait"] = true.into();
        }
        ask(&plane, method, params).recv().unwrap()
    };
    (folder, call)
}

fn write(folder: &TempDir, text: &str) {
    std::fs::write(folder.path().join("lunette.toml"), text).unwrap();
}

/// A file that every change is saved to.
fn saving() -> String {
    format!("[daemon]\nsave-changes = true\n\n{FILE}")
}

fn unit(name: &str) -> Value {
    json!({ "name": name, "store": "ram:1M" })
}

#[test]
fn a_file_that_was_refused_is_not_written_over() {
    let (folder, call) = of_file(&saving());
    let edited =
        format!("# mine\n{}", file_of(folder.path())).replace("[daemon]\n", "[daemon]\nreactors = 7\n");
    write(&folder, &edited);
    let refused = call("config.reload", json!({})).unwrap_err();
    assert!(refused.message.contains("needs a restart"), "{refused}");
    let refused = call("unit.create", unit("b")).unwrap_err();
    assert!(refused.message.contains("says something else"), "{refused}");
    assert_eq!(file_of(folder.path()), edited);
    // Once it is taken over, changes are added to it.
    call("config.reload", json!({ "except_restart": true })).unwrap();
    assert_eq!(file_of(folder.path()), edited, "it says what is saved");
    call("unit.create", unit("b")).unwrap();
    let saved = file_of(folder.path());
    assert!(saved.contains("reactors = 7") && saved.contains("\"b\""), "{saved}");
}

#[test]
fn the_file_itself_is_applied_and_stays_as_it_is() {
    let (folder, call) = of_file(&saving());
    let edited = format!("# mine\n{}", file_of(folder.path()).replace("ram:1M", "ram:2M"));
    write(&folder, &edited);
    call("config.apply", json!({ "toml": edited })).unwrap();
    assert_eq!(file_of(folder.path()), edited);
    assert_eq!(call("control.status", json!({})).unwrap()["unsaved"], false);
    call("unit.create", unit("b")).unwrap();
    let saved = file_of(folder.path());
    assert!(saved.contains("\"b\"") && saved.contains("ram:2M"), "{saved}");
}

#[test]
fn what_is_for_the_next_start_is_saved_by_itself() {
    let (folder, call) = of_file(&saving());
    let with = |reactors: &str| saving().replace("[daemon]\n", &format!("[daemon]\n{reactors}"));
    let with = |reactors: &str| with(reactors).replace('@', folder.path().to_str().unwrap());
    let apply = |toml: String| call("config.apply", json!({ "toml": toml, "except_restart": true }));
    assert_eq!(apply(with("reactors = 7\n")).unwrap()["waiting"].as_array().unwrap().len(), 1);
    assert!(file_of(folder.path()).contains("reactors = 7"));
    // What cannot be done changes nothing of it, in either direction.
    let missing = "[[unit]]\nname = \"no\"\nstore = \"/no/such.img\"\n";
    for reactors in ["reactors = 5\n", ""] {
        apply(format!("{}{missing}", with(reactors))).unwrap_err();
        call("unit.create", unit(&format!("b{}", reactors.len()))).unwrap();
        assert!(file_of(folder.path()).contains("reactors = 7"), "{}", file_of(folder.path()));
        call("unit.delete", json!({ "name": format!("b{}", reactors.len()) })).unwrap();
    }
    apply(with("")).unwrap();
    assert!(!file_of(folder.path()).contains("reactors"));
}

#[test]
fn sizes_that_the_start_has_found_are_no_changes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("small", 1 << 20), ("large", 8 << 20)] {
        std::fs::File::create(folder.path().join(name)).unwrap().set_len(size).unwrap();
    }
    let unit = |name: &str| {
        let store = folder.path().join(name).display().to_string();
        format!("[[unit]]\nname = \"{name}\"\nstore = \"{store}\"\nsize = \"4M\"\n")
    };
    let (file, call) = of_file(&format!("{}{}", unit("small"), unit("large")));
    let unsaved = || call("control.status", json!({})).unwrap()["unsaved"].clone();
    assert_eq!(unsaved(), false);
    assert_eq!(call("config.reload", json!({})).unwrap()["steps"], json!([]));
    // With something else that is new.
    write(&file, &format!("{}[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\n", file_of(file.path())));
    assert_eq!(call("config.reload", json!({})).unwrap()["steps"].as_array().unwrap().len(), 1);
    assert_eq!(unsaved(), false);
    // Another size is another wish.
    write(&file, &file_of(file.path()).replacen("4M", "6M", 1));
    assert_eq!(call("config.reload", json!({})).unwrap()["steps"].as_array().unwrap().len(), 1);
    assert_eq!(call("unit.show", json!({ "name": "small" })).unwrap()["size"], 6 << 20);
    call("unit.resize", json!({ "name": "large", "size": "9M", "wait": true })).unwrap();
    assert_eq!(unsaved(), true);
    assert!(call("config.reload", json!({})).unwrap_err().message.contains("is not saved"));
}

#[test]
fn what_the_file_says_by_now_is_no_loss() {
    let (folder, call) = of_file(FILE);
    call("unit.create", unit("b")).unwrap();
    let shown = call("config.show", json!({})).unwrap()["toml"].clone();
    write(&folder, &format!("# mine\n{}", shown.as_str().unwrap()));
    assert_eq!(call("config.reload", json!({})).unwrap()["steps"], json!([]));
    assert_eq!(call("control.status", json!({})).unwrap()["unsaved"], false);
}
