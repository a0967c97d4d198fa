//! The part of a chart that [plotters](https://docs.rs/plotters) draws: the grid, its scale, bars and lines.

use std::{io, ops::Range};

use plotters::{
    coord::{
        ranged1d::{BoldPoints, Ranged as _},
        types::RangedCoordf64,
    },
    drawing::DrawingAreaErrorKind,
    prelude::*,
};

use crate::format;

/// The view box. plotters draws in whole units; a pixel of a screen has about two of them.
pub(crate) const WIDTH: u32 = 1440;
/// Likewise.
pub(crate) const HEIGHT: u32 = 340;
/// Room on the left for the scale. Sixty minutes share the rest, of which plotters takes one unit for the last pixel,
/// without a remainder, so that all bars are as wide.
const LEFT: u32 = 119;
/// Room for the topmost figure, and below for the times.
const ABOVE: u32 = 24;
const BELOW: u32 = 60;
/// Between a bar and either end of its minute.
const GAP: u32 = 3;
/// Not so low that it cannot be seen.
const LOWEST_BAR: f64 = 1.25;
const LINE: u32 = 5;
const GRID: u32 = 2;
/// Between a figure of the scale and the grid, halved.
const TICK: i32 = 8;

/// Stands for the grid's colour and that of the scale, which app.css gives to all lines and all text.
const ANY: RGBColor = BLACK;

/// The colour of a series as plotters writes it: `#0000C0` is the first one, and app.css says how it looks, light and dark.
fn colour(series: u8) -> RGBColor {
    RGBColor(0, 0, 0xC0 + series)
}

/// What has been drawn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drawing {
    /// An `svg` element of the size of the view box.
    pub(crate) svg: String,
    /// From where to where each minute reaches from left to right.
    pub(crate) minutes: Vec<Range<i32>>,
    /// How low the scale's zero is.
    pub(crate) ground: i32,
}

/// The vertical axis, which begins at zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    end: f64,
    labels: usize,
}

impl Scale {
    /// Up to a round figure, so that the scale of a live chart stays as it is while its values move.
    pub(super) fn up_to(values: impl Iterator<Item = f64>) -> Self {
        const ABOUT: BoldPoints = BoldPoints(3);
        let most = Some(values.fold(0.0, f64::max)).filter(|most| *most > 0.0).unwrap_or(1.0);
        let step = match RangedCoordf64::from(0.0..most).key_points(ABOUT)[..] {
            [first, second, ..] => second - first,
            _ => most,
        };
        let steps = (most / step).ceil();
        Self { end: step * steps, labels: steps as usize + 1 }
    }
}

/// From a value to another one within a minute.
pub(super) fn bar(minute: usize, values: Range<f64>, series: u8, scale: Scale) -> Rectangle<(f64, f64)> {
    let lowest = scale.end * LOWEST_BAR / f64::from(HEIGHT - ABOVE - BELOW);
    let top = values.end.max(values.start + lowest);
    let corners = [(minute as f64, top), (minute as f64 + 1.0, values.start)];
    let mut bar = Rectangle::new(corners, colour(series).filled());
    bar.set_margin(0, 0, GAP, GAP);
    bar
}

/// A value for each minute, with gaps where there is none. A minute is a step, so that a lone one is seen, too.
pub(super) fn line(
    values: impl Iterator<Item = Option<f64>>,
    series: u8,
) -> impl Iterator<Item = PathElement<(f64, f64)>> {
    let minutes: Vec<_> = values.enumerate().collect();
    let runs = minutes.chunk_by(|(_, before), (_, next)| before.is_some() && next.is_some());
    let step = |(minute, value): &(usize, Option<f64>)| {
        value.map(|value| [(*minute as f64, value), (*minute as f64 + 1.0, value)])
    };
    let steps: Vec<Vec<_>> = runs.map(|run| run.iter().filter_map(step).flatten().collect()).collect();
    let steps = steps.into_iter().filter(|steps| !steps.is_empty());
    steps.map(move |steps| PathElement::new(steps, colour(series).stroke_width(LINE)))
}

/// Draws bars and lines over so many minutes.
pub(super) fn draw(
    minutes: usize,
    scale: Scale,
    bars: Vec<Rectangle<(f64, f64)>>,
    lines: Vec<PathElement<(f64, f64)>>,
) -> Result<Drawing, DrawingAreaErrorKind<io::Error>> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .y_label_area_size(LEFT)
        .margin_top(ABOVE)
        .margin_bottom(BELOW)
        .build_cartesian_2d(0.0..minutes.max(1) as f64, 0.0..scale.end)?;
    chart
        .configure_mesh()
        .x_labels(0)
        .y_labels(scale.labels)
        .y_label_formatter(&|value| figure(*value))
        .label_style(("sans-serif", 34, &ANY))
        .set_tick_mark_size(LabelAreaPosition::Left, TICK)
        .axis_style(TRANSPARENT)
        .bold_line_style(ANY.stroke_width(GRID))
        .max_light_lines(0)
        .draw()?;
    chart.draw_series(bars)?;
    chart.draw_series(lines)?;
    root.present()?;
    let x = |minute: usize| chart.backend_coord(&(minute as f64, 0.0)).0;
    let drawn = (0..minutes).map(|minute| x(minute)..x(minute + 1)).collect();
    let (_, ground) = chart.backend_coord(&(0.0, 0.0));
    drop(chart);
    drop(root);
    Ok(Drawing { svg, minutes: drawn, ground })
}

/// A figure of a scale: a small one as exact as it is, which one request a minute needs.
fn figure(value: f64) -> String {
    if value >= 10.0 {
        return format::count(value.round() as u64);
    }
    format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
