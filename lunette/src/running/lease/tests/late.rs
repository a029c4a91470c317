//! Units that come for a virtual machine that runs.

use super::super::late::Coming;
use super::*;
use std::fs::File;
use std::io::Write;

/// A third unit, which no export shows yet.
const THIRD: &str = r#"
[[unit]]
name = "c"
store = "@/c.img"
size = "1M"
migratable = true
"#;

/// The configuration whose export shows these units. The first one is nowhere else.
fn with(units: &str) -> String {
    let text = text("one.sock") + THIRD;
    let text = text.replace("units = { 0 = \"a\" }\n", "units = {}\n");
    text.replace(r#"{ 0 = "a", "1:0" = "b" }"#, units)
}

const A: &str = r#"{ 0 = "a" }"#;
const AB: &str = r#"{ 0 = "a", "1:0" = "b" }"#;
const AC: &str = r#"{ 0 = "a", "2:0" = "c" }"#;
const ABC: &str = r#"{ 0 = "a", "1:0" = "b", "2:0" = "c" }"#;

/// One whose units were all served before, and that shows `units` now.
fn served_before(units: &str) -> Rig {
    let one = Rig::new(&with(ABC));
    // Twice, as the second time it is looked who has saved anything at all.
    for _ in 0..2 {
        take(&one).unwrap();
        give(&one, state()).unwrap();
    }
    one.become_(&with(units), ANY).unwrap();
    one
}

/// A unit that hangs when it is opened.
struct Hanging {
    file: std::path::PathBuf,
    whole: std::path::PathBuf,
}

impl Hanging {
    fn new(rig: &Rig, unit: &str) -> Self {
        let file = file(rig, unit);
        let whole = file.with_extension("whole");
        std::fs::rename(&file, &whole).unwrap();
        // Whoever reads it waits for somebody to write it.
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        Self { file, whole }
    }

    /// Waits until somebody opens it.
    fn hangs(self) -> Opening {
        let writer = File::options().write(true).open(&self.file).unwrap();
        Opening { hanging: self, writer }
    }
}

/// Somebody opens it, and waits.
struct Opening {
    hanging: Hanging,
    writer: File,
}

impl Opening {
    fn go_on(mut self) {
        let Hanging { file, whole } = self.hanging;
        self.writer.write_all(&std::fs::read(&whole).unwrap()).unwrap();
        std::fs::rename(whole, file).unwrap();
    }
}

fn wait_for(rig: &Rig, units: &[&str]) {
    while here(rig) != units {
        std::thread::yield_now();
    }
}

/// Whether somebody has a unit here.
fn is_locked(rig: &Rig, unit: &str) -> bool {
    rig.running.state.holds(rig.running.leases.naa(&Name::of(unit)).unwrap())
}

#[test]
fn one_at_a_time_brings_what_a_virtual_machine_misses() {
    let one = Rig::new(&with(A));
    take(&one).unwrap();
    let coming = Coming::begin(&lease(&one)).unwrap();
    assert!(Coming::begin(&lease(&one)).is_none());
    one.become_(&with(AB), ANY).unwrap();
    one.become_(&with(ABC), ANY).unwrap();
    assert_eq!(here(&one), ["a"], "it is left to who does it already");
    one.running.bring(coming);
    assert_eq!(here(&one), ["a", "b", "c"]);
    assert!(Coming::begin(&lease(&one)).is_some());
}

#[test]
fn what_is_added_while_something_comes_comes_after_it() {
    let one = served_before(A);
    take(&one).unwrap();
    let b = Hanging::new(&one, "b");
    let coming = Coming::begin(&lease(&one)).unwrap();
    one.become_(&with(AB), ANY).unwrap();
    std::thread::scope(|scope| {
        let bringing = scope.spawn(|| one.running.bring(coming));
        let b = b.hangs();
        one.become_(&with(ABC), ANY).unwrap();
        assert_eq!(here(&one), ["a"]);
        b.go_on();
        bringing.join().unwrap();
    });
    assert_eq!(here(&one), ["a", "b", "c"]);
}

#[test]
fn what_cannot_be_had_while_a_virtual_machine_runs_comes_when_it_can() {
    let one = Rig::new(&with(A));
    take(&one).unwrap();
    let other = one.beside(&text("other.sock"));
    let held = other.running.state.unit(other.running.leases.naa(&Name::of("b")).unwrap()).unwrap();
    one.become_(&with(AB), ANY).unwrap();
    assert_eq!(here(&one), ["a"]);
    drop(held);
    wait_for(&one, &["a", "b"]);
}

#[test]
fn why_something_does_not_come_is_told_once() {
    let one = Rig::new(&with(A));
    take(&one).unwrap();
    let lease = lease(&one);
    let is_news = |why: &'static str| lease.is_news(&anyhow::anyhow!(why));
    assert!(is_news("gone") && !is_news("gone") && is_news("away") && is_news("gone"));
    lease.forget_news();
    assert!(is_news("gone"));
    lease.set(Phase::Gone);
    assert!(!is_news("away"), "nobody misses anything");
}

#[test]
fn what_comes_although_its_export_does_not_show_it_any_more_is_given_up() {
    let one = served_before(A);
    take(&one).unwrap();
    let b = Hanging::new(&one, "b");
    let coming = Coming::begin(&lease(&one)).unwrap();
    one.become_(&with(AB), ANY).unwrap();
    std::thread::scope(|scope| {
        let bringing = scope.spawn(|| one.running.bring(coming));
        let b = b.hangs();
        one.become_(&with(A), ANY).unwrap();
        assert!(is_locked(&one, "b"));
        b.go_on();
        bringing.join().unwrap();
    });
    wait_for(&one, &["a"]);
    let saved = one.running.state.saved(one.running.leases.naa(&Name::of("b")).unwrap()).unwrap();
    let term: Term = lunette_engine::Saved::parse(&saved.unwrap()).unwrap().get(SECTION).unwrap();
    assert_eq!(term.number, 3, "it was here");
}

#[test]
fn what_comes_before_a_start_and_is_not_shown_any_more_is_given_up() {
    let one = served_before(AB);
    let b = Hanging::new(&one, "b");
    let told = begin_to_take(&one, "vm");
    let b = b.hangs();
    one.become_(&with(AC), ANY).unwrap();
    b.go_on();
    told.recv().unwrap().unwrap();
    wait_for(&one, &["a", "c"]);
}

#[test]
fn what_came_for_a_virtual_machine_that_has_just_left_is_given_up() {
    let one = Rig::new(&with(AB));
    take(&one).unwrap();
    one.running.has_left(&lease(&one));
    wait_for(&one, &[]);
}

#[test]
fn a_virtual_machine_whose_export_ends_waits_for_no_turn() {
    let (one, _) = two();
    take(&one).unwrap();
    let names = ["a", "b"].into_iter().map(Name::of).collect();
    let changing = one.running.leases.turns.at_once(&names).unwrap();
    let (tell, told) = mpsc::channel();
    lease(&one).give(state(), Box::new(move |result| tell.send(result).unwrap()));
    lease(&one).end();
    assert_eq!(told.recv_timeout(LONGEST), Ok(Ok(())));
    assert_eq!(here(&one), ["a", "b"], "who has the turn gives them up");
    drop(changing);
}

#[test]
fn what_does_not_come_keeps_neither_others_away_nor_a_virtual_machine_from_leaving() {
    let one = served_before(A);
    take(&one).unwrap();
    let b = Hanging::new(&one, "b");
    std::thread::scope(|scope| {
        let coming = Coming::begin(&lease(&one)).unwrap();
        one.become_(&with(AB), ANY).unwrap();
        let running = &one.running;
        let bringing = scope.spawn(move || running.bring(coming));
        let opening = b.hangs();
        give(&one, state()).unwrap();
        assert!(here(&one).is_empty());
        opening.go_on();
        bringing.join().unwrap();
    });
    assert!(here(&one).is_empty() && !is_locked(&one, "b"), "nobody is there any more");
    let b = one.at().join("b.img");
    let aside = b.with_extension("aside");
    one.become_(&with(A), ANY).unwrap();
    take(&one).unwrap();
    std::fs::rename(&b, &aside).unwrap();
    one.become_(&with(ABC), ANY).unwrap();
    assert_eq!(here(&one), ["a", "c"]);
    std::fs::rename(&aside, &b).unwrap();
    wait_for(&one, &["a", "b", "c"]);
}
