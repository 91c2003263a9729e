//! Doing without io_uring as containers must: a seccomp filter.
//!
//! # Soundness
//! `prctl` reads the program, which lives until the call returns, and copies it. A filter takes rights away
//! from the calling thread and gives none.

use rustix::io::Errno;

use crate::MachineError;

/// From now on `io_uring_setup` answers EPERM to this thread and to threads and processes it starts, as the default
/// profiles of container runtimes have it. Cannot be undone; made for tests of what happens then.
///
/// # Errors
/// [`MachineError`]: the kernel has no seccomp filters.
pub fn deny_io_uring() -> Result<(), MachineError> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    // The number of the call is the first word of what a filter sees.
    let mut filter = [
        libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: refuse },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls take integers and, the second, a pointer to `program`, which with its filter outlives the call.
    let denied = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) == 0
    };
    if denied {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
    Err(MachineError::new("prctl", "a seccomp filter", errno))
}
