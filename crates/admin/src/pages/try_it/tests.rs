//! Tests of "Try it", through the router.

use std::time::SystemTime;

use access::{Consumer, Decision, KeyDigest, Mode, ModelGlobs, Request};
use axum::http::Request as Post;
use catalogue::{Catalogue, ServerState};
use limits::{Calendar, Limits, Quota, Rate, Reserve, Unit};
use prices::{Price, PriceEntry, PriceList};
use telemetry::Decided;
use web::Settings;

use super::*;
use crate::testing::{Dashboard, READER, server, text};

fn key(name: &str, secret: &str) -> Key {
    Key::new(name, Arc::new(Consumer::new(name)), KeyDigest::of(secret))
}

/// The outcome of a tried request, in words. The form in the answer must not contain the key.
async fn tried(dashboard: &Dashboard, form: &str) -> String {
    let form = format!("method=POST&url=%2Fv1%2Fchat%2Fcompletions&{form}");
    let request = Post::post("/requests/try").header("content-type", "application/x-www-form-urlencoded");
    let page = text(dashboard.ask(Some(READER), request, &form).await).await;
    assert!(!page.contains("mg-alice") && !page.contains("mg-bob"), "{page}");
    let outcome =
        page.split("aria-label=\"Outcome\">").nth(1).and_then(|rest| rest.split("</section>").next());
    outcome.expect("an outcome").to_owned()
}

/// Regression: a key was refused by its limit, and this page said that it is allowed.
#[tokio::test]
async fn a_request_that_is_tried_meets_the_limits_as_they_are_now() {
    let catalogue = || Catalogue::assemble([server("gpu", ServerState::Ready, &["llama"])], Vec::new());
    let dashboard = Dashboard::of(catalogue());
    let (five, two) = (Rate::per_minute(5, None), Quota::new(2, Unit::Requests, Calendar::Day));
    let limits = Limits::new(vec![five.expect("a rate")], Vec::new());
    let alice = Key { limits, ..key("alice-laptop", "mg-alice") };
    let bob = Key { limits: two.expect("a quota").into(), ..key("bob-ci", "mg-bob") };
    dashboard.admin.shared.replace_policy(Policy::new(vec![alice, bob], Vec::new()));
    let body = "headers=Content-Type%3A+application%2Fjson&body=%7B%22model%22%3A%22llama%22%7D";
    let use_up = |secret: &str, times: usize| {
        let bearer = format!("Bearer {secret}").parse().expect("a value");
        let headers =
            [("content-type", "application/json".parse().expect("a value")), ("authorization", bearer)];
        let headers =
            headers.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
        let request = Request {
            method: "POST",
            uri: "/v1/chat/completions",
            host: None,
            headers: &headers,
            body: br#"{"model":"llama"}"#,
            mode: Mode::Layered,
            trusted: true,
            from: None,
            now: SystemTime::now(),
        };
        let shared = &dashboard.admin.shared;
        for _ in 0..times {
            let decision = access::decide(&shared.policy(), &catalogue(), shared.limiters(), &request);
            assert!(matches!(decision, Decision::Allow(_)));
        }
    };
    use_up("mg-alice", 2);
    // However often a request is tried, nothing is debited.
    for who in ["name=alice-laptop", "key=mg-alice", "name=+alice-laptop+", "name=alice-laptop"] {
        let outcome = tried(&dashboard, &format!("{who}&{body}")).await;
        for part in
            ["verdict good", "Allowed: model llama", "left now of 5 requests a minute for this API key: 3"]
        {
            assert!(outcome.contains(part), "{who}: {part}: {outcome}");
        }
    }
    use_up("mg-alice", 3);
    for who in ["name=alice-laptop", "key=mg-alice"] {
        let outcome = tried(&dashboard, &format!("{who}&{body}")).await;
        for part in [
            "verdict bad",
            "Refused now (429 rate_limit_exceeded): the limit of 5 requests a minute for this API key is used up; \
             this request passes again in 1",
            "left now of 5 requests a minute for this API key: 0",
        ] {
            assert!(outcome.contains(part), "{who}: {part}: {outcome}");
        }
    }
    use_up("mg-bob", 2);
    let outcome = tried(&dashboard, &format!("name=bob-ci&{body}")).await;
    let expected = "Refused now (429 insufficient_quota): the quota of 2 requests a day for this API key is used up; it \
                    begins anew in ";
    assert!(outcome.contains(expected), "{outcome}");
    // A budget is asked as well, by the price of the model.
    let budget = Quota::budget(150_000_000, Calendar::Ever, Reserve::Usual).expect("a budget");
    let carol = Key { limits: budget.into(), ..key("carol", "mg-carol") };
    let shared = &dashboard.admin.shared;
    shared.replace_policy(Policy::new(vec![carol], Vec::new()));
    let issues =
        |code: &str| dashboard.admin.attention(SystemTime::now()).iter().filter(|it| it.code == code).count();
    let priced = |prices| Settings { prices, ..Settings::clone(&shared.settings()) };
    shared.replace_settings(priced(PriceList::default()));
    assert_eq!(issues("budgets_without_prices"), 1, "it is in no file");
    let of_llama = |price| {
        let models = ModelGlobs::parse(&["llama".to_owned()]).expect("a name");
        let entry = PriceEntry { text: "llama".into(), models, from: 0, price };
        PriceList::new("EUR".into(), vec![entry])
    };
    let completion = "100".parse().expect("an amount");
    shared.replace_settings(priced(of_llama(Price { completion, ..Price::default() })));
    assert_eq!(issues("budgets_without_prices"), 0);
    let policy = shared.policy().clone();
    let of_carol = policy.keys().next().expect("carol");
    let demands = access::limits_of(&policy, of_carol, &catalogue(), None, SystemTime::now());
    shared.limiters().quotas().learn(demands.quotas()[0].id(), 100_000_000, 0);
    let outcome = tried(&dashboard, &format!("name=carol&{body}")).await;
    let expected = "Refused now (402 budget_exceeded): the budget of 0.15 EUR in all for this API key is spent but for \
                    0.05 EUR; this request is estimated to cost 0.1 EUR; it never begins anew";
    assert!(outcome.contains(expected), "{outcome}");
    assert!(
        outcome.contains("left now of the budget of 0.15 in all for this API key: 0.05 of 0.15 EUR"),
        "{outcome}"
    );
    // Regression: what is estimated to cost nothing was said to pass a budget that is exceeded, and got a 402.
    let second = "1".parse().expect("an amount");
    shared.replace_settings(priced(of_llama(Price { second, ..Price::default() })));
    let id = demands.quotas()[0].id();
    for (spent, expected) in [(150_000_000, "Allowed"), (150_000_001, "Refused now (402 budget_exceeded)")] {
        shared.limiters().quotas().learn(id, spent, 0);
        let outcome = tried(&dashboard, &format!("name=carol&{body}")).await;
        assert!(outcome.contains(expected), "{spent}: {outcome}");
    }
}

