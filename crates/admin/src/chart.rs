//! Charts of the last hour, drawn by the server: they work without scripts, and nothing has to be loaded for them.

mod drawing;

use std::iter;

use telemetry::Point;

use crate::format;
pub(crate) use drawing::{Drawing, HEIGHT, WIDTH};
use drawing::{Scale, bar, line};

/// A chart, ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chart {
    /// What it is, for the heading.
    pub(crate) title: &'static str,
    /// What it shows in a sentence, for who does not see it.
    pub(crate) summary: String,
    pub(crate) legend: Vec<Series>,
    pub(crate) drawing: Drawing,
    pub(crate) times: Vec<Clock>,
    pub(crate) columns: Vec<Column>,
}

/// A part of the legend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// Which colour.
    pub(crate) colour: u8,
    pub(crate) name: String,
    /// How many in all; empty where that says nothing.
    pub(crate) total: String,
}

/// A time of day below the chart. Scripts write it in the reader's own time zone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) x: i32,
    /// RFC 3339.
    pub(crate) machine: String,
    pub(crate) text: String,
}

/// What pointing at a minute tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) x: i32,
    pub(crate) width: i32,
    /// When it begins, RFC 3339.
    pub(crate) machine: String,
    /// The time of day first.
    pub(crate) tells: String,
}

/// The colour of what was allowed, and the last one, which later reasons share.
const ALLOWED: u8 = 0;
const LAST: u8 = 5;

/// How many requests per second, allowed and refused by reason.
pub(crate) fn requests(points: &[Point]) -> Chart {
    let mut reasons = by_frequency(points);
    let others = reasons.split_off(coloured(reasons.len()));
    let colours: Vec<(&str, u8)> = reasons.iter().map(|(code, _)| *code).zip(ALLOWED + 1..).collect();
    let colour = |code: &str| colours.iter().find(|(known, _)| *known == code).map_or(LAST, |(_, of)| *of);
    let scale = Scale::up_to(points.iter().map(|p| p.per_second(p.allowed + p.refused_in_all())));
    let mut bars = Vec::new();
    for (minute, point) in points.iter().enumerate() {
        let mut below = 0.0;
        let refused = point.refused.iter().map(|(code, count)| (colour(code), *count));
        for (colour, count) in iter::once((ALLOWED, point.allowed)).chain(refused) {
            let value = point.per_second(count);
            if value > 0.0 {
                bars.push(bar(minute, below..below + value, colour, scale));
                below += value;
            }
        }
    }
    let (allowed, refused) =
        points.iter().fold((0, 0), |(a, r), point| (a + point.allowed, r + point.refused_in_all()));
    let series =
        |colour, name: &str, total| Series { colour, name: name.into(), total: format::count(total) };
    let mut legend = vec![series(ALLOWED, "allowed", allowed)];
    legend.extend(reasons.iter().map(|(code, count)| series(colour(code), code, *count)));
    if !others.is_empty() {
        legend.push(series(LAST, "others", others.iter().map(|(_, count)| count).sum()));
    }
    let drawing = drawn(drawing::draw(points.len(), scale, bars, Vec::new()));
    Chart {
        title: "Requests per second, last hour",
        summary: format!(
            "In the last hour {} requests were allowed and {} refused.",
            format::count(allowed),
            format::count(refused)
        ),
        legend,
        times: times(points, &drawing),
        columns: columns(points, &drawing, rates),
        drawing,
    }
}

/// How long decisions took.
pub(crate) fn latencies(points: &[Point]) -> Chart {
    let millis = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let scale = Scale::up_to(points.iter().filter_map(|p| millis(p.p99)));
    let (mut lines, mut legend) = (Vec::new(), Vec::new());
    for (colour, name, of) in [(3, "p50", (|p| p.p50) as fn(&Point) -> _), (2, "p99", |p| p.p99)] {
        lines.extend(line(points.iter().map(|point| millis(of(point))), colour));
        legend.push(Series { colour, name: name.into(), total: String::new() });
    }
    let worst = points.iter().filter_map(|p| p.p99).max();
    let drawing = drawn(drawing::draw(points.len(), scale, Vec::new(), lines));
    Chart {
        title: "/auth in milliseconds, last hour",
        summary: format!("The highest p99 of a minute in the last hour was {}.", format::latency(worst)),
        legend,
        times: times(points, &drawing),
        columns: columns(points, &drawing, |point| {
            format!("p50 {}, p99 {}", format::latency(point.p50), format::latency(point.p99))
        }),
        drawing,
    }
}

/// Without a drawing, a chart still has its sentence and its legend.
fn drawn<E: std::fmt::Display>(drawing: Result<Drawing, E>) -> Drawing {
    drawing.inspect_err(|error| tracing::error!(%error, "a chart cannot be drawn")).unwrap_or_default()
}

/// So many reasons have colours of their own, of all that there are. The rest shares the last one.
fn coloured(reasons: usize) -> usize {
    const OWN: usize = LAST as usize;
    if reasons > OWN { OWN - 1 } else { reasons }
}

/// The reasons and how often they have occurred, the most frequent first.
fn by_frequency(points: &[Point]) -> Vec<(&'static str, u64)> {
    let mut all: Vec<(&'static str, u64)> = Vec::new();
    for (code, count) in points.iter().flat_map(|point| &point.refused) {
        match all.iter_mut().find(|(known, _)| known == code) {
            Some((_, sum)) => *sum += count,
            None => all.push((code, *count)),
        }
    }
    all.sort_by_key(|(code, count)| (std::cmp::Reverse(*count), *code));
    all
}

fn rates(point: &Point) -> String {
    let rate = |count| format::rate(point.per_second(count));
    let mut tells = format!("{}/s allowed", rate(point.allowed));
    for (code, count) in &point.refused {
        tells.push_str(&format!(", {}/s {code}", rate(*count)));
    }
    tells
}

/// One every quarter of an hour, where there is room for it.
fn times(points: &[Point], drawing: &Drawing) -> Vec<Clock> {
    const EVERY: usize = 15;
    let minutes = points.iter().zip(&drawing.minutes).enumerate().step_by(EVERY);
    let minutes = minutes.filter(|(i, _)| i + EVERY / 3 < points.len());
    let clocks = minutes.map(|(_, (point, minute))| Clock {
        x: minute.start,
        machine: format::time(point.start).machine,
        text: clock(point),
    });
    clocks.collect()
}

fn columns(points: &[Point], drawing: &Drawing, tells: impl Fn(&Point) -> String) -> Vec<Column> {
    let columns = points.iter().zip(&drawing.minutes).map(|(point, minute)| Column {
        x: minute.start,
        width: minute.end - minute.start,
        machine: format::time(point.start).machine,
        tells: format!("{}: {}", clock(point), tells(point)),
    });
    columns.collect()
}

fn clock(point: &Point) -> String {
    format::moment(point.start).people.get(..5).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
