//! The standard variables of OpenTelemetry
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>,
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//!
//! Nothing is exported unless an endpoint is named. What is not understood is a problem that is told, and ignored: such variables
//! are often set for all programs of a machine at once, and monitoring must not keep requests from being answered.

use std::{fs, time::Duration};

use percent_encoding::percent_decode_str;
use reqwest::{
    Certificate,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use telemetry::Sampler;

use crate::{
    destination::{Destination, ExportUrl},
    queue::Signal,
};

/// What is exported, and where to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where spans go, if anywhere.
    pub traces: Option<Endpoint>,
    /// Where metrics go, if anywhere.
    pub metrics: Option<Endpoint>,
    /// Where the log goes besides, if anywhere.
    pub logs: Option<Endpoint>,
    /// Which requests have spans.
    pub sampler: Sampler,
    /// What is said of this program in each export.
    pub(crate) resource: Vec<(String, String)>,
    /// Certificate authorities that are trusted besides the system's.
    pub(crate) authorities: Vec<Certificate>,
}

/// Where one signal goes.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(crate) destination: Destination,
    /// How long items wait for others; of metrics, how often they are sent.
    pub(crate) delay: Duration,
    /// How many items may wait.
    pub(crate) capacity: usize,
    /// How many are sent together.
    pub(crate) batch: usize,
}

/// What the variables say.
#[derive(Debug)]
pub struct Setup {
    /// `None` if nothing is exported.
    pub settings: Option<Settings>,
    /// What was not understood, in words that name the variable.
    pub problems: Vec<String>,
}

impl Setup {
    /// Reads the variables of this process.
    pub fn of_this_process() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads variables. An empty one counts as not set.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        let mut reader = Reader { variable: &variable, problems: Vec::new(), authorities: Vec::new() };
        let is_off = reader.word("OTEL_SDK_DISABLED", &[("true", true), ("false", false)]).unwrap_or(false);
        if is_off {
            return Self { settings: None, problems: reader.problems };
        }
        let [traces, metrics, logs] = Signal::ALL.map(|signal| reader.endpoint(signal));
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return Self { settings: None, problems: reader.problems };
        }
        let sampler = reader.sampler();
        let resource = reader.resource();
        let Reader { problems, authorities, .. } = reader;
        let settings = Settings { traces, metrics, logs, sampler, resource, authorities };
        Self { settings: Some(settings), problems }
    }
}

struct Reader<'v> {
    variable: &'v dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
    authorities: Vec<Certificate>,
}

