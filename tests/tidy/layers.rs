//! Checks on what may use what: dependencies point down, protocol modules stay free of the outside, data paths of cost.

use crate::rust::{code, line_of, paths, without_tests};
use crate::tree::{File, Finding};

/// What each part of `src` may name of the others, as `crate::…` prefixes; the contract is section 3 of the design.
///
/// `ALL` is the program itself, which sees everything. A part that is not here is a finding: a new folder starts with
/// a decision on where it stands.
const LAYERS: [(&str, &[&str]); 13] = [
    ("wire", &[]),
    ("store", &["wire"]),
    ("lane", &["wire"]),
    ("chain", &["wire", "store"]),
    ("cluster", &["wire", "store", "chain"]),
    ("control", &["wire", "lane", "store", "cluster"]),
    ("server", &["wire", "lane", "store", "chain", "cluster", "control"]),
    ("client", CLIENT),
    ("linalg", &[]),
    ("data", &["linalg"]),
    ("app", &["client", "linalg", "data"]),
    ("cli", ALL),
    ("main", &["cli"]),
];
const ALL: &[&str] = &["*"];
/// Of the store, a client knows what a table is and how a key list is called, not where rows live.
const CLIENT: &[&str] = &[
    "wire",
    "lane",
    "cluster",
    "control",
    "store::schema",
    "store::TableSchema",
    "store::TableKind",
    "store::Init",
    "store::SchemaError",
    "store::Digest",
];

/// Single files that may name more than their part: the embedded cluster starts servers for a client in one process.
const LAYER_EXCEPTIONS: [(&str, &str); 1] = [("src/client/embedded", "server")];

/// Parts whose code decides and never acts: time, bytes and randomness come in as arguments.
const SANS_IO: [&str; 2] = ["src/chain/", "src/cluster/"];
/// The coordinator's durable stores live beside its state machine and do act.
const SANS_IO_EXCEPT: &str = "src/cluster/store";
const OUTSIDE: [&str; 11] = [
    "std::net",
    "std::thread",
    "std::fs",
    "std::process",
    "std::env",
    "std::os",
    "rand",
    "fastrand",
    "getrandom",
    "gradwire_ffi",
    "rustix",
];
const CLOCKS: [&str; 2] = ["Instant::now", "SystemTime::now"];

/// What costs an allocation, a lock or a log line.
const NOT_ON_A_DATAPATH: [&str; 7] =
    ["Vec::new", "vec!", "Box::new", "format!", "println", "lock()", "tracing::"];

/// `src/chain/log.rs` -> `chain`; `None` for files outside `src` and for the library's root.
fn part_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let part = inside.split('/').next()?.trim_end_matches(".rs");
    (part != "lib").then_some(part)
}

/// How many modules deep a file is: `src/chain/mod.rs` 1, `src/chain/log.rs` 2.
fn depth_of(path: &str) -> usize {
    let parts = path.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    parts.filter(|part| !matches!(*part, "mod" | "lib" | "main")).count()
}

/// The path as seen from the crate's root, if it goes there: `crate::a::b`, `gradwire::a::b`, `super::super::a::b`.
fn from_root<'a>(path: &'a str, file: &str) -> Option<&'a str> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return Some(rest);
    }
    if file == "src/main.rs" {
        return path.strip_prefix("gradwire::");
    }
    let mut rest = path;
    let mut climbed = 0;
    while let Some(above) = rest.strip_prefix("super::") {
        rest = above;
        climbed += 1;
    }
    (climbed > 0 && climbed >= depth_of(file)).then_some(rest)
}

fn starts_with_path(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Uses of another part that the table does not allow. Test code may use what it likes.
pub(crate) fn upward_dependencies(file: &File) -> Vec<Finding> {
    let Some(part) = part_of(&file.path) else { return Vec::new() };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == part) else {
        let what =
            format!("`{part}` is not in the table of layers in tests/tidy/layers.rs; decide what it may use");
        return vec![Finding::of(&file.path, what)];
    };
    if *allowed == ALL {
        return Vec::new();
    }
    let code = without_tests(&code(&file.text));
    let mut found = Vec::new();
    for (at, path) in paths(&code) {
        let Some(used) = from_root(&path, &file.path) else { continue };
        let own = starts_with_path(used, part);
        let listed = allowed.iter().any(|prefix| starts_with_path(used, prefix));
        let excepted = LAYER_EXCEPTIONS
            .iter()
            .any(|(files, target)| file.path.starts_with(files) && starts_with_path(used, target));
        if !own && !listed && !excepted {
            let may = if allowed.is_empty() { "nothing of the crate".to_owned() } else { allowed.join(", ") };
            let what = format!("`{part}` uses `{used}`; dependencies point down, it may use {may}");
            found.push(Finding::at(&file.path, line_of(&code, at), what));
        }
    }
    found
}

/// Clocks, sockets, threads, files and randomness in the protocol modules.
pub(crate) fn outside_in_sans_io(file: &File) -> Vec<Finding> {
    let sans_io = SANS_IO.iter().any(|folder| file.path.starts_with(folder));
    if !sans_io || file.path.starts_with(SANS_IO_EXCEPT) {
        return Vec::new();
    }
    let code = without_tests(&code(&file.text));
    paths(&code)
        .into_iter()
        .filter(|(_, path)| {
            let touches = OUTSIDE.iter().any(|outside| starts_with_path(path, outside));
            // `SystemTime` is named by whatever path; its last two parts say which clock is read.
            touches || CLOCKS.iter().any(|clock| path == clock || path.ends_with(&format!("::{clock}")))
        })
        .map(|(at, path)| {
            let what =
                format!("`{path}` in a sans-IO module; take it as an argument or give it back as an action");
            Finding::at(&file.path, line_of(&code, at), what)
        })
        .collect()
}

