use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::{FeatureSpec, Stream};

fn limits() -> Limits {
    Limits { memory_bytes: 64 << 20, shuffle: false, seed: 5 }
}

fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> Source {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    Source::File(path)
}

fn csv() -> Format {
    Format::Csv(FeatureSpec::new("late").unwrap().categorical("colour").numeric("size"))
}

/// Every row of a block, in the order of an epoch.
fn rows(blocks: &Blocks, block: u32, epoch: u32) -> Result<Examples, DataError> {
    let (mut all, mut some) = (Examples::default(), Examples::default());
    match blocks.open(block, epoch, &|| ())? {
        Block::Whole(whole) => {
            let mix = blocks.mix(vec![whole], epoch, block)?;
            while mix.next_into(7, &mut some) {
                all.append(&some);
            }
        }
        Block::Pieces(mut pieces) => {
            while pieces.next_into(7, &mut some)? {
                all.append(&some);
            }
        }
    }
    Ok(all)
}

fn all_rows(blocks: &Blocks, epoch: u32) -> Result<Examples, DataError> {
    let mut all = Examples::default();
    for block in 0..blocks.count() as u32 {
        all.append(&rows(blocks, block, epoch)?);
    }
    Ok(all)
}

fn streamed(sources: &[Source], format: &Format) -> Examples {
    let mut all = Examples::default();
    Stream::open(sources.to_vec(), format).unwrap().for_each(|block| all.append(&block.unwrap()));
    all
}

fn cut(sources: &[Source], format: Format, block_bytes: u64) -> Blocks {
    Blocks::cut(sources, format, block_bytes, limits(), 2).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// B1: whatever the lines and the sizes, in file order the blocks are the file.
    #[test]
    fn libsvm_blocks_together_are_the_file(
        lines in prop::collection::vec((any::<bool>(), 0u32..2000, any::<bool>(), any::<bool>()), 1..60),
        block_bytes in 1u64..200,
        ends in any::<bool>(),
    ) {
        let mut text = String::new();
        for (label, key, blank, return_too) in &lines {
            let label = u8::from(*label);
            text.push_str(&format!("{label} {key}:1 {}:0.5", key + 1));
            text.push_str(if *return_too { "\r\n" } else { "\n" });
            text.push_str(if *blank { "\n" } else { "" });
        }
        if !ends {
            text.truncate(text.trim_end().len());
        }
        let folder = tempfile::tempdir().unwrap();
        let sources = [file(folder.path(), "a", &text), file(folder.path(), "b", "1 7:1\n")];
        let blocks = cut(&sources, Format::Libsvm, block_bytes);
        prop_assert_eq!(all_rows(&blocks, 0).unwrap(), streamed(&sources, &Format::Libsvm));
        prop_assert_eq!(all_rows(&blocks, 1).unwrap(), streamed(&sources, &Format::Libsvm), "from memory");
    }

    #[test]
    fn csv_blocks_together_are_the_file(
        lines in prop::collection::vec((any::<bool>(), 0u32..50, any::<bool>()), 1..60),
        block_bytes in 1u64..200,
        bom in any::<bool>(),
    ) {
        let mut text = String::from(if bom { "\u{feff}" } else { "" });
        text.push_str("\nlate,colour,\"size\"\n");
        for (late, size, quoted) in &lines {
            let colour = if *quoted { "\"c,1\"" } else { "c2" };
            text.push_str(&format!("{},{colour},{size}\n", u8::from(*late)));
        }
        let folder = tempfile::tempdir().unwrap();
        let sources = [file(folder.path(), "a.csv", &text)];
        let blocks = cut(&sources, csv(), block_bytes);
        prop_assert_eq!(all_rows(&blocks, 0).unwrap(), streamed(&sources, &csv()));
    }
}

