//! Charts, drawn by the server, so that they work without scripts and nothing has to be loaded for them: those of the last hour, and
//! stacked ones of any time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use telemetry::Point;

use crate::format;

/// The size of a chart, in the units of its view box.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 170.0;
/// The margins: the scale is on the left, the times are below, the topmost figure is above.
const LEFT: f64 = 56.0;
const BELOW: f64 = 30.0;
const ABOVE: f64 = 12.0;

/// How often charts are drawn. The charts of an hour change little in a second, and drawing and showing them is most of the cost
/// of a live page.
const REDRAW_INTERVAL: Duration = Duration::from_secs(5);

/// The charts as they were drawn last, shared by all viewers.
#[derive(Debug, Default)]
pub(crate) struct Charts(Mutex<Option<(Instant, Arc<[Chart; 2]>)>>);

impl Charts {
    /// The charts; drawn anew unless that was done just now.
    pub(crate) fn of(&self, now: Instant, hour: impl FnOnce() -> Vec<Point>) -> Arc<[Chart; 2]> {
        let mut drawn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*drawn {
            Some((at, charts)) if now.saturating_duration_since(*at) < REDRAW_INTERVAL => Arc::clone(charts),
            _ => {
                let hour = hour();
                let charts = Arc::new([requests(&hour), latencies(&hour)]);
                *drawn = Some((now, Arc::clone(&charts)));
                charts
            }
        }
    }
}

/// A chart, ready to be drawn.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Chart {
    /// What the chart shows, for the heading.
    pub(crate) title: String,
    /// What the chart shows in a sentence, for people who cannot see it.
    pub(crate) summary: String,
    pub(crate) legend: Vec<Series>,
    pub(crate) bars: Vec<Bar>,
    pub(crate) lines: Vec<Line>,
    pub(crate) scale: Vec<Label>,
    pub(crate) times: Vec<Clock>,
    pub(crate) columns: Vec<Column>,
}

/// An entry of the legend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// The class of its colour.
    pub(crate) class: &'static str,
    pub(crate) name: String,
    /// The total; empty where it is meaningless.
    pub(crate) total: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) class: &'static str,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) width: String,
    pub(crate) height: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) class: &'static str,
    pub(crate) path: String,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Label {
    /// The position on its axis.
    pub(crate) at: String,
    pub(crate) text: String,
}

/// A time below the chart. Scripts write a time of day in the reader's own time zone.
#[derive(Debug, PartialEq)]
pub(crate) struct Clock {
    pub(crate) at: String,
    /// RFC 3339; empty if it is a day or a month.
    pub(crate) machine: String,
    pub(crate) text: String,
}

/// The tooltip of a minute, or of another span of time.
#[derive(Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) x: String,
    pub(crate) width: String,
    /// Its start, in RFC 3339; empty if it is a day or a month.
    pub(crate) machine: String,
    /// The lines of the tooltip, the time of day first.
    pub(crate) tells: String,
}

/// The classes of colours; the last one is shared by all remaining series.
const CLASSES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

/// Requests per second: allowed, and refused by reason.
pub(crate) fn requests(points: &[Point]) -> Chart {
    let mut reasons = by_frequency(points);
    let others = reasons.split_off(coloured(reasons.len()));
    let class = |code: &str| reasons.iter().position(|(r, _)| *r == code).map_or("s5", |at| CLASSES[at + 1]);
    let top = nice(points.iter().map(|p| p.per_second(p.allowed + p.refused_in_all())).fold(0.0, f64::max));
    let mut chart = Chart { title: "Requests per second, last hour".to_owned(), ..frame(points, top) };
    for (i, point) in points.iter().enumerate() {
        let mut below = 0.0;
        let mut stack = |class, count| {
            let value = point.per_second(count);
            if value > 0.0 {
                chart.bars.push(bar(points.len(), i, below / top, value / top, class));
                below += value;
            }
        };
        stack("s0", point.allowed);
        for (code, count) in &point.refused {
            stack(class(code), *count);
        }
        let mut tells =
            format!("{}: {}/s allowed", clock(point), format::rate(point.per_second(point.allowed)));
        for (code, count) in &point.refused {
            tells.push_str(&format!(", {}/s {code}", format::rate(point.per_second(*count))));
        }
        chart.columns.push(column(points, i, tells));
    }
    let (allowed, refused) =
        points.iter().fold((0, 0), |(a, r), point| (a + point.allowed, r + point.refused_in_all()));
    let series = |class, name: &str, total| Series { class, name: name.into(), total: format::count(total) };
    chart.legend.push(series("s0", "allowed", allowed));
    let shown = reasons.iter().enumerate().map(|(at, (code, count))| series(CLASSES[at + 1], code, *count));
    chart.legend.extend(shown);
    if !others.is_empty() {
        chart.legend.push(series("s5", "others", others.iter().map(|(_, count)| count).sum()));
    }
    chart.summary = format!(
        "In the last hour {} requests were allowed and {} refused.",
        format::count(allowed),
        format::count(refused)
    );
    chart
}