impl Reader<'_> {
    /// The value is not repeated: it may be secret.
    fn problem(&mut self, name: &str, allowed: &str) {
        self.problems.push(format!("{name} is ignored: its value is not allowed; allowed: {allowed}"));
    }

    fn parsed<T>(&mut self, name: &str, allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = (self.variable)(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.problem(name, allowed);
        }
        parsed
    }

    fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let allowed = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.parsed(name, &allowed, |text| {
            words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, meaning)| *meaning)
        })
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        self.parsed(name, "milliseconds from 1 to 3600000", |text| {
            let millis = text.parse().ok().filter(|millis| (1..=3_600_000).contains(millis));
            millis.map(Duration::from_millis)
        })
    }

    fn count(&mut self, name: &str, most: usize) -> Option<usize> {
        let allowed = format!("a number from 1 to {most}");
        self.parsed(name, &allowed, |text| text.parse().ok().filter(|count| (1..=most).contains(count)))
    }

    /// The variable of a signal comes before the one of all signals.
    fn name(&self, signal: Signal, what: &str) -> String {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name().to_uppercase());
        match (self.variable)(&own) {
            Some(_) => own,
            None => format!("OTEL_EXPORTER_OTLP_{what}"),
        }
    }

    fn endpoint(&mut self, signal: Signal) -> Option<Endpoint> {
        const PROTOCOL: &str =
            "http/protobuf (gRPC is not built in: collectors take HTTP at another port, usually 4318)";
        let is_wanted = {
            let name = format!("OTEL_{}_EXPORTER", signal.name().to_uppercase());
            let word = self.word(&name, &[("otlp", true), ("none", false)]);
            // Prometheus and the console are no collectors: whoever names them does not want this.
            word.unwrap_or((self.variable)(&name).is_none())
        };
        let name = self.name(signal, "ENDPOINT");
        if !is_wanted || (self.variable)(&name).is_none() {
            return None;
        }
        let url = self.parsed(&name, crate::URL, |text| text.parse::<ExportUrl>().ok())?;
        let is_general = name == "OTEL_EXPORTER_OTLP_ENDPOINT";
        let url = if is_general { url.with_path(&format!("v1/{}", signal.name())) } else { url };
        let protocol = self.name(signal, "PROTOCOL");
        if (self.variable)(&protocol).is_some_and(|given| given != "http/protobuf") {
            self.problems
                .push(format!("no {} are exported: {protocol} allows only {PROTOCOL}", signal.name()));
            return None;
        }
        let destination = Destination {
            url,
            headers: self.headers(signal),
            timeout: {
                let name = self.name(signal, "TIMEOUT");
                self.milliseconds(&name).unwrap_or(Duration::from_secs(10))
            },
            compresses: {
                let name = self.name(signal, "COMPRESSION");
                self.word(&name, &[("gzip", true), ("none", false)]).unwrap_or(false)
            },
        };
        self.trust(signal);
        Some(self.pace(signal, destination))
    }

    fn pace(&mut self, signal: Signal, destination: Destination) -> Endpoint {
        /// More than anybody needs: a span takes about 700 bytes.
        const MOST: usize = 65_536;
        let (delay, queue, batch, usual) = match signal {
            Signal::Traces => (
                "OTEL_BSP_SCHEDULE_DELAY",
                "OTEL_BSP_MAX_QUEUE_SIZE",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                5_000,
            ),
            Signal::Logs => (
                "OTEL_BLRP_SCHEDULE_DELAY",
                "OTEL_BLRP_MAX_QUEUE_SIZE",
                "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
                1_000,
            ),
            Signal::Metrics => ("OTEL_METRIC_EXPORT_INTERVAL", "", "", 60_000),
        };
        let capacity = self.count(queue, MOST).unwrap_or(2_048);
        Endpoint {
            destination,
            delay: self.milliseconds(delay).unwrap_or(Duration::from_millis(usual)),
            capacity,
            batch: self.count(batch, MOST).unwrap_or(512).min(capacity),
        }
    }

    fn headers(&mut self, signal: Signal) -> HeaderMap {
        const ALLOWED: &str = "NAME=VALUE,NAME=VALUE, values percent-encoded";
        let name = self.name(signal, "HEADERS");
        let headers = self.parsed(&name, ALLOWED, |text| {
            pairs(text)?
                .into_iter()
                .map(|(name, value)| {
                    let mut value = HeaderValue::from_str(&value).ok()?;
                    value.set_sensitive(true);
                    Some((name.parse::<HeaderName>().ok()?, value))
                })
                .collect()
        });
        headers.unwrap_or_default()
    }

    fn trust(&mut self, signal: Signal) {
        let name = self.name(signal, "CERTIFICATE");
        let read = |path: &str| {
            let certificates = fs::read(path).ok().and_then(|pem| Certificate::from_pem_bundle(&pem).ok());
            certificates.filter(|certificates| !certificates.is_empty())
        };
        let given = self.parsed(&name, "the path of a file with certificates in PEM", read);
        self.authorities.extend(given.unwrap_or_default());
        let unknown = ["CLIENT_KEY", "CLIENT_CERTIFICATE"].map(|what| self.name(signal, what));
        for name in unknown.into_iter().filter(|name| (self.variable)(name).is_some()) {
            self.problems.push(format!(
                "{name} is ignored: Modelgate shows collectors no certificate; use OTEL_EXPORTER_OTLP_HEADERS"
            ));
        }
    }

    fn sampler(&mut self) -> Sampler {
        #[derive(Clone, Copy)]
        enum Share {
            All,
            None,
            Ratio,
        }
        let words = [
            ("always_on", (Share::All, false)),
            ("always_off", (Share::None, false)),
            ("traceidratio", (Share::Ratio, false)),
            ("parentbased_always_on", (Share::All, true)),
            ("parentbased_always_off", (Share::None, true)),
            ("parentbased_traceidratio", (Share::Ratio, true)),
        ];
        let (share, follows_parent) = self.word("OTEL_TRACES_SAMPLER", &words).unwrap_or((Share::All, true));
        let ratio = match share {
            Share::All => 1.0,
            Share::None => 0.0,
            Share::Ratio => {
                let number = |text: &str| text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                self.parsed("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", number).unwrap_or(1.0)
            }
        };
        Sampler { ratio, follows_parent }
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        const ALLOWED: &str = "NAME=VALUE,NAME=VALUE, values percent-encoded";
        let mut resource = self.parsed("OTEL_RESOURCE_ATTRIBUTES", ALLOWED, pairs).unwrap_or_default();
        if let Some(name) = (self.variable)("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".into(), name));
        }
        let usual = [
            ("service.name", "modelgate".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            // Otherwise the sums of several Modelgates would be taken for one's.
            ("service.instance.id", format!("{:032x}", rand::random::<u128>())),
        ];
        for (key, value) in usual {
            if !resource.iter().any(|(given, _)| given == key) {
                resource.push((key.into(), value));
            }
        }
        resource
    }
}

