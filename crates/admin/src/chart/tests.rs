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

/// The elements of a drawing of one kind, as they are written.
fn all<'a>(chart: &'a Chart, element: &str) -> Vec<&'a str> {
    let open = format!("<{element} ");
    let starts = chart.drawing.svg.match_indices(&open);
    starts.filter_map(|(at, _)| chart.drawing.svg[at..].split_once('>').map(|(written, _)| written)).collect()
}

fn attribute<'a>(written: &'a str, name: &str) -> &'a str {
    let (_, value) = written.split_once(&format!(" {name}=\"")).expect("the attribute");
    value.split('"').next().expect("its value")
}

fn number(written: &str, name: &str) -> i32 {
    attribute(written, name).parse().expect("a number")
}

fn colours(chart: &Chart) -> Vec<&str> {
    all(chart, "rect").into_iter().map(|bar| attribute(bar, "fill")).collect()
}

/// The figures of the scale, from below.
fn scale(chart: &Chart) -> Vec<&str> {
    let texts = chart.drawing.svg.split("<text ").skip(1);
    texts.filter_map(|text| text.split(['>', '<']).nth(1)).map(str::trim).collect()
}

#[test]
fn bars_stand_on_each_other_and_on_the_ground_within_their_minutes() {
    let points = [point(0, 120, &[("rate_limited", 60)]), point(1, 0, &[]), point(2, 60, &[])];
    let chart = requests(&points);
    assert_eq!(scale(&chart), ["0", "2", "4"], "3 per second fit under 4");
    let [allowed, refused, last] = all(&chart, "rect")[..] else { panic!("{}", chart.drawing.svg) };
    assert_eq!(colours(&chart), ["#0000C0", "#0000C1", "#0000C0"]);
    assert_eq!(number(refused, "y") + number(refused, "height"), number(allowed, "y"), "no gap");
    assert_eq!(number(allowed, "y") + number(allowed, "height"), chart.drawing.ground);
    assert!((number(allowed, "height") - 2 * number(refused, "height")).abs() <= 1, "to scale");
    assert_eq!(number(allowed, "width"), number(last, "width"));
    for (bar, column) in [(allowed, 0), (refused, 0), (last, 2)] {
        let column = &chart.columns[column];
        let (start, end) = (number(bar, "x"), number(bar, "x") + number(bar, "width"));
        assert!(column.x < start && end < column.x + column.width, "{bar}: {column:?}");
    }
    assert_eq!(chart.columns[0].tells, "00:00: 2.0/s allowed, 1.0/s rate_limited");
    assert_eq!(chart.summary, "In the last hour 180 requests were allowed and 60 refused.");
}

#[test]
fn an_hour_fills_the_chart_with_bars_of_one_width_and_has_a_time_every_quarter() {
    let points: Vec<Point> = (0..60).map(|minute| point(minute, 90 + minute, &[])).collect();
    let chart = requests(&points);
    let bars = all(&chart, "rect");
    assert_eq!(bars.len(), 60);
    assert!(bars.iter().all(|bar| attribute(bar, "width") == attribute(bars[0], "width")), "{bars:?}");
    let end = chart.columns.last().map(|column| column.x + column.width);
    assert_eq!(end, Some(WIDTH as i32 - 1));
    let times: Vec<(i32, &str)> = chart.times.iter().map(|time| (time.x, time.text.as_str())).collect();
    let at = |minute: usize| chart.columns[minute].x;
    assert_eq!(times, [(at(0), "00:00"), (at(15), "00:15"), (at(30), "00:30"), (at(45), "00:45")]);
}

#[test]
fn one_refusal_among_many_requests_is_seen() {
    let chart = requests(&[point(0, 1_000_000, &[("overloaded", 1)])]);
    let bars = all(&chart, "rect");
    assert!(number(bars[1], "height") >= 1, "{bars:?}");
}

