//! Settings of one server.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Setting, SettingParser, parse};
use crate::{Condition, Kind, ModelName, Selector, selector};

/// How one server takes part in its pools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerSettings {
    /// Its weight among the servers of the pool; 1 by default.
    pub weight: Option<u16>,
    /// 0 is preferred; a server with a higher number is used only when none with a lower number is left.
    pub priority: u8,
    /// It is ready only if this path answers with a 2xx.
    pub ready_path: Option<String>,
    /// It is ready only if that answer also contains this text.
    pub ready_contains: Option<String>,
    /// Aliases of its models.
    pub aliases: Vec<Alias>,
    /// The names that it accepts in a body.
    pub accepts: Option<Accepts>,
    /// Its kind, whatever its list of models says.
    pub kind: Option<Kind>,
    /// It has only one model: nothing in a request chooses another.
    pub single_model: bool,
    /// The only paths that are open; empty: those of its kind.
    pub paths: Vec<OpenPath>,
    /// Whether WebSockets pass, although their messages could name another of its models.
    pub websockets: bool,
    /// The requests that choose it.
    pub conditions: Vec<Condition>,
    /// Whether it also gets requests that do not choose it.
    pub select_others: bool,
    /// Whether it is sent the client's `Host`; by default if it is reached over plain HTTP.
    pub pass_host_header: Option<bool>,
    /// Nobody uses it but through Modelgate, so what it has counted is what was used.
    pub metering_exclusive: bool,
    /// So many requests under way there make it full, for `pick.wait`; `None`: what it says of itself decides.
    pub pick_most: Option<u32>,
    /// All of these settings as they were written, by key.
    pub given: BTreeMap<&'static str, String>,
}

/// A path, as the server sees it, that the operator opens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenPath {
    path: String,
    /// Whether everything below it is open, too.
    and_below: bool,
}

/// Another name for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The name that clients may use.
    pub name: ModelName,
    /// The model; `None`: the only model of the server.
    pub of: Option<ModelName>,
}

/// The names that a server accepts in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// The names that it lists.
    Listed,
    /// Any name.
    Any,
}

impl OpenPath {
    /// Parses `/predict`, or `/predict/*` for everything below it.
    fn parse(text: &str) -> Option<Self> {
        let (path, and_below) = text.strip_suffix("/*").map_or((text, false), |path| (path, true));
        let is_segment = |s: &str| {
            !matches!(s, "" | "." | "..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:@".contains(&b))
        };
        let fits =
            path.len() <= 256 && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
        let is_root = if and_below { path.is_empty() } else { path == "/" };
        (fits || is_root).then(|| Self { path: path.to_owned(), and_below })
    }

    /// Whether `path` is this path, or is below it and that is open.
    pub fn opens(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some("") => !self.and_below || self.path.is_empty(),
            Some(below) => self.and_below && below.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Display for OpenPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.and_below { "/*" } else { "" })
    }
}

