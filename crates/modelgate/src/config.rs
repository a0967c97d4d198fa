//! The configuration: one YAML file, and environment variables that override it.
//!
//! Everything is read and checked before any port is bound. Unknown keys and variables are refused, and all errors are reported
//! together, each with its key, what was found (unless it may be secret) and what is allowed. A file that is empty or has only
//! comments means: all defaults.
//!
//! ```text
//! file ─parse─▶ YAML ◀─put in─ environment      (env.rs)
//!                 └─Section by Section─▶ Config  (one file per section)
//! ```

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ::admin::Doubt;
use ::prices::PriceList;
use ::store::StoreUrl;
use catalogue::{GivenModelSettings, ModelGlobs};
use jiff::tz::TimeZone;
use limits::{Limits, Reserve, Unit};
use otlp_receiver::TokenDigest;
use serde_yaml::{Mapping, Value};
use telemetry::{MOST_TALLIES, TallyBounds};

mod admin;
mod alerts;
mod docker;
mod env;
pub(crate) mod files;
mod host;
mod keys;
mod metering;
mod origin;
mod prices;
mod requests;
mod servers;
mod shown;
mod store;
mod traefik;

pub(crate) use admin::AdminConfig;
pub(crate) use alerts::AlertsConfig;
pub(crate) use config_reader::{ConfigError, ConfigErrors};
pub(crate) use docker::{DockerConfig, Enabled};
pub(crate) use env::{ACTOR, Env};
pub(crate) use keys::{Accounts, JwtIssuer};
pub(crate) use metering::MeteringConfig;
pub(crate) use origin::{GivenSetting, named_by};
pub(crate) use prices::{PRICE_KEYS, day_begins};
pub(crate) use requests::{RequestsConfig, is_key_header};
pub(crate) use servers::StaticServer;
pub(crate) use store::{SharedLimitsConfig, SharedLimitsOptions, StoreConfig, UsageConfig};
pub(crate) use traefik::TraefikConfig;

use config_reader::{Report, Section};

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where to listen.
    pub(crate) listen: Listen,
    /// How what requests have used is found out.
    pub(crate) metering: MeteringConfig,
    /// How many consumers, models and servers have series of their own in `/metrics`.
    pub(crate) metrics: TallyBounds,
    /// Who is told when something needs attention.
    pub(crate) alerts: AlertsConfig,
    /// What is rendered for Traefik.
    pub(crate) traefik: TraefikConfig,
    /// Limits on request bodies.
    pub(crate) requests: RequestsConfig,
    /// The Docker host.
    pub(crate) docker: DockerConfig,
    /// The servers that are configured here and not by labels.
    pub(crate) servers: Vec<StaticServer>,
    /// API keys, and the identity providers whose tokens are accepted.
    pub(crate) accounts: Accounts,
    /// Settings of models by pattern. For each setting, the first matching pattern that has it applies.
    pub(crate) models: Vec<(ModelGlobs, GivenModelSettings)>,
    /// What models cost.
    pub(crate) prices: PriceList,
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Where accounts and counts are kept in addition to the file.
    pub(crate) store: StoreConfig,
    /// How long usage is kept.
    pub(crate) usage: UsageConfig,
    /// The server that counts limits for several replicas of Modelgate.
    pub(crate) shared_limits: Option<SharedLimitsConfig>,
    /// The time zone in which the days and months of quotas end.
    pub(crate) time_zone: TimeZone,
    /// Who may use the dashboard.
    pub(crate) admin: AdminConfig,
    /// Where the CA is kept across restarts.
    pub(crate) state_dir: Option<PathBuf>,
    /// The log.
    pub(crate) log: LogConfig,
    /// Which settings were given, and where.
    pub(crate) given: Vec<GivenSetting>,
    /// All that was given, with secrets hidden.
    pub(crate) shown: String,
    /// Secrets that are kept elsewhere and could not be read there. A command that does not need them goes on without.
    pub(crate) unread_secrets: Vec<ConfigError>,
    /// Settings that are allowed but probably not intended; shown to the operator.
    pub(crate) warnings: Vec<Doubt>,
}

