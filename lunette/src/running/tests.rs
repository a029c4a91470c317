//! Changes of what is served.

mod secrets;

use super::*;
use crate::cli::Call;
use crate::config::origin::Origin;
use crate::config::values::Name;
use crate::config::{self, Model, from_text};
use crate::handover::Handed;
use crate::iscsi::Plan;
use crate::units;
use change::Done;
use lunette_control::{Failure, Feed, Work};
use lunette_reactor::Options;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

pub(crate) struct Rig {
    pub(crate) running: Arc<Running>,
    pub(crate) folder: TempDir,
    /// What `@` stands for.
    at: PathBuf,
    pub(crate) feed: Feed,
}

const TARGET: &str = "iqn.2026-11.org.example:a";

impl Rig {
    /// Serves what `text` says, in which `@` stands for the folder.
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = model(folder.path(), text);
        Self::serve(folder, model, None)
    }

    /// The same from a file in the folder.
    pub(crate) fn of_file(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lunette.toml");
        std::fs::write(&path, text.replace('@', folder.path().to_str().unwrap())).unwrap();
        let words = ["lunette", "serve", "--config", path.to_str().unwrap()].map(Into::into);
        let Ok(Call::Serve(options)) = Call::parse(&words) else { panic!() };
        let origin = Origin::new(&options, &Inherited::default()).unwrap();
        let (model, seen) = origin.read().unwrap();
        origin.see(seen);
        Self::serve(folder, model.clone(), Some(Keeper::new(origin, model)))
    }

    /// Another daemon with the same files and state.
    pub(super) fn beside(&self, text: &str) -> Self {
        Self::serve_at(&self.at, tempfile::tempdir().unwrap(), self.model(text), None)
    }

    /// Where its files and state are.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    fn serve(folder: TempDir, model: Model, keeper: Option<Keeper>) -> Self {
        let path = folder.path().to_owned();
        Self::serve_at(&path, folder, model, keeper)
    }

    fn serve_at(path: &Path, folder: TempDir, model: Model, keeper: Option<Keeper>) -> Self {
        let options = Options { reactors: 2, pin: false, ..Options::default() };
        let reactors: &'static Reactors = Box::leak(Box::new(Reactors::start(&options).unwrap()));
        let feed = Feed::new(SystemTime::now, 0).unwrap();
        let state = StateDir::open(&path.join("state")).unwrap();
        let units = units::open(model.units.values(), &state, &mut Handed::default()).unwrap();
        let plan = Plan::new(&model).unwrap();
        let basis = Basis {
            reactors,
            state,
            events: feed.events(),
            keeper,
            all_ended: Box::new(|| ()),
            recorder: None,
        };
        let running = Running::start(model, plan, units, Inherited::default(), basis).unwrap();
        Self { running, folder, at: path.to_owned(), feed }
    }

    pub(super) fn model(&self, text: &str) -> Model {
        model(&self.at, text)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Becomes what `text` says.
    pub(super) fn become_(&self, text: &str, permit: Permit) -> Result<Done, Failure> {
        let wanted = self.model(text);
        let become_it = |model: &mut Model| {
            *model = wanted;
            Ok(())
        };
        self.running.change(permit, &Work::quiet(), become_it).map(|((), done)| done)
    }

    fn shown(&self, target: &str) -> Vec<(u32, String)> {
        let port = self.running.entity.target(target).unwrap().port(1).unwrap();
        let inventory = port.luns().inventory();
        inventory.units().iter().map(|(lun, unit)| (*lun, unit.name.clone())).collect()
    }

    pub(super) fn naa(&self, unit: &str) -> String {
        self.running.unit(unit).unwrap().identity.naa.to_string()
    }

    /// What runs says the same as its configuration.
    fn check(&self) {
        let now = self.running.now();
        assert!(now.units.keys().eq(now.model.units.keys()));
        assert!(now.targets.keys().eq(now.model.targets.keys()));
        assert!(now.portals.keys().eq(now.model.portals.keys()));
        assert!(now.exports.keys().eq(now.model.exports.keys()));
    }
}

fn model(folder: &Path, text: &str) -> Model {
    let text = text.replace('@', folder.to_str().unwrap());
    let setting =
        Setting { iscsi_sockets: None, vhost_user_sockets: None, looks_at_system: true, is_whole: true };
    from_text(Path::new("/x"), text, setting).unwrap_or_else(|report| panic!("{report}")).0
}