impl ServerSettings {
    /// The weight.
    pub fn weight(&self) -> u16 {
        self.weight.unwrap_or(1)
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// The fault, beginning with the setting's key.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.ready_contains.is_some() && self.ready_path.is_none() {
            return Err("ready.contains is given without ready.path, the path whose answer it is about");
        }
        Ok(())
    }

    /// The conditions that a request must meet to choose this server, if any.
    pub fn selector(&self) -> Option<Arc<Selector>> {
        (!self.conditions.is_empty()).then(|| Arc::new(Selector::new(self.conditions.clone())))
    }
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "weight",
        meaning: "Share of requests beside the other servers of its models",
        default: "1",
        allowed: "a whole number from 1 to 1000",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.weight = Some(parse::number(text, 1..=1000)?);
            Some(())
        }),
    },
    Setting {
        key: "priority",
        meaning: "0 is primary; a higher number is a backup, used when no server of a lower number is left",
        default: "0",
        allowed: "a whole number from 0 to 9",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.priority = parse::number(text, 0..=9)?;
            Some(())
        }),
    },
    Setting {
        key: "ready.path",
        meaning: "The server is ready only while this path answers with a 2xx; Modelgate asks every 5 s",
        default: "none",
        allowed: "a path such as /api/ps",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.ready_path = Some(parse::path(text)?);
            Some(())
        }),
    },
    Setting {
        key: "ready.contains",
        meaning: "And only while that answer contains this text, such as the name of a model that must be loaded",
        default: "none",
        allowed: "1 to 256 characters, with ready.path",
        since: "",
        read: SettingParser::Server(|s, text| {
            let fits = (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            s.ready_contains = Some(fits.then(|| text.to_owned())?);
            Some(())
        }),
    },
    Setting {
        key: "aliases",
        meaning: "More names for its models. Traefik cannot change a body: a server that refuses the name there \
                  can still be chosen with it by path, header or query",
        default: "none; Ollama's name:latest is also known as name",
        allowed: "names separated by commas, each NAME, or NAME=MODEL where the server has more than one model",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.aliases = text.split(',').map(|part| alias(part.trim())).collect::<Option<_>>()?;
            Some(())
        }),
    },
    Setting {
        key: "accepts",
        meaning: "Which model names in a body the server answers to; canary and mirror need to know",
        default: "any for llama.cpp and SGLang, else listed",
        allowed: "listed or any",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.accepts = Some(match text {
                "listed" => Accepts::Listed,
                "any" => Accepts::Any,
                _ => return None,
            });
            Some(())
        }),
    },
    Setting {
        key: "kind",
        meaning: "Which program the server is. It says which paths are open, and by what the server chooses a model",
        default: "what its model list says (owned_by); with a credential provider, else other",
        allowed: "vllm, sglang, llamacpp, llamacpp-router, ollama, tei, llama-swap, provider or other",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.kind = Some(Kind::named(text)?);
            Some(())
        }),
    },
    Setting {
        key: "single_model",
        meaning: "The server has this one model and no other: nothing that a request says chooses another. Then bodies \
                  that Modelgate cannot read (text, images, compressed ones) and WebSockets pass",
        default: "false; true of llama.cpp and TEI",
        allowed: "true or false; true only with one model",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.single_model = parse::bool(text)?;
            Some(())
        }),
    },
    Setting {
        key: "paths",
        meaning: "The server's paths that are open, as the server sees them, and no others. Those that are known to \
                  manage a server stay closed",
        default: "those of its kind",
        allowed: "paths separated by commas, such as /predict, /jobs/*",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.paths = text.split(',').map(|path| OpenPath::parse(path.trim())).collect::<Option<_>>()?;
            Some(())
        }),
    },
    Setting {
        key: "websockets",
        meaning: "WebSockets pass although the server has, or may have, several models: what their messages name is \
                  not checked, so whoever may use one of the models may use all",
        default: "false",
        allowed: "true or false",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.websockets = parse::bool(text)?;
            Some(())
        }),
    },
    Setting {
        key: "select.header",
        meaning: "The server takes the requests with this header",
        default: "none",
        allowed: "NAME: VALUE, such as X-Model-Size: 70b; not a header that holds a credential",
        since: "",
        read: SettingParser::Server(|s, text| add(s, selector::header(text)?)),
    },
    Setting {
        key: "select.header_regexp",
        meaning: "The server takes the requests with a header that this expression matches anywhere",
        default: "none",
        allowed: "NAME: EXPRESSION, such as X-Model: ^llama; RE2 syntax, without a backtick; not a header that holds a credential",
        since: "",
        read: SettingParser::Server(|s, text| add(s, selector::header_regexp(text)?)),
    },
    Setting {
        key: "select.query",
        meaning: "The server takes the requests with this query parameter",
        default: "none",
        allowed: "NAME=VALUE of letters, digits and -._~, such as fast=true; not model",
        since: "",
        read: SettingParser::Server(|s, text| add(s, selector::query(text)?)),
    },
    Setting {
        key: "select.host",
        meaning: "The server takes the requests to this host name",
        default: "none",
        allowed: "a DNS name such as code.example.com",
        since: "",
        read: SettingParser::Server(|s, text| add(s, selector::host(text)?)),
    },
    Setting {
        key: "select.others",
        meaning: "Whether it also takes requests that do not choose it by select.*",
        default: "false",
        allowed: "true or false",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.select_others = parse::bool(text)?;
            Some(())
        }),
    },
    Setting {
        key: "pass_host_header",
        meaning: "Whether the server is sent the Host that the client sent",
        default: "true for http, false for https and for Ollama, which answers 403 to a foreign Host",
        allowed: "true or false",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.pass_host_header = Some(parse::bool(text)?);
            Some(())
        }),
    },
    Setting {
        key: "metering.exclusive",
        meaning: "Nobody uses the server but through this Modelgate: tokens that are measured or estimated are corrected, so that \
                  together they are what the server has counted",
        default: "false",
        allowed: "true or false",
        since: "",
        read: SettingParser::Server(|s, text| {
            s.metering_exclusive = parse::bool(text)?;
            Some(())
        }),
    },
    Setting {
        key: "pick.max_requests",
        meaning: "With pick.wait: how many requests may be under way at this server before it is full",
        default: "as many as it answers when others have to wait there, and an eighth more",
        allowed: "a whole number from 1 to 1000000",
        since: "3.6.2",
        read: SettingParser::Server(|s, text| {
            s.pick_most = Some(parse::number(text, 1..=1_000_000)?);
            Some(())
        }),
    },
];

fn alias(text: &str) -> Option<Alias> {
    let (name, of) = match text.split_once('=') {
        Some((name, of)) => (name.trim(), Some(ModelName::new(of.trim()).ok()?)),
        None => (text, None),
    };
    Some(Alias { name: ModelName::new(name).ok()?, of })
}

/// All conditions of a server must hold.
fn add(settings: &mut ServerSettings, condition: Condition) -> Option<()> {
    settings.conditions.push(condition);
    Some(())
}