/// `listen:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Where Traefik polls.
    pub(crate) provider: SocketAddr,
    /// Where Traefik asks about requests.
    pub(crate) requests: SocketAddr,
    /// Where health and administration are served.
    pub(crate) admin: SocketAddr,
    /// Where servers and Traefik tell what they did; `None`: nowhere.
    pub(crate) telemetry: Option<SocketAddr>,
    /// The bearer token that proves who tells it.
    pub(crate) telemetry_token: Option<TokenDigest>,
}

/// `log:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// A filter that `tracing_subscriber::EnvFilter` has accepted.
    pub(crate) level: String,
    /// How lines look.
    pub(crate) format: LogFormat,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// The secrets that a command needs, of those that the file only says the place of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NeededSecrets<'a> {
    /// All of them.
    All,
    /// Those of the servers.
    Servers,
    /// Those of all webhooks and mailboxes.
    Receivers,
    /// Those of one webhook or mailbox, by its name.
    Receiver(&'a str),
    /// None.
    None,
}

impl NeededSecrets<'_> {
    /// Whether the secret whose place stands at this path is needed: `alerts.webhooks[0].secret.file`.
    fn has(self, path: &str, root: &Mapping) -> bool {
        match self {
            Self::All => true,
            Self::Servers => path.starts_with("servers["),
            Self::Receivers => path.starts_with("alerts."),
            Self::Receiver(name) => alerts::paths_of(name, root).any(|of| path.starts_with(&of)),
            Self::None => false,
        }
    }
}

/// The file that is read if it exists and no other file is named.
pub(crate) const DEFAULT_FILE: &str = "modelgate.yaml";
const TIME_ZONE: &str = "a name of the IANA time zone database, such as Europe/Berlin";

/// The file to read: the one on the command line, else the one in `MODELGATE_CONFIG`, else `modelgate.yaml` in the working
/// directory if it exists.
pub(crate) fn locate(command_line: Option<&Path>, env: &Env) -> Option<PathBuf> {
    let named = command_line.map(Path::to_owned).or_else(|| env.get(env::CONFIG_FILE).map(PathBuf::from));
    named.or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()))
}

impl Config {
    /// Reads and checks the file, if there is one, with the environment's overrides.
    ///
    /// # Errors
    /// All errors, in the order in which the documentation lists the keys.
    pub(crate) fn load(command_line: Option<&Path>, env: &Env) -> Result<Self, ConfigErrors> {
        Self::load_for(command_line, env, NeededSecrets::All)
    }

    /// Like [`load`](Self::load), for a command that needs some secrets only: of the others, those that cannot be read are in
    /// [`unread_secrets`](Self::unread_secrets).
    ///
    /// # Errors
    /// All errors but those.
    pub(crate) fn load_for(
        command_line: Option<&Path>,
        env: &Env,
        needed: NeededSecrets<'_>,
    ) -> Result<Self, ConfigErrors> {
        let file = locate(command_line, env);
        let yaml = match &file {
            Some(path) => parse(path)?,
            None => Value::Null,
        };
        Self::read(yaml, env, needed).map(|config| Self { file, ..config })
    }

    /// Like [`load`](Self::load), with the text of a file.
    ///
    /// # Errors
    /// All errors, in the order in which the documentation lists the keys.
    pub(crate) fn of_text(text: &str, env: &Env) -> Result<Self, ConfigErrors> {
        Self::read(parse_text(Path::new(DEFAULT_FILE), text)?, env, NeededSecrets::All)
    }

    /// The form of the file, as a JSON Schema; `None` never.
    pub(crate) fn schema() -> Option<serde_json::Value> {
        let (report, nothing) = (Report::of_form(), Mapping::new());
        Self::read_sections(Section::root(&report, &nothing), 0);
        report.into_schema()
    }

