//! Every bad file of the list that a user can hand in gets one line with cause, place and next step, and exit code 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

mod program;

use program::{PROGRAM, run};

/// No command of these tests works longer; one that hangs is killed and fails.
const WATCHDOG: Duration = Duration::from_secs(120);

fn gradwire(arguments: &[&str]) -> Output {
    run(Command::new(PROGRAM).args(arguments), b"", WATCHDOG)
}

/// The only line of a command that must exit with 1.
fn refused(arguments: &[&str]) -> String {
    let output = gradwire(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("gradwire: "), "{said}");
    for word in ["panicked", "internal error", "report this"] {
        assert!(!said.contains(word), "{said}");
    }
    assert!(said.len() < 1000, "a line that nobody reads: {said}");
    said
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path of a file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Enough rows that a cut in the middle leaves good ones before it.
fn libsvm() -> Vec<u8> {
    let rows = (0..50_000).map(|row| format!("{} {}:1 {}:0.5\n", row % 2, row % 7, 100 + row % 1000));
    rows.collect::<String>().into_bytes()
}

fn csv() -> Vec<u8> {
    let rows = (0..50_000).map(|row| format!("{},c{},{}\n", row % 2, row % 7, row % 1000));
    format!("late,colour,size\n{}", rows.collect::<String>()).into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn cut(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() * 2 / 3].to_vec()
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    bytes
}

const BAD_INDEX: &str = "18446744073709551615";

/// Name, content, and words of the message.
type Case = (&'static str, Vec<u8>, &'static [&'static str]);

fn bad_libsvm() -> Vec<Case> {
    let text = |bytes: &str| bytes.as_bytes().to_vec();
    let long = [b"1 3:1\n1 ".to_vec(), vec![b'7'; 17 << 20]].concat();
    vec![
        ("empty", text(""), &["is empty", "at least one example"]),
        ("comments-only", text("# nothing\n\n"), &["no examples"]),
        ("empty.gz", gzip(b""), &["is empty"]),
        ("cut.gz", cut(gzip(&libsvm())), &["cannot read", "check that the file is whole"]),
        ("cut.zst", cut(zstd(&libsvm())), &["cannot read", "check that the file is whole"]),
        ("damaged.gz", flipped(gzip(&libsvm())), &["damaged.gz"]),
        ("binary", (0..=255).cycle().take(100_000).collect(), &["binary:1:1:", "instead of a label"]),
        ("nul", text("1 3:1\n1 4:\0\n"), &["nul:2:5:", "\\x00", "finite number"]),
        ("nul-line", text("1 3:1\n\0\n"), &["nul-line:2:1:", "\\x00"]),
        ("label", text("1 3:1\nyes 3:1\n"), &["label:2:1:", "\"yes\"", "write -1, 0 or 1"]),
        ("label-two", text("1 3:1\n2 3:1\n"), &["label-two:2:1:", "\"2\"", "write 1 for one class"]),
        ("label-nan", text("nan 3:1\n"), &["label-nan:1:", "write -1, 0 or 1"]),
        ("negative", text("1 -3:1\n"), &["negative:1:3:", "negative index", "from 0 on"]),
        ("huge", text(&format!("1 {BAD_INDEX}:1\n")), &["huge:1:3:", "at most 18446744073709551614"]),
        ("huger", text(&format!("1 9{BAD_INDEX}:1\n")), &["huger:1:3:", "at most"]),
        ("repeated", text("1 3:1 9:1 3:2\n"), &["repeated:1:11:", "index 3 again", "remove one"]),
        ("no-value", text("1 3\n"), &["no-value:1:4:", "write 3:1"]),
        ("large", text("1 3:1e999\n"), &["large:1:5:", "too large", "scale"]),
        ("nan", text("1 3:nan\n"), &["nan:1:5:", "finite number"]),
        ("infinite", text("1 3:-inf\n"), &["infinite:1:", "finite number"]),
        ("long", long, &["long:2:1:", "longer than 16 MiB", "text file"]),
    ]
}

fn bad_csv() -> Vec<Case> {
    let text = |bytes: &str| bytes.as_bytes().to_vec();
    let rows = |row: &str| format!("late,colour,size\n1,c1,2\n{row}\n").into_bytes();
    let long = [b"late,colour,size\n1,".to_vec(), vec![b'x'; 17 << 20], b",3\n".to_vec()].concat();
    let quoted = [b"late,colour,size\n1,\"".to_vec(), b"line\n".repeat(4 << 20)].concat();
    vec![
        ("empty.csv", text(""), &["is empty"]),
        ("header-only.csv", text("late,colour,size\n"), &["no examples"]),
        ("no-column.csv", text("late,size\n1,2\n"), &["no column \"colour\"", "late, size", "--categorical"]),
        ("no-label.csv", text("colour,size\nc1,2\n"), &["no column \"late\"", "--label"]),
        ("twice.csv", text("late,colour,colour,size\n1,a,b,2\n"), &["\"colour\" again", "rename one"]),
        ("cut.csv.gz", cut(gzip(&csv())), &["cannot read", "check that the file is whole"]),
        ("cut.csv.zst", cut(zstd(&csv())), &["cannot read", "check that the file is whole"]),
        ("label.csv", rows("late,c1,2"), &["label.csv:3:1:", "\"late\"", "finite number"]),
        ("label-nan.csv", rows("nan,c1,2"), &["label-nan.csv:3:1:", "finite number"]),
        ("labels-missing.csv", text("late,colour,size\n,c1,2\nNA,c1,3\n"), &["no examples", "2 rows"]),
        ("nan.csv", rows("1,c1,nan"), &["nan.csv:3:6:", "column \"size\"", "finite number"]),
        ("large.csv", rows("1,c1,1e999"), &["large.csv:3:6:", "finite number"]),
        ("cells.csv", rows("1,c1"), &["cells.csv:3:1:", "2 cells", "has 3", "delimiter"]),
        ("nul.csv", rows("1,c\0,2"), &["nul.csv:3:4:", "NUL"]),
        ("binary.csv", (0..=255).cycle().take(100_000).collect(), &["binary.csv:1:"]),
        ("quote.csv", rows("1,\"c1,2"), &["quote.csv:3:3:", "never closed"]),
        ("long.csv", long, &["long.csv:2:1:", "longer than 16 MiB"]),
        ("long-quote.csv", quoted, &["long-quote.csv:2:3:", "never closed"]),
    ]
}

const COLUMNS: [&str; 6] = ["--label", "late", "--categorical", "colour", "--numeric", "size"];

#[test]
fn training_on_a_bad_file_is_refused_with_one_line() {
    let folder = Folder::new();
    let missing = folder.path("missing").to_str().unwrap().to_owned();
    assert!(refused(&["train", "lr", "--train", &missing]).contains("check the path"));
    let itself = folder.0.path().to_str().unwrap();
    assert!(refused(&["train", "lr", "--train", itself]).contains("is a directory"));
    let (libsvm, csv) = (bad_libsvm(), bad_csv());
    let cases = libsvm.iter().map(|case| (case, &[][..])).chain(csv.iter().map(|case| (case, &COLUMNS[..])));
    for ((name, bytes, words), columns) in cases {
        let file = folder.file(name, bytes);
        // In memory, and as a stream.
        for more in [&[][..], &["--no-shuffle"]] {
            let said = refused(&[&["train", "lr", "--train", &file], columns, more].concat());
            for word in words.iter().chain([name]) {
                assert!(said.contains(word), "{name} does not say {word:?}: {said}");
            }
        }
    }
}

#[test]
fn a_bad_file_to_test_on_or_to_predict_is_refused_and_leaves_nothing() {
    let folder = Folder::new();
    let (good, good_csv) = (folder.file("good", &libsvm()), folder.file("good.csv", &csv()));
    let model = folder.path("model").to_str().unwrap().to_owned();
    let model_csv = folder.path("model-csv").to_str().unwrap().to_owned();
    let out = folder.path("out").to_str().unwrap().to_owned();
    let train = |file: &str, columns: &[&str], model: &str| {
        let output = gradwire(&[&["train", "lr", "--train", file, "--model-out", model], columns].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    train(&good, &[], &model);
    train(&good_csv, &COLUMNS, &model_csv);
    for (name, bytes, words) in bad_libsvm() {
        let file = folder.file(name, &bytes);
        if ["cut.gz", "label-two", "repeated"].contains(&name) {
            let said = refused(&["train", "lr", "--train", &good, "--test", &file]);
            assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        }
        // A label is not looked at.
        if name != "label-two" {
            let said = refused(&["predict", "--model", &model, "--data", &file, "--out", &out]);
            assert!(said.contains(name), "{name}: {said}");
            assert!(!folder.path("out").exists(), "{name} left something");
        }
    }
    for (name, bytes, words) in bad_csv() {
        // Labels may be missing.
        if !name.contains("label") {
            let file = folder.file(name, &bytes);
            let said = refused(&["predict", "--model", &model_csv, "--data", &file, "--out", &out]);
            assert!(words[..1].iter().all(|word| said.contains(word)), "{name}: {said}");
        }
    }
}

#[test]
fn index_0_unsorted_indices_and_data_without_labels_are_no_mistakes() {
    let folder = Folder::new();
    let mut rows = libsvm();
    rows.extend_from_slice(b"1 9:1 0:1 5:0.5\n-1 18446744073709551614:1 0:1\n+1\t3:1  \r\n");
    let (file, bare) = (folder.file("file", &rows), folder.file("bare", b"9:1 0:1\n3:1 7:1\n\n2 5:1\n"));
    let (model, out) = (folder.path("model"), folder.path("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    for arguments in [
        &["train", "lr", "--train", &file, "--model-out", model][..],
        &["predict", "--model", model, "--data", &bare, "--out", out],
    ] {
        let output = gradwire(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read_to_string(out).unwrap().lines().count(), 3);
}