/// Allocation, locks and logging in files that promise to have none.
pub(crate) fn cost_on_a_datapath(file: &File) -> Vec<Finding> {
    if !file.path.ends_with("_datapath.rs") {
        return Vec::new();
    }
    let code = without_tests(&code(&file.text));
    NOT_ON_A_DATAPATH
        .into_iter()
        .flat_map(|cost| code.match_indices(cost))
        .map(|(at, cost)| Finding::at(&file.path, line_of(&code, at), format!("`{cost}` on a data path")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(check: fn(&File) -> Vec<Finding>, path: &str, text: &str) -> usize {
        check(&File::new(path, text)).len()
    }

    #[test]
    fn a_dependency_that_points_up_is_found() {
        let check = |path: &str, text: &str| count(upward_dependencies, path, text);
        assert_eq!(check("src/wire/ids.rs", "use crate::store::Store;"), 1);
        assert_eq!(check("src/store/mod.rs", "use crate::{wire::TableId, chain::{Log, Lsn}};"), 2);
        assert_eq!(check("src/lane/ring.rs", "fn a() { crate::server::run() }"), 1);
        assert_eq!(check("src/lane/ring.rs", "use super::super::server::run;"), 1);
        assert_eq!(check("src/app/lr.rs", "use crate::Session;"), 1, "the root's shorthands hide the layer");
        assert_eq!(check("src/main.rs", "fn main() { gradwire::server::run() }"), 1);
        assert_eq!(check("src/misplaced/mod.rs", ""), 1);
    }

    #[test]
    fn a_dependency_that_points_down_is_fine() {
        let check = |path: &str, text: &str| count(upward_dependencies, path, text);
        assert_eq!(
            check(
                "src/store/mod.rs",
                "use crate::wire::TableId;\nuse crate::store::index;\nuse super::wire::A;"
            ),
            0
        );
        assert_eq!(check("src/chain/log.rs", "use super::batch::Batch;\n// crate::server\n"), 0);
        assert_eq!(check("src/chain/log.rs", "#[cfg(test)]\nmod tests { use crate::server::Shard; }"), 0);
        assert_eq!(check("src/cli/train.rs", "use crate::server::Shard;"), 0);
        assert_eq!(check("src/main.rs", "fn main() { gradwire::cli::run() }"), 0);
        assert_eq!(check("src/lib.rs", "pub use crate::client::Session;"), 0);
    }

    #[test]
    fn only_the_embedded_cluster_reaches_from_client_to_server() {
        assert_eq!(count(upward_dependencies, "src/client/embedded.rs", "use crate::server::Shard;"), 0);
        assert_eq!(count(upward_dependencies, "src/client/session.rs", "use crate::server::Shard;"), 1);
        assert_eq!(
            count(upward_dependencies, "src/client/session.rs", "use crate::store::schema::TableSchema;"),
            0
        );
        assert_eq!(count(upward_dependencies, "src/client/session.rs", "use crate::store::Store;"), 1);
    }

    #[test]
    fn the_outside_in_a_sans_io_module_is_found() {
        let check = |text: &str| count(outside_in_sans_io, "src/chain/replica.rs", text);
        assert_eq!(check("let now = std::time::Instant::now();"), 1);
        assert_eq!(check("let now = SystemTime::now();"), 1);
        assert_eq!(check("use std::{collections::BTreeMap, net::TcpStream, thread};"), 2);
        assert_eq!(check("let x: u8 = rand::random();"), 1);
        assert_eq!(check("use gradwire_ffi::sync::Ring;"), 1);
        assert_eq!(count(outside_in_sans_io, "src/cluster/map.rs", "use std::fs;"), 1);
    }

    #[test]
    fn time_as_an_argument_and_the_stores_of_the_coordinator_are_fine() {
        let check = |text: &str| count(outside_in_sans_io, "src/chain/replica.rs", text);
        assert_eq!(check("use std::time::Instant; fn tick(now: Instant) {}"), 0);
        assert_eq!(check("#[cfg(test)] mod tests { use std::thread; } // std::fs"), 0);
        assert_eq!(count(outside_in_sans_io, "src/cluster/store_file.rs", "use std::fs;"), 0);
        assert_eq!(count(outside_in_sans_io, "src/server/mod.rs", "use std::fs;"), 0);
    }

    #[test]
    fn cost_on_a_datapath_is_found() {
        let check = |text: &str| count(cost_on_a_datapath, "src/lane/tcp_datapath.rs", text);
        for cost in NOT_ON_A_DATAPATH {
            assert_eq!(check(&format!("fn a() {{ {cost}(b) }}")), 1, "{cost}");
        }
        assert_eq!(check("fn a() {} // vec!\n#[cfg(test)] mod tests { fn b() { vec![1]; } }"), 0);
        assert_eq!(count(cost_on_a_datapath, "src/lane/tcp_setup.rs", "vec![1]"), 0);
    }
}
