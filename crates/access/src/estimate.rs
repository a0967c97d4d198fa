//! Estimates the tokens of a request before it is answered.
//!
//! The rule is the one by which OpenAI counts tokens against its rate limits
//! (<https://platform.openai.com/docs/guides/rate-limits>): the prompt's characters divided by four, plus the longest answer
//! that the request allows. In detail:
//!
//! - four ASCII characters are one token; every other character is one token by itself;
//! - all text counts: messages, prompts, inputs, documents that are text, tools and their arguments; names of fields
//!   only within tools and schemas, where the model reads them;
//! - an image counts [`IMAGE`], a sound or a file [`FILE`], whatever its size: base64 in the fields for it, a `data:` URL
//!   or a form's file does not count as text;
//! - the answer counts what the endpoint's own field allows (`max_tokens`, `max_completion_tokens`, `max_output_tokens`,
//!   `num_predict`, `n_predict`, `max_new_tokens`), `n`, `best_of` or `n_cmpl` times for each prompt. Without it, or if it
//!   is not above zero, which servers take for "as long as you like", the model's default, or [`ANSWER`]. A field of
//!   another endpoint or in another place, at which the server would not look, makes that no smaller. What has no answer in
//!   tokens (embeddings, rerank, scores, moderations, audio, images, tokenize) counts none;
//! - a body that is not JSON counts as a file, or, where only JSON is to be expected, as text of so many bytes: servers
//!   read encodings that are not read here. One that Traefik could not hand over counts as a file.

mod bound;
mod sum;

use std::{borrow::Cow, fmt, mem};

pub use bound::{Bound, MOST_OF_FILE, MOST_OF_IMAGE, TEMPLATE, Unbounded, bound};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
pub use sum::{Answers, Sum};

use crate::read::resembles;

/// Tokens of an image: about what a large one costs with OpenAI and Anthropic.
pub const IMAGE: u64 = 1_000;
/// Tokens of a file or a piece of sound.
pub const FILE: u64 = 2_000;
/// Tokens of an answer whose length the request leaves open.
pub const ANSWER: u64 = 1_000;

/// The tokens of a request that has passed the reader, at least one. `None` stands for a body that there may be, but
/// was not handed over. `default` is how long an answer is of which the request does not say it.
pub fn tokens(path: &str, body: Option<&[u8]>, default: Option<u32>) -> u32 {
    sum(path, body, default).tokens()
}

/// The same, with what it is made of.
pub fn sum(path: &str, body: Option<&[u8]>, default: Option<u32>) -> Sum {
    let file = || Count { files: 1, ..Count::default() };
    let count = match body {
        Some([]) => return Sum { prompt: 1, answer: 0, open: None },
        Some(body) => Count::of(body).unwrap_or_else(|| match endpoint(without_query(path)) {
            Some(_) => Count { ascii: body.len() as u64, ..Count::default() },
            None => file(),
        }),
        None => file(),
    };
    count.sum(path, default)
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default().trim_end_matches('/')
}

fn answers_in_tokens(path: &str) -> bool {
    const WITHOUT: [&str; 15] = [
        "embeddings",
        "embedding",
        "embed",
        "rerank",
        "reranking",
        "score",
        "classify",
        "pooling",
        "moderations",
        "tokenize",
        "detokenize",
        "apply-template",
        "count_tokens",
        "input_tokens",
        "show",
    ];
    let mut from_end = path.rsplit('/');
    let (last, before) = (from_end.next().unwrap_or_default(), from_end.next().unwrap_or_default());
    !WITHOUT.contains(&last) && !["audio", "images"].contains(&before)
}

/// The fields that limit an answer.
const LENGTHS: [&str; 6] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
    "n_predict",
    "max_new_tokens",
];

/// The place of such a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Among the fields of the body.
    Top,
    /// In an object of settings: Ollama's `options`, SGLang's `sampling_params`, TGI's `parameters`.
    Settings,
}
use Level::{Settings, Top};

