#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        // As in every program with a Rust `main`: a pipe that nobody reads is an error, not the end.
        // SAFETY: no other thread runs yet, and ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    },
    |data: &[u8]| lunette_fuzz::vhost_user_session(data)
);
