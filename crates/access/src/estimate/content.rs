//! What a JSON body brings in that its own bytes do not pay for, for budgets that may never be exceeded.
//!
//! A token of text is at least one byte. An image, a sound, a video or a file is not: it may be small, stand elsewhere, or be in the
//! server's cache already. So this is a list of what is text; whatever is not in it counts as a medium, or is refused:
//!
//! - a field that is named like a medium, each element of a list in it, and each part with a `type` that is not known to be text, or
//!   with a `uuid`, counts: servers take a medium by it that they have cached;
//! - in a field of the body that is not known, an address or a `data:` URL is refused; any other text in it counts as a file beside its
//!   own bytes unless it is a word, as the values of settings are. Numbers and booleans are text;
//! - base64 in such fields is not text; all other bytes are, and what Unicode's normal forms add to them, because tokenizers
//!   normalise;
//! - each image that Markdown in any text refers to (`![](…)`) counts, since TGI fetches those;
//! - what changes how many tokens a medium takes is refused, and so is any field beside one that is not known, and a name that only
//!   some readers take for one of these;
//! - tools, schemas and metadata are text, whatever their fields are called, and so are the arguments of tools in messages. Within
//!   a field that is not known that holds for nothing.

use std::{borrow::Cow, fmt, mem};

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use unicode_normalization::char::decompose_compatible;

use super::{
    fields::{self, WholeField},
    names,
    unbounded::Unbounded,
};
use crate::read::resembles;
use names::{FieldRole, IdName, MediumKind, PartType};

/// Texts of up to 64 bytes are no data: they are addresses and ids.
const SHORT: usize = 64;

/// What a body, or a part of one, brings in.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Images.
    pub(super) images: u64,
    /// Sounds, videos, files, and whatever is not known to be text.
    pub(super) files: u64,
    /// Texts that may stand for media, in fields of the body that are not known.
    pub(super) unknown: u64,
    /// Images that Markdown in texts refers to.
    pub(super) in_markdown: u64,
    /// Bytes of media that no server reads as text.
    pub(super) data: u64,
    /// Bytes that Unicode's normal forms add to text, at most.
    pub(super) added: u64,
    /// The elements of the longest list but [`documents`](Self::documents), not counting numbers, at least 1.
    pub(super) longest: u64,
    /// Bytes of what may be paid for with each answer, though it is not in it.
    pub(super) predicted: u64,
    /// The documents that are read one by one.
    pub(super) documents: Option<Box<ContentDocuments>>,
    /// The server runs tools, or answers more than once for another reason.
    pub(super) again: Option<Unbounded>,
    /// A field of the body has a name that only some readers take for one that counts.
    pub(super) has_unusual_name: bool,
    /// Why its tokens have no maximum.
    unbounded: Option<Unbounded>,
    /// A field that changes the size of media.
    resizes: Option<Unbounded>,
    /// A field of the body that is not known.
    beside: Option<Unbounded>,
}

/// A list of the body of which each element is read by itself, with everything that is not in the list.
#[derive(Debug)]
pub(super) struct ContentDocuments {
    /// How many elements it has, not counting numbers.
    pub(super) elements: u64,
    /// How many bytes it has.
    pub(super) bytes: u64,
    /// What is in it; [`Content::longest`] is that of the lists in it, and its own.
    pub(super) content: Content,
}

impl Content {
    /// Of a body that is an object.
    ///
    /// # Errors
    /// Only some readers can read it to its end. What the reader of models skips is read here: what is inside an image, for example.
    pub(super) fn of(body: &[u8]) -> Result<Self, Unbounded> {
        let mut content = Self { longest: 1, ..Self::default() };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let whole = ContentNode { place: ContentPlace::Body, content: &mut content };
        let read = whole.deserialize(&mut deserializer).and_then(|_| deserializer.end());
        read.map_err(|_| Unbounded::Partly)?;
        Ok(content)
    }

    /// Images, sounds, videos and files.
    pub(super) fn media(&self) -> u64 {
        self.images.saturating_add(self.files)
    }

    /// The elements of the longest list of all, not counting numbers.
    pub(super) fn texts(&self) -> u64 {
        self.documents.as_ref().map_or(0, |documents| documents.content.longest).max(self.longest)
    }

