use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LEASE_MS: u64 = 5000;

fn config() -> JobsConfig {
    JobsConfig { lease_ms: LEASE_MS, heartbeat_ms: 1000, keep: 3 }
}

fn spec(epochs: u32) -> JobSpec {
    let fields =
        vec![("--minibatch".to_owned(), "1000".to_owned()), ("--train".to_owned(), "9 bytes".to_owned())];
    JobSpec { epochs, seed: Some(7), prepare: false, fields }
}

fn plan(blocks: u32) -> JobPlan {
    JobPlan { block_bytes: 1 << 20, blocks, parts: 0 }
}

/// A token of nobody else in this test process.
fn fresh() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn ask(jobs: &mut Jobs, now_ms: u64, request: JobRequest) -> JobAnswer {
    jobs.on_request(request, now_ms).0
}

fn join_as(jobs: &mut Jobs, now_ms: u64, spec: &JobSpec, plan: JobPlan, part: Option<Part>) -> JobAnswer {
    let (spec, job) = (spec.clone(), Some("j".to_owned()));
    ask(jobs, now_ms, JobRequest::Join { job, spec, plan, threads: 2, part, token: fresh() })
}

fn join(jobs: &mut Jobs, now_ms: u64, spec: &JobSpec, plan: JobPlan) -> (JobId, MemberId) {
    match join_as(jobs, now_ms, spec, plan, None) {
        JobAnswer::Joined { job, member, .. } => (job, member),
        other => panic!("{other:?}"),
    }
}

fn next(jobs: &mut Jobs, now_ms: u64, (job, member): (JobId, MemberId)) -> Task {
    some(jobs, now_ms, (job, member), 1)
}

fn some(jobs: &mut Jobs, now_ms: u64, (job, member): (JobId, MemberId), most: u32) -> Task {
    match ask(jobs, now_ms, JobRequest::Next { job, member, most }) {
        JobAnswer::Task(task) => task,
        other => panic!("{other:?}"),
    }
}

fn block(jobs: &mut Jobs, now_ms: u64, who: (JobId, MemberId)) -> (LeaseId, u32, u32) {
    match next(jobs, now_ms, who) {
        Task::Blocks { epoch, blocks } => (blocks[0].0, epoch, blocks[0].1),
        other => panic!("{other:?}"),
    }
}

fn done(jobs: &mut Jobs, now_ms: u64, (job, member): (JobId, MemberId), lease: LeaseId) -> bool {
    let tally = BlockTally { examples: 10, loss: 5.0 };
    match ask(jobs, now_ms, JobRequest::Done { job, member, done: vec![(lease, tally)] }) {
        JobAnswer::Noted { counted } => counted == 1,
        other => panic!("{other:?}"),
    }
}

fn renew(jobs: &mut Jobs, now_ms: u64, (job, member): (JobId, MemberId), lease: LeaseId) -> bool {
    match ask(jobs, now_ms, JobRequest::Renew { job, member, leases: vec![lease] }) {
        JobAnswer::Renewed { lost } => lost.is_empty(),
        other => panic!("{other:?}"),
    }
}

fn report(
    jobs: &mut Jobs,
    now_ms: u64,
    (job, member): (JobId, MemberId),
    lease: LeaseId,
    text: &str,
) -> bool {
    match ask(jobs, now_ms, JobRequest::Report { job, member, lease, report: text.to_owned() }) {
        JobAnswer::Noted { counted } => counted == 1,
        other => panic!("{other:?}"),
    }
}

