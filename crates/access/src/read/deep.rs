//! Finds models, adapters and references to stored data deeper than the top level of a JSON body.
//!
//! Only the places are searched where OpenAI's and Anthropic's APIs have them
//! (<https://platform.openai.com/docs/api-reference/responses/create>, <https://docs.anthropic.com/en/api/messages>), and TGI's
//! and LoRAX's `parameters`. Elsewhere, as in a tool's arguments or schema, the same words are the client's own. Most bodies
//! have none of the words; then one search for all of them is the only cost.

use std::{fmt, sync::LazyLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Unreadable;

/// The words to search for, as a body has them; and escapes of ASCII letters, which could hide them.
const SIGNS: [&str; 24] = [
    "\"id\"",
    "\"container_id\"",
    "\"skill_id\"",
    "\"environment\"",
    "\"file_id\"",
    "\"file_ids\"",
    "\"vector_store_ids\"",
    "\"item_reference\"",
    "\"container\"",
    "\"audio\"",
    "\"image_generation\"",
    "\"previous_message_id\"",
    "\"model\"",
    "\"adapter_id\"",
    "\"adapter_source\"",
    "\"lora_path\"",
    "\"lora_request\"",
    "\"merged_adapters\"",
    "\\u002",
    "\\u003",
    "\\u004",
    "\\u005",
    "\\u006",
    "\\u007",
];

static SEARCH: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let builder = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(SIGNS);
    builder.expect("a handful of short words")
});

/// The maximum depth, greater than any API's.
const MAX_DEPTH: usize = 12;

/// What a place may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The items of `input`, which may be no more than a reference to one.
    Items,
    /// Messages, parts of them, files.
    Content,
    /// Tools, which may run models of their own.
    Tools,
    /// Parameters beside the prompt.
    Parameters,
}

/// Searches for fields that refer to stored data; returns the name of one of them.
///
/// # Errors
/// A field by which some server chooses a model or an adapter. A body that was not parsed before may pass unseen.
pub(super) fn read(body: &[u8]) -> Result<Option<&'static str>, Unreadable> {
    if !is_suspicious(body) {
        return Ok(None);
    }
    let Some(root) = std::str::from_utf8(body).ok().and_then(Object::read) else { return Ok(None) };
    let mut walk = Walk { stored: None };
    for (key, value) in &root.0 {
        let place = match key.as_str() {
            "input" => Place::Items,
            "messages" | "system" | "image" | "images" | "mask" | "thread" | "tool_resources"
            | "attachments" | "audio" | "diagnostics" | "document" | "container" => Place::Content,
            "tools" | "moderation" => Place::Tools,
            "parameters" | "sampling_params" | "extra_body" => Place::Parameters,
            _ => continue,
        };
        walk.value(value.get(), place, 0)?;
    }
    Ok(walk.stored)
}

/// `"model"` is in every body once, so only a second one is suspicious.
fn is_suspicious(body: &[u8]) -> bool {
    let model = SIGNS.iter().position(|sign| *sign == "\"model\"").expect("it is there");
    let mut models = 0;
    SEARCH.find_iter(body).any(|found| {
        models += usize::from(found.pattern().as_usize() == model);
        found.pattern().as_usize() != model || models > 1
    })
}

/// An object's fields, with unparsed values; repeated fields are all kept, since readers differ in which one they use.
pub(super) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    /// `None` if it is not an object.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The values of a field that are not null.
    fn all<'o>(&'o self, key: &'o str) -> impl Iterator<Item = &'a str> + 'o {
        let found = self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.get());
        found.filter(|value| *value != "null")
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    /// Whether a field has this text, however it is escaped.
    fn is(&self, key: &str, text: &str) -> bool {
        self.all(key).any(|json| serde_json::from_str::<String>(json).is_ok_and(|value| value == text))
    }

    /// Whether it refers to an item: OpenAI treats an object with nothing but an id as a reference.
    fn is_reference(&self) -> bool {
        let bare = ["type", "role", "content"].iter().all(|key| self.get(key).is_none());
        self.is("type", "item_reference") || bare && self.get("id").is_some()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Self)
    }
}

struct Walk {
    stored: Option<&'static str>,
}

