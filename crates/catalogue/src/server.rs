//! One inference server at one URL.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    Accepts, Choice, Credential, Finding, GivenModelSettings, Kind, ModelCard, ModelName, ModelOverrides,
    ServerSettings,
};

/// The unique id of a server: `docker:<container id>` or `file:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// The id of a Docker container's server.
    pub fn docker(container_id: &str) -> Self {
        Self(format!("docker:{container_id}").into())
    }

    /// The id of a server from the configuration file.
    pub fn file(name: &str) -> Self {
        Self(format!("file:{name}").into())
    }

    /// The id that [`Self::as_str`] has given.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a server was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A labelled Docker container.
    Docker {
        /// The container's full id.
        container_id: String,
        /// The image it runs.
        image: String,
    },
    /// `servers:` in the configuration file.
    File,
}

/// The kind of place that holds a server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Labels of a container, or of a Swarm service.
    Docker,
    /// Its entry in `servers:` in the configuration file.
    File,
}

impl Source {
    /// The kind of place that holds the server's settings.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Docker { .. } => Origin::Docker,
            Self::File => Origin::File,
        }
    }
}

/// `http://host:port` or `https://host:port`, with no path, query or credential.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUrl(Arc<str>);

/// A server URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; write it as http://host:port or https://host:port")]
pub struct InvalidServerUrl {
    /// What is wrong with it. Never repeats the URL, which might hold a credential.
    pub reason: &'static str,
}

impl ServerUrl {
    /// Checks a URL; a single trailing slash is dropped.
    ///
    /// # Errors
    /// If the scheme is not http or https, the authority is not a host (name, IPv4 or bracketed
    /// IPv6 address) with an optional port, or anything follows it.
    pub fn parse(url: &str) -> Result<Self, InvalidServerUrl> {
        let fail = |reason| Err(InvalidServerUrl { reason });
        let Some((scheme, rest)) = url.split_once("://") else {
            return fail("it has no scheme");
        };
        if scheme != "http" && scheme != "https" {
            return fail("its scheme is neither http nor https");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return fail("it holds a user name or password");
        }
        if authority.contains(['/', '?', '#']) {
            return fail("it has a path, a query or a fragment (the path goes into base_path)");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => match v6.split_once(']') {
                Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
                _ => return fail("what stands in brackets is not an IPv6 address"),
            },
            None => match authority.split_once(':') {
                Some((host, _)) => (host, &authority[host.len()..]),
                None => (authority, ""),
            },
        };
        let host_ok = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        if !host_ok {
            return fail("its host is not a name or an address");
        }
        let port_ok =
            port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
        if !port_ok {
            return fail("its port is not a number from 1 to 65535");
        }
        Ok(Self(format!("{scheme}://{authority}").into()))
    }

    /// The URL of an address and port, over plain HTTP.
    pub fn http(host: &str, port: u16) -> Self {
        match host.contains(':') {
            true => Self(format!("http://[{host}]:{port}").into()),
            false => Self(format!("http://{host}:{port}").into()),
        }
    }

    /// The URL as text, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is asked over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The prefix under which a server offers its OpenAI-compatible API: `/v1`, or empty for the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BasePath(Arc<str>);

/// A base path that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error(
    "{found:?} is not a base path: it must be \"/\", or start with \"/\" and have only letters, digits and -._~/ with no empty, \".\" or \"..\" segment"
)]
pub struct InvalidBasePath {
    found: String,
}

impl BasePath {
    /// Checks a base path; a trailing slash is dropped, and `/` means the root.
    ///
    /// # Errors
    /// If it does not start with `/`, has other characters than unreserved ones (RFC 3986 §2.3),
    /// or an empty, `.` or `..` segment.
    pub fn parse(path: &str) -> Result<Self, InvalidBasePath> {
        // The rest of the path may be a credential.
        let told = path.split_inclusive(['?', '#', '@']).next().unwrap_or_default();
        let err = || InvalidBasePath { found: told.chars().take(64).collect() };
        if path == "/" {
            return Ok(Self("".into()));
        }
        let rest = path.strip_prefix('/').ok_or_else(err)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        let segment_ok = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(unreserved);
        if rest.len() > 256 || !rest.split('/').all(segment_ok) {
            return Err(err());
        }
        Ok(Self(format!("/{rest}").into()))
    }

