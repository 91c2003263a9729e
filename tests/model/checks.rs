//! What must hold, always and in the end.

use std::collections::BTreeSet;

use super::client::{Client, Fate, Reading};
use super::world::World;

/// Good pushes that a client knows as replicated.
pub(crate) fn acked_of(client: &Client) -> impl Iterator<Item = u16> + '_ {
    let known = client.work.iter().zip(&client.fates);
    known.filter(|(_, fate)| **fate == Fate::Acked).map(|(&(id, _), _)| id)
}

/// After every event.
pub(crate) fn safety(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        if let Some(why) = &node.broken {
            return Err(format!("server {}: {why}", node.id));
        }
        exactly_once(&node.rows)?;
    }
    prefixes(world)?;
    same_state(world)?;
    acknowledged_survive(world)?;
    for client in &world.clients {
        clients_know(client, world)?;
    }
    Ok(())
}

/// C3: a push is applied once, and after those of its session before it.
fn exactly_once(rows: &[u16]) -> Result<(), String> {
    for (at, &id) in rows.iter().enumerate() {
        let before = rows[..at].iter().rfind(|&&other| other / 100 == id / 100);
        if before.is_some_and(|&other| other >= id) {
            return Err(format!("exactly once: {rows:?}"));
        }
    }
    Ok(())
}

/// C1: what a member has applied is a prefix of what its predecessor has.
fn prefixes(world: &World) -> Result<(), String> {
    for pair in world.authority.chain.members.windows(2) {
        let [before, after] = [pair[0], pair[1]].map(|id| &world.nodes[id as usize]);
        if !before.rows.starts_with(&after.rows) {
            return Err(format!(
                "C1: {} has {:?}, {} behind it {:?}",
                before.id, before.rows, after.id, after.rows
            ));
        }
    }
    Ok(())
}

/// C0: members at the same batch are in the same state.
fn same_state(world: &World) -> Result<(), String> {
    let members = world.authority.chain.members.iter().map(|&id| &world.nodes[id as usize]);
    let sealed = members.filter(|node| !node.is_open);
    let replicas: Vec<_> = sealed.filter_map(|node| Some((node, node.replica.as_ref()?))).collect();
    for pair in replicas.windows(2) {
        let [(before, one), (after, other)] = [pair[0], pair[1]];
        if one.lsn() != other.lsn() {
            continue;
        }
        let same_sessions = one.sessions().eq(other.sessions()) && ended(one, world).eq(&ended(other, world));
        if !same_sessions || one.min_clock() != other.min_clock() || before.rows != after.rows {
            return Err(format!("C0: {} and {} differ at lsn {}", before.id, after.id, one.lsn()));
        }
    }
    Ok(())
}

fn ended(replica: &gradwire::chain::Replica, world: &World) -> Vec<bool> {
    world.clients.iter().map(|client| replica.has_ended(client.session)).collect()
}

/// C2: what a client knows as replicated is on every member that counts.
fn acknowledged_survive(world: &World) -> Result<(), String> {
    for &member in world.authority.chain.survivors() {
        let node = &world.nodes[member as usize];
        let has: BTreeSet<u16> = node.rows.iter().copied().collect();
        if let Some(lost) = world.clients.iter().flat_map(acked_of).find(|id| !has.contains(id)) {
            return Err(format!("C2: {lost} is acknowledged, {member} has {:?}", node.rows));
        }
    }
    Ok(())
}

/// C3: a refused push is known as refused, and nobody hears of an end that is none.
fn clients_know(client: &Client, world: &World) -> Result<(), String> {
    let told = client.work.iter().zip(&client.fates);
    if let Some(wrong) = told.clone().find(|((_, bad), fate)| *bad == (**fate == Fate::Acked)) {
        return Err(format!("C3: session {} was told {wrong:?}", client.session));
    }
    if client.ended && !world.authority.ended.contains(&client.session) {
        return Err(format!("C3: session {} lives, and was told that it has ended", client.session));
    }
    if client.lost {
        return Err(format!("C3: session {} is asked for what it knows as replicated", client.session));
    }
    Ok(())
}

/// C5: an answer to a strong read contains all that was acknowledged before it began; later reads see no less than
/// earlier ones, in the same order; and an answer that contains a push contains all that was acknowledged before that.
pub(crate) fn linearizable(
    reading: &Reading,
    rows: &[u16],
    longest: &[u16],
    sent_after: &[(u16, Vec<u16>)],
) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("C5: {what}: {rows:?}; {reading:?}, longest answer {longest:?}"));
    if reading.acked_before.iter().any(|id| !rows.contains(id)) {
        return wrong("a strong read misses what was acknowledged");
    }
    if rows.len() < reading.seen_before {
        return wrong("a strong read goes back");
    }
    if !rows.starts_with(longest) && !longest.starts_with(rows) {
        return wrong("two strong reads saw two orders");
    }
    for (at, id) in rows.iter().enumerate() {
        let before = sent_after.iter().find(|(other, _)| other == id).map(|(_, before)| before);
        if before.is_none_or(|before| before.iter().any(|other| !rows[..at].contains(other))) {
            return wrong("a push was ordered before one that ended before it began");
        }
    }
    Ok(())
}

/// Nothing is left to happen: everybody is done, and nothing is kept.
pub(crate) fn done(world: &World) -> Result<(), String> {
    if let Some(why) = &world.wrong {
        return Err(why.clone());
    }
    // One whose session has ended need not hear of it: it has gone, or will hear when it sends again.
    let mut living = world.clients.iter().filter(|client| !world.authority.ended.contains(&client.session));
    if let Some(client) = living.find(|client| !client.is_done()) {
        return Err(format!("progress: session {} has heard of {:?}", client.session, client.fates));
    }
    let chain = &world.authority.chain;
    if chain.unsynced || chain.joiner.is_some() {
        return Err(format!("progress: {chain:?} never becomes whole"));
    }
    let nodes = chain.members.iter().map(|&id| &world.nodes[id as usize]);
    for node in nodes {
        let Some(replica) = &node.replica else { return Err(format!("{} has nothing", node.id)) };
        if node.chain != *chain && node.chain.epoch != chain.epoch {
            return Err(format!("progress: {} is at {:?}, not {chain:?}", node.id, node.chain));
        }
        if replica.acked_lsn() != replica.lsn() || replica.log_bytes() != 0 {
            let (acked, lsn) = (replica.acked_lsn(), replica.lsn());
            return Err(format!(
                "progress: {} keeps {} bytes, {acked} of {lsn}",
                node.id,
                replica.log_bytes()
            ));
        }
    }
    Ok(())
}
