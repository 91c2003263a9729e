//! `gradwire train lr --cluster`: one process of a job.

use std::time::Duration;

use super::args::TrainArgs;
use super::complain;
use super::data::features_of;
use super::failure::Failure;
use super::progress::Display;
use super::train::Asked;
use super::training::Trained;
use crate::app::lr::{self, JobTraining, LrError, table_of};
use crate::app::metrics::Score;
use crate::app::progress::Progress;
use crate::app::report::{JobFigures, Origin, TrainReport};
use crate::client::{
    Cluster, ConnectConfig, JobEntry, JobId, JobPlan, JobSpec, Joined, MAX_BLOCKS, Part, Totals,
};
use crate::data::{Blocks, DataError, Format, Source, Stream, block_bytes_for, describe};

/// Trains with whoever else is in the job, or reports what it came to.
pub(super) fn run(args: &TrainArgs, addresses: &str) -> Result<(), Failure> {
    let asked = Asked::of(args)?;
    let mut all = asked.sources.iter().chain(asked.tests.iter().flatten());
    if all.any(|source| *source == Source::Stdin) {
        return Err(Failure::usage(
            "a job reads its data in blocks, more than once; give files, not standard input",
        ));
    }
    let (spec, total_bytes) = spec(args, &asked)?;
    let block_bytes = block_bytes_for(total_bytes, asked.sources.len(), MAX_BLOCKS);
    let cut = |block_bytes| {
        Blocks::cut(&asked.sources, asked.format.clone(), block_bytes, asked.limits, asked.config.workers)
    };
    let mut blocks = cut(block_bytes)?;
    let cluster = Cluster::connect_with(
        addresses,
        ConnectConfig {
            fabric: args.fabric.into(),
            connect_timeout: Duration::from_secs_f64(args.connect_timeout),
            ..ConnectConfig::default()
        },
    )?;
    let parts = args.part.map_or(0, |part: Part| part.count);
    let plan = JobPlan { block_bytes, blocks: blocks.count() as u32, parts };
    let threads = asked.config.workers as u32;
    let entry = JobEntry { name: args.job.clone(), spec, plan, threads, part: args.part };
    let display = Display::start()?;
    let (id, name, report) = match cluster.join_job(entry)? {
        Joined::Over { id, name, report } => (id, name, report),
        Joined::Running(job) => {
            if args.job.is_none() {
                complain(&format!("this is job {}; others take part with --job {0}", job.name()));
            }
            if job.plan() != plan {
                // Who began it may have been another build.
                let block_bytes = job.plan().block_bytes.max(1);
                // As many blocks at least; a plan that fits no data is not carried out.
                if total_bytes / block_bytes <= u64::from(job.plan().blocks) {
                    blocks = cut(block_bytes)?;
                }
            }
            if blocks.count() != job.plan().blocks as usize {
                return Err(Failure::work(format!(
                    "job {:?} has {} blocks where this build makes {}; use one build for all of its processes",
                    job.name(),
                    job.plan().blocks,
                    blocks.count()
                )));
            }
            let progress = display.progress();
            let (config, start) = (&asked.config, asked.start.as_ref());
            let training =
                JobTraining { cluster: &cluster, job: &job, config, blocks: &blocks, start, progress };
            let report = training.run(|totals| evaluate(&cluster, &asked, job.id(), totals, progress))?;
            (job.id(), job.name().to_owned(), report)
        }
    };
    let figures: JobFigures = serde_json::from_str(&report).map_err(|error| {
        Failure::work(format!("the report of job {name:?} cannot be read: {error}; use one build for all"))
    })?;
    let model = match &args.model_out {
        None => None,
        Some(_) => {
            display.progress().begin("export", "rows", None);
            let features = features_of(&asked.format);
            Some(lr::export(&cluster, &table_of(id), &asked.config.solver, features)?)
        }
    };
    drop(display);
    let (score, report) = (figures.test, train_report(&asked, figures, name, &cluster));
    let trained = Trained { model, score, report };
    trained.save(args.model_out.as_deref(), args.report.as_deref())?;
    Ok(trained.print()?)
}

