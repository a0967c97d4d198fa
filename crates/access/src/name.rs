//! Names of accounts: one rule for those that operators write and those from tokens of identity providers.
//!
//! A consumer's name goes into a header (`X-Inference-Consumer`), URLs of the dashboard, the store and its audit log, so it
//! consists of characters that are safe in all of them. A token's subject may hold any characters: unsafe ones are
//! percent-encoded (RFC 3986 §2.1), and a long name ends in part of its digest. Two different subjects never get the same name,
//! since `%` and `~` in a token are encoded, too.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::KeyDigest;

/// The allowed names of accounts, in words.
pub const NAME: &str = "1 to 200 ASCII letters, digits and ._@:-+|/#=%~";

/// The longest name that operators may write, in bytes.
const LONGEST: usize = 200;
/// The longest name made from a token, in bytes; names of keys add the prefix `jwt:`.
const LONGEST_OF_TOKEN: usize = 160;
/// The number of hexadecimal digits of its digest that end a longer name: 96 bits, for which nobody can find a second subject.
const DIGITS: usize = 24;

/// The characters that are percent-encoded in a token's name: all but letters, digits and those marks of [`NAME`] that have no
/// meaning here.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'@')
    .remove(b':')
    .remove(b'-')
    .remove(b'+')
    .remove(b'|')
    .remove(b'/')
    .remove(b'#')
    .remove(b'=');

/// Why a text cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoName {
    /// It is blank.
    #[error("it is empty")]
    Empty,
    /// It holds control characters, which logs would show as something else.
    #[error("it holds a control character")]
    Control,
}

/// Whether operators may give an account this name.
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@:-+|/#=%~".contains(&b))
}

/// The consumer's name for a token's text: the text itself where that is possible.
///
/// # Errors
/// The text is blank or holds a control character.
pub fn name_of_subject(text: &str) -> Result<Cow<'_, str>, NoName> {
    if text.trim().is_empty() {
        return Err(NoName::Empty);
    }
    if text.contains(char::is_control) {
        return Err(NoName::Control);
    }
    let encoded: Cow<'_, str> = utf8_percent_encode(text, ENCODED).into();
    Ok(if encoded.len() <= LONGEST_OF_TOKEN { encoded } else { shortened(&encoded, text).into() })
}

/// The beginning of a name, and part of the digest of the original text.
fn shortened(encoded: &str, text: &str) -> String {
    let start = &encoded[..LONGEST_OF_TOKEN - DIGITS - 1];
    // An encoded character is not cut apart.
    let whole = start.len() - start.bytes().rev().take(2).position(|b| b == b'%').map_or(0, |at| at + 1);
    let digits = hex::encode(&KeyDigest::of(text).as_bytes()[..DIGITS / 2]);
    format!("{}~{digits}", &start[..whole])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> String {
        name_of_subject(text).expect("a name").into_owned()
    }

    /// Names as identity providers write them.
    #[test]
    fn subjects_that_there_are_keep_their_names_where_they_can() {
        let subjects = [
            "alice",
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "google-oauth2|103547991597142817347",
            "ada+llm@example.com",
            "ada_gmail.com#EXT#@contoso.onmicrosoft.com",
            "repo:octo-org/octo-repo:ref:refs/heads/main",
            "project_path:group/project:ref_type:branch:ref:main",
            "system:serviceaccount:a-namespace-of-some-length:a-service-account-of-some-length-too",
            "spiffe://example.org/ns/prod/sa/api",
            "uid=ada",
        ];
        for subject in subjects {
            assert_eq!(name(subject), subject);
            assert!(is_name(subject), "{subject}");
        }
        for (subject, expected) in [
            ("Ada Lovelace", "Ada%20Lovelace"),
            ("repo:o/r:environment:Prod West", "repo:o/r:environment:Prod%20West"),
            ("CN=Ada,OU=Research", "CN=Ada%2COU=Research"),
            ("CORP\\ada", "CORP%5Cada"),
            ("o'brien@example.com", "o%27brien@example.com"),
            ("Ада", "%D0%90%D0%B4%D0%B0"),
            ("100%~", "100%25%7E"),
            (" ada", "%20ada"),
        ] {
            assert_eq!(name(subject), expected);
        }
        for (text, why) in [
            ("", NoName::Empty),
            (" \u{a0}", NoName::Empty),
            ("a\nb", NoName::Control),
            ("a\u{85}b", NoName::Control),
        ] {
            assert_eq!(name_of_subject(text), Err(why), "{text:?}");
        }
    }

    /// What is refused here could end a header or a line of the log, or be taken for another name.
    #[test]
    fn an_accounts_name_is_short_and_plain() {
        for (text, is_one) in [
            ("a", true),
            ("team-7/ci@x", true),
            ("", false),
            ("a b", false),
            ("a,b", false),
            ("a\nb", false),
            ("\u{e9}", false),
            (&*"a".repeat(LONGEST), true),
            (&*"a".repeat(LONGEST + 1), false),
        ] {
            assert_eq!(is_name(text), is_one, "{text:?}");
        }
    }

    /// Half of an encoded character would stand for another one.
    #[test]
    fn an_encoded_character_is_not_cut_apart() {
        let kept = LONGEST_OF_TOKEN - DIGITS - 1;
        for before in kept - 4..=kept {
            let long = name(&format!("{}{}", "a".repeat(before), " ".repeat(60)));
            let (start, digits) = long.rsplit_once('~').expect("a digest");
            let spaces = (kept - before) / 3;
            assert_eq!(
                (start, digits.len()),
                (&*format!("{}{}", "a".repeat(before), "%20".repeat(spaces)), DIGITS)
            );
        }
    }

    #[test]
    fn a_long_one_ends_in_its_digest_and_no_other_has_its_name() {
        let subject = format!("system:serviceaccount:{}:{}", "n".repeat(63), "s".repeat(253));
        let (long, other) = (name(&subject), name(&format!("{subject}2")));
        assert!(long.len() == LONGEST_OF_TOKEN && long.starts_with("system:serviceaccount:nnn"), "{long}");
        assert!(long != other && long[..LONGEST_OF_TOKEN - DIGITS] == other[..LONGEST_OF_TOKEN - DIGITS]);
        assert_ne!(name(&long), long, "who is called like the short form is somebody else");
        assert_eq!(name(&"a".repeat(LONGEST_OF_TOKEN)).len(), LONGEST_OF_TOKEN);
    }

    proptest! {
        #[test]
        fn every_subject_has_a_name_of_its_own(one in "\\PC{1,90}", other in "\\PC{1,90}") {
            let names = [&one, &other].map(|text| name_of_subject(text).map(Cow::into_owned));
            for name in names.iter().flatten() {
                prop_assert!(is_name(name) && name.len() <= LONGEST_OF_TOKEN, "{name}");
            }
            prop_assert!(one == other || names[0].is_err() || names[0] != names[1]);
            if let Some(whole) = names[0].as_ref().ok().filter(|name| !name.contains('~')) {
                let decoded = percent_encoding::percent_decode_str(whole).decode_utf8();
                prop_assert_eq!(decoded.expect("UTF-8"), one);
            }
        }
    }
}
