//! How large a store is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of bytes that may change while others look at it. A clone is the same size, and changes with it.
#[derive(Clone, Debug)]
pub struct Size(Arc<AtomicU64>);

impl Size {
    /// The bytes that there are now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// There are so many from now on. What has made them is seen by whoever sees this.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Release);
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }
}

impl PartialEq for Size {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Size {}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn a_clone_changes_with_it() {
        let size = Size::from(512);
        let (clone, other) = (size.clone(), Size::from(512));
        size.set(1024);
        assert_eq!((clone.get(), other.get()), (1024, 512));
        assert!(clone == size && other != size);
    }
}