#[test]
fn a_compressed_file_is_one_block() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..1000).map(|i| format!("{} {i}:1\n", i % 2)).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let sources = [
        file(folder.path(), "a.gz", gz.finish().unwrap()),
        file(folder.path(), "b.zst", zstd),
        file(folder.path(), "c", &text),
    ];
    let blocks = cut(&sources, Format::Libsvm, 1000);
    let of_plain_file = text.len().div_ceil(1000);
    assert_eq!(blocks.count(), 2 + of_plain_file);
    assert_eq!(all_rows(&blocks, 0).unwrap(), streamed(&sources, &Format::Libsvm));
}

#[test]
fn rows_come_in_an_order_of_their_own_for_each_epoch_and_block_whoever_reads() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..2000).map(|i| format!("{} {i}:1\n", i % 2)).collect();
    let sources = [file(folder.path(), "a", text)];
    let blocks = |seed| {
        let limits = Limits { shuffle: true, seed, ..limits() };
        Blocks::cut(&sources, Format::Libsvm, 4096, limits, 2).unwrap()
    };
    let (one, other) = (blocks(1), blocks(1));
    let keys = |blocks: &Blocks, block, epoch| rows(blocks, block, epoch).unwrap().rows.columns().to_vec();
    let first = keys(&one, 1, 0);
    assert!(!first.is_sorted());
    assert_ne!(first, keys(&one, 1, 1));
    assert_eq!(first, keys(&one, 1, 0), "from memory");
    assert_eq!(first, keys(&other, 1, 0), "in another process");
    assert_ne!(first, keys(&blocks(2), 1, 0));
    let mut sorted = first;
    sorted.sort_unstable();
    let mut file_order = keys(&cut(&sources, Format::Libsvm, 4096), 1, 0);
    file_order.sort_unstable();
    assert_eq!(sorted, file_order);
}

#[test]
fn a_mix_has_each_row_of_its_blocks_once_and_neighbours_are_not_of_one_block() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..5000).map(|i| format!("{} {i}:1\n", i % 2)).collect();
    let sources = [file(folder.path(), "a", text)];
    let limits = Limits { shuffle: true, ..limits() };
    let blocks = Blocks::cut(&sources, Format::Libsvm, 4096, limits, 2).unwrap();
    let mut keys = Vec::new();
    let all = (0..blocks.count() as u32).map(|block| match blocks.open(block, 0, &|| ()).unwrap() {
        Block::Whole(rows) => rows,
        Block::Pieces(_) => panic!("it fits"),
    });
    let mix = blocks.mix(all.collect(), 0, 0).unwrap();
    assert_eq!(mix.rows().sum::<usize>(), 5000);
    let mut some = Examples::default();
    while mix.next_into(999, &mut some) {
        keys.extend_from_slice(some.rows.columns());
    }
    let near = keys.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 300).count();
    assert!(near < 1000, "{near} of 4999 neighbours are from one stretch of the file");
    keys.sort_unstable();
    assert!(keys.into_iter().eq(0..5000));
}

#[test]
fn a_block_that_does_not_fit_comes_in_pieces_and_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..60_000).map(|i| format!("{} {i}:1\n", i % 2)).collect();
    let sources = [file(folder.path(), "a", text)];
    let limits = Limits { memory_bytes: 1 << 20, shuffle: true, seed: 1 };
    let blocks = Blocks::cut(&sources, Format::Libsvm, 1 << 30, limits, 2).unwrap();
    assert_eq!(blocks.count(), 1);
    let mut keys = rows(&blocks, 0, 0).unwrap().rows.columns().to_vec();
    assert!(!keys.is_sorted() && blocks.kept().blocks.is_empty());
    keys.sort_unstable();
    assert!(keys.into_iter().eq(0..60_000));
}

#[test]
fn a_fault_names_the_line_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = (0..500).map(|i| format!("{} {i}:1", i % 2)).collect();
    lines[400] = "1 nonsense".to_owned();
    let source = file(folder.path(), "a.svm", lines.join("\n"));
    let error = all_rows(&cut(&[source], Format::Libsvm, 300), 0).unwrap_err().to_string();
    assert!(error.contains("a.svm:401:3:"), "{error}");

    let mut lines: Vec<String> = (0..500).map(|i| format!("{},c,{i}", i % 2)).collect();
    lines.insert(0, "late,colour,size".to_owned());
    lines[400] = "1,c".to_owned();
    let source = file(folder.path(), "a.csv", lines.join("\n"));
    let error = all_rows(&cut(&[source], csv(), 300), 0).unwrap_err().to_string();
    assert!(error.contains("a.csv:401:1:") && error.contains("2 cells"), "{error}");
}

