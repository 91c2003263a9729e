//! Checks on any text: nothing unfinished, nothing that only one machine has, decisions that can be cited.

use std::collections::BTreeMap;

use crate::rust::{line_of, words};
use crate::tree::{File, Finding};

/// Marks of unfinished work. Put together from halves, since this file is checked too.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
];

/// Roots of somebody's own folders: a path under one is right on one machine only.
const PRIVATE_ROOTS: [&str; 3] = [concat!("/ho", "me"), concat!("/wo", "rk"), concat!("/ro", "ot")];

/// Hosts that packages come from: which mirror a build uses is configured outside the repository.
const REGISTRY_HOSTS: [&str; 5] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("proxy.golang", ".org"),
];

const LOCK_SOURCE: &str = concat!("registry+https://github.com/rust-lang/crates", ".io-index");

/// Data may hold any words; what people write may not.
fn is_written_by_people(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_data = path.starts_with("tests/data/") || path.starts_with("fuzz/corpus/");
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_text = ["", "rs", "toml", "md", "sh", "py", "pyi", "yml", "yaml", "gitignore", "json", "service"];
    !is_data && name != "Cargo.lock" && !path.starts_with("LICENSE") && is_text.contains(&ending)
}

pub(crate) fn unfinished(file: &File) -> Vec<Finding> {
    if !is_written_by_people(&file.path) {
        return Vec::new();
    }
    let found = |mark: &'static str| {
        words(&file.text, mark).map(move |at| {
            Finding::at(
                &file.path,
                line_of(&file.text, at),
                format!("`{mark}`: finish it, or open an issue and delete the mark"),
            )
        })
    };
    UNFINISHED.into_iter().flat_map(found).collect()
}

pub(crate) fn machine_paths(file: &File) -> Vec<Finding> {
    if !is_written_by_people(&file.path) {
        return Vec::new();
    }
    let bytes = file.text.as_bytes();
    let found = |root: &'static str| {
        file.text.match_indices(root).filter_map(move |(at, _)| {
            let before = at.checked_sub(1).map_or(b' ', |index| bytes[index]);
            let after = bytes.get(at + root.len()).copied().unwrap_or(b' ');
            let inside_a_path = before.is_ascii_alphanumeric() || b"_.-~/})*<>]".contains(&before);
            let longer_name = after.is_ascii_alphanumeric() || b"_-".contains(&after);
            (!inside_a_path && !longer_name).then(|| {
                let advice = "a path of one machine; make it relative or an argument";
                Finding::at(&file.path, line_of(&file.text, at), format!("`{root}`: {advice}"))
            })
        })
    };
    PRIVATE_ROOTS.into_iter().flat_map(found).collect()
}

pub(crate) fn registry_hosts(file: &File) -> Vec<Finding> {
    if file.path.ends_with("Cargo.lock") {
        let sources = file.text.lines().enumerate().filter(|(_, line)| line.starts_with("source = "));
        return sources
            .filter(|(_, line)| !line.contains(LOCK_SOURCE))
            .map(|(at, _)| {
                Finding::at(&file.path, at + 1, "a package from somewhere else than the public registry")
            })
            .collect();
    }
    if !is_written_by_people(&file.path) {
        return Vec::new();
    }
    let found = |host: &'static str| {
        file.text.match_indices(host).map(move |(at, _)| {
            let advice = "name the package and its version; where it comes from is the user's configuration";
            Finding::at(&file.path, line_of(&file.text, at), format!("`{host}`: {advice}"))
        })
    };
    REGISTRY_HOSTS.into_iter().flat_map(found).collect()
}

/// `docs/decisions/NNNN-title.md`, each number once: other documents cite decisions by number.
pub(crate) fn decision_numbers(files: &[File]) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for file in files {
        let Some(name) = file.path.strip_prefix("docs/decisions/") else { continue };
        let number = match name.split_once('-') {
            Some((number, title))
                if number.len() == 4
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                    && title.ends_with(".md") =>
            {
                number
            }
            _ => {
                found.push(Finding::of(&file.path, "a decision is named NNNN-title.md"));
                continue;
            }
        };
        if let Some(other) = seen.insert(number, &file.path) {
            found.push(Finding::of(
                &file.path,
                format!("{other} has the same number; take the next free one"),
            ));
        }
    }
    found
}

