use proptest::prelude::*;

use super::*;
use crate::data::testing::{Pieces, drain, message, read};
use crate::data::{Format, Stream};

fn spec() -> FeatureSpec {
    FeatureSpec::new("y > 0").unwrap()
}

fn format(spec: FeatureSpec) -> Format {
    Format::Csv(spec)
}

fn ok(text: &str, spec: FeatureSpec) -> Examples {
    let (examples, error) = read(text, &format(spec));
    assert!(error.is_none(), "{text:?}: {error:?}");
    examples
}

/// The key of a category or a cross.
fn category(columns: &[&str], cells: &[&str]) -> u64 {
    let kind = if columns.len() == 1 { Kind::Categorical } else { Kind::Cross };
    let step = |state, cell: &&str| keys::mix(state ^ keys::cell(cell.as_bytes()));
    keys::key(cells.iter().fold(keys::field(kind, columns), step))
}

#[test]
fn columns_become_features_in_the_order_of_the_specification() {
    let spec = spec().numeric("n").categorical("b,a").cross("a:b,b:c:a");
    let examples = ok("a,b,c,n,y\nx,1,q,2.5,1\nx,2,,NA,-1\n", spec);
    assert_eq!(examples.labels, [1.0, 0.0]);
    let n = keys::key(keys::mix(keys::field(Kind::Numeric, &["n"])));
    let rows = [
        vec![
            category(&["b"], &["1"]),
            category(&["a"], &["x"]),
            category(&["a", "b"], &["x", "1"]),
            category(&["b", "c", "a"], &["1", "q", "x"]),
            n,
        ],
        vec![
            category(&["b"], &["2"]),
            category(&["a"], &["x"]),
            category(&["a", "b"], &["x", "2"]),
            category(&["b", "c", "a"], &["2", "", "x"]),
        ],
    ];
    assert_eq!(examples.rows.row(0).columns, rows[0]);
    assert_eq!(examples.rows.row(0).values, Some(&[1.0, 1.0, 1.0, 1.0, 2.5][..]));
    assert_eq!(examples.rows.row(1).columns, rows[1]);
}

#[test]
fn missing_cells_are_categories_absent_numbers_and_skipped_labels() {
    let text = "y,a,n\n1,,1\n,x,1\n0,NA,\nNA,x,1\n1,x,NA\n";
    let mut stream =
        Stream::from_reader("data", Pieces::new(text, &[1]), &format(spec().categorical("a").numeric("n")))
            .unwrap();
    let block = stream.next().unwrap().unwrap();
    assert!(stream.next().is_none());
    assert_eq!((stream.progress().rows, stream.progress().skipped_rows), (3, 2));
    assert_eq!(block.labels, [1.0, 0.0, 1.0]);
    assert_eq!(block.rows.row(0).columns[0], category(&["a"], &[""]));
    assert_eq!(block.rows.row(1).columns, [category(&["a"], &["NA"])]);
    assert_eq!(block.rows.row(2).columns, [category(&["a"], &["x"])]);
}

#[test]
fn without_a_label_every_row_is_read() {
    let examples = ok("a\nx\n\"\"\ny\n", spec().categorical("a").without_label());
    assert_eq!(examples.labels, [0.0; 3]);
}

#[test]
fn quotes_hold_delimiters_quotes_and_line_breaks() {
    let text = "y,\"a,b\",c\r\n1,\"x\"\"y\",\"two\r\nlines\"\r\n0,pla\"in,\r\n";
    let mut two = spec();
    two.categorical = vec!["a,b".to_owned(), "c".to_owned()];
    let examples = ok(text, two);
    assert_eq!(examples.labels, [1.0, 0.0]);
    let key = |column, cell| category(&[column], &[cell]);
    assert_eq!(examples.rows.row(0).columns, [key("a,b", "x\"y"), key("c", "two\r\nlines")]);
    assert_eq!(examples.rows.row(1).columns, [key("a,b", "pla\"in"), key("c", "")]);
}

