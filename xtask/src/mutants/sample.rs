//! Which changes are tried if there are more than there is time for: a sample, in which each crate has its part.

use std::collections::BTreeMap;

use super::list::Mutant;

/// How many changes of each crate are drawn at least, if it has as many.
const LEAST: usize = 5;

/// Draws `total` of the changes: of each crate in proportion to how many it has. The same seed draws the same ones. Returns those
/// that are drawn, crates mixed, and the others.
pub(super) fn draw(mutants: Vec<Mutant>, total: usize, seed: &str) -> (Vec<Mutant>, Vec<Mutant>) {
    let mut crates: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants {
        crates.entry(mutant.package.clone()).or_default().push(mutant);
    }
    let counts: Vec<usize> = crates.values().map(Vec::len).collect();
    let (mut drawn, mut others) = (Vec::new(), Vec::new());
    for (mut mutants, share) in crates.into_values().zip(shares(&counts, total)) {
        mutants.sort_by_key(|mutant| lot(seed, &mutant.name));
        others.extend(mutants.drain(share..));
        drawn.extend(mutants);
    }
    // If the time is up before all are tried, each crate loses its part.
    drawn.sort_by_key(|mutant| lot(seed, &mutant.name));
    (drawn, others)
}

/// How many of `total` each crate gets, given how many changes it has: the least that each has, and the rest one by one to the crate
/// that has most changes for each that is drawn.
fn shares(counts: &[usize], total: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = counts.iter().map(|count| LEAST.min(*count)).collect();
    while shares.iter().sum::<usize>() < total {
        let wanting = (0..counts.len()).filter(|at| shares[*at] < counts[*at]);
        let weight = |at: usize| counts[at] * 1_000_000 / (shares[at] + 1);
        // The first of several that have as much.
        let Some(next) = wanting.rev().max_by_key(|at| weight(*at)) else { break };
        shares[next] += 1;
    }
    shares
}

/// A number that depends on each byte of both, and on nothing else: FNV-1a, and the last step of MurmurHash3, without which names that
/// differ at their end would be neighbours.
fn lot(seed: &str, name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed.bytes().chain([0]).chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: crates came one after another, and the first had used up the time.
    #[test]
    fn each_crate_has_its_part() {
        for (counts, total, expected) in [
            (&[900, 100][..], 100, &[90, 10][..]),
            (&[1000, 2, 40], 100, &[93, 2, 5]),
            (&[30, 30, 30], 100, &[30, 30, 30]),
            (&[50, 50], 25, &[13, 12]),
            (&[7], 100, &[7]),
            (&[], 100, &[]),
        ] {
            assert_eq!(shares(counts, total), expected, "{total} of {counts:?}");
        }
    }

    fn mutants() -> Vec<Mutant> {
        let of = |package: &'static str, count: usize| (0..count).map(move |at| Mutant::named(package, at));
        of("access", 180).chain(of("limits", 20)).collect()
    }

    fn names(mutants: &[Mutant]) -> Vec<String> {
        mutants.iter().map(|mutant| mutant.name.clone()).collect()
    }

    #[test]
    fn a_seed_draws_the_same_and_another_one_others() {
        let (drawn, others) = draw(mutants(), 50, "a");
        let mut reversed = mutants();
        reversed.reverse();
        assert_eq!(names(&drawn), names(&draw(reversed, 50, "a").0), "whatever the order of the list");
        assert_ne!(names(&drawn), names(&draw(mutants(), 50, "b").0));
        let limits = drawn.iter().filter(|mutant| mutant.package == "limits").count();
        assert_eq!((drawn.len(), limits, others.len()), (50, 5, 150));
        let mut all = [names(&drawn), names(&others)].concat();
        all.sort();
        let mut listed = names(&mutants());
        listed.sort();
        assert_eq!(all, listed, "each is drawn or not");
    }

    /// All mutants are drawn equally often: of 40 seeds each draws a quarter, so one that is drawn by none, or by 25, is no chance.
    #[test]
    fn every_change_may_be_drawn() {
        let mut times: BTreeMap<String, usize> =
            mutants().into_iter().map(|mutant| (mutant.name, 0)).collect();
        for seed in 0..40 {
            for mutant in draw(mutants(), 50, &seed.to_string()).0 {
                *times.get_mut(&mutant.name).expect("one of them") += 1;
            }
        }
        assert!(times.values().all(|times| (1..25).contains(times)), "{times:?}");
    }
}