    /// Reads it. The secrets that are `needed` must be there.
    fn read(yaml: Value, env: &Env, needed: NeededSecrets<'_>) -> Result<Self, ConfigErrors> {
        let mut root = match yaml {
            Value::Null => Mapping::new(),
            Value::Mapping(mapping) => mapping,
            _ => {
                return Err(ConfigErrors::one(
                    "the file",
                    "found a list or a single value; allowed: keys with values",
                ));
            }
        };
        let mut errors = Vec::new();
        env.refuse_unknown(&mut errors);
        let keys_in_file = root.get("keys").and_then(Value::as_sequence).map_or(0, Vec::len);
        let in_file = origin::keys(&root);
        let origins = env.override_file(&mut root, &mut errors);
        let given = origin::given(&in_file, &root, &origins);
        let report = Report::new(origins, errors);
        let mut config = Self::read_sections(Section::root(&report, &root), keys_in_file);
        config.shown = shown::shown(&root);
        config.given = given;
        let mut unread = report.unread_secrets();
        unread.retain(|error| !needed.has(&error.place, &root));
        let mut errors = report.into_errors();
        errors.retain(|error| !unread.contains(error));
        config.unread_secrets = unread;
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    fn read_sections(mut root: Section<'_>, keys_in_file: usize) -> Self {
        let key_variable = root.variable("keys");
        let listen = listen(root.section("listen"));
        let is_listening = listen.telemetry.is_some();
        let mut config = Self {
            listen,
            metering: metering::read(root.section("metering"), is_listening),
            metrics: metrics(root.section("metrics")),
            alerts: alerts::read(root.section("alerts")),
            traefik: traefik::read(root.section("traefik")),
            requests: requests::read(root.section("requests")),
            docker: docker::read(root.section("docker")),
            servers: servers::read(root.sections("servers")),
            accounts: keys::read(
                root.sections("plans"),
                root.sections("consumers"),
                root.sections("keys"),
                root.sections("jwt"),
            ),
            models: keys::read_models(root.sections("models")),
            prices: PriceList::default(),
            file: None,
            store: StoreConfig { url: None, keep: Duration::ZERO, first_key: false },
            usage: UsageConfig { keep: Duration::ZERO },
            shared_limits: store::read_shared(root.section("shared_limits"), root.has("shared_limits")),
            time_zone: root
                .get("time_zone", TIME_ZONE, |name| TimeZone::get(name).ok())
                .unwrap_or(TimeZone::UTC),
            admin: admin::read(root.section("admin")),
            state_dir: root.try_get("state_dir", "the path of a folder", state_dir),
            log: log(root.section("log")),
            given: Vec::new(),
            shown: String::new(),
            unread_secrets: Vec::new(),
            warnings: Vec::new(),
        };
        config.prices = prices::read(root.section("prices"), &config.time_zone);
        config.store = store::read(root.section("store"), config.state_dir.as_deref());
        config.usage = store::read_usage(root.section("usage"), &config.store);
        config.refuse_unproven_credentials(&root);
        config.refuse_shared_host(&root);
        config.refuse_unkept_budgets(&root);
        root.finish();
        config.warn(key_variable.filter(|_| keys_in_file > 0));
        config
    }

    /// Anyone who can query `/auth` gets the credentials that it sets. So with credentials, a way to recognise Traefik must be
    /// configured.
    fn refuse_unproven_credentials(&self, root: &Section<'_>) {
        let proven = self.traefik.client_certificate.is_some() || !self.traefik.trusted_addresses.is_empty();
        let with_credential = self.servers.iter().find(|server| server.credential.is_some());
        if let Some(server) = with_credential.filter(|_| !proven) {
            root.error(
                "servers",
                format!(
                    "{:?} has a credential, which is given only to a Traefik that has proven itself: set \
                     traefik.client_certificate (ca, cert, key) or traefik.trusted_addresses",
                    server.name
                ),
            );
        }
    }

    /// Whether hard budgets are kept exactly: no other Modelgate can count in the store, or all of them count in one server.
    pub(crate) fn keeps_hard_budgets(&self) -> bool {
        self.shared_limits.is_some() || !matches!(self.store.url, Some(StoreUrl::Postgres(_)))
    }

    /// Replicas tell each other twice a second over the store what they have counted, and meanwhile spend the same money.
    fn refuse_unkept_budgets(&self, root: &Section<'_>) {
        let is_hard =
            |limits: &Limits| limits.quotas().iter().any(|quota| quota.reserve() == Some(Reserve::Hard));
        if !self.keeps_hard_budgets() && self.limits().any(|limits| is_hard(&limits)) {
            root.error(
                "shared_limits",
                "is missing, and there is a budget with `budget_kind: hard`: Modelgates that share a PostgreSQL store could \
                 spend it at the same time; allowed: shared_limits.url with a Redis, or `budget_kind: usual`",
            );
        }
    }

    /// The dashboard's host must not serve anything else.
    fn refuse_shared_host(&self, root: &Section<'_>) {
        if let Some(host) = self.admin.host.as_ref().filter(|host| self.traefik.hosts.contains(host)) {
            root.error(
                "admin.host",
                format!("found {host:?}, which is in traefik.hosts too; allowed: a host of its own"),
            );
        }
    }

    fn warn(&mut self, keys_replaced_by: Option<&str>) {
        if let Some(variable) = keys_replaced_by {
            self.warnings.push(Doubt::KeysReplaced { variable: variable.to_owned() });
        }
        if self.accounts.declared.keys.is_empty()
            && self.accounts.issuers.is_empty()
            && self.store.url.is_none()
        {
            self.warnings.push(Doubt::NoKeys);
        }
        if self.store.url.is_none() && self.has_quotas() {
            self.warnings.push(Doubt::QuotasWithoutStore);
        }
        if matches!(self.store.url, Some(StoreUrl::Sqlite(_)))
            && self.shared_limits.is_some()
            && self.has_quotas()
        {
            self.warnings.push(Doubt::QuotasOfOneMachine);
        }
        if self.has_idle_budgets() {
            self.warnings.push(Doubt::BudgetsWithoutPrices);
        }
        // If both listeners are on loopback addresses, Traefik runs on this machine, too.
        let is_reached = [self.listen.provider, self.listen.requests].iter().any(|at| !at.ip().is_loopback());
        if self.admin.host.is_some() && self.listen.admin.ip().is_loopback() && is_reached {
            self.warnings.push(Doubt::DashboardOutOfReach { listen: self.listen.admin });
        }
        if self.servers.is_empty() && self.docker.enabled == Enabled::Never {
            self.warnings.push(Doubt::NoServers);
        }
    }

    /// Whether the file has limits per day or month.
    fn has_quotas(&self) -> bool {
        self.limits().any(|limits| !limits.quotas().is_empty())
    }

    /// Whether the file has a budget, and nothing has a price.
    fn has_idle_budgets(&self) -> bool {
        let has_budget = |limits: Limits| limits.quotas().iter().any(|quota| quota.unit() == Unit::Money);
        self.prices.currency().is_none() && self.limits().any(has_budget)
    }

    /// All limits in the file.
    fn limits(&self) -> impl Iterator<Item = Limits> {
        let declared = &self.accounts.declared;
        let plans = declared.plans.iter().flat_map(|plan| [&plan.limits, &plan.limits_per_model]);
        let consumers =
            declared.consumers.iter().flat_map(|consumer| [&consumer.limits, &consumer.limits_per_model]);
        let keys = declared.keys.iter().flat_map(|key| [&key.limits, &key.limits_per_model]);
        let of_models = self.models.iter().map(|(_, given)| given.resolve().limits);
        plans.chain(consumers).chain(keys).flatten().cloned().chain(of_models)
    }

    /// The changed parts that need a restart; all others are reloaded.
    pub(crate) fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let differ = [
            ("listen.provider", self.listen.provider != new.listen.provider),
            ("listen.requests", self.listen.requests != new.listen.requests),
            ("listen.admin", self.listen.admin != new.listen.admin),
            ("listen.telemetry", self.listen.telemetry != new.listen.telemetry),
            ("listen.telemetry_token", self.listen.telemetry_token != new.listen.telemetry_token),
            ("metering.scrape", self.metering.scrape != new.metering.scrape),
            ("metering.wait", self.metering.wait != new.metering.wait),
            ("metering.forward_to", self.metering.forward != new.metering.forward),
            ("traefik.client_certificate.ca", self.traefik.client_ca != new.traefik.client_ca),
            ("docker", self.docker != new.docker),
            ("state_dir", self.state_dir != new.state_dir),
            ("store", self.store != new.store),
            ("shared_limits", self.shared_limits != new.shared_limits),
            ("log.format", self.log.format != new.log.format),
        ];
        differ.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
    }
}

