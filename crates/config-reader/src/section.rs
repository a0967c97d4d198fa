//! One mapping, read key by key.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use bytesize::ByteSize;
use catalogue::{GivenModelSettings, ServerSettings, Setting, closest, settings};
use ipnet::IpNet;
use serde_yaml::{Mapping, Value};

use crate::{
    ConfigError, Origins,
    outline::{self, Outline},
};

/// The errors so far, and where values came from.
#[derive(Debug, Default)]
pub struct Report {
    origins: Origins,
    errors: RefCell<Vec<ConfigError>>,
    /// Those of the errors that are about secrets that are kept elsewhere.
    unread_secrets: RefCell<Vec<ConfigError>>,
    /// What is asked for, if nothing is read.
    outline: Option<RefCell<Outline>>,
}

/// One mapping of the file. The getters return `None` if the key is absent or was refused.
#[derive(Debug)]
pub struct Section<'a> {
    report: &'a Report,
    path: String,
    mapping: Option<&'a Mapping>,
    known: Vec<&'static str>,
}

/// Whether an error may quote the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Always,
    /// Quoted unless it could be a URL that contains a credential.
    UnlessCredential,
    Never,
}

/// What is allowed, as the last part of an error message.
struct Allowed<A>(A);

/// The state of reading settings.
struct SettingsReader<'s> {
    /// The settings that are allowed at this place.
    here: Vec<&'static Setting>,
    server: &'s mut ServerSettings,
    model: &'s mut GivenModelSettings,
}

impl<A: Display> Display for Allowed<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allowed: {}", self.0)
    }
}

impl Report {
    /// A report with these errors and no others.
    pub fn new(origins: Origins, errors: Vec<ConfigError>) -> Self {
        Self { origins, errors: RefCell::new(errors), ..Self::default() }
    }

    /// A report of a reader that finds out the form of a document; the document itself is not looked at.
    pub fn of_form() -> Self {
        Self { outline: Some(RefCell::new(Outline::new())), ..Self::default() }
    }

    /// The form of the document, as a JSON Schema; `None` if a document was read.
    pub fn into_schema(self) -> Option<serde_json::Value> {
        self.outline.map(|outline| outline.into_inner().into_schema())
    }

    /// All errors, in the order in which they were found.
    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }

    /// Those of the errors that are about secrets that could not be read where they are kept. What does not need these secrets can
    /// use the rest of the configuration.
    pub fn unread_secrets(&self) -> Vec<ConfigError> {
        self.unread_secrets.borrow().clone()
    }

    fn error(&self, place: String, message: String) {
        let variable = self.origins.variable_of(&place);
        self.errors.borrow_mut().push(ConfigError { place, variable, message });
    }
}

impl<'a> Section<'a> {
    /// The section of the whole file.
    pub fn root(report: &'a Report, mapping: &'a Mapping) -> Self {
        Self { report, path: String::new(), mapping: Some(mapping), known: Vec::new() }
    }

    /// Reports the keys that no getter has read.
    pub fn finish(self) {
        for key in self.mapping.into_iter().flat_map(Mapping::keys) {
            let name = scalar(key).unwrap_or_default();
            if self.known.contains(&&*name) {
                continue;
            }
            let place = if self.path.is_empty() { "the file" } else { self.path.as_str() };
            let meant = match closest(&name, self.known.iter().copied()) {
                Some(known) => format!("; did you mean `{known}`?"),
                None => ";".into(),
            };
            let message =
                format!("unknown key {}{meant} allowed here: {}", nameable(&name), self.known.join(", "));
            self.report.error(place.into(), message);
        }
    }

    /// Reports an error of a key.
    pub fn error(&self, key: &str, message: impl Into<String>) {
        self.report.error(self.path_of(key), message.into());
    }