/// In llama.cpp it takes precedence over all others, on every path.
const ABOVE_OTHERS: (Level, &str) = (Top, "n_predict");

/// The fields that an endpoint reads, if the endpoint is known.
fn endpoint(path: &str) -> Option<&'static [(Level, &'static str)]> {
    const OF_ENDPOINTS: [(&str, &[(Level, &str)]); 10] = [
        ("/chat/completions", &[(Top, "max_tokens"), (Top, "max_completion_tokens")]),
        ("/completions", &[(Top, "max_tokens")]),
        ("/responses", &[(Top, "max_output_tokens")]),
        ("/messages", &[(Top, "max_tokens")]),
        ("/api/chat", &[(Settings, "num_predict")]),
        ("/api/generate", &[(Settings, "num_predict")]),
        ("/generate", &[(Settings, "max_new_tokens")]),
        ("/generate_stream", &[(Settings, "max_new_tokens")]),
        ("/completion", &[(Top, "n_predict"), (Top, "max_tokens")]),
        ("/infill", &[(Top, "n_predict"), (Top, "max_tokens")]),
    ];
    OF_ENDPOINTS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, own)| *own)
}

/// The parts of a body that count.
#[derive(Debug, Default)]
pub(crate) struct Count {
    ascii: u64,
    other: u64,
    images: u64,
    files: u64,
    /// Sources of images or documents: the enclosing object tells which.
    sources: u64,
    /// The lengths for each [`Level`].
    lengths: [[Length; LENGTHS.len()]; 2],
    choices: u64,
    /// The number of prompts, each with answers of its own.
    prompts: u64,
    /// The body's field `stream`, and how many fields some server takes for it.
    streams: Option<bool>,
    stream_fields: u64,
    /// See [`Answers::is_shaped`].
    is_shaped: bool,
}

/// The value of one of [`LENGTHS`].
#[derive(Debug, Default)]
struct Length {
    allowed: Option<u64>,
    /// It is zero, negative or not a number.
    is_open: bool,
    is_null: bool,
}

impl Length {
    fn allow(&mut self, number: u64) {
        match number {
            0 => self.is_open = true,
            _ => self.allowed = self.allowed.max(Some(number)),
        }
    }

    /// If a field is given twice, servers use the last one.
    fn is_bound(&self) -> bool {
        self.allowed.is_some() && !self.is_open && !self.is_null
    }
}

impl Count {
    /// `None` if it is not JSON.
    fn of(body: &[u8]) -> Option<Self> {
        let mut count = Self::default();
        let whole = Node { key: Key::Body, count: &mut count };
        if whole.deserialize(&mut serde_json::Deserializer::from_slice(body)).is_ok() {
            return Some(count);
        }
        // Some servers accept JSON that is refused here: unlimited nesting, half a surrogate pair, numbers out of range. A
        // field with such a value counts by its text.
        let mut count = Self::default();
        serde_json::Deserializer::from_slice(body).deserialize_map(BodyFields(&mut count)).ok()?;
        Some(count)
    }

    /// The same as [`sum()`], of a body that has been read.
    pub(crate) fn sum(&self, path: &str, default: Option<u32>) -> Sum {
        let path = without_query(path);
        let (answer, open) = if answers_in_tokens(path) { self.answer(path, default) } else { (0, None) };
        Sum { prompt: self.prompt(), answer, open }
    }

    /// How many answers it asks for, and in what form.
    pub(crate) fn answers(&self) -> Answers {
        let number = |count: u64| u16::try_from(count.max(1)).unwrap_or(u16::MAX);
        // Readers differ about a field that is given twice, in another case, or is not a boolean.
        let streams = match self.stream_fields {
            0 => None,
            1 => Some(self.streams.unwrap_or(false)),
            _ => Some(false),
        };
        Answers {
            choices: number(self.choices),
            prompts: number(self.prompts),
            streams,
            is_shaped: self.is_shaped,
        }
    }

