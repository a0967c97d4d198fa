//! Shares a sum out in proportion, to the token.

/// Part of a whole, in proportion; rounded down.
pub(super) fn part(sum: u64, weight: u64, weights: u64) -> u64 {
    let part = u128::from(sum) * u128::from(weight) / u128::from(weights.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Shares a sum out to those who have `(now, most)`, in proportion to what each has now, but to nobody more than their most.
/// What is then left over goes to those who have room, in proportion to that; what nobody may have is nobody's.
pub(super) fn shared(sum: u64, lines: &[(u64, u64)]) -> Vec<u64> {
    let mut shares = vec![0; lines.len()];
    let by_use: Vec<u64> = lines.iter().map(|(now, _)| *now).collect();
    let left = hand_out(sum, &by_use, lines, &mut shares);
    let room: Vec<u64> = lines.iter().zip(&shares).map(|((_, most), share)| most - share).collect();
    let mut left = hand_out(left, &room, lines, &mut shares);
    // The rest of rounding: less than one token for each.
    for ((_, most), share) in lines.iter().zip(&mut shares) {
        let more = left.min(most - *share).min(1);
        *share += more;
        left -= more;
    }
    shares
}

/// Returns what is left.
fn hand_out(sum: u64, weights: &[u64], lines: &[(u64, u64)], shares: &mut [u64]) -> u64 {
    let all: u64 = weights.iter().sum();
    let mut left = sum;
    for ((weight, (_, most)), share) in weights.iter().zip(lines).zip(shares) {
        let more = part(sum, *weight, all).min(most - *share);
        *share += more;
        left -= more;
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn in_proportion_and_to_nobody_more_than_their_most() {
        assert_eq!(shared(30, &[(10, 100), (20, 100)]), [10, 20]);
        assert_eq!(shared(7, &[(10, 100), (20, 100)]), [3, 4]);
        assert_eq!(shared(90, &[(10, 15), (20, 100)]), [15, 75]);
        assert_eq!(shared(50, &[(0, 100), (0, 100)]), [25, 25]);
        assert_eq!(shared(500, &[(1, 10), (1, 20)]), [10, 20]);
        assert_eq!(shared(5, &[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made(
            sum in 0..5_000_u64,
            lines in proptest::collection::vec((0..200_u64, 0..300_u64), 0..30),
        ) {
            let lines: Vec<_> = lines.into_iter().map(|(now, room)| (now, now + room)).collect();
            let shares = shared(sum, &lines);
            let most: u64 = lines.iter().map(|(_, most)| most).sum();
            prop_assert_eq!(shares.iter().sum::<u64>(), sum.min(most));
            prop_assert!(shares.iter().zip(&lines).all(|(share, (_, most))| share <= most));
        }
    }
}