pub(super) const ANY: Permit =
    Permit { recreate: true, except_restart: false, shrink: true, is_whole: true, secrets: true };

const BASIS: &str = r#"
[[unit]]
name = "a"
store = "@/a.img"
size = "1M"

[[unit]]
name = "memory"
store = "ram:2M"

[[portal]]
listen = "127.0.0.1:0"

[[target]]
name = "iqn.2026-11.org.example:a"
units = { 0 = "a" }

[[vhost-user]]
name = "vm"
socket = "@/vm.sock"
units = { 0 = "memory" }
"#;

#[test]
fn units_come_go_and_come_back_as_the_same() {
    let rig = Rig::new(BASIS);
    let naa = rig.naa("a");
    rig.become_("", ANY).unwrap();
    rig.check();
    assert!(rig.running.units().is_empty() && rig.running.entity.targets().is_empty());
    assert!(!Path::new(&rig.path("vm.sock")).exists());
    assert!(Path::new(&rig.path("a.img")).exists());
    // Nobody has a lock on it.
    let unit = rig.model(BASIS).units.remove("a").unwrap();
    drop(units::Opened::open(&unit, units::OtherSize::Refuse).unwrap());
    rig.become_(BASIS, ANY).unwrap();
    rig.check();
    assert_eq!((rig.naa("a"), rig.shown(TARGET)), (naa, vec![(0, "a".to_owned())]));
    assert!(Path::new(&rig.path("vm.sock")).exists());
}

#[test]
fn what_cannot_be_done_as_a_whole_is_not_done_at_all() {
    let rig = Rig::new(BASIS);
    let before = rig.running.model();
    // Before anything is changed: one store of two is not there.
    let new = "[[unit]]\nname = \"new\"\nstore = \"@/new.img\"\nsize = \"1M\"\n";
    let missing = format!("{BASIS}{new}[[unit]]\nname = \"no\"\nstore = \"@/no.img\"\n");
    let failure = rig.become_(&missing, ANY).unwrap_err();
    assert!(failure.message.contains("no.img does not exist"), "{failure}");
    assert!(!Path::new(&rig.path("new.img")).exists(), "what was made for it is removed");
    // In the middle: the address is taken, the socket's folder missing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let portal = format!("[[portal]]\nlisten = \"{}\"\n", taken.local_addr().unwrap());
    let changed =
        BASIS.replace("name = \"memory\"\n", "name = \"memory\"\nread-only = true\nserial = \"x\"\n");
    let socket = "[[vhost-user]]\nname = \"b\"\nsocket = \"@/no/b.sock\"\nunits = {}\n";
    for (more, part) in [(&portal[..], "in use"), (socket, "cannot listen at")] {
        let failure = rig.become_(&format!("{changed}{new}{more}"), ANY).unwrap_err();
        assert!(failure.message.contains(part), "{failure}");
        rig.check();
        assert_eq!(rig.running.model(), before);
        assert!(!rig.running.unit("memory").unwrap().is_read_only());
        assert_eq!(rig.shown(TARGET), [(0, "a".to_owned())]);
    }
}

#[test]
fn what_would_be_cut_off_is_still_there_when_something_else_fails() {
    let rig = Rig::new(BASIS);
    let bytes = || std::fs::read(rig.path("a.img")).unwrap();
    std::fs::write(rig.path("a.img"), [7; 1 << 20]).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let portal = format!("[[portal]]\nlisten = \"{}\"\n", taken.local_addr().unwrap());
    let smaller = BASIS.replace("\"1M\"", "\"512K\"\nread-only = true\nlun = 3");
    let anew = BASIS.replace("\"1M\"", "\"512K\"\nblock = 4096");
    for text in [&smaller, &anew] {
        let failure = rig.become_(&format!("{text}{portal}"), ANY).unwrap_err();
        assert!(failure.message.contains("in use"), "{failure}");
        assert!(bytes() == [7; 1 << 20]);
        assert_eq!(rig.running.model(), rig.model(BASIS));
    }
    let more = "[[unit]]\nname = \"z\"\nstore = \"ram:1M\"\n[[portal]]\nlisten = \"127.0.0.1:0\"\n";
    let done = rig.become_(&format!("{anew}{more}").replace("ram:2M", "ram:1M"), ANY).unwrap();
    let steps = done.plan.steps.iter().map(|step| step.object.to_string());
    assert_eq!(steps.skip(2).collect::<Vec<_>>(), ["unit a", "unit memory"], "{}", done.plan);
    assert!(bytes() == [7; 512 << 10]);
    rig.check();
}

