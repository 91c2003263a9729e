//! This process: its limits, and whom it ends with. No unsafe.

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

/// Lets this process open as many files as it is allowed at all. A hint: where the kernel refuses, the limit stays.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Has this process get SIGTERM when the thread that started it ends. False when `parent` has ended already.
#[must_use]
pub fn end_with_parent(parent: u32) -> bool {
    let asked = set_parent_process_death_signal(Some(Signal::TERM)).is_ok();
    // Asked first, looked at then: an end in between is seen by one of the two.
    asked && getppid().map(Pid::as_raw_nonzero).is_some_and(|now| i64::from(now.get()) == i64::from(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_is_not_ours_has_ended() {
        assert!(!end_with_parent(std::process::id()));
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_what_is_allowed() {
        raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