/// How long decisions took.
pub(crate) fn latencies(points: &[Point]) -> Chart {
    let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let top = nice(points.iter().filter_map(|p| millis(p.p99)).fold(0.0, f64::max));
    let mut chart = Chart { title: "/auth in milliseconds, last hour".to_owned(), ..frame(points, top) };
    for (class, name, of) in [("s3", "p50", (|p| p.p50) as fn(&Point) -> _), ("s2", "p99", |p| p.p99)] {
        chart.lines.push(Line { class, path: path(points, |p| millis(of(p)), top) });
        chart.legend.push(Series { class, name: name.into(), total: String::new() });
    }
    for (i, point) in points.iter().enumerate() {
        let tells = format!(
            "{}: p50 {}, p99 {}",
            clock(point),
            format::latency(point.p50),
            format::latency(point.p99)
        );
        chart.columns.push(column(points, i, tells));
    }
    let worst = points.iter().filter_map(|p| p.p99).max();
    chart.summary = format!("The highest p99 of a minute in the last hour was {}.", format::latency(worst));
    chart
}

/// A span of time in a stacked chart.
#[derive(Debug, Default)]
pub(crate) struct StackedSpan {
    /// How it is called.
    pub(crate) name: String,
    /// Its start in RFC 3339, if it is shorter than a day.
    pub(crate) machine: String,
    /// Its values, from the ground up, in the order of the legend.
    pub(crate) values: Vec<i64>,
}

/// What the values of stacks are.
pub(crate) struct Measure<F> {
    /// How many of them are one on the scale.
    pub(crate) unit: f64,
    /// Writes one.
    pub(crate) show: F,
}

/// Values of spans of time, stacked; `names` are those of the values. The last of six names may stand for all that have no colour of
/// their own.
pub(crate) fn stacked(
    title: String,
    names: &[String],
    stacks: &[StackedSpan],
    Measure { unit, show }: Measure<impl Fn(i64) -> String>,
) -> Chart {
    const LABELS: usize = 6;
    let class = |series: usize| CLASSES[series.min(CLASSES.len() - 1)];
    // What was corrected later than its hour may be below zero there.
    let height =
        |stack: &StackedSpan| stack.values.iter().map(|value| (*value).max(0) as f64 / unit).sum::<f64>();
    let top = nice(stacks.iter().map(height).fold(0.0, f64::max));
    let scale = [0.0, 0.5, 1.0].map(|part| Label { at: number(y(part)), text: short(top * part) });
    let mut chart = Chart { title, scale: scale.into(), ..Chart::default() };
    let every = stacks.len().div_ceil(LABELS).max(1);
    for (i, stack) in stacks.iter().enumerate() {
        let mut below = 0.0;
        let mut told = Vec::new();
        for (series, value) in stack.values.iter().enumerate().filter(|(_, value)| **value > 0) {
            let part = *value as f64 / unit / top;
            chart.bars.push(bar(stacks.len(), i, below, part, class(series)));
            below += part;
            told.push(format!("{} {}", names[series], show(*value)));
        }
        let told = if told.is_empty() { "nothing".to_owned() } else { told.join(", ") };
        chart.columns.push(Column {
            x: number(x(stacks.len(), i)),
            width: number(step(stacks.len())),
            machine: stack.machine.clone(),
            tells: format!("{}: {told}", stack.name),
        });
        if i % every == 0 && i + every / 3 < stacks.len() {
            let at = number(x(stacks.len(), i));
            chart.times.push(Clock { at, machine: stack.machine.clone(), text: stack.name.clone() });
        }
    }
    for (series, name) in names.iter().enumerate() {
        let total = stacks
            .iter()
            .filter_map(|stack| stack.values.get(series))
            .fold(0_i64, |sum, value| sum.saturating_add(*value));
        chart.legend.push(Series { class: class(series), name: name.clone(), total: show(total) });
    }
    chart
}

