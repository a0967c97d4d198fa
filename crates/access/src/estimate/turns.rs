//! How often a template may print all tools.
//!
//! Mistral's print them before each message of a user that is equal to the last one (`message == user_messages[-1]`;
//! <https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.3/blob/main/tokenizer_config.json>). Servers make messages equal that were
//! sent in several ways: they join parts, and leave out fields and images. So only a text that surely stays tells two messages apart.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{ObjectFields, Unclear};

/// What a user has said in a message.
#[derive(Debug, PartialEq, Eq)]
enum UserTurn {
    /// Its text without white space, which some servers trim.
    Said(String),
    /// It may be equal to any other, or be several messages.
    Unclear,
    /// Only the results of tools: no server makes a user's message of them.
    Results,
}

/// How many messages of a list may be equal to its last one, at least 1: the most of all lists. `messages` has where lists begin, and messages
/// of users in them, in the order of these.
pub(super) fn equal_to_last(body: &[u8], messages: &[(usize, usize)]) -> u64 {
    if messages.len() < 2 {
        // One message is equal to itself.
        return 1;
    }
    let mut lists: BTreeMap<usize, Vec<UserTurn>> = BTreeMap::new();
    let mut ended = 0;
    for (list, from) in messages.iter().copied() {
        // What is within another one is no message.
        if from >= ended {
            let (turn, end) = turn(body, from);
            lists.entry(list).or_default().push(turn);
            ended = end;
        }
    }
    lists.values().map(|turns| equal(turns)).max().unwrap_or(1).max(1)
}

fn equal(turns: &[UserTurn]) -> u64 {
    let turns = turns.iter().filter(|turn| **turn != UserTurn::Results);
    let last = turns.clone().next_back();
    let is_equal = |turn: &&UserTurn| match last {
        Some(UserTurn::Said(_)) => Some(*turn) == last || **turn == UserTurn::Unclear,
        _ => true,
    };
    turns.filter(is_equal).count() as u64
}

/// What is said in the message that begins here, and where it has ended.
fn turn(body: &[u8], from: usize) -> (UserTurn, usize) {
    let mut rest = serde_json::Deserializer::from_slice(&body[from..]);
    match <&RawValue>::deserialize(&mut rest) {
        Ok(message) => (UserTurn::of(message).unwrap_or(UserTurn::Unclear), from + message.get().len()),
        Err(_) => (UserTurn::Unclear, from),
    }
}

impl UserTurn {
    fn of(message: &RawValue) -> Result<Self, Unclear> {
        let fields = ObjectFields::of(message).ok_or(Unclear)?;
        let content = fields.get("content")?;
        if fields.text("role")?.as_deref() != Some("user") {
            return Err(Unclear);
        }
        let (mut said, mut has_results, mut has_others) = (String::new(), false, content.is_none());
        match content.map(|content| (content, content.get().as_bytes())) {
            None => {}
            Some((content, [b'"', ..])) => {
                has_others = true;
                said = string(content)?;
            }
            Some((content, _)) => {
                let parts: Vec<&RawValue> = serde_json::from_str(content.get()).map_err(|_| Unclear)?;
                for part in parts {
                    match UserPart::of(part)? {
                        UserPart::Text(text) => said.push_str(&text),
                        UserPart::Medium => {}
                        UserPart::Result => {
                            has_results = true;
                            continue;
                        }
                    }
                    has_others = true;
                }
            }
        }
        if has_results && !has_others {
            return Ok(Self::Results);
        }
        // TGI makes an image of `![](…)`.
        let is_clear = !said.contains("![](");
        said.retain(|c| !c.is_whitespace());
        // A message that says nothing may be left out.
        if said.is_empty() || !is_clear { Err(Unclear) } else { Ok(Self::Said(said)) }
    }
}

/// A part of a user's message.
enum UserPart {
    Text(String),
    Medium,
    /// The result of a tool, as text.
    Result,
}