/// Trains what is left, alone.
fn finish(jobs: &mut Jobs, now_ms: u64, who: (JobId, MemberId)) -> Totals {
    loop {
        match next(jobs, now_ms, who) {
            Task::Prepare { lease } => assert!(done(jobs, now_ms, who, lease)),
            Task::Blocks { blocks, .. } => assert!(done(jobs, now_ms, who, blocks[0].0)),
            Task::Evaluate { lease, totals } => {
                assert!(report(jobs, now_ms, who, lease, "figures"));
                return totals;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_block_of_every_epoch_is_given_out_once_when_nobody_is_lost() {
    let mut jobs = Jobs::new(config());
    let who = join(&mut jobs, 0, &spec(3), plan(5));
    let mut seen = BTreeMap::new();
    for now in 0..15 {
        let (lease, epoch, at) = block(&mut jobs, now, who);
        *seen.entry((epoch, at)).or_insert(0) += 1;
        assert!(done(&mut jobs, now + 1, who, lease));
    }
    assert!(seen.len() == 15 && seen.values().all(|&times| times == 1), "{seen:?}");
    let Task::Evaluate { lease, totals } = next(&mut jobs, 99, who) else { panic!("all blocks are done") };
    let last = BlockTally { examples: 50, loss: 25.0 };
    let all = BlockTally { examples: 150, loss: 75.0 };
    let expected = Totals { all, last, trained_ms: 15, processes: 1, threads: 2, handed_on: 0 };
    assert_eq!(totals, expected);
    assert!(report(&mut jobs, 99, who, lease, "figures"));
    assert_eq!(next(&mut jobs, 99, who), Task::Finished { report: "figures".into() });
}

#[test]
fn the_order_of_blocks_is_another_one_each_epoch_and_that_of_the_data_without_a_seed() {
    let order = |seed| {
        let mut jobs = Jobs::new(config());
        let who = join(&mut jobs, 0, &JobSpec { seed, ..spec(2) }, plan(20));
        let blocks: Vec<u32> = (0..40)
            .map(|_| {
                let (lease, _, at) = block(&mut jobs, 0, who);
                done(&mut jobs, 0, who, lease);
                at
            })
            .collect();
        blocks
    };
    let (one, two) = (order(Some(1)), order(Some(2)));
    assert!(one[..20] != one[20..] && one != two && one == order(Some(1)));
    assert_eq!(order(None), (0..20).chain(0..20).collect::<Vec<u32>>());
}

#[test]
fn many_blocks_go_out_at_once_and_fewer_towards_the_end_of_an_epoch() {
    let mut jobs = Jobs::new(config());
    let one = join(&mut jobs, 0, &spec(2), plan(64));
    join(&mut jobs, 0, &spec(2), plan(64));
    let mut counts = Vec::new();
    let mut seen = BTreeSet::new();
    while seen.len() < 64 {
        let Task::Blocks { epoch: 0, blocks } = some(&mut jobs, 0, one, 1000) else { panic!() };
        counts.push(blocks.len());
        assert!(blocks.iter().all(|(_, block)| seen.insert(*block)));
    }
    assert_eq!(counts, [16, 12, 9, 8, 8, 8, 3]);
    let Task::Blocks { epoch: 1, blocks } = some(&mut jobs, 0, one, 5) else { panic!() };
    assert_eq!(blocks.len(), 5, "no more than asked for");
}

#[test]
fn a_block_stays_with_who_learnt_from_it_before() {
    let mut jobs = Jobs::new(config());
    let who = [join(&mut jobs, 0, &spec(2), plan(20)), join(&mut jobs, 0, &spec(2), plan(20))];
    let mut epochs = [[BTreeSet::new(), BTreeSet::new()], [BTreeSet::new(), BTreeSet::new()]];
    for _ in 0..20 {
        for (at, who) in who.into_iter().enumerate() {
            let (lease, epoch, block) = block(&mut jobs, 0, who);
            epochs[epoch as usize][at].insert(block);
            done(&mut jobs, 0, who, lease);
        }
    }
    assert_eq!(epochs[0], epochs[1]);
}

#[test]
fn a_block_whose_lease_ran_out_goes_to_another_and_its_first_holder_is_not_counted() {
    let mut jobs = Jobs::new(config());
    let (one, two) = (join(&mut jobs, 0, &spec(1), plan(1)), join(&mut jobs, 0, &spec(1), plan(1)));
    let (late, ..) = block(&mut jobs, 0, one);
    assert!(matches!(next(&mut jobs, LEASE_MS - 1, two), Task::Wait { missing: None, .. }));
    let (newest, ..) = block(&mut jobs, LEASE_MS, two);
    assert!(!renew(&mut jobs, LEASE_MS, one, late));
    assert!(!done(&mut jobs, LEASE_MS, one, late));
    assert!(done(&mut jobs, LEASE_MS, two, newest));
    assert_eq!(finish(&mut jobs, LEASE_MS, one).all.examples, 10);
}

#[test]
fn a_late_block_that_nobody_took_yet_still_counts() {
    let mut jobs = Jobs::new(config());
    let who = join(&mut jobs, 0, &spec(1), plan(2));
    let (one, ..) = block(&mut jobs, 0, who);
    let (two, ..) = block(&mut jobs, 0, who);
    assert!(renew(&mut jobs, 3 * LEASE_MS, who, two));
    assert!(done(&mut jobs, 3 * LEASE_MS, who, one));
    assert!(done(&mut jobs, 3 * LEASE_MS, who, two));
}

#[test]
fn a_renewed_lease_runs_on_and_a_lost_process_loses_all_of_its_own() {
    let mut jobs = Jobs::new(config());
    let (one, two) = (join(&mut jobs, 0, &spec(1), plan(2)), join(&mut jobs, 0, &spec(1), plan(2)));
    let (first, ..) = block(&mut jobs, 0, one);
    let (second, ..) = block(&mut jobs, 0, two);
    for now in [4000, 8000, 12_000] {
        assert!(renew(&mut jobs, now, one, first));
    }
    let (again, ..) = block(&mut jobs, 12_000, one);
    assert!(again != second && !renew(&mut jobs, 12_000, two, second));
    ask(&mut jobs, 12_000, JobRequest::Leave { job: one.0, member: one.1 });
    let took = [block(&mut jobs, 12_000, two), block(&mut jobs, 12_000, two)];
    assert!(took[0].2 != took[1].2, "what a process had that left is free at once");
}

#[test]
fn an_evaluation_that_is_lost_goes_to_another_and_one_report_ends_the_job() {
    let mut jobs = Jobs::new(config());
    let (one, two) = (join(&mut jobs, 0, &spec(1), plan(1)), join(&mut jobs, 0, &spec(1), plan(1)));
    let (lease, ..) = block(&mut jobs, 0, one);
    done(&mut jobs, 0, one, lease);
    let Task::Evaluate { lease: lost, .. } = next(&mut jobs, 0, one) else { panic!("all is done") };
    assert!(matches!(next(&mut jobs, 10, two), Task::Wait { .. }));
    let Task::Evaluate { lease, .. } = next(&mut jobs, LEASE_MS, two) else { panic!("the lease ran out") };
    assert!(!report(&mut jobs, LEASE_MS, one, lost, "late"));
    assert!(report(&mut jobs, LEASE_MS, two, lease, "figures"));
    for who in [one, two] {
        assert_eq!(next(&mut jobs, LEASE_MS, who), Task::Finished { report: "figures".into() });
    }
    let over = join_as(&mut jobs, LEASE_MS, &spec(1), plan(1), None);
    assert_eq!(over, JobAnswer::Over { job: one.0, name: "j".into(), report: "figures".into() });
}

#[test]
fn nothing_is_learnt_before_the_first_task_is_done() {
    let mut jobs = Jobs::new(config());
    let spec = JobSpec { prepare: true, ..spec(1) };
    let (one, two) = (join(&mut jobs, 0, &spec, plan(1)), join(&mut jobs, 0, &spec, plan(1)));
    let Task::Prepare { lease } = next(&mut jobs, 0, one) else { panic!("it comes first") };
    assert!(matches!(next(&mut jobs, 0, two), Task::Wait { .. }));
    assert!(done(&mut jobs, 0, one, lease));
    assert!(!done(&mut jobs, 0, one, lease));
    block(&mut jobs, 0, two);
}

#[test]
fn a_process_with_other_settings_is_told_which() {
    let mut jobs = Jobs::new(config());
    join(&mut jobs, 0, &spec(3), plan(1));
    let refused = |jobs: &mut Jobs, other: &JobSpec, plan, part| match join_as(jobs, 0, other, plan, part) {
        JobAnswer::Refused(error) => error.to_string(),
        answer => panic!("{answer:?}"),
    };
    let text = refused(&mut jobs, &spec(4), plan(1), None);
    assert!(text.contains("\"j\" runs with --epochs 3, this process was given 4"), "{text}");
    let mut other = spec(3);
    other.fields[0].1 = "500".to_owned();
    let text = refused(&mut jobs, &other, plan(1), None);
    assert!(text.contains("--minibatch 1000") && text.contains("given 500"), "{text}");
    let text = refused(&mut jobs, &JobSpec { seed: None, ..spec(3) }, plan(1), None);
    assert!(text.contains("--seed 7") && text.contains("file order"), "{text}");
    let part = Some(Part { index: 1, count: 2 });
    let text = refused(&mut jobs, &spec(3), JobPlan { parts: 2, ..plan(1) }, part);
    assert!(text.contains("--part none") && text.contains("given I/2"), "{text}");
}

#[test]
fn a_failed_job_tells_all_and_its_name_is_free_again() {
    let mut jobs = Jobs::new(config());
    let (one, two) = (join(&mut jobs, 0, &spec(1), plan(1)), join(&mut jobs, 0, &spec(1), plan(1)));
    let reason = "line 3 is no example".to_owned();
    ask(&mut jobs, 0, JobRequest::Fail { job: one.0, member: one.1, reason: reason.clone() });
    assert_eq!(next(&mut jobs, 0, two), Task::Failed { reason });
    let anew = join(&mut jobs, 0, &spec(2), plan(1));
    assert_ne!(anew.0, one.0);
    finish(&mut jobs, 0, anew);
}

#[test]
fn jobs_without_a_name_get_new_ones() {
    let mut jobs = Jobs::new(config());
    let mut names = BTreeSet::new();
    for _ in 0..5 {
        let request = JobRequest::Join {
            job: None,
            spec: spec(1),
            plan: plan(1),
            threads: 1,
            part: None,
            token: fresh(),
        };
        let JobAnswer::Joined { name, .. } = ask(&mut jobs, 0, request) else { panic!() };
        let number: u64 = name.strip_prefix("job-").unwrap().parse().unwrap();
        assert!(names.insert(name));
        // A user takes a name that would come soon.
        let job = Some(format!("job-{}", number + 2));
        ask(
            &mut jobs,
            0,
            JobRequest::Join { job, spec: spec(1), plan: plan(1), threads: 1, part: None, token: fresh() },
        );
    }
}

#[test]
fn fixed_shares_wait_for_each_other_and_say_which_is_missing() {
    let mut jobs = Jobs::new(config());
    let plan = JobPlan { parts: 2, ..plan(4) };
    let part = |index| Some(Part { index, count: 2 });
    let joined = |answer| match answer {
        JobAnswer::Joined { job, member, .. } => (job, member),
        other => panic!("{other:?}"),
    };
    let one = joined(join_as(&mut jobs, 0, &spec(3), plan, part(1)));
    let mut blocks = Vec::new();
    let signs = loop {
        match next(&mut jobs, 0, one) {
            Task::Blocks { epoch, blocks: given } => {
                blocks.push((epoch, given[0].1));
                done(&mut jobs, 0, one, given[0].0);
            }
            Task::Wait { missing, signs } => {
                assert_eq!(missing, part(2));
                break signs;
            }
            other => panic!("{other:?}"),
        }
    };
    blocks.sort_unstable();
    assert_eq!(blocks, [(0, 0), (0, 2), (1, 0), (1, 2)], "its own share, an epoch ahead at most");
    assert_eq!(
        next(&mut jobs, 9, one),
        Task::Wait { signs, missing: part(2) },
        "nobody gives a sign of life"
    );
    let taken = join_as(&mut jobs, 9, &spec(3), plan, part(1));
    assert!(matches!(taken, JobAnswer::Refused(JobError::PartTaken { .. })));
    let two = joined(join_as(&mut jobs, 9, &spec(3), plan, part(2)));
    let mut over = false;
    while !over {
        for who in [one, two] {
            match next(&mut jobs, 9, who) {
                Task::Blocks { blocks, .. } => assert!(done(&mut jobs, 9, who, blocks[0].0)),
                Task::Evaluate { lease, totals } => {
                    assert_eq!(totals.all.examples, 3 * 4 * 10);
                    over = report(&mut jobs, 9, who, lease, "figures");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_part_whose_process_was_lost_may_be_another_s() {
    let mut jobs = Jobs::new(config());
    let plan = JobPlan { parts: 2, ..plan(4) };
    let part = Some(Part { index: 1, count: 2 });
    let JobAnswer::Joined { job, member, .. } = join_as(&mut jobs, 0, &spec(1), plan, part) else { panic!() };
    let anew = join_as(&mut jobs, LEASE_MS + 1, &spec(1), plan, part);
    assert!(matches!(anew, JobAnswer::Joined { .. }));
    let back = ask(&mut jobs, LEASE_MS + 1, JobRequest::Next { job, member, most: 1 });
    assert!(matches!(back, JobAnswer::Refused(JobError::PartTaken { .. })));
}

#[test]
fn a_join_that_is_sent_again_is_one_member() {
    let mut jobs = Jobs::new(config());
    let plan = JobPlan { parts: 2, ..plan(4) };
    let part = Some(Part { index: 1, count: 2 });
    let request = JobRequest::Join { job: None, spec: spec(1), plan, threads: 1, part, token: 77 };
    let JobAnswer::Joined { member, name, .. } = ask(&mut jobs, 0, request.clone()) else { panic!() };
    let JobRequest::Join { spec, .. } = request else { panic!() };
    let again = JobRequest::Join { job: Some(name), spec, plan, threads: 1, part, token: 77 };
    let JobAnswer::Joined { member: same, .. } = ask(&mut jobs, 1, again) else { panic!() };
    assert_eq!(same, member);
}

#[test]
fn the_oldest_job_that_is_over_is_forgotten() {
    let mut jobs = Jobs::new(config());
    let mut ids = Vec::new();
    for at in 0..5 {
        let job = Some(format!("n{at}"));
        let request =
            JobRequest::Join { job, spec: spec(1), plan: plan(1), threads: 1, part: None, token: fresh() };
        let JobAnswer::Joined { job, member, .. } = ask(&mut jobs, 0, request) else { panic!() };
        finish(&mut jobs, 0, (job, member));
        ids.push((job, member));
    }
    assert_eq!(jobs.take_forgotten(), [ids[0].0, ids[1].0]);
    assert_eq!(jobs.take_forgotten(), []);
    let gone = ask(&mut jobs, 0, JobRequest::Next { job: ids[0].0, member: ids[0].1, most: 1 });
    assert_eq!(gone, JobAnswer::Refused(JobError::NoJob { job: ids[0].0 }));
}

#[test]
fn wrong_requests_change_nothing() {
    let mut jobs = Jobs::new(config());
    let who = join(&mut jobs, 0, &spec(1), plan(1));
    let (lease, ..) = block(&mut jobs, 0, who);
    let before = serde_json::to_string(&jobs).unwrap();
    let join = |spec, plan, part, job: &str| JobRequest::Join {
        job: Some(job.into()),
        spec,
        plan,
        threads: 1,
        part,
        token: fresh(),
    };
    let bad = |examples, loss| {
        let tally = BlockTally { examples, loss };
        JobRequest::Done { job: who.0, member: who.1, done: vec![(lease, tally)] }
    };
    let wrong = [
        join(spec(0), plan(1), None, "a"),
        join(spec(1), plan(0), None, "a"),
        join(spec(1), plan(MAX_BLOCKS + 1), None, "a"),
        join(spec(1), plan(1), Some(Part { index: 0, count: 0 }), "a"),
        join(spec(1), JobPlan { parts: 2, ..plan(1) }, None, "a"),
        join(spec(1), plan(1), None, ""),
        join(spec(1), plan(1), None, "a\nb"),
        bad(1, f64::NAN),
        bad(1, -1.0),
        bad(u64::MAX, 1.0),
        JobRequest::Next { job: who.0, member: MemberId(999), most: 1 },
        JobRequest::Fail { job: who.0, member: who.1, reason: "x".repeat(2 << 20) },
    ];
    for request in wrong {
        let (answer, durability) = jobs.on_request(request.clone(), 0);
        assert!(matches!(answer, JobAnswer::Refused(_)), "{request:?}: {answer:?}");
        assert_eq!(durability, Durability::None);
    }
    assert_eq!(serde_json::to_string(&jobs).unwrap(), before);
}

#[test]
fn parts_are_written_from_one() {
    assert_eq!("1/2".parse(), Ok(Part { index: 1, count: 2 }));
    for wrong in ["0/0", "3/2", "0/2", "1", "1/", "/2", "a/b", "-1/2", "1/99999999"] {
        let error = wrong.parse::<Part>().unwrap_err();
        assert!(error.contains("I/N"), "{wrong}: {error}");
    }
    let part = Part { index: 2, count: 3 };
    assert_eq!((0..7).filter(|&block| part.has(block)).collect::<Vec<_>>(), [1, 4]);
}

/// What a process believes to hold.
#[derive(Clone, Debug)]
struct Held {
    member: (JobId, MemberId),
    lease: LeaseId,
    task: (u32, u32),
    until_ms: u64,
}

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    Join,
    Next(usize, u32),
    Done(usize),
    Renew(usize),
    Leave(usize),
    Pass(u64),
    /// The coordinator goes on from the state it saved last, with a clock that starts at 0.
    Restart,
    Save,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..8;
    let step = prop_oneof![
        1 => Just(Step::Join),
        6 => (who.clone(), 1u32..5).prop_map(|(who, most)| Step::Next(who, most)),
        6 => who.clone().prop_map(Step::Done),
        2 => who.clone().prop_map(Step::Renew),
        1 => who.prop_map(Step::Leave),
        2 => (1u64..2 * LEASE_MS).prop_map(Step::Pass),
        1 => Just(Step::Save),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// J1 to J5, whoever comes, goes, stalls and returns; then the last one ends the job.
    #[test]
    fn a_job_ends_with_every_block_counted_once_if_one_process_lives(steps in steps(), blocks in 1u32..6, epochs in 1u32..4) {
        let mut jobs = Jobs::new(config());
        let mut now = 0;
        let mut saved = (serde_json::to_string(&jobs).unwrap(), BTreeSet::new());
        let mut members: Vec<(JobId, MemberId)> = Vec::new();
        let mut held: Vec<Held> = Vec::new();
        let mut counted: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut leases = BTreeSet::new();
        let save = |jobs: &Jobs, counted: &BTreeSet<(u32, u32)>| (serde_json::to_string(jobs).unwrap(), counted.clone());
        for step in steps {
            match step {
                Step::Join => {
                    members.push(join(&mut jobs, now, &spec(epochs), plan(blocks)));
                    // A join is durable before it is answered.
                    saved = save(&jobs, &counted);
                }
                Step::Next(at, most) if !members.is_empty() => {
                    let member = members[at % members.len()];
                    match some(&mut jobs, now, member, most) {
                        Task::Blocks { epoch, blocks: given } => for (lease, block) in given {
                            prop_assert!(leases.insert(lease), "J5: lease {lease} was given twice");
                            let clash = held.iter().find(|h| h.task == (epoch, block) && h.until_ms > now);
                            prop_assert!(clash.is_none(), "J1: {clash:?} at {now}");
                            prop_assert!(!counted.contains(&(epoch, block)), "J2");
                            let earlier = epoch.saturating_sub(1);
                            prop_assert!((0..blocks).all(|b| epoch < 2 || counted.contains(&(earlier - 1, b))), "J3");
                            held.push(Held { member, lease, task: (epoch, block), until_ms: now + LEASE_MS });
                        }
                        Task::Evaluate { .. } => prop_assert_eq!(counted.len() as u32, blocks * epochs),
                        Task::Wait { .. } => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Done(at) if !held.is_empty() => {
                    let one = held.swap_remove(at % held.len());
                    if done(&mut jobs, now, one.member, one.lease) {
                        prop_assert!(counted.insert(one.task), "J2: {one:?} counted twice");
                    }
                }
                Step::Renew(at) if !held.is_empty() => {
                    let at = at % held.len();
                    if renew(&mut jobs, now, held[at].member, held[at].lease) {
                        held[at].until_ms = now + LEASE_MS;
                    }
                }
                Step::Leave(at) if !members.is_empty() => {
                    let (job, member) = members[at % members.len()];
                    ask(&mut jobs, now, JobRequest::Leave { job, member });
                    held.retain(|h| h.member != (job, member));
                }
                Step::Pass(ms) => now += ms,
                Step::Save => saved = save(&jobs, &counted),
                Step::Restart => {
                    let old: Jobs = serde_json::from_str(&saved.0).unwrap();
                    now = 0;
                    jobs = old.restored(config(), now);
                    counted = saved.1.clone();
                    saved = save(&jobs, &counted);
                    // Who holds a lease that the saved state does not know trains in vain: data is at-least-once.
                    held.clear();
                }
                _ => {}
            }
        }
        let who = join(&mut jobs, now, &spec(epochs), plan(blocks));
        now += 2 * LEASE_MS;
        let totals = finish(&mut jobs, now, who);
        prop_assert_eq!(totals.all.examples, u64::from(blocks * epochs) * 10);
        prop_assert_eq!(totals.last.examples, u64::from(blocks) * 10);
        for member in members {
            prop_assert_eq!(next(&mut jobs, now, member), Task::Finished { report: "figures".into() }, "J4");
        }
    }
}
