//! A straight line through what was seen, by least squares with forgetting: each new observation lets the older ones fade.

/// How much of the older observations a new one leaves: the last hundred or so count.
pub(super) const FADE: f64 = 0.99;
/// How far a line may be from its prior: a sender that errs, or a unit that was mistaken, is not believed.
const FURTHEST: f64 = 16.0;
/// How far a line may start from its prior's start, in tokens.
const FURTHEST_START: f64 = 512.0;
/// An observation counts by its inverse variance, which grows with the tokens; this many are the noise of an empty one.
const NOISE: f64 = 32.0;

/// `start + slope * size` tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StraightLine {
    pub(super) start: f64,
    pub(super) slope: f64,
}

/// The weighted sums of what was seen, as differences from the prior line.
#[derive(Debug, Default)]
pub(super) struct Fit {
    count_count: f64,
    count_size: f64,
    size_size: f64,
    count_rest: f64,
    size_rest: f64,
}

impl StraightLine {
    pub(super) fn at(self, count: f64, size: f64) -> f64 {
        self.start * count + self.slope * size
    }
}

impl Fit {
    /// The tokens of something of this size.
    pub(super) fn at(&self, prior: StraightLine, size: f64) -> f64 {
        self.line(prior).at(1.0, size)
    }

    /// Learns that `count` things, of this size together, had so many tokens together.
    pub(super) fn learn(&mut self, prior: StraightLine, count: f64, size: f64, tokens: f64) {
        let expected = prior.at(count, size).max(0.0);
        let slack = FURTHEST_START * count;
        let tokens = tokens.clamp(expected / FURTHEST - slack, expected * FURTHEST + slack);
        let rest = tokens - prior.at(count, size);
        let weight = 1.0 / (NOISE * count + expected);
        for (sum, more) in [
            (&mut self.count_count, count * count),
            (&mut self.count_size, count * size),
            (&mut self.size_size, size * size),
            (&mut self.count_rest, count * rest),
            (&mut self.size_rest, size * rest),
        ] {
            *sum = *sum * FADE + weight * more;
        }
    }

    /// The best line. The prior counts like a hundredth of an observation, so that one or two of them, or a hundred alike,
    /// already give a line.
    fn line(&self, prior: StraightLine) -> StraightLine {
        if self.count_count <= 0.0 {
            return prior;
        }
        let ridge = 0.01 / NOISE;
        let typical_size = self.size_size / self.count_count;
        let (a, b, d) = (self.count_count + ridge, self.count_size, self.size_size + ridge * typical_size);
        let determinant = a * d - b * b;
        if determinant <= 0.0 {
            return prior;
        }
        let slope = prior.slope + (a * self.size_rest - b * self.count_rest) / determinant;
        let slope = slope.clamp(prior.slope / FURTHEST, prior.slope * FURTHEST);
        // The best start for this slope, which may have been bounded.
        let start = (self.count_rest - (slope - prior.slope) * b) / a;
        StraightLine { start: prior.start + start.clamp(-FURTHEST_START, FURTHEST_START), slope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: StraightLine = StraightLine { start: 0.0, slope: 1.0 };

    fn learned(seen: &[(f64, f64, f64)]) -> Fit {
        let mut fit = Fit::default();
        seen.iter().for_each(|(count, size, tokens)| fit.learn(PRIOR, *count, *size, *tokens));
        fit
    }

    #[test]
    fn one_observation_or_a_hundred_alike_give_their_own_number() {
        for times in [1, 100] {
            let fit = learned(&vec![(1.0, 200.0, 300.0); times]);
            assert!((fit.at(PRIOR, 200.0) - 300.0).abs() < 10.0, "{times}: {}", fit.at(PRIOR, 200.0));
        }
    }

    #[test]
    fn sums_of_several_teach_the_same_line() {
        let sums: Vec<_> = (1..50_u32)
            .map(|number| {
                let (count, size) = (f64::from(1 + number % 5), f64::from(100 + number * 37 % 400));
                (count, size, 20.0 * count + 0.5 * size)
            })
            .collect();
        let found = learned(&sums).at(PRIOR, 1_000.0);
        assert!((found - 520.0).abs() < 5.0, "{found}");
    }

    #[test]
    fn what_is_old_fades() {
        let mut seen: Vec<_> =
            (1..500_u32).map(|size| (1.0, f64::from(size), f64::from(size) * 4.0)).collect();
        seen.extend((1..500_u32).map(|size| (1.0, f64::from(size), f64::from(size) * 2.0)));
        let found = learned(&seen).at(PRIOR, 100.0);
        assert!((found - 200.0).abs() < 10.0, "{found}");
    }

    #[test]
    fn nonsense_is_bounded() {
        for tokens in [0.0, 1e18, f64::INFINITY] {
            let found = learned(&[(1.0, 100.0, tokens); 50]).at(PRIOR, 100.0);
            assert!((-520.0..=2_200.0).contains(&found), "{found}");
        }
    }
}
