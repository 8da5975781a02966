use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::super::plan::{Address, Delivery, Rules};
use super::*;

const SECRET: [u64; 2] = [1, 2];

fn backend(name: String, weight: u32) -> Backend {
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    Backend { name, address, weight, standing: Standing::Up, cut: false, run: 1, ready_for: Duration::from_secs(3_600) }
}

fn table(algorithm: Algorithm, weights: &[u32]) -> Table {
    let backends = weights.iter().enumerate().map(|(index, weight)| backend(format!("api/{index}"), *weight));
    Table {
        balancer: "front".to_owned(),
        delivery: Delivery::Proxy,
        rules: Rules { algorithm, max_load_permille: None, ..Rules::default() },
        backends: backends.collect(),
        hopeful: true,
    }
}

fn equal(algorithm: Algorithm, count: usize) -> Table {
    table(algorithm, &vec![1; count])
}

fn order_with(picker: &Picker, key: Option<u64>, draw: u64, active: &[u32], ejected: &[usize]) -> Vec<u16> {
    let moment = Moment {
        active: &|slot| active.get(slot).copied().unwrap_or(0),
        ejected: &|slot| ejected.contains(&slot),
        elapsed: Duration::ZERO,
        draw,
    };
    let mut out = vec![99];
    picker.order(key, &moment, &mut out);
    out
}

fn first(picker: &Picker, key: u64) -> u16 {
    order_with(picker, Some(key), 0, &[], &[])[0]
}

/// Keys of distinct IPv4 addresses.
fn keys(count: u32) -> impl Iterator<Item = u64> {
    (0..count).map(|index| hash_key(SECRET, &(index.wrapping_mul(0x9e37_79b1)).to_be_bytes()))
}

fn counts(picks: impl Iterator<Item = u16>, slots: usize) -> Vec<u64> {
    let mut counts = vec![0; slots];
    picks.for_each(|slot| counts[usize::from(slot)] += 1);
    counts
}

/// The greatest over the mean, in thousandths.
fn imbalance(counts: &[u64]) -> u64 {
    let (most, total) = (counts.iter().max().unwrap(), counts.iter().sum::<u64>());
    most * 1_000 * counts.len() as u64 / total
}

#[test]
fn keys_are_spread_evenly_over_ten() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo] {
        let picker = Picker::new(&equal(algorithm, 10));
        let few = counts(keys(10_000).map(|key| first(&picker, key)), 10);
        assert!(imbalance(&few) <= 1_060, "{algorithm:?}: {few:?}");
        let many = counts(keys(100_000).map(|key| first(&picker, key)), 10);
        assert!(imbalance(&many) <= 1_025, "{algorithm:?}: {many:?}");
    }
}

#[test]
fn only_the_keys_of_a_lost_backend_move_and_they_come_back() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo] {
        for weights in [[1; 10], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]] {
            let mut table = table(algorithm, &weights);
            let whole = Picker::new(&table);
            let total: u32 = weights.iter().sum();
            for (lost, weight) in weights.iter().enumerate() {
                table.backends[lost].standing = Standing::Out;
                let rest = Picker::new(&table);
                table.backends[lost].standing = Standing::Up;
                let mut moved = 0_u32;
                for key in keys(10_000) {
                    let (before, after) = (first(&whole, key), first(&rest, key));
                    assert_ne!(usize::from(after), lost);
                    if before != after {
                        assert_eq!(usize::from(before), lost, "{algorithm:?}: a key of a living backend moved");
                        moved += 1;
                    }
                }
                let share = 10_000 * weight / total;
                assert!(moved.abs_diff(share).pow(2) <= 16 * share, "{algorithm:?} {lost}: {moved} and not {share}");
            }
        }
    }
}

#[test]
fn next_candidate_is_the_one_that_takes_over() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo] {
        let mut table = equal(algorithm, 5);
        let picker = Picker::new(&table);
        for key in keys(500) {
            let order = order_with(&picker, Some(key), 0, &[], &[]);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4], "each once");
            if algorithm == Algorithm::Modulo {
                continue;
            }
            table.backends[usize::from(order[0])].standing = Standing::Out;
            assert_eq!(order_with(&Picker::new(&table), Some(key), 0, &[], &[]), order[1..]);
            table.backends[usize::from(order[0])].standing = Standing::Up;
        }
    }
}

