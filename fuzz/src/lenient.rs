//! What the most lenient reader would make of a name, and texts as it would decode them.

/// The fields other than `model` by which some server chooses a model or an adapter.
pub(crate) const OTHER_FIELDS: [&str; 16] = [
    "lora_path",
    "adapters",
    "adapter_id",
    "adapter_name",
    "adapter_source",
    "lora_id",
    "lora_name",
    "lora_request",
    "model_id",
    "model_uid",
    "speech_model",
    "transcription_model",
    "draft_model",
    "models",
    "fallbacks",
    "model",
];

/// Whether some reader could take a name for another: without case, blanks and punctuation, or up to a NUL.
pub(crate) fn is_like(given: &str, name: &str) -> bool {
    let until_nul = given.split('\0').next().unwrap_or_default();
    [given, until_nul].into_iter().any(|given| letters(given) == letters(name))
}

fn letters(text: &str) -> String {
    let alone = |c: char| match c {
        // Turkish.
        '\u{130}' | '\u{131}' => 'i',
        // Through both, as Unicode's simple folding does: ſ and the Kelvin sign have no other way to s and k.
        c => {
            let upper = c.to_uppercase().next().unwrap_or(c);
            upper.to_lowercase().next().unwrap_or(upper)
        }
    };
    text.chars().filter(|c| c.is_alphanumeric()).map(alone).collect()
}

/// Percent-decoding that leaves what is no code as it is.
pub(crate) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        match (first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
