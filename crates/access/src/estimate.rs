//! How many tokens a request will use, guessed before it is answered.
//!
//! The rule is the one by which OpenAI counts against its own limits of tokens a minute
//! (<https://platform.openai.com/docs/guides/rate-limits>): the characters of the prompt, by four,
//! and the most tokens that the answer may have. Here:
//!
//! - four ASCII characters are a token, and so is any other character;
//! - all text counts: messages, prompts, inputs, tools and their arguments, names of fields not;
//! - an image counts [`IMAGE`], a sound or a file [`FILE`], however large: text in base64, a `data:`
//!   URL or a form's file is not read as text;
//! - the answer counts what `max_tokens`, `max_completion_tokens`, `max_output_tokens`, `num_predict` or
//!   `n_predict` allow, `n` times for each prompt; without any of them the model's default, or [`ANSWER`]. What has no answer in tokens
//!   (embeddings, rerank, moderations, audio, tokenize) counts none.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Tokens of an image: about what a large one costs with OpenAI and Anthropic.
pub const IMAGE: u64 = 1_000;
/// Tokens of a file or a piece of sound.
pub const FILE: u64 = 2_000;
/// Tokens of an answer whose length the request leaves open.
pub const ANSWER: u64 = 1_000;

/// The tokens of a request that has passed the reader, at least one. A body that is not JSON counts
/// as a file. `default` is how long an answer is of which the request does not say it.
pub fn tokens(path: &str, body: &[u8], default: Option<u32>) -> u32 {
    let mut count = Count::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    if body.is_empty() || (Node { key: Key::Any, count: &mut count }).deserialize(&mut json).is_err() {
        let tokens = if body.is_empty() { 1 } else { FILE };
        return u32::try_from(tokens).unwrap_or(u32::MAX);
    }
    let answer = match answers_in_tokens(path) {
        true => {
            let one = count.answer.unwrap_or_else(|| default.map_or(ANSWER, u64::from));
            one.saturating_mul(count.choices.max(1)).saturating_mul(count.prompts.max(1))
        }
        false => 0,
    };
    let prompt = count.ascii.div_ceil(4) + count.other + count.images * IMAGE + count.files * FILE;
    u32::try_from(prompt.saturating_add(answer).max(1)).unwrap_or(u32::MAX)
}

fn answers_in_tokens(path: &str) -> bool {
    const WITHOUT: [&str; 10] = [
        "/embeddings",
        "/embedding",
        "/embed",
        "/rerank",
        "/reranking",
        "/moderations",
        "/tokenize",
        "/detokenize",
        "/count_tokens",
        "/show",
    ];
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    !WITHOUT.iter().any(|end| path.ends_with(end)) && !path.contains("/audio/") && !path.contains("/images/")
}

#[derive(Debug, Default)]
struct Count {
    ascii: u64,
    other: u64,
    images: u64,
    files: u64,
    answer: Option<u64>,
    choices: u64,
    /// How many prompts there are, each with answers of its own.
    prompts: u64,
}

/// What a field means for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Text, or something with text in it.
    Any,
    /// A number of tokens that the answer may have.
    MaxTokens,
    /// How many answers.
    Choices,
    /// An image, or a list of images.
    Image,
    /// A sound or a file.
    File,
    /// A prompt, or a list of them.
    Prompt,
    /// One of a list of prompts.
    OneOfPrompts,
    /// Says nothing that the model reads, if it is short; but it may also be the name of a tool's parameter.
    Short,
    /// Part of an image or a file, which counts as a whole.
    Skipped,
}

impl Key {
    fn of(name: &str) -> Self {
        match name {
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" | "num_predict" | "n_predict" => {
                Self::MaxTokens
            }
            "n" => Self::Choices,
            "image_url" | "images" | "image" => Self::Image,
            "input_audio" | "audio" | "file" | "file_data" | "document" => Self::File,
            // Anthropic's pictures and files: {"type": "image", "source": {"data": …}}.
            "source" => Self::Image,
            "model" | "role" | "type" | "stream" | "user" | "id" | "temperature" | "top_p" | "seed"
            | "metadata" | "cache_control" | "encoding_format" => Self::Short,
            "prompt" => Self::Prompt,
            _ => Self::Any,
        }
    }
}

/// One value, below a field.
struct Node<'c> {
    key: Key,
    count: &'c mut Count,
}

