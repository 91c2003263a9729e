use gradwire_kernels::Isa;
use proptest::prelude::*;

use super::*;
use crate::data::chunk::{Chunk, PADDING};
use crate::data::testing::{Pieces, drain, message, read};
use crate::data::{Format, Stream};
use crate::linalg::Csr;

fn ok(text: &str) -> Examples {
    let (examples, error) = read(text, &Format::Libsvm);
    assert!(error.is_none(), "{text:?}: {error:?}");
    examples
}

fn bad(text: impl Into<Vec<u8>>) -> String {
    message(text, &Format::Libsvm)
}

#[test]
fn a_plain_file_is_read() {
    let examples = ok("1 3:1 18446744073709551614:0.5\n-1 0:2e-1\t7:-3\n0\n+1 5:1\n1.0 1:1");
    assert_eq!(examples.labels, [1.0, 0.0, 0.0, 1.0, 1.0]);
    assert_eq!(examples.rows.row_offsets(), &[0, 2, 4, 4, 5, 6]);
    assert_eq!(examples.rows.columns(), &[3, u64::MAX - 1, 0, 7, 5, 1]);
    assert_eq!(examples.rows.values(), Some(&[1.0, 0.5, 0.2, -3.0, 1.0, 1.0][..]));
}

#[test]
fn comments_blank_lines_carriage_returns_and_a_byte_order_mark_are_taken() {
    let examples = ok("\u{FEFF}# head\r\n\r\n1 3:1 # a:b\r\n   \n0 4:1 5:1   \r\n1 6:1#x\n");
    assert_eq!(examples.labels, [1.0, 0.0, 1.0]);
    assert_eq!(examples.rows.columns(), &[3, 4, 5, 6]);
    assert_eq!(examples.rows.values(), None);
}

#[test]
fn unsorted_indices_are_sorted_with_their_values() {
    let examples = ok("1 9:0.9 2:0.2 5:0.5\n1 9:1 2:1\n");
    assert_eq!(examples.rows.columns(), &[2, 5, 9, 2, 9]);
    assert_eq!(examples.rows.values(), Some(&[0.2, 0.5, 0.9, 1.0, 1.0][..]));
}

#[test]
fn data_to_predict_needs_no_labels() {
    let (examples, error) = read("3:1 5:0.5\n2.5 1:1\n1 9:1\n 7:1\n4\n", &Format::LibsvmMaybeLabelled);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(examples.rows.columns(), &[3, 5, 1, 9, 7]);
    assert_eq!(examples.rows.row_offsets(), &[0, 2, 3, 4, 5, 5]);
    let wrong = message("x:1 5:1\n", &Format::LibsvmMaybeLabelled);
    assert!(wrong.contains("instead of index:value"), "{wrong}");
}

