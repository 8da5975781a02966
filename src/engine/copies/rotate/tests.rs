use super::*;
use crate::engine::copies::catalog::{Cause, FailedOver, Suspicion, Unchanged, Verified};
use crate::engine::copies::plan::{Keep, Large};
use crate::engine::copies::testing;
use crate::engine::rng::Rng;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Monday 2026-11-16T00:00:00Z.
const MONDAY: Time = Time(1_794_787_200_000_000_000);

fn copy(seq: u64, at: Time) -> Copy {
    testing::copy(seq, at)
}

fn catalog(copies: Vec<Copy>) -> Catalog {
    Catalog { copies, ..Catalog::default() }
}

fn none() -> Keep {
    Keep { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0, min_keep: 1 }
}

fn plan(keep: Keep) -> CopyPlan {
    CopyPlan { keep, ..testing::plan("data") }
}

fn run(now: Time) -> Occasion {
    Occasion { now, synchronised: true, built: Time(0), ground: Ground::Run }
}

/// `seq: why why`, of those that stay.
fn stays(catalog: &Catalog, plan: &CopyPlan, now: Time) -> Vec<String> {
    let judged = judge(catalog, plan, now).into_iter().filter(|kept| !kept.reasons.is_empty());
    let words = |kept: &Kept| kept.reasons.iter().map(|reason| reason.word()).collect::<Vec<_>>().join(" ");
    judged.map(|kept| format!("{}: {}", kept.seq, words(&kept))).collect()
}

#[test]
fn the_newest_of_each_period_stays() {
    // Every six hours for ten days, from a Monday on.
    let copies: Vec<Copy> = (0..40_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(6 * HOUR * n))).collect();
    let now = MONDAY.after(6 * HOUR * 39);
    let keep = Keep { last: 1, daily: 3, weekly: 2, ..none() };
    let expected =
        ["28: weekly", "32: daily", "36: daily", "40: last daily weekly min_keep newest_good"].map(str::to_owned);
    assert_eq!(stays(&catalog(copies), &plan(keep), now), expected);
}

#[test]
fn the_oldest_stays_while_a_rule_has_room() {
    let copies = vec![copy(1, MONDAY), copy(2, MONDAY.after(HOUR)), copy(3, MONDAY.after(2 * HOUR))];
    let keep = Keep { monthly: 6, ..none() };
    let expected = ["1: oldest", "3: monthly min_keep newest_good"].map(str::to_owned);
    assert_eq!(stays(&catalog(copies), &plan(keep), MONDAY.after(DAY)), expected);
}

#[test]
fn months_without_a_copy_use_nothing_up() {
    let copies = vec![copy(1, MONDAY), copy(2, MONDAY.after(400 * DAY)), copy(3, MONDAY.after(401 * DAY))];
    let keep = Keep { monthly: 2, ..none() };
    let expected = ["1: monthly", "3: monthly min_keep newest_good"].map(str::to_owned);
    assert_eq!(stays(&catalog(copies), &plan(keep), MONDAY.after(402 * DAY)), expected);
}

#[test]
fn copies_of_an_empty_source_never_displace_good_ones() {
    let mut copies: Vec<Copy> = (0..5_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    for seq in 6..40_u32 {
        let mut empty = copy(u64::from(seq), MONDAY.after(HOUR * seq));
        empty.suspect = Some(Suspicion::Empty { source: "/srv".to_owned() });
        copies.push(empty);
    }
    let mut catalog = catalog(copies);
    let plan = plan(Keep { last: 3, ..none() });
    let kept = judge(&catalog, &plan, MONDAY.after(40 * HOUR));
    let good: Vec<u64> = kept.iter().take(5).filter(|kept| !kept.reasons.is_empty()).map(|kept| kept.seq).collect();
    assert_eq!(good, [3, 4, 5]);
    assert!(kept.iter().skip(5).all(|kept| kept.reasons == [Reason::Suspect]), "{kept:?}");
    assert_eq!(prune(&catalog, &plan, run(MONDAY.after(40 * HOUR))), Err(Frozen::Suspect { seq: 39 }));
    // Two weeks later they go, once somebody has made sure of the newest.
    catalog.copies.last_mut().expect("there").accepted = true;
    let later = MONDAY.after(HOUR * 39 + SUSPECT_STAYS);
    assert_eq!(prune(&catalog, &plan, run(later)), Ok((1..=3).chain(6..=21).collect()));
}

#[test]
fn what_went_bad_stays_as_long_as_it_would_have() {
    let mut copies: Vec<Copy> = (0..4_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(30 * DAY * n))).collect();
    copies[1].bad = 1;
    let plan = plan(Keep { monthly: 3, ..none() });
    let expected = ["1: monthly", "2: suspect", "3: monthly", "4: monthly min_keep newest_good"].map(str::to_owned);
    assert_eq!(stays(&catalog(copies), &plan, MONDAY.after(200 * DAY)), expected);
}

