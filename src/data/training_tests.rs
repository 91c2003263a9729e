use super::*;
use crate::data::testing::{TempFile, gzip, watched};

/// `rows` rows, row `i` with the one key `first + i`.
fn file(first: usize, rows: usize) -> TempFile {
    let text: String = (first..first + rows).map(|key| format!("{} {key}:1\n", key % 2)).collect();
    TempFile::new(&gzip(text.as_bytes()))
}

fn training(files: &[&TempFile], limits: Limits) -> Training {
    let sources = files.iter().map(|file| Source::File(file.0.clone())).collect();
    Training::open(sources, Format::Libsvm, limits, |_| ()).unwrap()
}

/// The keys that each worker sees, minibatch by minibatch.
fn deal(training: &Training, epoch: u64, rows: usize, workers: usize) -> Vec<Vec<Vec<u64>>> {
    let epoch = training.epoch(epoch, rows, workers).unwrap();
    let mut out = Examples::default();
    let mut worker = |index| {
        let mut minibatches = epoch.worker(index);
        let mut all = Vec::new();
        while minibatches.next_into(&mut out).unwrap() {
            assert_eq!(out.labels.len(), out.rows.rows());
            assert!(
                out.rows.columns().iter().zip(&out.labels).all(|(key, label)| (key % 2) as f32 == *label)
            );
            all.push(out.rows.columns().to_vec());
        }
        all
    };
    (0..workers).map(&mut worker).collect()
}

fn sorted(dealt: &[Vec<Vec<u64>>]) -> Vec<u64> {
    let mut all: Vec<u64> = dealt.iter().flatten().flatten().copied().collect();
    all.sort_unstable();
    all
}

const IN_MEMORY: Limits = Limits { memory_bytes: 1 << 30, shuffle: true, seed: 3 };
/// Each row takes 20 bytes: far less than the rows of the tests, and several fillings of the pool.
const STREAMED: Limits = Limits { memory_bytes: 100_000, ..IN_MEMORY };

#[test]
fn each_row_is_in_exactly_one_minibatch_of_an_epoch() {
    let (a, b) = (file(0, 20_000), file(20_000, 31_234));
    for limits in [IN_MEMORY, STREAMED, Limits { shuffle: false, ..IN_MEMORY }] {
        let training = training(&[&a, &b], limits);
        assert_eq!(training.rows().is_some(), limits == IN_MEMORY);
        for workers in [1, 3] {
            let dealt = deal(&training, 0, 1000, workers);
            assert!(sorted(&dealt).into_iter().eq(0..51_234));
            let sizes: Vec<usize> = dealt.iter().flatten().map(Vec::len).collect();
            assert_eq!(sizes.iter().filter(|&&size| size != 1000).collect::<Vec<_>>(), [&234]);
        }
    }
}

#[test]
fn the_same_seed_and_epoch_repeat_and_others_differ() {
    let file = file(0, 30_000);
    for limits in [IN_MEMORY, STREAMED] {
        let same = training(&[&file], limits);
        let other = training(&[&file], Limits { seed: 4, ..limits });
        let first = deal(&same, 0, 100, 1);
        assert_eq!(deal(&same, 0, 100, 1), first);
        assert_ne!(deal(&same, 1, 100, 1), first);
        assert_ne!(deal(&other, 0, 100, 1), first);
    }
}

#[test]
fn workers_take_turns_at_the_minibatches_of_one_permutation() {
    let file = file(0, 1050);
    let training = training(&[&file], IN_MEMORY);
    let alone = deal(&training, 2, 100, 1).remove(0);
    let three = deal(&training, 2, 100, 3);
    for (number, minibatch) in alone.iter().enumerate() {
        assert_eq!(&three[number % 3][number / 3], minibatch);
    }
}

#[test]
fn streamed_rows_travel_far_from_their_file_order() {
    let file = file(0, 60_000);
    let dealt = deal(&training(&[&file], STREAMED), 0, 60_000, 1);
    let moved: f64 = dealt[0][0].iter().enumerate().map(|(at, &key)| (at as f64 - key as f64).abs()).sum();
    // The pool holds 2,500 to 10,692 rows (a block is 8,192).
    assert!(moved / 60_000.0 > 2000.0, "{}", moved / 60_000.0);
}

#[test]
fn without_shuffling_rows_come_in_file_order_each_epoch() {
    let (a, b) = (file(0, 9000), file(9000, 500));
    let training = training(&[&a, &b], Limits { shuffle: false, ..IN_MEMORY });
    for epoch in 0..2 {
        assert!(deal(&training, epoch, 700, 1)[0].concat().into_iter().eq(0..9500));
    }
}

#[test]
fn standard_input_is_one_epoch_and_never_shuffled() {
    let training = Training::open(vec![Source::Stdin], Format::Libsvm, IN_MEMORY, |_| ()).unwrap();
    training.check_epochs(1).unwrap();
    let message = training.check_epochs(2).unwrap_err().to_string();
    assert_eq!(message, "standard input can be read once only; use one epoch, or give a file");
    assert!(matches!(training.epoch(1, 10, 1), Err(DataError::StdinTwice)));
}

#[test]
fn a_fault_ends_the_epoch_of_all_workers() {
    watched(|| {
        let text = "1 1:1\n".repeat(20_000) + "1 x\n";
        let file = TempFile::new(text.as_bytes());
        let training = training(&[&file], Limits { shuffle: false, ..IN_MEMORY });
        let epoch = training.epoch(0, 1000, 2).unwrap();
        let (mut first, mut second) = (epoch.worker(0), epoch.worker(1));
        let mut out = Examples::default();
        let mut rows = 0;
        let error = loop {
            match first.next_into(&mut out) {
                Ok(more) => {
                    assert!(more);
                    rows += out.len();
                }
                Err(error) => break error,
            }
        };
        assert_eq!(rows, 20_000);
        assert!(error.to_string().contains(":20001:3:"), "{error}");
        assert!(!second.next_into(&mut out).unwrap());
        let sources = vec![Source::File(file.0.clone())];
        assert!(Training::open(sources, Format::Libsvm, IN_MEMORY, |_| ()).is_err());
    });
}

#[test]
fn loading_reports_progress_and_streaming_has_it_in_the_epoch() {
    let file = file(0, 30_000);
    let bytes = file.0.metadata().unwrap().len();
    let mut last = Progress::default();
    let sources = vec![Source::File(file.0.clone())];
    Training::open(sources, Format::Libsvm, IN_MEMORY, |progress| last = progress).unwrap();
    assert_eq!((last.bytes_read, last.bytes_total, last.rows), (bytes, Some(bytes), 30_000));
    let training = training(&[&file], STREAMED);
    let epoch = training.epoch(0, 1000, 1).unwrap();
    let mut minibatches = epoch.worker(0);
    let mut out = Examples::default();
    while minibatches.next_into(&mut out).unwrap() {}
    assert_eq!(epoch.progress().map(|progress| progress.rows), Some(30_000));
}
