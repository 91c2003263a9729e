//! A claim: cases that do the same work, beside a baseline and a bound.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

use crate::distribution::{Distribution, median};

/// Samples of each case; the printed rate is the median of the last so many.
const SAMPLES: usize = 10;
/// Resamples of criterion's bootstrap: its default takes longer than the measurement.
const RESAMPLES: usize = 2000;
/// Samples below which nothing is printed: a `--test` run makes one.
const FEWEST_SAMPLES: usize = 5;

/// Criterion as all benches use it: short, so that the suite takes minutes, and open to its command-line flags.
pub fn criterion(measurement: Duration) -> Criterion {
    Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(measurement / 3)
        .measurement_time(measurement)
        .without_plots()
        .nresamples(RESAMPLES)
        .configure_from_args()
}

/// What one call of a claim's routines does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many bytes; rates are GB/s (10^9).
    Bytes(u64),
    /// So many things of that name; rates are millions a second.
    Count(u64, &'static str),
}

impl Work {
    fn throughput(self) -> Throughput {
        match self {
            Work::Bytes(bytes) => Throughput::Bytes(bytes),
            Work::Count(count, _) => Throughput::Elements(count),
        }
    }

    /// Its rate as text, for a call of `seconds`.
    fn rate(self, seconds: f64) -> String {
        match self {
            Work::Bytes(bytes) => format!("{:.2} GB/s", bytes as f64 / seconds / 1e9),
            Work::Count(count, unit) => format!("{:.2} M {unit}/s", count as f64 / seconds / 1e6),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Baseline,
    Case,
    Bound,
}

#[derive(Debug)]
struct Measured {
    role: Role,
    name: String,
    seconds: f64,
    /// p50, p99, p99.9 in microseconds, where each call was timed alone; `seconds` is then the p50, which a stopped thread
    /// does not move.
    latency_us: Option<[f64; 3]>,
}

/// Measures routines that do the same work, and prints how they compare when it is finished.
pub struct Claim<'c> {
    name: String,
    work: Work,
    group: BenchmarkGroup<'c, WallTime>,
    measured: Vec<Measured>,
}

impl<'c> Claim<'c> {
    /// A claim called `name`; each call of its routines does `work`.
    pub fn new(criterion: &'c mut Criterion, name: impl Into<String>, work: Work) -> Self {
        let name = name.into();
        let mut group = criterion.benchmark_group(&name);
        group.throughput(work.throughput());
        Self { name, work, group, measured: Vec::new() }
    }

    /// The plain way to do the work, which the cases are to beat.
    pub fn baseline<R>(&mut self, name: &str, mut routine: impl FnMut() -> R) {
        self.run(Role::Baseline, name, |calls| repeat(calls, &mut routine));
    }

    /// What the claim is about.
    pub fn case<R>(&mut self, name: &str, mut routine: impl FnMut() -> R) {
        self.run(Role::Case, name, |calls| repeat(calls, &mut routine));
    }

    /// The least that the machine must do for this work: what the cases cannot beat.
    pub fn bound<R>(&mut self, name: &str, mut routine: impl FnMut() -> R) {
        self.run(Role::Bound, name, |calls| repeat(calls, &mut routine));
    }

    /// As [`Claim::baseline`], for a routine that does the work as often as it is told.
    pub fn baseline_many(&mut self, name: &str, routine: impl FnMut(u64)) {
        self.run(Role::Baseline, name, routine);
    }

    /// As [`Claim::case`], for a routine that does the work as often as it is told.
    pub fn case_many(&mut self, name: &str, routine: impl FnMut(u64)) {
        self.run(Role::Case, name, routine);
    }

    /// As [`Claim::bound`], for a routine that does the work as often as it is told.
    pub fn bound_many(&mut self, name: &str, routine: impl FnMut(u64)) {
        self.run(Role::Bound, name, routine);
    }

    /// As [`Claim::case`], timing each call alone: percentiles are printed too. Adds two readings of the clock to each.
    pub fn latency<R>(&mut self, name: &str, routine: impl FnMut() -> R) {
        self.run_timed(Role::Case, name, routine);
    }

    /// As [`Claim::baseline`], timing each call alone.
    pub fn latency_baseline<R>(&mut self, name: &str, routine: impl FnMut() -> R) {
        self.run_timed(Role::Baseline, name, routine);
    }

    /// As [`Claim::bound`], timing each call alone.
    pub fn latency_bound<R>(&mut self, name: &str, routine: impl FnMut() -> R) {
        self.run_timed(Role::Bound, name, routine);
    }

    /// Prints the comparison, unless too little was measured (a `--test` run, or a filter that left cases out).
    #[allow(clippy::print_stdout, reason = "a bench's output is its result")]
    pub fn finish(self) {
        self.group.finish();
        if !self.measured.is_empty() {
            println!("{}", table(&self.name, self.work, &self.measured));
        }
    }

    fn run(&mut self, role: Role, name: &str, mut routine: impl FnMut(u64)) {
        let mut samples = Vec::new();
        self.group.bench_function(label(role, name), |bencher| {
            bencher.iter_custom(|calls| {
                let start = Instant::now();
                routine(calls);
                let took = start.elapsed();
                samples.push(took.as_secs_f64() / calls as f64);
                took
            });
        });
        self.keep(role, name, &mut samples, None);
    }

