//! Checks on one Rust file: size, names, reasons beside exceptions, and where unsafe code may be.

use crate::rust::{attributes, closing, code, line_of, words};
use crate::tree::{File, Finding};

pub(crate) const LINES_WARN: usize = 600;
pub(crate) const LINES_MAX: usize = 900;

/// Names that say nothing about what is inside, so that everything ends up there.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];

pub(crate) fn too_long(file: &File) -> Vec<Finding> {
    match file.text.lines().count() {
        lines if lines > LINES_MAX => {
            vec![Finding::of(&file.path, format!("{lines} lines, at most {LINES_MAX}; split it by action"))]
        }
        _ => Vec::new(),
    }
}

/// A warning, not a failure: time to think about a split.
pub(crate) fn getting_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_WARN && lines <= LINES_MAX)
        .then(|| format!("{}: {lines} lines, over {LINES_WARN}; think about a split by action", file.path))
}

pub(crate) fn empty_names(file: &File) -> Vec<Finding> {
    let advice = "says nothing about what is inside; name it after what it does";
    let in_path = file.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let mut found: Vec<Finding> = in_path
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| Finding::of(&file.path, format!("`{part}` {advice}")))
        .collect();
    let code = code(&file.text);
    for at in words(&code, "mod") {
        let name = code[at + 3..].trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next();
        if let Some(name) = name.filter(|name| EMPTY_NAMES.contains(name)) {
            found.push(Finding::at(&file.path, line_of(&code, at), format!("module `{name}` {advice}")));
        }
    }
    found
}

/// `allow(…)` and `expect(…)` in attributes carry `reason = "…"`.
pub(crate) fn exceptions_without_reason(file: &File) -> Vec<Finding> {
    let code = code(&file.text);
    let mut found = Vec::new();
    for (start, end) in attributes(&code) {
        for name in ["allow", "expect"] {
            for at in words(&code[start..end], name).map(|at| start + at) {
                let open = at + name.len();
                let is_list = code[open..].starts_with('(');
                if is_list && words(&code[open..closing(&code, open)], "reason").next().is_none() {
                    let what = format!("`{name}(…)` without `reason = \"…\"`");
                    found.push(Finding::at(&file.path, line_of(&code, at), what));
                }
            }
        }
    }
    found
}

/// The word `unsafe` outside the two crates that may use it.
pub(crate) fn unsafe_out_of_place(file: &File) -> Vec<Finding> {
    if file.path.starts_with("ffi/") || file.path.starts_with("kernels/") {
        return Vec::new();
    }
    let code = code(&file.text);
    words(&code, "unsafe")
        .map(|at| Finding::at(&file.path, line_of(&code, at), "unsafe code belongs into `ffi` or `kernels`"))
        .collect()
}

/// Every unsafe block and impl has `SAFETY:` on its line, in the three lines above, or in the comment that ends there.
pub(crate) fn unsafe_without_argument(file: &File) -> Vec<Finding> {
    let code = code(&file.text);
    let lines: Vec<&str> = file.text.lines().collect();
    words(&code, "unsafe")
        .filter(|&at| {
            let next = code[at + "unsafe".len()..].trim_start();
            next.starts_with('{') || words(next, "impl").next() == Some(0)
        })
        .map(|at| line_of(&code, at))
        .filter(|&line| {
            let near = line.saturating_sub(4);
            let is_comment = |index: &usize| lines[*index].trim_start().starts_with("//");
            // The comment may be longer than three lines: from its last line, which is near, up to its first.
            let top = (0..line - 1).rev().skip_while(|index| !is_comment(index) && *index > near);
            let first = top.take_while(|index| is_comment(index)).last().unwrap_or(near).min(near);
            !lines[first..line].iter().any(|text| text.contains("SAFETY:"))
        })
        .map(|line| {
            Finding::at(&file.path, line, "unsafe without a `// SAFETY:` that names the facts it rests on")
        })
        .collect()
}

