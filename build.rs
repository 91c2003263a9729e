//! A fact about this build, given to the crate; nothing here can fail a build.
//!
//! `GRADWIRE_COMMIT` (environment of the compilation): the short commit hash for `--version` and every report, or
//! `unknown` where the sources are not a git checkout.
#![allow(clippy::print_stdout, reason = "cargo reads a build script's instructions from its standard output")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=GRADWIRE_COMMIT={commit}");
    watch_commit();
}

/// Runs this script again when the commit changes.
///
/// Only the files that name *this* checkout's commit are watched, not the folder of all branches: a commit on another
/// branch must not rebuild the crate. A file that is not there is not named, since cargo takes a missing file for a
/// changed one and would run the script on every build; the log of HEAD covers a branch file that appears later.
fn watch_commit() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
    for name in names {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// The trimmed output of a git command in the package's folder, where cargo runs build scripts; `None` on any failure.
///
/// Sources unpacked inside somebody else's repository have no commit of their own, hence the look for `.git`.
fn git(arguments: &[&str]) -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
