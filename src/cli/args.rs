//! Everything a user may type.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

use crate::client::FabricChoice;

/// Version, then the commit, so that a report of a bug says which build it is about.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GRADWIRE_COMMIT"), ")");

/// A parameter server: sparse models trained by many workers.
#[derive(Debug, Parser)]
#[command(name = "gradwire", version = VERSION, arg_required_else_help = true, propagate_version = true)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Train on the bundled flights data and show how well it went
    Quickstart(QuickstartArgs),
    /// Train a model on your data
    #[command(arg_required_else_help = true)]
    Train {
        #[command(subcommand)]
        model: TrainModel,
    },
    /// Write one probability a line for each example
    Predict(PredictArgs),
    /// Measure what this machine does
    #[command(arg_required_else_help = true)]
    Bench {
        #[command(subcommand)]
        op: BenchOp,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TrainModel {
    /// Logistic regression
    Lr(Box<TrainArgs>),
}

#[derive(Debug, Group)]
pub(super) struct QuickstartArgs {
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(100_000))]
    pub(super) epochs: u64,
    /// Worker threads; with 1 the result is the same to the bit in every run
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count(1024))]
    pub(super) workers: u64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Write the model
    #[arg(long, value_name = "FILE")]
    pub(super) model_out: Option<PathBuf>,
    /// Also write the data as DIR/train.csv and DIR/test.csv
    #[arg(long, value_name = "DIR")]
    pub(super) save_data: Option<PathBuf>,
}

/// Where examples come from and how text becomes keys.
#[derive(Debug, Group)]
pub(super) struct FormatArgs {
    /// Format of the data [default: csv when --label is given or the name says so, else libsvm]
    #[arg(long, value_enum)]
    pub(super) format: Option<FormatName>,
    /// csv: the label, a column or a comparison such as 'delay > 15'
    #[arg(long, value_name = "EXPR")]
    pub(super) label: Option<String>,
    /// csv: columns whose values are categories
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(super) categorical: Vec<String>,
    /// csv: columns whose values are numbers
    #[arg(long, value_name = "C,D", value_delimiter = ',')]
    pub(super) numeric: Vec<String>,
    /// csv: columns whose values form categories together
    #[arg(long, value_name = "A:B", value_delimiter = ',')]
    pub(super) cross: Vec<String>,
    /// csv: the character between cells, or \t [default: ,]
    #[arg(long, value_name = "C")]
    pub(super) delimiter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatName {
    Libsvm,
    Csv,
}

#[derive(Debug, Group)]
pub(super) struct TrainArgs {
    /// Training data: files, plain or gz or zst, or - for standard input
    #[arg(long, value_name = "PATH[,PATH…]", required = true)]
    pub(super) train: String,
    /// Test data: files
    #[arg(long, value_name = "PATH[,PATH…]")]
    pub(super) test: Option<String>,
    #[command(flatten)]
    pub(super) format: FormatArgs,
    /// Optimizer [default: ftrl, or that of --model-in]
    #[arg(long, value_enum)]
    pub(super) solver: Option<SolverName>,
    /// ftrl: learning rate [default: 0.1]
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    pub(super) alpha: Option<f32>,
    /// ftrl: damps the first steps of a key [default: 1]
    #[arg(long, value_name = "RATE", value_parser = not_negative, allow_negative_numbers = true)]
    pub(super) beta: Option<f32>,
    /// ftrl: L1 penalty on the sum of losses [default: 0]
    #[arg(long, value_name = "PENALTY", value_parser = not_negative, allow_negative_numbers = true)]
    pub(super) l1: Option<f32>,
    /// L2 penalty: ftrl on the sum of losses [default: 1]; adagrad and sgd on the mean, for the keys seen [default: 0]
    #[arg(long, value_name = "PENALTY", value_parser = not_negative, allow_negative_numbers = true)]
    pub(super) l2: Option<f32>,
    /// adagrad, sgd: learning rate [default: 0.1, 0.5]
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    pub(super) lr: Option<f32>,
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(100_000))]
    pub(super) epochs: u64,
    /// Examples whose gradients are pushed together
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count(1 << 20))]
    pub(super) minibatch: u64,
    /// Seed of the shuffle
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Learn from the examples in file order
    #[arg(long)]
    pub(super) no_shuffle: bool,
    /// Go on from a model, with its optimizer state
    #[arg(long, value_name = "FILE")]
    pub(super) model_in: Option<PathBuf>,
    /// Worker threads; with 1 the result is the same to the bit in every run
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count(1024))]
    pub(super) workers: u64,
    /// Minibatches a worker may be ahead of the slowest one; inf for no bound
    #[arg(long, value_name = "N|inf", default_value = "inf", value_parser = staleness)]
    pub(super) staleness: Staleness,
    /// Server threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count(256))]
    pub(super) servers: u64,
    /// Transport between workers and servers
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) fabric: FabricName,
    /// Write the model
    #[arg(long, value_name = "FILE")]
    pub(super) model_out: Option<PathBuf>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SolverName {
    Ftrl,
    Adagrad,
    Sgd,
}