    /// The path without a trailing slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the path that clients use, so that no rewriting is needed.
    pub fn is_default(&self) -> bool {
        &*self.0 == "/v1"
    }
}

impl Default for BasePath {
    fn default() -> Self {
        Self("/v1".into())
    }
}

/// What decides whether a server is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthMode {
    /// The container's own HEALTHCHECK.
    Docker,
    /// Modelgate probes the server at intervals.
    Probe,
}

/// A server as its labels or the configuration file describe it, before it was probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Its unique id.
    pub id: ServerId,
    /// The name shown to people: the container's, or that in the configuration file.
    pub name: String,
    /// Where it was found.
    pub source: Source,
    /// Where it listens.
    pub url: ServerUrl,
    /// The prefix of its API.
    pub base_path: BasePath,
    /// Models given by hand, for a server without a model list; empty means that the server is asked.
    pub models: Vec<ModelName>,
    /// What decides whether it is ready.
    pub health: HealthMode,
    /// Identifies one run of the server (a container's start time): it changes with each restart.
    pub incarnation: String,
    /// How it takes part in its pools.
    pub settings: ServerSettings,
    /// Its settings for all of its models.
    pub model_settings: GivenModelSettings,
    /// The credential that it demands.
    pub credential: Option<Arc<Credential>>,
}

impl ServerSpec {
    /// A server of the configuration file with a name and a URL and nothing else.
    #[must_use]
    pub fn configured(name: &str, url: ServerUrl) -> Self {
        Self {
            id: ServerId::file(name),
            name: name.to_owned(),
            source: Source::File,
            url,
            base_path: BasePath::default(),
            models: Vec::new(),
            health: HealthMode::Probe,
            incarnation: String::new(),
            settings: ServerSettings::default(),
            model_settings: GivenModelSettings::default(),
            credential: None,
        }
    }

    /// When its container was last started. Tasks of a Swarm and servers of the configuration have no such time.
    pub fn started(&self) -> Option<SystemTime> {
        let at = match self.source {
            Source::Docker { .. } => self.incarnation.parse::<jiff::Timestamp>().ok()?,
            Source::File => return None,
        };
        // Docker gives the year 1 for a container that was never started.
        (at > jiff::Timestamp::UNIX_EPOCH).then(|| at.into())
    }
}

/// How long a server may take to load unless the operator says otherwise.
pub const LOADING_TIME: Duration = Duration::from_secs(600);

/// The configuration file's servers and model settings.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The servers that it names.
    pub servers: Vec<ServerSpec>,
    /// Settings of models, which take precedence over those of their servers.
    pub models: ModelOverrides,
    /// How long a server may take to load before it answers anything.
    pub loading_time: Duration,
}

impl Default for Configured {
    fn default() -> Self {
        Self { servers: Vec::new(), models: ModelOverrides::default(), loading_time: LOADING_TIME }
    }
}

/// The state of a server. Only [`ServerState::Ready`] servers get requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It has not been ready yet.
    Starting(Finding),
    /// It answers.
    Ready,
    /// It is running but withdrawn: it was told to stop, is cordoned or frozen, or stopped answering.
    Draining(Finding),
    /// It is no longer running. Its models are remembered for a while, so that clients are told to come back instead of that
    /// the model is unknown.
    Stopped(Finding),
}

impl ServerState {
    /// The state in one word. A server that has never been ready is `unusable` if it answers, and will not become ready until
    /// somebody changes something: it wants a credential, say.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting(why) if why.needs_a_change() => "unusable",
            Self::Starting(_) => "starting",
            Self::Ready => "ready",
            Self::Draining(_) => "draining",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Why it is not ready.
    pub fn why(&self) -> Option<&Finding> {
        match self {
            Self::Ready => None,
            Self::Starting(why) | Self::Draining(why) | Self::Stopped(why) => Some(why),
        }
    }
}

/// A server, its state and the models that it is known to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its description.
    pub spec: ServerSpec,
    /// Its state.
    pub state: ServerState,
    /// Its kind according to its list of models.
    pub listed_as: Kind,
    /// Its list has models that the operator does not name.
    pub has_others: bool,
    /// Its models, as far as known.
    pub models: Vec<ModelCard>,
}

