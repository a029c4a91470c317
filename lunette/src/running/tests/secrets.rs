//! Secrets that others have put into the files that the configuration names.

use super::*;
use lunette_iscsi::chap::Secret;
use std::os::unix::fs::PermissionsExt;

const OLD: &str = "what has leaked";
const NEW: &str = "nobody knows this";

const ACCOUNTS: &str = r#"
accounts = [{ name = "joe", secret = { file = "@/joe" } }]
target = { name = "us", secret = { file = "@/us" } }
"#;

fn put(folder: &Path, name: &str, secret: &str) {
    let path = folder.join(name);
    std::fs::write(&path, secret).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Serves a target and its discovery, each with two secrets.
fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "joe", OLD);
    put(folder.path(), "us", "of the target");
    let target = BASIS.find("[[vhost-user]]").unwrap();
    let (before, after) = BASIS.split_at(target);
    let text =
        format!("{before}[[target.access]]\n[target.access.chap]{ACCOUNTS}{after}[discovery.chap]{ACCOUNTS}");
    let model = model(folder.path(), &text);
    Rig::serve(folder, model, None)
}

/// What has joe be let in at the target, and in discovery.
fn in_force(rig: &Rig) -> [Secret; 2] {
    let now = rig.running.now();
    let of_target = now.targets.values().next().unwrap().rules()[0].chap.clone().unwrap();
    let of_discovery = rig.running.entity.options().discovery.chap.clone().unwrap();
    [of_target, of_discovery].map(|policy| policy.accounts.secret("joe").unwrap().clone())
}

fn again(rig: &Rig, permit: Permit) -> Result<Done, Failure> {
    rig.running.change(permit, &Work::quiet(), |_| Ok(())).map(|((), done)| done)
}

#[test]
fn secrets_that_are_others_count_from_then_on() {
    let rig = rig();
    let is = |secret: &str| {
        let secret = Secret::new(secret.as_bytes().to_vec()).unwrap();
        in_force(&rig).iter().all(|known| known.is_same(&secret))
    };
    assert!(again(&rig, ANY).unwrap().plan.is_empty() && is(OLD));
    put(rig.folder.path(), "joe", NEW);
    let done = again(&rig, ANY).unwrap();
    let told = format!("{}{:?}", done.plan, serde_json::to_value(&done.plan).unwrap());
    assert_eq!(done.plan.steps.len(), 2, "{told}");
    assert!(is(NEW) && ![OLD, NEW].iter().any(|secret| told.contains(secret)), "{told}");
    // That of the target, too; and when nothing has changed, nothing is done.
    put(rig.folder.path(), "us", "another of the target");
    assert_eq!(again(&rig, ANY).unwrap().plan.steps.len(), 2);
    assert!(again(&rig, ANY).unwrap().plan.is_empty() && is(NEW));
}

#[test]
fn a_secret_that_cannot_be_used_changes_nothing() {
    let rig = rig();
    put(rig.folder.path(), "joe", "short");
    let refused = again(&rig, ANY).unwrap_err();
    assert!(refused.message.contains("/joe") && !refused.message.contains("\"short\""), "{refused}");
    std::fs::remove_file(rig.path("joe")).unwrap();
    assert!(again(&rig, ANY).is_err());
    assert!(again(&rig, Permit::default()).unwrap().plan.is_empty(), "changes of something else go on");
    assert!(in_force(&rig).iter().all(|known| known.is_same(&Secret::new(OLD.into()).unwrap())));
}