/// `NAME=VALUE,NAME=VALUE` (<https://www.w3.org/TR/baggage/#header-content>).
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?.into_owned();
        Some((name.trim().to_owned(), value)).filter(|(name, _)| !name.is_empty())
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Setup {
        let all: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Setup::read(|name| all.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone()))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_named() {
        for off in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "gate"), ("OTEL_TRACES_EXPORTER", "otlp")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[
                ENDPOINT,
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        ] {
            let setup = read(off);
            assert!(setup.settings.is_none() && setup.problems.is_empty(), "{off:?}: {setup:?}");
        }
    }

    #[test]
    fn a_signals_own_variable_comes_before_the_one_of_all() {
        let setup = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.example.com/in"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret, x-a = b"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-b=c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%2Cb"),
            ("OTEL_SERVICE_NAME", "gate"),
        ]);
        assert_eq!(setup.problems, [""; 0]);
        let settings = setup.settings.expect("something is exported");
        let (traces, logs) = (settings.traces.expect("traces"), settings.logs.expect("logs"));
        assert!(settings.metrics.is_none());
        let url = |text: &str| text.parse::<ExportUrl>().expect("a URL");
        assert_eq!(traces.destination.url, url("http://collector:4318/v1/traces"));
        assert_eq!(logs.destination.url, url("https://logs.example.com/in"));
        assert_eq!(traces.destination.headers["authorization"], "Bearer secret");
        assert_eq!((traces.destination.headers.len(), logs.destination.headers.len()), (2, 1));
        assert_eq!(
            (traces.destination.timeout, traces.delay),
            (Duration::from_millis(250), Duration::from_millis(100))
        );
        assert_eq!((logs.delay, logs.capacity, logs.batch), (Duration::from_secs(1), 100, 100));
        assert!(logs.destination.compresses);
        assert_eq!(settings.sampler, Sampler { ratio: 1.0, follows_parent: true });
        let resource: Vec<_> = settings.resource.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(resource[..2], [("deployment.environment.name", "a,b"), ("service.name", "gate")]);
        assert_eq!(resource.len(), 4);
    }

    #[test]
    fn what_is_not_understood_is_told_without_its_value() {
        let setup = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ("OTEL_LOGS_EXPORTER", "console"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "secret"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent/secret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ]);
        let settings = setup.settings.expect("traces are exported");
        assert!(settings.traces.is_some() && settings.metrics.is_none() && settings.logs.is_none());
        let all = setup.problems.join("\n");
        for named in [
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL allows only http/protobuf",
            "OTEL_LOGS_EXPORTER is ignored: its value is not allowed; allowed: otlp, none",
            "OTEL_EXPORTER_OTLP_HEADERS is ignored",
            "OTEL_TRACES_SAMPLER_ARG is ignored: its value is not allowed; allowed: a number from 0 to 1",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ] {
            assert!(all.contains(named), "{named}: {all}");
        }
        assert!(!all.contains("secret"), "{all}");
    }
}