#[test]
fn an_eleventh_backend_takes_a_ninth_of_each_hundred_and_nothing_else_moves() {
    let (ten, eleven) =
        (Picker::new(&equal(Algorithm::Rendezvous, 10)), Picker::new(&equal(Algorithm::Rendezvous, 11)));
    let moved = keys(100_000).filter(|key| {
        let (before, after) = (first(&ten, *key), first(&eleven, *key));
        assert!(before == after || after == 10);
        before != after
    });
    let moved = moved.count();
    assert!((8_900..9_300).contains(&moved), "{moved}");
    // Modulo is for those whose number never changes.
    let (ten, eleven) = (Picker::new(&equal(Algorithm::Modulo, 10)), Picker::new(&equal(Algorithm::Modulo, 11)));
    let moved = keys(10_000).filter(|key| first(&ten, *key) != first(&eleven, *key)).count();
    assert!((8_950..9_250).contains(&moved), "{moved}");
}

#[test]
fn modulo_is_the_hash_modulo_the_slots_while_all_are_up() {
    let picker = Picker::new(&equal(Algorithm::Modulo, 7));
    assert!(keys(1_000).all(|key| u64::from(first(&picker, key)) == key % 7));
    let weighted = Picker::new(&table(Algorithm::Modulo, &[10, 30]));
    assert!(keys(1_000).all(|key| first(&weighted, key) == u16::from(key % 4 > 0)));
}

#[test]
fn order_of_the_configuration_does_not_matter_to_rendezvous() {
    let table = table(Algorithm::Rendezvous, &[1, 2, 3, 1]);
    let mut turned = table.clone();
    turned.backends.reverse();
    let (one, other) = (Picker::new(&table), Picker::new(&turned));
    assert!(keys(1_000).all(|key| first(&one, key) == 3 - first(&other, key)));
}

#[test]
fn clients_that_differ_only_in_a_few_bits_do_not_collapse() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo] {
        for count in [2, 4, 8, 10] {
            for stride in [1_u32, 10, 256, 65_536] {
                let picker = Picker::new(&equal(algorithm, count));
                let clients = (0..10_000_u32).map(|index| 0x0a00_0000_u32.wrapping_add(index.wrapping_mul(stride)));
                let picks = clients.map(|client| first(&picker, hash_key(SECRET, &client.to_be_bytes())));
                let counts = counts(picks, count);
                assert!(imbalance(&counts) <= 1_110, "{algorithm:?} {count} {stride}: {counts:?}");
            }
        }
    }
}

#[test]
fn weights_are_kept_within_three_percent() {
    let weights = [1, 2, 3, 4];
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo, Algorithm::RoundRobin] {
        let picker = Picker::new(&table(algorithm, &weights));
        let picks = (0_u64..).zip(keys(100_000)).map(|(draw, key)| order_with(&picker, Some(key), draw, &[], &[])[0]);
        for (count, weight) in counts(picks, 4).iter().zip(weights) {
            let expected = u64::from(weight) * 10_000;
            assert!(count.abs_diff(expected) * 100 <= expected * 3, "{algorithm:?} {weight}: {count}");
        }
    }
    // The range of weights that a configuration may have.
    let picker = Picker::new(&table(Algorithm::Rendezvous, &[1, 99]));
    let light = keys(200_000).filter(|key| first(&picker, *key) == 0).count();
    assert!((1_850..2_150).contains(&light), "{light}");
    let huge = Picker::new(&table(Algorithm::Rendezvous, &[u32::MAX, u32::MAX / 2, 1]));
    let counts = counts(keys(30_000).map(|key| first(&huge, key)), 3);
    assert!(counts[0].abs_diff(20_000) < 600 && counts[2] < 10, "{counts:?}");
}

