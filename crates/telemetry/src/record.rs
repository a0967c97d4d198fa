//! One decision, in the form that is kept for people to look at.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use metering::Ending;

use crate::{ChosenServer, DecisionSpan, Network, SettledRequest};

/// A decision of `/auth`, or a refusal of what Traefik has not asked about, at the moment when it is made. Holds no body, and no secret.
#[derive(Clone, Copy)]
pub struct Decided<'a> {
    /// When the request came.
    pub at: SystemTime,
    /// The id of the request that Modelgate has chosen, as servers and Traefik's log have it.
    pub request_id: &'a str,
    /// The client's own id, if it has sent one; refusals answer with it.
    pub client_request_id: Option<&'a str>,
    /// The consumer, if the key is known.
    pub consumer: Option<&'a str>,
    /// The name of the key, if it is known; never the key itself.
    pub key: Option<&'a str>,
    /// The requested model, if it could be read.
    pub model: Option<&'a str>,
    /// The client's address, if that is to be kept: the request is refused, and Traefik has said it.
    pub from: Option<IpAddr>,
    /// The client's method.
    pub method: &'a str,
    /// The client's URI. Its query is not kept, because clients sometimes put keys there.
    pub uri: &'a str,
    /// Why it was refused; `None` if it was allowed.
    pub refused: Option<Refused<'a>>,
    /// The estimated tokens, if they were estimated.
    pub tokens: Option<u32>,
    /// How long the decision took, from question to answer, without the time for which it waited for a server; `None` if Traefik
    /// did not ask.
    pub latency: Option<Duration>,
}

/// Why a request was refused.
#[derive(Clone, Copy)]
pub struct Refused<'a> {
    /// The code of the reason; there is a fixed number of them.
    pub code: &'static str,
    /// The words that the client is told.
    pub words: &'a dyn fmt::Display,
}

/// A recorded decision. Its texts are truncated (see [`Record::MAX_TEXT`]), and those that come from clients may contain
/// anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When the request came.
    pub at: SystemTime,
    /// The code of the reason why it was refused; `None` if it was allowed.
    pub refused: Option<&'static str>,
    /// The client's address, if the request was refused and Traefik has said it.
    pub from: Option<IpAddr>,
    /// The network from which it came, if that is [to be noted](crate::Telemetry::notes_networks).
    pub network: Option<Network>,
    /// The estimated tokens, if they were estimated.
    pub tokens: Option<u32>,
    /// How long the decision took; `None` if Traefik did not ask.
    pub latency: Option<Duration>,
    /// How long it waited until a server had room, if it did.
    pub waited: Option<Duration>,
    /// The id of its trace, if whoever keeps the record has looked for it.
    pub trace: Option<u128>,
    /// Its span, if it is to have one.
    pub span: Option<Box<DecisionSpan>>,
    /// The server that Modelgate has chosen for it, if it has.
    pub chosen: Option<Arc<ChosenServer>>,
    /// What became of the request, if it was allowed and that is known.
    pub settled: Option<Arc<SettledRequest>>,
    /// All texts in one string, so that a record needs a single allocation.
    text: String,
    /// The end of each text.
    ends: [u16; TEXTS],
}

const TEXTS: usize = 8;

/// The texts of a record.
#[derive(Debug, Clone, Copy)]
enum Text {
    RequestId,
    ClientRequestId,
    Consumer,
    Key,
    Model,
    Method,
    Path,
    Words,
}

impl Record {
    /// The maximum length of a text, in bytes: longer ones are truncated and end in `…`. Methods have a lower maximum.
    pub const MAX_TEXT: usize = 256;
    const MAX_METHOD: usize = 16;

    pub(crate) fn new(decided: &Decided<'_>) -> Self {
        match decided.model {
            Some(model) if looks_like_a_key(model) => Self::hiding(model, decided),
            _ => Self::keeping(decided),
        }
    }

    /// Used if a key was sent as the model: the key is then also in the words, and possibly in the path.
    fn hiding(model: &str, decided: &Decided<'_>) -> Self {
        let uri = decided.uri.replace(model, HIDDEN);
        let words = decided.refused.map(|refused| refused.words.to_string().replace(model, HIDDEN));
        let refused = decided.refused.zip(words.as_ref());
        let refused = refused.map(|(Refused { code, .. }, words)| Refused { code, words });
        Self::keeping(&Decided { model: Some(HIDDEN), uri: &uri, refused, ..*decided })
    }