/// What every process of the job must have been given alike, and the bytes to train on.
fn spec(args: &TrainArgs, asked: &Asked) -> Result<(JobSpec, u64), Failure> {
    let json = |value: &dyn Fn() -> serde_json::Result<String>| value().map_err(Failure::work);
    let format = match &asked.format {
        Format::Libsvm | Format::LibsvmMaybeLabelled => "libsvm".to_owned(),
        Format::Csv(features) => format!("csv {}", json(&|| serde_json::to_string(features))?),
    };
    let mut fields = vec![
        ("train".to_owned(), "lr".to_owned()),
        ("--solver".to_owned(), json(&|| serde_json::to_string(&asked.config.solver))?),
        ("--minibatch".to_owned(), asked.config.minibatch.to_string()),
        (
            "--staleness".to_owned(),
            asked.config.staleness.map_or_else(|| "inf".to_owned(), |s| s.to_string()),
        ),
        ("--format".to_owned(), format),
    ];
    let mut total_bytes: u64 = 0;
    for (flag, sources) in
        [("--train", &asked.sources[..]), ("--test", asked.tests.as_deref().unwrap_or_default())]
    {
        fields.push((flag.to_owned(), format!("of {} files", sources.len())));
        for source in sources {
            let shape = describe(source)?;
            fields.push((flag.to_owned(), format!("with a file of {shape}")));
            total_bytes += if flag == "--train" { shape.bytes } else { 0 };
        }
    }
    let model = match &args.model_in {
        None => "none".to_owned(),
        Some(path) => format!("a file of {}", describe(&Source::File(path.clone()))?),
    };
    fields.push(("--model-in".to_owned(), model));
    let seed = (!args.no_shuffle).then_some(args.seed);
    let epochs = asked.config.epochs as u32;
    Ok((JobSpec { epochs, seed, prepare: asked.start.is_some(), fields }, total_bytes))
}

/// The job's figures, by the one process that is told to find them out.
fn evaluate(
    cluster: &Cluster,
    asked: &Asked,
    job: JobId,
    totals: Totals,
    progress: &Progress,
) -> Result<String, LrError> {
    if totals.all.examples == 0 {
        return Err(LrError::NoExamples);
    }
    let (table, solver) = (table_of(job), &asked.config.solver);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let test = match &asked.tests {
        None => None,
        Some(tests) => {
            let blocks = Stream::open(tests.clone(), &asked.format)?;
            Some(lr::evaluate(cluster, &table, solver, blocks, threads, progress)?)
        }
    };
    if test.as_ref().is_some_and(|test: &Score| !test.logloss.is_finite()) {
        return Err(LrError::Diverged { solver: solver.name() });
    }
    progress.begin("export", "rows", None);
    let figures = JobFigures {
        examples: totals.all.examples,
        seconds: totals.trained_ms as f64 / 1000.0,
        train_logloss: lr::Tally { examples: totals.last.examples, loss: totals.last.loss }.mean(),
        test,
        nonzeros: lr::export(cluster, &table, solver, None)?.nonzeros(),
        workers: totals.threads as usize,
        processes: totals.processes,
        servers: cluster.config().servers,
        handed_on: totals.handed_on,
    };
    serde_json::to_string(&figures).map_err(|error| {
        LrError::Data(DataError::Spec { what: format!("the figures are no JSON: {error}; report this") })
    })
}

fn train_report(asked: &Asked, figures: JobFigures, job: String, cluster: &Cluster) -> TrainReport {
    TrainReport {
        origin: Origin::here("gradwire.train.1"),
        solver: asked.config.solver.name(),
        examples: figures.examples,
        seconds: figures.seconds,
        examples_per_s: figures.examples as f64 / figures.seconds.max(0.001),
        train_logloss: figures.train_logloss,
        test_logloss: figures.test.map(|test| test.logloss),
        test_auc: figures.test.and_then(|test| test.auc),
        test_examples: figures.test.map_or(0, |test| test.examples),
        nonzeros: figures.nonzeros,
        epochs: asked.config.epochs,
        workers: figures.workers,
        seed: asked.limits.seed,
        fabric: cluster.fabric().to_owned(),
        fabric_reason: cluster.fabric_reason().to_owned(),
        servers: figures.servers,
        replicas: 1,
        recoveries: 0,
        job: Some(job),
        processes: Some(figures.processes),
        handed_on: Some(figures.handed_on),
    }
}
