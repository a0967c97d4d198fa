//! How well the tokens of a server's requests are known, why, and what would make them exact.

use std::{fmt, time::Instant};

use catalogue::{Kind, ServerRecord};
use telemetry::RequestCounts;

use crate::Shared;

/// The listener on which servers and Traefik tell what they did (`listen.telemetry`), as they reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryListener {
    /// `host:port`.
    pub authority: String,
    /// Whether there is a `listen.telemetry_token`.
    pub has_token: bool,
}

/// The best way in which a kind of server can be metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BestMetering {
    /// The server exports a span for each answer, with its tokens.
    Spans,
    /// The server answers with `X-Compute-Tokens`, which Traefik records.
    ComputeTokens,
    /// Traefik records each request; the server tells no tokens.
    Records,
    /// As [`Records`](Self::Records), because the server belongs to somebody else.
    RecordsOfProvider,
}

/// How well tokens are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeteringState {
    /// There is no `listen.telemetry`.
    Off,
    /// The listener is there, and whoever asks cannot see what has come in: a command such as `check`.
    Unseen,
    /// The listener is there. Nobody has told anything about the server's requests yet.
    Waiting,
    /// The tokens of finished requests are exact.
    Exact,
    /// Traefik tells about finished requests; their tokens are measured.
    Measured,
    /// Traefik tells about other servers' requests; this server has had none yet.
    Idle,
}

/// How well the tokens of a server's requests are known. The words say why, the advice what would make them exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMetering {
    /// The present state.
    pub state: MeteringState,
    /// What is possible.
    pub best: BestMetering,
    listener: Option<TelemetryListener>,
    no_correction: Option<NoCorrection>,
}

/// Why tokens of an exclusive server (`metering.exclusive`) are not corrected by its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoCorrection {
    /// They cannot be read.
    NoCounters,
    /// Other Modelgates may have asked it, too.
    SharedLimits,
}

impl BestMetering {
    /// What a kind of server can do.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Vllm => Self::Spans,
            Kind::Tei => Self::ComputeTokens,
            Kind::Sglang
            | Kind::LlamaCpp
            | Kind::LlamaCppRouter
            | Kind::Ollama
            | Kind::LlamaSwap
            | Kind::Other => Self::Records,
            Kind::Provider => Self::RecordsOfProvider,
        }
    }
}

impl ServerMetering {
    /// What can be said about a server without having seen its requests.
    pub fn expected(server: &ServerRecord, listener: Option<&TelemetryListener>) -> Self {
        let state = if listener.is_some() { MeteringState::Unseen } else { MeteringState::Off };
        Self {
            state,
            best: BestMetering::of(server.kind()),
            listener: listener.cloned(),
            no_correction: None,
        }
    }

    /// With what has come in: the counts of the last minutes if there are any, else all since the start.
    fn seen(self, counts: Option<&RequestCounts>, does_traefik_tell: bool) -> Self {
        let state = match (self.state, counts) {
            (MeteringState::Off, _) => MeteringState::Off,
            (_, Some(counts)) if counts.exact > 0 => MeteringState::Exact,
            (_, Some(counts)) if counts.measured > 0 => MeteringState::Measured,
            _ if does_traefik_tell => MeteringState::Idle,
            _ => MeteringState::Waiting,
        };
        Self { state, ..self }
    }

    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        match self.state {
            MeteringState::Off => "metering_off",
            MeteringState::Unseen => "metering_unseen",
            MeteringState::Waiting => "metering_waiting",
            MeteringState::Exact => "metering_exact",
            MeteringState::Measured => "metering_measured",
            MeteringState::Idle => "metering_idle",
        }
    }

    /// What makes tokens exact, or known at all, and why they are not corrected; `None` if there is nothing to do.
    pub fn advice(&self) -> Option<String> {
        let correction = self.no_correction.map(|no_correction| match no_correction {
            NoCorrection::NoCounters => {
                "metering.exclusive does nothing: the server's counters at /metrics cannot be read. llama.cpp has them with \
                 --metrics, SGLang with --enable-metrics."
            }
            NoCorrection::SharedLimits => {
                "metering.exclusive does nothing while several Modelgates share limits."
            }
        });
        let parts: Vec<_> =
            self.how_to_know_more().into_iter().chain(correction.map(str::to_owned)).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    fn how_to_know_more(&self) -> Option<String> {
        let lines = match (self.state, &self.listener) {
            (MeteringState::Exact, _) => return None,
            (MeteringState::Off, _) | (_, None) => {
                return Some("Set listen.telemetry; docs/metering.md has all lines.".into());
            }
            (_, Some(listener)) => self.line(listener),
        };
        let traefik = "Traefik must export its access log: docs/metering.md has the lines.";
        match (self.state, lines) {
            (MeteringState::Waiting | MeteringState::Unseen, Some(lines)) => {
                Some(format!("{lines} {traefik}"))
            }
            (MeteringState::Waiting | MeteringState::Unseen, None) => Some(traefik.into()),
            (_, lines) => lines,
        }
    }

    /// The line that makes this server exact.
    fn line(&self, listener: &TelemetryListener) -> Option<String> {
        let TelemetryListener { authority, has_token } = listener;
        let token = match has_token {
            true => ", OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN",
            false => "",
        };
        match self.best {
            BestMetering::Spans => Some(format!(
                "Start the server with --otlp-traces-endpoint http://{authority}/v1/traces and the environment variables \
                 OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf{token}."
            )),
            BestMetering::ComputeTokens => Some(
                "Start Traefik with --accesslog.fields.headers.names.X-Compute-Tokens=keep, beside its other lines."
                    .into(),
            ),
            BestMetering::Records | BestMetering::RecordsOfProvider => None,
        }
    }
}