#[test]
fn every_fault_names_its_place_what_was_found_and_what_to_do() {
    let cases: &[(&str, &str, &str)] = &[
        ("1 1:1\nx 1:1\n", "data:2:1:", "found \"x\" instead of a label; write -1, 0 or 1"),
        ("nan 1:1\n", "data:1:1:", "\"nan\""),
        ("1:1 2:1\n", "data:1:2:", "instead of a label"),
        (
            "1 1:1\n2 1:1\n",
            "data:2:1:",
            "found the label \"2\"; write 1 for one class, 0 or -1 for the other",
        ),
        ("0.5 1:1\n", "data:1:1:", "found the label \"0.5\""),
        ("1 5\n", "data:1:4:", "found \"5\" without a value; write 5:1"),
        ("1 5:\n", "data:1:5:", "the end of the line"),
        ("1 5:abc\n", "data:1:5:", "found \"abc\" instead of a finite number; write index:value"),
        ("1 5:1.5x 6:1\n", "data:1:8:", "found \"1.5x\""),
        ("1 5:nan\n", "data:1:5:", "finite number"),
        ("1 5:-inf\n", "data:1:6:", "finite number"),
        ("1 5:1e999\n", "data:1:5:", "too large for 32-bit floating point; scale"),
        ("1 5:1e39\n", "data:1:5:", "too large"),
        ("1e99 5:1\n", "data:1:1:", "too large"),
        ("1 -5:1\n", "data:1:3:", "negative index \"-5:1\""),
        ("1 a:1\n", "data:1:3:", "instead of index:value, such as 12:0.5"),
        ("1 :1\n", "data:1:3:", "instead of index:value"),
        ("1 5 :1\n", "data:1:4:", "without a value"),
        ("1 18446744073709551615:1\n", "data:1:3:", "at most 18446744073709551614"),
        ("1 18446744073709551616:1\n", "data:1:3:", "at most 18446744073709551614"),
        ("1 99999999999999999999999:1\n", "data:1:3:", "at most 18446744073709551614"),
        ("1 qid:3 5:1\n", "data:1:3:", "qid (ranking) is not supported; remove it"),
        ("1 5:1 6:2 5:3\n", "data:1:11:", "index 5 again"),
        ("1 5:1 5:1\n", "data:1:7:", "index 5 again in one example; add the values up"),
        ("1 5:1:2\n", "data:1:6:", "finite number"),
        ("1 5:1\0 6:1\n", "data:1:6:", "\\x00"),
        ("\0\0\0\n", "data:1:1:", "\\x00"),
        ("1 1:1\n\n# x\n1 2:y\n", "data:4:5:", "\"y\""),
    ];
    for (text, place, what) in cases {
        let message = bad(*text);
        assert!(message.starts_with(place) && message.contains(what), "{text:?}: {message}");
        assert!(!message.contains('\n'), "one line: {message:?}");
    }
    let message = bad(&b"\x7FELF\x02\x01\xFF\xFE binary"[..]);
    assert!(message.starts_with("data:1:1: found \"\\x7fELF\\x02\\x01\\xff\\xfe\""), "{message}");
}

#[test]
fn a_line_over_16_mib_is_refused_and_one_of_16_mib_is_not() {
    let mut line = b"1 5:1 ".to_vec();
    line.resize(16 << 20, b' ');
    line.extend_from_slice(b"\n0 6:1");
    assert_eq!(read(line.clone(), &Format::Libsvm).0.rows.columns(), &[5, 6]);
    line.insert(0, b' ');
    let message = bad(line);
    assert!(message.starts_with("data:1:1: found a line longer than 16 MiB"), "{message}");
    // Without any newline, and far longer than the buffer.
    let message = bad(vec![b'1'; 40 << 20]);
    assert!(message.starts_with("data:1:1: found a line longer than 16 MiB"), "{message}");
}

#[test]
fn rows_before_a_fault_arrive_before_it() {
    let text = "1 1:1\n".repeat(20_000) + "1 1:1 2:0.5 x\n" + "1 1:1\n";
    let (examples, error) = read(text, &Format::Libsvm);
    assert_eq!((examples.len(), examples.rows.rows(), examples.rows.nonzeros()), (20_000, 20_000, 20_000));
    assert!(error.unwrap().to_string().starts_with("data:20001:13:"));
}

#[test]
fn a_file_without_examples_is_an_error() {
    assert_eq!(bad(""), "data is empty; give a file with at least one example");
    assert!(bad("# only\n\n").starts_with("data has no examples"));
}