impl Node<'_> {
    fn whole(self, number: u64) {
        match self.key {
            Key::Choices => self.count.choices = self.count.choices.max(number),
            _ => self.count.answer = Some(self.count.answer.map_or(number, |other| other.max(number))),
        }
    }

    /// Servers take 8.0 for 8. What is negative or none counts nothing.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` stops at both ends")]
    fn number(self, number: f64) {
        self.whole(number.ceil() as u64);
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.key {
            Key::Skipped => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        const SHORT: usize = 64;
        if self.key == Key::OneOfPrompts {
            self.count.prompts += 1;
        }
        match self.key {
            // Some servers take a number for a number also between quotes.
            Key::MaxTokens | Key::Choices => self.number(text.trim().parse().unwrap_or(0.0)),
            Key::Short if text.len() <= SHORT => {}
            Key::Image => self.count.images += 1,
            Key::File => self.count.files += 1,
            _ if text.starts_with("data:image/") => self.count.images += 1,
            _ if text.starts_with("data:") => self.count.files += 1,
            _ => {
                let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
                self.count.ascii += ascii;
                self.count.other += text.chars().count() as u64 - ascii;
            }
        }
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        match self.key {
            Key::MaxTokens | Key::Choices => self.whole(number),
            Key::Short => {}
            // Prompts can be given as tokens.
            _ => self.count.other += 1,
        }
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        if matches!(self.key, Key::MaxTokens | Key::Choices) {
            self.number(number);
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let key = match self.key {
            Key::Prompt => Key::OneOfPrompts,
            Key::OneOfPrompts => {
                self.count.prompts += 1;
                Key::Any
            }
            Key::Short => Key::Any,
            key => key,
        };
        while list.next_element_seed(Node { key, count: &mut *self.count })?.is_some() {}
        Ok(())
    }

    /// An image or a file is one, whatever its object has in it.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.key {
            Key::Image => self.count.images += 1,
            Key::File => self.count.files += 1,
            _ => {}
        }
        let is_whole = matches!(self.key, Key::Image | Key::File);
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let key = if is_whole { Key::Skipped } else { Key::of(&name) };
            map.next_value_seed(Node { key, count: &mut *self.count })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: &str) -> u32 {
        tokens("/v1/chat/completions", body.as_bytes(), None)
    }

    #[test]
    fn prompt_and_answer_count() {
        for (body, expected) in [
            (r#"{"model":"a","messages":[{"role":"user","content":"12345678"}],"max_tokens":10}"#, 12),
            (r#"{"messages":[{"content":"123456789"}],"max_completion_tokens":10}"#, 13),
            (r#"{"messages":[{"content":"\u00e9\u00e8"}],"max_tokens":1}"#, 3),
            (r#"{"messages":[{"content":"1234"}],"max_tokens":10,"n":3}"#, 31),
            (r#"{"messages":[{"content":"1234"}]}"#, 1001),
            (r#"{"prompt":[1,2,3],"max_tokens":1}"#, 4),
            (r#"{"max_tokens":0}"#, 1),
            (r#"{"prompt":["1234","1234","1234"],"max_tokens":10,"n":2}"#, 63),
            (r#"{"prompt":[[1,2],[3]],"max_tokens":10}"#, 23),
            (r#"{"prompt":"1234","max_tokens":10.0,"n":"8"}"#, 81),
            (r#"{"prompt":"1234","max_tokens":1,"n":1000}"#, 1001),
            (r#"{"prompt":"","max_tokens":-1,"user":"u"}"#, 1000),
            (r#"{"tools":[{"properties":{"id":{"description":"12345678"}}}],"max_tokens":1}"#, 3),
            (
                r#"{"messages":[{"content":[{"type":"text","text":"1234"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],"max_tokens":1}"#,
                1002,
            ),
            (
                r#"{"messages":[{"content":[{"type":"image","source":{"type":"base64","data":"AAAAAAAAAAAA"}}]}],"max_tokens":1}"#,
                1001,
            ),
            (
                r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}],"max_tokens":1}"#,
                2001,
            ),
            (r#"{"messages":[{"content":"","images":["AAAA","BBBB"]}],"options":{"num_predict":5}}"#, 2005),
            (
                r#"{"tools":[{"type":"function","function":{"name":"1234","description":"12345678"}}],"max_tokens":1}"#,
                4,
            ),
        ] {
            assert_eq!(chat(body), expected, "{body}");
        }
    }

    #[test]
    fn what_has_no_answer_in_tokens_counts_its_prompt() {
        assert_eq!(tokens("/v1/embeddings", br#"{"input":["1234","5678"]}"#, Some(9)), 2);
        assert_eq!(tokens("/models/a/v1/rerank?x=y", br#"{"query":"1234","documents":["1234"]}"#, None), 2);
        assert_eq!(tokens("/v1/audio/transcriptions", b"--boundary", None), 2000);
        assert_eq!(tokens("/v1/realtime", b"", None), 1);
    }

    #[test]
    fn a_model_may_have_a_default_of_its_own() {
        let of = |body: &str| tokens("/v1/chat/completions", body.as_bytes(), Some(50));
        assert_eq!((of(r#"{"prompt":"1234"}"#), of(r#"{"prompt":"1234","max_tokens":2}"#)), (51, 3));
    }

    #[test]
    fn numbers_beyond_all_measure_do_not_wrap() {
        assert_eq!(chat(r#"{"max_tokens":18446744073709551615,"n":9}"#), u32::MAX);
    }
}
