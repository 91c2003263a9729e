//! Reports: one JSON object for a run. The names of the fields are a contract; fields may be added, never renamed.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::build;
use super::metrics::Score;
use super::publish::{PublishError, publish};

/// Opens every report: what wrote it, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// Kind and version of the object, such as `gradwire.train.1`.
    pub schema: &'static str,
    /// The program's version.
    pub version: &'static str,
    /// The commit it was built from.
    pub commit: &'static str,
    /// The machine it ran on.
    pub machine: Machine,
}

impl Origin {
    /// The origin of a report of this kind, written here and now.
    #[must_use]
    pub fn here(schema: &'static str) -> Self {
        Self { schema, version: build::VERSION, commit: build::COMMIT, machine: Machine::here() }
    }
}

/// What a reader must know of a machine before comparing figures.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Hardware threads this process may use.
    pub cores: usize,
    /// Instruction set of the kernels in use.
    pub simd: &'static str,
    /// Memory in bytes; 0 when the system does not say.
    pub memory_bytes: u64,
    /// Operating system, its kernel and the architecture.
    pub system: String,
}

impl Machine {
    /// This machine. What the system does not tell is left `unknown` or 0: a report never fails for it.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = field(&cpuinfo, "model name").or_else(|| field(&cpuinfo, "CPU part"));
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
            .unwrap_or(0);
        let kernel = read("/proc/sys/kernel/osrelease");
        Self {
            cpu: cpu.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            simd: gradwire_kernels::Isa::active().name(),
            memory_bytes: memory_kib * 1024,
            system: format!("{} {} {}", std::env::consts::OS, kernel.trim(), std::env::consts::ARCH),
        }
    }
}

/// Value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// What `train` and `quickstart` report.
#[derive(Clone, Debug, Serialize)]
pub struct TrainReport {
    /// Who wrote it, and where.
    #[serde(flatten)]
    pub origin: Origin,
    /// Solver of the run.
    pub solver: &'static str,
    /// Examples learnt from, over all epochs.
    pub examples: u64,
    /// From opening the training data to the last push acknowledged; neither evaluation nor files.
    pub seconds: f64,
    /// `examples / seconds`.
    pub examples_per_s: f64,
    /// Mean loss in the last epoch, each example scored just before it was learnt from.
    pub train_logloss: Option<f64>,
    /// Mean loss on the test data; null without any.
    pub test_logloss: Option<f64>,
    /// Area under the ROC curve on the test data; null without any, or with one label only.
    pub test_auc: Option<f64>,
    /// Examples of the test data.
    pub test_examples: u64,
    /// Weights that are not zero.
    pub nonzeros: u64,
    /// Passes over the training data.
    pub epochs: usize,
    /// Worker threads.
    pub workers: usize,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Transport between workers and servers.
    pub fabric: String,
    /// Why it is that one.
    pub fabric_reason: String,
    /// Server threads.
    pub servers: usize,
    /// Copies of each partition.
    pub replicas: usize,
    /// Chains that lost a server during the run. An embedded cluster has one process and so none to lose.
    pub recoveries: u64,
    /// The job, when several processes may have trained together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Processes that took part in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Blocks of it that were handed on: their process was lost, or late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed_on: Option<u64>,
}

/// The figures of a job: what all of its processes report alike. The one that evaluates gives them to the coordinator
/// as JSON; those of an older or newer build are read as far as they are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFigures {
    /// As in [`TrainReport`].
    pub examples: u64,
    /// From the first process that joined to the last block done.
    pub seconds: f64,
    /// As in [`TrainReport`].
    pub train_logloss: Option<f64>,
    /// Of the test data; none without any.
    pub test: Option<Score>,
    /// As in [`TrainReport`].
    pub nonzeros: u64,
    /// Worker threads of all processes.
    pub workers: usize,
    /// Processes that took part.
    pub processes: u32,
    /// Server threads.
    pub servers: usize,
    /// Leases that went to another process or ran out.
    pub handed_on: u64,
}

/// What `bench push`, `pull` and `latency` report.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Who wrote it, and where.
    #[serde(flatten)]
    pub origin: Origin,
    /// `push`, `pull`, `latency` or `kernels`.
    pub op: &'static str,
    /// Transport between client and server.
    pub fabric: String,
    /// Median over the slices of the run.
    pub keys_per_s: f64,
    /// Keys and values a second, 8 bytes a key and 4 a value, whatever travelled for them.
    pub bytes_per_s: f64,
    /// Median time from request to answer; null where there are no requests.
    pub p50_us: Option<f64>,
    /// 99 of 100 requests were faster.
    pub p99_us: Option<f64>,
    /// 999 of 1,000 requests were faster.
    pub p999_us: Option<f64>,
    /// What was measured: the flags of the run.
    pub workload: serde_json::Value,
}

/// Writes a report as one JSON object and a final newline.
///
/// # Errors
/// [`PublishError`] names the path and the cause.
pub fn write(report: &impl Serialize, path: &Path) -> Result<(), PublishError> {
    publish(path, |out| {
        serde_json::to_writer_pretty(&mut *out, report)?;
        out.write_all(b"\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described_without_empty_fields() {
        let machine = Machine::here();
        assert!(!machine.cpu.is_empty() && machine.cores > 0);
        assert!(machine.system.contains(std::env::consts::ARCH), "{}", machine.system);
    }

    #[test]
    fn fields_of_proc_files_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 3 GHz"));
        assert_eq!(field(text, "MemTotal"), None);
    }
}