impl fmt::Display for ServerMetering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_best = match self.best {
            BestMetering::Spans => "exact, if the server exports its traces; else measured",
            BestMetering::ComputeTokens => "exact, if Traefik records X-Compute-Tokens; else measured",
            BestMetering::Records => {
                "measured at best: servers of this kind do not tell Modelgate their tokens"
            }
            BestMetering::RecordsOfProvider => "measured at best: a provider tells Modelgate nothing",
        };
        match (self.state, self.best) {
            (MeteringState::Off, _) => f.write_str("estimated: listen.telemetry is not set"),
            (MeteringState::Unseen, _) => {
                write!(f, "{at_best}. The server's page on the dashboard says what has come in")
            }
            (MeteringState::Waiting, _) => write!(f, "{at_best}; nobody has told anything yet"),
            (MeteringState::Idle, _) => write!(f, "{at_best}; it has had no request yet"),
            (MeteringState::Exact, BestMetering::ComputeTokens) => {
                f.write_str("exact: Traefik passes on the server's X-Compute-Tokens")
            }
            (MeteringState::Exact, _) => f.write_str("exact: the server tells the tokens of each answer"),
            (MeteringState::Measured, BestMetering::Spans) => f.write_str(
                "measured: tokens are computed from the bytes that Traefik tells; the server exports no traces",
            ),
            (MeteringState::Measured, BestMetering::ComputeTokens) => f.write_str(
                "measured: tokens are computed from the bytes that Traefik tells; it does not record X-Compute-Tokens",
            ),
            (MeteringState::Measured, BestMetering::Records) => f.write_str(
                "measured: tokens are computed from the bytes that Traefik tells; servers of this kind do not tell Modelgate theirs",
            ),
            (MeteringState::Measured, BestMetering::RecordsOfProvider) => f.write_str(
                "measured: tokens are computed from the bytes that Traefik tells; a provider tells Modelgate nothing",
            ),
        }
    }
}

impl Shared {
    /// How well the tokens of a server's requests are known, by what has come in.
    pub fn metering_of(&self, server: &ServerRecord) -> ServerMetering {
        let telemetry = self.telemetry();
        let performance = telemetry.of_server(server.spec.id.as_str(), Instant::now());
        let counts = performance.as_ref().map(|performance| match performance.recent.finished {
            0 => &performance.total,
            _ => &performance.recent,
        });
        let expected = ServerMetering::expected(server, self.settings().telemetry.as_ref());
        let seen = expected.seen(counts, telemetry.does_traefik_tell());
        ServerMetering { no_correction: self.no_correction(server, seen.state), ..seen }
    }

