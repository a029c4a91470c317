//! Pinned event loops with one io_uring each; the only crate that starts threads.