#[test]
fn reasons_are_coloured_by_how_often_they_occur_and_the_rest_shares_a_colour() {
    let many = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6)];
    let chart = requests(&[point(0, 1, &many)]);
    let names: Vec<String> = chart.legend.iter().map(|s| format!("{} {}", s.name, s.total)).collect();
    assert_eq!(names, ["allowed 1", "f 6", "e 5", "d 4", "c 3", "others 3"]);
    let expected = ["#0000C0", "#0000C5", "#0000C5", "#0000C4", "#0000C3", "#0000C2", "#0000C1"];
    assert_eq!(colours(&chart), expected, "a and b share the last colour");
    let chart = requests(&[point(0, 1, &many[..5])]);
    let last = chart.legend.last().map(|series| (series.colour, series.name.as_str()));
    assert_eq!(last, Some((5, "a")), "as many as there are");
}

#[test]
fn a_line_has_gaps_where_nothing_was_decided_and_a_lone_minute_is_as_wide_as_its_column() {
    let chart = latencies(&[point(0, 1, &[]), point(1, 0, &[]), point(2, 1, &[]), point(3, 1, &[])]);
    let lines: Vec<(&str, Vec<&str>)> = all(&chart, "polyline")
        .into_iter()
        .map(|line| (attribute(line, "stroke"), attribute(line, "points").split_whitespace().collect()))
        .collect();
    let shape: Vec<(&str, usize)> = lines.iter().map(|(colour, points)| (*colour, points.len())).collect();
    assert_eq!(shape, [("#0000C3", 2), ("#0000C3", 4), ("#0000C2", 2), ("#0000C2", 4)]);
    let ends: Vec<i32> =
        lines[0].1.iter().map(|at| at.split_once(',').expect("x,y").0.parse().expect("x")).collect();
    assert_eq!(ends, [chart.columns[0].x, chart.columns[1].x]);
    assert_eq!(scale(&chart), ["0", "0.5", "1"]);
    assert_eq!(chart.columns[1].tells, "00:01: p50 –, p99 –");
    assert_eq!(chart.summary, "The highest p99 of a minute in the last hour was 0.90 ms.");
}

#[test]
fn nothing_at_all_is_a_chart_too() {
    assert!(all(&requests(&[]), "rect").is_empty());
    assert!(all(&latencies(&[]), "polyline").is_empty());
    let of = |allowed| requests(&[point(0, allowed, &[])]);
    assert_eq!(scale(&of(0)), ["0", "0.5", "1"]);
    assert_eq!(scale(&of(1)), ["0", "0.01", "0.02"], "one a minute");
    assert_eq!(scale(&of(90_000)), ["0", "1,000", "2,000"]);
}

#[test]
fn whatever_the_rate_the_scale_is_short_and_reaches_it() {
    for exponent in 0..160 {
        let count = 1.17_f64.powi(exponent) as u64;
        let chart = requests(&[point(0, count, &[])]);
        let figures = scale(&chart);
        assert!((3..=5).contains(&figures.len()), "{count}: {figures:?}");
        let last: f64 = figures[figures.len() - 1].replace(',', "").parse().expect("a figure");
        assert!(last >= count as f64 / 60.0 * 0.999, "{count}: {figures:?}");
    }
}

#[test]
fn the_style_sheet_has_each_colour_and_the_drawing_needs_no_style_of_its_own() {
    let css = include_str!("../../assets/app.css");
    let many = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)];
    let charts = [requests(&[point(0, 1, &many)]), latencies(&[point(0, 1, &many)])];
    let bars = all(&charts[0], "rect").into_iter().map(|bar| ("fill", attribute(bar, "fill")));
    let lines = all(&charts[1], "polyline").into_iter().map(|line| ("stroke", attribute(line, "stroke")));
    let used: Vec<_> = bars.chain(lines).collect();
    assert_eq!(used.len(), 8);
    for (what, colour) in used {
        let series = colour.strip_prefix("#0000C").expect("the name of a colour");
        let rule = format!(".chart [{what}=\"{colour}\"] {{ {what}: var(--c{series}); }}");
        assert!(css.contains(&rule), "{rule}");
    }
    // The Content-Security-Policy allows no style in a page.
    for chart in &charts {
        assert!(!chart.drawing.svg.contains("style"), "{}", chart.drawing.svg);
    }
}
