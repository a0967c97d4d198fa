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
//!   tokens (embeddings, rerank, scores, moderations, audio, images) counts none;
//! - what no model reads counts nothing: prompts that are only cut into tokens, counted, or put into a template;
//! - a body that is not JSON counts as a file, or, where only JSON is to be expected, as text: each of its bytes
//!   is an ASCII character, since servers read encodings that are not read here. One that Traefik could not hand over counts as a file.

mod bound;
mod content;
mod fields;
mod lengths;
mod media;
mod names;
mod printed;
mod sum;
mod turns;
mod unbounded;

use std::{borrow::Cow, fmt, mem};

pub(crate) use bound::BoundOf;
pub use bound::{Bound, MOST_OF_FILE, MOST_OF_IMAGE, TEMPLATE};
pub(crate) use lengths::Servers;
use lengths::{ABOVE_OTHERS, LENGTHS, LengthField, Level, Level::Top, endpoint};
pub use media::{LEAST_SOUND_BYTES, Media, PaidBy, SOUND_BYTES, UNSEEN_SOUND};
use percent_encoding::percent_decode_str;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
pub use sum::{Answers, Sum};
pub use unbounded::Unbounded;

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
        _ if generates_nothing(&without_query(path)) => Count::default(),
        Some([]) => return Sum { prompt: 1, answer: 0, open: None },
        Some(body) => Count::of(body).unwrap_or_else(|| match endpoint(&without_query(path)) {
            Some(_) => Count { ascii: body.len() as u64, ..Count::default() },
            None => file(),
        }),
        None => file(),
    };
    count.sum(path, default)
}

/// The path as servers take it: decoded, and in small letters, since some ignore case.
fn without_query(uri: &str) -> Cow<'_, str> {
    let path = uri.split('?').next().unwrap_or_default().trim_end_matches('/');
    if path.bytes().all(|byte| byte != b'%' && !byte.is_ascii_uppercase()) {
        return path.into();
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy().to_ascii_lowercase();
    decoded.trim_end_matches('/').to_owned().into()
}

fn answers_in_tokens(path: &str) -> bool {
    const WITHOUT: [&str; 18] = [
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
        // vLLM: a prompt or an answer in another form, and the probabilities of given tokens.
        "render",
        "derender",
        "generative_scoring",
    ];
    // Not by the first word alone: a model may be called so where its name is a part of the path.
    let last = path.rsplit('/').next().unwrap_or_default();
    !WITHOUT.contains(&last) && !Media::is_used_by(path)
}

/// Whether no model reads the prompts of a path: they are cut into tokens, counted, or put into a template, or the server tells of a model.
fn generates_nothing(path: &str) -> bool {
    /// Anthropic's and OpenAI's; vLLM's, SGLang's and llama.cpp's; Ollama's. `render` alone may be the path of a server that makes images.
    const ENDS: [&str; 12] = [
        "/messages/count_tokens",
        "/responses/input_tokens",
        "/chat/completions/input_tokens",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/completions/render",
        "/messages/render",
        "/responses/render",
        "/cohere/v2/chat/render",
        "/completions/derender",
        "/api/show",
    ];
    ENDS.iter().any(|end| path.ends_with(end))
}

