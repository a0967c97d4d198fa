//! Compares policies and prints a table: `cargo xtask bench pick`.
//!
//! `MODELGATE_BENCHMARK_TRACE`: the file of the conversation trace. `MODELGATE_BENCHMARK_SEEDS`: seeds, with commas between them.
//! `MODELGATE_BENCHMARK_LOADS`: some of `trace,chats,agents,one`. `MODELGATE_BENCHMARK_SEVERAL=1`: several Modelgates instead of the policies. `MODELGATE_BENCHMARK_RESULT`: a folder for `pick.md`.
#![allow(clippy::print_stdout, reason = "its output is for the person who runs it")]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use choice_simulator::{
    Load, Measured, Policy, SimulatedPool, agents, at_load, chats, conversations, cost, one_system_prompt,
    policies, run, several,
};

/// The default seeds, with which the figures in docs/performance.md were made. The policy was tuned with 101 to 103.
const SEEDS: [u64; 5] = [201, 202, 203, 204, 205];
/// The memory of a server, in tokens: that of its GPUs, and with main memory behind it.
const CACHES: [(&str, usize); 2] = [("small", 500_000), ("large", 4_000_000)];

fn main() -> Result<(), Box<dyn Error>> {
    let seeds = match env::var("MODELGATE_BENCHMARK_SEEDS") {
        Ok(list) => list.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>()?,
        Err(_) => SEEDS.to_vec(),
    };
    let works = works(&seeds)?;
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(BTreeMap::new());
    let jobs: Vec<(usize, Case)> =
        (0..works.len()).flat_map(|work| cases().into_iter().map(move |case| (work, case))).collect();
    thread::scope(|scope| {
        // As many at a time as there are processors.
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((work, case)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let text = compare(&works[*work], case, &seeds);
                    print!("{text}");
                    if let Ok(mut rows) = rows.lock() {
                        rows.insert((*work, case.number), text);
                    }
                }
            });
        }
    });
    let table: String = match rows.into_inner() {
        Ok(rows) => rows.into_values().collect(),
        Err(_) => return Err("a case has failed".into()),
    };
    let costs = costs();
    print!("{costs}");
    if let Some(folder) = env::var_os("MODELGATE_BENCHMARK_RESULT").map(PathBuf::from) {
        fs::write(folder.join("pick.md"), format!("Seeds {seeds:?}.\n\n{HEAD}{table}\n{costs}"))?;
    }
    Ok(())
}

/// Of a table of all rows.
const HEAD: &str = "| load | servers | busy | cache | policy | p50, s | p90, s | p99, s | hit rate | p50 of greedy | p90 of greedy |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|\n";

/// The loads that are asked for.
fn works(seeds: &[u64]) -> Result<Vec<Work>, Box<dyn Error>> {
    let wanted = env::var("MODELGATE_BENCHMARK_LOADS").unwrap_or("trace,chats,agents,one".to_owned());
    let mut works = Vec::new();
    for name in wanted.split(',') {
        works.push(match name {
            "trace" => match env::var_os("MODELGATE_BENCHMARK_TRACE").map(PathBuf::from) {
                Some(file) => Work::Fixed(
                    seeds.iter().map(|seed| conversations(&file, *seed)).collect::<Result<_, _>>()?,
                ),
                None => {
                    println!("without the conversation trace: MODELGATE_BENCHMARK_TRACE names its file");
                    continue;
                }
            },
            // So many requests for each server that a conversation takes but a small part of the whole time.
            "chats" => Work::Made(chats, 20_000),
            "agents" => Work::Made(agents, 8_000),
            "one" => Work::Made(one_system_prompt, 4_000),
            other => return Err(format!("no load is called {other:?}: trace, chats, agents, one").into()),
        });
    }
    Ok(works)
}

/// A load that is what it is, one for each seed, or one that is made as long as the number of servers demands.
enum Work {
    Fixed(Vec<Load>),
    Made(fn(usize, u64) -> Load, usize),
}

impl Work {
    fn load(&self, case: &Case, place: usize, seed: u64) -> Load {
        match self {
            Self::Fixed(loads) => loads[place].clone(),
            Self::Made(made, requests) => made(requests * case.servers, seed),
        }
    }
}

struct Case {
    number: usize,
    servers: usize,
    busy: f64,
    cache: &'static str,
    cache_tokens: usize,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for servers in [4, 16] {
        for busy in [0.70, 0.95] {
            for (cache, cache_tokens) in CACHES {
                cases.push(Case { number: cases.len(), servers, busy, cache, cache_tokens });
            }
        }
    }
    cases
}

/// What one policy has reached with each of the seeds.
struct Column {
    name: &'static str,
    measured: Vec<Measured>,
}

/// The rows of one case: geometric means over the seeds.
fn compare(work: &Work, case: &Case, seeds: &[u64]) -> String {
    let fleet = SimulatedPool { servers: case.servers, cache_tokens: case.cache_tokens };
    let mut columns: Vec<Column> = Vec::new();
    let mut load_name = "";
    for (place, seed) in seeds.iter().enumerate() {
        let load = at_load(&work.load(case, place, *seed), &fleet, case.busy);
        load_name = load.name;
        for (number, mut policy) in compared(&load, &fleet, *seed).into_iter().enumerate() {
            let measured = run(&load, &fleet, policy.as_mut());
            match columns.get_mut(number) {
                Some(column) => column.measured.push(measured),
                None => columns.push(Column { name: policy.name(), measured: vec![measured] }),
            }
        }
    }
    let Some(greedy) = columns.first() else { return String::new() };
    let row = |column: &Column| {
        let mean = |of: &dyn Fn(&Measured) -> f64| geometric_mean(column.measured.iter().map(of));
        let ratio = |share: f64| {
            let pairs = column.measured.iter().zip(&greedy.measured);
            geometric_mean(pairs.map(|(own, greedy)| own.quantile(share) / greedy.quantile(share)))
        };
        format!(
            "| {load_name} | {} | {:.0} % | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |\n",
            case.servers,
            case.busy * 100.0,
            case.cache,
            column.name,
            mean(&|measured| measured.quantile(0.5)),
            mean(&|measured| measured.quantile(0.9)),
            mean(&|measured| measured.quantile(0.99)),
            mean(&|measured| measured.hit_rate),
            ratio(0.5),
            ratio(0.9),
        )
    };
    columns.iter().map(row).collect()
}

/// The policies; with `MODELGATE_BENCHMARK_SEVERAL`, several Modelgates instead.
fn compared(load: &Load, fleet: &SimulatedPool, seed: u64) -> Vec<Box<dyn Policy>> {
    let of = if env::var_os("MODELGATE_BENCHMARK_SEVERAL").is_some() { several } else { policies };
    of(load, fleet, seed)
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, number) = values.fold((0.0, 0.0), |(sum, number), value| (sum + value.ln(), number + 1.0));
    f64::exp(sum / number)
}

/// What a choice costs on this machine.
fn costs() -> String {
    let mut table = "| servers | prompt, KB | hash, ns | choose, ns | sent, ns | memory, KB |\n|---|---|---|---|---|---|\n".to_owned();
    for servers in [4, 16, 64] {
        for bytes in [2_000, 200_000] {
            let cost = cost(servers, bytes, 20_000);
            table += &format!(
                "| {servers} | {} | {:.0} | {:.0} | {:.0} | {} |\n",
                bytes / 1_000,
                cost.hash,
                cost.choose,
                cost.sent,
                cost.memory / 1_000,
            );
        }
    }
    table
}