    /// Called after all fields of an object have been counted.
    fn end_object(&mut self, is_document: bool) {
        let sources = mem::take(&mut self.sources);
        match is_document {
            true => self.files += sources,
            false => self.images += sources,
        }
    }

    fn text(&mut self, text: &str) {
        // Most text is ASCII, and checking that is far faster than counting the ASCII characters.
        if text.is_ascii() {
            self.ascii += text.len() as u64;
            return;
        }
        let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
        self.ascii += ascii;
        self.other += text.chars().count() as u64 - ascii;
    }

    fn prompt(&self) -> u64 {
        self.ascii.div_ceil(4) + self.other + self.images * IMAGE + self.files * FILE
    }

    /// Its tokens, and the field that would say how many they may be, if nothing does.
    fn answer(&self, path: &str, default: Option<u32>) -> (u64, Option<&'static str>) {
        let default = default.map_or(ANSWER, u64::from);
        let named = || {
            let places = [Top, Settings].into_iter().zip(&self.lengths);
            places.flat_map(|(place, lengths)| LENGTHS.iter().map(move |name| (place, *name)).zip(lengths))
        };
        let allowed = named().filter_map(|(_, length)| length.allowed).max();
        let own = endpoint(path);
        let is_own = |field: &(Level, &str)| own.is_none_or(|own| own.contains(field));
        let is_bound = named().any(|(field, length)| is_own(&field) && length.is_bound())
            && !named().any(|(field, length)| (is_own(&field) || field == ABOVE_OTHERS) && length.is_open);
        let one = match allowed {
            Some(allowed) if is_bound => allowed,
            allowed => allowed.unwrap_or(0).max(default),
        };
        let field = own.and_then(<[_]>::first).map_or(LENGTHS[0], |(_, field)| *field);
        let all = one.saturating_mul(self.choices.max(1)).saturating_mul(self.prompts.max(1));
        (all, (!is_bound).then_some(field))
    }
}

/// The meaning of a field for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Text, or something with text in it.
    Any,
    /// The body.
    Body,
    /// An object of settings in it.
    Settings,
    /// What a stream tells besides the answer.
    StreamOptions,
    /// Text, even if it looks like a `data:` URL.
    Text,
    /// A tool, its arguments, or a schema: all of it is text, whatever its fields are called.
    Plain,
    /// A list of things that the model reads, or the arguments of a tool.
    Input,
    /// A limit on the answer's tokens: its place, and its index in [`LENGTHS`].
    Length(Level, usize),
    /// The number of answers.
    Choices,
    /// Whether the answer comes piece by piece.
    Stream,
    /// An image, or a list of images.
    Image,
    /// A sound or a file.
    File,
    /// The data of an image or a document: Anthropic's `{"type": "image", "source": {"data": …}}`.
    Source,
    /// A prompt, or a list of them.
    Prompt,
    /// One prompt of a list.
    OneOfPrompts,
    /// Nothing that the model reads, if it is short.
    Short,
    /// Like `Short`; also tells the type of its object.
    Type,
    /// Part of an image or a file, which counts as a whole.
    Skipped,
}

impl Key {
    /// The key for a field of the body.
    fn of(name: &str) -> Self {
        match name {
            "options" | "sampling_params" | "parameters" => Self::Settings,
            "prompt" | "text" | "input_ids" | "prompt_embeds" => Self::Prompt,
            "stream" => Self::Stream,
            "stream_options" => Self::StreamOptions,
            _ => Self::of_setting(Top, name).unwrap_or_else(|| Self::anywhere(name)),
        }
    }

    fn of_setting(place: Level, name: &str) -> Option<Self> {
        match name {
            "n" | "best_of" | "n_cmpl" => Some(Self::Choices),
            _ => LENGTHS.iter().position(|length| *length == name).map(|which| Self::Length(place, which)),
        }
    }

