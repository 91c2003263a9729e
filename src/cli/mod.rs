//! The `gradwire` program: flags in, figures and exit codes out.
//!
//! Results go to stdout, everything else to stderr. Exit 0 is success; 1 means that the work failed, with one line
//! that names the cause, the object and the next step; 2 is wrong usage; 130 an interrupt. A user never sees a panic:
//! the hook turns one into such a line too. No command leaves a partial file behind.
//!
//! `args` is what a user may type, one file a command does it, `training` is what `train` and `quickstart` share.
//! Absent on purpose: flags of commands that do not exist yet. Only the program's main thread calls [`main`], once.

mod args;
mod bench;
mod coordinator;
mod data;
mod drain;
mod failure;
mod job;
mod predict;
mod progress;
mod quickstart;
mod scratch;
mod server;
mod signals;
mod status;
mod train;
mod training;
mod up;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command, TrainModel};
use failure::Failure;

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    report_panics_in_one_line();
    let result = signals::watch().and_then(|()| match Args::try_parse() {
        Ok(args) => run(args),
        Err(error) => usage(&error),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.line());
            ExitCode::from(failure.code())
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    gradwire_kernels::Isa::init()?;
    crate::lane::on_tcp_fallback(complain);
    crate::lane::check_tcp_variable()?;
    match args.command {
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Train { model: TrainModel::Lr(args) } => train::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Coordinator(args) => coordinator::run(&args),
        Command::Server(args) => server::run(&args),
        Command::Up(args) => up::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Bench { op } => bench::run(&op),
    }
}

/// Help and version go to stdout and are no error; a mistake becomes one line.
fn usage(error: &clap::Error) -> Result<(), Failure> {
    if !error.use_stderr() {
        return Ok(write!(io::stdout(), "{error}")?);
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nothing was asked for: the whole help serves better than a line about it.
        let _ = write!(io::stderr(), "{error}");
        return Err(Failure::usage_shown());
    }
    // The text of clap is a paragraph of cause and tips, then the usage after a blank line.
    let text = error.to_string();
    let cause: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let cause = cause.join(" ");
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause);
    Err(Failure::usage(format!("{cause}; add --help to see what the command takes")))
}

/// One line on stderr. Nothing is left to do when even that cannot be written.
fn complain(line: &str) {
    if !line.is_empty() {
        let _ = writeln!(io::stderr(), "gradwire: {line}");
    }
}

/// A panic is our bug: said in one line, with its place, and the process ends at once and leaves no partial file.
fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = text.unwrap_or("no message").replace('\n', " ");
        complain(&format!("internal error{place}: {what}; please report this line and the command"));
        crate::app::discard_and_exit(1)
    }));
}