/// How many of the reasons have a colour of their own. The others share the last one.
fn coloured(reasons: usize) -> usize {
    const OWN: usize = CLASSES.len() - 1;
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

fn frame(points: &[Point], top: f64) -> Chart {
    let scale = [0.0, 0.5, 1.0].map(|part| Label { at: number(y(part)), text: figure(top * part) });
    let every = 15;
    let times = points.iter().enumerate().filter(|(i, _)| i % every == 0 && i + every / 3 < points.len());
    let times = times.map(|(i, point)| Clock {
        at: number(x(points.len(), i)),
        machine: format::time(point.start).machine,
        text: clock(point),
    });
    Chart { scale: scale.into(), times: times.collect(), ..Chart::default() }
}

fn clock(point: &Point) -> String {
    format::moment(point.start).people.get(..5).unwrap_or_default().to_owned()
}

fn x(count: usize, i: usize) -> f64 {
    LEFT + step(count) * i as f64
}

fn step(count: usize) -> f64 {
    (WIDTH - LEFT) / count.max(1) as f64
}

fn y(part: f64) -> f64 {
    ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - part)
}

fn bar(count: usize, i: usize, from: f64, part: f64, class: &'static str) -> Bar {
    let (top, bottom) = (y(from + part), y(from));
    Bar {
        class,
        x: number(x(count, i) + step(count) * 0.12),
        y: number(top),
        width: number(step(count) * 0.76),
        // High enough to be seen.
        height: number((bottom - top).max(0.6)),
    }
}

fn column(points: &[Point], i: usize, tells: String) -> Column {
    let (x, width) = (number(x(points.len(), i)), number(step(points.len())));
    Column { x, width, machine: format::time(points[i].start).machine, tells }
}

/// A line with gaps where there is no value.
fn path(points: &[Point], value: impl Fn(&Point) -> Option<f64>, top: f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (i, point) in points.iter().enumerate() {
        match value(point) {
            Some(value) => {
                let (left, width) = (x(points.len(), i), step(points.len()));
                let level = number(y(value / top));
                // A minute is drawn as a step, so that a single one is visible, too.
                let command = if drawing { 'L' } else { 'M' };
                path.push_str(&format!("{command}{} {level}H{}", number(left), number(left + width)));
                drawing = true;
            }
            None => drawing = false,
        }
    }
    path
}

/// Rounds up to the next of 1, 2, 5, 10, …
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= most).unwrap_or(most)
}

fn number(value: f64) -> String {
    trimmed(&format!("{value:.1}"))
}

/// A figure of a scale. Small figures are exact, as needed for one request a minute, or for what one request costs.
fn figure(value: f64) -> String {
    match value {
        value if value >= 10.0 => format::count(value.round() as u64),
        value if value <= 0.0 => "0".to_owned(),
        value => {
            // Two digits, of whatever size.
            let decimals = (1.0 - value.log10().floor()).max(4.0) as usize;
            trimmed(&format!("{value:.decimals$}"))
        }
    }
}

