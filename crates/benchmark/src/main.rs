//! Requests per second and CPU time of requests from end to end: wrk, Traefik, Modelgate, a server.
//!
//! `cargo xtask bench` runs it. All contenders take turns in one run, and only ratios within a turn count, because a machine's
//! speed changes from minute to minute.
//!
//! ```text
//! main ─▶ contenders (who is compared) ─▶ work (the load, by wrk) ─▶ figures (ratios, intervals) ─▶ plot
//! ```
//!
//! With `--routers` (`cargo xtask bench routers`): the time to the first token of requests that somebody sends to one of several servers.
#![allow(clippy::print_stdout, reason = "its output is for the person who runs it")]

mod contenders;
mod figures;
mod plot;
mod routers;
mod work;

use std::{env, error::Error, fs, path::PathBuf};

use contenders::{Comparison, Contender};
use figures::Figures;
use work::{Case, Work};

/// Length of the request's body in bytes, and number of connections.
const ALL: [(usize, u32); 9] = [
    (200, 32),
    (2_000, 1),
    (2_000, 32),
    (2_000, 128),
    (2_000, 256),
    (20_000, 32),
    (200_000, 32),
    (2_000_000, 32),
    (8_000_000, 8),
];
const QUICK: [(usize, u32); 3] = [(2_000, 32), (20_000, 32), (200_000, 32)];
/// Concurrent streamed answers, and pieces of each.
const STREAMS: u32 = 100;
const PIECES: usize = 200;

/// The default number of turns, after one that is not counted; `MODELGATE_BENCHMARK_TURNS` overrides it.
const TURNS: usize = 9;
const QUICK_TURNS: usize = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == "--routers") {
        return routers::compare().await;
    }
    let is_quick = env::args().any(|argument| argument == "--quick");
    let given = env::var("MODELGATE_BENCHMARK_TURNS").ok().and_then(|turns| turns.parse().ok());
    let wanted = if is_quick { Comparison::Short } else { Comparison::All };
    let (cases, turns) = if is_quick { (&QUICK[..], QUICK_TURNS) } else { (&ALL[..], TURNS) };
    let turns = given.unwrap_or(turns);
    let mut table = String::new();
    let mut plotted = Vec::new();
    {
        let server = work::short_answers().await;
        let contenders = contenders::start(&server.url(), wanted).await;
        say(&mut table, &figures::head("requests"));
        for (bytes, connections) in cases.iter().copied() {
            let case = Case { bytes, connections, streams: false };
            let figures = turn_about(&contenders, &case, turns);
            say(&mut table, &figures.rows());
            plotted.push(figures);
        }
    }
    if !is_quick {
        let server = work::streamed_answers(PIECES).await;
        let contenders = contenders::start(&server.url(), wanted).await;
        let case = Case { bytes: 2_000, connections: STREAMS, streams: true };
        say(&mut table, &format!("\n{}", figures::head("streams")));
        say(&mut table, &turn_about(&contenders, &case, turns).rows());
    }
    if let Some(folder) = env::var_os("MODELGATE_BENCHMARK_RESULT").map(PathBuf::from) {
        fs::write(folder.join("table.md"), table).expect("a folder for the result");
        fs::write(folder.join("plot.svg"), plot::by_size(&plotted)).expect("a folder for the result");
    }
    Ok(())
}

/// Gives every contender the same load, one after another, `turns` times.
fn turn_about(contenders: &[Contender], case: &Case, turns: usize) -> Figures {
    let work = Work::new(case);
    let mut figures = Figures::new(case, contenders.iter().map(|contender| contender.name));
    for turn in 0..=turns {
        // Each turn starts with another contender, because the one after a heavy contender finds the machine's caches cold.
        for place in 0..contenders.len() {
            let number = (turn + place) % contenders.len();
            let result = work.ask(&contenders[number]);
            // The first turn only warms up.
            if turn > 0 {
                figures.add(number, result);
            }
        }
    }
    figures
}

fn say(table: &mut String, lines: &str) {
    println!("{lines}");
    table.push_str(lines);
    table.push('\n');
}