impl ServerRecord {
    /// All that [`state_name`](Self::state_name) gives.
    pub const STATE_NAMES: [&str; 6] = ["ready", "empty", "starting", "unusable", "draining", "stopped"];

    /// Its state in one word: `empty` if it answers and has no models, so that it can get no requests; else
    /// [`ServerState::name`].
    pub fn state_name(&self) -> &'static str {
        match self.state {
            ServerState::Ready if self.models.is_empty() => "empty",
            _ => self.state.name(),
        }
    }

    /// Its kind: the operator's setting, else that of its list. An unknown program that demands a credential counts as a
    /// provider's account, which others share.
    pub fn kind(&self) -> Kind {
        match (self.spec.settings.kind, self.listed_as) {
            (Some(kind), _) => kind,
            (None, Kind::Other) if self.spec.credential.is_some() => Kind::Provider,
            (None, listed) => listed,
        }
    }

    /// Whether the server accepts a name in a body: one that it lists or has as an alias, or any name, if the setting or its
    /// kind says that it ignores names.
    pub fn accepts(&self, name: &str) -> bool {
        let any = match self.spec.settings.accepts {
            Some(Accepts::Any) => true,
            Some(Accepts::Listed) => false,
            None => {
                // In SGLang, the part after a colon names an adapter.
                let is_adapter = self.kind() == Kind::Sglang && name.contains(':');
                !self.models.is_empty() && self.kind().answers_to_any_name() && !is_adapter
            }
        };
        let is = |own: &ModelName| own.as_str() == name;
        any || self.models.iter().any(|m| is(&m.name) || m.aliases.iter().any(is))
            || self.spec.settings.aliases.iter().any(|a| is(&a.name))
    }

    /// Whether it may yet turn out to have any model: it is loading, and nobody has said which models it has. A server that
    /// does not become ready without somebody's doing (wrong credential, no list of models) is not waited for.
    pub fn may_have_any_model(&self) -> bool {
        let is_loading = matches!(&self.state, ServerState::Starting(why) if why.may_pass_by_itself());
        is_loading && self.models.is_empty() && self.spec.models.is_empty()
    }

    /// Whether it gets no requests, and nobody has said so far which models it has.
    pub(crate) fn is_unread(&self) -> bool {
        self.state != ServerState::Ready && self.models.is_empty() && self.spec.models.is_empty()
    }

    /// What a request could choose of this server besides the model that it is for.
    pub fn choice(&self) -> Choice {
        let kind = self.kind();
        match &self.models[..] {
            [_] if self.has_others => Choice::Several,
            [_] if self.spec.settings.single_model => Choice::Nothing,
            [_] if kind.ignores_names() => Choice::Nothing,
            [_] if self.spec.models.is_empty() && kind.lists_all_it_runs() => Choice::Sole,
            [_] => Choice::Unknown,
            _ => Choice::Several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for (given, kept) in [
            ("http://vllm:8000", "http://vllm:8000"),
            ("https://api.example.com/", "https://api.example.com"),
            ("http://[::1]:8000", "http://[::1]:8000"),
        ] {
            assert_eq!(ServerUrl::parse(given).expect(given).as_str(), kept);
        }
        for (given, reason) in [
            ("vllm:8000", "it has no scheme"),
            ("ftp://vllm", "its scheme is neither http nor https"),
            ("http://u:p@vllm", "it holds a user name or password"),
            ("http://vllm:8000/v1", "it has a path, a query or a fragment (the path goes into base_path)"),
            ("http://vllm:99999", "its port is not a number from 1 to 65535"),
            ("http://vllm:0", "its port is not a number from 1 to 65535"),
            ("http://", "its host is not a name or an address"),
            ("http://a b", "its host is not a name or an address"),
            ("http://[zz]:1", "what stands in brackets is not an IPv6 address"),
        ] {
            assert_eq!(ServerUrl::parse(given).expect_err(given).reason, reason, "{given}");
        }
    }

    #[test]
    fn base_paths() {
        assert_eq!(BasePath::parse("/v1/").expect("trailing slash"), BasePath::default());
        assert_eq!(BasePath::parse("/").expect("root").as_str(), "");
        for bad in ["", "v1", "//", "/a/../b", "/a?b", "/a b", "/`"] {
            assert!(BasePath::parse(bad).is_err(), "{bad}");
        }
        let longest = format!("/{}", "a".repeat(256));
        assert_eq!(BasePath::parse(&longest).expect("the longest").as_str(), longest);
        assert!(BasePath::parse(&format!("{longest}a")).is_err(), "one more");
        assert!(BasePath::default().is_default() && !BasePath::parse("/").expect("root").is_default());
    }

    #[test]
    fn ids_and_urls_as_text() {
        let ids = [ServerId::docker("4f"), ServerId::file("gpu")];
        assert_eq!(ids.map(|id| (id.to_string(), id.as_str().to_owned())), {
            ["docker:4f", "file:gpu"].map(|id| (id.to_owned(), id.to_owned()))
        });
        let is_https = ["http://a", "https://a"].map(|url| ServerUrl::parse(url).expect(url).is_https());
        assert_eq!(is_https, [false, true]);
    }

    fn server(kind: Kind, models: &[&str]) -> ServerRecord {
        let name = |model: &&str| ModelName::new(model).expect("a name");
        ServerRecord {
            spec: ServerSpec::configured("a", ServerUrl::http("a", 1)),
            state: ServerState::Ready,
            listed_as: kind,
            has_others: false,
            models: models.iter().map(|model| ModelCard::named(name(model))).collect(),
        }
    }

    fn with(mut server: ServerRecord, settings: &[(&str, &str)]) -> ServerRecord {
        for (key, value) in settings {
            let ServerSpec { settings, model_settings, .. } = &mut server.spec;
            crate::Setting::find(key).expect(key).read(value, settings, model_settings).expect(value);
        }
        server
    }

    /// From then on it is counted how long a server may still be loading.
    #[test]
    fn a_container_tells_when_it_was_started_and_others_do_not() {
        let started = |source, incarnation: &str| {
            let spec = ServerSpec::configured("a", ServerUrl::http("a", 1));
            ServerSpec { source, incarnation: incarnation.into(), ..spec }.started()
        };
        let docker = || Source::Docker { container_id: "4f".into(), image: "vllm".into() };
        let day = 24 * 3600;
        for (source, incarnation, after) in [
            (docker(), "1970-01-02T00:00:00.5Z", Some(Duration::from_millis(1_000 * day + 500))),
            (docker(), "1970-01-01T00:00:00Z", None),
            // What Docker tells of a container that was never started.
            (docker(), "0001-01-01T00:00:00Z", None),
            // A Swarm's task.
            (docker(), "k5x2", None),
            (Source::File, "1970-01-02T00:00:00Z", None),
        ] {
            let expected = after.map(|after| SystemTime::UNIX_EPOCH + after);
            assert_eq!(started(source, incarnation), expected, "{incarnation}");
        }
    }

    /// Dashboard, API and metrics show this word: a server that answers and gets no requests must not look ready.
    #[test]
    fn a_servers_state_is_one_word() {
        use crate::LifecycleFinding;
        let why = || LifecycleFinding::Stopped.into();
        let in_state =
            |state, models: &[&str]| ServerRecord { state, ..server(Kind::Vllm, models) }.state_name();
        let words = [
            in_state(ServerState::Ready, &["a"]),
            in_state(ServerState::Ready, &[]),
            in_state(ServerState::Starting(why()), &[]),
            in_state(ServerState::Draining(why()), &[]),
            in_state(ServerState::Stopped(why()), &["a"]),
        ];
        assert_eq!(words, ["ready", "empty", "starting", "draining", "stopped"]);
        assert!(words.iter().all(|word| ServerRecord::STATE_NAMES.contains(word)));
    }

    /// A body passes unread only where it can choose nothing: one step more freedom than the program has opens other models.
    #[test]
    fn a_program_and_its_models_decide_what_a_request_could_choose() {
        let by_hand = |kind| {
            let mut server = server(kind, &["a"]);
            server.spec.models = vec![server.models[0].name.clone()];
            server
        };
        for (server, choice) in [
            (server(Kind::Vllm, &["a"]), Choice::Sole),
            (server(Kind::Vllm, &["a", "b"]), Choice::Several),
            (server(Kind::Vllm, &[]), Choice::Several),
            (by_hand(Kind::Vllm), Choice::Unknown),
            (server(Kind::Ollama, &["a"]), Choice::Unknown),
            (server(Kind::Other, &["a"]), Choice::Unknown),
            (server(Kind::LlamaCpp, &["a"]), Choice::Nothing),
            (by_hand(Kind::LlamaCpp), Choice::Nothing),
            (with(server(Kind::Other, &["a"]), &[("single_model", "true")]), Choice::Nothing),
            (with(server(Kind::Vllm, &["a", "b"]), &[("single_model", "true")]), Choice::Several),
            // The operator names one of several.
            (ServerRecord { has_others: true, ..server(Kind::LlamaCpp, &["a"]) }, Choice::Several),
        ] {
            assert_eq!(server.choice(), choice, "{server:?}");
        }
    }

    /// A canary sends a model's requests on with their name: a server that refuses it would answer each with an error.
    #[test]
    fn which_names_a_server_accepts() {
        let sglang = || server(Kind::Sglang, &["a"]);
        let vllm = || server(Kind::Vllm, &["a"]);
        for (server, accepted) in [
            (vllm(), "a"),
            (with(vllm(), &[("aliases", "b")]), "a b"),
            (with(vllm(), &[("accepts", "any")]), "a b b:c"),
            (sglang(), "a b"),
            (with(sglang(), &[("accepts", "listed")]), "a"),
            (server(Kind::LlamaCpp, &["a"]), "a b b:c"),
            (server(Kind::LlamaCpp, &[]), ""),
            (server(Kind::Ollama, &["a"]), "a"),
        ] {
            let found: Vec<&str> =
                ["a", "b", "b:c"].into_iter().filter(|name| server.accepts(name)).collect();
            assert_eq!(found.join(" "), accepted, "{server:?}");
        }
    }

    #[test]
    fn an_unknown_program_with_a_credential_is_an_account() {
        let credential = Credential::new(crate::CredentialHeader::Bearer, "sk-1").map(Arc::new);
        let secret = |mut server: ServerRecord| {
            server.spec.credential.clone_from(&credential);
            server.kind()
        };
        assert_eq!(secret(server(Kind::Other, &[])), Kind::Provider);
        assert_eq!(secret(server(Kind::Vllm, &[])), Kind::Vllm);
        assert_eq!(secret(with(server(Kind::Other, &[]), &[("kind", "other")])), Kind::Other);
        assert_eq!(server(Kind::Other, &[]).kind(), Kind::Other);
    }

    /// While this holds, a client that asks for an unknown model is told to come again.
    #[test]
    fn a_server_may_have_any_model_only_while_it_loads_and_nobody_has_named_one() {
        use crate::{LifecycleFinding, NoConnection, ProbeFault, ProbeFinding, ProbedServer};
        let by_hand = || {
            let mut server = server(Kind::Other, &[]);
            server.spec.models = vec![ModelName::new("a").expect("a name")];
            server
        };
        let of = |fault| ProbeFinding { asked: ProbedServer::of(&by_hand().spec), fault }.into();
        let loads = || {
            ServerState::Starting(of(ProbeFault::CannotConnect {
                why: NoConnection::Refused,
                cause: "refused".into(),
            }))
        };
        let fault = || ProbeFault::NoModelList { path: "/v1/models".into(), status: 404 };
        let stopped = || ServerState::Stopped(LifecycleFinding::Stopped.into());
        for (server, state, any, unread) in [
            (server(Kind::Other, &[]), loads(), true, true),
            (server(Kind::Other, &["a"]), loads(), false, false),
            (by_hand(), loads(), false, false),
            (server(Kind::Other, &[]), ServerState::Starting(of(fault())), false, true),
            (server(Kind::Other, &[]), stopped(), false, true),
            (server(Kind::Other, &["a"]), stopped(), false, false),
            (by_hand(), stopped(), false, false),
            (server(Kind::Other, &[]), ServerState::Ready, false, false),
        ] {
            let server = ServerRecord { state, ..server };
            assert_eq!((server.may_have_any_model(), server.is_unread()), (any, unread), "{server:?}");
        }
    }
}
