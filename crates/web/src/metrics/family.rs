//! Families of samples.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

/// A metric family: one name, and a sample for each set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Letters and underscores, beginning with `modelgate_`; a counter's name without `_total`.
    pub name: &'static str,
    /// The help text, in one line.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// The samples; all have the same label names.
    pub samples: Vec<Sample>,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// The values only grow.
    Counter,
    /// The values go up and down.
    Gauge,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels with their values, which may be anything except secrets.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Family {
    /// A gauge without samples.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Gauge, samples: Vec::new() }
    }

    /// A counter without samples.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Counter, samples: Vec::new() }
    }

    /// Adds a sample.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value });
        self
    }
}

/// A family of histograms.
#[derive(Debug)]
pub struct HistogramFamily {
    /// Letters and underscores, beginning with `modelgate_`.
    pub name: &'static str,
    /// The help text, in one line.
    pub help: &'static str,
    /// The histograms.
    pub samples: Vec<HistogramSample>,
}

/// One histogram.
#[derive(Debug)]
pub struct HistogramSample {
    /// A label with its value, if there are several histograms.
    pub label: Option<(&'static str, String)>,
    /// The sum of what was observed.
    pub sum: f64,
    /// How many were observed.
    pub count: u64,
    /// The upper limit of each bucket and how much is in it alone; the last is infinite.
    pub buckets: Vec<(f64, u64)>,
}

impl HistogramFamily {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Histogram)?;
        for HistogramSample { label, sum, count, buckets } in &self.samples {
            match label {
                None => metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?,
                Some((name, value)) => metric
                    .encode_family(&[(*name, value.as_str())])?
                    .encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?,
            }
        }
        Ok(())
    }
}

impl Family {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for Sample { labels, value } in &self.samples {
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            match (labels.as_slice(), self.kind) {
                ([], MetricKind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                ([], MetricKind::Gauge) => metric.encode_gauge(value)?,
                (labels, MetricKind::Counter) => {
                    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)?;
                }
                (labels, MetricKind::Gauge) => metric.encode_family(&labels)?.encode_gauge(value)?,
            }
        }
        Ok(())
    }
}
