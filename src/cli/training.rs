//! What `train` and `quickstart` share: a cluster in this process, training, scoring, figures.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::app::lr::{self, LrConfig, Tally};
use crate::app::metrics::Score;
use crate::app::model::{self, Model};
use crate::app::progress::Progress;
use crate::app::report::{self, Origin, TrainReport};
use crate::app::{PublishError, probe};
use crate::client::{Cluster, ClusterConfig, FabricChoice};
use crate::data::{DataError, Examples, FeatureSpec, Training};

/// Minibatches of a worker on their way: one computes while the next one's weights travel. More would hide a longer
/// round trip and cost accuracy, since each adds to the delay: on flights 4 minibatches of delay cost 0.0013 of log loss.
pub(super) const IN_FLIGHT: usize = 2;

/// A run: what to train, where, and from what.
pub(super) struct Run {
    pub(super) config: LrConfig,
    pub(super) servers: usize,
    pub(super) fabric: FabricChoice,
    pub(super) features: Option<FeatureSpec>,
    pub(super) start: Option<Model>,
    pub(super) seed: u64,
}

/// What came of it.
pub(super) struct Trained {
    /// When it was taken out of the cluster.
    pub(super) model: Option<Model>,
    pub(super) score: Option<Score>,
    pub(super) report: TrainReport,
}

impl Run {
    /// Trains on `data` and scores on `test`. `began` is when the data was opened: reading is part of the time.
    pub(super) fn train<T>(
        &self,
        data: &Training,
        began: Instant,
        test: Option<T>,
        progress: &Progress,
    ) -> Result<Trained, Failure>
    where
        T: Iterator<Item = Result<Examples, DataError>> + Send,
    {
        let config = ClusterConfig { servers: self.servers, fabric: self.fabric, ..ClusterConfig::default() };
        let cluster = Cluster::embedded(config)?;
        let passes = lr::train(&cluster, &self.config, data, self.start.as_ref(), progress)?;
        let trained_in = began.elapsed();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let score = match test {
            Some(blocks) => {
                Some(lr::evaluate(&cluster, lr::TABLE, &self.config.solver, blocks, threads, progress)?)
            }
            None => None,
        };
        progress.begin("export", "rows", None);
        let model = lr::export(&cluster, lr::TABLE, &self.config.solver, self.features.clone())?;
        let report = self.report(&passes, trained_in, score.as_ref(), &model, &cluster);
        Ok(Trained { model: Some(model), score, report })
    }

    fn report(
        &self,
        passes: &[Tally],
        trained_in: Duration,
        score: Option<&Score>,
        model: &Model,
        cluster: &Cluster,
    ) -> TrainReport {
        let examples = passes.iter().map(|p| p.examples).sum();
        let seconds = trained_in.as_secs_f64();
        TrainReport {
            origin: Origin::here("gradwire.train.1"),
            solver: self.config.solver.name(),
            examples,
            seconds,
            examples_per_s: examples as f64 / seconds,
            train_logloss: passes.last().and_then(Tally::mean),
            test_logloss: score.map(|s| s.logloss),
            test_auc: score.and_then(|s| s.auc),
            test_examples: score.map_or(0, |s| s.examples),
            nonzeros: model.nonzeros(),
            epochs: self.config.epochs,
            workers: self.config.workers,
            seed: self.seed,
            fabric: cluster.fabric().to_owned(),
            fabric_reason: cluster.fabric_reason().to_owned(),
            servers: self.servers,
            replicas: 1,
            recoveries: 0,
            job: None,
            processes: None,
            handed_on: None,
        }
    }
}

impl Trained {
    /// Writes the files that were asked for.
    pub(super) fn save(&self, model_out: Option<&Path>, report_out: Option<&Path>) -> Result<(), Failure> {
        if let (Some(path), Some(model)) = (model_out, &self.model) {
            model::write(model, path)?;
        }
        if let Some(path) = report_out {
            report::write(&self.report, path)?;
        }
        Ok(())
    }

    /// The figures, for people.
    pub(super) fn print(&self) -> io::Result<()> {
        let report = &self.report;
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "trained      {} on {} examples; passes: {}, workers: {}, server threads: {}, over {} ({})",
            report.solver,
            report.examples,
            report.epochs,
            report.workers,
            report.servers,
            report.fabric,
            report.fabric_reason
        )?;
        if let (Some(job), Some(processes)) = (&report.job, report.processes) {
            writeln!(out, "job          {job}; processes: {processes}")?;
        }
        writeln!(out, "rate         {:.0} examples/s, {:.2} s", report.examples_per_s, report.seconds)?;
        writeln!(out, "weights      {} not zero", report.nonzeros)?;
        if let Some(loss) = report.train_logloss {
            writeln!(
                out,
                "train loss   {loss:.4} (last pass, each example scored before it was learnt from)"
            )?;
        }
        if let Some(score) = &self.score {
            writeln!(
                out,
                "test loss    {:.4}, against {:.4} for always guessing the rate of positives",
                score.logloss, score.base_logloss
            )?;
            match score.auc {
                Some(auc) => writeln!(out, "test AUC     {auc:.4} on {} examples", score.examples)?,
                None => writeln!(out, "test AUC     none: the test data has one label only")?,
            }
        }
        Ok(())
    }
}

/// Finds out before the work, not after it, that a result has no place to go.
pub(super) fn probe_all<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> Result<(), PublishError> {
    paths.into_iter().flatten().try_for_each(probe)
}