#[test]
fn every_fault_names_its_place_what_was_found_and_what_to_do() {
    let both = || spec().categorical("a").numeric("n");
    let cases: &[(&str, FeatureSpec, &str)] = &[
        (
            "y,a,m\n1,x,1\n",
            both(),
            "data:1: there is no column \"n\", the header has: y, a, m; check --label",
        ),
        (
            "z,a,n\n1,x,1\n",
            both(),
            "data:1: there is no column \"y\", the header has: z, a, n; check --label",
        ),
        (
            "y,a,n\n1,x,1\n1,x,abc\n",
            both(),
            "data:3:5: found \"abc\" in column \"n\" instead of a finite number",
        ),
        ("y,a,n\n1,x,1e999\n", both(), "data:2:5: found \"1e999\" in column \"n\""),
        ("y,a,n\n1,x,nan\n", both(), "data:2:5: found \"nan\""),
        ("y,a,n\nlate,x,1\n", both(), "data:2:1: found \"late\" in column \"y\""),
        ("y,a,n\n1,\"x\ny\",q\n", both(), "data:3:4: found \"q\" in column \"n\""),
        ("y,a,n\n1,x\n", both(), "data:2:1: found 2 cells where the header has 3; check the delimiter ','"),
        ("y,a,n\n1,x,1,2\n", both(), "data:2:1: found 4 cells where the header has 3"),
        ("y,a,n\n1,\"x,1\n1,x,1\n", both(), "data:2:3: found a quote that is never closed"),
        ("y,a,n\n1,\"x\"y,1\n", both(), "data:2:6: found \"y,1\" after a closing quote"),
        ("y,a,n\n1,x\0,1\n", both(), "data:2:4: found a NUL byte"),
        ("y,a,n\n1,\"x\0\",1\n", both(), "data:2:4: found a NUL byte"),
        ("y,a,a\n1,x,1\n", spec().categorical("a"), "data:1:1: found the column \"a\" again (column 3"),
        ("", both(), "data is empty"),
        ("\n\n", both(), "data is empty"),
        ("y,a,n\n", both(), "data has no examples (0 rows without a label were skipped)"),
        ("y,a,n\n,x,1\nNA,x,1\n", both(), "data has no examples (2 rows without a label were skipped)"),
    ];
    for (text, spec, wanted) in cases {
        let message = message(*text, &format(spec.clone()));
        assert!(message.starts_with(wanted), "{text:?}: {message}");
        assert!(!message.contains('\n'), "one line: {message:?}");
    }
    let mut long = b"y,a,n\n1,\"".to_vec();
    long.resize(17 << 20, b'\n');
    assert!(message(long, &format(both())).contains("never closed"));
}

#[test]
fn a_specification_that_cannot_work_is_refused_before_reading() {
    let error = Stream::from_reader("data", Pieces::new("y\n1\n", &[9]), &format(spec())).err().unwrap();
    assert!(error.to_string().contains("no column is a feature"));
}

#[test]
fn a_good_row_before_a_bad_cell_is_kept_whole() {
    let (examples, error) = read("y,a,n\n1,x,1\n1,x,bad\n", &format(spec().categorical("a").numeric("n")));
    assert_eq!((examples.len(), examples.rows.rows(), examples.rows.nonzeros()), (1, 1, 2));
    assert!(error.is_some());
}

/// Keys as the crate `csv` splits the cells.
fn oracle(text: &str, delimiter: u8) -> Vec<Vec<u64>> {
    let mut reader = ::csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let keys = |record: ::csv::StringRecord| {
        record.iter().zip(&header).skip(1).map(|(cell, column)| category(&[column], &[cell])).collect()
    };
    reader.records().map(|record| keys(record.unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn cells_are_split_as_the_csv_crate_splits_them_whatever_the_pieces(
        rows in proptest::collection::vec(proptest::collection::vec("[a-c,;\t\" \r\n]{0,6}", 3), 1..20),
        delimiter in proptest::sample::select(&b",;\t|"[..]),
        crlf in any::<bool>(),
        sizes in proptest::collection::vec(1usize..30, 1..4),
    ) {
        let terminator = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let mut writer =
            ::csv::WriterBuilder::new().delimiter(delimiter).terminator(terminator).from_writer(Vec::new());
        writer.write_record(["y", "a", "b", "c"]).unwrap();
        for row in &rows {
            writer.write_record(std::iter::once("1").chain(row.iter().map(String::as_str))).unwrap();
        }
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        let mut spec = spec().categorical("a,b,c");
        spec.delimiter = delimiter as char;
        let (examples, error) = drain(Stream::from_reader("data", Pieces::new(text.clone(), &sizes), &format(spec)).unwrap());
        prop_assert!(error.is_none(), "{:?}", error);
        let read: Vec<Vec<u64>> = (0..examples.len()).map(|row| examples.rows.row(row).columns.to_vec()).collect();
        prop_assert_eq!(read, oracle(&text, delimiter));
    }

    #[test]
    fn any_bytes_give_examples_or_an_error(bytes in proptest::collection::vec(
        prop_oneof![4 => proptest::sample::select(&b"1,\"\n\r"[..]), 1 => any::<u8>()], 0..100,
    )) {
        let mut text = b"y,a\n".to_vec();
        text.extend(bytes);
        let (examples, _) = read(text, &format(spec().categorical("a")));
        prop_assert_eq!(examples.labels.len(), examples.rows.rows());
    }
}

#[test]
fn a_line_end_in_a_columns_name_leaves_the_message_one_line() {
    let message = message("\"a\r\nb\",c\n1,2\n", &format(spec().categorical("c")));
    assert!(message.contains("no column \"y\"") && message.contains("a\\r\\nb, c"), "{message}");
    assert!(!message.contains('\n'), "{message}");
}