    fn keeping(decided: &Decided<'_>) -> Self {
        let path = decided.uri.split(['?', '#']).next().unwrap_or_default();
        let path = &*without_keys(path);
        let texts = [
            (decided.request_id, Self::MAX_TEXT),
            (decided.client_request_id.unwrap_or_default(), Self::MAX_TEXT),
            (decided.consumer.unwrap_or_default(), Self::MAX_TEXT),
            (decided.key.unwrap_or_default(), Self::MAX_TEXT),
            (decided.model.unwrap_or_default(), Self::MAX_TEXT),
            (decided.method, Self::MAX_METHOD),
            (path, Self::MAX_TEXT),
        ];
        let length: usize = texts.iter().map(|(text, max)| text.len().min(*max)).sum();
        let words = if decided.refused.is_some() { 128 } else { 0 };
        let mut text = String::with_capacity(length + words);
        let mut ends = [0; TEXTS];
        let mut end_of = ends.iter_mut();
        for (given, max) in texts {
            // The error only says that the text was truncated.
            let _ = Bounded { text: &mut text, left: max }.write_str(given);
            end_of.next().into_iter().for_each(|end| *end = position(&text));
        }
        if let Some(refused) = &decided.refused {
            let _ = write!(Bounded { text: &mut text, left: Self::MAX_TEXT }, "{}", refused.words);
        }
        end_of.next().into_iter().for_each(|end| *end = position(&text));
        let Decided { at, from, tokens, latency, .. } = *decided;
        let refused = decided.refused.map(|refused| refused.code);
        Self {
            at,
            refused,
            from,
            network: None,
            tokens,
            latency,
            waited: None,
            trace: None,
            span: None,
            chosen: None,
            settled: None,
            text,
            ends,
        }
    }

    /// The id of the request that Modelgate has chosen, as servers and Traefik's log have it.
    pub fn request_id(&self) -> &str {
        self.text(Text::RequestId)
    }

    /// The client's own id, if it has sent one; refusals answer with it.
    pub fn client_request_id(&self) -> Option<&str> {
        self.given(Text::ClientRequestId)
    }

    /// The consumer, if the key was known.
    pub fn consumer(&self) -> Option<&str> {
        self.given(Text::Consumer)
    }

    /// The name of the key, if it was known.
    pub fn key(&self) -> Option<&str> {
        self.given(Text::Key)
    }

    /// The requested model, if it could be read. It comes from the client, so it need not exist.
    pub fn model(&self) -> Option<&str> {
        self.given(Text::Model)
    }

    /// The client's method.
    pub fn method(&self) -> &str {
        self.text(Text::Method)
    }

    /// The requested path, without the query.
    pub fn path(&self) -> &str {
        self.text(Text::Path)
    }

    /// The words that the client was told, if it was refused.
    pub fn words(&self) -> Option<&str> {
        self.given(Text::Words)
    }

    /// How the request ended, if it was allowed and that is known.
    pub fn ending(&self) -> Option<Ending> {
        self.settled.as_ref().map(|settled| settled.ending)
    }

    fn given(&self, which: Text) -> Option<&str> {
        Some(self.text(which)).filter(|text| !text.is_empty())
    }

    fn text(&self, which: Text) -> &str {
        let which = which as usize;
        let start = which.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start.into()..self.ends[which].into()).unwrap_or_default()
    }
}

const HIDDEN: &str = "(looks like a key)";

/// The path without segments that look like a key, even with percent-encoded dashes.
fn without_keys(path: &str) -> Cow<'_, str> {
    let is_key = |segment: &str| {
        segment.len() >= SHORTEST && looks_like_a_key(&segment.replace("%2D", "-").replace("%2d", "-"))
    };
    if !path.split('/').any(is_key) {
        return path.into();
    }
    let segments = path.split('/').map(|segment| if is_key(segment) { HIDDEN } else { segment });
    segments.collect::<Vec<_>>().join("/").into()
}

/// The shortest text that can look like a key, in bytes.
const SHORTEST: usize = 24;

/// Recognises our keys, keys in the style of OpenAI's, and tokens (JWT).
fn looks_like_a_key(text: &str) -> bool {
    text.len() >= SHORTEST && ["mg-", "sk-", "eyJ", "Bearer "].iter().any(|start| text.starts_with(start))
}

/// Fits because all texts together are shorter than 64 KiB.
fn position(text: &str) -> u16 {
    u16::try_from(text.len()).unwrap_or(u16::MAX)
}

