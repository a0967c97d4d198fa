//! The order in which limits are checked, told as a story.

mod common;

use std::time::Duration;

use access::{Policy, Reason};
use catalogue::{LifecycleFinding, ServerState};
use common::{Call, World, key, model_limit, rate, server};
use limits::Scope;

fn policy() -> Policy {
    Policy::new(
        vec![
            key("alice", "*", Some(rate(60, 4)), Some(rate(30, 2))),
            key("bob", "llama", None, None),
            key("eve", "qwen", Some(rate(60, 1)), None),
        ],
        vec![model_limit("llama", rate(6, 5))],
    )
}

fn world() -> World {
    World::new(policy(), vec![server("a", ServerState::Ready, &["llama", "qwen", "phi"])])
}

impl World {
    /// Sends a request; returns the scope of the limit that refused it.
    fn ask(&self, name: &str, model: &str) -> Result<(), (Scope, u64)> {
        match self.reason(&Call::chat(&format!("mg-{name}"), model)) {
            None => Ok(()),
            Some(Reason::LimitReached(limited)) => {
                Err((limited.scope, limited.retry_after.as_millis() as u64))
            }
            Some(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_morning_at_the_limits() {
    let world = world();
    // What is left:                                            alice  alice+llama  alice+qwen  llama
    assert_eq!(world.ask("alice", "llama"), Ok(())); //             3            1           2      4
    assert_eq!(world.ask("alice", "llama"), Ok(())); //             2            0           2      3
    // Her two for llama are used up. The refusal takes nothing, neither from her limits nor from the model's.
    assert_eq!(world.ask("alice", "llama"), Err((Scope::KeyAndModel, 2_000)));
    assert_eq!(world.ask("alice", "llama"), Err((Scope::KeyAndModel, 2_000)));
    assert_eq!(world.ask("alice", "qwen"), Ok(())); //              1            0           1      3
    assert_eq!(world.ask("alice", "qwen"), Ok(())); //              0            0           0      3
    // Now her four over all models are used up; a third model has no limit of its own to wait for.
    assert_eq!(world.ask("alice", "phi"), Err((Scope::Key, 1_000)));
    // The longer wait is reported: after one second she would only meet the next refusal.
    assert_eq!(world.ask("alice", "qwen"), Err((Scope::KeyAndModel, 2_000)));

    // Bob has no limit of his own, but the model has.
    assert_eq!(world.ask("bob", "llama"), Ok(())); //               0            0           0      2
    assert_eq!(world.ask("bob", "llama"), Ok(())); //               0            0           0      1
    assert_eq!(world.ask("bob", "llama"), Ok(())); //               0            0           0      0
    assert_eq!(world.ask("bob", "llama"), Err((Scope::Model, 10_000)));

    world.clock.advance(Duration::from_secs(2)); //                 2            1           1      0.2
    // Alice has one again, but the model has none, and she keeps hers.
    assert_eq!(world.ask("alice", "llama"), Err((Scope::Model, 8_000)));
    assert_eq!(world.ask("alice", "qwen"), Ok(())); //              1            1           0      0.2

    world.clock.advance(Duration::from_secs(8)); //                 4            2           2      1
    assert_eq!(world.ask("alice", "llama"), Ok(())); //             3            1           2      0
    assert_eq!(world.ask("bob", "llama"), Err((Scope::Model, 10_000)));
}

#[test]
fn whatever_else_is_refused_takes_nothing() {
    let world = world();
    for (call, code) in [
        (Call::chat("mg-eve", "llama"), "model_not_found"),
        (Call::chat("mg-eve", "unknown"), "model_not_found"),
        (Call::chat("mg-eve", "qwen").json("{}"), "unsupported_content_type"),
        (Call::new("mg-eve").json("{}"), "model_missing"),
        (Call::new("mg-eve").uri("/v1/sleep"), "closed_path"),
        (Call::chat("mg-mallory", "qwen"), "invalid_api_key"),
    ] {
        assert_eq!(world.code(&call), code);
    }
    assert!(world.limiters.is_empty());
    assert_eq!(world.ask("eve", "qwen"), Ok(()), "her only one is still there");
    assert_eq!(world.ask("eve", "qwen"), Err((Scope::Key, 1_000)));
}

#[test]
fn a_model_that_is_not_ready_costs_nothing() {
    let loading = ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
    let starting = World::new(policy(), vec![server("a", loading, &["qwen"])]);
    assert_eq!(starting.code(&Call::chat("mg-eve", "qwen")), "model_starting");
    assert!(starting.limiters.is_empty());
}

#[test]
fn a_reload_forgets_nothing() {
    let mut world = world();
    assert_eq!(world.ask("eve", "qwen"), Ok(()));
    world.policy = policy();
    assert_eq!(world.ask("eve", "qwen"), Err((Scope::Key, 1_000)));
    // Twice the rate, and two at once: the one that was taken is still taken.
    world.policy = Policy::new(vec![key("eve", "qwen", Some(rate(120, 2)), None)], Vec::new());
    assert_eq!(world.ask("eve", "qwen"), Err((Scope::Key, 500)));
    world.clock.advance(Duration::from_millis(500));
    assert_eq!(world.ask("eve", "qwen"), Ok(()));
}