/// Fields by which a server searches with beams: vLLM's, and those of other programs. It then reads the prompt again for each token of
/// each beam.
const BEAMS: [&str; 4] = ["use_beam_search", "num_beams", "beam_width", "num_return_sequences"];

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
    lengths: [[Length; LENGTHS.len()]; Level::ALL.len()],
    /// How many objects of settings there are at each [`Level`].
    settings: [u64; Level::ALL.len()],
    /// A field by which the server searches with beams.
    beams: Option<&'static str>,
    choices: u64,
    /// The number of prompts, each with answers of its own.
    prompts: u64,
    /// The body's field `stream`, and how many fields some server takes for it.
    streams: Option<bool>,
    stream_fields: u64,
    /// A field could not be read to its end, or only some readers can.
    is_partial: bool,
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
    /// A number in quotes, which not all servers take for one.
    is_text: bool,
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

    /// Whether all servers take it for the same, if it is given.
    fn is_clear(&self) -> bool {
        !(self.is_open || self.is_null || self.is_text)
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
        let path = &*without_query(path);
        if generates_nothing(path) {
            return Sum { prompt: 0, answer: 0, open: None };
        }
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
            has_beams: self.beams.is_some(),
        }
    }

    /// Whether one of the servers may answer longer than the request says.
    pub(crate) fn is_open(&self, path: &str, servers: Servers) -> bool {
        self.limit(&without_query(path), servers).is_err()
    }

    /// Checks that each server reads a field that limits its answers.
    ///
    /// # Errors
    /// One does not. The error names the field that it would read, if one is known.
    fn limit(&self, path: &str, servers: Servers) -> Result<(), Option<&'static str>> {
        let own = endpoint(path).ok_or(None)?;
        let is_bound = self.is_bound(Some(own));
        // Of several objects of settings each stands for a prompt of its own, or the last one counts.
        let is_one = |level: Level| level == Top || self.settings[level as usize] == 1;
        let limits = |field: &LengthField| {
            let named = LENGTHS.iter().position(|name| *name == field.name);
            let length = named.map(|which| &self.lengths[field.level as usize][which]);
            is_bound && is_one(field.level) && length.is_some_and(Length::is_bound)
        };
        servers.read(own, limits, self.lengths[Top as usize].iter().all(Length::is_clear))
    }

    /// Called with each field of the body: of two objects of settings the last one counts for most servers, whatever it is.
    fn count_settings(&mut self, field: Key) {
        if let Key::Settings(level) = field {
            self.settings[level as usize] += 1;
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
        let allowed = self.lengths.iter().flatten().filter_map(|length| length.allowed).max();
        let own = endpoint(path);
        let is_bound = self.is_bound(own);
        let one = match allowed {
            Some(allowed) if is_bound => allowed,
            allowed => allowed.unwrap_or(0).max(default),
        };
        let field = own.and_then(<[_]>::first).map_or(LENGTHS[0], |field| field.name);
        let all = one.saturating_mul(self.choices.max(1)).saturating_mul(self.prompts.max(1));
        (all, (!is_bound).then_some(field))
    }

    /// Whether one of an endpoint's fields limits the answer, and none undoes that. Of an endpoint that is not known any field may.
    fn is_bound(&self, own: Option<&[LengthField]>) -> bool {
        let named = || {
            let levels = Level::ALL.into_iter().zip(&self.lengths);
            levels.flat_map(|(level, lengths)| LENGTHS.iter().map(move |name| (level, *name)).zip(lengths))
        };
        let is_own = |(level, name): &(Level, &str)| {
            own.is_none_or(|own| own.iter().any(|field| field.level == *level && field.name == *name))
        };
        named().any(|(field, length)| is_own(&field) && length.is_bound())
            && !named()
                .any(|(field, length)| (is_own(&field) || ABOVE_OTHERS.contains(&field)) && length.is_open)
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
    Settings(Level),
    /// What a stream tells besides the answer.
    StreamOptions,
    /// Text, even if it looks like a `data:` URL.
    Text,
    /// A tool, its arguments, or a schema: all of it is text, whatever its fields are called.
    Plain,
    /// A list of things that the model reads, or the arguments of a tool.
    Input,
    /// A limit on the answer's tokens: its level, and its index in [`LENGTHS`].
    Length(Level, usize),
    /// The number of answers.
    Choices,
    /// One of [`BEAMS`].
    Beams(&'static str),
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
        match disguised(name).unwrap_or(name) {
            "prompt" | "text" | "input_ids" | "prompt_embeds" => Self::Prompt,
            "stream" => Self::Stream,
            "stream_options" => Self::StreamOptions,
            name => {
                let settings = Level::of_settings(name).map(Self::Settings);
                let setting = settings.or_else(|| Self::of_setting(Top, name));
                setting.unwrap_or_else(|| Self::anywhere(name))
            }
        }
    }

    fn of_setting(level: Level, name: &str) -> Option<Self> {
        let length = || LENGTHS.iter().position(|length| *length == name);
        let beams = || BEAMS.into_iter().find(|field| *field == name).map(Self::Beams);
        match name {
            "n" | "best_of" | "n_cmpl" => Some(Self::Choices),
            _ => length().map(|which| Self::Length(level, which)).or_else(beams),
        }
    }

    /// The key for a field that means the same everywhere.
    fn anywhere(name: &str) -> Self {
        match name {
            // The last three: SGLang, llama.cpp, vLLM.
            "image_url" | "images" | "image" | "image_data" | "multimodal_data" | "multi_modal_data" => {
                Self::Image
            }
            "input_audio" | "audio" | "audio_url" | "audio_data" | "video" | "video_url" | "video_data"
            | "file" | "file_data" | "file_id" | "file_url" | "document" => Self::File,
            "source" => Self::Source,
            "text" | "content" | "system" | "instructions" => Self::Text,
            "tools" | "functions" | "tool_calls" | "function_call" | "response_format" | "format"
            | "metadata" => Self::Plain,
            "input" => Self::Input,
            "type" => Self::Type,
            "model" | "role" | "stream" | "user" | "id" | "temperature" | "top_p" | "seed"
            | "cache_control" | "encoding_format" => Self::Short,
            // Ollama's reader ignores case.
            _ if name.bytes().any(|byte| !byte.is_ascii_lowercase() && byte != b'_') => {
                let media = ["images", "image_url", "image", "input_audio", "audio", "video", "file"];
                match media.iter().position(|known| resembles(name, known)) {
                    Some(0..3) => Self::Image,
                    Some(_) => Self::File,
                    None => Self::Any,
                }
            }
            _ => Self::Any,
        }
    }

    /// The key for a field inside a field of this kind.
    fn within(self, name: &str) -> Self {
        match self {
            Self::Body => Self::of(name),
            Self::Settings(level) => {
                let name = disguised(name).unwrap_or(name);
                Self::of_setting(level, name).unwrap_or_else(|| Self::anywhere(name))
            }
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
            Key::Length(level, which) => self.count.lengths[level as usize][which].allow(number),
            // Pydantic takes 1 for true.
            Key::Beams(field) if number > 0 => self.count.beams = Some(field),
            Key::Short | Key::Type | Key::Beams(_) => {}
            // Prompts can be given as token ids.
            _ => self.count.other += 1,
        }
    }

    /// Servers accept 8.0 for 8, and some a number in quotes. A negative number or NaN counts as zero.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` stops at both ends")]
    fn number(self, number: f64) {
        match self.key {
            Key::Length(..) | Key::Choices => self.whole(number.ceil() as u64),
            Key::Beams(field) => self.count.beams = Some(field),
            // A token id: Pydantic takes 7.0 and true for whole numbers.
            Key::Prompt | Key::OneOfPrompts | Key::Text => self.count.other += 1,
            _ => {}
        }
    }

    /// A number that only some readers can read: an answer of any length, or any number of them.
    fn unread_number(self) {
        self.count.is_partial = true;
        match self.key {
            Key::Length(level, which) => self.count.lengths[level as usize][which].is_open = true,
            _ => self.whole(u64::MAX),
        }
    }

    fn said(self, text: &str) -> Word {
        const SHORT: usize = 64;
        match self.key {
            // As Pydantic reads numbers in text, which takes `1_0` for ten.
            Key::Length(..) | Key::Choices => {
                if let Key::Length(level, which) = self.key {
                    self.count.lengths[level as usize][which].is_text = true;
                }
                match text.trim() {
                    text if text.is_ascii() => self.number(text.replace('_', "").parse().unwrap_or(0.0)),
                    // Python reads the digits of all scripts.
                    _ => self.unread_number(),
                }
            }
            Key::Beams(field) => self.count.beams = Some(field),
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
        match self.key {
            Key::Stream => self.count.streams = Some(truth),
            Key::Beams(_) if !truth => return Ok(Word::Other),
            _ => {}
        }
        self.number(0.0);
        Ok(Word::Other)
    }

    fn visit_unit<E>(self) -> Result<Word, E> {
        if let Key::Length(level, which) = self.key {
            self.count.lengths[level as usize][which].is_null = true;
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
            // The list and each object in it: it is no single one.
            Key::Settings(level) => {
                self.count.settings[level as usize] += 1;
                self.key
            }
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
            // llama.cpp: `{"prompt_string": …, "multimodal_data": […]}`.
            Key::OneOfPrompts => self.count.prompts += 1,
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
        self.count.count_settings(name.key);
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
    /// Counts the name of a model that has been read.
    pub(crate) fn model_name(self, text: &str) {
        Node { key: self.name, count: &mut self.counting.count }.said(text);
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
        if matches!(self.within, Key::Body | Key::Settings(_) | Key::StreamOptions) {
            self.count.is_shaped |= !leaves_bytes_alone(name);
        }
        let key = self.within.within(name);
        self.count.count_settings(key);
        Ok(key)
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
            let key = Key::of(&name);
            self.0.count_settings(key);
            let node = Node { key, count: &mut *self.0 };
            if node.deserialize(&mut serde_json::Deserializer::from_str(value)).is_err() {
                self.0.text(value);
                self.0.is_partial = true;
            }
        }
        Ok(())
    }
}

/// The field that decides how much is answered, if `name` is that field only to readers that ignore case: for Go's, so for Ollama,
/// the last of `max_tokens` and `Max_Tokens` counts.
fn disguised(name: &str) -> Option<&'static str> {
    const OTHERS: [&str; 6] = ["n", "best_of", "n_cmpl", "options", "sampling_params", "parameters"];
    // No usual name has other characters, and most names have only these.
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return None;
    }
    LENGTHS.into_iter().chain(OTHERS).find(|known| *known != name && resembles(name, known))
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
mod agents;
#[cfg(test)]
mod tests;
