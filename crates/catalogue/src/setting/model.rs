//! Settings of a model, which apply to all servers that serve it.

use std::time::Duration;

use limits::{Field, Limits};

use super::{Setting, SettingParser, parse};
use crate::ModelName;

/// How the requests for one model are balanced over its servers. `None` means Modelgate's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is a setting; the table below says what it does")]
pub struct ModelSettings {
    pub strategy: Option<Strategy>,
    pub failover_status: Option<Vec<String>>,
    pub sticky_cookie: Option<String>,
    pub sticky_secure: Option<bool>,
    pub sticky_http_only: Option<bool>,
    pub sticky_same_site: Option<SameSite>,
    pub sticky_max_age: Option<Duration>,
    pub canary_model: Option<ModelName>,
    pub canary_percent: Option<u8>,
    pub mirror_model: Option<ModelName>,
    pub mirror_percent: Option<u8>,
    pub healthcheck_path: Option<String>,
    pub healthcheck_interval: Option<Duration>,
    pub healthcheck_timeout: Option<Duration>,
    pub healthcheck_status: Option<u16>,
    pub passive_max_failed_attempts: Option<u16>,
    pub passive_failure_window: Option<Duration>,
    pub timeout_response_header: Option<Duration>,
    pub timeout_dial: Option<Duration>,
    pub timeout_idle: Option<Duration>,
    pub retry_attempts: Option<u8>,
    pub concurrency_max: Option<u32>,
    pub concurrency_per_key: Option<u32>,
    pub concurrency_per_consumer: Option<u32>,
    pub concurrency_native: Option<bool>,
    pub limits: Limits,
    pub answer_tokens: Option<u32>,
    pub context_tokens: Option<u32>,
    pub pick_per_consumer: Option<bool>,
    pub pick_wait: Option<Duration>,
}

/// Who chooses among servers, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Traefik, in turn by weight.
    Wrr,
    /// Traefik, the less busy of two.
    P2c,
    /// Traefik, by the client's address.
    Hrw,
    /// Traefik, the quickest.
    LeastTime,
    /// Modelgate, by what a server has to do and what of the prompt it has in its cache.
    Cache,
    /// Modelgate, by what a server has to do.
    LeastBusy,
}

/// A cookie's `SameSite` (RFC 6265bis §4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum SameSite {
    None,
    Lax,
    Strict,
}

impl Strategy {
    /// The word for it; Traefik's own for those that are Traefik's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wrr => "wrr",
            Self::P2c => "p2c",
            Self::Hrw => "hrw",
            Self::LeastTime => "leasttime",
            Self::Cache => "cache",
            Self::LeastBusy => "least-busy",
        }
    }

    /// Whether Modelgate chooses the server of each request.
    pub fn is_modelgates(self) -> bool {
        matches!(self, Self::Cache | Self::LeastBusy)
    }
}

