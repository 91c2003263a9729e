//! The repository as the checks see it: tracked text files, and which of them are test code.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::rust;

/// One text file: its path from the repository's root with `/` between parts, and what it says.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// What a check found: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding(pub(crate) String);

impl Finding {
    pub(crate) fn at(path: &str, line: usize, what: impl std::fmt::Display) -> Self {
        Self(format!("{path}:{line}: {what}"))
    }

    pub(crate) fn of(path: &str, what: impl std::fmt::Display) -> Self {
        Self(format!("{path}: {what}"))
    }
}

/// Every text file that is tracked or would be by `git add`. Outside git: every file except build output.
pub(crate) fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = listed_by_git(root).unwrap_or_else(|| walked(root));
    names
        .into_iter()
        .filter_map(|path| {
            // A file that is not UTF-8 is data, not text; one that is listed but deleted has nothing to check.
            let text = std::fs::read_to_string(root.join(&path)).ok()?;
            Some(File { path, text })
        })
        .collect()
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    // Sources unpacked inside another repository would list that one's files: none of ours.
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .ok()?;
    let names = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| {
        let unique: BTreeSet<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
        unique.into_iter().map(str::to_owned).collect()
    })
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != "target" && name != ".git" => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Paths of the Rust files that only tests compile: everything under a `tests/` or `benches/` folder, and the files of
/// modules declared behind `#[cfg(test)]`. An entry that ends in `/` is a folder.
pub(crate) struct TestCode(BTreeSet<String>);

impl TestCode {
    pub(crate) fn of(files: &[File]) -> Self {
        let mut paths = BTreeSet::new();
        for file in files.iter().filter(|file| file.is_rust()) {
            let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
            let stem = name.trim_end_matches(".rs");
            let home = match stem {
                "mod" | "lib" | "main" => folder.to_owned(),
                _ => format!("{folder}/{stem}"),
            };
            for module in rust::test_modules_in_files(&rust::code(&file.text)) {
                paths.insert(format!("{home}/{module}.rs"));
                paths.insert(format!("{home}/{module}/"));
            }
        }
        Self(paths)
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        path.split('/').rev().skip(1).any(|part| part == "tests" || part == "benches")
            || self.0.iter().any(|known| match known.strip_suffix('/') {
                Some(_) => path.starts_with(known.as_str()),
                None => path == known,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_seen() {
        let files = files();
        for expected in ["Cargo.toml", "src/lib.rs", "src/main.rs", "tests/tidy.rs"] {
            assert!(files.iter().any(|file| file.path == expected), "{expected} is not among the files");
        }
        assert!(!files.iter().any(|file| file.path.starts_with("target/")), "build output was listed");
    }

    #[test]
    fn modules_behind_cfg_test_are_test_code() {
        let files = [
            File::new("src/chain/mod.rs", "pub mod log;\n#[cfg(test)]\nmod model;\n"),
            File::new("src/chain/log.rs", "#[cfg(test)]\n#[path = \"x\"]\nmod cases;\n"),
        ];
        let tests = TestCode::of(&files);
        for path in
            ["src/chain/model.rs", "src/chain/model/client.rs", "src/chain/log/cases.rs", "tests/a.rs"]
        {
            assert!(tests.contains(path), "{path} is test code");
        }
        for path in ["src/chain/mod.rs", "src/chain/log.rs", "src/model.rs"] {
            assert!(!tests.contains(path), "{path} is shipped code");
        }
    }
}