fn examples() -> impl Strategy<Value = Examples> {
    let value = prop_oneof![3 => Just(1.0f32), 1 => any::<f32>().prop_filter("finite", |v| v.is_finite())];
    let index = prop_oneof![0..100u64, 0..u64::MAX];
    let row = proptest::collection::btree_map(index, value, 0..8);
    proptest::collection::vec((any::<bool>(), row), 1..40).prop_map(|rows| {
        let mut out = Examples { labels: Vec::new(), rows: Csr::new() };
        for (label, row) in rows {
            out.labels.push(f32::from(u8::from(label)));
            row.into_iter().for_each(|(index, value)| out.rows.push(index, value));
            out.rows.end_row();
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn what_is_written_reads_back_whatever_the_pieces(
        examples in examples(),
        reverse in any::<bool>(),
        crlf in any::<bool>(),
        sizes in proptest::collection::vec(1usize..50, 1..4),
    ) {
        let mut text = String::new();
        for at in 0..examples.len() {
            let row = examples.rows.row(at);
            let pair = |entry: usize| {
                format!(" {}:{}", row.columns[entry], row.values.map_or(1.0, |values| values[entry]))
            };
            let mut pairs: Vec<String> = (0..row.columns.len()).map(pair).collect();
            if reverse {
                pairs.reverse();
            }
            text += if examples.labels[at] > 0.0 { "1" } else { "-1" };
            text += &pairs.concat();
            text += if crlf { "\r\n" } else { "\n" };
        }
        let stream = Stream::from_reader("data", Pieces::new(text, &sizes), &Format::Libsvm).unwrap();
        let (read, error) = drain(stream);
        prop_assert!(error.is_none());
        prop_assert_eq!(read, examples);
    }

    #[test]
    fn any_bytes_give_examples_or_an_error(bytes in proptest::collection::vec(
        prop_oneof![4 => proptest::sample::select(&b"01:.e-# \n\r\tx"[..]), 1 => any::<u8>()], 0..200,
    )) {
        let (examples, _) = read(bytes, &Format::Libsvm);
        prop_assert_eq!(examples.labels.len(), examples.rows.rows());
        prop_assert!(examples.rows.columns().iter().all(|&key| key < u64::MAX));
    }
}

/// A chunk of `text`, with what would be read wrongly after it.
fn chunk(text: &[u8], after: &[u8]) -> Chunk {
    let mut bytes = text.to_vec();
    bytes.push(b'\n');
    bytes.extend(after.iter().cycle().take(PADDING));
    Chunk { bytes, length: text.len() }
}

/// The examples, and the fault as it is shown.
type Outcome = (Examples, Option<String>);

fn outcome(mut examples: Examples, result: Result<(), Fault>) -> Outcome {
    examples.rows.abandon_row();
    (examples, result.err().map(|fault| fault.in_file("data").to_string()))
}

fn the_long_way(chunk: &Chunk, labels: Labels) -> Outcome {
    let (mut parser, mut lines) = (Libsvm::new(Isa::Scalar), Lines::new(chunk, 0, 0));
    let mut examples = Examples::default();
    let mut result = Ok(());
    while result.is_ok() && !lines.rest().is_empty() {
        result = parser.read_line(labels, &mut lines, &mut examples);
    }
    outcome(examples, result)
}

fn as_ever(chunk: &Chunk, labels: Labels, isa: Isa) -> Outcome {
    let mut examples = Examples::default();
    let result = Libsvm::new(isa).read(labels, &mut Lines::new(chunk, 0, 0), &mut examples);
    outcome(examples, result)
}

fn every_isa() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported())
}

/// Mostly good entries, as text.
fn entry() -> impl Strategy<Value = String> {
    let index = prop_oneof![
        8 => "[0-9]{1,8}",
        2 => "[0-9]{9,20}",
        1 => "[0-9a#:-]{0,3}",
    ];
    let value = prop_oneof![
        8 => Just("1".to_owned()),
        6 => "-?[0-9]{1,3}(\\.[0-9]{0,4})?",
        2 => "[+-]?[0-9]{0,9}\\.[0-9]{1,12}(e-?[0-9]{1,2})?",
        1 => "[0-9.e+:#-]{0,9}",
    ];
    (index, value).prop_map(|(index, value)| format!("{index}:{value}"))
}

fn line(odd: u32) -> impl Strategy<Value = String> {
    let label = prop_oneof![20 => proptest::sample::select(vec!["0", "1", "-1", "+1"]).prop_map(str::to_owned),
        odd => "[-+012.: ]{0,3}"];
    let blank = prop_oneof![30 => Just(" "), 2 => Just("\t"), odd => Just("  ")];
    let end = prop_oneof![20 => Just(""), 4 => Just(" "), 4 => Just("\r"), odd => Just(" \r"), odd => Just(" # x:1"), odd => Just("\0")];
    let entries = proptest::collection::vec((blank, entry()), 0..9);
    (label, entries, end, 0..=odd, any::<bool>()).prop_map(|(label, mut entries, end, repeat, sort)| {
        if repeat == 0 || sort {
            let key = |entry: &str| entry.split(':').next().and_then(|index| index.parse::<u64>().ok());
            entries.sort_by_key(|(_, entry)| key(entry));
            entries.dedup_by_key(|(_, entry)| key(entry));
        }
        let entries: String = entries.iter().map(|(blank, entry)| format!("{blank}{entry}")).collect();
        format!("{label}{entries}{end}\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn lines_are_read_as_the_long_way_reads_them(
        lines in proptest::collection::vec(prop_oneof![4 => line(0), 1 => line(3)], 1..12),
        last_ends in any::<bool>(),
        after in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut text = lines.concat();
        if !last_ends {
            text.pop();
        }
        let chunk = chunk(text.as_bytes(), &after);
        for labels in [Labels::Needed, Labels::Ignored] {
            let wanted = the_long_way(&chunk, labels);
            for isa in every_isa() {
                prop_assert_eq!(&as_ever(&chunk, labels, isa), &wanted, "{}", isa);
            }
        }
    }
}

/// `rows` lines of `entries` entries, some with values, of which line `odd` is not plain.
fn many(rows: usize, entries: usize, odd: usize) -> (String, Examples) {
    let (mut text, mut wanted) = (String::new(), Examples::default());
    for row in 0..rows {
        text += if row % 3 == 0 { "1" } else { "-1" };
        for entry in 0..entries {
            let value = if row > rows / 2 { (row % 9) as f32 / 8.0 } else { 1.0 };
            let index = row * 1001 % 997 + entry * 1000;
            text += &format!("{}{index}:{value}", if row == odd { "  " } else { " " });
            wanted.rows.push(index as u64, value);
        }
        text.push('\n');
        wanted.rows.end_row();
        wanted.labels.push(f32::from(u8::from(row % 3 == 0)));
    }
    (text, wanted)
}

#[test]
fn lines_longer_and_shorter_than_what_is_marked_at_a_time_are_read() {
    for (rows, entries) in [(3000, 0), (3000, 5), (40, 900), (5, 5000), (3, 120_000)] {
        for odd in [0, rows / 2, rows] {
            let (text, wanted) = many(rows, entries, odd);
            for isa in every_isa() {
                let (examples, fault) = as_ever(&chunk(text.as_bytes(), b"1"), Labels::Needed, isa);
                assert_eq!(fault, None);
                assert!(examples == wanted, "{isa} {rows} {entries} {odd}");
            }
        }
    }
}

#[test]
fn a_fault_after_many_plain_lines_has_its_place() {
    for (row, line, place) in
        [(2500, "1 5:1 x:1", "data:2501:7"), (0, "2 5:1", "data:1:1"), (1, "1 5:1 5:1", "data:2:7")]
    {
        let (text, _) = many(3000, 4, 3000);
        let mut rows: Vec<&str> = text.lines().collect();
        rows[row] = line;
        for isa in every_isa() {
            let (examples, fault) = as_ever(&chunk(rows.join("\n").as_bytes(), b"1"), Labels::Needed, isa);
            assert_eq!(examples.len(), row);
            let fault = fault.unwrap();
            assert!(fault.starts_with(place), "{isa}: {fault}");
        }
    }
}
