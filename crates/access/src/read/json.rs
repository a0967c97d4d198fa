//! Reads the model of a JSON body (RFC 8259).
//!
//! The whole body is scanned, even if the model comes first: a second `model` may come last, and Python and Go would use that
//! one.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{error::Category, value::RawValue};

use super::{
    NameField, Oddities, Reading, Unreadable, Where,
    field::{Field, MODEL, NAME, OtherField, StoredField},
};
use crate::estimate::{Count, Counting, FieldName};

/// The relevant parts of a JSON body's top level.
#[derive(Debug, Default)]
pub(super) struct Read<'a> {
    /// The model.
    pub(super) model: Option<Cow<'a, str>>,
    /// A field that refers to what servers store for everybody.
    pub(super) stored: Option<&'static str>,
    /// A field other than `model` by which some server chooses one.
    pub(super) other: Option<&'static OtherField>,
    /// The counted tokens; `None` for JSON that cannot be counted while it is read.
    pub(super) count: Option<Box<Count>>,
    /// The oddities that were accepted.
    pub(super) oddities: Oddities,
}

/// Reads a JSON body.
pub(super) fn read(body: &[u8], rule: NameField, reading: Reading) -> Result<Read<'_>, Unreadable> {
    refuse_other_encodings(body)?;
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::NotUtf8)?;
    match try_read(text, rule, reading, Some(Counting::default())) {
        // Counting parses values more strictly than skipping them.
        Err(Unreadable::Json { .. } | Unreadable::NotAnObject) => try_read(text, rule, reading, None),
        other => other,
    }
}

fn try_read(
    text: &str,
    rule: NameField,
    reading: Reading,
    counting: Option<Counting>,
) -> Result<Read<'_>, Unreadable> {
    let mut found = Found::new(rule, reading, counting);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = deserializer.deserialize_map(&mut found).and_then(|()| deserializer.end());
    match (found.refusal.take(), parsed) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(())) => found.result(),
        (None, Err(error)) if error.classify() == Category::Data => Err(Unreadable::NotAnObject),
        (None, Err(error)) => Err(Unreadable::Json { line: error.line(), column: error.column() }),
    }
}

/// Python's `json.loads` recognises UTF-16 and UTF-32 by their byte order mark, or by NULs among the
/// first four bytes (as RFC 4627 §3 did), and skips UTF-8's mark.
fn refuse_other_encodings(body: &[u8]) -> Result<(), Unreadable> {
    let has_mark = [&b"\xef\xbb\xbf"[..], b"\xfe\xff", b"\xff\xfe"].iter().any(|mark| body.starts_with(mark));
    match has_mark || body.iter().take(4).any(|byte| *byte == 0) {
        true => Err(Unreadable::TextEncoding),
        false => Ok(()),
    }
}

/// What the top-level object has shown so far.
struct Found<'de> {
    model: Option<Cow<'de, str>>,
    name: Option<Cow<'de, str>>,
    stored: Option<&'static str>,
    other: Option<&'static OtherField>,
    refusal: Option<Unreadable>,
    rule: NameField,
    reading: Reading,
    oddities: Oddities,
    counting: Option<Counting>,
}

impl<'de> Found<'de> {
    fn new(rule: NameField, reading: Reading, counting: Option<Counting>) -> Self {
        let oddities = Oddities::default();
        Self {
            model: None,
            name: None,
            stored: None,
            other: None,
            refusal: None,
            rule,
            reading,
            oddities,
            counting,
        }
    }

    /// Counts the name of a model that has been read.
    fn count_name(&mut self, name: FieldName, text: &str) {
        if let Some(counting) = &mut self.counting {
            counting.field(name).model_name(text);
        }
    }

    /// Counts a value of which the text has been read.
    fn count_json<E: serde::de::Error>(&mut self, name: FieldName, json: &str) -> Result<(), E> {
        let Some(counting) = &mut self.counting else { return Ok(()) };
        let counted = counting.field(name).deserialize(&mut serde_json::Deserializer::from_str(json));
        counted.map_err(E::custom)
    }

    /// Notes why the body is refused; the returned error only ends the scan.
    fn refuse<E: serde::de::Error>(&mut self, refusal: Unreadable) -> E {
        self.refusal = Some(refusal);
        E::custom("refused")
    }

