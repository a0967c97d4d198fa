//! Compares policies and prints a table: `cargo xtask bench pick`.
#![allow(clippy::print_stdout, reason = "its output is for the person who runs it")]

use std::{env, error::Error, fs, path::PathBuf, thread};

use choice_simulator::{
    Load, Measured, SimulatedPool, agents, at_load, chats, conversations, one_system_prompt, policies, run,
};

/// The default seed, with which the figures in docs/performance.md were made; `MODELGATE_BENCHMARK_SEED` overrides it.
const SEED: u64 = 18;
/// Requests of a generated load for each server.
const REQUESTS: usize = 3_000;
/// The memory of a server, in tokens: that of its GPUs, and with main memory behind it.
const CACHES: [(&str, usize); 2] = [("small", 500_000), ("large", 4_000_000)];

fn main() -> Result<(), Box<dyn Error>> {
    let seed = env::var("MODELGATE_BENCHMARK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let trace = match env::var_os("MODELGATE_BENCHMARK_TRACE") {
        Some(file) => Some(conversations(&PathBuf::from(file), seed)?),
        None => {
            println!("without the conversation trace: MODELGATE_BENCHMARK_TRACE names its file");
            None
        }
    };
    let generated = [chats, agents, one_system_prompt];
    let mut works: Vec<Work<'_>> = trace.iter().map(Work::Fixed).collect();
    works.extend(generated.iter().map(|made| Work::Made(*made)));
    let mut table = format!(
        "Seed {seed}.\n\n| load | servers | busy | cache | policy | p50, s | p90, s | hit rate | p50 of greedy | p90 of greedy |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
    );
    let cases = cases();
    for work in &works {
        // As many at a time as there are processors.
        for pair in cases.chunks(thread::available_parallelism().map_or(1, usize::from)) {
            let rows: Vec<String> = thread::scope(|scope| {
                let threads: Vec<_> = pair
                    .iter()
                    .map(|case| scope.spawn(move || compare(&work.load(case, seed), case, seed)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("no case fails")).collect()
            });
            for row in rows {
                print!("{row}");
                table.push_str(&row);
            }
        }
    }
    if let Some(folder) = env::var_os("MODELGATE_BENCHMARK_RESULT").map(PathBuf::from) {
        fs::write(folder.join("pick.md"), table)?;
    }
    Ok(())
}

/// A load that is what it is, or one that is made as long as the number of servers demands.
enum Work<'l> {
    Fixed(&'l Load),
    Made(fn(usize, u64) -> Load),
}

impl Work<'_> {
    fn load(&self, case: &Case, seed: u64) -> Load {
        match self {
            Self::Fixed(load) => (*load).clone(),
            Self::Made(made) => made(REQUESTS * case.servers, seed),
        }
    }
}

struct Case {
    servers: usize,
    busy: f64,
    cache: &'static str,
    cache_tokens: usize,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for servers in [4, 16] {
        for busy in [0.70, 0.95] {
            cases.extend(CACHES.map(|(cache, cache_tokens)| Case { servers, busy, cache, cache_tokens }));
        }
    }
    cases
}

/// The rows of one case.
fn compare(load: &Load, case: &Case, seed: u64) -> String {
    let fleet = SimulatedPool { servers: case.servers, cache_tokens: case.cache_tokens };
    let load = at_load(load, &fleet, case.busy);
    let mut greedy: Option<Measured> = None;
    let mut rows = String::new();
    for mut policy in policies(&load, &fleet, seed) {
        let measured = run(&load, &fleet, policy.as_mut());
        let greedy = greedy.get_or_insert_with(|| measured.clone());
        let of = |share: f64| measured.quantile(share) / greedy.quantile(share);
        rows += &format!(
            "| {} | {} | {:.0} % | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |\n",
            load.name,
            case.servers,
            case.busy * 100.0,
            case.cache,
            policy.name(),
            measured.quantile(0.5),
            measured.quantile(0.9),
            measured.hit_rate,
            of(0.5),
            of(0.9),
        );
    }
    rows
}
