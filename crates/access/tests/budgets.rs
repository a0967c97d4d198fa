//! What a request takes from budgets, and the most that it can use.

mod common;

use access::{
    Decision, Pending, Policy,
    estimate::{Media, TEMPLATE, Unbounded},
    prepare,
};
use catalogue::{Kind, ServerRecord, ServerUrl};
use common::{Call, World, key, server_with};
use limits::{Calendar, Limits, Quota, Reservation, Reserve};

const BODY: &str = r#"{"model":"llama","messages":[]}"#;

/// Alice has a budget of each kind, bob none, and eve only a usual one.
fn world(servers: Vec<ServerRecord>) -> World {
    let budget = |per, reserve| Quota::budget(1_000, per, reserve).expect("a budget");
    let of = |name, budgets: &[(Calendar, Reserve)]| {
        let budgets = budgets.iter().map(|(per, reserve)| budget(*per, *reserve)).collect();
        access::Key { limits: Limits::new(Vec::new(), budgets), ..key(name, "*", None, None) }
    };
    let (usual, hard) = ((Calendar::Day, Reserve::Usual), (Calendar::Ever, Reserve::Hard));
    World::new(
        Policy::new(vec![of("alice", &[usual, hard]), of("bob", &[]), of("eve", &[usual])], Vec::new()),
        servers,
    )
}

/// A server of these models, of which each tells its context.
fn server(name: &str, models: &[(&str, Option<u64>)]) -> ServerRecord {
    let names: Vec<_> = models.iter().map(|(name, _)| *name).collect();
    let mut server = server_with(name, &names, &[]);
    for (card, (_, context)) in server.models.iter_mut().zip(models) {
        card.context_length = *context;
    }
    server
}

fn pending(world: &World, name: &str) -> Pending {
    pending_of(world, name, BODY)
}

fn pending_of(world: &World, name: &str, body: &str) -> Pending {
    let call = Call::chat(&format!("mg-{name}"), "llama").body(body);
    let headers = call.headers();
    prepare(&world.policy, &world.catalogue, &call.asked_with(&headers)).expect("it is allowed")
}

#[test]
fn each_budget_gets_the_amount_of_its_kind_and_a_free_request_none() {
    let world = world(vec![server("a", &[("llama", None)])]);
    let kinds = |name| {
        let pending = pending(&world, name);
        (pending.has_budget(), pending.has_usual_budget(), pending.has_hard_budget())
    };
    assert_eq!(kinds("alice"), (true, true, true));
    assert_eq!(kinds("bob"), (false, false, false));
    assert_eq!(kinds("eve"), (true, true, false));

    let priced = |usual, hard| {
        let mut pending = pending(&world, "alice");
        assert_eq!(pending.known_model(), Some("llama"));
        pending.price(|reserve| if reserve == Reserve::Hard { hard } else { usual });
        pending
    };
    let costs: Vec<_> = priced(300, 900).demands().budgets().map(limits::QuotaDemand::cost).collect();
    assert_eq!(costs, [300, 900]);
    let code = |pending: Pending| match pending.admit(&world.limiters) {
        Decision::Allow(_) => "ok",
        Decision::Deny(denial) => denial.reason.code(),
    };
    let passes = |pending| code(pending) == "ok";
    assert!(passes(priced(300, 900)));
    assert_eq!(code(priced(300, 200)), "budget_exceeded", "of the hard budget 100 are left");
    assert!(passes(priced(700, 100)), "what was refused has taken nothing of the other budget");
    assert!(!passes(priced(1, 0)), "the usual budget is spent");
    let mut free = priced(1, 1);
    free.drop_budgets();
    assert!(!free.has_budget() && passes(free));
}

#[test]
fn an_answer_of_any_length_is_bounded_by_the_longest_context_if_all_servers_tell_theirs() {
    let most = |servers: Vec<ServerRecord>| {
        let world = world(servers);
        let pending = pending(&world, "alice");
        pending
            .most("/v1/chat/completions", Some(BODY.as_bytes()), Media::default())
            .map(|bound| (bound.prompt, bound.completion))
    };
    let prompt = BODY.len() as u64 + TEMPLATE;
    let told = |context| server("a", &[("llama", Some(context))]);
    assert_eq!(most(vec![told(8_192)]), Ok((prompt, 8_192)));
    assert_eq!(most(vec![told(4_096), server("b", &[("llama", Some(8_192))])]), Ok((prompt, 8_192)));
    assert_eq!(most(vec![told(8_192), server("b", &[("llama", Some(4_096))])]), Ok((prompt, 8_192)));
    let other = server("a", &[("llama", Some(4_096)), ("other", Some(16_384))]);
    assert_eq!(most(vec![other]), Ok((prompt, 4_096)), "that of the model");
    let unknown = Err(Unbounded::Answer("max_tokens"));
    // Regression: the context of another model of the server took its place.
    let silent = || server("a", &[("llama", None), ("other", Some(16_384))]);
    assert_eq!(most(vec![silent()]), unknown);
    let mut adapter = silent();
    adapter.models[0].parent = Some("other".into());
    assert_eq!(most(vec![adapter]), Ok((prompt, 16_384)), "that of the model which it adapts");
    let mut adapter = silent();
    adapter.models[0].parent = Some("another".into());
    assert_eq!(most(vec![adapter]), unknown);
    assert_eq!(most(vec![server("a", &[("llama", None)])]), unknown);
    assert_eq!(most(vec![told(8_192), server("b", &[("llama", None)])]), unknown);
    assert_eq!(most(vec![server("a", &[("llama", Some(0))])]), unknown);
}