/// Accepts a maximum length of text, in bytes; the end of longer text is replaced by `…`.
struct Bounded<'t> {
    text: &'t mut String,
    left: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if more.len() <= self.left {
            self.text.push_str(more);
            self.left -= more.len();
            return Ok(());
        }
        const CUT: char = '…';
        // The text so far may leave less room than `…` needs.
        let room = self.left.saturating_sub(CUT.len_utf8());
        let end = (0..=room).rev().find(|end| more.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(&more[..end]);
        self.text.push(CUT);
        self.left = 0;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decided() -> Decided<'static> {
        Decided {
            at: SystemTime::UNIX_EPOCH,
            request_id: "req_1",
            client_request_id: Some("theirs"),
            consumer: Some("team"),
            key: Some("alice"),
            model: Some("llama"),
            from: None,
            method: "POST",
            uri: "/v1/chat/completions",
            refused: None,
            tokens: Some(7),
            latency: Some(Duration::from_micros(70)),
        }
    }

    #[test]
    fn texts_come_back_as_they_were() {
        let record = Record::new(&decided());
        assert_eq!((record.request_id(), record.client_request_id()), ("req_1", Some("theirs")));
        assert_eq!((record.consumer(), record.key()), (Some("team"), Some("alice")));
        assert_eq!((record.model(), record.words()), (Some("llama"), None));
        assert_eq!((record.method(), record.path()), ("POST", "/v1/chat/completions"));
        assert_eq!((record.refused, record.tokens), (None, Some(7)));
        let words = "the API key is not valid";
        let refused = Some(Refused { code: "invalid_api_key", words: &words });
        let record = Record::new(&Decided { consumer: None, key: None, model: None, refused, ..decided() });
        assert_eq!((record.consumer(), record.key(), record.model()), (None, None, None));
        assert_eq!((record.refused, record.words()), (Some("invalid_api_key"), Some(words)));
    }

    #[test]
    fn a_query_is_not_kept() {
        for uri in ["/v1/realtime?api-key=secret", "/v1/realtime#secret", "/v1/realtime?a#secret"] {
            let record = Record::new(&Decided { uri, ..decided() });
            assert_eq!(record.path(), "/v1/realtime");
            assert!(!format!("{record:?}").contains("secret"), "{record:?}");
        }
    }

    #[test]
    fn a_key_anywhere_in_the_path_is_hidden() {
        let key = "mg-0123456789abcdefghijklmnop";
        assert_eq!(without_keys("/v1/models/org%2Fname"), "/v1/models/org%2Fname");
        for path in [format!("/v1/{key}/models"), format!("/v1/{}/models", key.replace('-', "%2D"))] {
            assert_eq!(without_keys(&path), "/v1/(looks like a key)/models");
        }
    }

    #[test]
    fn a_key_in_the_place_of_the_model_is_hidden() {
        let key = "mg-0123456789012345678901234567890123456789012ABCDEF";
        let words = format!("the model {key:?} does not exist");
        let refused = Some(Refused { code: "model_not_found", words: &words });
        let uri = format!("/models/{key}/v1/chat/completions");
        let record = Record::new(&Decided { model: Some(key), uri: &uri, refused, ..decided() });
        assert_eq!(record.model(), Some("(looks like a key)"));
        assert_eq!(record.words(), Some("the model \"(looks like a key)\" does not exist"));
        assert_eq!(record.path(), "/models/(looks like a key)/v1/chat/completions");
        assert!(!format!("{record:?}").contains(&key[3..20]), "{record:?}");
        let record = Record::new(&Decided { model: Some("mg-small"), ..decided() });
        assert_eq!(record.model(), Some("mg-small"), "too short for a key");
    }

    proptest! {
        #[test]
        fn long_texts_are_cut_between_characters(
            model in any::<String>(),
            words in prop::collection::vec(any::<String>(), 0..20),
            times in 1_usize..100,
        ) {
            struct Pieces(Vec<String>);
            impl fmt::Display for Pieces {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.iter().try_for_each(|piece| f.write_str(piece))
                }
            }
            let model = model.repeat(times);
            let all_words = words.concat();
            let refused = Some(Refused { code: "x", words: &Pieces(words) });
            let record = Record::new(&Decided { model: Some(&model), refused, ..decided() });
            for (given, kept) in [(&model, record.model()), (&all_words, record.words())] {
                let kept = kept.unwrap_or_default();
                let start = kept.strip_suffix('…').unwrap_or(kept);
                prop_assert!(given == kept || given.starts_with(start) && given.len() > Record::MAX_TEXT, "{kept:?}");
                prop_assert!(kept.len() <= Record::MAX_TEXT + '…'.len_utf8());
            }
            prop_assert_eq!(record.path(), "/v1/chat/completions");
        }
    }
}
