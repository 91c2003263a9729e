use std::time::Duration;

use super::*;
use crate::app::model;
use crate::client::ClusterConfig;
use crate::data::{Dataset, Examples, Format, Limits, Source, Stream};
use crate::linalg::Csr;

/// What a test waits for at most; a wait that never ends becomes this error.
const DEADLINE: Duration = Duration::from_secs(20);

fn cluster() -> Cluster {
    Cluster::embedded(ClusterConfig { deadline: DEADLINE, pin: false, ..ClusterConfig::default() }).unwrap()
}

fn config(solver: Solver) -> LrConfig {
    LrConfig { solver, workers: 1, minibatch: 50, epochs: 1, in_flight: 2, staleness: None }
}

/// Rows with one of ten keys each; key `k` is positive in `2 k + 1` of 20 rows, so the best weight of each is known.
fn known_rates(rows: usize) -> Dataset {
    let (mut labels, mut offsets, mut keys) = (Vec::new(), vec![0], Vec::new());
    for row in 0..rows {
        let (key, turn) = (row % 10, (row / 10) % 20);
        labels.push(if turn < 2 * key + 1 { 1.0 } else { 0.0 });
        keys.push(1_000_000_007 * key as u64);
        offsets.push(row + 1);
    }
    let mut data = Dataset::default();
    data.append(&Examples { labels, rows: Csr::from_parts(offsets, keys, None).unwrap() }).unwrap();
    data
}

fn training(data: Dataset, seed: u64) -> Training {
    Training::from_dataset(data, Limits { seed, ..Limits::default() })
}

/// Mean loss when each key's weight is the log odds of its rate.
fn least_loss() -> f64 {
    (0..10).map(|key| super::super::metrics::entropy((2.0 * f64::from(key) + 1.0) / 20.0)).sum::<f64>() / 10.0
}

fn train_anew(config: &LrConfig, data: &Training) -> (Vec<Tally>, Model) {
    let cluster = cluster();
    let passes = train(&cluster, config, data, None, &Progress::default()).unwrap();
    (passes, export(&cluster, TABLE, &config.solver, None).unwrap())
}

fn bits(model: &Model) -> (Vec<u64>, Vec<u32>) {
    (model.keys.clone(), model.state.clone())
}

#[test]
fn every_solver_comes_near_the_known_optimum() {
    for solver in [Solver::FTRL, Solver::ADAGRAD, Solver::Sgd { lr: 2.0, l2: 0.0 }] {
        let cluster = cluster();
        let config = LrConfig { epochs: 12, workers: 2, ..config(solver) };
        let passes =
            train(&cluster, &config, &training(known_rates(4000), 3), None, &Progress::default()).unwrap();
        assert!(passes.iter().all(|p| p.examples == 4000), "each pass has each example once");
        let test = [Ok(known_rates(200).examples().clone())];
        let score = evaluate(&cluster, TABLE, &solver, test.into_iter(), 2, &Progress::default()).unwrap();
        let excess = score.logloss - least_loss();
        assert!((0.0..0.01).contains(&excess), "{}: {} above {}", solver.name(), score.logloss, least_loss());
        assert!(score.auc.unwrap() > 0.8, "{}", solver.name());
    }
}

#[test]
fn one_worker_gives_the_same_bits_in_every_run() {
    let config = LrConfig { epochs: 2, in_flight: 4, ..config(Solver::FTRL) };
    let (passes, model) = train_anew(&config, &training(known_rates(3000), 5));
    let (again, same) = train_anew(&config, &training(known_rates(3000), 5));
    assert_eq!((passes, bits(&model)), (again, bits(&same)));
    let (_, other) = train_anew(&config, &training(known_rates(3000), 6));
    assert_ne!(bits(&model), bits(&other), "another seed is another order");
}

#[test]
fn training_goes_on_from_a_model_as_if_it_had_never_stopped() {
    let solver = Solver::Ftrl { alpha: 0.3, beta: 1.0, l1: 0.1, l2: 0.5 };
    // In file order one pass is the same as two halves, when no minibatch is in flight across the cut.
    let config = LrConfig { in_flight: 1, ..config(solver) };
    let file_order = |data| Training::from_dataset(data, Limits { shuffle: false, ..Limits::default() });
    let whole = known_rates(1000);
    let half = |range: std::ops::Range<u32>| {
        let mut part = Examples::default();
        whole.gather(&range.collect::<Vec<_>>(), &mut part);
        let mut data = Dataset::default();
        data.append(&part).unwrap();
        file_order(data)
    };
    let (_, first) = train_anew(&config, &half(0..500));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model::write(&first, &path).unwrap();
    let first = model::read(&path).unwrap();

    let resumed = cluster();
    train(&resumed, &config, &half(500..1000), Some(&first), &Progress::default()).unwrap();
    let resumed = export(&resumed, TABLE, &solver, None).unwrap();
    let (_, straight) = train_anew(&config, &file_order(known_rates(1000)));
    assert_eq!(bits(&resumed), bits(&straight));
}

