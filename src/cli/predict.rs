//! `gradwire predict`.

use std::io::{self, Write};
use std::path::Path;

use super::args::PredictArgs;
use super::failure::Failure;
use super::progress::Display;
use super::training::probe_all;
use crate::app::{model, predict};
use crate::data::{Format, Source, Stream};

pub(super) fn run(args: &PredictArgs) -> Result<(), Failure> {
    let sources = Source::list(&args.data)?;
    probe_all([Some(args.out.as_path())])?;
    let model = model::read(&args.model)?;
    // The labels may be missing, and a row without one still gets its line.
    let format = match &model.features {
        Some(features) => Format::Csv(features.clone().without_label()),
        None => Format::LibsvmMaybeLabelled,
    };
    let blocks = Stream::open(sources, &format)?;
    let display = Display::start()?;
    let count = predict(&model, blocks, &args.out, display.progress())?;
    drop(display);
    Ok(said(&args.out, count)?)
}

fn said(out: &Path, count: u64) -> io::Result<()> {
    writeln!(io::stdout(), "wrote {count} probabilities to {}", out.display())
}