    /// Reads a key that says where a secret is kept, and the secret there.
    pub fn kept_secret<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let at = self.get(key, allowed, |text| Some(text.to_owned()))?;
        let message = match read(&at) {
            Ok(secret) => return Some(secret),
            Err(remark) => Show::Always.message(&at, &remark),
        };
        self.error(key, message);
        let told = self.report.errors.borrow().last().cloned();
        self.report.unread_secrets.borrow_mut().extend(told);
        None
    }

    /// The environment variable that a key came from.
    pub fn variable(&self, key: &str) -> Option<&'static str> {
        self.report.origins.variable_of(&self.path_of(key))
    }

    /// Whether only the form of the document is found out. Every key counts as present then.
    pub fn is_form(&self) -> bool {
        self.report.outline.is_some()
    }

    /// Notes the form of a key, if that is all that is wanted.
    fn note(&self, key: &str, form: impl FnOnce() -> serde_json::Value) {
        if let Some(outline) = &self.report.outline {
            outline.borrow_mut().add(&self.path_of(key), form());
        }
    }

    /// Whether a key is present.
    pub fn has(&self, key: &str) -> bool {
        self.is_form() || self.mapping.and_then(|m| m.get(key)).is_some_and(|value| !value.is_null())
    }

    /// Whether the section is present and none of its keys has a value.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_some_and(|mapping| mapping.values().all(Value::is_null))
    }

    /// Whether a key is present and no other.
    pub fn has_only(&self, key: &str) -> bool {
        self.has(key) && self.mapping.is_some_and(|m| m.len() == 1)
    }

    /// Reports a required key that is absent.
    pub fn require(&self, key: &str, allowed: &str) {
        if let Some(outline) = &self.report.outline {
            outline.borrow_mut().require(&self.path_of(key));
        }
        if !self.has(key) {
            self.error(key, format!("is missing; allowed: {allowed}"));
        }
    }

    /// Reports a list that is present but empty.
    pub fn require_some<T>(&self, key: &str, list: &[T]) {
        let empty =
            self.mapping.and_then(|m| m.get(key)).and_then(Value::as_sequence).is_some_and(Vec::is_empty);
        if empty && list.is_empty() {
            self.error(key, "found an empty list; allowed: at least one, or leave the key out");
        }
    }

    /// Reads the remaining keys as settings; those that are not allowed here are reported as unknown. Nested sections of the file
    /// correspond to the dots in a setting's key.
    pub fn settings(
        &mut self,
        server: &mut ServerSettings,
        model: &mut GivenModelSettings,
        allowed_here: impl Fn(&Setting) -> bool,
    ) {
        let here: Vec<&'static Setting> = settings().filter(|s| allowed_here(s)).collect();
        for setting in &here {
            self.note(setting.key, || outline::setting(setting));
            let first = setting.key.split('.').next().unwrap_or_default();
            if !self.known.contains(&first) {
                self.known.push(first);
            }
        }
        let Some(mapping) = self.mapping else { return };
        let mut settings = SettingsReader { here, server, model };
        for (key, value) in mapping {
            let name = scalar(key).unwrap_or_default();
            let is_here = settings.here.iter().any(|s| s.key.split('.').next() == Some(&name));
            if is_here && !value.is_null() {
                self.setting(&name, value, &mut settings);
            }
        }
    }

    fn setting(&self, path: &str, value: &Value, settings: &mut SettingsReader<'_>) {
        if let Some(setting) = settings.here.iter().find(|s| s.key == path) {
            let text = match value {
                Value::Sequence(items) => {
                    items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|v| v.join(",").into())
                }
                other => scalar(other),
            };
            let Some(text) = text else {
                return self.error(path, format!("found {}; allowed: {}", kind(value), setting.allowed));
            };
            if let Err(refused) = setting.read(&text, settings.server, settings.model) {
                self.error(path, Show::Always.message(&setting.told(&text), &refused));
            }
            return;
        }
        let Value::Mapping(levels) = value else {
            return self.error(path, format!("found {}; allowed: keys with values", kind(value)));
        };
        let prefix = format!("{path}.");
        let keys: Vec<&str> = settings.here.iter().filter_map(|s| s.key.strip_prefix(&prefix)).collect();
        for (key, value) in levels.iter().filter(|(_, value)| !value.is_null()) {
            let name = scalar(key).unwrap_or_default();
            match keys.iter().any(|k| *k == name || k.starts_with(&format!("{name}."))) {
                true => self.setting(&format!("{path}.{name}"), value, settings),
                false => {
                    let known: Vec<&str> =
                        keys.iter().map(|k| k.split('.').next().unwrap_or_default()).collect();
                    let message =
                        format!("unknown key {}; allowed here: {}", nameable(&name), known.join(", "));
                    self.error(path, message);
                }
            }
        }
    }

    /// Accepts a key without reading it.
    pub fn skip(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Reads one value with a parser that returns an `Option`.
    pub fn get<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.one(key, Show::Always, || allowed, |text| parse(text).ok_or(Allowed(allowed)))
    }

    /// Like [`Self::get`], but describes what is allowed only in case of an error: that takes a moment, and 100,000 keys have
    /// many numbers.
    fn get_or_say<T>(
        &mut self,
        key: &'static str,
        allowed: impl Fn() -> String,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.one(key, Show::Always, &allowed, |text| parse(text).ok_or_else(|| Allowed(allowed())))
    }

    /// Reads one value with a parser that returns an error.
    pub fn try_get<T, E: Display>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.one(key, Show::Always, || allowed, parse)
    }

    /// Like [`Self::try_get`], for a URL: it is not quoted if it may contain a credential.
    pub fn url<T, E: Display>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.one(key, Show::UnlessCredential, || allowed, parse)
    }

    /// Like [`Self::get`], for a value that must never be quoted.
    pub fn secret<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.one(key, Show::Never, || allowed, |text| parse(text).ok_or(Allowed(allowed)))
    }

    /// Reads one of some words.
    pub fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.note(key, || outline::words(words.iter().map(|(word, _)| *word)));
        let allowed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.get_or_say(key, allowed, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
        })
    }

    /// Reads `true` or `false`.
    pub fn bool(&mut self, key: &'static str) -> Option<bool> {
        self.one_of(key, &[("true", true), ("false", false)])
    }

    /// Reads a whole number.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.note(key, || outline::number(&(u64::from(*range.start())..=u64::from(*range.end()))));
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        self.get_or_say(key, allowed, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    /// Reads an address to listen on.
    pub fn socket_addr(&mut self, key: &'static str) -> Option<SocketAddr> {
        let allowed = "an IP address and a port, such as 0.0.0.0:8100 or [::]:8100";
        self.get(key, allowed, |text| text.parse().ok())
    }

    /// Reads a whole number that may be very large.
    pub fn large_number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.note(key, || outline::number(&range));
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        self.get_or_say(key, allowed, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    /// Reads a time span, with its unit.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (from, to) = (*range.start(), *range.end());
        let [shortest, longest] = [from, to].map(|d| format!("{}s", d.as_secs()));
        let allowed = format!("a time with its unit, from {shortest} to {longest}, such as 5s");
        self.note(key, || outline::quantity(&allowed));
        self.get(key, &allowed, |text| humantime::parse_duration(text).ok().filter(|d| range.contains(d)))
    }

    /// Reads a number of bytes, with or without a unit.
    pub fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let [least, most] = [*range.start(), *range.end()].map(size);
        let allowed = format!("a size from {least} to {most}, such as 1MiB");
        self.note(key, || outline::quantity(&allowed));
        self.get(key, &allowed, |text| {
            text.parse::<ByteSize>().ok().map(|s| s.as_u64()).filter(|n| range.contains(n))
        })
    }

    /// Reads a list of values with a parser that returns an `Option`; each value may occur once.
    pub fn list<T: PartialEq>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.try_list(key, allowed, |text| parse(text).ok_or(Allowed(allowed)))
    }

    /// Reads a list of values with a parser that returns an error; each value may occur once.
    pub fn try_list<T: PartialEq, E: Display>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        self.note(key, || outline::list(allowed));
        let items = match self.take(key)? {
            Value::Sequence(items) => items,
            other => {
                self.error(key, format!("found {}; allowed: a list, each {allowed}", kind(other)));
                return None;
            }
        };
        let mut list = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let read = match scalar(item) {
                Some(text) => parse(&text).map_err(|remark| Show::Always.message(&text, &remark)),
                None => Err(format!("found {}; allowed: {allowed}", kind(item))),
            };
            match read {
                Ok(value) if list.contains(&value) => {
                    self.error(&format!("{key}[{i}]"), "is in the list already");
                }
                Ok(value) => list.push(value),
                Err(message) => self.error(&format!("{key}[{i}]"), message),
            }
        }
        Some(list)
    }

    /// Reads a nested section; it is empty if the key is absent.
    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        if let Some(outline) = &self.report.outline {
            outline.borrow_mut().add_level(&self.path_of(key));
        }
        let value = self.take(key);
        Section::of(self.report, self.path_of(key), value)
    }

    /// Reads a list of sections.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let (report, path) = (self.report, self.path_of(key));
        if let Some(outline) = &report.outline {
            let each = format!("{path}[]");
            outline.borrow_mut().add_level(&each);
            return vec![Section::of(report, each, None)];
        }
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Sequence(items)) => {
                let numbered = items.iter().enumerate();
                numbered.map(|(i, item)| Section::of(report, format!("{path}[{i}]"), Some(item))).collect()
            }
            Some(other) => {
                report.error(path, format!("found {}; allowed: a list", kind(other)));
                Vec::new()
            }
        }
    }

    fn of(report: &'a Report, path: String, value: Option<&'a Value>) -> Self {
        let mapping = match value {
            None => None,
            Some(Value::Mapping(mapping)) => Some(mapping),
            Some(other) => {
                report.error(path.clone(), format!("found {}; allowed: keys with values", kind(other)));
                None
            }
        };
        Self { report, path, mapping, known: Vec::new() }
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.into(),
            false => format!("{}.{key}", self.path),
        }
    }

    /// Takes the value of a key, and marks the key as known. A key without a value counts as absent.
    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        let mapping = self.mapping?;
        self.known.push(key);
        mapping.get(key).filter(|value| !value.is_null())
    }

    fn one<T, A: Display, E: Display>(
        &mut self,
        key: &'static str,
        show: Show,
        allowed: impl Fn() -> A,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.note(key, || outline::single(&allowed().to_string()));
        let value = self.take(key)?;
        let read = match scalar(value) {
            Some(text) => parse(&text).map_err(|remark| show.message(&text, &remark)),
            None => Err(format!("found {}; allowed: {}", kind(value), allowed())),
        };
        read.map_err(|message| self.error(key, message)).ok()
    }
}

