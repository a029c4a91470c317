//! Guest memory: the front end's files mapped, and guest addresses turned into segments.
//!
//! A [`MemoryMap`] never changes. Every change of the memory table makes a new one, which shares the mappings that stay.
//! Whoever has operations under way keeps the map that their addresses were translated by; the last owner unmaps.
//!
//! A front end that truncates its file takes memory away under our hands. That is survived (see `guard`), and the map
//! [is lost](MemoryMap::is_lost) from then on.

mod guard;
mod log;
mod mapping;

use lunette_store::{Seg, SgList};
use lunette_vhost_user::{MemoryRegion, SharedRegion};
use mapping::Region;
use std::fmt;
use std::io;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) use log::DirtyLog;
pub(crate) use mapping::{FENCED, MapError};

/// Guest memory as it is between two changes.
#[derive(Default)]
pub(crate) struct MemoryMap {
    /// By guest address; they do not overlap.
    regions: Vec<Region>,
    /// Whether memory was lost, as far as `losses_seen` knows.
    lost: AtomicBool,
    losses_seen: AtomicU64,
    release: Option<Release>,
}

/// Memory that nobody uses any more. It is unmapped when it is dropped, which may take long.
pub(crate) struct Unused {
    _regions: Vec<Region>,
}

/// What is called with the memory of a map that has no owner any more.
pub(crate) type Release = Box<dyn FnOnce(Unused) + Send + Sync>;

impl Drop for MemoryMap {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release(Unused { _regions: mem::take(&mut self.regions) });
        }
    }
}

impl fmt::Debug for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.regions).finish()
    }
}

/// A run of guest addresses and where it is in this process, as long as the map lives that it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    guest: u64,
    size: u64,
    host: NonNull<u8>,
}

impl Window {
    /// The bytes of a range that is not empty, if it lies in here.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64, length: u32) -> Option<NonNull<u8>> {
        let offset = address.wrapping_sub(self.guest);
        // An empty range is longer than any other by this comparison.
        (offset < self.size && u64::from(length).wrapping_sub(1) < self.size - offset)
            // SAFETY: the offset is inside the region, all of which is mapped.
            .then(|| unsafe { self.host.add(offset as usize) })
    }
}

impl MemoryMap {
    /// Maps a whole memory table.
    pub(crate) fn new(table: &[SharedRegion]) -> Result<Self, MapError> {
        let regions = table.iter().map(Region::map).collect::<Result<_, _>>()?;
        Ok(Self::sorted(regions))
    }