#[test]
fn a_copy_of_a_wrong_clock_is_as_old_as_its_successor() {
    let mut early = copy(1, Time(0));
    early.clock_suspect = true;
    let copies = vec![early, copy(2, MONDAY), copy(3, MONDAY.after(HOUR))];
    let plan = plan(Keep { last: 2, ..none() });
    assert_eq!(stays(&catalog(copies.clone()), &plan, MONDAY.after(13 * DAY))[0], "1: suspect");
    assert_eq!(prune(&catalog(copies), &plan, run(MONDAY.after(15 * DAY))), Ok(vec![1]));
}

#[test]
fn what_is_used_or_pinned_or_proven_stays() {
    let mut copies: Vec<Copy> = (0..6_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(DAY * n))).collect();
    copies[0].pinned = true;
    copies[1].in_use = true;
    copies[2].verified = Some(Verified { at: MONDAY, cold: true });
    copies[3].verified = Some(Verified { at: MONDAY, cold: false });
    let mut catalog = catalog(copies);
    catalog.failed_over = Some(FailedOver { seq: 4, since: MONDAY, age: HOUR });
    let expected = ["1: pinned", "2: in_use", "3: newest_verified", "4: failed_over", "6: min_keep newest_good"]
        .map(str::to_owned);
    assert_eq!(stays(&catalog, &plan(none()), MONDAY.after(30 * DAY)), expected);
    catalog.failed_over = None;
    let expected = ["1: pinned", "2: in_use", "3: newest_verified", "6: min_keep newest_good"].map(str::to_owned);
    assert_eq!(stays(&catalog, &plan(none()), MONDAY.after(30 * DAY)), expected);
}