    /// Why its tokens have no maximum, if they have none.
    pub(super) fn unbounded(&self) -> Option<Unbounded> {
        let media = self.media().saturating_add(self.in_markdown);
        let resizes = || self.resizes.clone().filter(|_| media + self.unknown > 0);
        let beside = || self.beside.clone().filter(|_| media > 0);
        self.unbounded.clone().or_else(resizes).or_else(beside)
    }

    fn medium(&mut self, kind: MediumKind) {
        match kind {
            MediumKind::Image => self.images += 1,
            MediumKind::Other => self.files += 1,
        }
    }

    fn fault(&mut self, fault: Unbounded) {
        self.unbounded.get_or_insert(fault);
    }

    fn answers_again(&mut self, fault: Unbounded) {
        self.again.get_or_insert(fault);
    }

    /// Adds what is inside a value; `is_text` if all of it is text, and only that counts.
    fn add(&mut self, inner: Self, is_text: bool) {
        self.added += inner.added;
        self.predicted += inner.predicted;
        self.in_markdown += inner.in_markdown;
        self.longest = self.longest.max(inner.longest);
        if !is_text {
            self.add_media(&inner);
            self.again = self.again.take().or(inner.again);
            self.unbounded = self.unbounded.take().or(inner.unbounded);
            self.resizes = self.resizes.take().or(inner.resizes);
        }
    }

    fn add_media(&mut self, inner: &Self) {
        self.images += inner.images;
        self.files += inner.files;
        self.unknown += inner.unknown;
        self.data += inner.data;
    }

    /// Reads a field of the body whose value is looked at as a whole.
    fn whole_field(
        &mut self,
        field: WholeField,
        value: &RawValue,
        place: ContentPlace,
    ) -> Result<SeenValue, serde_json::Error> {
        let mut inner = Self::default();
        let node = ContentNode { place, content: &mut inner };
        let seen = node.deserialize(&mut serde_json::Deserializer::from_str(value.get()))?;
        match (field, seen) {
            (WholeField::Documents, SeenValue::List(elements)) => {
                let bytes = value.get().len() as u64;
                self.documents(ContentDocuments { elements, bytes, content: inner.counts() });
                inner.longest = 0;
            }
            // It may be a list of parts.
            (WholeField::Prediction, SeenValue::Nothing) => {}
            (WholeField::Prediction, _) => inner.predicted = value.get().len() as u64 + inner.added,
            _ => match field.fault(value) {
                Some(fault @ Unbounded::Template(_)) => self.fault(fault),
                Some(again) => self.answers_again(again),
                None => {}
            },
        }
        self.add(inner, false);
        Ok(seen)
    }

    /// Keeps the list with more elements; the other one is a list like any.
    fn documents(&mut self, documents: ContentDocuments) {
        let other = match &mut self.documents {
            Some(known) if known.elements >= documents.elements => documents.content.longest,
            known => known.replace(Box::new(documents)).map_or(0, |known| known.content.longest),
        };
        self.longest = self.longest.max(other);
    }

    /// What can be counted.
    fn counts(&self) -> Self {
        let Self { added, in_markdown, longest, .. } = *self;
        let mut counts = Self { added, in_markdown, longest, ..Self::default() };
        counts.add_media(self);
        counts
    }

    fn text(&mut self, text: &str) {
        let is_image = |at: &usize| text.as_bytes()[*at..].starts_with(b"![](");
        self.in_markdown += memchr_iter(b'!', text.as_bytes()).filter(is_image).count() as u64;
        if !text.is_ascii() {
            self.added += text.chars().map(added_to).sum::<u64>();
        }
    }
}

