//! The figures as an SVG picture.

use std::fmt::Write as _;

use crate::figures::Figures;

/// The size of the picture, in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;
/// Colours that colour-blind people can tell apart: <https://jfly.uni-koeln.de/color/>.
const COLOURS: [&str; 6] = ["#000000", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7"];

/// Requests per second as a share of those of Traefik alone, over the size of a body, at 32 connections: a line with its interval
/// for each contender (<https://www.w3.org/TR/SVG11/>).
pub(crate) fn by_size(all: &[Figures]) -> String {
    let cases: Vec<&Figures> = all.iter().filter(|figures| figures.connections() == 32).collect();
    let (plot_width, plot_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = |case: usize| LEFT + plot_width * case as f64 / cases.len().saturating_sub(1).max(1) as f64;
    let y = |ratio: f64| TOP + plot_height * (1.0 - ratio.clamp(0.0, 1.1) / 1.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Requests per second, as a share of Traefik alone, at 32 connections</text>\n"
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, right) = (y(share), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{share}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (case, figures) in cases.iter().enumerate() {
        let (at, below, size) = (x(case), HEIGHT - BOTTOM + 20.0, size(figures.bytes()));
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{size}</text>");
    }
    let names = cases.first().into_iter().flat_map(|figures| figures.of_traefik_alone());
    for (number, (name, _)) in names.enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut line = String::new();
        for (case, figures) in cases.iter().enumerate() {
            let Some((_, ratio)) = figures.of_traefik_alone().nth(number) else { continue };
            let _ =
                write!(line, "{}{:.1} {:.1}", if case == 0 { 'M' } else { 'L' }, x(case), y(ratio.median));
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"{colour}\" stroke-width=\"4\" stroke-opacity=\".35\"/>",
                x(case),
                y(ratio.low),
                y(ratio.high)
            );
        }
        let (right, row) = (WIDTH - RIGHT + 16.0, TOP + 18.0 * number as f64);
        let _ = writeln!(
            svg,
            "<path d=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <path d=\"M{right:.1} {row:.1}h18\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            right + 24.0,
            row + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn size(bytes: usize) -> String {
    match bytes {
        ..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
