//! Identities that are kept.

use super::*;
use lunette_engine::StateKeeper;
use std::fs;

fn dir() -> (tempfile::TempDir, StateDir) {
    let temporary = tempfile::tempdir().unwrap();
    let state = StateDir::open(temporary.path()).unwrap();
    (temporary, state)
}

fn file(directory: &Path, name: &str) -> Key {
    let path = directory.join(name);
    let open = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
    Key::file(&path, open.into()).unwrap()
}

#[test]
fn identities_do_not_depend_on_the_order() {
    let (temporary, state) = dir();
    let (a, b) = (file(temporary.path(), "a"), file(temporary.path(), "b"));
    let first = state.identities(&[a.clone(), b.clone()]).unwrap();
    let second = state.identities(&[b, a]).unwrap();
    assert_eq!((&first[0], &first[1]), (&second[1], &second[0]));
    assert_ne!(first[0].naa, first[1].naa);
}

#[test]
fn a_renamed_file_keeps_its_identity_and_its_successor_gets_another() {
    let (temporary, state) = dir();
    let old = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
    fs::rename(temporary.path().join("a"), temporary.path().join("b")).unwrap();
    let keys = [file(temporary.path(), "a"), file(temporary.path(), "b")];
    let new = state.identities(&keys).unwrap();
    assert_eq!(new[1].serial, old.serial);
    assert_ne!(new[0].serial, old.serial);
}

#[test]
fn a_file_that_was_replaced_in_its_place_keeps_the_identity() {
    let (temporary, state) = dir();
    let old = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
    file(temporary.path(), "copy");
    fs::rename(temporary.path().join("copy"), temporary.path().join("a")).unwrap();
    let new = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
    assert_eq!((new.serial, new.naa), (old.serial, old.naa));
}

#[test]
fn what_does_not_last_gets_a_new_identity_and_leaves_nothing_behind() {
    let (_temporary, state) = dir();
    let first = state.identities(&[Key::default(), Key::default()]).unwrap();
    let second = state.identities(&[Key::default()]).unwrap();
    assert_ne!(first[0].naa, first[1].naa);
    assert_ne!(first[0].naa, second[0].naa);
    assert!(kept(&state).unwrap().is_empty());
}

#[test]
fn names_are_independent_of_paths() {
    let (_temporary, state) = dir();
    let named = Key { name: Some("root".into()), ..Key::endpoint("/x") };
    let a = state.identities(std::slice::from_ref(&named)).unwrap();
    let moved = Key { name: Some("root".into()), ..Key::endpoint("/y") };
    let both = state.identities(&[Key::endpoint("/x"), moved]).unwrap();
    assert_eq!(a[0].serial, both[1].serial);
    assert_ne!(both[0].serial, both[1].serial);
}

#[test]
fn a_file_that_got_the_inode_of_another_gets_an_identity_of_its_own() {
    let (temporary, state) = dir();
    let a = temporary.path().join("a");
    let key = file(temporary.path(), "a");
    let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
    let (old, old_born) = (state.identities(&[key]).unwrap().remove(0), born(&a));
    fs::remove_file(&a).unwrap();
    let b = temporary.path().join("b");
    let key = loop {
        let key = file(temporary.path(), "b");
        if born(&b) != old_born {
            break key;
        }
        fs::remove_file(&b).unwrap();
    };
    assert_ne!(state.identities(&[key]).unwrap()[0].serial, old.serial);
}

#[test]
fn two_units_of_one_file_keep_their_identities() {
    let (temporary, state) = dir();
    let key = file(temporary.path(), "a");
    let keys = [key.clone(), key];
    let first = state.identities(&keys).unwrap();
    assert_ne!(first[0].naa, first[1].naa);
    assert_eq!(state.identities(&keys).unwrap(), first);
}

fn named(name: &str) -> Key {
    Key { name: Some(name.into()), ..Key::default() }
}

/// All that is kept.
pub(super) fn kept(state: &StateDir) -> Result<Vec<Record>> {
    let mut turn = state.turn()?;
    turn.ledger.refresh()?;
    Ok(turn.ledger.oldest().into_iter().cloned().collect())
}

