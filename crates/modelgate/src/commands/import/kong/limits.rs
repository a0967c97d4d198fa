//! `rate-limiting`, `rate-limiting-advanced` and `ai-rate-limiting-advanced` as limits
//! (<https://developer.konghq.com/plugins/rate-limiting/reference/>,
//! <https://developer.konghq.com/plugins/rate-limiting-advanced/reference/>,
//! <https://developer.konghq.com/plugins/ai-rate-limiting-advanced/reference/>).
//!
//! A limit that cannot be expressed exactly becomes the nearest stricter one, and that is reported.

use serde_json::{Map, Value};

use super::effect::Effect;
use crate::commands::import::{
    fields::{FieldsOf, Meaning, UnimportedField, harmless, is_given},
    found::{Findings, Limit, Per},
};

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
/// Lengths of a month in seconds: Kong's have 30 days, an average one 30.4, the longest 31.
const MONTHS: [u64; 3] = [30 * DAY, 2_628_000, 31 * DAY];

const OF_REQUESTS: [(u64, Per, &str); 5] = [
    (SECOND, Per::RequestsPerSecond, "second"),
    (MINUTE, Per::RequestsPerMinute, "minute"),
    (HOUR, Per::RequestsPerHour, "hour"),
    (DAY, Per::RequestsPerDay, "day"),
    (31 * DAY, Per::RequestsPerMonth, "month"),
];
const OF_TOKENS: [(u64, Per, &str); 3] = [
    (MINUTE, Per::TokensPerMinute, "minute"),
    (DAY, Per::TokensPerDay, "day"),
    (31 * DAY, Per::TokensPerMonth, "month"),
];

/// Settings about how to count and answer, which do not change the amount.
const HOW: &[UnimportedField] = &[
    harmless("policy", "where it is counted"),
    harmless("strategy", "where it is counted"),
    harmless("sync_rate", "how often counters are shared"),
    harmless("namespace", "what counters are called"),
    harmless("dictionary_name", "what counters are called"),
    harmless("lock_dictionary_name", "what counters are called"),
    harmless("redis", "where it is counted"),
    harmless("redis_host", "where it is counted"),
    harmless("redis_port", "where it is counted"),
    harmless("redis_password", "where it is counted"),
    harmless("redis_username", "where it is counted"),
    harmless("redis_ssl", "where it is counted"),
    harmless("redis_ssl_verify", "where it is counted"),
    harmless("redis_server_name", "where it is counted"),
    harmless("redis_timeout", "where it is counted"),
    harmless("redis_database", "where it is counted"),
    harmless("fault_tolerant", "what happens when counters are out of reach; see shared_limits.fail"),
    harmless("hide_client_headers", "what answers say of it"),
    harmless("error_code", "what answers say of it"),
    harmless("error_message", "what answers say of it"),
    harmless("error_hide_providers", "what answers say of it"),
    harmless("retry_after_jitter_max", "what answers say of it"),
    harmless("header_name", "for limits by a header, which hold the keys"),
    harmless("path", "for limits by a path, which hold the keys"),
    harmless("window_type", "whether a time slides or begins anew"),
    harmless("disable_penalty", "whether refused requests count; here they do not"),
    harmless("throttling", "whether requests wait; here they are refused"),
    harmless("consumer_groups", "groups whose own limits count, which are read there"),
    harmless("enforce_consumer_groups", "groups whose own limits count, which are read there"),
    harmless("llm_format", "the form of requests"),
];

/// Reads a plugin's settings.
struct LimitsReader<'c, 'f> {
    plugin: &'static str,
    config: &'c Map<String, Value>,
    findings: &'f mut Findings,
}

/// Requests per second, minute, hour, day, month and year.
pub(super) fn rate_limiting(config: &Map<String, Value>, findings: &mut Findings) -> Effect {
    const UNDERSTOOD: &[&str] = &["second", "minute", "hour", "day", "month", "year", "limit_by"];
    let mut reader = LimitsReader { plugin: "rate-limiting", config, findings };
    reader.look(UNDERSTOOD);
    let mut limit = Limit::default();
    for (_, per, name) in OF_REQUESTS {
        match config.get(name).filter(|value| !value.is_null()).map(whole) {
            None => {}
            Some(Some(amount)) => limit.add(per, amount),
            Some(None) => reader.hold(&format!("its limit per {name}, which is not 1 or more")),
        }
    }
    if config.get("year").is_some_and(|year| !year.is_null()) {
        reader.hold("its limit per year; Modelgate limits per second to month");
    }
    if limit.is_empty() {
        reader.hold("it has no limit");
    }
    reader.by("limit_by", limit)
}

/// Requests per windows of any length.
pub(super) fn advanced(config: &Map<String, Value>, findings: &mut Findings) -> Effect {
    const UNDERSTOOD: &[&str] = &["limit", "window_size", "identifier", "compound_identifier"];
    let mut reader = LimitsReader { plugin: "rate-limiting-advanced", config, findings };
    reader.look(UNDERSTOOD);
    let limit = reader.windows(config, &OF_REQUESTS, "requests");
    reader.by("identifier", limit)
}

