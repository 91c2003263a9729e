use std::io;
use std::path::PathBuf;

use crossbeam_channel::unbounded;

use super::*;
use crate::data::testing::{Pieces, TempFile, drain, gzip, watched};

const TEXT: &str = "1 1:1\n0 2:1\n1 3:0.5\n";

fn open(list: &str) -> Result<Stream, DataError> {
    Stream::open(Source::list(list)?, &Format::Libsvm)
}

fn columns(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let file = TempFile::new(bytes);
    let (examples, error) = drain(open(file.0.to_str().unwrap()).unwrap());
    error.map_or(Ok(examples.rows.columns().to_vec()), |error| Err(error.to_string()))
}

#[test]
fn compressed_files_are_known_by_their_first_bytes() {
    let text = TEXT.as_bytes();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let skippable = [&[0x51, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(text)].concat();
    let two_members = [gzip(&text[..9]), gzip(&text[9..])].concat();
    let two_frames = [zstd(&text[..9]), zstd(&text[9..])].concat();
    for bytes in [text.to_vec(), gzip(text), two_members, zstd(text), two_frames, skippable] {
        assert_eq!(columns(&bytes).unwrap(), [1, 2, 3]);
        let dribble = Pieces::new(bytes, &[1]);
        let (examples, error) = drain(Stream::from_reader("data", dribble, &Format::Libsvm).unwrap());
        assert!(error.is_none());
        assert_eq!(examples.rows.columns(), &[1, 2, 3]);
    }
}

#[test]
fn a_damaged_or_empty_compressed_file_is_an_error() {
    let text = TEXT.repeat(10_000);
    let (gz, zst) = (gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 3).unwrap());
    for whole in [gz.clone(), zst] {
        let message = columns(&whole[..whole.len() - 5]).unwrap_err();
        assert!(
            message.contains("cannot read") && message.ends_with("check that the file is whole"),
            "{message}"
        );
    }
    let mut flipped = gz;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    columns(&flipped).unwrap_err();
    assert!(columns(b"").unwrap_err().ends_with("is empty; give a file with at least one example"));
    assert!(columns(&gzip(b"")).unwrap_err().contains("is empty"));
    assert!(columns(b"1").unwrap_or_default().is_empty(), "a file shorter than the magic is plain");
}

#[test]
fn a_missing_file_a_folder_or_an_empty_name_is_refused_at_once() {
    let message = open("/nonexistent/a.svm").err().unwrap().to_string();
    assert!(message.starts_with("cannot open /nonexistent/a.svm: No such file"), "{message}");
    let folder = std::env::temp_dir();
    let message = open(folder.to_str().unwrap()).err().unwrap().to_string();
    assert!(message.contains("is a directory"), "{message}");
    for list in ["", "a,", ",a", "-,-"] {
        assert!(matches!(Source::list(list), Err(DataError::Sources { .. })), "{list}");
    }
    assert_eq!(Source::list("-,x").unwrap(), [Source::Stdin, Source::File(PathBuf::from("x"))]);
}

#[test]
fn files_follow_each_other_and_progress_counts_stored_bytes() {
    let (first, second) = (TempFile::new(TEXT.as_bytes()), TempFile::new(&gzip(b"1 9:1\n")));
    let list = format!("{},{}", first.0.display(), second.0.display());
    let total = first.0.metadata().unwrap().len() + second.0.metadata().unwrap().len();
    let mut stream = open(&list).unwrap();
    assert_eq!(stream.progress(), Progress { bytes_total: Some(total), ..Progress::default() });
    assert_eq!(stream.next().unwrap().unwrap().rows.columns(), &[1, 2, 3]);
    assert_eq!(stream.next().unwrap().unwrap().rows.columns(), &[9]);
    assert!(stream.next().is_none());
    let wanted = Progress { bytes_read: total, bytes_total: Some(total), rows: 4, skipped_rows: 0 };
    assert_eq!(stream.progress(), wanted);
}