/// The bytes that a character has more when it is decomposed: no normal form makes it longer.
fn added_to(c: char) -> u64 {
    let mut bytes = 0;
    decompose_compatible(c, |part| bytes += part.len_utf8());
    bytes.saturating_sub(c.len_utf8()) as u64
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentPlace {
    Body,
    /// In the body's `prompt`, which may be a reference to a stored one.
    Prompt,
    /// Among the items of `input`, which may be references to stored ones.
    Items,
    /// Among messages and their parts, where tools' arguments stand.
    Messages,
    /// Among whatever else the model reads.
    Open,
    /// In a field of the body that is not known.
    Unknown,
    /// There, in a field that is named like an id.
    Id,
    /// All of it is text.
    Plain,
    /// The value of a `type`.
    Type,
    /// In a field that is named like a medium, and whether base64 there is data.
    Medium(MediumKind, bool),
    /// Anthropic's source of an image or a document.
    Source,
}

/// What a value was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenValue {
    Nothing,
    Number,
    Text,
    /// A source that is an object with text.
    TextSource,
    /// The value of a `type`.
    Type(PartType),
    Object,
    /// A list that is not empty, and its elements, not counting numbers.
    List(u64),
}

struct ContentNode<'c> {
    place: ContentPlace,
    content: &'c mut Content,
}

