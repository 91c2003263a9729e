//! Setting an io_uring up, with the best mode that the kernel takes.

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;

use super::Uring;
use crate::MachineError;

/// Entries queued between two submissions before one is made in between.
const QUEUE: u32 = 256;
/// Completions that fit; more are kept by the kernel until the next call.
const COMPLETIONS: u32 = 4096;

/// Who uses a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threading {
    /// The thread that sets it up, and no other, ever.
    Pinned,
    /// Any thread, one at a time.
    Shared,
}

/// How the kernel runs what completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupMode {
    /// `SINGLE_ISSUER | DEFER_TASKRUN`: only when the thread asks (Linux 6.1).
    Deferred,
    /// `COOP_TASKRUN`: at the thread's next system call, without interrupting it (Linux 5.19).
    Cooperative,
    /// By interrupting the thread (Linux 5.13).
    Plain,
}

impl Uring {
    /// A ring without operations, in the best mode there is.
    ///
    /// # Errors
    /// [`MachineError`]: the kernel is too old (ENOSYS, EINVAL), the call is not allowed (EPERM), or memory or
    /// descriptors ran out. Callers use epoll then.
    pub fn create(threading: Threading) -> Result<Self, MachineError> {
        let modes: &[SetupMode] = match threading {
            Threading::Pinned => &[SetupMode::Deferred, SetupMode::Cooperative, SetupMode::Plain],
            Threading::Shared => &[SetupMode::Cooperative, SetupMode::Plain],
        };
        let mut last = Errno::INVAL;
        for mode in modes {
            match Self::create_as(*mode) {
                Ok(ring) => return Ok(ring),
                // A flag this kernel does not know: the next mode has fewer.
                Err(Errno::INVAL) => last = Errno::INVAL,
                Err(errno) => {
                    last = errno;
                    break;
                }
            }
        }
        Err(MachineError::new("io_uring_setup", "a port's ring", last))
    }

    /// A ring in this mode.
    pub(super) fn create_as(mode: SetupMode) -> Result<Self, Errno> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(COMPLETIONS);
        match mode {
            SetupMode::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            SetupMode::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            SetupMode::Plain => {}
        }
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        let ring = builder.build(QUEUE).map_err(errno)?;
        // Completions are never lost, waits have timeouts, and polls last (5.13, as tagged resources are).
        let params = ring.params();
        if !(params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_fast_poll()
            && params.is_feature_resource_tagging())
        {
            return Err(Errno::NOSYS);
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(errno)?;
        let needed = [
            opcode::Recv::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::PollAdd::CODE,
            opcode::AsyncCancel::CODE,
        ];
        if needed.iter().any(|code| !probe.is_supported(*code)) {
            return Err(Errno::NOSYS);
        }
        // Entering may be forbidden where setting up is not.
        ring.submitter().submit().map_err(errno)?;
        Ok(Self::over(ring, mode))
    }
}