#[test]
fn each_step_is_undone_by_itself() {
    let secrets = tempfile::tempdir().unwrap();
    let rules = |name: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, "a very long secret").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let secret = format!("secret = {{ file = \"{}\" }}", path.display());
        let access = format!("access = [{{ chap = {{ accounts = [{{ name = \"joe\", {secret} }}] }} }}]");
        BASIS.replace("units = { 0 = \"a\" }\n", &format!("units = {{ 0 = \"a\" }}\n{access}\n"))
    };
    let rig = Rig::new(&rules("a"));
    let before = rig.running.model();
    let changed = rules("b").replace("ram:2M\"", "ram:2M\"\nread-only = true");
    std::fs::remove_file(secrets.path().join("a")).unwrap();
    let socket = "[[vhost-user]]\nname = \"b\"\nsocket = \"@/no/b.sock\"\nunits = {}\n";
    let moved = changed.replace("@/vm.sock", "@/no/vm.sock");
    for wanted in [format!("{changed}{socket}"), moved] {
        let failure = rig.become_(&wanted, ANY).unwrap_err();
        assert!(failure.message.contains("cannot listen at"), "{failure}");
        assert_eq!((failure.code, rig.running.model()), (Failure::FAILED, before.clone()), "{failure}");
        assert!(!rig.running.unit("memory").unwrap().is_read_only());
        assert!(Path::new(&rig.path("vm.sock")).exists());
        rig.check();
    }
}

#[test]
fn what_cannot_be_served_again_comes_with_the_whole_configuration() {
    let rig = Rig::new(BASIS);
    let before = rig.running.model();
    let (image, elsewhere) = (rig.path("a.img"), rig.path("elsewhere.img"));
    std::fs::rename(&image, &elsewhere).unwrap();
    let anew = BASIS.replace("\"1M\"", "\"1M\"\nblock = 4096");
    let failure = rig.become_(&anew, ANY).unwrap_err();
    assert_eq!(failure.code, Failure::PARTLY);
    assert!(failure.message.contains("cannot be served again: "), "{failure}");
    assert!(!Path::new(&image).exists(), "no empty one is made");
    assert_eq!((rig.running.model(), rig.shown(TARGET)), (before, vec![]));
    // Others can be changed, and it can be left missing.
    let change = |model: &mut Model| {
        let memory = model.units.get_mut("memory").unwrap();
        Arc::make_mut(memory).waiting = Some(9);
        Ok(())
    };
    rig.running.change(Permit::default(), &Work::quiet(), change).unwrap();
    assert!(rig.running.unit("a").is_none());
    std::fs::rename(&elsewhere, &image).unwrap();
    let done = rig.become_(&anew.replace("ram:2M\"", "ram:2M\"\nwaiting = 9"), ANY).unwrap();
    assert_eq!((done.plan.steps.len(), rig.shown(TARGET)), (1, vec![(0, "a".to_owned())]), "{}", done.plan);
    rig.check();
}

#[test]
fn a_store_that_somebody_holds_is_not_opened_twice() {
    let rig = Rig::new(BASIS);
    let held = rig.running.unit("a").unwrap().backing().unwrap().clone();
    let failure = rig.become_(&BASIS.replace("\"1M\"", "\"1M\"\nblock = 4096"), ANY).unwrap_err();
    assert!(failure.message.contains("has not let go of a command"), "{failure}");
    assert_eq!((failure.code, rig.running.unit("a").is_none()), (Failure::PARTLY, true));
    drop(held);
    rig.become_(BASIS, ANY).unwrap();
    assert_eq!(rig.shown(TARGET), [(0, "a".to_owned())]);
}

#[test]
fn what_this_process_still_reads_is_waited_for() {
    let rig = Rig::new(BASIS);
    let text = BASIS.replace("size = \"1M\"", "read-only = true");
    rig.become_(&text, ANY).unwrap();
    let spec = rig.model(&text).units.remove("a").unwrap();
    let record = rig.running.record(&spec).unwrap();
    rig.become_("", ANY).unwrap();
    // As if the last of the former unit were to come yet.
    let mut former = units::Opened::open(&spec, units::OtherSize::Refuse).unwrap();
    former.succeed(&record).unwrap();
    let (running, wanted) = (&rig.running, rig.model(&text));
    let become_it = move |model: &mut Model| {
        *model = wanted;
        Ok(())
    };
    std::thread::scope(|scope| {
        let change = scope.spawn(move || running.change(ANY, &Work::quiet(), become_it).map(drop));
        while !rig.running.state.holds(record.naa) && !change.is_finished() {
            std::thread::yield_now();
        }
        drop(former);
        change.join().unwrap().unwrap();
    });
    assert_eq!(rig.naa("a"), record.naa.to_string());
}

