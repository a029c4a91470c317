//! Guest memory without rings.

use super::*;
use crate::testing::{memfd, region};
use lunette_store::Sg;
use proptest::prelude::*;
use std::os::fd::OwnedFd;

fn shared(guest: u64, size: u64, fd: &OwnedFd, offset: u64) -> SharedRegion {
    SharedRegion { region: region(guest, size, offset), fd: fd.try_clone().unwrap() }
}

fn segments(map: &MemoryMap, address: u64, length: u32) -> Option<Vec<usize>> {
    let (mut hint, mut list) = (0, SgList::new());
    map.append(address, length, &mut hint, &mut list)
        .then(|| list.segs().iter().map(|seg| seg.len()).collect())
}

#[test]
fn a_range_over_a_border_is_split_and_one_over_a_hole_refused() {
    let fd = memfd(0x4000);
    let table = [
        shared(0x1000, 0x1000, &fd, 0),
        shared(0x2000, 0x1000, &fd, 0x2000),
        shared(0x8000, 0x1000, &fd, 0x1000),
    ];
    let map = MemoryMap::new(&table).unwrap();
    assert_eq!(segments(&map, 0x1ff0, 0x20), Some(vec![0x10, 0x10]));
    assert_eq!(segments(&map, 0x1000, 0x2000), Some(vec![0x1000, 0x1000]));
    assert_eq!(segments(&map, 0x1000, 0x2001), None);
    assert_eq!(segments(&map, 0xfff, 1), None);
    assert_eq!(segments(&map, 0x8fff, 1), Some(vec![1]));
    assert_eq!(segments(&map, 0x9000, 1), None);
    assert_eq!(segments(&map, u64::MAX, u32::MAX), None);
    assert_eq!(segments(&map, 5, 0), Some(vec![]));
    assert!(map.guest(0x1ff0, 0x20, &mut 0).is_none());
    assert!(map.guest(0x1ff0, 0x10, &mut 0).is_some());
}

#[test]
fn offsets_need_not_be_pages() {
    let fd = memfd(0x3000);
    let whole = MemoryMap::new(&[shared(0, 0x3000, &fd, 0)]).unwrap();
    let odd = MemoryMap::new(&[shared(0x100, 0x1000, &fd, 0x1234)]).unwrap();
    let (mut hint, mut list) = (7, SgList::new());
    assert!(whole.append(0x1234, 4, &mut hint, &mut list));
    list.as_sg().copy_in(0, b"here");
    list.clear();
    assert!(odd.append(0x100, 4, &mut hint, &mut list));
    assert_eq!(list.as_sg().to_vec(4), b"here");
}

#[test]
fn a_file_that_is_too_short_is_refused() {
    let fd = memfd(0x1fff);
    let error = MemoryMap::new(&[shared(0, 0x1000, &fd, 0x1000)]).unwrap_err();
    assert!(matches!(error, MapError::FileTooShort { needed: 0x2000, actual: 0x1fff, .. }), "{error}");
    assert!(MemoryMap::new(&[shared(0, 0xfff, &fd, 0x1000)]).is_ok());
    assert!(MemoryMap::new(&[shared(0, u64::MAX - 0x1000, &fd, 0x1000)]).is_err());
}

#[test]
fn what_is_no_file_is_refused() {
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = OwnedFd::from(pipe);
    assert!(matches!(MemoryMap::new(&[shared(0, 0x1000, &pipe, 0)]), Err(MapError::NotAFile { .. })));
}

#[test]
fn regions_come_and_go_and_mappings_stay() {
    let fd = memfd(0x2000);
    let one = MemoryMap::new(&[shared(0x10000, 0x1000, &fd, 0)]).unwrap();
    let two = one.with(&shared(0, 0x1000, &fd, 0x1000)).unwrap();
    let list = |map: &MemoryMap, address| {
        let mut list = SgList::new();
        map.append(address, 8, &mut 0, &mut list).then_some(list)
    };
    let kept = list(&one, 0x10000).unwrap();
    assert!(list(&one, 0).is_none());
    let three = two.without(&region(0, 0x1000, 0x1000));
    drop((one, two));
    assert!(list(&three, 0).is_none());
    kept.as_sg().copy_in(0, b"still on");
    assert_eq!(list(&three, 0x10000).unwrap().as_sg().to_vec(8), b"still on");
}

#[test]
fn user_addresses_are_translated_too() {
    let fd = memfd(0x2000);
    let map = MemoryMap::new(&[shared(0x5000, 0x2000, &fd, 0)]).unwrap();
    let user = region(0x5000, 0x2000, 0).user_address;
    assert_eq!(map.user(user + 0x10, 0x10), map.guest(0x5010, 0x10, &mut 0));
    assert!(map.user(user + 0x10, 0x2000).is_none());
    assert!(map.user(user - 1, 1).is_none());
    assert!(map.user(u64::MAX, 2).is_none());
}