/// A figure of a scale that may be of any size: `500 k`, `10 M`.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{} G", figure(value / 1e9)),
        value if value >= 1e6 => format!("{} M", figure(value / 1e6)),
        value if value >= 1e4 => format!("{} k", figure(value / 1e3)),
        value => figure(value),
    }
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn point(minute: u64, allowed: u64, refused: &[(&'static str, u64)]) -> Point {
        Point {
            start: UNIX_EPOCH + Duration::from_secs(60 * minute),
            span: Duration::from_secs(60),
            allowed,
            refused: refused.to_vec(),
            p50: (allowed > 0).then(|| Duration::from_micros(200)),
            p99: (allowed > 0).then(|| Duration::from_micros(900)),
        }
    }

    #[test]
    fn bars_stand_on_each_other_and_fill_no_more_than_the_chart() {
        let points = [point(0, 120, &[("rate_limited", 60)]), point(1, 0, &[])];
        let chart = requests(&points);
        let tops: Vec<&str> = chart.scale.iter().map(|label| label.text.as_str()).collect();
        assert_eq!(tops, ["0", "2.5", "5"], "3 per second fit under 5");
        let [allowed, refused] = &chart.bars[..] else { panic!("two bars: {:?}", chart.bars) };
        assert_eq!((allowed.class, refused.class), ("s0", "s1"));
        let f = |text: &str| text.parse::<f64>().expect("a number");
        assert!((f(&refused.y) + f(&refused.height) - f(&allowed.y)).abs() < 0.2, "no gap");
        assert!((f(&allowed.y) + f(&allowed.height) - (HEIGHT - BELOW)).abs() < 0.2, "on the ground");
        assert_eq!(chart.columns[0].tells, "00:00: 2.0/s allowed, 1.0/s rate_limited");
        assert_eq!(chart.summary, "In the last hour 120 requests were allowed and 60 refused.");
    }

    #[test]
    fn reasons_are_coloured_by_how_often_they_occur_and_the_rest_shares_a_colour() {
        let many = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6)];
        let chart = requests(&[point(0, 1, &many)]);
        let names: Vec<String> = chart.legend.iter().map(|s| format!("{} {}", s.name, s.total)).collect();
        assert_eq!(names, ["allowed 1", "f 6", "e 5", "d 4", "c 3", "others 3"]);
        let classes: Vec<&str> = chart.bars.iter().map(|bar| bar.class).collect();
        assert_eq!(classes, ["s0", "s5", "s5", "s4", "s3", "s2", "s1"], "a and b share the last colour");
        let chart = requests(&[point(0, 1, &many[..5])]);
        assert_eq!(
            chart.legend.last().map(|s| (s.class, s.name.as_str())),
            Some(("s5", "a")),
            "as many as there are"
        );
    }

    #[test]
    fn spans_of_time_are_stacked_whatever_they_are() {
        let names = ["llama", "qwen", "others"].map(str::to_owned);
        let stack = |name: &str, values: [i64; 3]| StackedSpan {
            name: name.into(),
            machine: String::new(),
            values: values.into(),
        };
        let stacks = [stack("11-01", [300, 100, 50]), stack("11-02", [0, -5, 0])];
        let chart = stacked(
            "Tokens".into(),
            &names,
            &stacks,
            Measure { unit: 1.0, show: |value| format!("{value}") },
        );
        assert_eq!(chart.scale.iter().map(|label| &*label.text).collect::<Vec<_>>(), ["0", "250", "500"]);
        assert_eq!(chart.bars.iter().map(|bar| bar.class).collect::<Vec<_>>(), ["s0", "s1", "s2"]);
        let tells: Vec<_> = chart.columns.iter().map(|column| &*column.tells).collect();
        assert_eq!(tells, ["11-01: llama 300, qwen 100, others 50", "11-02: nothing"]);
        let totals: Vec<_> =
            chart.legend.iter().map(|series| format!("{} {}", series.name, series.total)).collect();
        assert_eq!(totals, ["llama 300", "qwen 95", "others 50"]);
        assert_eq!(chart.times.len(), 2);
        let sizes = [0.5, 9_999.0, 10_000.0, 2_500_000.0, 5e10].map(short);
        assert_eq!(sizes, ["0.5", "9,999", "10 k", "2.5 M", "50 G"]);
        // Regression: a scale of small costs had only zeros.
        let small = [0.0, 0.02, 0.0001, 0.00005, 0.000_000_25].map(short);
        assert_eq!(small, ["0", "0.02", "0.0001", "0.00005", "0.00000025"]);
        let year: Vec<_> = (0..365).map(|day| stack(&day.to_string(), [1, 0, 0])).collect();
        let chart = stacked(String::new(), &names, &year, Measure { unit: 1.0, show: |_| String::new() });
        assert!((5..=6).contains(&chart.times.len()), "{:?}", chart.times);
        assert!(
            stacked(String::new(), &[], &[], Measure { unit: 1.0, show: |_| String::new() }).bars.is_empty()
        );
    }

    #[test]
    fn a_line_has_gaps_where_nothing_was_decided() {
        let chart = latencies(&[point(0, 1, &[]), point(1, 0, &[]), point(2, 1, &[]), point(3, 1, &[])]);
        assert_eq!(chart.lines[0].path.matches('M').count(), 2);
        assert_eq!(chart.scale[2].text, "1");
        assert_eq!(chart.summary, "The highest p99 of a minute in the last hour was 0.90 ms.");
    }

    #[test]
    fn nothing_at_all_is_a_chart_too() {
        assert!(requests(&[]).bars.is_empty());
        assert_eq!(latencies(&[]).lines[0].path, "");
        let tops = |allowed| requests(&[point(0, allowed, &[])]).scale.into_iter().map(|label| label.text);
        assert_eq!(tops(0).collect::<Vec<_>>(), ["0", "0.5", "1"]);
        assert_eq!(tops(1).collect::<Vec<_>>(), ["0", "0.01", "0.02"], "one a minute");
        assert_eq!(tops(90_000).collect::<Vec<_>>(), ["0", "1,000", "2,000"]);
    }

    #[test]
    fn all_who_look_share_charts_that_are_not_older_than_five_seconds() {
        let (charts, now) = (Charts::default(), Instant::now());
        let first = charts.of(now, Vec::new);
        let soon = charts.of(now + REDRAW_INTERVAL - Duration::from_millis(1), || panic!("they are fresh"));
        assert!(Arc::ptr_eq(&first, &soon));
        assert!(!Arc::ptr_eq(&first, &charts.of(now + REDRAW_INTERVAL, Vec::new)));
    }
}
