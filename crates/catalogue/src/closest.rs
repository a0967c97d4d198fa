//! Suggests the name that a mistyped one was probably meant to be.

/// The candidate closest to a name, if it is close enough: one letter in three may be missing, added, different, or swapped
/// with the next. Case is ignored.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_with_the_closest_one() {
        let known = ["listen", "traefik", "log", "entry_points"];
        for (found, meant) in [
            ("lisen", Some("listen")),
            ("Traefik", Some("traefik")),
            ("entryPoints", Some("entry_points")),
            ("logs", Some("log")),
            ("prometheus", None),
        ] {
            assert_eq!(closest(found, known), meant, "{found}");
        }
    }
}
