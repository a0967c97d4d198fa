//! Sends spans, metrics and the log to an operator's OpenTelemetry collector, and passes on what comes in for metering
//! (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! ```text
//! OTEL_* ─ environment.rs ─▶ Settings
//! telemetry's batches ─ span.rs ──▶ queue.rs ─┐
//! tracing's events ─── log.rs ────▶ queue.rs ─┼─ message.rs ─▶ exporter.rs ─▶ destination.rs ─▶ the collector
//! sums ─ gen_ai.rs, metric.rs ────────────────┘
//! what came for metering ─ forward.rs ────────────────────────▶ destination.rs
//! ```
//!
//! Nothing of this is on the path of a request. Spans are made of what telemetry records about decisions anyway, after the answer,
//! so of OpenTelemetry's SDK only the last step would be used: its processors run threads of their own, and its instruments are
//! called where things happen. The messages are few and written here; tests read them with OpenTelemetry's own types.
//!
//! Queues are bounded and never wait: what finds its queue full is dropped and counted.

mod destination;
mod environment;
mod exporter;
mod forward;
mod gen_ai;
mod log;
mod message;
mod metric;
mod queue;
mod span;

pub use destination::{Destination, ExportError, ExportUrl, InvalidUrl, URL};
pub use environment::{Endpoint, Settings, Setup};
pub use exporter::{Exporter, ExporterSources, ProviderOf};
pub use forward::{ForwardedExport, Forwarder};
pub use log::LogLayer;
pub use metric::{HistogramPoint, Metric, NumberPoint, Points};
pub use queue::{ExportCounts, Signal};
