//! The repository's own rules, as tests: what review would otherwise have to notice.
//!
//! Each rule is a function from a file (path and text) to findings, in one of the modules below, and has its own test
//! there with a small text that breaks it: a rule that cannot fail is no rule. The tests here apply the rules to the
//! files of this checkout and print every finding with its place and what to do.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/style.rs"]
mod style;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/tree.rs"]
mod tree;

use tree::{File, Finding, TestCode};

#[track_caller]
fn assert_none(found: &[Finding]) {
    let lines: Vec<&str> = found.iter().map(|finding| finding.0.as_str()).collect();
    assert!(found.is_empty(), "{} finding(s):\n  {}", found.len(), lines.join("\n  "));
}

fn over_all(files: &[File], check: fn(&File) -> Vec<Finding>) -> Vec<Finding> {
    files.iter().flat_map(check).collect()
}

fn over_rust(check: fn(&File) -> Vec<Finding>) -> Vec<Finding> {
    tree::files().iter().filter(|file| file.is_rust()).flat_map(check).collect()
}

/// Shipped code only: tests may reach up, read clocks and allocate.
fn over_shipped(check: fn(&File) -> Vec<Finding>) -> Vec<Finding> {
    let files = tree::files();
    let tests = TestCode::of(&files);
    files.iter().filter(|file| file.is_rust() && !tests.contains(&file.path)).flat_map(check).collect()
}

#[test]
fn files_are_short_enough_to_read() {
    for warning in tree::files().iter().filter(|file| file.is_rust()).filter_map(style::getting_long) {
        println!("tidy warning: {warning}");
    }
    assert_none(&over_rust(style::too_long));
}

#[test]
fn modules_are_named_after_what_they_do() {
    assert_none(&over_rust(style::empty_names));
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none(&over_all(&tree::files(), text::unfinished));
}

#[test]
fn exceptions_to_lints_have_reasons() {
    assert_none(&over_rust(style::exceptions_without_reason));
}

#[test]
fn unsafe_code_is_in_ffi_and_kernels_only() {
    assert_none(&over_rust(style::unsafe_out_of_place));
    assert_none(&over_rust(style::unsafe_not_forbidden));
}

#[test]
fn unsafe_code_is_argued_for() {
    assert_none(&over_rust(style::unsafe_without_argument));
}

#[test]
fn dependencies_point_down() {
    assert_none(&over_shipped(layers::upward_dependencies));
}

#[test]
fn protocol_modules_touch_nothing_outside() {
    assert_none(&over_shipped(layers::outside_in_sans_io));
}

#[test]
fn data_paths_do_not_allocate_lock_or_log() {
    assert_none(&over_shipped(layers::cost_on_a_datapath));
}

#[test]
fn no_file_names_one_machine_or_a_package_host() {
    let files = tree::files();
    assert_none(&over_all(&files, text::machine_paths));
    assert_none(&over_all(&files, text::registry_hosts));
}

#[test]
fn documents_are_there_and_decisions_can_be_cited() {
    let files = tree::files();
    assert_none(&text::missing_documents(&files));
    assert_none(&text::decision_numbers(&files));
}

#[test]
fn every_part_of_the_test_script_is_explained() {
    let files = tree::files();
    let text_of =
        |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    assert_none(&text::undocumented_parts(text_of("cluster-scripts/test.sh"), text_of("docs/testing.md")));
}
