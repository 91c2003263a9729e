//! Every schedule of small worlds, by Stateright.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::checks;
use super::faults::Fault;
use super::world::{Budget, Event, Size, World};

struct Chains {
    size: Size,
    fault: Fault,
}

impl Model for Chains {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.size, self.fault)]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        world.events(events);
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        next.happen(event);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safety", |_, world: &World| world.wrong.is_none()),
            // Every schedule ends, as each event uses something up. So progress is a property of the ends.
            Property::always("progress", |_, world: &World| {
                is_under_way(world) || checks::done(world).is_ok()
            }),
        ]
    }
}

fn is_under_way(world: &World) -> bool {
    let mut events = Vec::new();
    world.events(&mut events);
    world.wrong.is_some() || events.iter().any(|event| !event.is_trouble())
}

const SMALL: Size = Size {
    nodes: 3,
    members: 3,
    clients: 1,
    late: 0,
    pushes: 1,
    bad_every: 0,
    window: 1,
    reads: 0,
    seals_at_once: true,
    budget: Budget { crashes: 0, suspicions: 0, joins: 0, resends: 0, cuts: 0, ends: 0 },
};

/// Visits every state.
fn check(size: Size) {
    let checker = Chains { size, fault: Fault::None }.checker().threads(2).timeout(Duration::from_secs(240));
    let checker = checker.spawn_bfs().join();
    if let Some((name, path)) = checker.discoveries().into_iter().next() {
        let last = path.last_state();
        let end = checks::safety(last).and_then(|()| checks::done(last));
        panic!("{name}: {end:?}\n{:?}", path.into_actions());
    }
    assert!(checker.is_done(), "not all states of {size:?} were visited");
    assert!(checker.unique_state_count() > 10_000, "a world too small to show anything: {size:?}");
}

#[test]
fn two_clients_and_a_crash() {
    let budget = Budget { crashes: 1, ..SMALL.budget };
    check(Size { nodes: 2, members: 2, clients: 2, budget, ..SMALL });
}

#[test]
fn a_false_suspicion_a_resend_and_a_strong_read() {
    let budget = Budget { suspicions: 1, resends: 1, ..SMALL.budget };
    check(Size { members: 2, nodes: 2, reads: 1, budget, ..SMALL });
}

#[test]
fn a_planted_fault_is_found_in_a_small_world() {
    for fault in [Fault::HeadAcknowledgesAlone, Fault::NewHeadKeepsItsSessions, Fault::ClientNeverResends] {
        let budget = Budget { crashes: 1, ..SMALL.budget };
        let size = Size { members: 2, nodes: 2, budget, ..SMALL };
        let checker = Chains { size, fault }.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
        assert!(!checker.discoveries().is_empty(), "{fault:?} is not found");
    }
}

mod slow {
    use super::*;

    #[test]
    fn two_crashes_in_a_chain_of_three() {
        let budget = Budget { crashes: 2, ..SMALL.budget };
        check(Size { budget, ..SMALL });
    }

    #[test]
    fn a_join_and_a_crash_under_a_strong_read() {
        let budget = Budget { crashes: 1, joins: 1, ..SMALL.budget };
        check(Size { nodes: 2, members: 1, reads: 1, budget, ..SMALL });
    }
}