    fn run_timed<R>(&mut self, role: Role, name: &str, mut routine: impl FnMut() -> R) {
        let mut samples = Vec::new();
        let mut times = Distribution::default();
        self.group.bench_function(label(role, name), |bencher| {
            bencher.iter_custom(|calls| {
                let start = Instant::now();
                for _ in 0..calls {
                    let one = Instant::now();
                    black_box(routine());
                    times.add(one.elapsed());
                }
                let took = start.elapsed();
                samples.push(took.as_secs_f64() / calls as f64);
                took
            });
        });
        let latency = [0.5, 0.99, 0.999].map(|share| times.percentile_us(share).unwrap_or(f64::NAN));
        self.keep(role, name, &mut samples, Some(latency));
    }

    fn keep(&mut self, role: Role, name: &str, samples: &mut [f64], latency_us: Option<[f64; 3]>) {
        if samples.len() < FEWEST_SAMPLES {
            return;
        }
        // The first are of the warm-up.
        let last = samples.len().saturating_sub(SAMPLES);
        if let Some(median) = median(&mut samples[last..]) {
            let seconds = latency_us.map_or(median, |[p50, ..]| p50 / 1e6);
            self.measured.push(Measured { role, name: name.to_owned(), seconds, latency_us });
        }
    }
}

#[inline]
fn repeat<R>(calls: u64, routine: &mut impl FnMut() -> R) {
    for _ in 0..calls {
        black_box(routine());
    }
}

fn label(role: Role, name: &str) -> String {
    match role {
        Role::Baseline => format!("baseline {name}"),
        Role::Case => name.to_owned(),
        Role::Bound => format!("bound {name}"),
    }
}

/// One line a case: its rate, how many times the baseline's and which share of the bound's that is.
fn table(name: &str, work: Work, measured: &[Measured]) -> String {
    let of = |role| measured.iter().find(|row| row.role == role).map(|row| row.seconds);
    let (baseline, bound) = (of(Role::Baseline), of(Role::Bound));
    let mut out = format!("claim {name}");
    for row in measured {
        let shown = label(row.role, &row.name);
        let _ = match row.latency_us {
            None => write!(out, "\n  {shown:<34} {:>20}", work.rate(row.seconds)),
            Some([p50, p99, p999]) => {
                write!(out, "\n  {shown:<34} p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} us")
            }
        };
        if let Some(baseline) = baseline {
            let _ = write!(out, "  {:>8.2} x baseline", baseline / row.seconds);
        }
        if let Some(bound) = bound {
            let _ = write!(out, "  {:>6.1} % of bound", 100.0 * bound / row.seconds);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(role: Role, name: &str, seconds: f64) -> Measured {
        Measured { role, name: name.to_owned(), seconds, latency_us: None }
    }

    #[test]
    fn rates_are_compared_with_baseline_and_bound_of_the_same_work() {
        let rows =
            [row(Role::Baseline, "map", 4e-3), row(Role::Case, "ours", 1e-3), row(Role::Bound, "copy", 5e-4)];
        let text = table("index", Work::Count(10_000, "keys"), &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "claim index");
        assert!(lines[1].contains("baseline map") && lines[1].contains("1.00 x baseline"), "{text}");
        let ours = lines[2];
        assert!(
            ours.contains("10.00 M keys/s") && ours.contains("4.00 x") && ours.contains("50.0 %"),
            "{text}"
        );
        assert!(lines[3].contains("100.0 % of bound"), "{text}");
    }

    #[test]
    fn latencies_are_compared_by_their_medians() {
        let mut criterion = Criterion::default().without_plots();
        let mut claim = Claim::new(&mut criterion, "round trip", Work::Count(1, "round trips"));
        claim.keep(Role::Bound, "lines", &mut [9.0; SAMPLES], Some([1.0, 2.0, 3.0]));
        claim.keep(Role::Case, "lane", &mut [9.0; SAMPLES], Some([4.0, 5.0, 6.0]));
        let text = table("round trip", claim.work, &claim.measured);
        let lane = text.lines().nth(2).expect("the case's line");
        assert!(lane.contains("p50 4.00 p99 5.00 p99.9 6.00 us"), "{text}");
        assert!(lane.contains("25.0 % of bound") && !lane.contains("/s"), "{text}");
    }

    #[test]
    fn a_claim_without_baseline_or_bound_shows_rates_alone() {
        let text = table("copy", Work::Bytes(2_000_000_000), &[row(Role::Case, "memcpy", 0.5)]);
        assert!(text.contains("4.00 GB/s") && !text.contains('%') && !text.contains(" x "), "{text}");
    }

    #[test]
    fn a_test_run_leaves_nothing_to_compare() {
        let mut criterion = Criterion::default().without_plots();
        let mut claim = Claim::new(&mut criterion, "short", Work::Bytes(1));
        claim.keep(Role::Case, "once", &mut [1.0], None);
        assert!(claim.measured.is_empty());
        // The warm-up's samples, here the slow ones, do not count.
        let mut samples: Vec<f64> = [9.0; 7].into_iter().chain([1.0; SAMPLES]).collect();
        claim.keep(Role::Case, "many", &mut samples, None);
        assert_eq!(claim.measured[0].seconds, 1.0);
    }
}
