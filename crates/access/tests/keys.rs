//! Keys that stop working, are rotated, or belong to a consumer with limits.

mod common;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::{
    Consumer, Decision, Key, KeyDigest, Mode, NewKey, Policy, Reason, RevokedKey, RevokedKeys, Usage,
    estimate::Sum, limits_of,
};
use catalogue::{Pool, ServerState, Setting};
use common::{Call, World, rate, server};
use jiff::tz::TimeZone;
use limits::{Calendar, Left, Limits, Per, Quota, Rate, Scope, Settlement, Unit};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn alice() -> Key {
    Key::new("alice", Arc::new(Consumer::new("team")), KeyDigest::of("mg-alice"))
}

fn world(keys: Vec<Key>) -> World {
    World::new(Policy::new(keys, Vec::new()), vec![server("a", ServerState::Ready, &["llama", "qwen"])])
}

fn call(now: u64) -> Call {
    Call { now, ..Call::chat("mg-alice", "llama") }
}

#[test]
fn a_key_expires_on_the_second_and_a_disabled_one_is_refused() {
    let expiring = world(vec![Key { expires: Some(at(1_000)), ..alice() }]);
    assert_eq!((expiring.code(&call(999)), expiring.code(&call(1_000))), ("ok", "expired_api_key"));
    assert_eq!(world(vec![Key { disabled: true, ..alice() }]).code(&call(0)), "disabled_api_key");
    let mut consumer = Consumer::new("team");
    consumer.disabled = true;
    let consumer = Arc::new(consumer);
    assert_eq!(world(vec![Key { consumer, ..alice() }]).code(&call(0)), "disabled_api_key");
}

#[test]
fn after_a_rotation_both_keys_work_until_the_grace_is_over() {
    let previous = Some((KeyDigest::of("mg-old"), at(1_000)));
    let rotated = world(vec![Key { previous, ..alice() }]);
    let old = |now| Call { now, ..Call::chat("mg-old", "llama") };
    assert_eq!([rotated.code(&old(999)), rotated.code(&old(1_000))], ["ok", "expired_api_key"]);
    assert_eq!([rotated.code(&call(999)), rotated.code(&call(1_000))], ["ok", "ok"]);
    assert_eq!(rotated.policy.key_count(), 1);
}