    /// The key for a field that means the same everywhere.
    fn anywhere(name: &str) -> Self {
        match name {
            "image_url" | "images" | "image" => Self::Image,
            "input_audio" | "audio" | "audio_url" | "video" | "video_url" | "file" | "file_data"
            | "file_id" | "file_url" | "document" => Self::File,
            "source" => Self::Source,
            "text" | "content" | "system" | "instructions" => Self::Text,
            "tools" | "functions" | "tool_calls" | "function_call" | "response_format" | "format"
            | "metadata" => Self::Plain,
            "input" => Self::Input,
            "type" => Self::Type,
            "model" | "role" | "stream" | "user" | "id" | "temperature" | "top_p" | "seed"
            | "cache_control" | "encoding_format" => Self::Short,
            _ => Self::Any,
        }
    }

    /// The key for a field inside a field of this kind.
    fn within(self, name: &str) -> Self {
        match self {
            Self::Body => Self::of(name),
            Self::Settings => Self::of_setting(Settings, name).unwrap_or_else(|| Self::anywhere(name)),
            Self::Image | Self::File => Self::Skipped,
            Self::Plain | Self::Input => Self::Plain,
            _ => Self::anywhere(name),
        }
    }
}

/// Words that decide how other texts count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Document,
    Text,
    Content,
    Other,
}

/// A value inside a field.
struct Node<'c> {
    key: Key,
    count: &'c mut Count,
}