#[test]
fn units_that_swap_their_places_stay() {
    let unit = |name: &str, keys: &str| format!("[[unit]]\nname = \"{name}\"\nstore = \"ram:1M\"\n{keys}\n");
    let rest = "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"iqn.2026-11.org.example:a\"\n";
    let text = |a: &str, b: &str| unit("a", a) + &unit("b", b) + rest;
    let (first, second) = ("lun = 0\nserial = \"x\"", "lun = 1\nserial = \"y\"");
    let rig = Rig::new(&text(first, second));
    let known = ["a", "b"].map(|name| rig.running.unit(name).unwrap());
    let (other_first, other_second) = (first.replace('0', "1"), second.replace('1', "0"));
    rig.become_(&text(&other_first, &other_second), Permit::default()).unwrap();
    assert_eq!(rig.shown(TARGET), [(0, "b".to_owned()), (1, "a".to_owned())]);
    let now = ["a", "b"].map(|name| rig.running.unit(name).unwrap());
    assert!(known.iter().zip(&now).all(|(known, now)| Arc::ptr_eq(known, now)));
    // Serial numbers cannot be swapped while somebody sees them.
    let swapped = text(second, first);
    let failure = rig.become_(&swapped, Permit::default()).unwrap_err();
    assert!(failure.message.starts_with("unit a, unit b cannot be changed while"), "{failure}");
    drop((known, now));
    rig.become_(&swapped, ANY).unwrap();
    assert_eq!(rig.running.unit("a").unwrap().identity.serial, "y");
    assert_eq!(rig.shown(TARGET), [(0, "b".to_owned()), (1, "a".to_owned())]);
}

#[test]
fn errors_tell_whether_everything_is_as_before() {
    let failed = |after: anyhow::Result<()>| {
        let error = super::units::with_others(anyhow::anyhow!("no"), [after]).context("unit a");
        failure(error)
    };
    assert_eq!(failed(Ok(())), Failure::failed("unit a: no"));
    let partly = "unit a: no, and it is not as it was: nor that";
    assert_eq!(failed(Err(anyhow::anyhow!("nor that"))), Failure::new(Failure::PARTLY, partly));
}

#[test]
fn only_what_differs_is_touched() {
    let rig = Rig::new(BASIS);
    let (a, memory) = (rig.running.unit("a").unwrap(), rig.running.unit("memory").unwrap());
    let target = rig.running.entity.target(TARGET).unwrap();
    let port = target.port(1).unwrap();
    let wanted = BASIS.replace("{ 0 = \"a\" }", "{ 0 = \"a\", 5 = \"b\" }\nalias = \"new\"");
    let wanted = wanted + "[[unit]]\nname = \"b\"\nstore = \"ram:1M\"\n";
    let done = rig.become_(&wanted, Permit::default()).unwrap();
    assert_eq!(done.plan.steps.len(), 3, "{}", done.plan);
    assert!(Arc::ptr_eq(&a, &rig.running.unit("a").unwrap()));
    assert!(Arc::ptr_eq(&memory, &rig.running.unit("memory").unwrap()));
    assert!(Arc::ptr_eq(&target.port(1).unwrap(), &port));
    assert_eq!(target.alias(), "new");
    assert_eq!(rig.shown(TARGET), [(0, "a".to_owned()), (5, "b".to_owned())]);
    assert_eq!(rig.running.model(), rig.model(&wanted));
}

