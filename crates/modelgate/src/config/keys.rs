//! `keys:` and `models:` — who may use which model, and how often.

use std::sync::Arc;

use access::{Key, KeyDigest, ModelGlobs, Rate};
use catalogue::{GivenModelSettings, ServerSettings, Setting};
use serde_yaml::Value;

use super::section::Section;

/// What names of keys and consumers may be. A consumer goes into a header.
pub(crate) const NAME: &str = "1 to 64 letters, digits and ._@:-";
const SHA256: &str =
    "64 hexadecimal digits, the SHA-256 of an API key as `modelgate keys generate` prints it";
const GLOB: &str = "the name of a model, or a pattern with * and ? such as \"llama*\"";

/// The list of keys that one key in clear stands for. It is kept as a digest only, as in the file.
pub(super) fn from_clear(key: &str) -> Result<Value, &'static str> {
    // It must survive the way through a header (RFC 9110 §5.5); nothing is trimmed silently.
    if !(1..=512).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("allowed: 1 to 512 visible ASCII characters, without spaces");
    }
    let digest = KeyDigest::of(key).to_hex();
    let entry = [("name", "default"), ("consumer", "default"), ("sha256", digest.as_str())];
    let entry = entry.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    Ok(Value::Sequence(vec![Value::Mapping(entry)]))
}

pub(super) fn read(sections: Vec<Section<'_>>) -> Vec<Key> {
    let mut keys: Vec<(usize, Key)> = Vec::with_capacity(sections.len());
    for (i, mut section) in sections.into_iter().enumerate() {
        if let Some(key) = read_one(&mut section) {
            if let Some((other, _)) = keys.iter().find(|(_, other)| other.name == key.name) {
                let message =
                    format!("keys[{other}] is called {:?} too; allowed: a name of its own", key.name);
                section.error("name", message);
            }
            if let Some((other, _)) = keys.iter().find(|(_, other)| other.digest == key.digest) {
                section
                    .error("sha256", format!("is the same as in keys[{other}]; allowed: each API key once"));
            }
            keys.push((i, key));
        }
        section.finish();
    }
    keys.into_iter().map(|(_, key)| key).collect()
}

/// `models:` — settings of the models that a pattern matches, whatever their servers say.
pub(super) fn read_models(sections: Vec<Section<'_>>) -> Vec<(ModelGlobs, GivenModelSettings)> {
    let read = |mut section: Section<'_>| {
        let models = section.try_get("match", GLOB, |text| glob(text).and_then(|g| globs(&[g])));
        section.require("match", GLOB);
        let mut given = GivenModelSettings::default();
        section.settings(&mut ServerSettings::default(), &mut given, Setting::is_of_model);
        if let Err(fault) = given.check() {
            section.error(fault.split(' ').next().unwrap_or_default(), fault);
        }
        if section.has_only("match") {
            section.error(
                "match",
                "is all there is; allowed: with at least one setting, such as limit or timeout",
            );
        }
        section.finish();
        Some((models?, given))
    };
    sections.into_iter().filter_map(read).collect()
}

fn read_one(section: &mut Section<'_>) -> Option<Key> {
    let name = section.get("name", NAME, name);
    section.require("name", NAME);
    let consumer = section.get("consumer", NAME, |text| self::name(text).map(Arc::from));
    section.require("consumer", NAME);
    let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
    section.require("sha256", SHA256);
    let models = section.try_list("models", GLOB, glob);
    if let Some(models) = &models {
        section.require_some("models", models);
    }
    let models = match models {
        Some(patterns) => globs(&patterns).ok()?,
        None => ModelGlobs::all(),
    };
    let limit = rate(section, "limit");
    let limit_per_model = rate(section, "limit_per_model");
    let manage = section.bool("manage").unwrap_or(false);
    Some(Key { name: name?, consumer: consumer?, digest: digest?, models, limit, limit_per_model, manage })
}

fn rate(section: &mut Section<'_>, key: &'static str) -> Option<Rate> {
    const PER_MINUTE: &str = "requests_per_minute";
    let given = section.has(key);
    let mut limit = section.section(key);
    let per_minute = limit.number(PER_MINUTE, 1..=Rate::MAX);
    if given {
        limit.require(PER_MINUTE, &format!("a whole number from 1 to {}", Rate::MAX));
    }
    let burst = limit.number("burst", 1..=Rate::MAX);
    limit.finish();
    Rate::per_minute(per_minute?, burst).ok()
}

/// A pattern that can be used; the reason if it cannot.
fn glob(text: &str) -> Result<String, String> {
    globs(&[text.into()]).map(|_| text.into())
}

fn globs(patterns: &[String]) -> Result<ModelGlobs, String> {
    ModelGlobs::parse(patterns).map_err(|invalid| format!("{}; allowed: {GLOB}", invalid.reason))
}

/// Checks the name of a key or a consumer.
pub(crate) fn name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._@:-".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}
