//! Chains of several servers: deaths, silences, joins, moves, drains and restarts, against the same simulated world.

use super::*;

fn wait(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Three servers, two copies, a table and a session.
fn three() -> (World, ConnectionId, SessionId) {
    let mut world = World::with_copies(3, 2);
    let client = world.connect_client(1, &[]);
    let session = world.begin(client);
    world.open(client, "w").unwrap();
    world.pass(wait(40), &[]);
    (world, client, session)
}

#[test]
fn no_partition_is_placed_before_there_are_as_many_servers_as_copies() {
    let mut world = World::with_copies(1, 2);
    let client = world.connect_client(1, &[]);
    assert!(world.servers[0].held.is_empty() && !world.maps.contains_key(&client));
    world.add_server();
    world.run();
    assert!(world.servers.iter().all(|server| server.held.len() == PARTITIONS as usize));
    assert!(world.maps[&client].partitions.iter().all(|chain| chain.members.len() == 2));
    assert!(world.status(client).complete);
}

#[test]
fn a_killed_server_leaves_its_chains_and_others_take_its_copies() {
    let (mut world, client, _) = three();
    let before = world.machine.chains.map().clone();
    world.kill(0);
    // Closed, and the lease with what the coordinator adds has lapsed: not a moment before.
    world.pass(wait(80), &[]);
    assert_eq!(world.machine.chains.map().partitions, before.partitions);
    world.pass(wait(40), &[]);
    for (old, new) in before.partitions.iter().zip(&world.maps[&client].partitions) {
        let touched = old.members.iter().any(|shard| shard.0 < 2);
        assert_eq!(old.epoch < new.epoch, touched, "only chains that had it change");
        assert!(new.members.iter().all(|shard| shard.0 >= 2));
    }
    world.pass(wait(400), &[]);
    let status = world.status(client);
    assert!(status.complete, "{:?}", status.incomplete);
    world.check_agreement();
    assert!(world.machine.servers.len() == 2, "nobody misses it");
}

#[test]
fn requests_under_way_go_on_when_a_server_dies() {
    let (mut world, client, _) = three();
    let asked = world.request(client, Request::BeginSession);
    let schema = SchemaText(std::sync::Arc::new(schema("v")));
    let opened = world.request(client, Request::OpenTable { schema });
    world.kill(1);
    world.pass(wait(200), &[]);
    assert!(matches!(world.answers[&asked], Ok(Reply::Session { .. })), "{:?}", world.answers[&asked]);
    assert!(matches!(world.answers[&opened], Ok(Reply::Table { .. })), "{:?}", world.answers[&opened]);
}

#[test]
fn a_silent_server_is_suspected_and_told_so_when_it_wakes() {
    let (mut world, client, _) = three();
    world.servers[2].stopped = true;
    world.pass(wait(300), &[]);
    assert!(!world.machine.chains.holds(world.servers[2].identity.unwrap().0));
    assert!(!world.servers[2].replicas.is_empty(), "it does not know yet");
    assert!(world.status_of_all(client).iter().any(|state| *state == ServerState::Silent));
    world.servers[2].stopped = false;
    world.pass(wait(2000), &[]);
    world.check_agreement();
    assert!(world.status(client).complete);
}

#[test]
fn suspicion_takes_a_third_in_ten_seconds_and_never_the_last_copy() {
    let mut world = World::with_copies(4, 2);
    let client = world.connect_client(1, &[]);
    world.begin(client);
    world.pass(wait(40), &[]);
    for at in 0..4 {
        world.servers[at].stopped = true;
    }
    let before = world.machine.chains.map().clone();
    world.pass(wait(3000), &[]);
    assert_eq!(world.machine.chains.map().partitions, before.partitions, "nobody who has it all is heard of");
    assert_eq!(world.machine.suspicions.len(), 2);
    for at in 0..4 {
        world.servers[at].stopped = false;
    }
    world.pass(wait(3000), &[]);
    assert!(world.status(client).complete);
    world.check_agreement();
}

#[test]
fn the_last_copy_stays_recorded_until_its_process_is_back() {
    let (mut world, client, _) = three();
    let chain = world.machine.chains.map().partitions[0].clone();
    let holders: Vec<usize> = chain.members.iter().map(|shard| world.at(*shard).unwrap()).collect();
    // Both lose the coordinator at once; the second comes back.
    for at in &holders {
        world.disconnect_server(*at);
    }
    world.pass(wait(300), &[]);
    let status = world.status(client);
    assert!(!status.chains[0].available);
    assert!(status.incomplete.is_some_and(|line| line.contains("C7") && line.contains("partition 0")));
    assert_eq!(world.machine.chains.map().partitions[0].members, chain.members);
    world.connect_server(holders[1]);
    world.pass(wait(1500), &[]);
    assert!(world.status(client).complete, "{:?}", world.status(client).incomplete);
    world.check_agreement();
}

#[test]
fn a_tail_that_has_not_reported_is_no_survivor() {
    let (mut world, client, _) = three();
    let partition = PartitionId(0);
    let (one, two) = {
        let chain = &world.machine.chains.map().partitions[0];
        (world.at(chain.members[0]).unwrap(), world.at(chain.members[1]).unwrap())
    };
    let third = (0..3).find(|at| *at != one && *at != two).unwrap();
    world.kill(two);
    let joined = |world: &World| world.machine.chains.map().partitions[0].unsynced;
    for _ in 0..40 {
        if joined(&world) {
            break;
        }
        world.pass(wait(20), &[]);
    }
    // It has joined; before it says that it has all, its predecessor dies.
    let chain = world.machine.chains.map().partitions[0].clone();
    if chain.unsynced {
        assert_eq!(world.at(*chain.members.last().unwrap()), Some(third));
        world.kill(one);
        world.servers[third].replicas.get_mut(&partition).unwrap().applied = 0;
        world.machine.tick(world.now);
        for _ in 0..20 {
            world.now += wait(20);
            let connection = world.servers[third].connection.unwrap();
            world.say(connection, ToCoordinator::Renew { sent_us: 0 });
            world.machine.tick(world.now);
            world.act();
        }
        let after = &world.machine.chains.map().partitions[0];
        assert_eq!(after.members, chain.members, "never without the one that had everything");
        assert!(world.machine.loss().is_some());
    }
    let _ = client;
}

#[test]
fn a_replica_that_leaves_is_copied_anew_a_second_later() {
    let (mut world, client, _) = three();
    let chain = world.machine.chains.map().partitions[0].clone();
    let tail = chain.members[1];
    let at = world.at(tail).unwrap();
    let connection = world.servers[at].connection.unwrap();
    let leave = ToCoordinator::Leave {
        partition: PartitionId(0),
        epoch: chain.epoch,
        shard: tail,
        reason: "no memory".to_owned(),
    };
    world.say(connection, leave.clone());
    world.run();
    assert!(!world.machine.chains.map().partitions[0].members.contains(&tail));
    world.say(connection, leave);
    world.pass(wait(900), &[]);
    let chain = world.machine.chains.map().partitions[0].clone();
    assert!(chain.everyone().all(|shard| world.at(shard) != Some(at)), "not at once");
    world.pass(wait(1500), &[]);
    assert!(world.status(client).complete);

    // With one copy left it stays, whatever it says.
    let mut world = World::new(1);
    let client = world.connect_client(1, &[]);
    world.begin(client);
    let epoch = world.machine.chains.map().partitions[0].epoch;
    let shard = world.machine.chains.map().partitions[0].members[0];
    let connection = world.servers[0].connection.unwrap();
    let reason = "no memory".to_owned();
    world.say(connection, ToCoordinator::Leave { partition: PartitionId(0), epoch, shard, reason });
    assert_eq!(world.machine.chains.map().partitions[0].epoch, epoch);
}

#[test]
fn a_server_that_joins_takes_its_share_while_there_is_data() {
    let mut world = World::with_copies(2, 2);
    let client = world.connect_client(1, &[]);
    world.begin(client);
    world.pass(wait(40), &[]);
    let third = world.add_server();
    world.pass(wait(3000), &[]);
    assert!(world.status(client).complete);
    let counts: Vec<usize> = world.servers.iter().map(|server| server.held.len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 2 * PARTITIONS as usize);
    assert!((2..=3).contains(&world.servers[third].held.len()), "{counts:?}");
    world.check_agreement();
}

#[test]
fn a_drained_server_holds_nothing_and_one_too_many_is_refused() {
    let (mut world, client, session) = three();
    let server = world.servers[0].identity.unwrap().0;
    let asked = world.request(client, Request::Drain { server });
    assert!(!world.answers.contains_key(&asked));
    world.pass(wait(900), &[]);
    assert_eq!(world.answers[&asked], Ok(Reply::Done));
    assert!(world.servers[0].held.is_empty());
    let status = world.status(client);
    assert!(status.complete && status.servers[0].state == ServerState::Draining);
    let other = world.servers[1].identity.unwrap().0;
    let refused = world.asked(client, Request::Drain { server: other });
    assert!(
        matches!(refused, Err(Failure::Other { message }) if message.contains("start another server first"))
    );
    assert!(matches!(
        world.asked(client, Request::Drain { server: ServerId(99) }),
        Err(Failure::Other { .. })
    ));
    // Also when the partitions are placed anew.
    world.asked(client, Request::EndSession { session }).unwrap();
    world.asked(client, Request::DropTable { name: "w".into() }).unwrap();
    world.pass(wait(100), &[]);
    assert!(world.servers[0].held.is_empty());
}

#[test]
fn a_coordinator_restart_changes_no_chain() {
    let (mut world, _, session) = three();
    let before = world.machine.chains.map().partitions.clone();
    world.restart();
    world.pass(wait(60), &[]);
    for at in 0..3 {
        world.connect_server(at);
    }
    let client = world.connect_client(1, &[session]);
    world.pass(wait(1000), &[]);
    assert_eq!(world.machine.chains.map().partitions, before);
    assert!(world.status(client).complete);
}

#[test]
fn a_joiner_that_gets_nothing_is_given_up_and_another_is_tried() {
    let mut world = World::with_copies(4, 2);
    let client = world.connect_client(1, &[]);
    world.begin(client);
    world.pass(wait(40), &[]);
    let chain = world.machine.chains.map().partitions[0].clone();
    let at = world.at(chain.members[1]).unwrap();
    world.kill(at);
    // Time passes and nobody copies anything.
    let mut joined: BTreeSet<ShardId> = BTreeSet::new();
    for _ in 0..4000 {
        world.now += wait(20);
        for connection in world.servers.iter().filter_map(|server| server.connection).collect::<Vec<_>>() {
            world.say(connection, ToCoordinator::Renew { sent_us: 0 });
        }
        world.say(client, ToCoordinator::Heartbeat);
        world.machine.tick(world.now);
        world.act();
        world.run();
        joined.extend(world.machine.chains.map().partitions[0].joiner);
    }
    let servers: BTreeSet<usize> = joined.iter().map(|shard| world.at(*shard).unwrap()).collect();
    assert_eq!(servers.len(), 2, "{joined:?}");
}

#[test]
fn a_server_that_does_not_confirm_a_sessions_end_leaves_its_chains() {
    let (mut world, client, session) = three();
    // It heartbeats and does nothing that it is asked.
    let connection = world.servers[0].connection.unwrap();
    let server = world.servers[0].identity.unwrap().0;
    let asked = world.request(client, Request::EndSession { session });
    let stuck = std::mem::take(&mut world.servers[0].asks);
    assert!(!stuck.is_empty());
    for _ in 0..300 {
        world.now += wait(20);
        for connection in world.servers.iter().filter_map(|server| server.connection).collect::<Vec<_>>() {
            world.say(connection, ToCoordinator::Renew { sent_us: 0 });
        }
        world.say(client, ToCoordinator::Heartbeat);
        world.machine.tick(world.now);
        world.act();
        while (1..3).any(|at| world.carry_out(at)) {}
        if !world.machine.chains.holds(server) {
            break;
        }
    }
    assert!(!world.machine.chains.holds(server) && world.servers[0].connection == Some(connection));
    let _ = asked;
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Add,
    Kill(usize),
    Cut(usize),
    Return(usize),
    Stop(usize),
    Wake(usize),
    Work(usize),
    Links,
    Drain(usize),
    Wait(u16),
    Restart,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Add),
        1 => (0usize..8).prop_map(Event::Kill),
        2 => (0usize..8).prop_map(Event::Cut),
        4 => (0usize..8).prop_map(Event::Return),
        1 => (0usize..8).prop_map(Event::Stop),
        3 => (0usize..8).prop_map(Event::Wake),
        10 => (0usize..8).prop_map(Event::Work),
        8 => Just(Event::Links),
        1 => (0usize..8).prop_map(Event::Drain),
        6 => (0u16..300).prop_map(Event::Wait),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever dies, falls silent, joins, leaves or returns when: epochs rise and stand for one chain, whoever counts as
    /// a copy has what was acknowledged, and with enough servers everything has its copies in the end.
    #[test]
    fn copies_survive_and_are_made_again(copies in 1u32..4, steps in prop::collection::vec(events(), 1..100)) {
        let mut world = World::with_copies(copies as usize, copies);
        let client = world.connect_client(1, &[]);
        let session = world.begin(client);
        let mut chains: BTreeMap<(PartitionId, Epoch), (Vec<ShardId>, Option<ShardId>)> = BTreeMap::new();
        let mut newest: BTreeMap<PartitionId, Epoch> = BTreeMap::new();
        for step in steps {
            match step {
                Event::Add if world.servers.iter().filter(|server| !server.dead).count() < 6 => drop(world.add_server()),
                Event::Kill(at) if at < world.servers.len() => world.kill(at),
                Event::Cut(at) if at < world.servers.len() => world.disconnect_server(at),
                Event::Return(at) if at < world.servers.len() && !world.servers[at].dead
                    && world.servers[at].connection.is_none() && !world.servers[at].stopped =>
                    drop(world.connect_server(at)),
                Event::Stop(at) if at < world.servers.len() => world.servers[at].stopped = true,
                Event::Wake(at) if at < world.servers.len() => world.servers[at].stopped = false,
                Event::Work(at) if at < world.servers.len() => drop(world.carry_out(at)),
                Event::Links => world.replicate(true),
                Event::Drain(at) if at < world.servers.len() => if let (Some((server, _)), Some(&connection)) =
                    (world.servers[at].identity, world.clients.get(&1)) {
                    world.request(connection, Request::Drain { server });
                },
                Event::Wait(ms) => for _ in 0..ms / 20 {
                    world.now += wait(20);
                    let lively = world.servers.iter().filter(|server| !server.stopped);
                    for connection in lively.filter_map(|server| server.connection).collect::<Vec<_>>() {
                        world.say(connection, ToCoordinator::Renew { sent_us: 0 });
                    }
                    if let Some(&connection) = world.clients.get(&1) {
                        world.say(connection, ToCoordinator::Heartbeat);
                    }
                    world.machine.tick(world.now);
                    world.act();
                    world.check_copies();
                },
                Event::Restart => {
                    world.restart();
                    world.connect_client(1, &[session]);
                }
                _ => {}
            }
            world.check_copies();
            for (at, chain) in world.machine.chains.map().partitions.iter().enumerate() {
                let id = PartitionId(at as u32);
                let this = (chain.members.clone(), chain.joiner);
                prop_assert_eq!(chains.entry((id, chain.epoch)).or_insert_with(|| this.clone()), &this);
                let last = newest.entry(id).or_insert(chain.epoch);
                prop_assert!(*last <= chain.epoch, "epochs rise");
                *last = chain.epoch;
            }
        }
        // Those that live come back, and there are servers enough.
        for at in 0..world.servers.len() {
            world.servers[at].stopped = false;
            if !world.servers[at].dead && world.servers[at].connection.is_none() {
                world.connect_server(at);
            }
        }
        for _ in 0..copies {
            world.add_server();
        }
        world.pass(Duration::from_secs(15), &[]);
        world.check_agreement();
        let lost = world.lost();
        let client = world.connect_client(99, &[]);
        let status = world.status(client);
        prop_assert_eq!(status.chains.iter().filter(|chain| !chain.available).count(), lost);
        prop_assert!(lost > 0 || status.complete, "{:?}", status.incomplete);
        for chain in &world.machine.chains.map().partitions {
            let whole = chain.synced().len() == copies as usize && chain.joiner.is_none();
            prop_assert!(lost > 0 || whole, "{:?}", chain);
        }
    }
}
