//! The lunette program. All of it is in the library of the same name, where tests and fuzzers reach it.

fn main() -> std::process::ExitCode {
    lunette::main()
}
