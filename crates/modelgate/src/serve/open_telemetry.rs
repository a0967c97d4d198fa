//! OpenTelemetry (`OTEL_*`): gives the exporter what it sends, and passes on what comes in for metering.

use std::sync::Arc;

use otlp_exporter::{
    ExportCounts, Exporter, ExporterSources, ForwardedExport, Forwarder, HistogramPoint, Metric, NumberPoint,
    Points, Setup, Signal,
};
use otlp_receiver::{Format, PassOn, Signal as ReceivedSignal};
use tracing::{error, warn};
use web::{Family, HistogramFamily, HistogramSample, MetricKind, Sample, Shared};

use crate::config::MeteringConfig;

/// What the variables ask for; `None` if nothing is exported. Problems are told by [`report`], once there is a log.
pub(super) fn prepare() -> (Option<Exporter>, Vec<String>) {
    let Setup { settings, problems } = Setup::of_this_process();
    (settings.map(Exporter::new), problems)
}

pub(super) fn report(problems: &[String]) {
    for problem in problems {
        warn!("{problem}");
    }
}

/// Starts to export. Without an exporter nothing is done.
pub(super) fn start(exporter: Option<&mut Exporter>, shared: &Arc<Shared>) {
    let Some(exporter) = exporter else { return };
    let counts = exporter.counts();
    shared.add_metrics(move || families(&counts));
    let (of_models, of_metrics) = (Arc::clone(shared), Arc::clone(shared));
    let sources = ExporterSources {
        telemetry: Arc::clone(shared.telemetry()),
        provider: Box::new(move |model| provider(&of_models, model)),
        metrics: Box::new(move || metrics(&of_metrics)),
    };
    match exporter.start(sources) {
        Ok(()) => exporter.sampler().into_iter().for_each(|sampler| shared.trace(sampler)),
        Err(error) => error!(%error, "nothing is exported to an OpenTelemetry collector"),
    }
}

/// The program that serves a model, if all of its servers run the same one.
fn provider(shared: &Shared, model: &str) -> Option<&'static str> {
    let loaded = shared.catalogue().load();
    let pool = loaded.as_deref()?.pool(model)?;
    let mut kinds = pool.ready.iter().chain(&pool.waiting).map(|server| server.kind().name());
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}

/// All that `/metrics` tells.
fn metrics(shared: &Shared) -> Vec<Metric> {
    let (families, histograms) = shared.figures();
    families.iter().map(of_family).chain(histograms.iter().map(of_histograms)).collect()
}

fn of_family(family: &Family) -> Metric {
    let point = |sample: &Sample| NumberPoint { attributes: sample.labels.clone(), value: sample.value };
    let points = family.samples.iter().map(point).collect();
    let points = match family.kind {
        MetricKind::Counter => Points::Sums(points),
        MetricKind::Gauge => Points::Gauges(points),
    };
    Metric { name: family.name, help: family.help, unit: "", points }
}

fn of_histograms(family: &HistogramFamily) -> Metric {
    let point = |sample: &HistogramSample| HistogramPoint {
        attributes: sample.label.iter().cloned().collect(),
        // The last one is infinite.
        bounds: sample.buckets.iter().map(|(end, _)| *end).filter(|end| end.is_finite()).collect(),
        buckets: sample.buckets.iter().map(|(_, count)| *count).collect(),
        sum: sample.sum,
    };
    // All histograms are of seconds, as their names say.
    let points = Points::Histograms(family.samples.iter().map(point).collect());
    Metric { name: family.name, help: family.help, unit: "s", points }
}

fn families(all: &[(Signal, Arc<ExportCounts>)]) -> Vec<Family> {
    let mut items = Family::counter(
        "modelgate_otlp_items",
        "Spans, metrics and lines of the log: sent to the OpenTelemetry collector, or dropped because it did not take them",
    );
    let mut failures = Family::counter(
        "modelgate_otlp_failures",
        "Attempts to send an export to the OpenTelemetry collector that failed",
    );
    for (signal, counts) in all {
        let signal = signal.name();
        items = items
            .with(&[("signal", signal), ("outcome", "sent")], counts.sent() as f64)
            .with(&[("signal", signal), ("outcome", "dropped")], counts.dropped() as f64);
        failures = failures.with(&[("signal", signal)], counts.failures() as f64);
    }
    vec![items, failures]
}

/// Where exports for metering are passed on, if the operator wants that.
pub(super) fn forward(config: &MeteringConfig, shared: &Shared) -> Option<PassOn> {
    let destination = config.forward.as_ref()?.destination();
    let forwarder = match Forwarder::start(&destination) {
        Ok(forwarder) => forwarder,
        Err(error) => {
            error!(%error, "what comes for metering cannot be passed on");
            return None;
        }
    };
    let counts = forwarder.counts();
    let help = "Exports for metering: passed on to metering.forward_to, dropped, or attempts that failed";
    shared.add_metrics(move || {
        let family = Family::counter("modelgate_forwarded_exports", help);
        vec![
            family
                .with(&[("outcome", "sent")], counts.sent() as f64)
                .with(&[("outcome", "dropped")], counts.dropped() as f64)
                .with(&[("outcome", "failed")], counts.failures() as f64),
        ]
    });
    Some(Box::new(move |signal, format, body| {
        let signal = match signal {
            ReceivedSignal::Traces => Signal::Traces,
            ReceivedSignal::Logs => Signal::Logs,
        };
        let content_type = match format {
            Format::Protobuf => "application/x-protobuf",
            Format::Json => "application/json",
        };
        forwarder.pass_on(ForwardedExport { signal, content_type, body });
    }))
}
