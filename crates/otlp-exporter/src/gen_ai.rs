//! The metrics of OpenTelemetry's conventions for generative models, of requests whose end is known
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>).

use std::{collections::HashMap, sync::Arc};

use metering::{Ending, MeteredEndpoint, UsageKind};
use telemetry::{OTHERS, SettledRequest, UNKNOWN};

use crate::metric::{HistogramPoint, Metric, Points};

/// How many models have series of their own; the rest is counted together.
const MOST_MODELS: usize = 100;

/// The bounds of the conventions.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const DURATION: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What tells series apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Series {
    model: Arc<str>,
    operation: &'static str,
    provider: &'static str,
    /// The kind of tokens, or of error.
    more: Option<&'static str>,
}

#[derive(Debug)]
struct Histogram {
    buckets: Vec<u64>,
    sum: f64,
}

/// One metric.
#[derive(Debug)]
struct Distribution {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    more: &'static str,
    bounds: &'static [f64],
    of: HashMap<Series, Histogram>,
}

impl Distribution {
    fn add(&mut self, series: Series, value: f64) {
        let bounds = self.bounds;
        let histogram = self
            .of
            .entry(series)
            .or_insert_with(|| Histogram { buckets: vec![0; bounds.len() + 1], sum: 0.0 });
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        histogram.buckets.get_mut(bucket).into_iter().for_each(|count| *count += 1);
        histogram.sum += value;
    }

    fn metric(&self) -> Metric {
        let point = |(series, histogram): (&Series, &Histogram)| {
            let mut attributes = vec![
                ("gen_ai.operation.name", series.operation.to_owned()),
                ("gen_ai.provider.name", series.provider.to_owned()),
                ("gen_ai.request.model", series.model.to_string()),
            ];
            attributes.extend(series.more.map(|more| (self.more, more.to_owned())));
            HistogramPoint {
                attributes,
                bounds: self.bounds.to_vec(),
                buckets: histogram.buckets.clone(),
                sum: histogram.sum,
            }
        };
        let points = Points::Histograms(self.of.iter().map(point).collect());
        Metric { name: self.name, help: self.help, unit: self.unit, points }
    }
}

/// The sums since the start.
#[derive(Debug)]
pub(crate) struct GenAi {
    models: Vec<Arc<str>>,
    tokens: Distribution,
    duration: Distribution,
    first_token: Distribution,
}

impl Default for GenAi {
    fn default() -> Self {
        let of = |name, help, unit, more, bounds| Distribution {
            name,
            help,
            unit,
            more,
            bounds,
            of: HashMap::new(),
        };
        Self {
            models: Vec::new(),
            tokens: of(
                "gen_ai.client.token.usage",
                "Tokens of requests, as far as servers or Traefik have told",
                "{token}",
                "gen_ai.token.type",
                &TOKENS,
            ),
            duration: of(
                "gen_ai.client.operation.duration",
                "How long requests took, in Traefik without the wait for a server, or else at the server",
                "s",
                "error.type",
                &DURATION,
            ),
            first_token: of(
                "gen_ai.server.time_to_first_token",
                "Time to first token, as far as servers tell it",
                "s",
                "",
                &FIRST_TOKEN,
            ),
        }
    }
}

impl GenAi {
    pub(crate) fn add(&mut self, settled: &SettledRequest, provider: &'static str) {
        let model = self.model(&settled.model);
        let operation = settled.endpoint.operation();
        let series = |more| Series { model: Arc::clone(&model), operation, provider, more };
        if settled.kind != UsageKind::Estimated && settled.ending != Ending::Refused {
            self.tokens.add(series(Some("input")), settled.used.prompt as f64);
            if settled.endpoint != MeteredEndpoint::Embeddings {
                self.tokens.add(series(Some("output")), settled.used.completion as f64);
            }
        }
        if let Some(duration) = settled.duration {
            self.duration.add(series(error_type(settled)), duration.as_secs_f64());
        }
        if let Some(time) = settled.time_to_first_token {
            self.first_token.add(series(None), time.as_secs_f64());
        }
    }

    fn model(&mut self, model: &Arc<str>) -> Arc<str> {
        if model.is_empty() {
            return UNKNOWN.into();
        }
        if let Some(known) = self.models.iter().find(|known| *known == model) {
            return Arc::clone(known);
        }
        if self.models.len() >= MOST_MODELS {
            return OTHERS.into();
        }
        self.models.push(Arc::clone(model));
        Arc::clone(model)
    }

    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> {
        let all = [&self.tokens, &self.duration, &self.first_token];
        all.into_iter().filter(|distribution| !distribution.of.is_empty()).map(Distribution::metric)
    }
}

/// `error.type`: what went wrong, if anything is known to have.
pub(crate) fn error_type(settled: &SettledRequest) -> Option<&'static str> {
    match (settled.ending, settled.status) {
        (Ending::Refused, Some(500..)) => Some("server_error"),
        (Ending::Refused, _) => Some("refused"),
        (Ending::Aborted, _) => Some("aborted"),
        (Ending::Finished | Ending::Unknown, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metering::{RequestId, UsedTokens};

    use super::*;

    #[test]
    fn models_are_bounded_and_nothing_is_lost() {
        let mut gen_ai = GenAi::default();
        let settled = |model: &str, kind, ending| SettledRequest {
            request: RequestId(1),
            consumer: "team".into(),
            model: model.into(),
            endpoint: MeteredEndpoint::ChatCompletions,
            server: None,
            ending,
            status: None,
            time_to_first_token: Some(Duration::from_millis(3)),
            duration: Some(Duration::from_secs(100)),
            kind,
            used: UsedTokens { prompt: 5, cached: None, completion: 7 },
            cost: 0,
            span: None,
        };
        for model in 0..2 * MOST_MODELS {
            gen_ai.add(&settled(&format!("model-{model}"), UsageKind::Exact, Ending::Finished), "vllm");
        }
        gen_ai.add(&settled("model-0", UsageKind::Estimated, Ending::Aborted), "vllm");
        gen_ai.add(&settled("", UsageKind::Exact, Ending::Refused), "vllm");
        let metrics: Vec<Metric> = gen_ai.metrics().collect();
        let points = |metric: &Metric| match &metric.points {
            Points::Histograms(points) => points.clone(),
            other => panic!("{other:?}"),
        };
        let [tokens, duration, first_token] = [0, 1, 2].map(|i| points(&metrics[i]));
        let counted =
            |points: &[HistogramPoint]| -> u64 { points.iter().flat_map(|point| &point.buckets).sum() };
        assert_eq!((tokens.len(), counted(&tokens)), (2 * (MOST_MODELS + 1), 2 * 2 * MOST_MODELS as u64));
        assert_eq!((duration.len(), counted(&duration)), (MOST_MODELS + 3, 2 * MOST_MODELS as u64 + 2));
        let slow = duration.iter().find(|point| point.attributes.contains(&("error.type", "aborted".into())));
        assert_eq!(slow.expect("an aborted one").buckets.last(), Some(&1));
        let others = first_token
            .iter()
            .find(|point| point.attributes.contains(&("gen_ai.request.model", OTHERS.into())));
        assert_eq!(others.expect("the others").buckets[1], MOST_MODELS as u64);
    }
}
