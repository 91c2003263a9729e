use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use super::*;
use crate::client::{Assignment, ClusterConfig, Job, JobEntry, JobPlan, JobSpec, Joined, Part};
use crate::data::{Blocks, Format, Limits, Source, Stream};

/// What a test waits for at most; a wait that never ends becomes this error.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes a block: some 16 lines.
const BLOCK_BYTES: u64 = 128;

fn cluster() -> Cluster {
    Cluster::embedded(ClusterConfig { deadline: DEADLINE, pin: false, ..ClusterConfig::default() }).unwrap()
}

fn config() -> LrConfig {
    let solver = Solver::FTRL;
    LrConfig { solver, workers: 2, minibatch: 10, epochs: 3, in_flight: 2, staleness: None }
}

/// Rows of one of seven keys; the higher the key, the likelier a positive label.
fn data(folder: &Path, rows: usize) -> PathBuf {
    let line = |row: usize| format!("{} {}:1\n", u8::from((row * 5) % 11 < row % 7), row % 7);
    let path = folder.join("data.svm");
    std::fs::write(&path, (0..rows).map(line).collect::<String>()).unwrap();
    path
}

/// One process of a job.
struct Process {
    cluster: Cluster,
    blocks: Blocks,
    job: Job,
    config: LrConfig,
    evaluated: AtomicU32,
}

fn entry(config: &LrConfig, blocks: usize, part: Option<Part>) -> JobEntry {
    let parts = part.map_or(0, |part| part.count);
    let spec = JobSpec { epochs: config.epochs as u32, seed: Some(3), prepare: false, fields: vec![] };
    let plan = JobPlan { block_bytes: BLOCK_BYTES, blocks: blocks as u32, parts };
    JobEntry { name: Some("test".into()), spec, plan, threads: config.workers as u32, part }
}

impl Process {
    fn join(cluster: &Cluster, path: &Path, config: &LrConfig, part: Option<Part>) -> Self {
        let limits = Limits { seed: 3, ..Limits::default() };
        let source = Source::File(path.into());
        let blocks = Blocks::cut(&[source], Format::Libsvm, BLOCK_BYTES, limits, config.workers).unwrap();
        let Joined::Running(job) = cluster.join_job(entry(config, blocks.count(), part)).unwrap() else {
            panic!("the job is over")
        };
        Self { cluster: cluster.clone(), blocks, job, config: config.clone(), evaluated: AtomicU32::new(0) }
    }

    fn run_from(&self, start: Option<&Model>) -> Result<String, LrError> {
        let (config, progress) = (&self.config, &Progress::default());
        let training = JobTraining {
            cluster: &self.cluster,
            job: &self.job,
            config,
            blocks: &self.blocks,
            start,
            progress,
        };
        training.run(|totals| {
            self.evaluated.fetch_add(1, Ordering::Relaxed);
            Ok(format!("{} {}", totals.all.examples, totals.last.examples))
        })
    }

    fn run(&self) -> Result<String, LrError> {
        self.run_from(None)
    }

    /// Log loss of the job's weights on its data.
    fn loss(&self, path: &Path) -> f64 {
        let test = Stream::open(vec![Source::File(path.into())], &Format::Libsvm).unwrap();
        let table = table_of(self.job.id());
        evaluate(&self.cluster, &table, &self.config.solver, test, 1, &Progress::default()).unwrap().logloss
    }
}

#[test]
fn processes_of_a_job_share_its_blocks_and_end_with_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 2000);
    for staleness in [None, Some(0), Some(4)] {
        let (cluster, config) = (cluster(), LrConfig { staleness, epochs: 20, ..config() });
        let processes: Vec<_> = (0..3).map(|_| Process::join(&cluster, &path, &config, None)).collect();
        let reports: Vec<String> = thread::scope(|scope| {
            let running: Vec<_> =
                processes.iter().map(|process| scope.spawn(|| process.run().unwrap())).collect();
            running.into_iter().map(|process| process.join().unwrap()).collect()
        });
        assert_eq!(reports, ["40000 2000"; 3], "staleness {staleness:?}");
        let evaluated: u32 = processes.iter().map(|p| p.evaluated.load(Ordering::Relaxed)).sum();
        assert_eq!(evaluated, 1);

        let whole = Stream::open(vec![Source::File(path.clone())], &Format::Libsvm).unwrap();
        let mut dataset = crate::data::Dataset::default();
        whole.for_each(|block| dataset.append(&block.unwrap()).unwrap());
        let alone = super::Cluster::embedded(ClusterConfig::default()).unwrap();
        let training = crate::data::Training::from_dataset(dataset, Limits::default());
        train(&alone, &config, &training, None, &Progress::default()).unwrap();
        let test = Stream::open(vec![Source::File(path.clone())], &Format::Libsvm).unwrap();
        let reference =
            evaluate(&alone, TABLE, &config.solver, test, 1, &Progress::default()).unwrap().logloss;
        let found = processes[0].loss(&path);
        assert!((found - reference).abs() < 0.002, "{found} against {reference}");
    }
}