    fn model<A: MapAccess<'de>>(&mut self, map: &mut A, field: FieldName) -> Result<(), A::Error> {
        if self.model.is_some() || self.oddities.null_model {
            return Err(self.refuse(Unreadable::ModelRepeated(Where::Json)));
        }
        match map.next_value_seed(Text)? {
            Given::Text(model) => {
                self.count_name(field, &model);
                self.model = Some(model);
            }
            Given::Null if self.reading == Reading::Lenient => self.oddities.null_model = true,
            Given::Null | Given::Other => return Err(self.refuse(Unreadable::ModelNotText)),
        }
        Ok(())
    }

    fn name<A: MapAccess<'de>>(&mut self, map: &mut A, field: FieldName) -> Result<(), A::Error> {
        match (&self.name, map.next_value_seed(Text)?) {
            (None, Given::Text(name)) => {
                self.count_name(field, &name);
                self.name = Some(name);
            }
            (Some(_), _) => return Err(self.refuse(Unreadable::ModelRepeated(Where::Json))),
            (None, Given::Null | Given::Other) => return Err(self.refuse(Unreadable::ModelNotText)),
        }
        Ok(())
    }

    fn stored<A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        stored: &StoredField,
        field: FieldName,
    ) -> Result<(), A::Error> {
        let value: &'de RawValue = map.next_value()?;
        if stored.refers(value.get()) {
            self.stored = Some(stored.name);
        }
        self.count_json(field, value.get())
    }

    fn result(mut self) -> Result<Read<'de>, Unreadable> {
        let (stored, other) = (self.stored, self.other);
        let names_one = self.model.as_ref().is_some_and(|model| !model.is_empty());
        if names_one && self.reading == Reading::Lenient && self.rule == NameField::IsModel {
            self.oddities.empty_name = self.name.take_if(|name| name.is_empty()).is_some();
        }
        let oddities = self.oddities;
        let count = self.counting.map(|counting| Box::new(counting.end()));
        let model = match (self.model, self.name) {
            (Some(model), Some(name)) if model != name => {
                Err(Unreadable::ModelsDisagree(Where::Json, Where::Json))
            }
            (None, Some(_)) if self.rule != NameField::IsModel => {
                let advice = "put the model's name into \"model\"";
                Err(Unreadable::OtherField { field: NAME, advice })
            }
            (model, name) => Ok(model.or(name)),
        };
        Ok(Read { model: model?, stored, other, count, oddities })
    }

    fn other<A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        other: &'static OtherField,
        field: FieldName,
    ) -> Result<(), A::Error> {
        let value: &'de RawValue = map.next_value()?;
        if value.get() != "null" {
            self.other = Some(other);
        }
        self.count_json(field, value.get())
    }

    fn any<A: MapAccess<'de>>(&mut self, map: &mut A, field: FieldName) -> Result<(), A::Error> {
        match &mut self.counting {
            Some(counting) => map.next_value_seed(counting.field(field)),
            None => map.next_value::<IgnoredAny>().map(drop),
        }
    }
}

impl<'de> Visitor<'de> for &mut Found<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((field, name)) = map.next_key_seed(NameSeed(self.rule))? {
            match field {
                Err(refusal) => return Err(self.refuse(refusal)),
                Ok(Field::Model) => self.model(&mut map, name)?,
                Ok(Field::Name) => self.name(&mut map, name)?,
                Ok(Field::Other(other)) => self.other(&mut map, other, name)?,
                Ok(Field::Stored(stored)) => self.stored(&mut map, stored, name)?,
                Ok(Field::Any) => self.any(&mut map, name)?,
            }
        }
        Ok(())
    }
}

/// Reads a key. Serde lends it straight from the body unless it has escapes.
struct NameSeed(NameField);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = (Result<Field, Unreadable>, FieldName);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = (Result<Field, Unreadable>, FieldName);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok((Field::in_json(key, self.0), FieldName::of(key)))
    }

    /// A key with escapes. It is refused if it could be a field that matters, since scanners that look for the plain bytes
    /// would miss it.
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let disguised = |field| Err(Unreadable::Disguised { field, place: Where::Json });
        let field = match Field::in_json(key, self.0) {
            Ok(Field::Model) => disguised(MODEL),
            Ok(Field::Name) => disguised(NAME),
            Ok(Field::Other(field)) => disguised(field.name),
            other => other,
        };
        Ok((field, FieldName::of(key)))
    }
}

/// The value of a field that names a model.
enum Given<'de> {
    Text(Cow<'de, str>),
    Null,
    Other,
}