#[test]
fn at_most_half_goes_at_once() {
    let copies: Vec<Copy> = (0..9_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    assert_eq!(prune(&catalog(copies), &plan(none()), run(MONDAY.after(DAY))), Ok(vec![1, 2, 3, 4]));
}

#[test]
fn nothing_goes_before_a_run_has_succeeded() {
    let copies: Vec<Copy> = (0..9_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    let occasion = Occasion { ground: Ground::NoRun, ..run(MONDAY.after(DAY)) };
    assert_eq!(prune(&catalog(copies), &plan(none()), occasion), Err(Frozen::NoRun));
}

#[test]
fn an_odd_clock_stops_removals_until_a_run_with_a_right_one() {
    let copies: Vec<Copy> = (0..4_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    let mut catalog = catalog(copies);
    let plan = plan(none());
    let behind = Frozen::ClockBehind { by: Duration::from_secs(181) };
    assert_eq!(prune(&catalog, &plan, run(Time(MONDAY.after(3 * HOUR).0 - 181_000_000_000))), Err(behind));
    assert!(prune(&catalog, &plan, run(Time(MONDAY.after(3 * HOUR).0 - 120_000_000_000))).is_ok());
    let ahead = MONDAY.after(3 * HOUR + 31 * DAY);
    let lost = Occasion { synchronised: false, ..run(ahead) };
    assert_eq!(prune(&catalog, &plan, lost), Err(Frozen::ClockAhead { by: 31 * DAY }));
    assert!(prune(&catalog, &plan, run(ahead)).is_ok());
    // A run that found nothing to copy is as good a witness as a copy.
    catalog.unchanged = Some(Unchanged { at: ahead, seq: 4 });
    assert!(prune(&catalog, &plan, lost).is_ok());
    catalog.unchanged = None;
    catalog.copies[3].clock_suspect = true;
    assert_eq!(prune(&catalog, &plan, run(MONDAY.after(4 * HOUR))), Err(Frozen::ClockDoubtful { seq: 4 }));
    catalog.copies.push(copy(5, MONDAY.after(5 * HOUR)));
    assert!(prune(&catalog, &plan, run(MONDAY.after(5 * HOUR))).is_ok());
}

#[test]
fn old_versions_of_large_files_go_where_pages_are_not_shared() {
    let mut copies: Vec<Copy> = (0..8_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    for (copy, version) in copies.iter_mut().zip([1, 1, 2, 2, 3, 3, 3, 4]) {
        (copy.large, copy.large_over) = (version, 1 << 28);
    }
    let mut catalog = catalog(copies);
    let mut plan = plan(Keep { last: 8, ..none() });
    plan.space.large = Some(Large { over: 1 << 28, keep: 2 });
    let later = MONDAY.after(DAY);
    assert_eq!(prune(&catalog, &plan, run(later)), Ok(vec![1, 2, 3, 4]));
    catalog.reflinks = true;
    assert_eq!(prune(&catalog, &plan, run(later)), Ok(Vec::new()));
}

#[test]
fn a_full_disk_takes_the_oldest_down_to_min_keep() {
    let mut copies: Vec<Copy> = (0..8_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    copies.iter_mut().for_each(|copy| copy.written_bytes = 100);
    copies[1].pinned = true;
    let mut catalog = catalog(copies);
    let mut plan = plan(Keep { last: 8, min_keep: 5, ..none() });
    plan.space.on_full = OnFull::PruneOldest;
    let full = |missing_bytes| Occasion { ground: Ground::Full { missing_bytes }, ..run(MONDAY.after(DAY)) };
    assert_eq!(prune(&catalog, &plan, full(1)), Ok(vec![1]));
    assert_eq!(prune(&catalog, &plan, full(150)), Ok(vec![1, 3]));
    assert_eq!(prune(&catalog, &plan, full(u64::MAX)), Ok(vec![1, 3]));
    catalog.copies.retain(|copy| copy.seq > 3);
    assert_eq!(prune(&catalog, &plan, full(u64::MAX)), Ok(Vec::new()));
}

#[test]
fn a_full_disk_takes_only_what_nothing_keeps_unless_the_plan_says_so() {
    let copies = (0..8_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    let full = Occasion { ground: Ground::Full { missing_bytes: u64::MAX }, ..run(MONDAY.after(DAY)) };
    let catalog = catalog(copies);
    assert_eq!(prune(&catalog, &plan(Keep { last: 8, min_keep: 1, ..none() }), full), Ok(Vec::new()));
    assert_eq!(prune(&catalog, &plan(Keep { last: 6, min_keep: 1, ..none() }), full), Ok(vec![1, 2]));
}

#[test]
fn a_clock_from_before_this_program_was_made_removes_nothing() {
    let copies = (0..8_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    let plan = plan(Keep { last: 2, min_keep: 1, ..none() });
    let early = Occasion { built: MONDAY.after(DAY * 2), ..run(MONDAY.after(DAY)) };
    let catalog = catalog(copies);
    assert_eq!(prune(&catalog, &plan, early), Err(Frozen::ClockBeforeBuild { by: DAY }));
    assert!(prune(&catalog, &plan, Occasion { built: MONDAY, ..early }).is_ok_and(|goes| !goes.is_empty()));
}

#[test]
fn versions_of_large_files_told_apart_by_another_size_are_under_no_cap() {
    let mut copies: Vec<Copy> = (0..6_u32).map(|n| copy(u64::from(n) + 1, MONDAY.after(HOUR * n))).collect();
    for one in &mut copies {
        (one.large, one.large_over) = (one.seq, 256 << 20);
    }
    let mut plan = plan(Keep { last: 6, min_keep: 1, ..none() });
    plan.space.large = Some(Large { over: 256 << 20, keep: 2 });
    let goes = |copies: &[Copy]| prune(&catalog(copies.to_vec()), &plan, run(MONDAY.after(DAY)));
    assert_eq!(goes(&copies), Ok(vec![1, 2, 3]), "whole copies, at most half of all at once");
    copies.iter_mut().for_each(|one| one.large_over = 1 << 30);
    assert_eq!(goes(&copies), Ok(Vec::new()));
}

fn chance(rng: &mut Rng, one_in: u64) -> bool {
    rng.below(one_in) == 0
}

fn any_catalog(rng: &mut Rng) -> Catalog {
    let mut at = MONDAY;
    let mut copies = Vec::new();
    let mut seq = 0;
    for _ in 0..rng.below(60) {
        seq += 1 + rng.below(3);
        let far = if chance(rng, 5) { 40 * 24 } else { 30 };
        at = at.after(Duration::from_secs(60 * rng.below(60 * far)));
        let mut one = copy(seq, if chance(rng, 30) { Time(rng.below(2 * MONDAY.0)) } else { at });
        one.written_bytes = rng.below(1 << 30);
        (one.large, one.large_over) = (rng.below(9), 1 << 29);
        one.suspect = chance(rng, 6).then(|| Suspicion::Empty { source: "/srv".to_owned() });
        one.clock_suspect = chance(rng, 10);
        one.accepted = chance(rng, 8);
        one.stale = u64::from(chance(rng, 8));
        one.bad = u64::from(chance(rng, 12));
        one.pinned = chance(rng, 15);
        one.in_use = chance(rng, 20);
        one.verified = chance(rng, 4).then(|| Verified { at, cold: rng.below(2) == 0 });
        one.cause = Cause::Every;
        copies.push(one);
    }
    let failed_over = chance(rng, 6).then(|| FailedOver { seq: 1 + rng.below(seq.max(1)), since: at, age: HOUR });
    Catalog { copies, failed_over, reflinks: chance(rng, 2), ..Catalog::default() }
}

fn any_plan(rng: &mut Rng) -> CopyPlan {
    let mut count = |max| u32::try_from(rng.below(max)).expect("small");
    let keep = Keep {
        last: count(6),
        hourly: count(8),
        daily: count(8),
        weekly: count(5),
        monthly: count(4),
        yearly: count(3),
        min_keep: count(5),
    };
    let mut plan = plan(keep);
    plan.space.large = chance(rng, 3).then_some(Large { over: 1 << 29, keep: 2 });
    plan
}

/// Whatever lies there and is asked for: what must stay stays, and what goes is nothing's.
#[test]
fn what_must_stay_stays() {
    for seed in 0..4_000 {
        let mut rng = Rng::new(seed);
        let (catalog, plan) = (any_catalog(&mut rng), any_plan(&mut rng));
        let now = MONDAY.after(Duration::from_secs(60 * rng.below(60 * 24 * 400)));
        let missing_bytes = rng.below(1 << 33);
        let ground = [Ground::Run, Ground::ByHand, Ground::Full { missing_bytes }]
            [usize::try_from(rng.below(3)).expect("small")];
        let synchronised = chance(&mut rng, 2);
        let Ok(goes) = prune(&catalog, &plan, Occasion { now, synchronised, built: Time(0), ground }) else { continue };
        let gone = |copy: &&Copy| goes.contains(&copy.seq);
        let stays = |copy: &&Copy| !goes.contains(&copy.seq);
        let copies = &catalog.copies;
        assert!(goes.is_sorted() && goes.len() <= copies.len() / 2, "seed {seed}: {goes:?}");
        assert!(copies.iter().filter(gone).all(|copy| !copy.pinned && !copy.in_use), "seed {seed}");
        assert!(catalog.failed_over.iter().all(|over| !goes.contains(&over.seq)), "seed {seed}");
        assert!(copies.iter().rfind(|copy| copy.is_good()).iter().all(stays), "seed {seed}: the newest good");
        let cold = |copy: &&Copy| copy.is_good() && copy.verified.is_some_and(|verified| verified.cold);
        assert!(copies.iter().rfind(cold).iter().all(stays), "seed {seed}: the newest verified");
        let min_keep = usize::try_from(plan.keep.min_keep.max(1)).expect("small");
        let last_good = copies.iter().rev().filter(|copy| copy.is_good()).take(min_keep);
        assert!(last_good.clone().all(|copy| stays(&copy)), "seed {seed}: the last good ones");
        assert!(copies.iter().filter(stays).count() >= min_keep.min(copies.len()), "seed {seed}: how many stay");
    }
}

/// Removing what goes changes nothing about what stays. (But for the cap of large files: where a version is gone, an older one may have room; and
/// for wrong times that nobody knows to be wrong.)
#[test]
fn a_prune_settles() {
    for seed in 0..1_000 {
        let mut rng = Rng::new(seed);
        let (mut catalog, plan) = (any_catalog(&mut rng), any_plan(&mut rng));
        catalog.reflinks = true;
        let mut latest = MONDAY;
        catalog.copies.retain(|copy| {
            let in_order = copy.at >= latest;
            latest = latest.max(copy.at);
            in_order
        });
        let now = catalog.copies.last().map_or(MONDAY, |copy| copy.at).after(HOUR);
        let unused: BTreeSet<u64> =
            judge(&catalog, &plan, now).iter().filter(|kept| kept.reasons.is_empty()).map(|kept| kept.seq).collect();
        catalog.copies.retain(|copy| !unused.contains(&copy.seq));
        let after = judge(&catalog, &plan, now);
        assert!(after.iter().all(|kept| !kept.reasons.is_empty()), "seed {seed}: {after:?}");
    }
}