    /// This map and one region more.
    pub(crate) fn with(&self, region: &SharedRegion) -> Result<Self, MapError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(region)?);
        Ok(Self::sorted(regions))
    }

    /// This map without a region.
    pub(crate) fn without(&self, region: &MemoryRegion) -> Self {
        let mut regions = self.regions.clone();
        regions.retain(|other| other.guest != region.guest_address);
        Self::sorted(regions)
    }

    /// The same, whose memory is given to `release` in the end rather than unmapped at once.
    pub(crate) fn released_to(mut self, release: Release) -> Self {
        self.release = Some(release);
        self
    }

    /// Has all of it in memory and keeps it there, so that no access waits for a page. Takes long; what was pinned once is
    /// not pinned again.
    pub(crate) fn pin(&self) -> io::Result<()> {
        self.regions.iter().try_for_each(Region::pin)
    }

    /// Whether an access has found some of the memory gone: the front end has truncated its file.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        let losses = guard::losses();
        if losses != self.losses_seen.load(Ordering::Relaxed) {
            self.look_for_losses(losses);
        }
        self.lost.load(Ordering::Relaxed)
    }

    #[cold]
    fn look_for_losses(&self, losses: u64) {
        if self.regions.iter().any(Region::is_lost) {
            self.lost.store(true, Ordering::Relaxed);
        }
        self.losses_seen.store(losses, Ordering::Relaxed);
    }

    fn sorted(mut regions: Vec<Region>) -> Self {
        regions.sort_by_key(|region| region.guest);
        Self { regions, lost: AtomicBool::new(false), losses_seen: AtomicU64::new(0), release: None }
    }

    /// Appends the bytes of a guest address range to `list`, in as many segments as it touches regions. `hint` is the
    /// region that is tried first and becomes the one that was found. Returns whether all of the range is memory.
    ///
    /// The segments are good for as long as the caller keeps this map.
    #[inline]
    pub(crate) fn append(&self, address: u64, length: u32, hint: &mut usize, list: &mut SgList) -> bool {
        if let Some(region) = self.regions.get(*hint) {
            let offset = address.wrapping_sub(region.guest);
            if offset < region.size && u64::from(length) <= region.size - offset && length > 0 {
                let (host, there) = region.part(offset, u64::from(length));
                // SAFETY: as in `append_parts`.
                list.push(unsafe { Seg::new(host.as_ptr(), there as usize) });
                return true;
            }
        }
        self.append_parts(address, length, hint, list)
    }

    #[cold]
    fn append_parts(&self, address: u64, length: u32, hint: &mut usize, list: &mut SgList) -> bool {
        let (mut address, mut left) = (address, u64::from(length));
        while left > 0 {
            let Some(region) = self.find(address, hint) else { return false };
            let (host, there) = region.part(address - region.guest, left);
            // SAFETY: the bytes are mapped for as long as this map lives, which the caller sees to, and no reference to
            // guest memory is ever made.
            list.push(unsafe { Seg::new(host.as_ptr(), there as usize) });
            left -= there;
            match address.checked_add(there) {
                Some(next) => address = next,
                None => return left == 0,
            }
        }
        true
    }

    /// Region `index`; nothing if there is none.
    pub(crate) fn window(&self, index: usize) -> Window {
        match self.regions.get(index) {
            Some(region) => Window { guest: region.guest, size: region.size, host: region.part(0, 0).0 },
            None => Window { guest: 0, size: 0, host: NonNull::dangling() },
        }
    }

    /// The bytes of a guest address range, if they lie in one region. They are mapped for as long as this map lives.
    pub(crate) fn guest(&self, address: u64, length: u64, hint: &mut usize) -> Option<NonNull<u8>> {
        let region = self.find(address, hint)?;
        let (host, there) = region.part(address - region.guest, length);
        (there == length).then_some(host)
    }

    /// The bytes of a range of the front end's own addresses, if they lie in one region.
    pub(crate) fn user(&self, address: u64, length: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.user).filter(|&offset| offset < region.size)?;
            let (host, there) = region.part(offset, length);
            (there == length).then_some(host)
        })
    }

    /// The guest address of a byte that is mapped by this map. `hint` is as in [`append`](Self::append).
    pub(crate) fn guest_address(&self, host: *const u8, hint: &mut usize) -> Option<u64> {
        if let Some(address) = self.regions.get(*hint).and_then(|region| region.guest_address(host)) {
            return Some(address);
        }
        let mut regions = self.regions.iter().enumerate();
        regions.find_map(|(index, region)| {
            let address = region.guest_address(host)?;
            *hint = index;
            Some(address)
        })
    }

    /// All memory: where it begins, and how many bytes there are.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.regions.iter().map(|region| (region.guest, region.size))
    }

    /// The first guest address behind all memory.
    pub(crate) fn end(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.guest.saturating_add(region.size))
    }

    #[inline]
    fn find(&self, address: u64, hint: &mut usize) -> Option<&Region> {
        if let Some(region) = self.regions.get(*hint)
            && address.wrapping_sub(region.guest) < region.size
        {
            return Some(region);
        }
        let index = self.regions.partition_point(|region| region.guest <= address).checked_sub(1)?;
        let region = &self.regions[index];
        if address - region.guest >= region.size {
            return None;
        }
        *hint = index;
        Some(region)
    }
}

#[cfg(test)]
mod tests;
