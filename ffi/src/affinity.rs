//! Cores: how many this process may use, and binding a thread to one.

use std::sync::OnceLock;

use core_affinity::CoreId;

/// The cores of the thread that asked first. A thread inherits the binding of the one that made it, so asking anew in
/// a thread made by a bound one would show a single core, and all such threads would share it.
fn cores() -> &'static [CoreId] {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}

/// Number of cores this process may run on, at least 1. First asked before any thread is bound.
#[must_use]
pub fn usable_cores() -> usize {
    cores().len().max(1)
}

/// Binds the calling thread to the `index`-th usable core, counted round robin. False when the kernel
/// refuses; the thread then goes on unbound, which costs speed and nothing else.
pub fn pin_current_thread(index: usize) -> bool {
    let cores = cores();
    !cores.is_empty() && core_affinity::set_for_current(cores[index % cores.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_made_by_a_bound_one_can_still_be_bound_elsewhere() {
        let cores = usable_cores();
        let bind = |index: usize| {
            assert!(pin_current_thread(index));
            core_affinity::get_core_ids().unwrap_or_default()
        };
        std::thread::spawn(move || {
            let first = bind(0);
            let last = std::thread::spawn(move || bind(cores - 1)).join().unwrap();
            assert_eq!((first.len(), last.len()), (1, 1));
            assert_eq!(first == last, cores == 1);
        })
        .join()
        .unwrap();
    }
}
