//! Ctrl-C and SIGTERM.

use std::sync::{Mutex, PoisonError};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::failure::Failure;

type Ending = Box<dyn FnOnce(i32) -> bool + Send>;

/// What a long-running command does on its first signal.
static ENDING: Mutex<Option<Ending>> = Mutex::new(None);

/// Watches for both. A command that has not said otherwise ends at once, with the status that shells expect, and leaves
/// no partial file.
pub(super) fn watch() -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner).take();
            if !ending.is_some_and(|ending| ending(signal)) {
                crate::app::discard_and_exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// On the first signal of either kind, the command is told which, and ends by itself.
pub(super) fn on_signal(end: impl FnOnce(i32) + Send + 'static) {
    let ending = move |signal| {
        end(signal);
        true
    };
    *ENDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ending));
}

/// On SIGTERM, the first one, the command is told to end well. Ctrl-C still ends it at once.
pub(super) fn on_sigterm(end: impl FnOnce() + Send + 'static) {
    let ending = move |signal| {
        let well = signal == SIGTERM;
        if well {
            end();
        }
        well
    };
    *ENDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ending));
}