fn parse(path: &Path) -> Result<Value, ConfigErrors> {
    let fail = |message: String| ConfigErrors::one(path.display().to_string(), message);
    let text = files::read_text(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    parse_text(path, &text)
}

fn parse_text(path: &Path, text: &str) -> Result<Value, ConfigErrors> {
    let fail = |message: String| ConfigErrors::one(path.display().to_string(), message);
    let mut yaml: Value = serde_yaml::from_str(text).map_err(|e| fail(format!("is not YAML: {e}")))?;
    yaml.apply_merge().map_err(|e| fail(format!("is not YAML: {e}")))?;
    Ok(yaml)
}

fn listen(mut section: Section<'_>) -> Listen {
    const TOKEN: &str = "16 to 512 visible ASCII characters, without spaces";
    let mut addr = |key, default: ([u8; 4], u16)| section.socket_addr(key).unwrap_or_else(|| default.into());
    let provider = addr("provider", ([0, 0, 0, 0], 8100));
    let requests = addr("requests", ([0, 0, 0, 0], 8101));
    let admin = addr("admin", ([127, 0, 0, 1], 8102));
    let telemetry = section.socket_addr("telemetry");
    let telemetry_token = section.secret("telemetry_token", TOKEN, |text| {
        let fits = (16..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| TokenDigest::of(text))
    });
    if telemetry_token.is_some() && !section.has("telemetry") {
        section.error("telemetry_token", "needs listen.telemetry: nothing listens for what it could prove");
    }
    let listen = Listen { provider, requests, admin, telemetry, telemetry_token };
    let mut all = vec![("provider", provider), ("requests", requests), ("admin", admin)];
    all.extend(telemetry.map(|telemetry| ("telemetry", telemetry)));
    for (i, (key, addr)) in all.iter().enumerate() {
        // With port 0 the system chooses a different port each time.
        if let Some((other, _)) = all[..i].iter().find(|(_, a)| a.port() == addr.port() && addr.port() != 0) {
            section.error(
                key,
                format!("found \"{addr}\"; listen.{other} has that port too; allowed: a port of its own"),
            );
        }
    }
    section.finish();
    listen
}

fn metrics(mut section: Section<'_>) -> TallyBounds {
    let mut bound = |key, default: usize| {
        section
            .number(key, 0..=MOST_TALLIES)
            .map_or(default, |bound| usize::try_from(bound).unwrap_or(default))
    };
    let usual = TallyBounds::default();
    let bounds = TallyBounds {
        consumers: bound("consumers", usual.consumers),
        models: bound("models", usual.models),
        servers: bound("servers", usual.servers),
    };
    section.finish();
    bounds
}

fn log(mut section: Section<'_>) -> LogConfig {
    const LEVEL: &str = "off, error, warn, info, debug or trace, or a list such as info,modelgate=debug (tracing's EnvFilter)";
    let level = section.get("level", LEVEL, log_level);
    let format = section.one_of("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    section.finish();
    LogConfig { level: level.unwrap_or_else(|| "info".into()), format: format.unwrap_or(LogFormat::Text) }
}

/// `EnvFilter` accepts any word as the name of a module, so `inof` would silence the log. Such words are refused here.
fn log_level(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directive = |part: &str| {
        part.contains(['=', '[']) || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part.trim()))
    };
    let accepted = text.split(',').all(directive) && tracing_subscriber::EnvFilter::try_new(text).is_ok();
    accepted.then(|| text.into())
}

/// The folder need not exist yet, but if the path exists it must be a folder.
fn state_dir(path: &str) -> Result<PathBuf, io::Error> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(io::Error::other("it is not a folder")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path.into()),
    }
}
