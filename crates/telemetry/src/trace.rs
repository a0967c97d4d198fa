//! Which requests have spans, and what their spans need to be known by (<https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling>).

use std::{sync::Arc, time::SystemTime};

use metering::SpanId;

/// Decides which requests have spans, before anything is done for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Of requests that continue no trace: the share that is sampled, from 0 to 1.
    pub ratio: f64,
    /// A request that continues a trace is sampled if that trace is.
    pub follows_parent: bool,
}

impl Sampler {
    /// Whether a request has spans. `parent` says whether the trace that it continues is sampled; `None` if it begins one.
    ///
    /// Of equal traces all programs must choose the same ones, so this is the rule of OpenTelemetry's own SDKs in Go and Rust: the
    /// lower half of the trace's id without its lowest bit.
    pub fn samples(&self, trace: u128, parent: Option<bool>) -> bool {
        const ALL: f64 = (1_u64 << 63) as f64;
        match parent {
            Some(is_sampled) if self.follows_parent => is_sampled,
            _ if self.ratio >= 1.0 => true,
            _ => (((trace as u64) >> 1) as f64) < self.ratio * ALL,
        }
    }
}

/// The span of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionSpan {
    /// The trace.
    pub trace: u128,
    /// Its own id.
    pub span: u64,
    /// The client's or Traefik's span, if the request continues a trace.
    pub parent: Option<u64>,
    /// The route, if the request was allowed and Modelgate has chosen one.
    pub route: Option<Arc<str>>,
}

/// The span of what happens to a request after it was allowed. It can only be told once the request is settled: until then its id
/// proves who speaks about the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationSpan {
    /// The trace.
    pub trace: u128,
    /// Its own id: what the server was given as the parent of its spans.
    pub span: SpanId,
    /// The span of the decision.
    pub parent: u64,
    /// When the request came.
    pub from: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampled_trace_is_continued_and_of_others_a_share_is_chosen() {
        let quarter = Sampler { ratio: 0.25, follows_parent: true };
        assert!(quarter.samples(u128::MAX, Some(true)) && !quarter.samples(0, Some(false)));
        let whole = Sampler { ratio: 0.25, follows_parent: false };
        assert!(!whole.samples(u128::MAX, Some(true)) && whole.samples(0, Some(false)));
        let chosen = |sampler: Sampler| {
            // Evenly spread over the lower half.
            let traces = (0..1_000_u128).map(|i| (7 << 64) | (i * (u128::from(u64::MAX) / 1_000)));
            traces.filter(|trace| sampler.samples(*trace, None)).count()
        };
        assert_eq!(chosen(quarter), 250);
        assert_eq!(chosen(Sampler { ratio: 0.0, ..quarter }), 0);
        assert_eq!(chosen(Sampler { ratio: 1.0, ..quarter }), 1_000);
    }
}