/// Connections that stay, from 1,000 clients of which the n-th makes 1/n as many as the first; how many went to their first choice, in
/// thousandths, and the connections of each.
fn zipf(max_load_permille: Option<u32>, weights: &[u32]) -> (u64, Vec<u32>) {
    let mut table = table(Algorithm::Rendezvous, weights);
    table.rules.max_load_permille = max_load_permille;
    let (bounded, free) = (Picker::new(&table), Picker::new(&super::tests::table(Algorithm::Rendezvous, weights)));
    let mut ends = Vec::new();
    let mut end = 0_u64;
    for rank in 1..=1_000_u64 {
        end += 1_000_000_000 / rank;
        ends.push(end);
    }
    let mut active = vec![0; weights.len()];
    let mut kept = 0;
    for draw in 0..100_000_u64 {
        let point = mix(draw) % end;
        let client = u64::try_from(ends.partition_point(|end| *end <= point)).unwrap();
        let key = hash_key(SECRET, &client.to_be_bytes());
        let slot = order_with(&bounded, Some(key), draw, &active, &[])[0];
        kept += u64::from(slot == first(&free, key));
        active[usize::from(slot)] += 1;
    }
    (kept / 100, active)
}

#[test]
fn bound_holds_for_few_busy_clients_and_costs_little_affinity() {
    let (kept, active) = zipf(Some(1_500), &[1; 10]);
    let most = *active.iter().max().unwrap();
    assert!(most <= 15_001, "{active:?}");
    assert!(kept >= 800, "{kept}");
    let (_, free) = zipf(None, &[1; 10]);
    assert!(*free.iter().max().unwrap() > 18_000, "without it: {free:?}");
    // By weight: the heaviest has half of everything.
    let (_, active) = zipf(Some(1_250), &[1, 1, 1, 1, 4]);
    assert!(active[..4].iter().all(|active| *active <= 15_626) && active[4] <= 62_501, "{active:?}");
}

#[test]
fn one_client_with_few_connections_keeps_its_backend_and_with_many_does_not() {
    let mut table = equal(Algorithm::Rendezvous, 10);
    table.rules.max_load_permille = Some(1_500);
    let picker = Picker::new(&table);
    for key in keys(100) {
        let mut active = [0; 10];
        let home = first(&picker, key);
        for connection in 0..200 {
            let slot = order_with(&picker, Some(key), 0, &active, &[])[0];
            assert!(connection >= LOAD_FLOOR || slot == home);
            active[usize::from(slot)] += 1;
        }
        assert!(*active.iter().max().unwrap() <= 31, "{active:?}");
    }
}

#[test]
fn crowded_backend_is_still_a_candidate_behind_the_others() {
    let mut table = equal(Algorithm::Modulo, 4);
    table.rules.max_load_permille = Some(1_100);
    let picker = Picker::new(&table);
    for key in keys(100) {
        let home = first(&picker, key);
        let mut active = [20; 4];
        active[usize::from(home)] = 40;
        let order = order_with(&picker, Some(key), 0, &active, &[]);
        assert_eq!((order.len(), order[3]), (4, home));
    }
}

#[test]
fn round_robin_is_exact_with_equal_weights_and_whoever_is_out() {
    let mut table = equal(Algorithm::RoundRobin, 5);
    table.backends[2].standing = Standing::Draining;
    let picker = Picker::new(&table);
    let orders: Vec<Vec<u16>> = (0..4).map(|draw| order_with(&picker, Some(7), draw, &[], &[])).collect();
    assert_eq!(orders, [[0, 1, 3, 4], [1, 3, 4, 0], [3, 4, 0, 1], [4, 0, 1, 3]]);
}

#[test]
fn heavy_backend_does_not_get_its_turns_in_a_row() {
    let picker = Picker::new(&table(Algorithm::RoundRobin, &[5, 1, 1]));
    let picks: Vec<u16> = (0..7_000).map(|draw| order_with(&picker, None, draw, &[], &[])[0]).collect();
    let longest = picks.chunk_by(|one, other| one == other).map(<[u16]>::len).max();
    assert!(longest <= Some(7), "{longest:?}");
    for window in picks.chunks(70) {
        let heavy = window.iter().filter(|slot| **slot == 0).count();
        assert!((46..=54).contains(&heavy), "{heavy}");
    }
}