#[test]
fn a_cell_that_goes_over_the_end_of_a_block_is_a_fault_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("late,colour,size\n1,\"{}\",2\n", "long\n".repeat(100));
    let source = file(folder.path(), "a.csv", text);
    let error = all_rows(&cut(std::slice::from_ref(&source), csv(), 100), 0).unwrap_err().to_string();
    assert!(error.contains("a.csv:2:") && error.contains("compress the file"), "{error}");
    assert_eq!(
        all_rows(&cut(&[source], csv(), 1000), 0).unwrap().len(),
        1,
        "in one block it is a cell like any"
    );
}

#[test]
fn lines_longer_than_a_block_and_headers_longer_than_a_block_are_in_one_block() {
    let folder = tempfile::tempdir().unwrap();
    let header = format!("late,colour,size,{}", "x".repeat(500));
    let source = file(folder.path(), "a.csv", format!("{header}\n1,c,2,y\n0,d,3,z\n"));
    let blocks = cut(&[source], csv(), 64);
    let counts: Vec<usize> = (0..blocks.count() as u32).map(|b| rows(&blocks, b, 0).unwrap().len()).collect();
    assert!(counts.iter().sum::<usize>() == 2 && counts.len() > 5, "{counts:?}");
}

#[test]
fn a_quote_inside_a_name_of_the_header_is_text_and_no_row_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("late,colour,size,width 5\"\n");
    (0..300).for_each(|row| {
        text.push_str(&format!("{},c{row},2,{}\n", row % 2, if row == 200 { "6\"" } else { "y" }))
    });
    let source = file(folder.path(), "a.csv", text);
    let blocks = cut(&[source], csv(), 256);
    let counts: Vec<usize> = (0..blocks.count() as u32).map(|b| rows(&blocks, b, 0).unwrap().len()).collect();
    assert!(counts.iter().sum::<usize>() == 300 && counts.len() > 5, "{counts:?}");
}

#[test]
fn what_is_no_file_or_empty_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let name = |error: DataError| error.to_string();
    let stdin = name(describe(&Source::Stdin).unwrap_err());
    assert!(stdin.contains("standard input") && stdin.contains("regular file"), "{stdin}");
    let device = name(describe(&Source::File("/dev/null".into())).unwrap_err());
    assert!(device.contains("/dev/null") && device.contains("regular file"), "{device}");
    let missing = name(describe(&Source::File(folder.path().join("no"))).unwrap_err());
    assert!(missing.contains("cannot open"), "{missing}");
    let empty = name(describe(&file(folder.path(), "empty", "")).unwrap_err());
    assert!(empty.contains("is empty"), "{empty}");
}

#[test]
fn files_that_differ_at_an_end_or_in_length_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = vec![b'x'; 300_000];
    let shape = |name: &str, text: &[u8]| describe(&file(folder.path(), name, text)).unwrap();
    let first = shape("a", &text);
    assert_eq!(first, shape("b", &text));
    assert_eq!(first.to_string(), format!("300000 bytes with checksum {:016x}", first.ends));
    text[299_999] = b'y';
    assert_ne!(first, shape("c", &text));
    text[299_999] = b'x';
    text[0] = b'y';
    assert_ne!(first, shape("d", &text));
}

#[test]
fn blocks_are_as_many_as_processes_can_share_and_no_more_than_a_coordinator_takes() {
    let count = |total: u64, sources, most| total / block_bytes_for(total, sources, most) + sources as u64;
    assert_eq!(block_bytes_for(100, 1, 65_536), 32 << 10);
    assert!((100..300).contains(&count(20 << 20, 1, 65_536)));
    assert!((100..300).contains(&count(1 << 30, 10, 65_536)));
    assert!(count(1 << 50, 1000, 65_536) <= 65_536);
}
