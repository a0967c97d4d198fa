//! Metrics as they are sent: sums since the start, values of this moment, and histograms.

use std::time::SystemTime;

use crate::message::{Message, Value};

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`: all since the start.
const CUMULATIVE: u64 = 2;

/// A metric with all its points.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// By UCUM; empty if there is none.
    pub unit: &'static str,
    /// The points.
    pub points: Points,
}

/// Of what kind a metric is.
#[derive(Debug, Clone, PartialEq)]
pub enum Points {
    /// Sums that only grow.
    Sums(Vec<NumberPoint>),
    /// Values that go up and down.
    Gauges(Vec<NumberPoint>),
    /// Distributions.
    Histograms(Vec<HistogramPoint>),
}

/// A number with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberPoint {
    /// Names and values, which may be anything except secrets.
    pub attributes: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// A distribution with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramPoint {
    /// Names and values, which may be anything except secrets.
    pub attributes: Vec<(&'static str, String)>,
    /// The upper bounds of all buckets but the last, rising.
    pub bounds: Vec<f64>,
    /// How many are in each bucket; one more than bounds.
    pub buckets: Vec<u64>,
    /// The sum of all that was observed.
    pub sum: f64,
}

impl Metric {
    /// A `Metric` message.
    pub(crate) fn encode(&self, start: SystemTime, now: SystemTime) -> Vec<u8> {
        let message = Message::default().text(1, self.name).text(2, self.help).text(3, self.unit);
        let numbers = |points: &[NumberPoint]| {
            points.iter().fold(Message::default(), |all, point| all.message(1, &point.encode(start, now)))
        };
        let message = match &self.points {
            Points::Gauges(points) => message.message(5, &numbers(points)),
            // Its `is_monotonic` is 3.
            Points::Sums(points) => message.message(7, &numbers(points).number(2, CUMULATIVE).number(3, 1)),
            Points::Histograms(points) => {
                let all = points
                    .iter()
                    .fold(Message::default(), |all, point| all.message(1, &point.encode(start, now)));
                message.message(9, &all.number(2, CUMULATIVE))
            }
        };
        message.into_bytes()
    }
}

impl NumberPoint {
    /// A `NumberDataPoint`.
    fn encode(&self, start: SystemTime, now: SystemTime) -> Message {
        let message = Message::default().time(2, start).time(3, now).fraction(4, self.value);
        self.attributes
            .iter()
            .fold(message, |message, (key, value)| message.attribute(7, key, Value::Text(value)))
    }
}

impl HistogramPoint {
    /// A `HistogramDataPoint`.
    fn encode(&self, start: SystemTime, now: SystemTime) -> Message {
        let message = Message::default()
            .time(2, start)
            .time(3, now)
            .fixed(4, self.buckets.iter().sum())
            .fraction(5, self.sum)
            .all_fixed(6, self.buckets.iter().copied())
            .all_fixed(7, self.bounds.iter().map(|bound| bound.to_bits()));
        self.attributes
            .iter()
            .fold(message, |message, (key, value)| message.attribute(9, key, Value::Text(value)))
    }
}
