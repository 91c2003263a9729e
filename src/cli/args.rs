//! Everything a user may type.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

use crate::client::{FabricChoice, Part};

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
    /// Keep what servers and workers agree on: who holds what, tables, sessions
    Coordinator(CoordinatorArgs),
    /// Hold parameters and apply updates to them
    Server(ServerArgs),
    /// Run a local cluster of real processes until Ctrl-C
    Up(UpArgs),
    /// Show how a cluster stands; exit 1 unless it is complete
    Status(StatusArgs),
    /// Move everything off a server, so that it can be stopped
    #[command(arg_required_else_help = true)]
    Drain(DrainArgs),
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
    /// Server threads, in this process
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count(256), conflicts_with = "cluster")]
    pub(super) servers: u64,
    /// Train on the servers of these coordinators, with every other process of the job
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses)]
    pub(super) cluster: Option<String>,
    /// The job to take part in; its report when it is over [default: a new job]
    #[arg(long, value_name = "NAME", requires = "cluster", value_parser = job_name)]
    pub(super) job: Option<String>,
    /// Learn from the I-th of N fixed shares of the data, I from 1, instead of whatever is to do
    #[arg(long, value_name = "I/N", requires = "job", value_parser = clap::value_parser!(Part))]
    pub(super) part: Option<Part>,
    /// How long to look for the coordinator
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds, requires = "cluster")]
    pub(super) connect_timeout: f64,
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

/// Most copies of a partition: every push travels through all of them, one after the other.
const MOST_REPLICAS: u32 = 16;

#[derive(Debug, Group)]
pub(super) struct CoordinatorArgs {
    /// Where servers, workers and status come; port 0 picks a free one, and the first line printed is the address
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) listen: String,
    /// Where decisions are kept: a directory that no other coordinator uses
    #[arg(long, value_name = "file:DIR", default_value = "file:gradwire-coordinator", value_parser = store)]
    pub(super) store: PathBuf,
    /// Copies of each partition
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = replicas)]
    pub(super) replicas: u32,
    /// Partitions of a new cluster; no more server threads than these can share the load [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) partitions: Option<u32>,
    /// Servers say that they live this often
    #[arg(long, value_name = "MS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) heartbeat_ms: u64,
    /// A server that says nothing for so long is suspected; more than two heartbeats
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(super) lease_ms: u64,
    /// Clients, and processes of jobs, say that they live this often
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(super) worker_heartbeat_ms: u64,
    /// Sessions, and blocks, of one that says nothing for so long end, or go to others
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub(super) worker_lease_ms: u64,
    /// How long a server takes pushes without a coordinator; then it refuses them and keeps its memory
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) orphan_s: u64,
    /// End with the process of this id, which started this one
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) parent: Option<u32>,
}

#[derive(Debug, Group)]
pub(super) struct ServerArgs {
    /// The coordinators
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses)]
    pub(super) coordinator: String,
    /// Where workers come; port 0 picks a free one, and the first line printed is the address
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) listen: String,
    /// Transports offered to workers
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) fabric: ServerFabric,
    /// Cores of the server threads, one thread each [default: one thread on any core]
    #[arg(long, value_name = "0,1", value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// Bytes of rows, indexes and key lists; K, M, G and T stand for powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "4G", value_parser = bytes)]
    pub(super) memory: u64,
    /// How long to look for the coordinator
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = seconds)]
    pub(super) connect_timeout: f64,
    /// End with the process of this id, which started this one
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) parent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ServerFabric {
    /// Shared memory for workers of this host, tcp for all
    Auto,
    /// TCP for all
    Tcp,
}

#[derive(Debug, Group)]
pub(super) struct UpArgs {
    /// Server processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count(64))]
    pub(super) servers: u64,
    /// Copies of each partition
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = replicas)]
    pub(super) replicas: u32,
    /// Where the coordinator's store and the processes' messages go [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(super) struct DrainArgs {
    /// The server, as status names it
    #[arg(value_name = "SERVER_ID")]
    pub(super) server: u32,
    /// The coordinators
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses)]
    pub(super) cluster: String,
    /// How long to wait for it
    #[arg(long, value_name = "S", default_value_t = 3600.0, value_parser = seconds)]
    pub(super) timeout: f64,
    /// How long to look for the coordinator
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    pub(super) connect_timeout: f64,
}