/// Reads a string; anything else gives `None`.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Given<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Given<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Given::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Given::Text(text.to_owned().into()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Given::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Given::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Given::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Given::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Given::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Given::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Given::Other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &str) -> Result<Option<String>, Unreadable> {
        read_as(body, Reading::Strict)
    }

    fn read_as(body: &str, reading: Reading) -> Result<Option<String>, Unreadable> {
        let read = super::read(body.as_bytes(), NameField::Ignored, reading)?;
        match read.other {
            Some(field) => Err(field.refusal()),
            None => Ok(read.model.map(Cow::into_owned)),
        }
    }

    #[test]
    fn the_model_is_read_wherever_it_stands() {
        for (body, expected) in [
            (r#"{"model":"llama"}"#, Some("llama")),
            (" \r\n\t{ \"model\" : \"llama\" }\n", Some("llama")),
            (r#"{"messages":[{"model":"x","role":"user"}],"model":"llama","stream":true}"#, Some("llama")),
            (r#"{"model":"org\/name\u0041"}"#, Some("org/nameA")),
            (r#"{"model":""}"#, Some("")),
            (r#"{"prompt":"\"model\":\"x\""}"#, None),
            (r#"{"a\u0062c":1,"mode":"x","my_models":["x"]}"#, None),
            (r#"{"model":"llama","lora_path":null,"x":1e999,"y":"\ud800"}"#, Some("llama")),
            ("{}", None),
        ] {
            assert_eq!(read(body).expect(body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn whatever_can_be_read_differently_is_refused() {
        for (body, code) in READ_DIFFERENTLY {
            let refused = read(body).expect_err(body);
            assert_eq!(refused.code(), *code, "{body}: {refused}");
            assert!(!refused.is_media_type(), "{body}: {refused}");
        }
    }

    /// A body, and why it is refused.
    const READ_DIFFERENTLY: &[(&str, &str)] = &[
        // Python and Go take the last of two, others the first.
        (r#"{"model":"a","model":"b"}"#, "model_ambiguous"),
        (r#"{"model":"a","model":"a"}"#, "model_ambiguous"),
        (r#"{"model":"a","x":[1,2,{"y":3}],"model":"b"}"#, "model_ambiguous"),
        // Go's decoder takes any case, and the last of them.
        (r#"{"model":"a","Model":"b"}"#, "model_ambiguous"),
        (r#"{"MODEL":"a"}"#, "model_ambiguous"),
        (r#"{"LORA_PATH":"a","model":"b"}"#, "model_ambiguous"),
        // Escapes in the key.
        (r#"{"mod\u0065l":"a"}"#, "model_ambiguous"),
        (r#"{"model":"a","\u006dodel":"b"}"#, "model_ambiguous"),
        (r#"{"model":"a","\u004dodel":"b"}"#, "model_ambiguous"),
        (r#"{"model":"a","lora\u005fpath":null}"#, "model_ambiguous"),
        // Cut at the NUL, trimmed, or read as a list by somebody.
        (r#"{"model\u0000":"a"}"#, "model_ambiguous"),
        (r#"{"model\u0000x":"a"}"#, "model_ambiguous"),
        (r#"{" model":"a"}"#, "model_ambiguous"),
        (r#"{"model[]":"a"}"#, "model_ambiguous"),
        ("{\"\u{feff}model\":\"a\"}", "model_ambiguous"),
        // Not a name.
        (r#"{"model":null}"#, "model_invalid"),
        (r#"{"model":1}"#, "model_invalid"),
        (r#"{"model":-1}"#, "model_invalid"),
        (r#"{"model":1.5}"#, "model_invalid"),
        (r#"{"model":true}"#, "model_invalid"),
        (r#"{"model":["a"]}"#, "model_invalid"),
        (r#"{"model":{"name":"a"}}"#, "model_invalid"),
        // Other fields that choose a model.
        (r#"{"model":"a","lora_path":"b"}"#, "field_not_accepted"),
        (r#"{"model":"a","lora_path":["b"]}"#, "field_not_accepted"),
        (r#"{"model":"a","lora_path":null,"lora_path":""}"#, "field_not_accepted"),
        (r#"{"model":"a","adapters":"b"}"#, "field_not_accepted"),
        (r#"{"model":"a","draft_model":"b"}"#, "field_not_accepted"),
        (r#"{"model":"a","models":["a","b"]}"#, "field_not_accepted"),
        (r#"{"model":"a","fallbacks":["b"]}"#, "field_not_accepted"),
        // Not exactly one object.
        ("[]", "invalid_json"),
        (r#"[{"model":"a"}]"#, "invalid_json"),
        (r#""model""#, "invalid_json"),
        ("null", "invalid_json"),
        ("3", "invalid_json"),
        (" ", "invalid_json"),
        (r#"{"model":"a"}{"model":"b"}"#, "invalid_json"),
        (r#"{"model":"a"} x"#, "invalid_json"),
        ("{\"model\":\"a\"}\0", "invalid_json"),
        (r#"{"model":"a""#, "invalid_json"),
        (r#"{"model":"a",}"#, "invalid_json"),
        (r#"{'model':'a'}"#, "invalid_json"),
        (r#"{"model":"a","x":NaN}"#, "invalid_json"),
        (r#"{"model":"a","x":01}"#, "invalid_json"),
        (r#"{"model":"a","x":"\x"}"#, "invalid_json"),
        ("{\"model\":\"a\",\"x\":\"\n\"}", "invalid_json"),
        (r#"{"model":"a"/**/}"#, "invalid_json"),
        (r#"{"model":"a","\ud800":1}"#, "invalid_json"),
        (r#"{"model":"\ud800"}"#, "invalid_json"),
        (")]}'\n{\"model\":\"a\"}", "invalid_json"),
    ];

    /// An application with one model may take a list: only what is no JSON is refused there.
    #[test]
    fn json_that_is_no_object_is_told_from_what_is_no_json() {
        for body in ["[]", r#"[{"model":"a"}]"#, r#""model""#, "null", "3"] {
            assert_eq!(read(body), Err(Unreadable::NotAnObject), "{body}");
        }
        assert_eq!(read("{\n{"), Err(Unreadable::Json { line: 2, column: 1 }));
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16 =
            |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
        let text = r#"{"model":"a"}"#;
        let utf32 =
            |bytes: fn(u32) -> [u8; 4]| text.chars().flat_map(|c| bytes(c.into())).collect::<Vec<_>>();
        for body in [
            format!("\u{feff}{text}").into_bytes(),
            utf16(text, u16::to_le_bytes),
            utf16(text, u16::to_be_bytes),
            utf16(&format!("\u{feff}{text}"), u16::to_le_bytes),
            utf16(&format!("\u{feff}{text}"), u16::to_be_bytes),
            utf32(u32::to_le_bytes),
            utf32(u32::to_be_bytes),
        ] {
            assert_eq!(
                super::read(&body, NameField::Ignored, Reading::Lenient).err(),
                Some(Unreadable::TextEncoding),
                "{body:?}"
            );
        }
        // Neither in a skipped value nor elsewhere.
        assert_eq!(
            super::read(b"{\"model\":\"a\",\"x\":\"\xff\"}", NameField::Ignored, Reading::Lenient).err(),
            Some(Unreadable::NotUtf8)
        );
        assert_eq!(
            super::read(b"{\"model\":\"a\"}\xc0\xaf", NameField::Ignored, Reading::Lenient).err(),
            Some(Unreadable::NotUtf8)
        );
    }

    #[test]
    fn a_name_counts_where_ollama_reads_it() {
        let read = |body: &str, rule| {
            super::read(body.as_bytes(), rule, Reading::Strict).map(|read| read.model.map(Cow::into_owned))
        };
        for rule in [NameField::MustAgree, NameField::IsModel] {
            let both = read(r#"{"name":"a","model":"a"}"#, rule);
            assert_eq!(both.expect("they agree").as_deref(), Some("a"));
            for (body, code) in [
                (r#"{"name":"b","model":"a"}"#, "model_ambiguous"),
                (r#"{"model":"a","Name":"b"}"#, "model_ambiguous"),
                (r#"{"model":"a","n\u0061me":"a"}"#, "model_ambiguous"),
                (r#"{"model":"a","name":"a","name":"a"}"#, "model_ambiguous"),
                (r#"{"model":"a","name":null}"#, "model_invalid"),
            ] {
                assert_eq!(read(body, rule).expect_err(body).code(), code, "{body}");
            }
        }
        let alone = r#"{"name":"a"}"#;
        assert_eq!(read(alone, NameField::IsModel).expect("a model").as_deref(), Some("a"));
        assert_eq!(read(alone, NameField::Ignored), Ok(None));
        assert_eq!(read(alone, NameField::MustAgree).expect_err(alone).code(), "field_not_accepted");
    }

    #[test]
    fn what_only_some_servers_take_is_noted() {
        let read = |body: &str| {
            let read = super::read(body.as_bytes(), NameField::IsModel, Reading::Lenient)?;
            Ok((read.model.map(Cow::into_owned), read.oddities))
        };
        let plain = Oddities::default();
        let (empty, null) = (Oddities { empty_name: true, ..plain }, Oddities { null_model: true, ..plain });
        for (body, model, oddities) in [
            (r#"{"model":"a"}"#, Some("a"), plain),
            (r#"{"name":"a","model":"a"}"#, Some("a"), plain),
            (r#"{"model":"a","name":""}"#, Some("a"), empty),
            (r#"{"name":"","model":"a"}"#, Some("a"), empty),
            (r#"{"name":""}"#, Some(""), plain),
            (r#"{"model":null}"#, None, null),
            (r#"{"model":null,"name":"a"}"#, Some("a"), null),
        ] {
            assert_eq!(read(body), Ok((model.map(str::to_owned), oddities)), "{body}");
        }
        for (body, code) in [
            (r#"{"model":null,"model":"a"}"#, "model_ambiguous"),
            (r#"{"model":"a","model":null}"#, "model_ambiguous"),
            (r#"{"model":null,"model":null}"#, "model_ambiguous"),
            (r#"{"model":null,"Model":"a"}"#, "model_ambiguous"),
            (r#"{"mod\u0065l":null}"#, "model_ambiguous"),
            (r#"{"model":"a","name":"","name":"b"}"#, "model_ambiguous"),
            (r#"{"model":"a","name":" "}"#, "model_ambiguous"),
            (r#"{"model":"","name":"a"}"#, "model_ambiguous"),
            (r#"{"model":7}"#, "model_invalid"),
            (r#"{"model":[null]}"#, "model_invalid"),
            (r#"{"model":"a","name":null}"#, "model_invalid"),
        ] {
            assert_eq!(read(body).map_err(|refused: Unreadable| refused.code()), Err(code), "{body}");
        }
    }

    #[test]
    fn depth_does_not_exhaust_the_stack() {
        let deep = "[".repeat(100_000);
        assert!(read(&deep).is_err());
        assert!(read(&format!(r#"{{"model":{deep}"#)).is_err());
        assert!(read(&format!(r#"{{"model":"a","x":{deep}"#)).is_err());
        assert!(read(&r#"{"model":"#.repeat(100_000)).is_err());
        let closed = format!("{deep}{}", "]".repeat(100_000));
        let body = format!(r#"{{"x":{closed},"model":"a"}}"#);
        assert_eq!(read(&body).expect("an object").as_deref(), Some("a"));
        let refused = read(&format!(r#"{{"model":{closed}}}"#)).expect_err("a list");
        assert_eq!(refused, Unreadable::ModelNotText);
        assert_eq!(
            read(&format!(r#"{{"lora_path":{closed}}}"#)).expect_err("a list").code(),
            "field_not_accepted"
        );
    }

    /// Any JSON, often an object with something like a model.
    fn any_body() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("model".to_owned()),
            prop::sample::select(vec!["Model", "lora_path", "model ", "messages"]).prop_map(str::to_owned),
            ".{0,8}",
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_others_read(body in any_body(), pretty: bool, lenient: bool) {
            let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
            let reading = if lenient { Reading::Lenient } else { Reading::Strict };
            if let Ok(model) = read_as(&text.expect("JSON"), reading) {
                prop_assert!(lenient || body.get("model") != Some(&Value::Null));
                prop_assert!(body.is_object());
                prop_assert_eq!(model.as_deref(), body.get("model").and_then(Value::as_str));
                prop_assert!(body.get("lora_path").is_none_or(Value::is_null));
            }
        }

        /// Small changes to a valid body get further into the parser than random bytes.
        #[test]
        fn a_body_with_changed_bytes_is_refused_or_read_alike(
            changes in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
        ) {
            let mut body = br#"{"x":[1,{"model":"no"}],"mo\u0064e":"a","model":"llama","y":"z"}"#.to_vec();
            for (at, byte) in changes {
                let at = at % body.len();
                body[at] = byte;
            }
            if let Ok(found) = super::read(&body, NameField::Ignored, Reading::Lenient) {
                // An ignored value may hold a lone surrogate or a number out of range, which Value refuses.
                if let Ok(value) = serde_json::from_slice::<Value>(&body) {
                    prop_assert_eq!(found.model.as_deref(), value.get("model").and_then(Value::as_str));
                }
            }
        }

        #[test]
        fn random_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Read { model: Some(found), .. }) = super::read(&body, NameField::Ignored, Reading::Lenient) {
                let value: Value = serde_json::from_slice(&body).expect("JSON");
                prop_assert_eq!(Some(&*found), value.get("model").and_then(Value::as_str));
            }
        }
    }
}