#[tokio::test]
async fn a_key_is_tried_by_its_name_and_not_by_two_things_at_once() {
    let catalogue = Catalogue::assemble([server("gpu", ServerState::Ready, &["a", "llama"])], Vec::new());
    let dashboard = Dashboard::of(catalogue);
    let models = ModelGlobs::parse(&["ll*".to_owned()]).expect("a pattern");
    let alice = Key { models, ..key("alice-laptop", "mg-alice") };
    let off = Key { disabled: true, ..key("old", "mg-old") };
    let many = (0..300).map(|n| key(&format!("z-{n:03}"), &n.to_string()));
    let keys = [alice, off].into_iter().chain(many).collect();
    dashboard.admin.shared.replace_policy(Policy::new(keys, Vec::new()));
    let telemetry = dashboard.admin.shared.telemetry();
    telemetry.decided(&Decided {
        at: SystemTime::now(),
        request_id: "req_1",
        client_request_id: None,
        consumer: Some("z-299"),
        key: Some("z-299"),
        model: None,
        from: None,
        method: "POST",
        uri: "/v1/chat/completions",
        refused: None,
        tokens: None,
        latency: None,
    });
    telemetry.collect(SystemTime::now());
    let page = dashboard.page("/requests/try?name=alice-laptop").await;
    for part in
        ["name=\"name\" value=\"alice-laptop\"", "&#34;model&#34;: &#34;llama&#34;", "value=\"z-299\""]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(page.matches("<option value=").count(), 200, "and no more are suggested");
    let model_a = "body=%7B%22model%22%3A%22a%22%7D";
    for (form, said) in [
        (
            format!("name=alice-laptop&{model_a}&headers=content-type:application/json"),
            "Refused with 404 (model_not_found)",
        ),
        ("name=old".into(), "Refused with 401 (disabled_api_key)"),
        ("name=alice-laptop&key=mg-bob".into(), "allowed: one of both"),
        ("name=alice-laptop&headers=X-Api-Key:+mg-bob".into(), "allowed: one of both"),
        // The key was put into the wrong field.
        ("name=mg-alice".into(), "there is no API key of this name"),
        ("headers=Authorization:+Bearer+mg-alice%0Ax-other:+1".into(), "Refused with 400 (model_missing)"),
    ] {
        let outcome = tried(&dashboard, &form).await;
        assert!(outcome.contains(said), "{form}: {outcome}");
    }
}