#[test]
fn bounded_staleness_ends_with_uneven_minibatches_for_any_bound() {
    for staleness in [0, 1, 5] {
        let config = LrConfig {
            workers: 3,
            epochs: 3,
            in_flight: 4,
            staleness: Some(staleness),
            ..config(Solver::FTRL)
        };
        // 7 minibatches for 3 workers: one has a third of them and one more.
        let (passes, _) = train_anew(&config, &training(known_rates(350), 1));
        assert!(passes.iter().all(|p| p.examples == 350), "staleness {staleness}");
    }
}

#[test]
fn a_stream_is_dealt_to_workers_under_a_staleness_bound() {
    let text: String = (0..2000).map(|i| format!("{} {}:1\n", i % 2, i % 7)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.svm");
    std::fs::write(&path, text).unwrap();
    let limits = Limits { shuffle: false, ..Limits::default() };
    let data = Training::open(vec![Source::File(path)], Format::Libsvm, limits, |_| ()).unwrap();
    let config = LrConfig { workers: 3, epochs: 2, staleness: Some(0), ..config(Solver::FTRL) };
    let (passes, _) = train_anew(&config, &data);
    assert_eq!(passes.iter().map(|p| p.examples).collect::<Vec<_>>(), [2000, 2000]);
}

#[test]
fn l1_keeps_weights_at_zero() {
    let strong = Solver::Ftrl { alpha: 0.1, beta: 1.0, l1: 1e6, l2: 1.0 };
    let (_, model) = train_anew(&config(strong), &training(known_rates(1000), 1));
    assert_eq!((model.keys.len(), model.nonzeros()), (10, 0));
    let (_, model) = train_anew(&config(Solver::FTRL), &training(known_rates(1000), 1));
    assert_eq!(model.nonzeros(), 10);
}

#[test]
fn lazy_l2_shrinks_weights() {
    let norm = |l2| {
        let (_, model) =
            train_anew(&config(Solver::Adagrad { lr: 0.1, l2 }), &training(known_rates(2000), 1));
        model.values.iter().map(|w| w * w).sum::<f32>()
    };
    assert!(norm(1.0) < 0.5 * norm(0.0));
}

#[test]
fn a_rate_that_diverges_is_an_error_that_names_the_solver() {
    // One key with both labels: no weight is right for all, and the first step is out of the range of floats.
    let text: String = (0..2000).map(|i| format!("{} 1:1e30\n", u32::from(i % 4 != 0))).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.svm");
    std::fs::write(&path, text).unwrap();
    let data = Training::open(vec![Source::File(path)], Format::Libsvm, Limits::default(), |_| ()).unwrap();
    let config = LrConfig { workers: 2, staleness: Some(0), ..config(Solver::Sgd { lr: 1e30, l2: 0.0 }) };
    let error = train(&cluster(), &config, &data, None, &Progress::default()).unwrap_err().to_string();
    assert!(error.contains("sgd diverged") && error.contains("lower its rate"), "{error}");
}

#[test]
fn bad_data_stops_every_worker_and_is_named() {
    let mut text: String = (0..30_000).map(|i| format!("{} {}:1\n", i % 2, i % 7)).collect();
    text.push_str("1 nonsense\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.svm");
    std::fs::write(&path, text).unwrap();
    let limits = Limits { shuffle: false, ..Limits::default() };
    let data = Training::open(vec![Source::File(path)], Format::Libsvm, limits, |_| ()).unwrap();
    let config = LrConfig { workers: 2, staleness: Some(1), ..config(Solver::FTRL) };
    let error = train(&cluster(), &config, &data, None, &Progress::default()).unwrap_err().to_string();
    assert!(error.contains("data.svm:30001:"), "{error}");
}

#[test]
fn scores_do_not_depend_on_the_number_of_threads() {
    let cluster = cluster();
    let config = config(Solver::FTRL);
    train(&cluster, &config, &training(known_rates(1000), 1), None, &Progress::default()).unwrap();
    let text: &'static [u8] = b"1 0:1\n0 1000000007:1\n1 9000000063:2\n0 5:1\n";
    let score = |threads| {
        let blocks = (0..20).flat_map(|_| {
            let source = Source::Memory { name: "rows", bytes: text };
            Stream::open(vec![source], &Format::Libsvm).unwrap()
        });
        evaluate(&cluster, TABLE, &config.solver, blocks, threads, &Progress::default()).unwrap()
    };
    let one = score(1);
    assert_eq!((one, one.examples), (score(3), 80));
}