#[test]
fn what_may_not_happen_by_the_way_is_refused() {
    let rig = Rig::new(BASIS);
    let refusal = |from: &str, to: &str| {
        let failure = rig.become_(&BASIS.replace(from, to), Permit::default()).unwrap_err();
        assert_eq!(failure.code, Failure::FAILED);
        failure.message
    };
    assert!(refusal("ram:2M\"", "ram:2M\"\nblock = 4096").contains("unit memory (block) cannot be changed"));
    assert!(refusal("\"1M\"", "\"512K\"").contains("would become smaller, 512K instead of 1M"));
    assert!(refusal("ram:2M", "ram:1M").contains("would become smaller, 1M instead of 2M"));
    let restart = format!("[daemon]\nreactors = 7\n{}", BASIS.replace("\"1M\"", "\"2M\""));
    let failure = rig.become_(&restart, Permit::default()).unwrap_err();
    assert_eq!(failure.message, "[daemon] (reactors) needs a restart of the daemon");
    let except = Permit { except_restart: true, ..Permit::default() };
    let done = rig.become_(&restart, except).unwrap();
    assert_eq!((done.plan.steps.len(), done.waiting.len()), (1, 1));
    assert_eq!(std::fs::metadata(rig.path("a.img")).unwrap().len(), 2 << 20);
    let broken = |model: &mut Model| {
        model.units.clear();
        Ok(())
    };
    let failure = rig.running.change(ANY, &Work::quiet(), broken).unwrap_err();
    assert!(failure.message.contains("there is no unit of the name `a`"), "{failure}");
    assert_eq!(failure.data.unwrap()["mistakes"].as_array().unwrap().len(), 2);
}

#[test]
fn units_change_while_they_are_used_or_are_made_anew() {
    let rig = Rig::new(BASIS);
    let a = rig.running.unit("a").unwrap();
    let live = BASIS.replace("size = \"1M\"", "size = \"3M\"\nread-only = true\nwaiting = 7\nlun = 9");
    rig.become_(&live, Permit::default()).unwrap();
    assert!(Arc::ptr_eq(&a, &rig.running.unit("a").unwrap()) && a.is_read_only());
    assert_eq!(units::place(rig.running.now().model.units.get("a").unwrap()).unwrap().lun, 9);
    rig.become_(BASIS, ANY).unwrap();
    assert!(Arc::ptr_eq(&a, &rig.running.unit("a").unwrap()) && !a.is_read_only());
    assert_eq!(std::fs::metadata(rig.path("a.img")).unwrap().len(), 1 << 20);
    drop(a);
    // Together with a size, and where it is shown.
    let anew = BASIS.replace("size = \"1M\"", "size = \"3M\"\nblock = 4096");
    let before = rig.naa("a");
    rig.become_(&anew, ANY).unwrap();
    assert_eq!((rig.naa("a"), rig.shown(TARGET)), (before, vec![(0, "a".to_owned())]));
    assert_eq!(rig.running.model(), rig.model(&anew));
    // When that cannot be, there is the former.
    let odd = anew.replace("@/a.img", "@/none/a.img");
    let failure = rig.become_(&odd, ANY).unwrap_err();
    assert!(failure.message.contains("none/a.img"), "{failure}");
    assert_eq!((rig.running.model(), rig.shown(TARGET)), (rig.model(&anew), vec![(0, "a".to_owned())]));
    assert!(rig.running.unit("a").unwrap().ready().is_ok());
}

#[test]
fn a_store_that_was_opened_to_be_read_is_opened_anew_to_be_written() {
    let text = BASIS.replace("ram:2M\"", "ram:2M\"\nread-only = true");
    let rig = Rig::new(&text);
    let failure = rig.become_(BASIS, Permit::default()).unwrap_err();
    assert!(failure.message.contains("unit memory (read-only)"), "{failure}");
    rig.become_(BASIS, ANY).unwrap();
    assert!(!rig.running.unit("memory").unwrap().backing().unwrap().caps().read_only);
}

#[test]
fn sizes_are_those_that_units_have() {
    let rig = Rig::new(BASIS);
    for (name, size) in [("a", 5 << 20), ("memory", 6 << 20)] {
        let unit = rig.running.unit(name).unwrap();
        rig.running.resize(&unit, size).unwrap();
    }
    let text = BASIS.replace("\"1M\"", "\"5M\"").replace("ram:2M", "ram:6M");
    assert_eq!(rig.running.model(), rig.model(&text));
    rig.become_(&text, Permit::default()).unwrap();
    // The next start takes what it finds, whatever the configuration says.
    let later = rig.model(BASIS);
    rig.become_("", ANY).unwrap();
    let state = StateDir::open(&rig.folder.path().join("state")).unwrap();
    let units = units::open(later.units.values(), &state, &mut Handed::default()).unwrap();
    assert_eq!(units["a"].unit.backing().unwrap().caps().size.get(), 5 << 20);
}

