//! `gradwire train lr`.

use std::time::Instant;

use super::args::{SolverName, TrainArgs};
use super::data::{features_of, format};
use super::failure::Failure;
use super::progress::Display;
use super::training::{IN_FLIGHT, Run, probe_all};
use crate::app::lr::{LrConfig, Solver};
use crate::app::model::{self, Model};
use crate::app::progress::Progress;
use crate::data::{Format, Limits, Source, Stream, Training, quarter_of_memory};

/// What was asked for, whatever cluster trains it.
pub(super) struct Asked {
    pub(super) sources: Vec<Source>,
    pub(super) tests: Option<Vec<Source>>,
    pub(super) start: Option<Model>,
    pub(super) format: Format,
    pub(super) config: LrConfig,
    pub(super) limits: Limits,
}

impl Asked {
    /// Finds out what cannot work before any work is done.
    pub(super) fn of(args: &TrainArgs) -> Result<Self, Failure> {
        let sources = Source::list(&args.train)?;
        if args.epochs > 1 && sources.contains(&Source::Stdin) {
            return Err(Failure::usage("standard input can be read once; give --epochs 1, or a file"));
        }
        let tests = args.test.as_deref().map(Source::list).transpose()?;
        let stdin_too = |tests: &Vec<Source>| tests.contains(&Source::Stdin);
        if tests.as_ref().is_some_and(stdin_too) && sources.contains(&Source::Stdin) {
            return Err(Failure::usage("standard input is the training data; give a file to --test"));
        }
        probe_all([args.model_out.as_deref(), args.report.as_deref()])?;
        let start = args.model_in.as_deref().map(model::read).transpose()?;
        let solver = solver(args, start.as_ref())?;
        if let Some(model) = &start {
            check_resumable(model)?;
        }
        let format = format(&args.format, &sources, start.as_ref().map(|m| m.features.as_ref()))?;
        let config = LrConfig {
            solver,
            workers: args.workers as usize,
            minibatch: args.minibatch as usize,
            epochs: args.epochs as usize,
            in_flight: IN_FLIGHT,
            staleness: args.staleness.0,
        };
        let limits = Limits { memory_bytes: quarter_of_memory(), shuffle: !args.no_shuffle, seed: args.seed };
        Ok(Self { sources, tests, start, format, config, limits })
    }
}

pub(super) fn run(args: &TrainArgs) -> Result<(), Failure> {
    if let Some(addresses) = &args.cluster {
        return super::job::run(args, addresses);
    }
    let Asked { sources, tests, start, format, config, limits } = Asked::of(args)?;
    let run = Run {
        config,
        servers: args.servers as usize,
        fabric: args.fabric.into(),
        features: features_of(&format),
        start,
        seed: args.seed,
    };
    // Opened before the training, so that a missing file is not found out after it.
    let test = tests.map(|tests| Stream::open(tests, &format)).transpose()?;

    let display = Display::start()?;
    let began = Instant::now();
    let data = load(sources, format, limits, display.progress())?;
    let trained = run.train(&data, began, test, display.progress())?;
    drop(display);
    trained.save(args.model_out.as_deref(), args.report.as_deref())?;
    Ok(trained.print()?)
}

fn load(
    sources: Vec<Source>,
    format: Format,
    limits: Limits,
    progress: &Progress,
) -> Result<Training, Failure> {
    let mut begun = false;
    Ok(Training::open(sources, format, limits, |read| {
        if !begun {
            progress.begin("reading", "bytes", read.bytes_total);
            begun = true;
        }
        progress.set(read.bytes_read);
    })?)
}

/// The solver that flags and model agree on. A rate that is not given is the model's, else the default.
fn solver(args: &TrainArgs, start: Option<&Model>) -> Result<Solver, Failure> {
    let trained = start.map(|m| m.table.optimizer);
    let fresh = |name| match name {
        SolverName::Ftrl => Solver::FTRL,
        SolverName::Adagrad => Solver::ADAGRAD,
        SolverName::Sgd => Solver::SGD,
    };
    let base = match (args.solver.map(fresh), trained) {
        (Some(asked), Some(trained)) if asked.name() != trained.name() => {
            return Err(Failure::usage(format!(
                "--solver {} cannot go on from a model trained with {}; leave --solver out",
                asked.name(),
                trained.name()
            )));
        }
        (asked, trained) => trained.or(asked).unwrap_or(Solver::FTRL),
    };
    let foreign: &[(&str, Option<f32>)] = match base {
        Solver::Ftrl { .. } => &[("--lr", args.lr)],
        _ => &[("--alpha", args.alpha), ("--beta", args.beta), ("--l1", args.l1)],
    };
    if let Some((flag, _)) = foreign.iter().find(|(_, rate)| rate.is_some()) {
        return Err(Failure::usage(format!("{flag} is no rate of solver {}; leave it out", base.name())));
    }
    let solver = match base {
        Solver::Ftrl { alpha, beta, l1, l2 } => Solver::Ftrl {
            alpha: args.alpha.unwrap_or(alpha),
            beta: args.beta.unwrap_or(beta),
            l1: args.l1.unwrap_or(l1),
            l2: args.l2.unwrap_or(l2),
        },
        Solver::Adagrad { lr, l2 } => {
            Solver::Adagrad { lr: args.lr.unwrap_or(lr), l2: args.l2.unwrap_or(l2) }
        }
        Solver::Sgd { lr, l2 } => Solver::Sgd { lr: args.lr.unwrap_or(lr), l2: args.l2.unwrap_or(l2) },
    };
    solver.check().map_err(|e| Failure::usage(e.to_string()))?;
    Ok(solver)
}

/// Rows in a model are as its servers stored them; servers of other kernels would read them wrongly.
fn check_resumable(model: &Model) -> Result<(), Failure> {
    let ours = gradwire_kernels::KERNEL_VERSION;
    if model.kernel_version != ours {
        return Err(Failure::work(format!(
            "--model-in was written by kernels of version {}, this program has {ours}; predict can use it, training \
             has to start anew",
            model.kernel_version
        )));
    }
    let rule = model.table.optimizer.rule();
    let layout = gradwire_kernels::RowLayout::new(&rule, model.table.dim, gradwire_kernels::Dtype::F32);
    if !model.keys.is_empty() && model.state_words() != layout.words() {
        return Err(Failure::work(format!(
            "--model-in has {} words of state a row where {} needs {}; give a file written by --model-out",
            model.state_words(),
            rule.name(),
            layout.words()
        )));
    }
    Ok(())
}
