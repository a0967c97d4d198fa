//! What clients of each API read when they are refused.

use limits::{Calendar, Per, Quota, Rate, Scope};

use super::*;

async fn parts(refusal: &Refusal, dialect: Dialect) -> (u16, HeaderMap, serde_json::Value) {
    let response = refusal.answer(dialect, "req_1");
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000).await.expect("a body");
    (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn a_used_up_limit_says_when_to_come_back() {
    let limited = LimitReached {
        quota: None,
        scope: Scope::Key,
        limit: Rate::per_minute(60, Some(10)).expect("a rate").into(),
        remaining: 0,
        cost: 1,
        retry_after: Duration::from_micros(700_100),
        reset_after: Duration::from_secs(10),
    };
    let (status, headers, body) =
        parts(&Refusal::from(&Reason::LimitReached(limited)), Dialect::OpenAi).await;
    assert_eq!(status, 429);
    for (name, value) in [
        ("retry-after", "1"),
        ("retry-after-ms", "701"),
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "10000ms"),
        ("x-request-id", "req_1"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    assert_eq!(body["error"]["type"], "requests");
    let told = "The limit of 60 requests a minute for this API key is used up. Try again in 1s.";
    assert_eq!(body["error"]["message"], told);
}

/// "Estimated at 1002 tokens" was a puzzle to whoever had sent two words.
#[test]
fn a_limit_of_tokens_shows_what_the_estimate_is_made_of() {
    let told = |cost, retry_after, sum| {
        let limited = LimitReached {
            quota: None,
            scope: Scope::Key,
            limit: Quota::new(1_500, Unit::Tokens, Calendar::Day).expect("a quota").into(),
            cost,
            remaining: 20,
            retry_after,
            reset_after: retry_after,
        };
        Refusal::limit_reached(&limited, Some(sum), None).message
    };
    let hours = Duration::from_millis(5_399_001);
    let used_up =
        "The quota of 1500 tokens a day for this API key is used up but for 20; this request is estimated at";
    let open = Sum { prompt: 2, answer: 1_000, open: Some("max_tokens") };
    assert_eq!(
        told(1_002, hours, open),
        format!(
            "{used_up} 1002 tokens. The quota begins anew in 1h 30m. The estimate is 2 for the prompt and 1000 for the \
             answer, whose length the request leaves open: send max_tokens, or have answer_tokens set for the model."
        )
    );
    let bound = Sum { open: None, ..open };
    assert!(told(1_002, hours, bound).ends_with("The estimate is 2 for the prompt and 1000 for the answer."));
    let embedding = Sum { prompt: 30, answer: 0, open: None };
    assert!(told(30, hours, embedding).ends_with("30 tokens. The quota begins anew in 1h 30m."));
    let never = told(9_000, hours, Sum { prompt: 8_000, ..open });
    assert!(never.contains("no more than 1500 at once") && !never.contains("anew"), "{never}");
    assert!(never.contains("8000 for the prompt and 1000"), "{never}");
}

/// Claude Code asked again and again, in silence; some tools look for OpenAI's words.
#[tokio::test]
async fn a_wrong_key_is_not_to_be_tried_again_and_is_called_so_in_openais_words() {
    let cut_off = "its checksum does not fit, so it was mistyped or cut off.";
    for (reason, openai, others) in [
        (
            Reason::UnknownKey,
            "Incorrect API key provided.".to_owned(),
            "The API key is not valid.".to_owned(),
        ),
        (
            Reason::RevokedKey,
            "Incorrect API key provided.".to_owned(),
            "The API key is not valid.".to_owned(),
        ),
        (
            Reason::MistypedKey,
            format!("Incorrect API key provided: {cut_off}"),
            format!("The API key is not valid: {cut_off}"),
        ),
    ] {
        for (dialect, words) in
            [(Dialect::OpenAi, &openai), (Dialect::Anthropic, &others), (Dialect::Ollama, &others)]
        {
            let (status, headers, body) = parts(&Refusal::from(&reason), dialect).await;
            assert_eq!((status, &headers["x-should-retry"]), (401, &HeaderValue::from_static("false")));
            assert_eq!(headers["www-authenticate"], "Bearer");
            let told = body["error"]["message"].as_str().or(body["error"].as_str());
            assert_eq!(told, Some(words.as_str()), "{dialect:?}");
        }
    }
    for reason in [Reason::MissingKey, Reason::ExpiredKey, Reason::DisabledKey] {
        let (_, headers, body) = parts(&Refusal::from(&reason), Dialect::OpenAi).await;
        assert_eq!(headers["x-should-retry"], "false");
        assert!(!body["error"]["message"].as_str().expect("words").contains("Incorrect"), "{body}");
    }
    // The key may be right.
    let (_, headers, _) = parts(&Refusal::from(&Reason::KeysUnavailable), Dialect::OpenAi).await;
    assert!(!headers.contains_key("x-should-retry") && headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_model_that_a_loading_server_may_have_is_to_be_asked_for_again() {
    let reason = Reason::ModelNotKnownYet { model: "llama".into() };
    let (status, headers, body) = parts(&Refusal::from(&reason), Dialect::OpenAi).await;
    assert_eq!((status, &body["error"]["code"]), (503, &"model_not_ready".into()));
    assert_eq!(headers["retry-after"], "5");
    assert_eq!(body["error"]["param"], "model");
}

/// Servers that had crashed used to be reported as "being taken out of service".
#[tokio::test]
async fn a_model_without_a_server_says_how_its_servers_are() {
    for (idle, words, wait) in [
        (Idle::Starting, "The model \"llama\" is starting; try again later.", "5"),
        (
            Idle::Draining,
            "No server of the model \"llama\" can take requests at the moment; try again later.",
            "2",
        ),
        (Idle::Stopped, "No server of the model \"llama\" is running at the moment; try again later.", "2"),
    ] {
        let reason = Reason::NotReady { model: "llama".into(), idle };
        let (status, headers, body) = parts(&Refusal::from(&reason), Dialect::OpenAi).await;
        assert_eq!((status, &body["error"]["code"]), (503, &"model_not_ready".into()));
        assert_eq!(
            (body["error"]["message"].as_str(), &headers["retry-after"]),
            (Some(words), &wait.parse().expect("a value"))
        );
    }
}

#[tokio::test]
async fn what_can_never_pass_is_not_to_be_tried_again() {
    let limited = LimitReached {
        quota: None,
        scope: Scope::Key,
        limit: Rate::new(100, Unit::Tokens, Per::Minute, None).expect("a rate").into(),
        remaining: 100,
        cost: 101,
        retry_after: Duration::from_secs(1),
        reset_after: Duration::from_secs(60),
    };
    let (status, headers, body) =
        parts(&Refusal::from(&Reason::LimitReached(limited)), Dialect::OpenAi).await;
    assert_eq!(status, 429);
    assert_eq!(headers["x-should-retry"], "false");
    assert_eq!(headers["x-ratelimit-limit-tokens"], "100");
    assert!(!headers.contains_key("retry-after"));
    assert_eq!(body["error"]["type"], "tokens");
}

/// At a limit of one request an hour anthropic-python slept for an hour, and so does Codex by `Retry-After` alone.
#[tokio::test]
async fn nobody_is_to_wait_for_more_than_a_minute_within_a_call() {
    let limit = Rate::new(1, Unit::Requests, Per::Hour, None).expect("a rate").into();
    for (wait, should_retry) in [(59_999, None), (60_000, None), (60_001, Some("false"))] {
        let retry_after = Duration::from_millis(wait);
        let limited = LimitReached {
            quota: None,
            scope: Scope::Key,
            limit,
            remaining: 0,
            cost: 1,
            retry_after,
            reset_after: retry_after,
        };
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let refusal = Refusal::from(&Reason::LimitReached(limited));
            let (status, headers, _) = parts(&refusal, dialect).await;
            let header = |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            assert_eq!((status, header("x-should-retry").as_deref()), (429, should_retry), "{wait}");
            let told = should_retry.is_none().then(|| wait.div_ceil(1_000).to_string());
            assert_eq!(header("retry-after"), told);
            assert_eq!(
                header("x-ratelimit-reset-requests"),
                Some(format!("{wait}ms")),
                "for who comes back later"
            );
        }
    }
}

#[tokio::test]
async fn a_used_up_quota_says_when_it_begins_anew_and_that_waiting_is_no_use() {
    let limited = LimitReached {
        quota: None,
        scope: Scope::Consumer,
        limit: Quota::new(1_000, Unit::Tokens, Calendar::Day).expect("a quota").into(),
        cost: 30,
        remaining: 20,
        retry_after: Duration::from_secs(3 * 3600),
        reset_after: Duration::from_secs(3 * 3600),
    };
    let (status, headers, body) =
        parts(&Refusal::from(&Reason::LimitReached(limited)), Dialect::OpenAi).await;
    assert_eq!((status, &headers["x-should-retry"]), (429, &HeaderValue::from_static("false")));
    assert!(!headers.contains_key("retry-after"), "anthropic-python would wait for hours");
    assert_eq!(headers["x-ratelimit-remaining-tokens"], "20");
    assert_eq!(body["error"]["code"], "insufficient_quota");
    assert_eq!(
        body["error"]["message"],
        "The quota of 1000 tokens a day for this consumer is used up but for 20; this request is estimated at 30 \
         tokens. The quota begins anew in 3h."
    );
}

#[tokio::test]
async fn what_is_more_than_a_whole_quota_is_not_told_to_wait() {
    let limited = LimitReached {
        quota: None,
        scope: Scope::Key,
        limit: Quota::new(1_000, Unit::Tokens, Calendar::Day).expect("a quota").into(),
        cost: 1_001,
        remaining: 1_000,
        retry_after: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
    };
    let refusal = Refusal::from(&Reason::LimitReached(limited));
    let (status, headers, body) = parts(&refusal, Dialect::OpenAi).await;
    assert_eq!((status, &headers["x-should-retry"]), (429, &HeaderValue::from_static("false")));
    assert!(!headers.contains_key("retry-after"));
    assert_eq!(
        body["error"]["message"],
        "This request is estimated at 1001 tokens, and no more than 1000 at once are allowed for this API key \
         (1000 tokens a day)."
    );
}

#[tokio::test]
async fn anthropics_clients_are_told_by_anthropics_headers_too() {
    let limited = LimitReached {
        quota: None,
        scope: Scope::Key,
        limit: Rate::new(600, Unit::Tokens, Per::Minute, None).expect("a rate").into(),
        cost: 300,
        remaining: 200,
        retry_after: Duration::from_secs(10),
        reset_after: Duration::from_secs(40),
    };
    let refusal = Refusal::from(&Reason::LimitReached(limited));
    let before = SystemTime::now();
    let (_, headers, body) = parts(&refusal, Dialect::Anthropic).await;
    assert_eq!(body["error"]["type"], "rate_limit_error");
    let header = |name: &str| headers[name].to_str().expect("text");
    assert_eq!(header("anthropic-ratelimit-tokens-limit"), "600");
    assert_eq!(header("anthropic-ratelimit-tokens-remaining"), "200");
    let reset = humantime::parse_rfc3339(header("anthropic-ratelimit-tokens-reset")).expect("a time");
    let after = SystemTime::now();
    let [earliest, latest] = [(before, 40), (after, 41)].map(|(at, s)| at + Duration::from_secs(s));
    assert!((earliest..=latest).contains(&reset), "{reset:?}");
    assert_eq!((header("retry-after"), header("x-ratelimit-limit-tokens")), ("10", "600"));
    let (_, headers, _) = parts(&refusal, Dialect::OpenAi).await;
    assert!(!headers.keys().any(|name| name.as_str().starts_with("anthropic-")));
    let at = |ns| moment(UNIX_EPOCH, Duration::from_nanos(ns));
    assert_eq!(at(1_000_000_000).as_deref(), Some("1970-01-01T00:00:01Z"));
    assert_eq!(at(1_000_000_001).as_deref(), Some("1970-01-01T00:00:02Z"), "never too early");
    for far in [Duration::from_secs(300_000_000_000), Duration::MAX] {
        assert_eq!(moment(SystemTime::now(), far), None);
    }
}

/// Ollama's libraries used to print "[object Object]".
#[tokio::test]
async fn ollamas_shape() {
    let reason = Reason::ModelNotFound { model: "x".into() };
    let (status, headers, body) = parts(&Refusal::from(&reason), Dialect::Ollama).await;
    assert_eq!((status, &headers["x-request-id"]), (404, &HeaderValue::from_static("req_1")));
    assert_eq!(body, json!({ "error": "The model \"x\" does not exist, or this API key may not use it." }));
}

#[tokio::test]
async fn anthropics_shape() {
    let reason = Reason::ModelNotFound { model: "x".into() };
    let (status, headers, body) = parts(&Refusal::from(&reason), Dialect::Anthropic).await;
    assert_eq!((status, body["type"].as_str()), (404, Some("error")));
    assert_eq!(body["error"]["type"], "not_found_error");
    assert_eq!(body["request_id"], "req_1");
    assert_eq!(headers["request-id"], "req_1");
}
