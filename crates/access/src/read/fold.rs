//! Compares names as the most lenient reader does.

/// Whether some reader could take `given` for `name`.
///
/// - Go's `encoding/json` (so Ollama) matches names whatever their case, by Unicode's simple folding:
///   `ſ` is an `s` and the Kelvin sign a `k` (<https://pkg.go.dev/encoding/json#Unmarshal>);
/// - others ignore `_` and `-` (Go's json v2 with `MatchCaseInsensitiveNames`), trim blanks, cut at a
///   NUL, or read `name[]` as a list of `name`s.
///
/// So only letters and digits are compared, and those without their case. A name that resembles
/// another by accident is refused as well; the names in question are few and rare.
pub(crate) fn resembles(given: &str, name: &str) -> bool {
    GivenName::new(given).resembles(name)
}

/// A name that is compared with several others: see [`resembles`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenName<'n> {
    whole: &'n str,
    before_nul: Option<&'n str>,
}

impl<'n> GivenName<'n> {
    pub(crate) fn new(whole: &'n str) -> Self {
        Self { whole, before_nul: whole.split_once('\0').map(|(before, _)| before) }
    }

    pub(crate) fn resembles(&self, name: &str) -> bool {
        same_letters(self.whole, name) || self.before_nul.is_some_and(|given| same_letters(given, name))
    }
}

fn same_letters(a: &str, b: &str) -> bool {
    let letters = |text| str::chars(text).filter(|c| c.is_alphanumeric()).map(fold);
    letters(a).eq(letters(b))
}

/// What [`resembles`] compares of a name, for looking it up among many known ones at once: its letters and digits, without their case.
/// A name with more of them than any known one, or with others than ASCII's, resembles none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoldedName {
    letters: [u8; Self::LONGEST],
    /// How many there are in all, if it may resemble a known name.
    whole: Option<usize>,
    /// How many there are before the first NUL.
    to_nul: Option<usize>,
}

impl FoldedName {
    /// The letters and digits of the longest name that can be looked up.
    pub(crate) const LONGEST: usize = 32;

    pub(crate) fn of(name: &str) -> Self {
        let (mut letters, mut length, mut to_nul) = ([0; Self::LONGEST], 0, None);
        for c in name.chars() {
            if c == '\0' {
                to_nul.get_or_insert(length);
            }
            if !c.is_alphanumeric() {
                continue;
            }
            let folded = u8::try_from(fold(c)).ok().filter(u8::is_ascii);
            let (Some(folded), Some(letter)) = (folded, letters.get_mut(length)) else {
                return Self { letters, whole: None, to_nul };
            };
            *letter = folded;
            length += 1;
        }
        Self { letters, whole: Some(length), to_nul }
    }

    /// The letters of the whole name, and those before its first NUL.
    pub(crate) fn forms(&self) -> impl Iterator<Item = &[u8]> {
        [self.whole, self.to_nul].into_iter().flatten().filter_map(|length| self.letters.get(..length))
    }
}

/// A character, case-folded.
pub(super) fn fold(c: char) -> char {
    match c {
        _ if c.is_ascii() => c.to_ascii_lowercase(),
        '\u{17f}' => 's',
        // Dotless and dotted i: equal to i for readers that fold by Turkish or by lax rules.
        '\u{131}' | '\u{130}' => 'i',
        _ => c.to_lowercase().next().unwrap_or(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_somebody_takes_for_model() {
        for given in [
            "model",
            "Model",
            "MODEL",
            "mOdEl",
            " model",
            "model ",
            "model\0",
            "model\0x",
            "mo_del",
            "model[]",
            "\u{feff}model",
            "mode\u{200b}l",
            "model\n",
            "m\0odel",
        ] {
            assert!(resembles(given, "model"), "{given:?}");
        }
        for given in ["", "mode", "models", "model2", "my_model", "model_name", "xmodel", "modèl"] {
            assert!(!resembles(given, "model"), "{given:?}");
        }
    }

    #[test]
    fn letters_that_fold_to_ascii() {
        assert!(resembles("\u{17f}\u{212a}\u{130}ll\u{17f}", "skills"));
        assert!(resembles("LoraPath", "lora_path"));
        assert!(resembles("lora-path", "lora_path"));
        // In a name of its own each: one that is overlooked hides a field from us alone.
        for given in ["to\u{212a}en", "TO\u{212a}EN", "T\u{d6}\u{212a}"] {
            assert_eq!(resembles(given, "token"), !given.contains('\u{d6}'), "{given}");
        }
        for (given, folded) in [
            ('K', 'k'),
            ('\u{212a}', 'k'),
            ('\u{17f}', 's'),
            ('\u{131}', 'i'),
            ('\u{130}', 'i'),
            ('\u{c4}', '\u{e4}'),
        ] {
            assert_eq!(fold(given), folded, "{given}");
        }
    }
}
