//! Shows progress on stderr: a bar on a terminal, otherwise a line every few seconds.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::failure::Failure;
use crate::app::progress::{Progress, Snapshot};

/// Eyes see no more than that.
const BAR_PERIOD: Duration = Duration::from_millis(100);
/// Logs need no more than that, and a run shorter than it needs nothing.
const LINE_PERIOD: Duration = Duration::from_secs(3);

/// Shows a [`Progress`] until it is dropped.
pub(super) struct Display {
    progress: Arc<Progress>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Begins to show, on a thread of its own.
    pub(super) fn start() -> Result<Self, Failure> {
        let progress = Arc::new(Progress::default());
        let (stop, stopped) = bounded::<()>(0);
        let shown = Arc::clone(&progress);
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let mut painter = Painter::new();
            while stopped.recv_timeout(painter.period()) == Err(RecvTimeoutError::Timeout) {
                painter.paint(&shown.snapshot());
            }
            painter.clear();
        })?;
        Ok(Self { progress, stop: Some(stop), thread: Some(thread) })
    }

    /// What the work reports to.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The two ways to show.
enum Painter {
    Bar(ProgressBar),
    Lines { began: Instant },
}

impl Painter {
    fn new() -> Self {
        if io::stderr().is_terminal() {
            Self::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
        } else {
            Self::Lines { began: Instant::now() }
        }
    }

    fn period(&self) -> Duration {
        match self {
            Self::Bar(_) => BAR_PERIOD,
            Self::Lines { .. } => LINE_PERIOD,
        }
    }

    fn paint(&mut self, snapshot: &Snapshot) {
        if snapshot.stage.name.is_empty() {
            return;
        }
        match self {
            Self::Bar(bar) => {
                let template = match snapshot.total {
                    Some(_) => "{prefix} {bar:30} {human_pos}/{human_len} {msg} {per_sec} eta {eta}",
                    None => "{prefix} {spinner} {human_pos} {msg} {per_sec}",
                };
                if bar.prefix() != snapshot.stage.name {
                    bar.reset();
                    bar.set_prefix(snapshot.stage.name.clone());
                }
                // A template that does not parse would only cost the bar its looks.
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_message(format!("{}{}", snapshot.stage.unit, loss(snapshot)));
                if let Some(total) = snapshot.total {
                    bar.set_length(total);
                }
                bar.set_position(snapshot.done);
                bar.tick();
            }
            Self::Lines { began } => {
                let _ = writeln!(io::stderr(), "{}", line(snapshot, began.elapsed()));
            }
        }
    }

    fn clear(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn line(snapshot: &Snapshot, elapsed: Duration) -> String {
    let Snapshot { done, total, stage, .. } = snapshot;
    let of = total.map_or_else(String::new, |t| format!(" of {t}"));
    format!("{:.0} s: {}, {done}{of} {}{}", elapsed.as_secs_f64(), stage.name, stage.unit, loss(snapshot))
}

fn loss(snapshot: &Snapshot) -> String {
    snapshot.loss.map_or_else(String::new, |l| format!(", log loss {l:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::progress::Stage;

    #[test]
    fn a_line_says_what_is_done_and_how_well() {
        let stage = Stage { name: "epoch 1/2".into(), unit: "examples" };
        let snapshot = Snapshot { done: 5, total: Some(9), loss: Some(0.46123), stage };
        let text = line(&snapshot, Duration::from_secs(6));
        assert_eq!(text, "6 s: epoch 1/2, 5 of 9 examples, log loss 0.4612");
    }
}