    fn no_correction(&self, server: &ServerRecord, state: MeteringState) -> Option<NoCorrection> {
        if !server.spec.settings.metering_exclusive || state == MeteringState::Off {
            return None;
        }
        if self.shared_counting().is_some_and(|counting| counting.limits().replicas() > 1) {
            return Some(NoCorrection::SharedLimits);
        }
        // Counters are read before the first request is told about, but for the first seconds.
        let has_told = matches!(state, MeteringState::Measured | MeteringState::Exact);
        let has_counters = !self.books().of(server.spec.url.as_str()).is_empty();
        (has_told && !has_counters).then_some(NoCorrection::NoCounters)
    }
}

#[cfg(test)]
mod tests {
    use catalogue::{ServerSpec, ServerState, ServerUrl};

    use super::*;

    fn told(kind: Kind, listener: Option<bool>, counts: Option<(u64, u64)>, traefik: bool) -> ServerMetering {
        let server = ServerRecord {
            spec: ServerSpec::configured("gpu", ServerUrl::http("gpu", 8000)),
            state: ServerState::Ready,
            listed_as: kind,
            has_others: false,
            models: Vec::new(),
        };
        let listener =
            listener.map(|has_token| TelemetryListener { authority: "modelgate:8103".into(), has_token });
        let counts = counts.map(|(exact, measured)| RequestCounts { exact, measured, ..Default::default() });
        ServerMetering::expected(&server, listener.as_ref()).seen(counts.as_ref(), traefik)
    }

    #[test]
    fn each_kind_is_told_what_makes_it_exact() {
        let looked_at = ServerRecord {
            spec: ServerSpec::configured("gpu", ServerUrl::http("gpu", 8000)),
            state: ServerState::Ready,
            listed_as: Kind::Vllm,
            has_others: false,
            models: Vec::new(),
        };
        let listener = TelemetryListener { authority: "modelgate:8103".into(), has_token: false };
        let unseen = ServerMetering::expected(&looked_at, Some(&listener));
        assert_eq!(unseen.code(), "metering_unseen");
        assert!(
            !unseen.to_string().contains("nobody has told"),
            "a command does not see what came in: {unseen}"
        );
        let vllm = told(Kind::Vllm, Some(false), None, false);
        assert_eq!(vllm.advice(), unseen.advice());
        assert_eq!(vllm.code(), "metering_waiting");
        let advice = vllm.advice().expect("a line");
        for part in [
            "--otlp-traces-endpoint http://modelgate:8103/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf. Traefik must",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
        let measured = told(Kind::Vllm, Some(true), Some((0, 3)), true);
        let advice = measured.advice().expect("a line");
        assert!(
            advice.ends_with("http/protobuf, OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN."),
            "{advice}"
        );
        assert!(measured.to_string().contains("the server exports no traces"), "{measured}");
        let tei = told(Kind::Tei, Some(false), Some((0, 3)), true).advice().expect("a line");
        assert!(tei.contains("--accesslog.fields.headers.names.X-Compute-Tokens=keep"), "{tei}");
        for kind in Kind::ALL {
            assert_eq!(
                told(kind, Some(false), Some((1, 9)), true).advice(),
                None,
                "nothing is better than exact"
            );
            let off = told(kind, None, Some((1, 9)), true);
            assert_eq!((off.code(), off.to_string().starts_with("estimated: ")), ("metering_off", true));
            assert!(off.advice().is_some_and(|advice| advice.contains("listen.telemetry")));
            let (measured, idle) =
                (told(kind, Some(false), Some((0, 1)), true), told(kind, Some(false), None, true));
            let has_line = matches!(kind, Kind::Vllm | Kind::Tei);
            assert_eq!(
                (measured.advice().is_some(), idle.advice().is_some()),
                (has_line, has_line),
                "{kind:?}"
            );
            assert_eq!(idle.to_string().contains("measured at best"), !has_line, "{kind:?}");
        }
    }

    #[test]
    fn what_has_come_in_decides() {
        for (counts, traefik, code) in [
            (None, false, "metering_waiting"),
            (Some((0, 0)), false, "metering_waiting"),
            (Some((0, 0)), true, "metering_idle"),
            (Some((0, 5)), true, "metering_measured"),
            (Some((5, 0)), false, "metering_exact"),
            (Some((5, 90)), true, "metering_exact"),
        ] {
            assert_eq!(told(Kind::Vllm, Some(false), counts, traefik).code(), code, "{counts:?}");
        }
    }
}