/// Bound on staleness in clocks; none for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staleness(pub(super) Option<u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FabricName {
    /// The fastest that both ends have
    Auto,
    /// Shared memory
    Shm,
    /// TCP over loopback
    Tcp,
}

impl From<FabricName> for FabricChoice {
    fn from(name: FabricName) -> Self {
        match name {
            FabricName::Auto => Self::Auto,
            FabricName::Shm => Self::Shm,
            FabricName::Tcp => Self::Tcp,
        }
    }
}

#[derive(Debug, Group)]
pub(super) struct PredictArgs {
    /// Model written by train
    #[arg(long, value_name = "FILE")]
    pub(super) model: PathBuf,
    /// Examples in the format that the model was trained on: files, or - for standard input
    #[arg(long, value_name = "PATH[,PATH…]")]
    pub(super) data: String,
    /// Where the probabilities go
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchOp {
    /// Gradients pushed to one server thread by one client thread
    Push(BenchArgs),
    /// Rows pulled from one server thread by one client thread
    Pull(BenchArgs),
    /// One key pulled, one request in flight
    Latency(BenchArgs),
    /// What a lane alone carries: bytes one way, small records there and back; no store
    Lane(LaneArgs),
    /// Optimizers in place, without a server, against the memory's bandwidth
    Kernels(KernelsArgs),
}

#[derive(Debug, Group)]
pub(super) struct BenchArgs {
    /// Transport between client and server
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) fabric: FabricName,
    /// Key space
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = count(1 << 32))]
    pub(super) keys: u64,
    /// Keys of a request
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(1 << 24))]
    pub(super) batch: u64,
    /// Values of a row
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(1 << 16))]
    pub(super) dim: u64,
    /// Requests under way
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(64))]
    pub(super) inflight: u64,
    /// Optimizer of the table: sgd, momentum, nesterov, adagrad, row-adagrad, adam, ftrl, add, assign or max
    #[arg(long, value_name = "NAME", default_value = "add")]
    pub(super) optimizer: String,
    /// Distinct key lists, used in turn
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count(1 << 16))]
    pub(super) batches: u64,
    /// Never use a key list twice
    #[arg(long)]
    pub(super) fresh_keys: bool,
    /// Send whole key lists, never digests
    #[arg(long)]
    pub(super) no_key_cache: bool,
    /// How both ends wait
    #[arg(long, value_enum, default_value = "default")]
    pub(super) wait: WaitName,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WaitName {
    /// Poll and never sleep
    Poll,
    /// Poll for a while, then sleep
    Default,
}

#[derive(Debug, Group)]
pub(super) struct LaneArgs {
    /// What carries the records
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) fabric: FabricName,
    /// Payload of a record
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = count(1 << 19))]
    pub(super) bytes: u64,
    /// How both ends wait
    #[arg(long, value_enum, default_value = "default")]
    pub(super) wait: WaitName,
    /// How long to measure the stream; the round trips take a quarter of it more
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(super) struct KernelsArgs {
    /// How long to measure all of it
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Bytes of the large table, beyond every cache
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 36))]
    pub(super) bytes: u64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
}

fn count(most: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=most)
}

fn rate(text: &str) -> Result<f32, String> {
    let rate: f32 = text.parse().map_err(|_| "give a number such as 0.1".to_owned())?;
    if rate.is_finite() { Ok(rate) } else { Err("give a finite number such as 0.1".to_owned()) }
}

fn positive(text: &str) -> Result<f32, String> {
    rate(text).and_then(|r| if r > 0.0 { Ok(r) } else { Err("give a number above 0".to_owned()) })
}

fn not_negative(text: &str) -> Result<f32, String> {
    rate(text).and_then(|r| if r >= 0.0 { Ok(r) } else { Err("give 0 or a number above it".to_owned()) })
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.01..=86_400.0).contains(&s) => Ok(s),
        _ => Err("give a number of seconds from 0.01 to 86400".to_owned()),
    }
}

fn staleness(text: &str) -> Result<Staleness, String> {
    if text == "inf" {
        return Ok(Staleness(None));
    }
    text.parse().map(|n| Staleness(Some(n))).map_err(|_| "give a number of clocks, or inf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for wrong in ["nan", "inf", "-1", "0", "x", ""] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
        assert_eq!(not_negative("0"), Ok(0.0));
        assert!(seconds("0").is_err() && seconds("inf").is_err());
        assert_eq!(staleness("inf"), Ok(Staleness(None)));
        assert_eq!(staleness("3"), Ok(Staleness(Some(3))));
        assert!(staleness("-1").is_err());
    }
}
