//! Thousands of random schedules of larger worlds, by seed.

use super::checks;
use super::faults::Fault;
use super::world::{Budget, Event, Size, World};

/// splitmix64: one seed, one schedule.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn size(random: &mut Random) -> Size {
    let nodes = 2 + random.below(3) as u8;
    let clients = 1 + random.below(3) as u8;
    Size {
        nodes,
        members: 1 + random.below(nodes.min(3) as usize) as u8,
        clients,
        late: random.below(1 + clients as usize) as u8,
        pushes: 1 + random.below(6) as u16,
        bad_every: [0, 2, 3][random.below(3)],
        window: 1 + random.below(4),
        reads: random.below(6) as u16,
        seals_at_once: random.below(2) == 0,
        budget: Budget {
            crashes: random.below(3) as u8,
            suspicions: random.below(3) as u8,
            joins: random.below(4) as u8,
            resends: random.below(4) as u8,
            cuts: random.below(4) as u8,
            ends: random.below(2) as u8,
        },
    }
}

/// How often the interesting things happened.
#[derive(Debug, Default)]
struct Seen {
    crashes: u32,
    suspicions: u32,
    joins: u32,
    resends: u32,
    cuts: u32,
    ends: u32,
    reads: u32,
    /// Joiners that became members that count.
    whole: u32,
}

/// A seed from its beginning to its end.
fn play(seed: u64, fault: Fault, seen: &mut Seen, played: &mut Vec<Event>) -> Result<(), String> {
    played.clear();
    let mut random = Random(seed);
    let mut world = World::new(size(&mut random), fault);
    let trouble_percent = [2, 10, 30][random.below(3)];
    let mut events = Vec::new();
    let mut trouble = Vec::new();
    for _ in 0..5000 {
        events.clear();
        world.events(&mut events);
        trouble.clear();
        trouble.extend(events.iter().copied().filter(|event| event.is_trouble()));
        events.retain(|event| !event.is_trouble());
        let from =
            if !trouble.is_empty() && random.below(100) < trouble_percent { &trouble } else { &events };
        if from.is_empty() {
            return checks::done(&world);
        }
        let event = from[random.below(from.len())];
        played.push(event);
        let was_unsynced = world.authority.chain.unsynced;
        let longest = world.longest_read.len();
        world.happen(event);
        match event {
            Event::Crash(_) => seen.crashes += 1,
            Event::Suspect(_) => seen.suspicions += 1,
            Event::Join(_) => seen.joins += 1,
            Event::Resend(_) => seen.resends += 1,
            Event::Cut(..) => seen.cuts += 1,
            Event::End(_) => seen.ends += 1,
            Event::Deliver(..) => {
                seen.whole += u32::from(was_unsynced && !world.authority.chain.unsynced);
                seen.reads += u32::from(world.longest_read.len() > longest);
            }
            _ => {}
        }
        if let Some(why) = &world.wrong {
            return Err(why.clone());
        }
    }
    Err("progress: it never ends".into())
}

#[test]
fn over_thousands_of_schedules_nothing_acknowledged_is_lost_or_doubled_and_everybody_gets_done() {
    let (mut seen, mut played) = (Seen::default(), Vec::new());
    for seed in 0..8_000 {
        let end = play(seed, Fault::None, &mut seen, &mut played);
        assert!(end.is_ok(), "seed {seed}: {end:?} after {played:?}");
    }
    let Seen { crashes, suspicions, joins, resends, cuts, ends, reads, whole } = seen;
    let rarest = [crashes, suspicions, joins, resends, cuts, ends, reads, whole].into_iter().min();
    assert!(rarest > Some(200), "the schedules avoid what they should try: {seen:?}");
}

#[test]
fn every_planted_fault_is_found() {
    for fault in Fault::ALL {
        let (mut seen, mut played) = (Seen::default(), Vec::new());
        let mut ends = (0..20_000).map(|seed| play(seed, fault, &mut seen, &mut played));
        assert!(ends.any(|end| end.is_err()), "{fault:?} passed");
    }
}