#[test]
fn least_loaded_goes_first_by_weight_and_ties_take_turns() {
    let picker = Picker::new(&table(Algorithm::LeastConnections, &[1, 2, 1]));
    assert_eq!(order_with(&picker, Some(7), 0, &[4, 6, 9], &[]), [1, 0, 2]);
    let picker = Picker::new(&equal(Algorithm::LeastConnections, 3));
    assert_eq!((0..6).map(|draw| order_with(&picker, None, draw, &[], &[])[0]).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    assert_eq!(order_with(&picker, None, 1, &[1, 1, 0], &[]), [2, 1, 0]);
}

#[test]
fn without_a_key_the_least_loaded_is_taken() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo] {
        let picker = Picker::new(&equal(algorithm, 3));
        assert_eq!(order_with(&picker, None, 0, &[3, 1, 2], &[]), [1, 2, 0]);
    }
}

#[test]
fn two_choices_stay_close_together_and_never_draw_one_twice() {
    let picker = Picker::new(&equal(Algorithm::TwoChoices, 10));
    let mut active = vec![0; 10];
    for draw in 0..10_000 {
        let order = order_with(&picker, None, draw, &active, &[]);
        assert_eq!(order.len(), 10);
        assert!(active[usize::from(order[0])] <= active[usize::from(order[1])]);
        active[usize::from(order[0])] += 1;
    }
    assert!(active.iter().max().unwrap() - active.iter().min().unwrap() <= 10, "{active:?}");
    let alone = Picker::new(&equal(Algorithm::TwoChoices, 1));
    assert_eq!(order_with(&alone, None, 5, &[], &[]), [0]);
}

#[test]
fn nothing_but_what_is_up_is_tried() {
    use Standing::{Degraded, Draining, Fenced, Out, Up};
    for algorithm in [
        Algorithm::Rendezvous,
        Algorithm::Modulo,
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::TwoChoices,
    ] {
        let mut table = equal(algorithm, 7);
        for (backend, standing) in table.backends.iter_mut().zip([Up, Degraded, Draining, Out, Fenced, Up, Degraded]) {
            backend.standing = standing;
        }
        let sorted = |table: &Table, ejected: &[usize]| {
            let mut order = order_with(&Picker::new(table), Some(3), 3, &[], ejected);
            order.sort_unstable();
            order
        };
        assert_eq!(sorted(&table, &[]), [0, 5]);
        assert_eq!(sorted(&table, &[0]), [5]);
        assert_eq!(sorted(&table, &[0, 5]), [0, 5], "better than none");
        table.rules.none_left = NoneLeft::FailOpen;
        assert_eq!(sorted(&table, &[0]), [5], "there is one");
        let order = order_with(&Picker::new(&table), Some(3), 3, &[], &[0, 1, 5]);
        assert!(order[..2].iter().all(|slot| [0, 5].contains(slot)), "the ejected first: {order:?}");
        assert!(
            order.len() == 4 && order[2..].iter().all(|slot| [1, 6].contains(slot)),
            "then the degraded: {order:?}"
        );
        table.backends.clear();
        assert!(sorted(&table, &[]).is_empty());
    }
}

#[test]
fn backend_that_has_just_come_back_takes_its_share_by_and_by() {
    let share = |algorithm: Algorithm, ready_for: u64, elapsed: u64| {
        let mut table = equal(algorithm, 4);
        table.rules.ramp = Duration::from_secs(10);
        table.backends[2].ready_for = Duration::from_secs(ready_for);
        let picker = Picker::new(&table);
        let moment = |draw| Moment { active: &|_| 0, ejected: &|_| false, elapsed: Duration::from_secs(elapsed), draw };
        let mut out = Vec::new();
        let picks = (0..).zip(keys(40_000)).filter(|(draw, key)| {
            picker.order(Some(*key), &moment(*draw), &mut out);
            out[0] == 2
        });
        picks.count()
    };
    for algorithm in [Algorithm::Rendezvous, Algorithm::Modulo, Algorithm::RoundRobin] {
        let near = |count: usize, expected: usize| count.abs_diff(expected) * 100 <= expected * 8;
        // Of the weight of 3 others and its own; Modulo has a fourth of the keys times its part, whatever comes back from hashing again.
        let begin = share(algorithm, 0, 0);
        assert!((1_000..=1_430).contains(&begin), "{algorithm:?} {begin}");
        let half = share(algorithm, 2, 3);
        assert!((5_000..=6_300).contains(&half), "{algorithm:?} {half}");
        assert!(near(share(algorithm, 4, 6), 10_000), "{algorithm:?}");
    }
}