proptest! {
    #[test]
    fn translation_agrees_with_a_model(
        address in 0u64..0x6000, length in 0u32..0x4000, hint in 0usize..4,
    ) {
        let fd = memfd(0x3000);
        let table = [shared(0x1000, 0x800, &fd, 0), shared(0x1800, 0x1000, &fd, 0x1000), shared(0x4000, 0x800, &fd, 0x800)];
        let map = MemoryMap::new(&table).unwrap();
        let is_memory = |at: u64| (0x1000..0x2800).contains(&at) || (0x4000..0x4800).contains(&at);
        let expected = (address..address + u64::from(length)).all(is_memory);
        let (mut hint, mut list) = (hint, SgList::new());
        prop_assert_eq!(map.append(address, length, &mut hint, &mut list), expected);
        if expected {
            prop_assert_eq!(Sg::new(list.segs()).len(), u64::from(length));
        }
    }
}

#[test]
fn memory_that_is_truncated_reads_as_zeroes_and_is_lost() {
    let (gone, stays) = (memfd(0x4000), memfd(0x1000));
    let table = [shared(0x1000, 0x3000, &gone, 0x1000), shared(0x8000, 0x1000, &stays, 0)];
    let map = MemoryMap::new(&table).unwrap();
    let other = MemoryMap::new(&table[1..]).unwrap();
    let list = |address, length| {
        let mut list = SgList::new();
        assert!(map.append(address, length, &mut 0, &mut list));
        list
    };
    list(0x1000, 4).as_sg().copy_in(0, b"here");
    list(0x8000, 4).as_sg().copy_in(0, b"safe");
    rustix::fs::ftruncate(&gone, 0x1000).unwrap();
    assert!(!map.is_lost());
    assert_eq!(list(0x3ff0, 8).as_sg().to_vec(8), [0; 8]);
    assert!(map.is_lost() && !other.is_lost());
    // All of the region is replaced at once, and can be written.
    assert_eq!(list(0x1000, 4).as_sg().to_vec(4), [0; 4]);
    list(0x1000, 4).as_sg().copy_in(0, b"ours");
    assert_eq!(list(0x8000, 4).as_sg().to_vec(4), b"safe");
    // What is made of the rest is sound, what is made with the lost region is not.
    assert!(map.without(&region(0x8000, 0x1000, 0)).is_lost());
    let rest = map.without(&region(0x1000, 0x3000, 0x1000));
    drop(map);
    assert!(!rest.is_lost());
}

#[test]
fn huge_pages_that_are_not_there_are_survived() {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let Ok(fd) = rustix::fs::memfd_create("lunette-test", flags) else {
        return eprintln!("skipped: this kernel has no huge pages");
    };
    rustix::fs::ftruncate(&fd, 4 << 20).unwrap();
    // A region within the second page.
    let map = MemoryMap::new(&[shared(0, 0x1000, &fd, (2 << 20) + 0x5000)]).unwrap();
    rustix::fs::ftruncate(&fd, 2 << 20).unwrap();
    let mut list = SgList::new();
    assert!(map.append(0, 4, &mut 0, &mut list));
    assert_eq!(list.as_sg().to_vec(4), [0; 4]);
    assert!(map.is_lost());
}

#[test]
fn places_of_mappings_are_used_again() {
    let fd = memfd(0x1000);
    for _ in 0..0x2_0000 {
        MemoryMap::new(&[shared(0, 0x1000, &fd, 0)]).unwrap();
    }
}

#[test]
fn a_map_gives_its_memory_back_when_its_last_owner_goes() {
    use std::sync::{Arc, mpsc};
    let fd = memfd(0x1000);
    let (give, given) = mpsc::channel();
    let map = MemoryMap::new(&[shared(0, 0x1000, &fd, 0)]).unwrap();
    let map = Arc::new(map.released_to(Box::new(move |unused| give.send(unused).unwrap())));
    let other = map.clone();
    drop(map);
    assert!(given.try_recv().is_err());
    drop(other);
    assert!(given.try_recv().is_ok());
}

#[test]
fn a_broken_page_that_nobody_has_accessed_is_no_loss() {
    let fd = memfd(0x1000);
    let map = MemoryMap::new(&[shared(0, 0x1000, &fd, 0)]).unwrap();
    let host = map.guest(0, 1, &mut 0).unwrap();
    // SAFETY: all zeroes is a `siginfo_t`, whose address field follows four numbers.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        info.si_signo = libc::SIGBUS;
        info.si_code = libc::BUS_MCEERR_AO;
        (&raw mut info).cast::<*mut u8>().add(2).write(host.as_ptr());
        let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        let sent = libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, libc::SIGBUS, &raw const info);
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }
    assert!(!map.is_lost());
}