#[derive(Debug, Group)]
pub(super) struct StatusArgs {
    /// The coordinators
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses)]
    pub(super) cluster: String,
    /// Print JSON and nothing else
    #[arg(long)]
    pub(super) json: bool,
    /// Print it every second, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,
    /// How long to look for the coordinator
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    pub(super) connect_timeout: f64,
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
    /// Pushes whose sums are known, and every key compared at the end: nothing may be lost or applied twice
    Ledger(LedgerArgs),
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
    /// Measure a running cluster; this is its coordinator
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses, conflicts_with_all = ["listen", "connect"])]
    pub(super) cluster: Option<String>,
    /// Be the server's end only, until Ctrl-C; the first line printed is the address
    #[arg(long, value_name = "HOST:PORT", value_parser = address, conflicts_with = "connect")]
    pub(super) listen: Option<String>,
    /// Be the client's end only, of a server's end with --listen
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) connect: Option<String>,
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

#[derive(Debug, Group)]
pub(super) struct LedgerArgs {
    /// Transport between client and servers
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) fabric: FabricName,
    /// Key space
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(1 << 24))]
    pub(super) keys: u64,
    /// Keys of a push, some of every partition
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count(1 << 20))]
    pub(super) batch: u64,
    /// Pushes under way
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(64))]
    pub(super) inflight: u64,
    /// Pushes to send, instead of sending for --seconds
    #[arg(long, value_name = "N", value_parser = count(u64::MAX))]
    pub(super) batches: Option<u64>,
    /// How long to send
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds, conflicts_with = "batches")]
    pub(super) seconds: f64,
    /// Keep the books of a running cluster; this is its coordinator
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]", value_parser = addresses)]
    pub(super) cluster: Option<String>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Write when each push was sent and acknowledged, as CSV in microseconds of the system's clock
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
}

fn count(most: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=most)
}

/// HOST:PORT, looked at and not looked up.
fn address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("give HOST:PORT, such as 127.0.0.1:7070")?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("give HOST:PORT, such as 127.0.0.1:7070".to_owned());
    }
    port.parse::<u16>().map_err(|_| "give a port from 0 to 65535 after the last colon".to_owned())?;
    Ok(text.to_owned())
}

fn job_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return Err("give a name of 1 to 128 plain characters".to_owned());
    }
    Ok(text.to_owned())
}

fn addresses(text: &str) -> Result<String, String> {
    text.split(',').try_for_each(|one| address(one.trim()).map(drop))?;
    Ok(text.to_owned())
}

fn store(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("file", directory)) if !directory.is_empty() => Ok(directory.into()),
        Some(("etcd", _)) => Err("this build keeps decisions in files only; give file:DIR".to_owned()),
        _ => Err("give file:DIR".to_owned()),
    }
}

fn replicas(text: &str) -> Result<u32, String> {
    let copies = text.parse::<u32>().ok().filter(|copies| (1..=MOST_REPLICAS).contains(copies));
    copies.ok_or_else(|| format!("give the number of copies, 1 to {MOST_REPLICAS}"))
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("give a number of bytes such as 4G, or 4294967296".to_owned()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes >= 1 << 20).ok_or("give a number of bytes such as 4G, at least 1M".to_owned())
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
        assert_eq!((bytes("4G"), bytes("1048576")), (Ok(4 << 30), Ok(1 << 20)));
        for wrong in ["", "G", "4X", "-1", "1", "99999999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(address("127.0.0.1:0").is_ok() && address("[::1]:70").is_ok());
        for wrong in ["", ":1", "host", "host:70000", "a b:1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert_eq!(store("file:a:b"), Ok("a:b".into()));
        assert!(store("etcd:http://a").is_err() && store("file:").is_err() && store("dir").is_err());
        assert_eq!((replicas("1"), replicas("2")), (Ok(1), Ok(2)));
        assert!(replicas("0").is_err() && replicas("17").is_err());
    }
}