/// Where no server tells it, an operator may.
#[test]
fn a_context_that_an_operator_states_counts_where_a_server_tells_none() {
    let most = |told: [Option<u64>; 2]| {
        let servers = told.iter().enumerate().map(|(at, context)| {
            let mut server = server_with(&format!("s{at}"), &["llama"], &[("context_tokens", "6000")]);
            server.models[0].context_length = *context;
            server
        });
        let world = world(servers.collect());
        let bound =
            pending(&world, "alice").most("/v1/chat/completions", Some(BODY.as_bytes()), Media::default());
        bound.map(|bound| bound.completion)
    };
    assert_eq!(most([None, None]), Ok(6_000));
    assert_eq!(most([Some(4_096), None]), Ok(6_000), "one of them may be longer");
    assert_eq!(most([Some(8_192), None]), Ok(8_192));
    assert_eq!(most([Some(4_096), Some(4_096)]), Ok(4_096), "what all tell is exact");
}

/// Regression: the canary's servers told the context of any of their models.
#[test]
fn a_canary_tells_the_context_of_its_own_model() {
    let completion = |canary: Option<u64>| {
        let settings = [("canary.model", "new"), ("canary.percent", "10")];
        let mut usual = server_with("a", &["llama"], &settings);
        usual.models[0].context_length = Some(4_096);
        let mut new = server("b", &[("new", canary), ("other", Some(16_384))]);
        new.spec.settings.accepts = Some(catalogue::Accepts::Any);
        let world = world(vec![usual, new]);
        let bound =
            pending(&world, "alice").most("/v1/chat/completions", Some(BODY.as_bytes()), Media::default());
        bound.map(|bound| bound.completion)
    };
    assert_eq!(completion(Some(8_192)), Ok(8_192));
    assert_eq!(completion(None), Err(Unbounded::Answer("max_tokens")));
}

/// Regression: what Ollama answered was measured as no longer than a field allowed that it ignores.
#[test]
fn an_answer_is_open_unless_each_server_reads_what_limits_it() {
    let is_open = |servers: &[(Kind, &str)], field: &str| {
        let of_kind = |(at, (kind, url)): (usize, &(Kind, &str))| {
            let mut server = server(&format!("s{at}"), &[("llama", None)]);
            (server.listed_as, server.spec.url) = (*kind, ServerUrl::parse(url).expect("a URL"));
            server
        };
        let world = world(servers.iter().enumerate().map(of_kind).collect());
        let body = BODY.replace("}", &format!(r#","{field}":5}}"#));
        match pending_of(&world, "bob", &body).allow(Reservation::default()) {
            Decision::Allow(grant) => grant.is_open,
            Decision::Deny(denial) => panic!("{denial:?}"),
        }
    };
    let [vllm, ollama, other] =
        [(Kind::Vllm, "http://a"), (Kind::Ollama, "http://b"), (Kind::Other, "http://c")];
    let [openai, gateway] =
        ["https://api.openai.com", "https://litellm:4000"].map(|url| (Kind::Provider, url));
    for (servers, field, expected) in [
        (&[vllm][..], "max_completion_tokens", false),
        (&[ollama], "max_completion_tokens", true),
        (&[vllm, ollama], "max_completion_tokens", true),
        (&[vllm, ollama], "max_tokens", false),
        (&[other], "max_completion_tokens", true),
        (&[vllm], "n_predict", true),
        // OpenAI itself reads its newer field. A gateway lists any model as OpenAI's.
        (&[openai], "max_completion_tokens", false),
        (&[openai, vllm], "max_completion_tokens", false),
        (&[gateway], "max_completion_tokens", true),
        (&[openai, gateway], "max_completion_tokens", true),
        (&[gateway, openai], "max_completion_tokens", true),
    ] {
        assert_eq!(is_open(servers, field), expected, "{servers:?} {field}");
    }
}

/// An alias has no price of its own, and usage under it is that of its model. A name that a client has invented has no usage at all.
#[test]
fn a_request_is_priced_and_counted_by_the_models_own_name() {
    let lone = server_with("lone", &["org/lone"], &[("aliases", "solo"), ("single_model", "true")]);
    let world = world(vec![lone]);
    for (name, expected) in [("solo", Some("org/lone")), ("org/lone", Some("org/lone"))] {
        let call = Call::chat("mg-alice", name);
        let headers = call.headers();
        let pending = prepare(&world.policy, &world.catalogue, &call.asked_with(&headers)).expect(name);
        assert_eq!(pending.own_model(), expected, "{name}");
        let Decision::Allow(grant) = pending.admit(&world.limiters) else { panic!("{name} is refused") };
        assert_eq!(grant.own_model(), expected, "{name}");
    }
}

/// Where Modelgate chooses the server, it needs the route with the servers.
#[test]
fn the_servers_to_choose_from_are_told_before_and_after_the_limits() {
    for (strategy, chooses) in [("least-busy", true), ("p2c", false)] {
        let world =
            world(["a", "b"].map(|name| server_with(name, &["llama"], &[("strategy", strategy)])).into());
        let pending = pending(&world, "bob");
        let (is_told, route) = (pending.pick().is_some(), pending.pick().map(|(route, _)| route.clone()));
        assert_eq!(is_told, chooses, "{strategy}");
        let Decision::Allow(grant) = pending.admit(&world.limiters) else { panic!("{strategy} is refused") };
        assert_eq!((grant.pick.is_some(), route), (chooses, grant.route.filter(|_| chooses)), "{strategy}");
    }
}