impl UserPart {
    fn of(part: &RawValue) -> Result<Self, Unclear> {
        if part.get().starts_with('"') {
            return string(part).map(Self::Text);
        }
        let fields = ObjectFields::of(part).ok_or(Unclear)?;
        match fields.text("type")?.as_deref() {
            Some("text" | "input_text") => Ok(Self::Text(fields.text("text")?.ok_or(Unclear)?.into_owned())),
            // vLLM makes a user's message of each image in a result.
            Some("tool_result") => match fields.get("content")? {
                None => Ok(Self::Result),
                Some(content) if content.get().starts_with('"') => Ok(Self::Result),
                Some(content) => {
                    let is_text = |part: &ObjectFields<'_>| {
                        part.text("type").is_ok_and(|kind| kind.as_deref() == Some("text"))
                    };
                    ObjectFields::all(content, is_text).then_some(Self::Result).ok_or(Unclear)
                }
            },
            Some(
                "image_url" | "input_image" | "image" | "input_audio" | "video_url" | "document" | "file"
                | "input_file",
            ) => Ok(Self::Medium),
            _ => Err(Unclear),
        }
    }
}

fn string(value: &RawValue) -> Result<String, Unclear> {
    serde_json::from_str(value.get()).map_err(|_| Unclear)
}

#[cfg(test)]
mod tests {
    use memchr::memmem::find_iter;

    use super::*;

    /// Of the messages in this list.
    fn equal(messages: &str) -> u64 {
        let starts: Vec<_> = find_iter(messages.as_bytes(), r#"{"role""#).map(|from| (0, from)).collect();
        equal_to_last(messages.as_bytes(), &starts)
    }

    #[test]
    fn only_a_text_that_stays_tells_messages_apart() {
        let user = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
        let image = r#"{"type":"image_url","image_url":{"url":"http://NAME"}}"#;
        let text =
            |text: &str| format!(r#"[{{"type":"text","text":"{text}"}},{}]"#, image.replace("NAME", text));
        let result =
            |content: &str| format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":{content}}}]"#);
        for (contents, expected) in [
            (vec![r#""a""#.to_owned()], 1),
            (vec![r#""a""#.into(), r#""b""#.into(), r#""c""#.into()], 1),
            (vec![r#""a""#.into(), r#""b""#.into(), r#""a""#.into()], 2),
            // As parts, in another spelling, with white space that is trimmed.
            (
                vec![
                    r#""ab""#.into(),
                    text("ab"),
                    r#""\u0061b""#.into(),
                    r#"" ab\n""#.into(),
                    r#"["a","b"]"#.into(),
                ],
                5,
            ),
            (vec![text("a"), text("b"), text("c")], 1),
            // Images may be left out, and those in results become messages.
            (vec![format!("[{image}]"), format!("[{image},{image}]")], 2),
            (vec![result(r#"[{"type":"image","source":{}}]"#), r#""a""#.into(), r#""b""#.into()], 2),
            (vec![r#""a""#.into(), r#""b""#.into(), result(r#"[{"type":"image","source":{}}]"#)], 3),
            // Results alone are no message of a user's.
            (
                vec![
                    result(r#""a""#),
                    result(r#""a""#),
                    result(r#"[{"type":"text","text":"a"}]"#),
                    r#""b""#.into(),
                ],
                1,
            ),
            (vec![r#""a""#.into(), r#"[{"type":"tomorrow","text":"b"}]"#.into(), r#""c""#.into()], 2),
            (vec![r#""a""#.into(), r#""c","Content":"b""#.into(), r#""b""#.into()], 2),
            (vec![r#""![](a)""#.into(), r#""![](b)""#.into()], 2),
        ] {
            let messages = contents.iter().map(|content| user(content)).collect::<Vec<_>>().join(",");
            assert_eq!(equal(&format!("[{messages}]")), expected, "{messages}");
        }
        assert_eq!(equal_to_last(b"", &[]), 1);
        let same = user(r#""a""#);
        for last in [
            r#"{"role":"User","content":"b"}"#,
            r#"{"role":"tomorrow","content":"b"}"#,
            r#"{"role":"user","role":"assistant","content":"b"}"#,
            r#"{"role":"user","content":""}"#,
            r#"{"role":"user","content":[]}"#,
            r#"{"role":"user"}"#,
            r#"{"role":"user","content":1}"#,
        ] {
            assert_eq!(equal(&format!("[{same},{same},{last}]")), 3, "it may not be the last one: {last}");
        }
    }
}
