//! `gradwire quickstart`: the bundled flights, end to end, and what to type next.

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use super::args::QuickstartArgs;
use super::failure::Failure;
use super::progress::Display;
use super::training::{IN_FLIGHT, Run, Trained, probe_all};
use crate::app::lr::{LrConfig, Solver};
use crate::app::publish;
use crate::client::FabricChoice;
use crate::data::{DataError, Dataset, Examples, Limits, Training, flights, flights_csv, flights_spec};

/// Examples whose gradients are pushed together, as in the reference.
const MINIBATCH: usize = 1000;
/// Server threads.
const SERVERS: usize = 2;
/// Seed of the shuffle.
const SEED: u64 = 1;
/// Every tenth row from the first is test data.
const TEST_EVERY: usize = 10;
/// One pass of a serial program over shuffled rows, one example at a time: log loss and AUC.
const REFERENCE: (f64, f64) = (0.4576, 0.7680);
/// Where the commands shown at the end keep their files.
const FOLDER: &str = "flights";

pub(super) fn run(args: &QuickstartArgs) -> Result<(), Failure> {
    probe_all([args.model_out.as_deref(), args.report.as_deref()])?;
    if let Some(folder) = &args.save_data {
        save_data(folder)?;
    }
    let run = Run {
        config: LrConfig {
            solver: Solver::FTRL,
            workers: args.workers as usize,
            minibatch: MINIBATCH,
            epochs: args.epochs as usize,
            in_flight: IN_FLIGHT,
            staleness: None,
        },
        servers: SERVERS,
        fabric: FabricChoice::Auto,
        features: Some(flights_spec()?),
        start: None,
        seed: SEED,
    };
    let display = Display::start()?;
    display.progress().begin("reading", "bytes", None);
    let began = Instant::now();
    let (train, test) = flights()?;
    let data = Training::from_dataset(train, Limits { seed: SEED, ..Limits::default() });
    let trained = run.train(&data, began, Some(blocks(test)?), display.progress())?;
    drop(display);
    trained.save(args.model_out.as_deref(), args.report.as_deref())?;
    Ok(print(&trained)?)
}

/// The test set in blocks, in file order.
fn blocks(test: Dataset) -> Result<impl Iterator<Item = Result<Examples, DataError>> + Send, DataError> {
    const BLOCK_ROWS: usize = 4096;
    let limits = Limits { shuffle: false, ..Limits::default() };
    let mut minibatches = Training::from_dataset(test, limits).epoch(0, BLOCK_ROWS, 1)?.worker(0);
    Ok(std::iter::from_fn(move || {
        let mut block = Examples::default();
        minibatches.next_into(&mut block).map(|more| more.then_some(block)).transpose()
    }))
}

fn print(trained: &Trained) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let report = &trained.report;
    writeln!(
        out,
        "Will a flight be more than 15 minutes late? Logistic regression by {}; passes: {}, workers: {}, server \
         threads: {}, over {} ({}).",
        report.solver, report.epochs, report.workers, report.servers, report.fabric, report.fabric_reason
    )?;
    if let Some(score) = &trained.score {
        let auc = score.auc.unwrap_or(f64::NAN);
        writeln!(
            out,
            "base rate    log loss {:.4}  AUC 0.5000  on {} test flights",
            score.base_logloss, score.examples
        )?;
        writeln!(out, "this run     log loss {:.4}  AUC {auc:.4}", score.logloss)?;
    }
    let (loss, auc) = REFERENCE;
    writeln!(
        out,
        "reference    log loss {loss:.4}  AUC {auc:.4}  (one pass, one example at a time, one thread)"
    )?;
    writeln!(out, "rate         {:.0} examples/s, {:.2} s", report.examples_per_s, report.seconds)?;
    let program = std::env::args().next().unwrap_or_else(|| "gradwire".to_owned());
    writeln!(out, "\nNext, in this order:")?;
    for command in next_commands(&quoted(&program)) {
        writeln!(out, "  {command}")?;
    }
    Ok(())
}

/// Commands that work as they are shown, one after the other, in the folder that the user is in.
fn next_commands(program: &str) -> [String; 3] {
    [
        format!("{program} quickstart --epochs 3 --save-data {FOLDER}"),
        format!(
            "{program} train lr --train {FOLDER}/train.csv --test {FOLDER}/test.csv --label 'arr_delay > 15' \
             --categorical month,weekday,hour,carrier,origin,dest,tailnum \
             --cross carrier:flight,origin:dest,carrier:dest,dest:hour,month:day \
             --model-out {FOLDER}/model.safetensors"
        ),
        format!(
            "{program} predict --model {FOLDER}/model.safetensors --data {FOLDER}/test.csv \
             --out {FOLDER}/probabilities.txt"
        ),
    ]
}

/// As a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes the bundled rows as two csv files, split as training splits them.
fn save_data(folder: &Path) -> Result<(), Failure> {
    let fail = |e: io::Error| {
        Failure::work(format!("cannot create {}: {e}; name a folder that you may create", folder.display()))
    };
    fs::create_dir_all(folder).map_err(fail)?;
    for (name, is_test) in [("train.csv", false), ("test.csv", true)] {
        publish(&folder.join(name), |out| copy_rows(out, is_test))?;
    }
    Ok(())
}

fn copy_rows(out: &mut BufWriter<fs::File>, is_test: bool) -> io::Result<()> {
    let text = BufReader::with_capacity(1 << 20, zstd::Decoder::new(flights_csv())?);
    for (line, text) in text.split(b'\n').enumerate() {
        let header = line == 0;
        if header || (line - 1).is_multiple_of(TEST_EVERY) == is_test {
            out.write_all(&text?)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_blanks_in_its_path_is_quoted_for_the_shell() {
        assert_eq!(quoted("target/release/gradwire"), "target/release/gradwire");
        assert_eq!(quoted("my tools/it's"), r"'my tools/it'\''s'");
    }

    #[test]
    fn the_train_command_shown_names_the_columns_of_the_bundled_data() {
        let spec = flights_spec().unwrap();
        let [_, train, _] = next_commands("gradwire");
        assert!(train.contains(&format!("--label '{}'", spec.label.unwrap())));
        assert!(train.contains(&format!("--categorical {} ", spec.categorical.join(","))));
        let crosses: Vec<String> = spec.cross.iter().map(|c| c.join(":")).collect();
        assert!(train.contains(&format!("--cross {} ", crosses.join(","))));
    }
}
