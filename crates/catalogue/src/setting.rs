//! Routing settings of servers and models.
//!
//! One [`Setting`] is one label (`inference.weight`) and one key of the configuration file (`servers[].weight`, and for a
//! model's settings also `models[].strategy`): the same function reads both and the same row of the reference describes both,
//! so that they cannot drift apart.
//!
//! Their names follow Traefik's labels where Traefik has such a setting
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/load-balancing/service/>).

mod model;
mod parse;
mod server;

use std::{borrow::Cow, collections::BTreeMap};

use limits::{Field, LimitSpec, Lone};

pub use model::{ModelSettings, SameSite, Strategy};
pub(crate) use parse::bool as parse_bool;
pub use server::{Accepts, Alias, OpenPath, ServerSettings};

/// One setting: a label, and a key of the configuration file.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The label's name after `inference.`; a dot is a level of the configuration file.
    pub key: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// The value if it is absent.
    pub default: &'static str,
    /// The allowed values.
    pub allowed: &'static str,
    /// The first Traefik version in which it has an effect; empty for any.
    pub since: &'static str,
    read: SettingParser,
}

/// Reads a value into the settings; `None` if it is not allowed.
#[derive(Debug, Clone, Copy)]
enum SettingParser {
    Server(fn(&mut ServerSettings, &str) -> Option<()>),
    Model(fn(&mut ModelSettings, &str) -> Option<()>),
    /// A limit of a model; several fields together make one limit.
    Limit(Field),
}

/// A setting has a value that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {allowed}")]
pub struct NotAllowed {
    /// The allowed values.
    pub allowed: &'static str,
}

/// Settings of a model as they were given: checked, but not yet merged with those from elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenModelSettings(BTreeMap<&'static str, String>);

/// All settings in the order of the reference.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    server::SETTINGS.iter().chain(model::SETTINGS)
}

impl Setting {
    /// Finds a setting by its key.
    pub fn find(key: &str) -> Option<&'static Self> {
        settings().find(|setting| setting.key == key)
    }

    /// Whether it applies to a model (all of its servers) instead of one server.
    pub fn is_of_model(&self) -> bool {
        !matches!(self.read, SettingParser::Server(_))
    }

    /// The part of a value that an error may show: a condition on a header may hold a credential, and so may the query of a path.
    pub fn told<'t>(&self, value: &'t str) -> Cow<'t, str> {
        let end = match self.key {
            "select.header" | "select.header_regexp" => value.find(':').map(|colon| colon + 1),
            key if key.ends_with("path") => value.find(['?', '#']),
            _ => None,
        };
        end.map_or(value.into(), |end| format!("{}…", &value[..end]).into())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn read(
        &'static self,
        text: &str,
        server: &mut ServerSettings,
        model: &mut GivenModelSettings,
    ) -> Result<(), NotAllowed> {
        let text = text.trim();
        let read = match self.read {
            SettingParser::Server(read) => read(server, text).map(|()| {
                server.given.insert(self.key, text.to_owned());
            }),
            SettingParser::Model(read) => read(&mut ModelSettings::default(), text).map(|()| {
                model.0.insert(self.key, text.to_owned());
            }),
            SettingParser::Limit(field) => field.read(text).map(|_| {
                model.0.insert(self.key, text.to_owned());
            }),
        };
        read.ok_or(NotAllowed { allowed: self.allowed })
    }
}

impl GivenModelSettings {
    /// Whether no setting was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The given values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// The fault, beginning with the setting's key.
    pub fn check(&self) -> Result<(), &'static str> {
        const NEEDS: [(&str, &str, &str); 8] = [
            ("canary.percent", "canary.model", "canary.percent is given without canary.model"),
            ("mirror.percent", "mirror.model", "mirror.percent is given without mirror.model"),
            ("sticky.secure", "sticky.cookie", "sticky.secure is given without sticky.cookie"),
            ("sticky.http_only", "sticky.cookie", "sticky.http_only is given without sticky.cookie"),
            ("sticky.same_site", "sticky.cookie", "sticky.same_site is given without sticky.cookie"),
            ("sticky.max_age", "sticky.cookie", "sticky.max_age is given without sticky.cookie"),
            (
                "passive_healthcheck.failure_window",
                "passive_healthcheck.max_failed_attempts",
                "passive_healthcheck.failure_window is given without passive_healthcheck.max_failed_attempts",
            ),
            (
                "concurrency.native",
                "concurrency",
                "concurrency.native is given without concurrency.max, concurrency.per_key or concurrency.per_consumer",
            ),
        ];
        self.limits().check().map_err(|lone| match lone {
            Lone::Burst => "limit.burst is given without limit.requests_per_minute or another time",
            Lone::TokensBurst => "limit.tokens_burst is given without limit.tokens_per_minute",
            Lone::BudgetKind => "limit.budget_kind is given without limit.budget_per_month or another budget",
        })?;
        let has = |key: &str| match key {
            "concurrency" => ["max", "per_key", "per_consumer"]
                .iter()
                .any(|of| self.0.contains_key(format!("concurrency.{of}").as_str())),
            key => self.0.contains_key(key),
        };
        let fault = NEEDS.iter().find(|(key, needed, _)| has(key) && !has(needed));
        fault.map_or(Ok(()), |(_, _, fault)| Err(*fault))
    }

    /// Adds the settings that are missing here. Returns the keys for which both have different values; the values here are kept.
    pub(crate) fn fill_in(&mut self, other: &Self) -> Vec<&'static str> {
        let mut conflicts = Vec::new();
        for (key, value) in &other.0 {
            match self.0.get(key) {
                Some(here) if here != value => conflicts.push(*key),
                Some(_) => {}
                None => {
                    self.0.insert(key, value.clone());
                }
            }
        }
        conflicts
    }

    /// The given value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The settings that result from the given values.
    pub fn resolve(&self) -> ModelSettings {
        let mut settings = ModelSettings { limits: self.limits().limits(), ..ModelSettings::default() };
        for (key, value) in &self.0 {
            if let Some(SettingParser::Model(read)) = Setting::find(key).map(|setting| setting.read) {
                // The value was parsed successfully when it was given.
                let _ = read(&mut settings, value);
            }
        }
        settings
    }

    fn limits(&self) -> LimitSpec {
        let number = |(key, text): (&&str, &String)| match Setting::find(key)?.read {
            SettingParser::Limit(field) => Some((field, field.read(text)?)),
            SettingParser::Server(_) | SettingParser::Model(_) => None,
        };
        self.0.iter().filter_map(number).collect()
    }
}

#[cfg(test)]
mod tests;
