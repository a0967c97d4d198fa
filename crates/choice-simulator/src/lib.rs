//! Inference servers in virtual time, for comparing the policies by which requests are sent to them.
//!
//! ```text
//! load (who asks what, when) ─▶ run ─▶ policy (which server) ─▶ machine (prefill, answers, cache) ─▶ time to the first token
//! ```
//!
//! An hour of 16 servers takes seconds. What is simulated, and what is left out, stands in `machine.rs`; a request reaches its
//! server without delay, and policies know the lengths of prompts exactly.

mod cache;
mod cost;
mod load;
mod machine;
mod policy;
mod random;
mod run;

pub use cost::{Cost, cost};
pub use load::{Load, SimulatedRequest, Start, TraceError, agents, chats, conversations, one_system_prompt};
pub use machine::Machine;
pub use policy::{
    ByConversation, CacheAware, Greedy, LeastBusy, Ours, Policy, RoundRobin, SGLANG, Seen, Several,
    TwoAtRandom, VLLM,
};
pub use random::Random;
pub use run::{Measured, SimulatedPool, run};

/// How far `busy` may be from what is asked for.
const NEAR: f64 = 0.002;

/// Stretches a load so that servers have as much to do as they can for this share of the time, if the policy that knows everything
/// sends it.
pub fn at_load(load: &Load, fleet: &SimulatedPool, share: f64) -> Load {
    // What it would be without any cache or answer; without a bound on either side.
    let mut factor = load.prompt_tokens() / 10_000.0 / fleet.servers as f64 / load.last_start() / share;
    let (mut low, mut high) = (0.0, f64::INFINITY);
    for _ in 0..20 {
        let busy = run(&load.stretched(factor), fleet, &mut Greedy::default()).busy;
        if (busy - share).abs() < NEAR {
            return load.stretched(factor);
        }
        if busy > share {
            low = factor;
        } else {
            high = factor;
        }
        // In proportion, as without a cache; if that is beyond what is known, halfway.
        let next = factor * busy / share;
        factor = if next > low && next < high { next } else { f64::midpoint(low, high) };
    }
    // There are loads which a little more of makes collapse. They stay on this side of it.
    load.stretched(if high.is_finite() { high } else { factor })
}

/// How long what one Modelgate does takes to reach the others, in seconds: they gather it for 5 ms, and Redis takes some.
const TOLD_WITHIN: f64 = 0.02;

/// One Modelgate with metering, and several, which tell each other what they do or do not.
pub fn several(load: &Load, fleet: &SimulatedPool, seed: u64) -> Vec<Box<dyn Policy>> {
    let ours = || Ours::new(fleet.servers, fleet.cache_tokens, load.block_tokens, true);
    let some = |name, count, delay| -> Box<dyn Policy> {
        Box::new(Several::new(name, (0..count).map(|_| ours()).collect(), delay, seed))
    };
    vec![
        Box::new(Greedy::default()),
        Box::new(ours()),
        some("2 Modelgates", 2, Some(TOLD_WITHIN)),
        some("4 Modelgates", 4, Some(TOLD_WITHIN)),
        some("2 Modelgates, nothing shared", 2, None),
        some("4 Modelgates, nothing shared", 4, None),
    ]
}

/// All policies that are compared, the one that knows everything first, then ours.
pub fn policies(load: &Load, fleet: &SimulatedPool, seed: u64) -> Vec<Box<dyn Policy>> {
    let servers = fleet.servers;
    vec![
        Box::new(Greedy::default()),
        Box::new(Ours::new(servers, fleet.cache_tokens, load.block_tokens, true)),
        Box::new(Ours::new(servers, fleet.cache_tokens, load.block_tokens, false)),
        Box::new(LeastBusy::default()),
        Box::new(TwoAtRandom(Random::new(seed))),
        Box::new(RoundRobin::default()),
        Box::new(ByConversation::new(servers)),
        Box::new(CacheAware::new(VLLM, servers)),
        Box::new(CacheAware::new(SGLANG, servers)),
    ]
}