#[test]
fn an_export_that_is_called_otherwise_goes_on() {
    let rig = Rig::new(BASIS);
    let (mut front, mut byte) = (std::os::unix::net::UnixStream::connect(rig.path("vm.sock")).unwrap(), [0]);
    let done = rig.become_(&BASIS.replace("\"vm\"", "\"web\""), Permit::default()).unwrap();
    assert_eq!(done.plan.steps.len(), 1, "{}", done.plan);
    rig.check();
    front.set_nonblocking(true).unwrap();
    let read = std::io::Read::read(&mut front, &mut byte).unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock, "the connection is still there");
    // With another access, and another place.
    let moved = BASIS.replace("{ 0 = \"memory\" }", "{ \"3:5\" = \"memory\" }\nmode = \"0666\"");
    rig.become_(&moved, Permit::default()).unwrap();
    let metadata = std::fs::metadata(rig.path("vm.sock")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    let now = rig.running.now();
    let export = now.exports.values().next().unwrap();
    assert_eq!(export.targets().collect::<Vec<_>>(), [3]);
}

#[test]
fn units_with_a_place_of_their_own_appear_where_all_are_shown() {
    let text = "[[portal]]\nlisten = \"127.0.0.1:0\"\n[[target]]\nname = \"iqn.2026-11.org.example:a\"\n";
    let rig = Rig::new(text);
    assert_eq!(rig.shown(TARGET), []);
    let unit = |lun: u32| format!("{text}[[unit]]\nname = \"a\"\nstore = \"ram:1M\"\nlun = {lun}\n");
    for lun in [3, 4] {
        rig.become_(&unit(lun), Permit::default()).unwrap();
        assert_eq!(rig.shown(TARGET), [(lun, "a".to_owned())]);
    }
    rig.become_(text, Permit::default()).unwrap();
    assert_eq!(rig.shown(TARGET), []);
}

#[test]
fn portals_and_their_groups_come_and_go() {
    let rig = Rig::new(BASIS);
    let group_2 = "[[portal]]\nlisten = \"127.0.0.1:0\"\ngroup = 2\n";
    let target = rig.running.entity.target(TARGET).unwrap();
    let first = target.port(1).unwrap();
    rig.become_(&format!("{BASIS}{group_2}"), Permit::default()).unwrap();
    let port = target.port(2).unwrap();
    assert_ne!((port.relative_id, port.group), (first.relative_id, first.group));
    assert!(Arc::ptr_eq(&target.port(1).unwrap(), &first));
    drop(port);
    rig.become_(BASIS, Permit::default()).unwrap();
    assert!(target.port(2).is_none());
    rig.check();
}

#[test]
fn portals_with_ports_of_their_own_are_known_again() {
    let portal = "[[portal]]\nlisten = \"127.0.0.1:0\"\n";
    let rig = Rig::new(&format!("{BASIS}{portal}"));
    let address = |number: usize| {
        let now = rig.running.now();
        now.portals.get(&("127.0.0.1:0".parse().unwrap(), number)).map(|gate| gate.portal.address())
    };
    let second = address(1).unwrap();
    let delete_first = |model: &mut Model| {
        model.portals.pop_first();
        Ok(())
    };
    rig.running.change(Permit::default(), &Work::quiet(), delete_first).unwrap();
    assert_eq!((address(0), address(1)), (None, Some(second)));
    assert!(rig.become_(BASIS, ANY).unwrap().plan.is_empty(), "it is the one that is left");
    rig.become_(&format!("{BASIS}{portal}"), ANY).unwrap();
    assert_eq!(address(1), Some(second));
    assert!(address(0).is_some());
}

#[test]
fn rules_show_what_units_have_become() {
    let rules = "[[target.access]]\ninitiators = [\"iqn.1\"]\nunits = { 4 = \"memory\" }\n";
    let text = BASIS.replace("units = { 0 = \"a\" }\n", &format!("units = {{ 0 = \"a\" }}\n{rules}"));
    let rig = Rig::new(&text);
    rig.become_(&text.replace("ram:2M\"", "ram:2M\"\nserial = \"new\""), ANY).unwrap();
    assert_eq!(rig.running.unit("memory").unwrap().identity.serial, "new");
    rig.become_(&text.replace("{ 4 = \"memory\" }", "{}"), ANY).unwrap();
    let name = Name::of("memory");
    let places = rig.running.now().shown(|unit| *unit == name);
    assert_eq!(places[&name].len(), 1, "the export's");
    let limits = format!("[limits]\nconnections = 5\n[times]\nidle = 3\n{text}");
    rig.become_(&limits, Permit::default()).unwrap();
    assert_eq!(rig.running.model(), rig.model(&limits));
    assert!(config::to_toml(&rig.running.model()).unwrap().contains("connections = 5"));
}
