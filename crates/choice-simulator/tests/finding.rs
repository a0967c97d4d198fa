//! The main finding, on a cut of a generated load: who counts both the wait and the cache answers sooner than who counts one of them.

use choice_simulator::{ByConversation, LeastBusy, Ours, RoundRobin, SimulatedPool, agents, run};

#[test]
fn wait_and_cache_together_answer_sooner_than_either() {
    let fleet = SimulatedPool { servers: 4, cache_tokens: 1_000_000 };
    let load = agents(1_500, 18).stretched(2.0);
    let p90 = |policy: &mut dyn choice_simulator::Policy| run(&load, &fleet, policy).quantile(0.9);
    let ours = p90(&mut Ours::new(fleet.servers, fleet.cache_tokens, load.block_tokens, false));
    let least_busy = p90(&mut LeastBusy::default());
    let hashing = p90(&mut ByConversation::new(fleet.servers));
    let round_robin = p90(&mut RoundRobin::default());
    assert!(
        ours < least_busy && ours < hashing && ours < round_robin,
        "ours {ours}, least busy {least_busy}, hashing {hashing}, round robin {round_robin}"
    );
    // The same load, fleet and policy: the same figures.
    assert_eq!(
        ours.to_bits(),
        p90(&mut Ours::new(fleet.servers, fleet.cache_tokens, load.block_tokens, false)).to_bits()
    );
}