#[test]
fn a_fault_in_the_second_file_names_it() {
    let (first, second) = (TempFile::new(TEXT.as_bytes()), TempFile::new(b"1 x:1\n"));
    let (examples, error) = drain(open(&format!("{},{}", first.0.display(), second.0.display())).unwrap());
    assert_eq!(examples.len(), 3);
    assert!(error.unwrap().to_string().starts_with(&format!("{}:1:3:", second.0.display())));
    let empty = TempFile::new(b"");
    let (_, error) = drain(open(&format!("{},{}", first.0.display(), empty.0.display())).unwrap());
    assert!(error.unwrap().to_string().starts_with(&empty.0.display().to_string()));
}

#[test]
fn blocks_are_bounded_and_their_memory_comes_back() {
    let text = "1 1:1 2:1\n".repeat(50_000);
    let mut stream = Stream::from_reader("data", Pieces::new(text, &[1 << 16]), &Format::Libsvm).unwrap();
    let mut rows = 0;
    while let Some(block) = stream.next() {
        let block = block.unwrap();
        assert!(block.len() <= CHUNK / 10 && !block.is_empty());
        rows += block.len();
        assert_eq!(stream.progress().rows, rows as u64);
        stream.recycle(block);
    }
    assert_eq!(rows, 50_000);
}

#[test]
fn any_number_of_parsers_gives_the_same_blocks() {
    let mut svm = String::new();
    let mut csv = String::from("y,a,n\n");
    for row in 0..60_000 {
        svm += &format!("{} {}:1 {}:0.{row}\n", row % 2, row % 7, row + 10);
        let cell = if row % 1000 == 0 { "\"\n\"" } else { "c" };
        csv += &format!("{},{cell},{row}\n", row % 2);
    }
    let csv_format = Format::Csv(FeatureSpec::new("y").unwrap().categorical("a").numeric("n"));
    for (text, format) in [(svm, Format::Libsvm), (csv, csv_format)] {
        // A fault far into the file, so that it is found while later chunks are parsed.
        let files = [TempFile::new(text.as_bytes()), TempFile::new(format!("{text}bad,\nworse").as_bytes())];
        let sources: Vec<Source> = files.iter().map(|file| Source::File(file.0.clone())).collect();
        let read = |parsers: usize| {
            let mut stream = Stream::open_with(sources.clone(), &format, parsers).unwrap();
            let mut blocks = Vec::new();
            let error = loop {
                match stream.next().unwrap() {
                    Ok(block) => blocks.push(block),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(stream.next().is_none(), "nothing follows an error");
            (blocks, error, stream.progress().rows)
        };
        let wanted = read(1);
        assert!(wanted.0.len() > 4 && wanted.2 >= 110_000);
        assert!(wanted.1.contains(":600") || wanted.1.contains(":601"), "{}", wanted.1);
        for parsers in [2, 5] {
            assert_eq!(read(parsers), wanted);
        }
    }
}

/// Endless rows; tells when the reader lets go of it.
struct Endless {
    at: usize,
    _gone: Sender<()>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for place in &mut *buffer {
            *place = b"1 1:1 2:1\n"[self.at % 10];
            self.at += 1;
        }
        Ok(buffer.len())
    }
}

#[test]
fn dropping_a_stream_ends_its_thread() {
    for blocks in [0, 1, 7] {
        watched(move || {
            let (gone, ended) = unbounded::<()>();
            let mut stream =
                Stream::from_reader("data", Endless { at: 0, _gone: gone }, &Format::Libsvm).unwrap();
            for _ in 0..blocks {
                stream.next().unwrap().unwrap();
            }
            drop(stream);
            // Disconnects when the thread drops the reader.
            assert!(ended.recv().is_err());
        });
    }
}

#[test]
fn a_reader_that_fails_or_panics_is_an_error_and_not_the_end() {
    struct Failing(bool);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 {
                panic!("a reader's bug");
            }
            self.0 = buffer.is_empty();
            Err(io::Error::other("the disk is on fire"))
        }
    }
    for (panics, wanted) in
        [(false, "cannot read data: the disk is on fire"), (true, "the parser thread for data failed")]
    {
        watched(move || {
            let (examples, error) =
                drain(Stream::from_reader("data", Failing(panics), &Format::Libsvm).unwrap());
            assert!(examples.is_empty());
            let message = error.unwrap().to_string();
            assert!(message.starts_with(wanted), "{message}");
        });
    }
}