/// Tokens per windows of any length, by provider; the smallest of several limits applies to all.
pub(super) fn of_tokens(config: &Map<String, Value>, findings: &mut Findings) -> Effect {
    const UNDERSTOOD: &[&str] =
        &["llm_providers", "tokens_count_strategy", "identifier", "compound_identifier"];
    let mut reader = LimitsReader { plugin: "ai-rate-limiting-advanced", config, findings };
    reader.look(UNDERSTOOD);
    let strategy = config.get("tokens_count_strategy").and_then(Value::as_str).unwrap_or("total_tokens");
    if !["total_tokens", "prompt_tokens", "completion_tokens"].contains(&strategy) {
        reader.hold("it counts no tokens");
        return Effect::default();
    }
    let mut limit = Limit::default();
    let providers = config.get("llm_providers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if providers.is_empty() {
        reader.hold("it has no limit");
    }
    for provider in providers {
        match provider.as_object() {
            // It counts what a Lua function returns.
            Some(provider) if provider.get("name").and_then(Value::as_str) == Some("requestPrompt") => {
                reader.hold("its limit by a function");
            }
            Some(provider) => limit.add_all(&reader.windows(provider, &OF_TOKENS, "tokens")),
            None => reader.hold("a provider that is no mapping"),
        }
    }
    reader.by("identifier", limit)
}

impl LimitsReader<'_, '_> {
    fn hold(&mut self, text: &str) {
        self.findings.hold(self.plugin, format!("its {}: {text}", self.plugin));
    }

    /// Reports settings that are not understood.
    fn look(&mut self, understood: &[&str]) {
        let whose = format!("its {}'s ", self.plugin);
        let place = FieldsOf {
            whose: &whose,
            understood,
            tables: &[HOW],
            unknown: Meaning::Restricts,
            restriction: Some(self.plugin),
        };
        place.look(self.config, self.findings);
    }

    /// Reads `limit` and `window_size`, each a number, or both lists of the same length.
    fn windows(&mut self, of: &Map<String, Value>, times: &[(u64, Per, &str)], unit: &str) -> Limit {
        let numbers = |key: &str| match of.get(key) {
            Some(Value::Array(items)) => items.iter().map(whole).collect::<Option<Vec<_>>>(),
            Some(one) => whole(one).map(|one| vec![one]),
            None => None,
        };
        let mut limit = Limit::default();
        match numbers("limit").zip(numbers("window_size")) {
            Some((amounts, windows)) if amounts.len() == windows.len() && !amounts.is_empty() => {
                for (amount, window) in amounts.into_iter().zip(windows) {
                    self.window(amount, window, times, unit, &mut limit);
                }
            }
            _ => self.hold("its limit and window_size, which are not as many whole numbers from 1"),
        }
        limit
    }

    /// Converts a window to the next longer one that Modelgate has, with the same amount, which is never more.
    fn window(
        &mut self,
        amount: u64,
        window: u64,
        times: &[(u64, Per, &str)],
        unit: &str,
        limit: &mut Limit,
    ) {
        let Some((time, per, name)) = times.iter().find(|(time, ..)| window <= *time) else {
            return self.hold(&format!("its limit in {window} s; the longest time here is a month"));
        };
        limit.add(*per, amount);
        if window != *time && !(*name == "month" && MONTHS.contains(&window)) {
            let text = format!(
                "its {}: {amount} {unit} in {window} s are taken over as {amount} a {name}",
                self.plugin
            );
            self.findings.differ(text);
        }
    }

    /// To whom the limit applies. A consumer's own limit may stand for a limit per address, because it is stricter. One limit
    /// shared by several consumers cannot become one for each, because that would allow more.
    fn by(&mut self, setting: &str, limit: Limit) -> Effect {
        let compound = self.config.get("compound_identifier").filter(|value| is_given(value));
        let by: Vec<&str> = match (compound, self.config.get(setting)) {
            (Some(Value::Array(parts)), _) => parts.iter().filter_map(Value::as_str).collect(),
            (Some(_), _) => Vec::new(),
            (None, None | Some(Value::Null)) => vec!["consumer"],
            (None, Some(by)) => by.as_str().into_iter().collect(),
        };
        if by.contains(&"consumer") || by == ["ip"] {
            return Effect { of_consumer: limit, ..Effect::default() };
        }
        if by.contains(&"credential") {
            return Effect { of_key: limit, ..Effect::default() };
        }
        self.hold(&format!("its {setting}; Modelgate limits keys, consumers and models"));
        Effect::default()
    }
}

/// A whole number from 1; fractions are rounded down.
fn whole(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut off on purpose")]
    let floor = |number: f64| number as u64;
    value.as_u64().or_else(|| value.as_f64().map(floor)).filter(|number| *number > 0)
}