#[test]
fn ramp_counts_only_beside_somebody_who_takes_a_full_share() {
    let mut table = equal(Algorithm::Rendezvous, 3);
    table.rules.ramp = Duration::from_secs(10);
    let whole = Picker::new(&table);
    for (backend, seconds) in table.backends.iter_mut().zip([0, 5, 9]) {
        backend.ready_for = Duration::from_secs(seconds);
    }
    let young = Picker::new(&table);
    assert!(keys(1_000).all(|key| first(&whole, key) == first(&young, key)));
    // A fixed address is always ready.
    table.backends[0].run = 0;
    let beside = Picker::new(&table);
    assert!(keys(10_000).filter(|key| first(&beside, *key) == 0).count() > 3_700);
}

#[test]
fn no_release_moves_a_key() {
    let show = |table: &Table| {
        let picker = Picker::new(table);
        let orders = (0..6_u32).map(|index| {
            let key = hash_key(SECRET, &[10, 0, 0, index.to_be_bytes()[3]]);
            let order = order_with(&picker, Some(key), u64::from(index), &[], &[]);
            order.iter().map(u16::to_string).collect::<String>()
        });
        orders.collect::<Vec<_>>().join(" ")
    };
    let weights: &[u32] = &[1, 2, 3, 1, 5];
    let mut shown = BTreeMap::new();
    for algorithm in [
        Algorithm::Rendezvous,
        Algorithm::Modulo,
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::TwoChoices,
    ] {
        shown.insert(format!("{algorithm:?} equal"), show(&equal(algorithm, 5)));
        shown.insert(format!("{algorithm:?} weights"), show(&table(algorithm, weights)));
    }
    expect_test::expect![[r#"
        {
            "LeastConnections equal": "01234 12340 23401 34012 40123 01234",
            "LeastConnections weights": "01234 40123 12340 40123 23401 12340",
            "Modulo equal": "42310 04312 34102 02341 40132 04213",
            "Modulo weights": "42130 34021 41230 32401 41032 40213",
            "Rendezvous equal": "42310 04312 41302 23041 40132 04213",
            "Rendezvous weights": "42130 40321 41230 23401 41032 40213",
            "RoundRobin equal": "01234 12340 23401 34012 40123 01234",
            "RoundRobin weights": "01234 40123 12340 40123 23401 12340",
            "TwoChoices equal": "04123 10234 41230 01342 34012 32014",
            "TwoChoices weights": "04123 20413 41230 12403 43201 42130",
        }
    "#]]
    .assert_debug_eq(&shown);
}

#[test]
fn picks_cost_little() {
    for count in [3, 10, 64] {
        for (algorithm, weights) in [
            (Algorithm::Rendezvous, vec![1; count]),
            (Algorithm::Rendezvous, (1..=u32::try_from(count).unwrap()).collect()),
            (Algorithm::Modulo, vec![1; count]),
            (Algorithm::LeastConnections, vec![1; count]),
        ] {
            let mut table = table(algorithm, &weights);
            table.rules.max_load_permille = Some(1_500);
            let picker = Picker::new(&table);
            let keys: Vec<u64> = keys(20_000).collect();
            let sum = RefCell::new(0);
            let mut out = Vec::with_capacity(count);
            #[expect(
                clippy::disallowed_types,
                clippy::disallowed_methods,
                reason = "the engine has no clock; its test has"
            )]
            let begun = std::time::Instant::now();
            for (draw, key) in (0..).zip(&keys) {
                let moment = Moment { active: &|_| 3, ejected: &|_| false, elapsed: Duration::ZERO, draw };
                picker.order(Some(*key), &moment, &mut out);
                *sum.borrow_mut() += usize::from(out[0]);
            }
            let each = begun.elapsed() / 20_000;
            eprintln!("{algorithm:?} over {count}, weights up to {}: {each:?}", weights.iter().max().unwrap());
        }
    }
}