impl Node<'_> {
    fn whole(self, number: u64) {
        match self.key {
            Key::Choices => self.count.choices = self.count.choices.max(number),
            Key::Length(place, which) => self.count.lengths[place as usize][which].allow(number),
            Key::Short | Key::Type => {}
            // Prompts can be given as token ids.
            _ => self.count.other += 1,
        }
    }

    /// Servers accept 8.0 for 8, and some a number in quotes. A negative number or NaN counts as zero.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` stops at both ends")]
    fn number(self, number: f64) {
        match self.key {
            Key::Length(..) | Key::Choices => self.whole(number.ceil() as u64),
            // A token id: Pydantic takes 7.0 and true for whole numbers.
            Key::Prompt | Key::OneOfPrompts | Key::Text => self.count.other += 1,
            _ => {}
        }
    }

    fn said(self, text: &str) -> Word {
        const SHORT: usize = 64;
        match self.key {
            // As Pydantic reads numbers in text, which takes `1_0` for ten.
            Key::Length(..) | Key::Choices => {
                self.number(text.trim().replace('_', "").parse().unwrap_or(0.0));
            }
            Key::Short | Key::Type if text.len() <= SHORT => {}
            Key::Image => self.count.images += 1,
            Key::File => self.count.files += 1,
            Key::Any | Key::Input if is_data_url(text, "data:image/") => self.count.images += 1,
            Key::Any | Key::Input if is_data_url(text, "data:") => self.count.files += 1,
            Key::OneOfPrompts => {
                self.count.prompts += 1;
                self.count.text(text);
            }
            _ => self.count.text(text),
        }
        match text {
            "document" => Word::Document,
            "text" => Word::Text,
            "content" => Word::Content,
            _ => Word::Other,
        }
    }

    /// Anthropic's source: of an image or a document in base64, by its URL or id; or the document's text itself.
    fn source<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut kind, mut data) = (Word::Other, Count::default());
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let (key, count) = match &*name {
                "type" => (Key::Type, &mut *self.count),
                "data" => (Key::Text, &mut data),
                "content" => (Key::Text, &mut *self.count),
                _ => (Key::Skipped, &mut *self.count),
            };
            let word = map.next_value_seed(Node { key, count })?;
            if key == Key::Type {
                kind = word;
            }
        }
        match kind {
            Word::Text => {
                self.count.ascii += data.ascii;
                self.count.other += data.other;
            }
            Word::Content => {}
            _ => self.count.sources += 1,
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Word;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Word, D::Error> {
        match self.key {
            Key::Skipped => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Word::Other),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Word, E> {
        Ok(self.said(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
        self.whole(number);
        Ok(Word::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Word, E> {
        self.number(0.0);
        Ok(Word::Other)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Word, E> {
        self.number(number);
        Ok(Word::Other)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Word, E> {
        if self.key == Key::Stream {
            self.count.streams = Some(truth);
        }
        self.number(0.0);
        Ok(Word::Other)
    }

    fn visit_unit<E>(self) -> Result<Word, E> {
        if let Key::Length(place, which) = self.key {
            self.count.lengths[place as usize][which].is_null = true;
        }
        Ok(Word::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Word, A::Error> {
        let key = match self.key {
            Key::Prompt => Key::OneOfPrompts,
            Key::OneOfPrompts => {
                self.count.prompts += 1;
                Key::Text
            }
            Key::Short | Key::Type | Key::Input => Key::Any,
            key => key,
        };
        while list.next_element_seed(Node { key, count: &mut *self.count })?.is_some() {}
        Ok(Word::Other)
    }

    /// An image or a file counts once, whatever its object holds.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
        match self.key {
            Key::Image => self.count.images += 1,
            Key::File => self.count.files += 1,
            Key::Source => return self.source(map).map(|()| Word::Other),
            _ => {}
        }
        let mut is_document = false;
        while let Some(key) = map.next_key_seed(Name { within: self.key, count: &mut *self.count })? {
            let word = map.next_value_seed(Node { key, count: &mut *self.count })?;
            is_document |= key == Key::Type && word == Word::Document;
        }
        self.count.end_object(is_document);
        Ok(Word::Other)
    }
}

/// Counts a body while another reader parses it: each of its fields passes through here once.
///
/// Counting ends with an error at JSON that the other reader accepts but that cannot be counted (see [`Count::of`]).
#[derive(Debug, Default)]
pub(crate) struct Counting {
    count: Count,
    is_document: bool,
}

/// The value of a field of the body, to be counted.
pub(crate) struct CountedField<'c> {
    name: Key,
    counting: &'c mut Counting,
}

impl Counting {
    /// The value of the field with that name.
    pub(crate) fn field(&mut self, name: FieldName) -> CountedField<'_> {
        self.count.stream_fields += name.stream_fields;
        self.count.is_shaped |= name.is_shaped;
        CountedField { name: name.key, counting: self }
    }

    /// The finished count.
    pub(crate) fn end(mut self) -> Count {
        self.count.end_object(self.is_document);
        self.count
    }
}

/// The meaning of a body's field for the count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldName {
    key: Key,
    stream_fields: u64,
    is_shaped: bool,
}

impl FieldName {
    pub(crate) fn of(name: &str) -> Self {
        Self { key: Key::of(name), stream_fields: stream_fields(name), is_shaped: !leaves_bytes_alone(name) }
    }
}

impl CountedField<'_> {
    /// Counts a text that has been read.
    pub(crate) fn text(self, text: &str) {
        let word = Node { key: self.name, count: &mut self.counting.count }.said(text);
        self.counting.is_document |= self.name == Key::Type && word == Word::Document;
    }
}

impl<'de> DeserializeSeed<'de> for CountedField<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let word = Node { key: self.name, count: &mut self.counting.count }.deserialize(deserializer)?;
        self.counting.is_document |= self.name == Key::Type && word == Word::Document;
        Ok(())
    }
}

/// The name of a field.
struct Name<'c> {
    within: Key,
    count: &'c mut Count,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        // The model also reads the names of a tool's parameters.
        if matches!(self.within, Key::Plain | Key::Input) {
            self.count.text(name);
        }
        if self.within == Key::Body {
            self.count.stream_fields += stream_fields(name);
        }
        if matches!(self.within, Key::Body | Key::Settings | Key::StreamOptions) {
            self.count.is_shaped |= !leaves_bytes_alone(name);
        }
        Ok(self.within.within(name))
    }
}

