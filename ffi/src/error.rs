//! One error for a system call that the machine refused.

use rustix::io::Errno;
use thiserror::Error;

/// A system call failed. The message names call, object, cause and what to do next.
#[derive(Debug, Clone, Error)]
#[error("{call} failed for {object}: {}; {}", std::io::Error::from_raw_os_error(*errno), self.next_step())]
pub struct MachineError {
    /// The system call.
    pub call: &'static str,
    /// What it was asked for.
    pub object: String,
    /// The kernel's answer.
    pub errno: i32,
}

impl MachineError {
    pub(crate) fn new(call: &'static str, object: impl Into<String>, errno: Errno) -> Self {
        Self { call, object: object.into(), errno: errno.raw_os_error() }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match (Errno::from_raw_os_error(self.errno), self.call) {
            (Errno::MFILE, _) => "raise the limit of open files (ulimit -n)",
            (Errno::NFILE, _) => "raise fs.file-max or close files of other processes",
            (Errno::PERM | Errno::NOSYS | Errno::ACCESS, "memfd_create") => {
                "allow memfd_create in the container's seccomp profile, or choose the tcp fabric"
            }
            (Errno::PERM | Errno::NOSYS | Errno::ACCESS, _) => {
                "allow the call in the container's seccomp profile"
            }
            (Errno::AGAIN, "mmap") => "raise the limit of locked memory (ulimit -l)",
            (Errno::NOMEM, "mmap") => {
                "free memory, or raise the limits of address space and locked memory (ulimit -v, -l)"
            }
            (Errno::NOMEM | Errno::NOSPC | Errno::NOBUFS, _) => "free memory, or ask for smaller rings",
            (Errno::INVAL, "sched_setaffinity") => "name a core that this process may use",
            _ => "see the manual page of the call for this error, and the machine's log (dmesg)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_call_object_cause_and_next_step() {
        let text = MachineError::new("memfd_create", "a ring of 4096 bytes", Errno::MFILE).to_string();
        for part in ["memfd_create", "a ring of 4096 bytes", "Too many open files", "ulimit -n"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