/// Documents that the README, the code or the tests point at.
pub(crate) fn missing_documents(files: &[File]) -> Vec<Finding> {
    ["docs/design.md", "docs/testing.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"]
        .into_iter()
        .filter(|path| !files.iter().any(|file| file.path == *path))
        .map(|path| Finding::of(path, "is missing"))
        .collect()
}

/// The parts that `test.sh` has, each explained in `docs/testing.md` as a table row that starts with its name.
pub(crate) fn undocumented_parts(script: &str, manual: &str) -> Vec<Finding> {
    let Some(list) = script.lines().find_map(|line| line.strip_prefix("ALL_PARTS=(")) else {
        return vec![Finding::of("cluster-scripts/test.sh", "has no line `ALL_PARTS=(…)`")];
    };
    list.trim_end_matches(')')
        .split_whitespace()
        .filter(|part| !manual.contains(&format!("| `{part}` |")))
        .map(|part| Finding::of("docs/testing.md", format!("does not explain the part `{part}` of test.sh")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(check: fn(&File) -> Vec<Finding>, path: &str, text: &str) -> usize {
        check(&File::new(path, text)).len()
    }

    #[test]
    fn unfinished_marks_are_found_in_code_and_prose() {
        for mark in UNFINISHED {
            assert_eq!(count(unfinished, "src/a.rs", &format!("// {mark} later")), 1, "{mark}");
            assert_eq!(count(unfinished, "docs/a.md", mark), 1, "{mark}");
            assert_eq!(count(unfinished, "tests/data/a.csv", mark), 0, "{mark}");
        }
        assert_eq!(
            count(unfinished, "Cargo.toml", concat!("to", "do = \"deny\"")),
            0,
            "a lint's name is no mark"
        );
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for root in PRIVATE_ROOTS {
            assert_eq!(count(machine_paths, "a.sh", &format!("cd {root}/me/gradwire")), 1, "{root}");
            assert_eq!(count(machine_paths, "src/a.rs", &format!("\"{root}\"")), 1, "{root}");
            assert_eq!(
                count(machine_paths, "a.md", &format!("net{root} {root}less $(pwd){root}")),
                0,
                "{root}"
            );
        }
    }

    #[test]
    fn registry_hosts_are_found_and_the_lock_file_names_only_the_public_one() {
        for host in REGISTRY_HOSTS {
            assert_eq!(count(registry_hosts, "a.py", &format!("https://mirror.{host}/x")), 1, "{host}");
        }
        assert_eq!(count(registry_hosts, "Cargo.lock", &format!("source = \"{LOCK_SOURCE}\"\n")), 0);
        assert_eq!(count(registry_hosts, "Cargo.lock", "source = \"sparse+https://mirror.example/\"\n"), 1);
    }

    #[test]
    fn decisions_with_the_same_number_or_none_are_found() {
        let decisions = |names: &[&str]| {
            let files: Vec<File> =
                names.iter().map(|name| File::new(&format!("docs/decisions/{name}"), "")).collect();
            decision_numbers(&files).len()
        };
        assert_eq!(decisions(&["0001-a.md", "0002-b.md"]), 0);
        assert_eq!(decisions(&["0001-a.md", "0001-b.md"]), 1);
        assert_eq!(decisions(&["notes.md"]), 1);
    }

    #[test]
    fn a_missing_document_is_found() {
        assert!(missing_documents(&[]).len() > 3);
    }

    #[test]
    fn a_part_without_an_explanation_is_found() {
        assert_eq!(undocumented_parts("ALL_PARTS=(fmt lint)", "| `fmt` | x |\n| `lint` | y |").len(), 0);
        assert_eq!(undocumented_parts("ALL_PARTS=(fmt lint)", "| `fmt` | x |").len(), 1);
        assert_eq!(undocumented_parts("", "").len(), 1);
    }
}
