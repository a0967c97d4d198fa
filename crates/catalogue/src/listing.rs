//! Parses a server's answer to `GET {base_path}/models`.
//!
//! The format is OpenAI's list (<https://platform.openai.com/docs/api-reference/models/list>): `{"data": [{"id": …}, …]}`; a
//! bare array, which some servers send, is accepted as well. Replies are untrusted: size, number and names are limited, and a
//! bad entry is skipped and named.

mod mend;

use serde_json::Value;

use crate::{Kind, ListingFinding, ModelCard, ModelName};

/// The longest reply that is read, in bytes.
pub const MAX_LISTING_BYTES: usize = 4 * 1024 * 1024;
/// The most models that one server may have.
pub const MAX_MODELS_PER_SERVER: usize = 2_000;
/// The longest `owned_by`, `root` or `parent` that is kept, in bytes.
const MAX_TEXT: usize = 512;

/// A parsed reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The program that has written it.
    pub kind: Kind,
    /// The models, by name.
    pub cards: Vec<ModelCard>,
    /// Entries that were left out, and why.
    pub left_out: Vec<ListingFinding>,
    /// The operator has given the models [by hand](crate::ServerSpec::models), and the list has more models than those.
    pub has_others: bool,
}

impl Listing {
    /// Whether Ollama could have written it. Ollama's `owned_by` is `library` for its own models and the publisher's name for
    /// others, so a list without a `library` entry decides nothing.
    pub fn may_be_ollamas(&self) -> bool {
        let has_tag = |name: &str| name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let is_like = |card: &ModelCard| {
            let says_more = card.root.is_some() || card.parent.is_some() || card.context_length.is_some();
            has_tag(card.name.as_str()) && card.owned_by.is_some() && card.aliases.is_empty() && !says_more
        };
        self.kind == Kind::Other && !self.cards.is_empty() && self.cards.iter().all(is_like)
    }
}

/// The maximum number of a model's aliases that are read.
const MAX_ALIASES: usize = 32;
/// An error about a reply of another shape shows at most this many of its names, and at most this many characters of each.
const MAX_NAMES: usize = 5;
const MAX_NAME: usize = 32;

/// A reply that is not a model list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ListingError {
    /// Not JSON at all.
    #[error("the reply is not JSON")]
    NotJson,
    /// JSON of another shape, described in words.
    #[error("the reply has no list named \"data\": {0}")]
    NoData(String),
}

/// Reads a reply.
///
/// # Errors
/// If the reply is not JSON or has no list of models.
pub fn parse_listing(body: &[u8]) -> Result<Listing, ListingError> {
    let reply = mend::read(body).map_err(|_| ListingError::NotJson)?;
    let entries = match &reply {
        Value::Array(entries) => entries.as_slice(),
        Value::Object(fields) => match fields.get("data") {
            Some(Value::Array(entries)) => entries.as_slice(),
            // Go writes an empty list as null; an Ollama without models sends it.
            Some(Value::Null) if fields.get("object").is_some_and(|object| object == "list") => &[],
            _ => return Err(ListingError::NoData(instead(&reply))),
        },
        _ => return Err(ListingError::NoData(instead(&reply))),
    };
    let mut cards: Vec<ModelCard> = Vec::new();
    let mut left_out = Vec::new();
    for entry in entries {
        if cards.len() == MAX_MODELS_PER_SERVER {
            left_out.push(ListingFinding::TooMany { count: entries.len() });
            break;
        }
        match card(entry) {
            Ok(card) if cards.iter().any(|c| c.name == card.name) => {}
            Ok(card) => cards.push(card),
            Err(why) if left_out.len() < 10 => left_out.push(why),
            Err(_) => {}
        }
    }
    cards.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { kind: Kind::of_list(entries), cards, left_out, has_others: false })
}

/// What the reply has instead of a list of models.
fn instead(reply: &Value) -> String {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    match reply {
        Value::Object(fields) if fields.is_empty() => "it is an empty object".into(),
        Value::Object(fields) => match fields.get("data") {
            Some(data) => format!("its \"data\" is {}", kind(data)),
            None => {
                let name = |name: &String| format!("{:?}", name.chars().take(MAX_NAME).collect::<String>());
                let names: Vec<String> = fields.keys().take(MAX_NAMES).map(name).collect();
                let more = if fields.len() > MAX_NAMES { " and more" } else { "" };
                format!("it has {}{more}", names.join(", "))
            }
        },
        other => format!("it is {}", kind(other)),
    }
}