impl Walk {
    fn value(&mut self, json: &str, place: Place, depth: usize) -> Result<(), Unreadable> {
        match json.as_bytes().first() {
            Some(b'[' | b'{') if depth >= MAX_DEPTH => Err(Unreadable::TooDeep),
            Some(b'[') => {
                // JSON that cannot be parsed was refused before, except for text that is not valid UTF-16.
                let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| Unreadable::TooDeep)?;
                items.into_iter().try_for_each(|item| self.value(item.get(), place, depth + 1))
            }
            Some(b'{') => {
                let object = Object::read(json).ok_or(Unreadable::TooDeep)?;
                self.object(&object, place, depth)
            }
            _ => Ok(()),
        }
    }

    fn object(&mut self, object: &Object<'_>, place: Place, depth: usize) -> Result<(), Unreadable> {
        match place {
            Place::Parameters => return parameters(object),
            Place::Tools if object.get("model").is_some() => return Err(chooses("tools[].model")),
            // It generates images with a model of its own.
            Place::Tools if object.is("type", "image_generation") => return Err(chooses("tools[].type")),
            Place::Items if object.is_reference() => self.stored = Some("item_reference"),
            _ if object.is("type", "item_reference") => self.stored = Some("item_reference"),
            Place::Items | Place::Content | Place::Tools => {}
        }
        for (key, value) in object.0.iter().filter(|(_, value)| value.get() != "null") {
            let json = value.get();
            match key.as_str() {
                "file_id" => self.stored = Some("file_id"),
                "file_ids" => self.stored = Some("file_ids"),
                "vector_store_ids" => self.stored = Some("vector_store_ids"),
                "container_id" => self.stored = Some("container_id"),
                "previous_message_id" => self.stored = Some("previous_message_id"),
                // Anthropic's own skills are available to everybody.
                "skill_id" if !object.is("type", "anthropic") => self.stored = Some("skill_id"),
                "container" if json.starts_with('"') => self.stored = Some("container"),
                "audio" | "voice" if Object::read(json).is_some_and(|audio| audio.get("id").is_some()) => {
                    self.stored = Some("id");
                }
                "tools" if place != Place::Tools => self.value(json, Place::Tools, depth + 1)?,
                "content" | "file" | "source" | "image" | "image_file" | "output" | "container"
                | "environment" | "skills" | "code_interpreter" | "file_search" | "attachments"
                | "messages" => {
                    self.value(json, Place::Content, depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Refuses parameters that choose an adapter.
fn parameters(object: &Object<'_>) -> Result<(), Unreadable> {
    const FIELDS: [(&str, &str); 5] = [
        ("adapter_id", "parameters.adapter_id"),
        ("adapter_source", "parameters.adapter_source"),
        ("merged_adapters", "parameters.merged_adapters"),
        ("lora_path", "parameters.lora_path"),
        ("lora_request", "parameters.lora_request"),
    ];
    let found = FIELDS.iter().find(|(name, _)| object.get(name).is_some());
    found.map_or(Ok(()), |(_, field)| Err(chooses(field)))
}

fn chooses(field: &'static str) -> Unreadable {
    Unreadable::OtherField { field, advice: "the model is what \"model\" names, and nothing else" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> &'static str {
        match read(body.as_bytes()) {
            Ok(stored) => stored.unwrap_or("nothing"),
            Err(refusal) => refusal.param().unwrap_or(refusal.code()),
        }
    }

    /// A body that is taken for suspicious is read a second time: of millions that are not, each would cost twice.
    #[test]
    fn only_a_second_model_or_another_sign_is_suspicious() {
        for (body, suspicious) in [
            (r#"{"model":"a","messages":[{"role":"user","content":"hi"}]}"#, false),
            (r#"{"messages":[]}"#, false),
            (r#"{"model":"a","tools":[{"model":"b"}]}"#, true),
            (r#"{"model":"a","input":[{"file_id":"f"}]}"#, true),
        ] {
            assert_eq!(is_suspicious(body.as_bytes()), suspicious, "{body}");
        }
    }

    #[test]
    fn what_stands_deeper_is_found_where_apis_have_it() {
        for (body, found) in [
            (r#"{"messages":[{"content":[{"type":"item_reference"}]}]}"#, "item_reference"),
            (r#"{"tools":[{"tools":[{"model":"b"}]}]}"#, "nothing"),
            (r#"{"messages":[{"tools":[{"model":"b"}]}],"model":"a"}"#, "tools[].model"),
            (
                r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]}"#,
                "file_id",
            ),
            (r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"file-1"}}]}]}"#, "file_id"),
            (r#"{"messages":[{"content":[{"source":{"type":"file","file_id":"f"}}]}]}"#, "file_id"),
            (r#"{"messages":[{"content":[{"source":{"type":"file","f\u0069le_id":"f"}}]}]}"#, "file_id"),
            (r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#, "item_reference"),
            (r#"{"input":[{"type":"function_call_output","output":[{"file_id":"f"}]}]}"#, "file_id"),
            (r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}"#, "vector_store_ids"),
            (
                r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["f"]}}]}"#,
                "file_ids",
            ),
            (r#"{"tools":[{"type":"code_interpreter","container":"cntr_1"}]}"#, "container"),
            (r#"{"tool_resources":{"file_search":{"vector_store_ids":["vs"]}}}"#, "vector_store_ids"),
            (r#"{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}"#, "id"),
            (r#"{"audio":{"voice":{"id":"voice_1"}}}"#, "id"),
            (r#"{"input":[{"id":"msg_1"}]}"#, "item_reference"),
            (r#"{"input":[{"type":null,"id":"msg_1"}]}"#, "item_reference"),
            (r#"{"input":[{"type":"item\u005freference","id":"msg_1"}]}"#, "item_reference"),
            (r#"{"input":[{"type":"item_reference","id":"m"}],"input":"hi"}"#, "item_reference"),
            (r#"{"input":[{"type":"item_reference","type":"message","id":"m"}]}"#, "item_reference"),
            (r#"{"tools":[{"type":"image\u005fgeneration"}]}"#, "tools[].type"),
            (
                r#"{"tools":[{"type":"shell","environment":{"type":"container_reference","container_id":"c"}}]}"#,
                "container_id",
            ),
            (r#"{"input":[{"type":"shell_call","environment":{"skills":[{"skill_id":"s"}]}}]}"#, "skill_id"),
            (r#"{"document":{"type":"file","file_id":"f"}}"#, "file_id"),
            (r#"{"container":{"skills":[{"type":"custom","skill_id":"s"}]}}"#, "skill_id"),
            (r#"{"image":[{"file_id":"f"}]}"#, "file_id"),
            (r#"{"model":"a","tools":[{"type":"image_generation","model":"b"}]}"#, "tools[]."),
            (r#"{"model":"a","tools":[{"type":"image_generation"}]}"#, "tools[].type"),
            (r#"{"model":"a","input":[{"tools":[{"type":"x","model":"b"}]}]}"#, "tools[].model"),
            (r#"{"model":"a","moderation":{"model":"b"}}"#, "tools[].model"),
            (r#"{"thread":{"previous_message_id":"m"}}"#, "previous_message_id"),
            (r#"{"inputs":"x","parameters":{"adapter_id":"other"}}"#, "parameters.adapter_id"),
        ] {
            assert!(code(body).starts_with(found), "{body}: {}", code(body));
        }
    }

    #[test]
    fn the_same_words_of_a_client_are_its_own() {
        for body in [
            r#"{"model":"a","messages":[{"role":"user","content":"\"file_id\" and \u0041"}]}"#,
            r#"{"tools":[{"type":"function","function":{"parameters":{"properties":{"file_id":{},"model":{}}}}}]}"#,
            r#"{"tools":[{"name":"x","input_schema":{"properties":{"file_ids":{"type":"array"}}}}]}"#,
            r#"{"messages":[{"content":[{"type":"tool_use","input":{"file_id":"7","model":"b"}}]}]}"#,
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"file_id":"7"}}}]}]}"#,
            r#"{"input":[{"content":[{"type":"input_file","file_id":null}]}]}"#,
            r#"{"messages":[{"audio":{"data":"x"}}],"audio":{"voice":"a"},"modalities":["audio"]}"#,
            r#"{"metadata":{"file_id":"7"},"response_format":{"json_schema":{"file_id":{}}}}"#,
            r#"{"input":[{"type":"function_call","id":"fc_1","call_id":"c","arguments":"{}"}]}"#,
            r#"{"input":[{"id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"x"}]}]}"#,
            r#"{"messages":[{"tool_calls":[{"id":"call_1","type":"function","function":{"name":"x"}}]}]}"#,
            r#"{"container":{"skills":[{"type":"anthropic","skill_id":"pptx"}]}}"#,
            r#"{"file_id":"\ud800"}"#,
            "not JSON \"file_id\"",
        ] {
            assert_eq!(code(body), "nothing", "{body}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!(r#"{{"file_id":null,"messages":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert_eq!(code(&deep(12)), "nothing");
        assert_eq!(code(&deep(13)), "invalid_json");
        assert_eq!(code(&deep(100_000)), "invalid_json");
        // Each object and each list in it is a level.
        for first in ["tools", "content"] {
            let nested = |inner: &str| {
                let (open, close) = (r#"{"content":["#.repeat(5), "]}".repeat(5));
                format!(r#"{{"file_id":null,"messages":{{"{first}":[{open}{inner}{close}]}}}}"#)
            };
            assert_eq!((code(&nested("")), code(&nested("{}"))), ("nothing", "invalid_json"), "{first}");
        }
        for field in ["tools", "content"] {
            let nested = |n: usize| {
                format!(
                    r#"{{"file_id":null,"messages":{}{}{}}}"#,
                    format!(r#"{{"{field}":["#).repeat(n),
                    "",
                    "]}".repeat(n)
                )
            };
            assert_eq!(
                code(&nested(20)),
                if field == "tools" { "nothing" } else { "invalid_json" },
                "{field}"
            );
        }
    }
}