/// The roots of the library and the program forbid unsafe code in everything below them.
pub(crate) fn unsafe_not_forbidden(file: &File) -> Vec<Finding> {
    let is_root = file.path == "src/lib.rs" || file.path == "src/main.rs";
    let forbids = code(&file.text).contains("#![forbid(unsafe_code)]");
    match is_root && !forbids {
        true => vec![Finding::of(&file.path, "must say #![forbid(unsafe_code)]")],
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(check: fn(&File) -> Vec<Finding>, path: &str, text: &str) -> usize {
        check(&File::new(path, text)).len()
    }

    #[test]
    fn a_long_file_is_found_and_a_longish_one_is_mentioned() {
        assert_eq!(count(too_long, "src/a.rs", &"\n".repeat(LINES_MAX)), 0);
        assert_eq!(count(too_long, "src/a.rs", &"\n".repeat(LINES_MAX + 1)), 1);
        assert!(getting_long(&File::new("src/a.rs", &"\n".repeat(LINES_WARN))).is_none());
        assert!(getting_long(&File::new("src/a.rs", &"\n".repeat(LINES_WARN + 1))).is_some());
    }

    #[test]
    fn empty_names_are_found_in_paths_and_modules() {
        for name in EMPTY_NAMES {
            assert_eq!(count(empty_names, &format!("src/{name}.rs"), ""), 1, "{name}");
            assert_eq!(count(empty_names, &format!("src/{name}/a.rs"), ""), 1, "{name}");
            assert_eq!(count(empty_names, "src/a.rs", &format!("pub mod {name} {{}}")), 1, "{name}");
        }
        assert_eq!(count(empty_names, "src/utilisation.rs", "mod commons; // mod misc"), 0);
    }

    #[test]
    fn an_exception_without_a_reason_is_found() {
        let check = |text: &str| count(exceptions_without_reason, "src/a.rs", text);
        assert_eq!(check("#[allow(dead_code)] fn a() {}"), 1);
        assert_eq!(check("#![expect(dead_code)]"), 1);
        assert_eq!(check("#[cfg_attr(miri, allow(dead_code))] fn a() {}"), 1);
        assert_eq!(check("#[allow(dead_code, reason = \"kept (for now)\")] fn a() { b.expect(c) }"), 0);
        assert_eq!(check("// #[allow(dead_code)]\nfn allow(a: u8) {}"), 0);
    }

    #[test]
    fn unsafe_code_in_the_wrong_place_is_found() {
        assert_eq!(count(unsafe_out_of_place, "src/a.rs", "fn a() { unsafe { b() } }"), 1);
        assert_eq!(count(unsafe_out_of_place, "tests/a.rs", "unsafe impl Send for A {}"), 1);
        assert_eq!(count(unsafe_out_of_place, "src/lib.rs", "#![forbid(unsafe_code)] // unsafe"), 0);
        assert_eq!(count(unsafe_out_of_place, "ffi/src/a.rs", "unsafe { b() }"), 0);
    }

    #[test]
    fn unsafe_code_without_an_argument_is_found() {
        let check = |text: &str| count(unsafe_without_argument, "ffi/src/a.rs", text);
        assert_eq!(check("fn a() {\n    unsafe { b() }\n}"), 1);
        assert_eq!(check("// SAFETY: old\n\n\n\nfn a() { unsafe { b() } }"), 1, "too far away");
        assert_eq!(check("unsafe impl Send for A {}"), 1);
        assert_eq!(check("let text = \"// SAFETY: no\";\n\n\n\n\nunsafe { b() }"), 1);
        assert_eq!(check("// SAFETY: one\n// two\n// three\n// four\n// five\nunsafe { b() }"), 0);
        assert_eq!(check("// SAFETY: b is\n// fine\nlet x =\n    unsafe { b() };"), 0);
        assert_eq!(check("let x = unsafe { b() }; // SAFETY: fine"), 0);
        assert_eq!(
            check("pub unsafe fn a() {}\n// unsafe { }"),
            0,
            "callers of an unsafe fn argue, not its header"
        );
    }

    #[test]
    fn a_root_that_allows_unsafe_code_is_found() {
        assert_eq!(count(unsafe_not_forbidden, "src/lib.rs", "// #![forbid(unsafe_code)]"), 1);
        assert_eq!(count(unsafe_not_forbidden, "src/main.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(count(unsafe_not_forbidden, "src/chain/mod.rs", ""), 0);
    }
}
