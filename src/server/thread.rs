//! One shard on its thread: start, the loop around its turns, and what is left when it ends.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::shard::{Command, Shard, ShardConfig};
use crate::control::ControlError;
use crate::lane::{Backoff, Fabric, Port, Waiting, Waker};
use crate::wire::ids::ShardId;

/// Longest sleep of a shard with nothing to do: it then looks at its floating-point control word and goes on sleeping.
const IDLE_WAIT: Duration = Duration::from_secs(2);
/// How long a thread may take to begin.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// How a shard's thread behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadConfig {
    /// How long to look for work before sleeping.
    pub(super) spin: Duration,
    /// The core to stay on.
    pub(super) core: Option<usize>,
    /// A bug that ends the thread ends the process: others in its chains then take over, where a process that renews its
    /// lease and does nothing would hold them up for ever.
    pub(super) fatal: bool,
}

/// Ends the process when its thread panics.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A running shard, to those who ask things of it.
#[derive(Clone)]
pub(super) struct ShardHandle {
    shard: ShardId,
    mailbox: Sender<Command>,
    waker: Waker,
    /// Disconnected once the thread has ended, however it ended.
    ended: Receiver<()>,
}

/// A running shard, to the one who started it.
pub(super) struct ShardThread {
    handle: ShardHandle,
    thread: JoinHandle<()>,
}

impl ShardThread {
    /// Starts a shard and returns once it runs.
    ///
    /// # Errors
    /// What the machine refused: a thread, or the descriptors of its port.
    pub(super) fn start(config: ShardConfig, behaviour: ThreadConfig) -> Result<Self, ControlError> {
        let shard = config.shard;
        let (mailbox, commands) = unbounded();
        let (started, start) = bounded(1);
        let (alive, ended) = bounded(0);
        let machine = |cause: String| ControlError::Machine { what: "starting a server thread", cause };
        let thread = std::thread::Builder::new()
            .name(format!("gradwire-{shard}"))
            .spawn(move || {
                // Dropped when the thread ends, by a bug too.
                let _alive: Sender<()> = alive;
                let _fatal = behaviour.fatal.then_some(Fatal);
                gradwire_kernels::set_float_control();
                if let Some(core) = behaviour.core {
                    // Unpinned is slower and nothing else.
                    gradwire_ffi::affinity::pin_current_thread(core);
                }
                let made = Port::pinned()
                    .map_err(|error| error.to_string())
                    .and_then(|port| Shard::new(&config, port, commands).map_err(|error| error.to_string()));
                match made {
                    Ok(shard) => {
                        started.send(Ok(shard.waker())).ok();
                        run(shard, behaviour.spin);
                    }
                    Err(cause) => {
                        started.send(Err(cause)).ok();
                    }
                }
            })
            .map_err(|error| machine(error.to_string()))?;
        match start.recv_timeout(START_DEADLINE) {
            Ok(Ok(waker)) => Ok(Self { handle: ShardHandle { shard, mailbox, waker, ended }, thread }),
            Ok(Err(cause)) => Err(machine(cause)),
            Err(error) => Err(machine(error.to_string())),
        }
    }

    /// What asks things of the shard.
    pub(super) fn handle(&self) -> &ShardHandle {
        &self.handle
    }

    /// Waits for the end of the thread, at most until `deadline`.
    ///
    /// # Errors
    /// [`ControlError::Deadline`] when it goes on, [`ControlError::ShardGone`] when a bug had ended it.
    pub(super) fn join(self, deadline: Instant) -> Result<(), ControlError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Timeout) = self.handle.ended.recv_timeout(left) {
            return Err(ControlError::Deadline { what: "the end of a server thread", after: left });
        }
        self.thread.join().map_err(|_| self.handle.gone())
    }
}

impl ShardHandle {
    /// Whose it is.
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asks the shard something and waits for its answer.
    ///
    /// # Errors
    /// [`ControlError::ShardGone`] when the thread has ended, [`ControlError::Deadline`] when it does not answer.
    pub(super) fn ask<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        command: impl FnOnce(Sender<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = bounded(1);
        self.mailbox.send(command(reply)).map_err(|_| self.gone())?;
        self.waker.wake();
        answer.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => ControlError::Deadline { what, after: deadline },
            // The command went with the thread that held it.
            RecvTimeoutError::Disconnected => self.gone(),
        })
    }

    /// Tells the shard something it need not answer. One that is gone has nothing to do.
    pub(super) fn tell(&self, command: Command) {
        self.mailbox.send(command).ok();
        self.waker.wake();
    }

    /// Asks the thread to end; [`ShardThread::join`] waits for it.
    pub(super) fn stop(&self) {
        // A thread that has ended already has stopped.
        self.mailbox.send(Command::Stop).ok();
        self.waker.wake();
    }

    fn gone(&self) -> ControlError {
        ControlError::ShardGone { shard: self.shard }
    }

    /// Ends the thread by a panic.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.mailbox.send(Command::Fail).expect("the shard lives");
        self.waker.wake();
        assert_eq!(self.ended.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}

/// Turns while there is work, looks a little longer for more, then sleeps.
fn run<F: Fabric>(mut shard: Shard<F>, spin: Duration) {
    let mut backoff = Backoff::new(Waiting { spin });
    let mut now = Instant::now();
    loop {
        // Reading the clock in every idle turn would double what a turn costs, and so how late a record is seen.
        if backoff.clock_is_due() {
            now = Instant::now();
        }
        let progress = shard.turn(now);
        if progress.stop {
            return;
        }
        if progress.busy {
            backoff.busy();
        } else {
            let due = progress.timer.map_or(IDLE_WAIT, |timer| timer.saturating_duration_since(now));
            backoff.idle(|| shard.wait(due.min(IDLE_WAIT)));
        }
    }
}