#[test]
fn one_worker_of_one_process_gives_the_same_bits_in_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 1000);
    let config = LrConfig { workers: 1, ..config() };
    let run = || {
        let process = Process::join(&cluster(), &path, &config, None);
        process.run().unwrap();
        export(&process.cluster, &table_of(process.job.id()), &config.solver, None).unwrap()
    };
    let (one, two) = (run(), run());
    assert!(!one.keys.is_empty() && (one.keys, one.state) == (two.keys, two.state));
}

#[test]
fn blocks_of_a_process_that_left_are_learnt_from_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 1000);
    let (cluster, config) = (cluster(), config());
    let lost = Process::join(&cluster, &path, &config, None);
    let other = Process::join(&cluster, &path, &config, None);
    let mut leases = Vec::new();
    for _ in 0..5 {
        let Assignment::Blocks { blocks, .. } = lost.job.next(3).unwrap() else { panic!("there are blocks") };
        leases.extend(blocks);
    }
    drop(lost);
    assert_eq!(other.run().unwrap(), "3000 1000");
}

#[test]
fn fixed_shares_are_learnt_from_by_their_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 1000);
    let (cluster, config) = (cluster(), config());
    let part = |index| Some(Part { index, count: 2 });
    let processes = [1, 2].map(|index| Process::join(&cluster, &path, &config, part(index)));
    let blocks = processes[0].blocks.count();
    let taken = cluster.join_job(entry(&config, blocks, part(2))).unwrap_err().to_string();
    assert!(taken.contains("part 2/2") && taken.contains("another process"), "{taken}");
    let reports: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> =
            processes.iter().map(|process| scope.spawn(|| process.run().unwrap())).collect();
        running.into_iter().map(|process| process.join().unwrap()).collect()
    });
    assert_eq!(reports, ["3000 1000"; 2]);
}

#[test]
fn a_model_to_go_on_from_is_restored_once_before_the_first_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 500);
    let config = config();
    let first = Process::join(&cluster(), &path, &config, None);
    first.run().unwrap();
    let model = export(&first.cluster, &table_of(first.job.id()), &config.solver, None).unwrap();

    let cluster = cluster();
    let limits = Limits { seed: 3, ..Limits::default() };
    let mut reports = Vec::new();
    for _ in 0..2 {
        let blocks =
            Blocks::cut(&[Source::File(path.clone())], Format::Libsvm, BLOCK_BYTES, limits, 2).unwrap();
        let mut entry = entry(&config, blocks.count(), None);
        entry.spec.prepare = true;
        reports.push(match cluster.join_job(entry).unwrap() {
            Joined::Over { report, .. } => report,
            Joined::Running(job) => {
                let (cluster, config) = (cluster.clone(), config.clone());
                let process = Process { cluster, blocks, job, config, evaluated: AtomicU32::new(0) };
                let before = process.run_from(Some(&model)).unwrap();
                // Three more passes than the first job had: its loss cannot be above.
                assert!(process.loss(&path) < first.loss(&path));
                before
            }
        });
    }
    assert_eq!(reports, ["1500 500"; 2], "who comes late is told the report");
}

#[test]
fn a_fault_in_the_data_ends_the_job_for_all_and_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = data(folder.path(), 1000);
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("1 nonsense\n");
    std::fs::write(&path, text).unwrap();
    let (cluster, config) = (cluster(), config());
    let processes = [0, 1].map(|_| Process::join(&cluster, &path, &config, None));
    let errors: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = processes.iter().map(|process| scope.spawn(|| process.run())).collect();
        running.into_iter().map(|process| process.join().unwrap().unwrap_err().to_string()).collect()
    });
    assert!(errors.iter().all(|error| error.contains("data.svm:1001:")), "{errors:?}");
}