fn card(entry: &Value) -> Result<ModelCard, ListingFinding> {
    let id = entry.get("id").and_then(Value::as_str).ok_or(ListingFinding::EntryWithoutId)?;
    let name = ModelName::new(id).map_err(ListingFinding::UnusableName)?;
    let text = |key: &str| {
        let found = entry.get(key).and_then(Value::as_str)?;
        (found.len() <= MAX_TEXT && !found.chars().any(char::is_control)).then(|| found.to_owned())
    };
    let number = |pointer: &str| entry.pointer(pointer).and_then(Value::as_u64).filter(|n| *n > 0);
    let context =
        ["/max_model_len", "/context_length", "/context_window", "/meta/n_ctx", "/meta/n_ctx_train"];
    Ok(ModelCard {
        name,
        owned_by: text("owned_by"),
        created: entry.get("created").and_then(Value::as_i64),
        context_length: context.into_iter().find_map(number),
        root: text("root"),
        parent: text("parent"),
        aliases: aliases(entry),
    })
}

/// The server's own aliases of the model, as llama.cpp lists them.
fn aliases(entry: &Value) -> Vec<ModelName> {
    let given = entry.get("aliases").and_then(Value::as_array).into_iter().flatten();
    given.filter_map(|alias| ModelName::new(alias.as_str()?).ok()).take(MAX_ALIASES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(body: &str) -> Vec<String> {
        let cards = parse_listing(body.as_bytes()).expect("a listing").cards;
        cards.iter().map(|c| c.name.to_string()).collect()
    }

    #[test]
    fn what_vllm_says_of_an_adapter_is_kept() {
        let body = r#"{"object":"list","data":[{"id":"sql","object":"model","created":1700000000,"owned_by":"vllm",
            "root":"/adapters/sql","parent":"llama","max_model_len":null},
            {"id":"llama","owned_by":"vllm","root":"llama","parent":null,"max_model_len":8192}]}"#;
        let Listing { cards, left_out, .. } = parse_listing(body.as_bytes()).expect("a listing");
        assert!(left_out.is_empty());
        assert_eq!(cards[0].context_length, Some(8192));
        assert_eq!(cards[1].parent.as_deref(), Some("llama"));
        assert_eq!(cards[1].root.as_deref(), Some("/adapters/sql"));
    }

    #[test]
    fn what_llama_cpp_says_is_kept() {
        let body = r#"{"models":[],"object":"list","data":[{"id":"tiny.gguf","owned_by":"llamacpp","meta":{"n_ctx_train":128}}]}"#;
        let cards = parse_listing(body.as_bytes()).expect("a listing").cards;
        assert_eq!(cards[0].context_length, Some(128));
    }

    #[test]
    fn a_bad_entry_is_named_and_the_rest_lives() {
        let body = r#"{"data":[{"id":"a"},{"id":7},{"id":"x\ny"},{"id":"b"},{"id":"a"}]}"#;
        let Listing { cards, left_out, .. } = parse_listing(body.as_bytes()).expect("a listing");
        assert_eq!(cards.len(), 2);
        assert_eq!(left_out.len(), 2);
        assert!(left_out[1].to_string().contains("only printable ASCII"), "{left_out:?}");
    }

    #[test]
    fn the_number_of_models_is_limited() {
        let entries: Vec<String> = (0..3000).map(|i| format!(r#"{{"id":"m{i}"}}"#)).collect();
        let body = format!(r#"{{"data":[{}]}}"#, entries.join(","));
        assert_eq!(names(&body).len(), MAX_MODELS_PER_SERVER);
    }

    /// Text Generation WebUI, xinference and others pass Python's values on: one `NaN` used to hide every model.
    #[test]
    fn a_list_that_is_not_quite_json_is_read() {
        let body =
            b"\xef\xbb\xbf{\"data\":[{\"id\":\"a\",\"rope\":NaN},{\"id\":\"b\",\"about\":\"cut \\ud83d\"}]}";
        let cards = parse_listing(body).expect("a listing").cards;
        assert_eq!(cards.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_ollama_with_other_peoples_models_may_be_one() {
        let may_be = |data: &str| {
            parse_listing(format!(r#"{{"data":[{data}]}}"#).as_bytes()).map(|l| l.may_be_ollamas())
        };
        let hf = r#"{"id":"hf.co/bartowski/Llama-3.2-1B:Q4_K_M","object":"model","created":1,"owned_by":"bartowski"}"#;
        assert_eq!(may_be(hf), Ok(true));
        for other in [
            r#"{"id":"llama","owned_by":"me"}"#,
            r#"{"id":"host:8000/llama","owned_by":"me"}"#,
            r#"{"id":"llama:7b"}"#,
            r#"{"id":"llama:7b","owned_by":"me","max_model_len":8192}"#,
            r#"{"id":"llama:7b","owned_by":"me","root":"llama"}"#,
            r#"{"id":"llama:7b","owned_by":"me","parent":"llama"}"#,
            r#"{"id":"llama:7b","owned_by":"me","aliases":["b"]}"#,
            r#"{"id":"llama3:latest","owned_by":"library"}"#,
        ] {
            assert_eq!(may_be(other), Ok(false), "{other}");
            assert_ne!(may_be(&format!("{hf},{other}")), Ok(true), "{other}");
        }
        assert_eq!(may_be(""), Ok(false));
    }

    /// Each of these is a name under which clients may ask; a context of 0 would tell them that nothing fits.
    #[test]
    fn aliases_and_lengths_are_read_as_far_as_they_can_be() {
        let long = "x".repeat(MAX_TEXT + 1);
        let body = format!(
            r#"{{"data":[{{"id":"a","aliases":["b","",7,"c"],"max_model_len":0,"context_window":4096,
                "root":"{long}","parent":"{}","owned_by":"me\u0007"}}]}}"#,
            &long[1..]
        );
        let cards = parse_listing(body.as_bytes()).expect("a listing").cards;
        assert_eq!(cards[0].aliases.iter().map(ModelName::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!((cards[0].context_length, &cards[0].root, &cards[0].owned_by), (Some(4096), &None, &None));
        assert_eq!(cards[0].parent.as_deref(), Some(&long[1..]), "the longest text");
    }

    /// A list of a thousand odd entries would hide everything else that operators are told.
    #[test]
    fn ten_entries_that_are_left_out_are_named() {
        let entries = [r#"{"id":7}"#; 12].join(",");
        let listing = parse_listing(format!(r#"{{"data":[{entries}]}}"#).as_bytes()).expect("a listing");
        assert_eq!(listing.left_out, vec![ListingFinding::EntryWithoutId; 10]);
    }

    /// A list that is too long counts as none: the server would be lost with all of its models.
    #[test]
    fn the_longest_list_of_the_most_models_is_read_whole() {
        let text = "x".repeat(MAX_TEXT);
        let entry = |number: usize| {
            format!(r#"{{"id":"{number:0256}","owned_by":"{text}","root":"{text}","parent":"{text}"}}"#)
        };
        let entries: Vec<String> = (0..MAX_MODELS_PER_SERVER).map(entry).collect();
        let body = format!(r#"{{"data":[{}]}}"#, entries.join(","));
        assert!(body.len() <= MAX_LISTING_BYTES, "{}", body.len());
        let listing = parse_listing(body.as_bytes()).expect("a listing");
        assert_eq!((listing.cards.len(), listing.left_out), (MAX_MODELS_PER_SERVER, Vec::new()));
    }

    #[test]
    fn a_list_may_be_empty_and_then_it_is_none() {
        for empty in [r#"{"data":[]}"#, r#"{"object":"list","data":null}"#, "[]"] {
            assert_eq!(names(empty), Vec::<String>::new(), "{empty}");
        }
    }

    #[test]
    fn other_replies_are_refused_with_what_they_have() {
        assert_eq!(parse_listing(b"<html>"), Err(ListingError::NotJson));
        for (reply, said) in [
            (r#"{"detail":"Not Found"}"#, r#"it has "detail""#),
            (r#"{"models":[{"name":"llama3:latest"}]}"#, r#"it has "models""#),
            (
                r#"{"model_id":"BAAI/bge","model_sha":null,"version":"1"}"#,
                r#"it has "model_id", "model_sha", "version""#,
            ),
            (r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}"#, r#"it has "a", "b", "c", "d", "e" and more"#),
            (r#"{"object":"list","data":{}}"#, r#"its "data" is an object"#),
            (r#"{"code":500,"data":null,"msg":"no"}"#, r#"its "data" is null"#),
            (r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#, r#"it has "a", "b", "c", "d", "e""#),
            ("{}", "it is an empty object"),
            ("7", "it is a number"),
            ("null", "it is null"),
        ] {
            assert_eq!(parse_listing(reply.as_bytes()), Err(ListingError::NoData(said.into())), "{reply}");
        }
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(5000));
        assert!(parse_listing(long.as_bytes()).expect_err("no list").to_string().len() < 120);
    }
}
