//! The texts in which requests and spans are named.

use metering::{RequestId, SpanId};

/// What vLLM writes before the `X-Request-Id` that it received (`entrypoints/` in <https://github.com/vllm-project/vllm>).
const PREFIXES: [&str; 11] = [
    "chatcmpl-",
    "cmpl-",
    "embd-",
    "pooling-",
    "classify-",
    "score-",
    "rerank-",
    "generative-scoring-",
    "decision-",
    "transcribe-",
    "translate-",
];

/// Splits `gen_ai.request.id` into the request's id and the part of the request, such as `-0`.
///
/// `/v1/responses` is not among them: there the client chooses the whole id by `request_id` in the body, and could name another
/// request. vLLM appends `_0` to it, which no other id has. Such a span is known by its parent alone.
pub(crate) fn request_and_part(id: &str) -> Option<(RequestId, &str)> {
    let rest = PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix))?;
    let (request, part) = rest.split_at_checked(32)?;
    let is_number =
        |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_part = part.is_empty() || part.strip_prefix('-').is_some_and(is_number);
    is_part.then(|| request.parse().ok().map(|request| (request, part))).flatten()
}

/// The parent's id in a `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>): the third of its fields.
pub(crate) fn parent(traceparent: &str) -> Option<SpanId> {
    let mut fields = traceparent.split('-');
    let (version, trace, parent) = (fields.next()?, fields.next()?, fields.next()?);
    (version == "00" && trace.len() == 32).then(|| span_id(parent)).flatten().map(SpanId)
}

/// 16 hexadecimal digits, not all zero.
pub(crate) fn span_id(text: &str) -> Option<u64> {
    let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_id_holds_ours() {
        let ours = "00112233445566778899aabbccddeeff";
        let id = ours.parse::<RequestId>().expect("an id");
        for (prefix, part) in [("chatcmpl-", ""), ("cmpl-", "-0"), ("embd-", "-17")] {
            assert_eq!(
                request_and_part(&format!("{prefix}{ours}{part}")),
                Some((id, part)),
                "{prefix} {part}"
            );
        }
        for wrong in [
            ours.to_owned(),
            format!("chatcmpl-x{ours}"),
            format!("chatcmpl-{ours}0"),
            format!("chatcmpl-{ours}-a prompt"),
            format!("chatcmpl-{}", ours.to_ascii_uppercase()),
            format!("cmpl-{ours}-{}", "1".repeat(10)),
            format!("cmpl-{ours}-"),
            // A client's `request_id` in the body of `/v1/responses`.
            format!("chatcmpl-{ours}_0"),
            format!("cmpl-{ours}-0_0"),
            format!("resp_{ours}_0"),
            "chatcmpl-ééééééééééééééééé".to_owned(),
            "resp_b7bb103193d20773_0".to_owned(),
        ] {
            assert_eq!(request_and_part(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_parent_is_the_third_field() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(parent(&format!("00-{trace}-b7ad6b7169203331-01")), Some(SpanId(0xb7ad_6b71_6920_3331)));
        for wrong in [
            "",
            "00",
            "00-0-b7ad6b7169203331-01",
            &format!("00-{trace}-0000000000000000-01"),
            &format!("00-{trace}-+7ad6b7169203331-01"),
        ] {
            assert_eq!(parent(wrong), None, "{wrong}");
        }
    }
}