fn segments(state: &StateDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.path().join("identities")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_damaged_file_is_refused() {
    let (_temporary, state) = dir();
    let first = state.identities(&[named("a"), named("b")]).unwrap();
    let second = state.identities(&[named("c")]).unwrap();
    let again = || StateDir::open(state.path()).unwrap();
    let refusal = || format!("{:#}", again().identities(&[named("a")]).unwrap_err());
    let [old, new] = <[_; 2]>::try_from(segments(&state)).unwrap();
    for path in [&old, &new] {
        let good = fs::read(path).unwrap();
        fs::write(path, &good[..good.len() - 1]).unwrap();
        assert!(refusal().contains("is damaged; restore it, or move it away"), "{}", refusal());
        assert!(refusal().contains(path.to_str().unwrap()));
        fs::write(path, "lunette identities, version 2, whatever").unwrap();
        assert!(refusal().contains("was saved by a newer lunette"), "{}", refusal());
        fs::write(path, good).unwrap();
    }
    assert_eq!(again().identities(&[named("a"), named("b")]).unwrap(), first);
    fs::rename(new, state.path().join("away")).unwrap();
    assert_eq!(again().identities(&[named("a"), named("b")]).unwrap(), first);
    assert_ne!(again().identities(&[named("c")]).unwrap(), second);
}

#[test]
fn nonsense_that_was_saved_well_is_refused() {
    let (_temporary, state) = dir();
    let record =
        |serial: &str, naa: &str| format!(r#"{{"name": "x", "serial": "{serial}", "naa": "{naa}"}}"#);
    let naa = "naa.3000000000000001";
    let segment = |from: u64, record: String| format!(r#"{{"from": {from}, "records": [{record}]}}"#);
    let good = segment(1, record("abc", naa));
    let bad = [
        "{".into(),
        segment(0, record("abc", naa)),
        segment(2, record("abc", naa)),
        segment(1, record("", naa)),
        segment(1, record(&"x".repeat(37), naa)),
        segment(1, record("abc", "naa.3")),
        // Not one of those that are made here.
        segment(1, record("abc", "naa.6000000000000001ffffffffffffffff")),
    ];
    let folder = Folder::open(state.0.folder.files(), &state.path().join("identities")).unwrap();
    for text in bad {
        folder.save(&ledger::KIND, "1", text.as_bytes()).unwrap();
        let error = format!("{:#}", state.identities(&[named("x")]).unwrap_err());
        assert!(error.contains("identities/1 is damaged; restore it, or move it away"), "{error}");
    }
    folder.save(&ledger::KIND, "1", good.as_bytes()).unwrap();
    assert_eq!(state.identities(&[named("x")]).unwrap()[0].serial, "abc");
}

#[test]
fn what_is_added_one_by_one_takes_few_segments() {
    let (_temporary, state) = dir();
    let keys: Vec<_> = (0..100).map(|number| named(&number.to_string())).collect();
    let mut records = Vec::new();
    for key in &keys {
        records.extend(state.identities(std::slice::from_ref(key)).unwrap());
        // In use, each of them.
        std::mem::forget(state.unit(records.last().unwrap().naa).unwrap());
        assert!(segments(&state).len() <= 7, "{:?}", segments(&state));
    }
    let again = StateDir::open(state.path()).unwrap();
    assert_eq!(again.identities(&keys).unwrap(), records);
    assert_eq!(kept(&again).unwrap(), records, "in their order");
}

#[test]
fn daemons_see_what_others_have_made() {
    let (temporary, state) = dir();
    let other = StateDir::open(temporary.path()).unwrap();
    for round in 0..20 {
        let here = state.identities(&[named("same"), named(&format!("here {round}"))]).unwrap();
        let there = other.identities(&[named(&format!("there {round}")), named("same")]).unwrap();
        assert_eq!(here[0], there[1]);
        for record in [&here[1], &there[0]] {
            std::mem::forget(state.unit(record.naa).unwrap());
        }
    }
    assert_eq!(kept(&state).unwrap().len(), 41);
    assert_eq!(kept(&state).unwrap(), kept(&other).unwrap());
}

#[test]
fn the_identity_of_a_unit_that_is_served_is_given_to_no_other() {
    let (temporary, state) = dir();
    let record = state.identities(&[file(temporary.path(), "a")]).unwrap().remove(0);
    let unit = state.unit(record.naa).unwrap();
    file(temporary.path(), "copy");
    fs::rename(temporary.path().join("copy"), temporary.path().join("a")).unwrap();
    let key = file(temporary.path(), "a");
    assert_ne!(state.identities(std::slice::from_ref(&key)).unwrap()[0].naa, record.naa);
    drop(unit);
    // Who has its name takes its place.
    let record = state.identities(&[named("x")]).unwrap().remove(0);
    let _unit = state.unit(record.naa).unwrap();
    let key = Key { name: Some("x".into()), ..key };
    assert_eq!(state.identities(&[key]).unwrap()[0].naa, record.naa);
}

#[test]
fn of_units_that_nobody_needs_the_last_are_kept() {
    let (temporary, state) = dir();
    let identity = |name: &str| state.identities(&[named(name)]).unwrap().remove(0);
    let (served, saved, export) = (identity("served"), identity("saved"), Key::endpoint("/vm.sock"));
    let elsewhere = identity("elsewhere");
    let _unit = state.unit(served.naa).unwrap();
    state.unit(saved.naa).unwrap().save(b"{}").unwrap();
    let other = StateDir::open(temporary.path()).unwrap();
    let _other = other.unit(elsewhere.naa).unwrap();
    let export = state.identities(&[export]).unwrap().remove(0);
    for number in 0..10 * MOST_UNUSED {
        identity(&number.to_string());
        assert!(kept(&state).unwrap().len() <= 4 + MOST_UNUSED + MANY_MORE);
    }
    let expected = kept(&state).unwrap();
    assert_eq!(expected[..4], [served, saved, elsewhere, export]);
    let last = (10 * MOST_UNUSED - 1).to_string();
    assert_eq!(expected.last(), Some(&identity(&last)));
    assert_eq!(kept(&StateDir::open(temporary.path()).unwrap()).unwrap(), expected);
    assert_eq!(kept(&other).unwrap(), expected);
}

#[test]
fn what_is_forgotten_takes_no_room() {
    let (_temporary, state) = dir();
    let most = 4 * (MOST_UNUSED + MANY_MORE + 1);
    for number in 0..100 * MOST_UNUSED {
        state.identities(&[named(&number.to_string())]).unwrap();
        let held = state.turn().unwrap().ledger.held();
        assert!(held <= most, "{held} names after {number} units");
    }
}

#[test]
fn what_an_older_version_has_kept_is_taken_over_once() {
    let (temporary, state) = dir();
    let old = |version: u32, serial: &str| {
        let record = format!(r#"{{"name": "x", "serial": "{serial}", "naa": "naa.3000000000000001"}}"#);
        let text = format!(r#"{{"version": {version}, "records": [{record}]}}"#);
        fs::write(temporary.path().join("identities.json"), text).unwrap();
    };
    old(2, "abc");
    assert!(format!("{:#}", state.identities(&[]).unwrap_err()).contains("identities.json is damaged"));
    old(1, "abc");
    assert_eq!(state.identities(&[named("x")]).unwrap()[0].serial, "abc");
    assert!(!temporary.path().join("identities.json").exists());
    // As if it had come back with a power loss.
    old(1, "other");
    let again = StateDir::open(temporary.path()).unwrap();
    assert_eq!(again.identities(&[named("x")]).unwrap()[0].serial, "abc");
    assert!(!temporary.path().join("identities.json").exists());
}

#[test]
fn the_generation_only_rises() {
    let (temporary, state) = dir();
    let now = 1_800_000_000_000;
    let told = |now| generation::begin(&state.0.folder, now);
    let begin = |now| match told(now) {
        (first, Ok(())) => first,
        (_, Err(error)) => panic!("{error:#}"),
    };
    let first = begin(now);
    assert_eq!(first, now);
    // The clock was set back.
    let second = begin(5);
    assert!(second >= first + (1 << 32));
    assert_eq!(begin(2 * now), 2 * now);
    assert!(state.generation() >= 2 * now);
    for text in ["lunette generation, version 2, whatever", "7"] {
        fs::write(temporary.path().join("generation"), text).unwrap();
        let (first, kept) = told(now);
        let error = kept.unwrap_err().to_string();
        assert!(error.contains("generation ") && error.contains("or move it away"), "{error}");
        assert_eq!(first, now, "disks do not wait for it");
    }
    state.0.folder.save(&generation::KIND, "generation", b"x").unwrap();
    assert!(told(now).1.unwrap_err().to_string().contains("is damaged"));
}

#[test]
fn no_disk_waits_for_a_generation_that_cannot_be_kept() {
    let (temporary, state) = dir();
    let end = state.generation() + (1 << 32);
    // A full file system.
    std::os::unix::fs::symlink("/dev/full", temporary.path().join("generation.new")).unwrap();
    assert_eq!(state.generation(), end, "it is larger than before");
    fs::remove_file(temporary.path().join("generation.new")).unwrap();
    assert_eq!(state.generation(), end, "the same, for nothing could be kept");
    assert_eq!(state.generation(), end + (1 << 32));
}

#[test]
fn who_does_not_go_on_holds_nobody_up_for_ever() {
    use std::cell::{Cell, RefCell};
    let pauses = RefCell::new(Vec::new());
    let wait = |after: u32| {
        let tries = Cell::new(0);
        pauses.borrow_mut().clear();
        let try_it = || {
            tries.set(tries.get() + 1);
            Ok(tries.get() > after)
        };
        (wait_for(try_it, |tries| pauses.borrow_mut().push(tries)).unwrap(), pauses.borrow().len())
    };
    assert_eq!((wait(0), wait(2)), ((true, 0), (true, 2)));
    assert_eq!(wait(u32::MAX), (false, TRIES as usize));
    assert!(pauses.borrow().contains(&TELL_AFTER));
    assert!(wait_for(|| Err(ErrorKind::StorageFull.into()), |_| ()).is_err());
    // Somebody else has it.
    let (temporary, state) = dir();
    let other = StateDir::open(temporary.path()).unwrap();
    let turn = other.turn().unwrap();
    assert!(!state.0.lock.try_lock(0).unwrap());
    drop(turn);
    assert!(state.turn().is_ok());
}