impl SameSite {
    /// Traefik's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lax => "lax",
            Self::Strict => "strict",
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
/// Traefik waits for 30 s for the answer to its question, and it takes some time to ask.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
const MODEL: &str = "the name of a model, not this one";
const PERCENT: &str = "a whole number from 0 to 100";
const BOOL: &str = "true or false";
const COUNT: &str = "a whole number from 1 to 1000000";
const TOKENS: &str = "a whole number from 1 to 60000000";

/// A row of the table: `field = reader(text)`.
macro_rules! setting {
    ($key:literal, $since:literal, $meaning:expr, $default:expr, $allowed:expr, $field:ident, $reader:expr) => {
        Setting {
            key: $key,
            meaning: $meaning,
            default: $default,
            allowed: $allowed,
            since: $since,
            read: SettingParser::Model(|settings, text| {
                let reader: fn(&str) -> Option<_> = $reader;
                settings.$field = Some(reader(text)?);
                Some(())
            }),
        }
    };
}

/// A row for a limit over all keys. The `limits` crate parses the value, as it does all limits.
const fn limit(key: &'static str, field: Field, meaning: &'static str, default: &'static str) -> Setting {
    Setting { key, meaning, default, allowed: field.allowed(), since: "", read: SettingParser::Limit(field) }
}

pub(super) const SETTINGS: &[Setting] = &[
    setting!(
        "strategy",
        "3.4 p2c; 3.6 hrw, leasttime; 3.6.2 cache, least-busy",
        "How a server is chosen. By Traefik: weighted round robin, the less busy of two, by client address, or the quickest. By \
         Modelgate, for each request (docs/server-choice.md): cache, where the prompt's beginning is in the cache and little waits; \
         least-busy, where least waits",
        "wrr",
        "wrr, p2c, hrw, leasttime, cache or least-busy",
        strategy,
        |text| Some(match text {
            "wrr" => Strategy::Wrr,
            "p2c" => Strategy::P2c,
            "hrw" => Strategy::Hrw,
            "leasttime" => Strategy::LeastTime,
            "cache" => Strategy::Cache,
            "least-busy" => Strategy::LeastBusy,
            _ => return None,
        })
    ),
    setting!(
        "failover.status",
        "3.7",
        "A backup (see priority) also gets requests that a primary answered with one of these statuses",
        "none",
        "statuses and ranges separated by commas, such as 500-599,429",
        failover_status,
        parse::statuses
    ),
    setting!(
        "sticky.cookie",
        "",
        "A client that sends this cookie back stays with its server; Traefik sets it",
        "none",
        "a cookie's name: 1 to 64 letters, digits and !#$%&'*+-.^_|~",
        sticky_cookie,
        parse::token
    ),
    setting!(
        "sticky.secure",
        "",
        "The cookie is sent over https only",
        "false",
        BOOL,
        sticky_secure,
        parse::bool
    ),
    setting!(
        "sticky.http_only",
        "",
        "Scripts in a browser cannot read the cookie",
        "true",
        BOOL,
        sticky_http_only,
        parse::bool
    ),
    setting!(
        "sticky.same_site",
        "",
        "Whether other sites' pages send the cookie",
        "the browser's",
        "none, lax or strict",
        sticky_same_site,
        |text| Some(match text {
            "none" => SameSite::None,
            "lax" => SameSite::Lax,
            "strict" => SameSite::Strict,
            _ => return None,
        })
    ),
    setting!(
        "sticky.max_age",
        "",
        "How long a browser keeps the cookie",
        "until it is closed",
        "a time with its unit, from 1s to 8760h",
        sticky_max_age,
        |text| parse::duration(text, SECOND..=365 * DAY)
    ),
    setting!(
        "canary.model",
        "",
        "Another model whose servers get a part of this model's requests; they must accept this model's name",
        "none",
        MODEL,
        canary_model,
        |text| ModelName::new(text).ok()
    ),
    setting!("canary.percent", "", "How large that part is", "10", PERCENT, canary_percent, |text| {
        parse::number(text, 0..=100)
    }),
    setting!(
        "mirror.model",
        "",
        "Another model whose servers get copies of this model's requests, their answers unused; they must accept this model's name",
        "none",
        MODEL,
        mirror_model,
        |text| ModelName::new(text).ok()
    ),
    setting!(
        "mirror.percent",
        "",
        "Of how many requests they get a copy",
        "100",
        PERCENT,
        mirror_percent,
        |text| parse::number(text, 0..=100)
    ),
    setting!(
        "healthcheck.path",
        "",
        "Path by which Traefik checks each server",
        "its model list; none for servers whose models are given by hand",
        "a path such as /health, or off",
        healthcheck_path,
        |text| if text == "off" { Some(String::new()) } else { parse::path(text) }
    ),
    setting!(
        "healthcheck.interval",
        "",
        "How often",
        "10s",
        "a time with its unit, from 1s to 1h",
        healthcheck_interval,
        |text| parse::duration(text, SECOND..=HOUR)
    ),
    setting!(
        "healthcheck.timeout",
        "",
        "How long Traefik waits for the answer",
        "5s",
        "a time with its unit, from 100ms to 1h",
        healthcheck_timeout,
        |text| parse::duration(text, Duration::from_millis(100)..=HOUR)
    ),
    setting!(
        "healthcheck.status",
        "",
        "The status that means healthy",
        "any 2xx or 3xx",
        "a status from 100 to 599",
        healthcheck_status,
        |text| parse::number(text, 100..=599)
    ),
    setting!(
        "passive_healthcheck.max_failed_attempts",
        "3.6",
        "A server is left out after so many failed requests",
        "off",
        "a whole number from 1 to 1000",
        passive_max_failed_attempts,
        |text| parse::number(text, 1..=1000)
    ),
    setting!(
        "passive_healthcheck.failure_window",
        "3.6",
        "In how much time they count, and for how long the server is left out",
        "10s",
        "a time with its unit, from 1s to 1h",
        passive_failure_window,
        |text| parse::duration(text, SECOND..=HOUR)
    ),
    setting!(
        "timeout.response_header",
        "",
        "How long a server may take until its answer begins; 0s for ever. An answer that is not streamed begins when it is complete",
        "0s",
        "a time with its unit, from 0s to 24h",
        timeout_response_header,
        |text| parse::duration(text, Duration::ZERO..=DAY)
    ),
    setting!(
        "timeout.dial",
        "",
        "How long connecting to a server may take",
        "500ms; 5s over https",
        "a time with its unit, from 10ms to 1h",
        timeout_dial,
        |text| parse::duration(text, Duration::from_millis(10)..=HOUR)
    ),
    setting!(
        "timeout.idle",
        "",
        "How long an unused connection to a server is kept; shorter than the server keeps it",
        "4s",
        "a time with its unit, from 1s to 1h",
        timeout_idle,
        |text| parse::duration(text, SECOND..=HOUR)
    ),
    setting!(
        "retry.attempts",
        "",
        "How often a request is tried in all, if no server takes it; an answer that has begun is never tried again",
        "12",
        "a whole number from 1 (never again) to 50",
        retry_attempts,
        |text| parse::number(text, 1..=50)
    ),
    setting!(
        "concurrency.max",
        "",
        "How many requests may be under way at once",
        "no limit",
        COUNT,
        concurrency_max,
        |text| parse::number(text, 1..=1_000_000)
    ),
    setting!(
        "concurrency.per_key",
        "",
        "How many of them may be one API key's",
        "no limit",
        COUNT,
        concurrency_per_key,
        |text| parse::number(text, 1..=1_000_000)
    ),
    setting!(
        "concurrency.per_consumer",
        "",
        "How many of them may be one consumer's, over all its keys",
        "no limit",
        COUNT,
        concurrency_per_consumer,
        |text| parse::number(text, 1..=1_000_000)
    ),
    setting!(
        "concurrency.native",
        "",
        "Whether Modelgate words the 429 of these limits as the client's SDK expects; it then also words a server's own 429",
        "true if all servers are of a kind that never answers 429 (vLLM, SGLang, llama.cpp, Ollama)",
        BOOL,
        concurrency_native,
        parse::bool
    ),
    limit(
        "limit.requests_per_second",
        Field::RequestsPerSecond,
        "How many requests a second, over all keys",
        "no limit",
    ),
    limit(
        "limit.requests_per_minute",
        Field::RequestsPerMinute,
        "How many requests a minute, over all keys",
        "no limit",
    ),
    limit(
        "limit.requests_per_hour",
        Field::RequestsPerHour,
        "How many requests an hour, over all keys",
        "no limit",
    ),
    limit(
        "limit.burst",
        Field::Burst,
        "How many of them at once, after a pause; it is that of the shortest of these times",
        "the whole amount",
    ),
    limit(
        "limit.tokens_per_minute",
        Field::TokensPerMinute,
        "How many tokens a minute, over all keys, as estimated when a request comes",
        "no limit",
    ),
    limit(
        "limit.tokens_burst",
        Field::TokensBurst,
        "How many of them at once, after a pause",
        "limit.tokens_per_minute",
    ),
    limit(
        "limit.requests_per_day",
        Field::RequestsPerDay,
        "How many requests in each day of time_zone, over all keys",
        "no limit",
    ),
    limit(
        "limit.requests_per_month",
        Field::RequestsPerMonth,
        "How many requests in each month of time_zone, over all keys",
        "no limit",
    ),
    limit(
        "limit.tokens_per_day",
        Field::TokensPerDay,
        "How many tokens in each day of time_zone, over all keys, as estimated when a request comes",
        "no limit",
    ),
    limit(
        "limit.tokens_per_month",
        Field::TokensPerMonth,
        "How many tokens in each month of time_zone, over all keys, as estimated when a request comes",
        "no limit",
    ),
    limit(
        "limit.budget_per_day",
        Field::BudgetPerDay,
        "How much may be spent in each day of time_zone, over all keys, by prices",
        "no limit",
    ),
    limit(
        "limit.budget_per_week",
        Field::BudgetPerWeek,
        "How much may be spent in each week of time_zone, over all keys, by prices; weeks begin on Monday",
        "no limit",
    ),
    limit(
        "limit.budget_per_month",
        Field::BudgetPerMonth,
        "How much may be spent in each month of time_zone, over all keys, by prices",
        "no limit",
    ),
    limit(
        "limit.budget_total",
        Field::BudgetTotal,
        "How much may be spent in all, over all keys, by prices",
        "no limit",
    ),
    limit(
        "limit.budget_kind",
        Field::BudgetKind,
        "hard: a request is admitted only if the most that it can cost is left; usual: if its estimated cost is left",
        "usual",
    ),
    setting!(
        "answer_tokens",
        "",
        "How many tokens the answer of a request is estimated at that does not say how long it may be",
        "1000",
        TOKENS,
        answer_tokens,
        |text| parse::number(text, 1..=60_000_000)
    ),
    setting!(
        "context_tokens",
        "",
        "The longest context of the model, for servers that do not tell theirs: hard budgets take no more than this for a prompt, nor for \
         an answer. For Ollama the longest that the model can have (a request may ask for it), and of prompts only",
        "unknown",
        TOKENS,
        context_tokens,
        |text| parse::number(text, 1..=60_000_000)
    ),
    setting!(
        "pick.per_consumer",
        "3.6.2",
        "With strategy cache, whether a consumer's requests are sent where its own prompts were, whatever others have sent: then \
         the time of an answer tells nothing of others' prompts by this choice",
        "false",
        BOOL,
        pick_per_consumer,
        parse::bool
    ),
    setting!(
        "pick.wait",
        "3.6.2",
        "With strategy cache or least-busy: how long a request waits while all servers of the model are full, before it is refused",
        "0s: requests do not wait, and queue at the servers",
        "a time with its unit, from 0s to 25s",
        pick_wait,
        |text| parse::duration(text, Duration::ZERO..=LONGEST_WAIT)
    ),
];