impl<'de> DeserializeSeed<'de> for ContentNode<'_> {
    type Value = SeenValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SeenValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentNode<'_> {
    type Value = SeenValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<SeenValue, E> {
        let Self { place, content } = self;
        content.text(text);
        match place {
            ContentPlace::Type => return Ok(SeenValue::Type(PartType::of(text))),
            ContentPlace::Medium(_, true) if is_data(text) => content.data += text.len() as u64,
            ContentPlace::Plain | ContentPlace::Source | ContentPlace::Medium(..) => {}
            // Some servers take it for a medium wherever it stands, others for text.
            _ if text.trim_start().get(..5).is_some_and(is_data_url) => {
                content.medium(if text.contains("image/") { MediumKind::Image } else { MediumKind::Other });
            }
            ContentPlace::Unknown | ContentPlace::Id if text.contains("://") => {
                content.medium(MediumKind::Other);
            }
            ContentPlace::Id if names::is_uuid(text) => {}
            ContentPlace::Unknown | ContentPlace::Id if !names::is_word(text) => content.unknown += 1,
            _ => {}
        }
        Ok(SeenValue::Text)
    }

    fn visit_unit<E>(self) -> Result<SeenValue, E> {
        Ok(SeenValue::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<SeenValue, E> {
        Ok(SeenValue::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<SeenValue, E> {
        Ok(SeenValue::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<SeenValue, E> {
        Ok(SeenValue::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<SeenValue, E> {
        Ok(SeenValue::Number)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<SeenValue, A::Error> {
        let Self { place, content } = self;
        let place = match place {
            ContentPlace::Body | ContentPlace::Prompt => ContentPlace::Open,
            ContentPlace::Type | ContentPlace::Id => ContentPlace::Unknown,
            place => place,
        };
        let (mut elements, mut is_empty) = (0, true);
        loop {
            let before = content.media();
            let Some(seen) = list.next_element_seed(ContentNode { place, content: &mut *content })? else {
                break;
            };
            let kind = match (place, seen) {
                (ContentPlace::Medium(kind, _), SeenValue::Text | SeenValue::Object) => Some(kind),
                (ContentPlace::Source, SeenValue::Object) => Some(MediumKind::Other),
                _ => None,
            };
            if let Some(kind) = kind.filter(|_| content.media() == before) {
                content.medium(kind);
            }
            elements += u64::from(seen != SeenValue::Number);
            is_empty = false;
        }
        content.longest = content.longest.max(elements);
        Ok(if is_empty { SeenValue::Nothing } else { SeenValue::List(elements) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SeenValue, A::Error> {
        let Self { place, content } = self;
        match place {
            ContentPlace::Plain => plain(map, content),
            ContentPlace::Source => source(map, content),
            ContentPlace::Medium(kind, _) => inside(map, kind, content),
            ContentPlace::Type | ContentPlace::Id => {
                ContentPart::default().read(map, ContentPlace::Unknown, content)
            }
            place => ContentPart::default().read(map, place, content),
        }
    }
}

fn is_data_url(start: &str) -> bool {
    start.eq_ignore_ascii_case("data:")
}

/// Whether a text is base64, or an URL that holds it (RFC 2397).
fn is_data(text: &str) -> bool {
    let data = match text.split_once(',') {
        Some((kind, data)) if kind.get(..5).is_some_and(is_data_url) && kind.len() <= 128 => data,
        Some(_) => return false,
        None => text,
    };
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_');
    data.len() > SHORT && data.bytes().all(is_base64)
}

fn plain<'de, A: MapAccess<'de>>(mut map: A, content: &mut Content) -> Result<SeenValue, A::Error> {
    while let Some(name) = map.next_key::<Cow<'_, str>>()? {
        content.text(&name);
        map.next_value_seed(ContentNode { place: ContentPlace::Plain, content: &mut *content })?;
    }
    Ok(SeenValue::Object)
}

/// The object of a medium. It is one, or what it holds, or both: `{"url": …}`, `{"image": [a, b], "video": c}`.
fn inside<'de, A: MapAccess<'de>>(
    mut map: A,
    kind: MediumKind,
    content: &mut Content,
) -> Result<SeenValue, A::Error> {
    let mut is_one = false;
    while let Some(name) = map.next_key::<Cow<'_, str>>()? {
        let (before, role) = (content.media(), names::role(&name));
        let (inner, is_named) = match role {
            FieldRole::Medium(inner, is_data) => (ContentPlace::Medium(inner, is_data), Some(inner)),
            _ => (ContentPlace::Medium(kind, name != "text"), None),
        };
        let seen = map.next_value_seed(ContentNode { place: inner, content: &mut *content })?;
        let is_counted = content.media() > before;
        match (seen, is_named) {
            (SeenValue::Nothing, _) => {}
            (_, Some(inner)) if !is_counted => content.medium(inner),
            (SeenValue::List(_) | SeenValue::Object, None) if !is_counted => {
                content.medium(kind);
            }
            _ => {}
        }
        match role {
            _ if seen == SeenValue::Nothing || is_named.is_some() => {}
            FieldRole::Resizes(field) => content.fault(Unbounded::Medium(field)),
            _ if !names::is_of_medium(&name) => content.fault(Unbounded::beside(&name)),
            _ => is_one |= seen == SeenValue::Text && matches!(&*name, "url" | "data" | "id" | "uuid"),
        }
    }
    if is_one {
        content.medium(kind);
    }
    Ok(SeenValue::Object)
}

/// Its text counts by its bytes; anything else is a medium of the kind that the enclosing part says.
fn source<'de, A: MapAccess<'de>>(mut map: A, content: &mut Content) -> Result<SeenValue, A::Error> {
    let (mut types, mut kind, mut data, mut is_filled) = (0, PartType::Other, 0, false);
    while let Some(name) = map.next_key::<Cow<'_, str>>()? {
        let place = match &*name {
            "type" => ContentPlace::Type,
            "data" => ContentPlace::Medium(MediumKind::Other, true),
            _ => ContentPlace::Open,
        };
        let before = content.data;
        let seen = map.next_value_seed(ContentNode { place, content: &mut *content })?;
        match (&*name, seen) {
            (_, SeenValue::Type(of)) => (types, kind) = (types + 1, of),
            ("data", _) => data += mem::replace(&mut content.data, before) - before,
            (name, _) if name != "type" && resembles(name, "type") => content.fault(Unbounded::Name),
            _ => {}
        }
        is_filled |= matches!(&*name, "data" | "url" | "file_id" | "type");
    }
    if types == 1 && kind == PartType::Base64 {
        content.data += data;
    }
    Ok(match (types, kind) {
        (1, PartType::Text) => SeenValue::TextSource,
        _ if is_filled => SeenValue::Object,
        _ => SeenValue::Text,
    })
}

/// A message, a part of one, or anything like it.
#[derive(Debug, Default)]
struct ContentPart {
    types: u64,
    kind: Option<PartType>,
    has_medium: bool,
    has_source: bool,
    has_text_source: bool,
    has_uuid: bool,
    has_id: bool,
    /// It has what only an item of its own has, not a reference to one.
    is_item: bool,
    beside: Option<Unbounded>,
}

impl ContentPart {
    fn read<'de, A: MapAccess<'de>>(
        mut self,
        mut map: A,
        place: ContentPlace,
        content: &mut Content,
    ) -> Result<SeenValue, A::Error> {
        let before = [content.media(), content.files];
        // The arguments of a tool, if the type says so in the end.
        let mut arguments = Content::default();
        while let Some(name) = map.next_key_seed(ContentName)? {
            content.text(&name);
            let role = names::role(&name);
            let inner = role.place(&name, place);
            if role == FieldRole::Arguments {
                let seen = map.next_value_seed(ContentNode { place: inner, content: &mut arguments })?;
                if seen != SeenValue::Object {
                    content.add(mem::take(&mut arguments), false);
                }
                continue;
            }
            let (at, unknown) = (content.media(), content.unknown);
            let whole = match place {
                ContentPlace::Body => WholeField::of(&name),
                // Not where it may stand within another one: each is read by a reader of its own.
                _ if role == FieldRole::Tools && inner == ContentPlace::Plain => {
                    Some(WholeField::Tools("tools"))
                }
                _ => None,
            };
            let seen = match whole {
                Some(field) => {
                    content.whole_field(field, map.next_value()?, inner).map_err(A::Error::custom)?
                }
                None => map.next_value_seed(ContentNode { place: inner, content: &mut *content })?,
            };
            self.note(&name, role, seen, (content, at));
            // What counts as a medium in such a field has no bound in any case.
            let is_counted = content.unknown > unknown;
            match place {
                ContentPlace::Body => of_body(&name, role, seen, (content, is_counted)),
                ContentPlace::Unknown if seen != SeenValue::Nothing => {
                    of_unknown(&name, role, (content, is_counted));
                }
                _ => {}
            }
        }
        if place != ContentPlace::Messages && self.kind == Some(PartType::ToolUse) {
            // Elsewhere that type is not known.
            self.kind = Some(PartType::Other);
        }
        let is_tool_use = self.types == 1 && self.kind == Some(PartType::ToolUse);
        content.add(arguments, is_tool_use);
        self.end(place, before, content);
        Ok(SeenValue::Object)
    }

    fn note(&mut self, name: &str, role: FieldRole, seen: SeenValue, (content, before): (&mut Content, u64)) {
        match (role, seen) {
            (FieldRole::Type, SeenValue::Type(kind)) => {
                match kind {
                    PartType::Tool => content.answers_again(Unbounded::Tools("tool_definition")),
                    PartType::Again => content.answers_again(Unbounded::Again("compaction_trigger")),
                    _ => {}
                }
                (self.types, self.kind) = (self.types + 1, Some(kind));
            }
            (FieldRole::Type, _) => self.types += 1,
            (_, SeenValue::Nothing) => {}
            (FieldRole::Medium(kind, _), _) => {
                self.has_medium = true;
                if content.media() == before {
                    content.medium(kind);
                }
            }
            (FieldRole::Source, SeenValue::TextSource) => self.has_text_source = true,
            (FieldRole::Source, SeenValue::Object | SeenValue::List(_)) => {
                (self.has_source, self.has_medium) = (true, true);
            }
            (FieldRole::Uuid, _) => self.has_uuid = true,
            (FieldRole::Resizes(field), _) => drop(content.resizes.get_or_insert(Unbounded::Medium(field))),
            (FieldRole::Embeddings(field), _) => content.fault(Unbounded::Medium(field)),
            (FieldRole::Disguised, _) if resembles(name, "tools") => content.answers_again(Unbounded::Name),
            (FieldRole::Disguised, _) => content.fault(Unbounded::Name),
            _ => {}
        }
        if seen != SeenValue::Nothing {
            self.has_id |= name == "id";
            self.is_item |= matches!(name, "type" | "role" | "content");
            let is_told =
                matches!(role, FieldRole::Medium(..) | FieldRole::Resizes(_) | FieldRole::Disguised);
            if !is_told && !names::is_beside_medium(name) {
                self.beside.get_or_insert_with(|| Unbounded::beside(name));
            }
        }
    }

    /// `before` is how many media, and of these not images, there were before it.
    fn end(self, place: ContentPlace, before: [u64; 2], content: &mut Content) {
        let is_text = matches!(self.kind, None | Some(PartType::Text | PartType::ToolUse));
        let is_other = self.types > 1 || !is_text || self.has_source || self.has_uuid;
        // Of what is not known, an image in it is not all.
        let is_counted = match self.kind {
            Some(PartType::Other) => content.files > before[1],
            _ => content.media() > before[0],
        };
        if !is_counted && is_other && !self.has_text_source {
            let is_image = self.kind == Some(PartType::Image) && self.types == 1;
            content.medium(if is_image { MediumKind::Image } else { MediumKind::Other });
        }
        if place == ContentPlace::Prompt && self.has_id {
            content.fault(Unbounded::History("prompt"));
        }
        if self.kind == Some(PartType::Reference) {
            content.fault(Unbounded::History("item_reference"));
        }
        if place == ContentPlace::Items && self.has_id && !self.is_item {
            // OpenAI takes an object with an id that says nothing else of what it is for a reference to an item.
            content.fault(Unbounded::History("item_reference"));
        }
        if let Some(beside) = self.beside.filter(|_| self.has_medium && place != ContentPlace::Body) {
            content.fault(beside);
        }
    }
}

/// Notes what a field of the body does to the whole request; `is_counted` if its value may stand for a medium and counts already.
fn of_body(name: &str, role: FieldRole, seen: SeenValue, (content, is_counted): (&mut Content, bool)) {
    content.has_unusual_name |= !fields::is_usual(name);
    if seen == SeenValue::Nothing {
        return;
    }
    if names::is_known_in_body(name) {
        fields::adds_to_prompt(name).into_iter().for_each(|unbounded| content.fault(unbounded));
        return;
    }
    of_unknown(name, role, (&mut *content, is_counted));
    if !matches!(role, FieldRole::Medium(..)) {
        content.beside.get_or_insert_with(|| Unbounded::beside(name));
    }
}

/// The same of a field that is not known, there or in the value of another one that is not known: it may name what the server holds.
fn of_unknown(name: &str, role: FieldRole, (content, is_counted): (&mut Content, bool)) {
    fields::adds_to_prompt(name).into_iter().for_each(|unbounded| content.fault(unbounded));
    match names::id(name).filter(|_| !matches!(role, FieldRole::Medium(..))) {
        Some(IdName::Stored) => content.fault(Unbounded::stored(name)),
        Some(IdName::Medium) if !is_counted => content.unknown += 1,
        _ => {}
    }
}

impl FieldRole {
    /// Where the value of a field stands that has this name, in an object at another place.
    fn place(self, name: &str, outer: ContentPlace) -> ContentPlace {
        match self {
            Self::Type => ContentPlace::Type,
            Self::Medium(kind, is_data) => ContentPlace::Medium(kind, is_data),
            Self::Source if outer != ContentPlace::Unknown => ContentPlace::Source,
            Self::Plain | Self::Tools if outer != ContentPlace::Unknown => ContentPlace::Plain,
            Self::PlainInHistory if !matches!(outer, ContentPlace::Unknown | ContentPlace::Body) => {
                ContentPlace::Plain
            }
            Self::Source
            | Self::Plain
            | Self::PlainInHistory
            | Self::Tools
            | Self::Arguments
            | Self::Uuid
            | Self::Resizes(_)
            | Self::Embeddings(_)
            | Self::Disguised
            | Self::Any => match (outer, name) {
                (ContentPlace::Body, "messages") => ContentPlace::Messages,
                (ContentPlace::Body, "prompt") => ContentPlace::Prompt,
                (ContentPlace::Body, "input") => ContentPlace::Items,
                (ContentPlace::Body, name) if names::is_known_in_body(name) => ContentPlace::Open,
                (ContentPlace::Body | ContentPlace::Unknown, name)
                    if names::id(name) == Some(IdName::Trace) =>
                {
                    ContentPlace::Id
                }
                (ContentPlace::Body, _) => ContentPlace::Unknown,
                (ContentPlace::Messages | ContentPlace::Unknown, _) => outer,
                _ => ContentPlace::Open,
            },
        }
    }
}

/// The name of a field.
struct ContentName;

impl<'de> DeserializeSeed<'de> for ContentName {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for ContentName {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(name.into())
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(name.to_owned().into())
    }
}