/// The fields of the body.
struct BodyFields<'c>(&'c mut Count);

impl<'de> Visitor<'de> for BodyFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let value = map.next_value::<&RawValue>()?.get();
            self.0.stream_fields += stream_fields(&name);
            self.0.is_shaped |= !leaves_bytes_alone(&name);
            let node = Node { key: Key::of(&name), count: &mut *self.0 };
            if node.deserialize(&mut serde_json::Deserializer::from_str(value)).is_err() {
                self.0.text(value);
            }
        }
        Ok(())
    }
}

/// For how many fields `stream` this one counts. One that some readers take for it makes it unclear.
fn stream_fields(name: &str) -> u64 {
    match name {
        "stream" => 1,
        _ if resembles(name, "stream") => 2,
        _ => 0,
    }
}

/// Whether a field of the body or of its settings is known not to change how many bytes of an answer a token takes. Others may:
/// vLLM's `stream_interval` sends many tokens in one piece, llama.cpp's `response_fields` leaves most of an answer out, and
/// `logprobs` makes it longer.
fn leaves_bytes_alone(name: &str) -> bool {
    matches!(
        name,
        // What the model reads.
        "model" | "messages" | "prompt" | "input" | "system" | "instructions" | "suffix" | "images" | "tools" | "tool_choice"
            | "functions" | "function_call" | "parallel_tool_calls" | "documents" | "template" | "context" | "input_prefix"
            | "input_suffix" | "input_extra" | "previous_response_id" | "conversation" | "chat_template_kwargs"
            // How long the answers are, and how many.
            | "max_tokens" | "max_completion_tokens" | "max_output_tokens" | "num_predict" | "n_predict" | "max_new_tokens"
            | "min_tokens" | "min_new_tokens" | "stop" | "stop_sequences" | "stop_token_ids" | "ignore_eos" | "n" | "best_of"
            | "n_cmpl" | "truncation"
            // How tokens are chosen.
            | "temperature" | "top_p" | "top_k" | "min_p" | "typical_p" | "tfs_z" | "seed" | "frequency_penalty"
            | "presence_penalty" | "repetition_penalty" | "repeat_penalty" | "repeat_last_n" | "mirostat" | "mirostat_tau"
            | "mirostat_eta" | "logit_bias" | "samplers" | "do_sample" | "reasoning_effort" | "think" | "verbosity"
            // Their form, of which the model is told, or by which its tokens are chosen.
            | "response_format" | "format" | "json_schema" | "grammar" | "guided_json" | "guided_regex" | "guided_choice"
            | "guided_grammar" | "structured_outputs" | "output_config"
            // How the request is treated.
            | "stream" | "stream_options" | "include_usage" | "options" | "sampling_params" | "parameters" | "user" | "metadata" | "store"
            | "service_tier" | "safety_identifier" | "prompt_cache_key" | "cache_prompt" | "cache_control" | "id_slot"
            | "keep_alive" | "num_ctx" | "num_keep" | "num_batch" | "num_gpu" | "num_thread" | "priority" | "request_id"
            | "anthropic_version"
    )
}

/// Whether the whole text is base64 data (RFC 2397), which no model reads as text.
fn is_data_url(text: &str, start: &str) -> bool {
    const LONGEST_TYPE: usize = 128;
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    text.starts_with(start)
        && text.split_once(',').is_some_and(|(kind, data)| {
            // Whole chunks, so that the compiler can vectorise the check.
            let mut pieces = data.as_bytes().chunks(1024);
            kind.len() <= LONGEST_TYPE
                && kind.ends_with(";base64")
                && pieces.all(|piece| piece.iter().filter(|b| is_base64(b)).count() == piece.len())
        })
}

#[cfg(test)]
mod tests;
