//! Printing models and getting from one to another.

use super::random::{holds, models};
use super::*;
use crate::config::diff::{Action, How, Object, diff};
use proptest::prelude::*;
use proptest::test_runner::Config;

fn cases() -> Config {
    let cases = if std::env::var_os("LUNETTE_TEST_FULL").is_some() { 20_000 } else { 300 };
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Without what only a whole configuration must have.
fn reread(text: &str) -> Model {
    let setting = Setting { is_whole: false, ..UNKNOWN };
    from_text(Path::new("/x"), text.to_owned(), setting).unwrap_or_else(|report| panic!("{report}\n{text}")).0
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_printed_means_the_same(model in models()) {
        // Relative paths begin where the file is, and so are none any more.
        let model = reread(&to_toml(&model).unwrap());
        let text = to_toml(&model).unwrap();
        let again = reread(&text);
        prop_assert_eq!(&again, &model, "{}", text);
        prop_assert_eq!(to_toml(&again).unwrap(), text);
    }

    #[test]
    fn a_plan_leads_where_it_should_and_each_step_to_something_that_holds_together(
        running in models(),
        wanted in models(),
    ) {
        prop_assert!(diff(&running, &running).is_empty());
        let plan = diff(&running, &wanted);
        let mut now = running;
        for (index, step) in plan.steps.iter().enumerate() {
            let before = now.clone();
            step.effect.apply(&mut now);
            prop_assert!(now != before, "step {index} does nothing:\n{plan}");
            prop_assert!(holds(&Document::from(&now)), "after step {index} something does not hold together:\n{plan}");
        }
        prop_assert_eq!(now, wanted, "{}", plan);
        let json = serde_json::to_value(&plan).unwrap();
        prop_assert_eq!(json["steps"].as_array().map(Vec::len), Some(plan.steps.len()));
    }
}

#[test]
fn units_swap_their_places_while_they_are_used() {
    let text = |[a, b]: [&str; 2]| {
        let unit = |name, keys| format!("[[unit]]\nname = \"{name}\"\nstore = \"ram:1M\"\n{keys}\n");
        unit("a", a) + &unit("b", b)
    };
    let swap = |keys: [&str; 2]| diff(&model(&text(keys)), &model(&text([keys[1], keys[0]])));
    let expected = "\
~ unit a
      lun: 0 -> nothing
~ unit b
      lun: 1 -> nothing
~ unit a
      lun = 1
~ unit b
      lun = 0
";
    assert_eq!(swap(["lun = 0", "lun = 1"]).to_string(), expected);
    let expected = "\
- unit a (goes and comes again)
- unit b (goes and comes again)
+ unit a
      name = \"a\"
      serial = \"y\"
      store = \"ram:1M\"
+ unit b
      name = \"b\"
      serial = \"x\"
      store = \"ram:1M\"
";
    assert_eq!(swap(["serial = \"x\"", "serial = \"y\""]).to_string(), expected);
}

const RUNNING: &str = r#"
[[unit]]
name = "old"
store = "/var/vm/a.img"

[[unit]]
name = "db"
store = "/var/vm/db.img"
size = "1G"

[[unit]]
name = "gone"
store = "/var/vm/gone.img"

[[vhost-user]]
name = "vm"
socket = "/run/vm.sock"
units = { 0 = "old", 1 = "gone", 2 = "db" }
"#;

const WANTED: &str = r#"
[daemon]
reactors = 4

[[unit]]
name = "new"
store = "/var/vm/a.img"

[[unit]]
name = "db"
store = "/var/vm/db.img"
size = "2G"
block = 4096

[[unit]]
name = "more"
store = "ram:1G"

[[portal]]
listen = "192.0.2.1:3260"

[[target]]
name = "iqn.2026-11.org.example:a"
units = { 0 = "more" }

[[vhost-user]]
name = "vm"
socket = "/run/vm.sock"
mode = "0660"
units = { 0 = "new", 2 = "more" }
"#;

#[test]
fn a_plan_can_be_read() {
    let plan = diff(&model(RUNNING), &model(WANTED));
    let expected = "\
~ [daemon] (needs a restart)
      reactors = 4
- unit old at 0 of vhost-user export vm
- unit old
~ unit db (goes and comes again)
      block = 4096   <-
      size: \"1G\" -> \"2G\"
+ unit more
      name = \"more\"
      store = \"ram:1G\"
+ unit new
      name = \"new\"
      store = \"/var/vm/a.img\"
+ portal 192.0.2.1:3260
      listen = \"192.0.2.1:3260\"
+ target iqn.2026-11.org.example:a
      name = \"iqn.2026-11.org.example:a\"
      units = {\"0\":\"more\"}
~ vhost-user export vm
      mode = \"0660\"
+ unit new at 0 of vhost-user export vm
~ unit more at 2 of vhost-user export vm
      unit: \"db\" -> \"more\"
- unit gone at 1 of vhost-user export vm
- unit gone
what needs a restart is done by the next start of the daemon
";
    assert_eq!(plan.to_string(), expected);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(
        json["steps"][1],
        serde_json::json!({
            "action": "delete",
            "object": { "kind": "mapping", "shown-by": { "kind": "export", "name": "vm" }, "at": "0", "unit": "old" },
            "how": "live"
        })
    );
    assert_eq!(diff(&model(RUNNING), &model(RUNNING)).to_string(), "nothing changes\n");
}

#[test]
fn what_changes_while_it_is_used_says_so() {
    let unit = |keys: &str| model(&format!("[[unit]]\nname = \"a\"\nstore = \"/a\"\nlun = 0\n{keys}"));
    for (keys, how) in [
        ("read-only = true\n", How::Live),
        ("size = \"1G\"\n", How::Live),
        ("waiting = 1\n", How::Live),
        ("stuck-after = 9\n", How::Live),
        ("target = 1\n", How::Live),
        ("serial = \"x\"\n", How::Recreate),
        ("migratable = true\n", How::Recreate),
        ("read-only = true\ndirect = true\n", How::Recreate),
        ("[daemon]\npin-memory = true\n", How::Restart),
        ("[daemon]\nsave-changes = true\n", How::Live),
        ("[times]\nidle = 3\n", How::Live),
    ] {
        let plan = diff(&unit(""), &unit(keys));
        assert_eq!((plan.steps.len(), plan.steps[0].how), (1, how), "{keys}");
    }
    let export = |keys: &str| model(&format!("[[vhost-user]]\nname = \"vm\"\nsocket = \"/run/a\"\n{keys}"));
    assert_eq!(diff(&export(""), &export("mode = \"0666\"\n")).steps[0].how, How::Live);
    assert_eq!(diff(&export(""), &export("port-group = 2\n")).steps[0].how, How::Recreate);
    assert_eq!(diff(&export(""), &export("known-by = \"name\"\n")).steps[0].how, How::Recreate);
}

#[test]
fn a_unit_that_moves_is_seen_by_one_at_a_time() {
    let base = "[[unit]]\nname = \"a\"\nstore = \"/a\"\n";
    let exports = |one: &str, other: &str| {
        let export = |name: &str, units: &str| {
            format!("[[vhost-user]]\nname = \"{name}\"\nsocket = \"/run/{name}\"\nunits = {{ {units} }}\n")
        };
        model(&format!("{base}{}{}", export("x", one), export("y", other)))
    };
    let plan = diff(&exports("0 = \"a\"", ""), &exports("", "3 = \"a\""));
    assert_eq!(
        plan.to_string(),
        "- unit a at 0 of vhost-user export x\n+ unit a at 3 of vhost-user export y\n"
    );
    // Who sees it further does so all the time.
    let plan = diff(&exports("0 = \"a\"", ""), &exports("1 = \"a\"", "3 = \"a\""));
    let text = plan.to_string();
    assert!(text.ends_with("- unit a at 0 of vhost-user export x\n") && plan.steps.len() == 3, "{text}");
}

#[test]
fn an_export_that_is_called_otherwise_stays() {
    let export = |name: &str, more: &str| {
        model(&format!("[[vhost-user]]\nname = \"{name}\"\nsocket = \"/run/a\"\n{more}"))
    };
    let plan = diff(&export("x", ""), &export("y", "mode = \"0666\"\n"));
    assert_eq!(
        plan.to_string(),
        "~ vhost-user export y\n      name: \"x\" -> \"y\"\n~ vhost-user export y\n      mode = \"0666\"\n"
    );
}

#[test]
fn an_export_that_is_known_by_its_name_is_another_one_when_it_is_called_otherwise() {
    let export = |name: &str| {
        model(&format!("[[vhost-user]]\nname = \"{name}\"\nsocket = \"/run/a\"\nknown-by = \"name\"\n"))
    };
    let plan = diff(&export("x"), &export("y"));
    let actions: Vec<_> = plan.steps.iter().map(|step| step.action).collect();
    assert_eq!(actions, [Action::Delete, Action::Create], "{plan}");
}

#[test]
fn the_rules_of_a_target_change_in_one_step() {
    let target = "[[portal]]\nlisten = \"127.0.0.1:1\"\n[[target]]\nname = \"iqn.2026-11.org.example:a\"\n";
    let rules = |rules: &str| model(&format!("{target}{rules}"));
    let rule = |network: &str| format!("[[target.access]]\naddresses = [\"{network}\"]\n");
    let (old, new) = (rule("192.0.2.0/25") + &rule("192.0.2.128/25"), rule("192.0.2.128/25"));
    let plan = diff(&rules(&old), &rules(&new));
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].action, Action::Change);
    assert!(matches!(&plan.steps[0].object, Object::Rules { .. }));
    let text = plan.to_string();
    assert!(
        text.contains("0.addresses: [\"192.0.2.0/25\"] -> [\"192.0.2.128/25\"]") && text.contains("1: {"),
        "{text}"
    );
}