impl Show {
    /// An error message: what was found, and a remark.
    fn message(self, found: &str, remark: &impl Display) -> String {
        let hidden = match self {
            Self::Always => false,
            Self::UnlessCredential => found.contains(['@', '?', '#']),
            Self::Never => true,
        };
        match hidden {
            true => format!("{remark} (the value is not shown)"),
            false => format!("found {}; {remark}", quoted(found)),
        }
    }
}

/// Formats a number of bytes as people write it.
pub fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}"),
    }
}

/// What [`network`] accepts.
pub const NETWORK: &str = "an IP address, or a network such as 10.0.0.0/8";

/// Reads a network, or a single address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok())
}

/// A single value as text: YAML makes `8000` a number and `true` a boolean, while the environment has only text.
fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(bool) => Some(if *bool { "true" } else { "false" }.into()),
        _ => None,
    }
}

/// The type of a value, without its content: a misplaced value may be a secret.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "keys with values",
        Value::Tagged(_) => "a value with a YAML tag",
    }
}

/// Quotes text on one line, shortened if it is long.
fn quoted(text: &str) -> String {
    const MAX_QUOTED: usize = 80;
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// An unknown key, quoted unless it may be a misplaced API key.
fn nameable(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    match plain && (1..=30).contains(&name.len()) {
        true => format!("`{name}`"),
        false => "(not shown)".into(),
    }
}
