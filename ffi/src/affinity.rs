//! Cores: how many this process may use, and binding a thread to one.

/// Number of cores this process may run on, at least 1.
#[must_use]
pub fn usable_cores() -> usize {
    core_affinity::get_core_ids().map_or(1, |cores| cores.len().max(1))
}

/// Binds the calling thread to the `index`-th usable core, counted round robin. False when the kernel
/// refuses; the thread then goes on unbound, which costs speed and nothing else.
pub fn pin_current_thread(index: usize) -> bool {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.is_empty() {
        return false;
    }
    core_affinity::set_for_current(cores[index % cores.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_pinned_to_a_core_may_use_only_that_one() {
        std::thread::spawn(|| {
            assert!(usable_cores() >= 1);
            if pin_current_thread(0) {
                assert_eq!(usable_cores(), 1);
            }
        })
        .join()
        .unwrap();
    }
}
