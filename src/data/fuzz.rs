//! What must hold of any bytes given to a reader: entry points of the fuzz targets in `fuzz/`, and of the properties here.
//!
//! Each function panics when something does not hold. Absent on purpose: threads and files; bytes are read at once.

use super::{Examples, FeatureSpec, Format, LabelExpr, Stream};
use crate::linalg::Csr;

/// Bytes of a chunk that a small input has many of.
const SMALL_CHUNK: usize = 24;

/// Reads `bytes` as libsvm, with labels and without.
pub fn libsvm(bytes: &[u8]) {
    for format in [Format::Libsvm, Format::LibsvmMaybeLabelled] {
        let examples = read(bytes, &format);
        for row in 0..examples.len() {
            let columns = examples.rows.row(row).columns;
            assert!(columns.is_sorted_by(|a, b| a < b), "a row repeats an index");
        }
    }
}

/// Reads `bytes` as csv, by a specification that has each kind of feature.
pub fn csv(bytes: &[u8]) {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<String>>();
    let spec = FeatureSpec {
        label: Some(LabelExpr { column: "y".to_owned(), test: None }),
        categorical: names(&["a"]),
        numeric: names(&["n"]),
        cross: vec![names(&["a", "b"])],
        delimiter: ',',
    };
    read(bytes, &Format::Csv(spec));
    // Most random bytes have no such header.
    let headed = [&b"a,b,n,y\n"[..], bytes].concat();
    let spec = FeatureSpec { label: None, ..spec_of(&names(&["a", "y"])) };
    read(&headed, &Format::Csv(spec));
}

fn spec_of(categorical: &[String]) -> FeatureSpec {
    FeatureSpec {
        label: None,
        categorical: categorical.to_vec(),
        numeric: vec!["n".to_owned()],
        cross: Vec::new(),
        delimiter: ',',
    }
}

/// The examples of `bytes`, which are the same however the bytes are cut; so is what is wrong with them.
fn read(bytes: &[u8], format: &Format) -> Examples {
    let (examples, error) = outcome(bytes, format, 1 << 20);
    let (cut, cut_error) = outcome(bytes, format, SMALL_CHUNK);
    assert_eq!(error, cut_error, "the cut matters");
    assert!(cut.labels == examples.labels && same(&cut.rows, &examples.rows), "the cut matters");
    // D2
    assert!(examples.rows.columns().iter().all(|&key| key < u64::MAX), "a key that no table holds");
    assert!(examples.labels.iter().all(|&label| label == 0.0 || label == 1.0), "a label that is no class");
    let values = examples.rows.values().unwrap_or_default();
    assert!(values.iter().all(|value| value.is_finite()), "a value that is not finite");
    assert_eq!(examples.rows.rows(), examples.labels.len(), "one label for each row");
    examples
}

/// Whether both have the same entries; ones may be explicit in either.
fn same(a: &Csr<u64>, b: &Csr<u64>) -> bool {
    let ones = vec![1.0; a.nonzeros()];
    a.row_offsets() == b.row_offsets()
        && a.columns() == b.columns()
        && a.values().unwrap_or(&ones) == b.values().unwrap_or(&ones)
}

fn outcome(bytes: &[u8], format: &Format, chunk: usize) -> (Examples, String) {
    let mut all = Examples::default();
    let stream = match Stream::at_once(bytes, format, chunk) {
        Ok(stream) => stream,
        Err(error) => return (all, error.to_string()),
    };
    for block in stream {
        match block {
            Ok(block) => all.append(&block),
            Err(error) => {
                let message = error.to_string();
                assert!(!message.contains('\n'), "a message of two lines: {message}");
                return (all, message);
            }
        }
    }
    (all, String::new())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Text of the pieces that parsers look for, and some of anything.
    fn text(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_libsvm_is_examples_or_one_line_however_it_is_cut(
            bytes in text(&["\n", "\n", "1 ", "0 ", "-1 ", "3:1 ", "12:0.5", " ", ":", "#", "1e999", "nan", "\r\n", "18446744073709551615:1"]),
        ) {
            super::libsvm(&bytes);
        }

        #[test]
        fn any_csv_is_examples_or_one_line_however_it_is_cut(
            bytes in text(&["\n", "\n", ",", ",", ",", "\"", "\"\"", "a", "y", "1", "0.5", "NA", "\r\n", "a,b,n,y\n", "x,y,2,1\n", "\0"]),
        ) {
            super::csv(&bytes);
        }
    }
}