#[test]
fn a_key_may_be_bound_to_networks() {
    let networks =
        vec!["10.0.0.0/8".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")];
    let bound = world(vec![Key { networks, ..alice() }]);
    let from = |address: &str| Call { from: address.parse::<IpAddr>().ok(), ..call(0) };
    for (address, code) in [
        ("10.1.2.3", "ok"),
        ("2001:db8::7", "ok"),
        ("11.0.0.1", "api_key_not_for_this_address"),
        ("", "api_key_not_for_this_address"),
    ] {
        assert_eq!(bound.code(&from(address)), code, "{address}");
    }
}

/// After a key was revoked or rotated, operators want to know who still uses it.
#[test]
fn a_key_that_does_not_work_is_named_to_operators() {
    let networks = vec!["10.0.0.0/8".parse().expect("a network")];
    let mut consumer = Consumer::new("team");
    consumer.disabled = true;
    let previous = Some((KeyDigest::of("mg-old"), at(1_000)));
    for (key, given, code) in [
        (Key { disabled: true, ..alice() }, "mg-alice", "disabled_api_key"),
        (Key { consumer: Arc::new(consumer), ..alice() }, "mg-alice", "disabled_api_key"),
        (Key { expires: Some(at(1_000)), ..alice() }, "mg-alice", "expired_api_key"),
        (Key { previous, ..alice() }, "mg-old", "expired_api_key"),
        (Key { networks, ..alice() }, "mg-alice", "api_key_not_for_this_address"),
    ] {
        let world = world(vec![key]);
        let Decision::Deny(denial) = world.decide(&Call { now: 1_000, ..Call::chat(given, "llama") }) else {
            panic!("{code}: allowed")
        };
        let names = (denial.key.as_ref().map(|k| &*k.name), denial.consumer.as_ref().map(|c| &*c.name));
        assert_eq!((denial.reason.code(), names), (code, (Some("alice"), Some("team"))));
        // The usage counts the refusal, too.
        let usage = Usage::default();
        usage.refused(&denial, at(1_000));
        let used: Vec<_> =
            usage.take().into_iter().map(|used| (used.key, used.model, used.counts.refused)).collect();
        assert_eq!(used, [("alice".to_owned(), String::new(), 1)]);
    }
}

/// Its bearer hears what everybody hears whose key is unknown; the operator learns whose it was. A key that is known comes first.
#[test]
fn a_revoked_key_is_named_to_operators_alone() {
    let revoked = |name: &str, key: &str| RevokedKey {
        digest: KeyDigest::of(key),
        name: name.into(),
        consumer: "team".into(),
        at: at(1_000),
    };
    let mut world = world(vec![alice()]);
    let ask = |given: &str, now| Call { now, ..Call::chat(given, "llama") };
    let unknown = world.reason(&ask("mg-gone", 1_000)).expect("refused").to_string();
    world.policy.revoked_mut().add([revoked("bob", "mg-gone"), revoked("before", "mg-alice")]);
    assert_eq!(world.code(&ask("mg-alice", 1_000)), "ok");
    assert_eq!(world.code(&ask("mg-never", 1_000)), "invalid_api_key");
    let Decision::Deny(denial) = world.decide(&ask("mg-gone", 1_000)) else { panic!("allowed") };
    let names = (denial.key.as_ref().map(|k| &*k.name), denial.consumer.as_ref().map(|c| &*c.name));
    assert_eq!((denial.reason.code(), names), ("revoked_api_key", (Some("bob"), Some("team"))));
    assert_eq!(denial.reason.to_string(), unknown);
    let told = access::about_key(&world.policy, &ask("mg-gone", 0).headers(), &denial.reason, at(1_000));
    let words = "it was revoked at 1970-01-01T00:16:40Z: the API key \"bob\" of consumer \"team\"";
    assert_eq!(told.as_deref(), Some(words));
    assert_eq!(world.code(&ask("mg-gone", 1_000 + RevokedKeys::KEEP.as_secs())), "invalid_api_key");
}

#[test]
fn a_mistyped_key_is_told_from_an_unknown_one() {
    let key = NewKey::generate().expect("randomness");
    let world = world(vec![Key { digest: key.digest(), ..alice() }]);
    assert_eq!(world.code(&Call::chat(key.reveal(), "llama")), "ok");
    let cut = &key.reveal()[..key.reveal().len() - 1];
    assert_eq!(world.code(&Call::chat(cut, "llama")), "mistyped_api_key");
    let other = NewKey::generate().expect("randomness");
    assert_eq!(world.code(&Call::chat(other.reveal(), "llama")), "invalid_api_key");
}

#[test]
fn a_consumers_limits_hold_over_all_its_keys() {
    let mut consumer = Consumer::new("team");
    (consumer.limits, consumer.limits_per_model) = (rate(60, 3).into(), rate(60, 2).into());
    let consumer = Arc::new(consumer);
    let bob = Key::new("bob", Arc::clone(&consumer), KeyDigest::of("mg-bob"));
    let world = world(vec![Key { consumer, ..alice() }, bob]);
    let ask = |key: &str, model: &str| match world.reason(&Call::chat(key, model)) {
        None => None,
        Some(Reason::LimitReached(limited)) => Some(limited.scope),
        Some(other) => panic!("{other}"),
    };
    assert_eq!((ask("mg-alice", "llama"), ask("mg-bob", "llama")), (None, None));
    assert_eq!(ask("mg-bob", "llama"), Some(Scope::ConsumerAndModel));
    assert_eq!(ask("mg-alice", "qwen"), None);
    assert_eq!(ask("mg-bob", "qwen"), Some(Scope::Consumer));
}

/// A hash table compares what its hash cannot tell apart, so one needs many keys to meet such a pair.
#[test]
fn among_thousands_of_keys_each_is_its_own_and_a_foreign_one_is_none() {
    let of = |number: u32| format!("mg-{number}");
    let named = |number| Key::new(of(number), Arc::new(Consumer::new("team")), KeyDigest::of(&of(number)));
    let world = world((0..5_000).map(named).collect());
    for number in 0..10_000 {
        let found = world.policy.authenticate(&Call::new(&of(number)).headers(), None, at(0));
        let name = found.ok().map(|key| key.name.to_string());
        assert_eq!(name, (number < 5_000).then(|| of(number)));
    }
}

/// Refusals and pages show the model that was asked for.
#[test]
fn a_long_key_is_no_part_of_a_models_name_and_a_short_one_may_be_by_chance() {
    let long = "mg-0123456789abcdef";
    let world = world(vec![alice(), Key::new("long", Arc::new(Consumer::new("team")), KeyDigest::of(long))]);
    let code = |key: &str, model: &str| world.code(&Call::chat(key, model));
    for name in [long.to_owned(), format!("{long}-v2"), format!("org/{long}")] {
        assert_eq!(code(long, &name), "model_invalid", "{name}");
    }
    assert_eq!(code(long, "another"), "model_not_found");
    assert_eq!(code("mg-alice", "mg-alice"), "model_invalid");
    assert_eq!(code("mg-alice", "mg-alice-v2"), "model_not_found");
}

#[test]
fn several_times_hold_together_and_a_refusal_takes_from_none() {
    let per = |amount, per| Rate::new(amount, Unit::Requests, per, None).expect("a rate");
    let limits = Limits::new(vec![per(2, Per::Second), per(3, Per::Hour)], Vec::new());
    let world = world(vec![Key { limits, ..alice() }]);
    let code = || world.code(&call(0));
    assert_eq!([code(), code(), code()], ["ok", "ok", "rate_limit_exceeded"]);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(
        [code(), code()],
        ["ok", "rate_limit_exceeded"],
        "three an hour, and the refusal took nothing"
    );
    world.clock.advance(Duration::from_secs(20 * 60));
    assert_eq!(code(), "ok");
}

#[test]
fn tokens_are_taken_as_estimated() {
    let tokens = Rate::new(100, Unit::Tokens, Per::Minute, None).expect("a rate");
    let world = world(vec![Key { limits: tokens.into(), ..alice() }]);
    let ask = |max_tokens: u32| {
        let body = format!(r#"{{"model":"llama","messages":[],"max_tokens":{max_tokens}}}"#);
        world.decide(&Call::new("mg-alice").json(&body))
    };
    let refusal = |decision: Decision| match decision {
        Decision::Deny(denial) => match denial.reason {
            Reason::LimitReached(limited) => limited,
            other => panic!("{other}"),
        },
        Decision::Allow(_) => panic!("allowed"),
    };
    assert!(matches!(ask(60), Decision::Allow(_)));
    let refused = refusal(ask(60));
    assert_eq!((refused.cost, refused.retry_after), (60, Duration::from_secs(12)), "20 tokens are missing");
    assert!(!refused.never_passes());
    assert!(refusal(ask(101)).never_passes());
    assert!(matches!(ask(40), Decision::Allow(_)), "the refusals took nothing");
    let pool = world.catalogue.pool("llama").map(AsRef::as_ref);
    let left = what_is_left(&world, pool);
    assert_eq!((left.len(), left[0].remaining), (1, 0));
    world.clock.advance(Duration::from_secs(30));
    let left = what_is_left(&world, pool);
    assert_eq!((left[0].remaining, left[0].reset_after), (50, Duration::from_secs(30)));
}

fn what_is_left(world: &World, pool: Option<&Pool>) -> Vec<Left> {
    world.limiters.left(&limits_of(&world.policy, &alice_of(world), &world.catalogue, pool, at(0)))
}

fn alice_of(world: &World) -> Arc<Key> {
    world.policy.authenticate(&call(0).headers(), None, at(0)).expect("alice")
}

#[test]
fn failures_from_one_address_are_slowed() {
    let world = world(Vec::new());
    let slow = rate(60, 3);
    for _ in 0..3 {
        assert!(world.limiters.failed_from("192.0.2.7".parse().ok(), slow).is_ok());
    }
    let refused = world.limiters.failed_from("192.0.2.7".parse().ok(), slow).expect_err("too many");
    assert_eq!((refused.scope, refused.retry_after), (Scope::Address, Duration::from_secs(1)));
    assert!(world.limiters.failed_from("192.0.2.8".parse().ok(), slow).is_ok(), "others are not");
}

#[test]
fn a_limit_that_the_servers_ask_for_is_shown_under_every_name() {
    let labels = [("limit.requests_per_minute", "60"), ("limit.burst", "5"), ("aliases", "fast")];
    let world = World::new(
        Policy::new(vec![alice()], Vec::new()),
        vec![common::server_with("a", &["llama"], &labels)],
    );
    assert_eq!(world.code(&Call::chat("mg-alice", "fast")), "ok");
    for name in ["llama", "fast"] {
        let pool = world.catalogue.pool(name).map(AsRef::as_ref);
        let left = what_is_left(&world, pool);
        assert_eq!((left.len(), left[0].scope, left[0].remaining), (1, Scope::Model, 4), "{name}");
    }
}

/// A refusal by tokens tells what they are made of; one by requests, or of what passes, does not.
#[test]
fn what_a_limit_of_tokens_refuses_is_told_its_sum() {
    let tokens = Quota::new(1_500, Unit::Tokens, Calendar::Day).expect("a quota");
    let limits = Limits::new(vec![rate(60, 2)], vec![tokens]);
    let mut server = server("a", ServerState::Ready, &["llama"]);
    let world = |server| {
        World::new(Policy::new(vec![Key { limits: limits.clone(), ..alice() }], Vec::new()), vec![server])
    };
    let sum = |world: &World, call: &Call| match world.decide(call) {
        Decision::Deny(denial) => (denial.reason.code(), denial.sum),
        Decision::Allow(_) => ("ok", None),
    };
    let call = |path: &str, body: &str| Call::new("mg-alice").uri(path).json(body);
    let two_words = r#"{"model":"llama","prompt":"12345678"}"#;
    let open = |prompt, answer, field| ("quota_exceeded", Some(Sum { prompt, answer, open: Some(field) }));
    for (path, field) in [
        ("/v1/completions", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
        ("/api/generate", "num_predict"),
        ("/completion", "n_predict"),
        ("/somewhere/else", "max_tokens"),
    ] {
        let world = world(server.clone());
        assert_eq!(sum(&world, &call(path, two_words)), ("ok", None));
        assert_eq!(sum(&world, &call(path, two_words)), open(2, 1_000, field), "{path}");
        let bound =
            call("/v1/completions", r#"{"model":"llama","prompt":"12345678","max_tokens":600,"n":2}"#);
        let closed = Sum { prompt: 2, answer: 1_200, open: None };
        assert_eq!(sum(&world, &bound), ("quota_exceeded", Some(closed)));
        let small = call("/v1/embeddings", r#"{"model":"llama","input":"12345678"}"#);
        assert_eq!(sum(&world, &small), ("ok", None));
        assert_eq!(sum(&world, &small), ("rate_limit_exceeded", None), "a limit of requests");
    }
    let answer_tokens = Setting::find("answer_tokens").expect("a setting");
    answer_tokens.read("1600", &mut server.spec.settings, &mut server.spec.model_settings).expect("a number");
    assert_eq!(sum(&world(server), &call("/v1/completions", two_words)), open(2, 1_600, "max_tokens"));
}

/// The quota's period is that of the operator's time zone, and of the request's time.
#[test]
fn a_quota_ends_at_midnight_of_its_time_zone_and_a_refusal_counts_nothing() {
    let a_day = |amount, unit| Quota::new(amount, unit, Calendar::Day).expect("a quota");
    let limits = Limits::new(Vec::new(), vec![a_day(2, Unit::Requests), a_day(10_000, Unit::Tokens)]);
    let berlin = TimeZone::get("Europe/Berlin").expect("a zone");
    let policy = Policy::new(vec![Key { limits, ..alice() }], Vec::new()).with_time_zone(berlin);
    let world = World::new(policy, vec![server("a", ServerState::Ready, &["llama"])]);
    // 2026-11-21T22:59:00Z, a minute to midnight.
    let evening = 1_795_301_940;
    let small = |now| Call { now, ..Call::new("mg-alice").json(r#"{"model":"llama","max_tokens":10}"#) };
    let large = |now| Call { now, ..Call::new("mg-alice").json(r#"{"model":"llama","max_tokens":9995}"#) };
    assert_eq!(world.code(&small(evening)), "ok");
    let reached = |call: &Call| match world.reason(call) {
        Some(Reason::LimitReached(reached)) => reached,
        other => panic!("{other:?}"),
    };
    let too_large = reached(&large(evening));
    assert_eq!((too_large.cost, too_large.remaining, too_large.is_lasting()), (9_995, 9_990, true));
    assert_eq!(too_large.retry_after, Duration::from_secs(60));
    assert_eq!(world.code(&small(evening)), "ok", "the refusal counted no request");
    let refused = reached(&small(evening + 59));
    assert_eq!((refused.scope, refused.limit), (Scope::Key, a_day(2, Unit::Requests).into()));
    assert_eq!(refused.to_string(), "the quota of 2 requests a day for this API key is used up");
    assert_eq!(world.code(&large(evening + 60)), "ok", "a new day, in Berlin");
}

#[test]
fn quotas_and_rates_hold_together() {
    let quota = Quota::new(100, Unit::Requests, Calendar::Month).expect("a quota");
    let limits = Limits::new(vec![rate(60, 2)], vec![quota]);
    let world = world(vec![Key { limits, ..alice() }]);
    let codes = || [0, 0, 0].map(|_| world.code(&call(0)));
    assert_eq!(codes(), ["ok", "ok", "rate_limit_exceeded"]);
    let left = what_is_left(&world, None);
    assert_eq!(
        left.iter().map(|left| left.remaining).collect::<Vec<_>>(),
        [0, 98],
        "the rate's refusal took no quota"
    );
}

/// The reader accepts JSON that cannot be counted, as some servers do; a long prompt counts as long all the same.
#[test]
fn json_that_cannot_be_read_to_the_end_is_counted() {
    let tokens = Rate::new(5_000, Unit::Tokens, Per::Hour, None).expect("a rate");
    let world = world(vec![Key { limits: tokens.into(), ..alice() }]);
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let text = "1234".repeat(6_000);
    for strange in [deep.as_str(), r#""\ud83d""#, "1e999"] {
        let body = format!(
            r#"{{"model":"llama","messages":[{{"content":"{text}"}}],"x":{strange},"max_tokens":1}}"#
        );
        let call = Call { now: 0, ..Call::new("mg-alice").json(&body) };
        assert_eq!(world.code(&call), "rate_limit_exceeded", "{strange:.20}");
    }
    assert_eq!(world.code(&Call::chat("mg-alice", "llama")), "ok");
}

/// Traefik before 3.3 hands over no body, but the request may have one.
#[test]
fn a_body_that_nobody_has_seen_is_not_free() {
    let tokens = Rate::new(5_000, Unit::Tokens, Per::Hour, None).expect("a rate");
    let world = world(vec![Key { limits: tokens.into(), ..alice() }]);
    let gate = Mode::Gate { model: Some("llama"), body_forwarded: false, single_model: true };
    let ask = |method| world.code(&Call { mode: gate, method, ..Call::new("mg-alice").uri("/mine") });
    assert_eq!([ask("POST"), ask("POST")], ["ok", "rate_limit_exceeded"], "3,000 tokens each");
    assert_eq!(ask("GET"), "ok");
}

/// An estimated request has used another number of tokens, or was not made.
#[test]
fn what_was_reserved_is_settled_by_what_was_used() {
    let tokens = Rate::new(1_000, Unit::Tokens, Per::Hour, None).expect("a rate");
    let quota = Quota::new(5_000, Unit::Tokens, Calendar::Day).expect("a quota");
    let requests = Quota::new(10, Unit::Requests, Calendar::Day).expect("a quota");
    let limits = Limits::new(vec![tokens], vec![quota, requests]);
    let world = world(vec![Key { limits, ..alice() }]);
    let reserve = || match world
        .decide(&Call { now: 0, ..Call::new("mg-alice").json(r#"{"model":"llama","max_tokens":400}"#) })
    {
        Decision::Allow(grant) => grant.reservation,
        Decision::Deny(denial) => panic!("{denial:?}"),
    };
    let left = || what_is_left(&world, None).iter().map(|left| left.remaining).collect::<Vec<_>>();
    let first = reserve();
    assert_eq!(left(), [600, 4_600, 9]);
    world.limiters.settle(&first, Settlement::Tokens(100));
    assert_eq!(left(), [900, 4_900, 9], "less than estimated");
    let second = reserve();
    world.limiters.settle(&second, Settlement::Tokens(1_150));
    assert_eq!(left(), [0, 3_750, 8], "more than there was");
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(left()[0], 750, "and so it takes longer");
    let third = reserve();
    world.limiters.settle(&third, Settlement::Cancelled);
    assert_eq!(left(), [750, 3_750, 8]);
}

#[test]
fn labels_may_limit_tokens_and_days() {
    let labels = [
        ("limit.requests_per_second", "50"),
        ("limit.burst", "7"),
        ("limit.tokens_per_minute", "600"),
        ("limit.tokens_per_day", "450"),
        ("answer_tokens", "200"),
    ];
    let world = World::new(
        Policy::new(vec![alice()], Vec::new()),
        vec![common::server_with("a", &["llama"], &labels)],
    );
    let ask = || world.code(&call(0));
    assert_eq!(
        [ask(), ask(), ask()],
        ["ok", "ok", "quota_exceeded"],
        "200 tokens each, by the model's own estimate"
    );
    let pool = world.catalogue.pool("llama").map(AsRef::as_ref);
    let left = what_is_left(&world, pool);
    assert_eq!(left.iter().map(|left| left.remaining).collect::<Vec<_>>(), [5, 200, 50]);
}
