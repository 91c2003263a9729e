//! The `gradwire` program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    gradwire::cli::main()
}
