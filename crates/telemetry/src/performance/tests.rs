use metering::{MeteredEndpoint, RequestId, UsedTokens};
use proptest::prelude::*;

use super::*;
use crate::{AnsweringServer, Telemetry};

fn settled(ending: Ending, status: Option<u16>, kind: UsageKind) -> SettledRequest {
    SettledRequest {
        request: RequestId(1),
        consumer: "team".into(),
        model: "llama".into(),
        endpoint: MeteredEndpoint::ChatCompletions,
        server: Some(AnsweringServer { id: "file:gpu".into(), name: "gpu".into() }),
        ending,
        status,
        time_to_first_token: None,
        duration: None,
        kind,
        used: UsedTokens { prompt: 100, cached: None, completion: 20 },
        cost: 0,
        span: None,
    }
}

fn answered(first_token: Duration) -> SettledRequest {
    let time_to_first_token = Some(first_token);
    SettledRequest { time_to_first_token, ..settled(Ending::Finished, Some(200), UsageKind::Exact) }
}

#[test]
fn each_ending_is_counted_once_and_guessed_tokens_make_no_rate() {
    let (telemetry, now) = (Telemetry::new(), Instant::now());
    let all = [
        settled(Ending::Finished, Some(200), UsageKind::Exact),
        settled(Ending::Finished, Some(200), UsageKind::Measured),
        settled(Ending::Finished, None, UsageKind::Exact),
        settled(Ending::Refused, Some(404), UsageKind::Measured),
        settled(Ending::Refused, Some(307), UsageKind::Measured),
        settled(Ending::Refused, Some(502), UsageKind::Measured),
        settled(Ending::Refused, None, UsageKind::Measured),
        settled(Ending::Aborted, Some(499), UsageKind::Measured),
        settled(Ending::Unknown, None, UsageKind::Estimated),
    ];
    telemetry.settled(&all.map(Arc::new), now);
    let expected = RequestCounts {
        finished: 3,
        refused: 2,
        failed: 2,
        aborted: 1,
        unknown: 1,
        exact: 2,
        measured: 1,
        prompt_tokens: 800,
        completion_tokens: 160,
    };
    let model = telemetry.of_model("llama", now).expect("counted");
    assert_eq!((model.recent, model.total), (expected, expected));
    assert_eq!((expected.errors(), expected.all()), (4, 9));
    assert_eq!(telemetry.of_server("file:gpu", now), Some(model));
    assert_eq!((telemetry.of_model("gpu", now), telemetry.of_server("llama", now)), (None, None));
    assert!(telemetry.does_traefik_tell());
    // Half a minute is the shortest time of which a rate is told.
    assert_eq!((model.span, model.per_second(300)), (SLOT, 10.0));
}

#[test]
fn what_is_older_than_five_minutes_no_longer_counts() {
    let (telemetry, start) = (Telemetry::new(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    // 100 requests, one a second, whose first token takes 1 ms, 2 ms, …, 100 ms.
    for second in 0..100 {
        telemetry.settled(&[Arc::new(answered(Duration::from_millis(second + 1)))], at(second));
    }
    let seen = telemetry.of_model("llama", at(100)).expect("counted");
    assert_eq!((seen.span.as_secs(), seen.recent.finished, seen.recent.completion_tokens), (100, 100, 2_000));
    let near = |time: Option<Duration>, millis: f64| {
        let found = time.expect("a time").as_secs_f64() * 1e3;
        assert!((millis..=millis * 17.0 / 16.0).contains(&found), "{found} for {millis}");
    };
    near(seen.first_token_p50, 50.0);
    near(seen.first_token_p95, 95.0);
    // Slot 0 has left the window, then slots 1 and 2, and then all.
    let seen = telemetry.of_model("llama", at(301)).expect("counted");
    assert_eq!((seen.span.as_secs(), seen.recent.finished, seen.total.finished), (271, 70, 100));
    near(seen.first_token_p50, 65.0);
    let seen = telemetry.of_model("llama", at(389)).expect("counted");
    assert_eq!((seen.span.as_secs(), seen.recent.finished), (299, 10));
    let seen = telemetry.of_model("llama", at(390)).expect("counted");
    assert_eq!((seen.recent, seen.first_token_p50), (RequestCounts::default(), None));
    telemetry.settled(&[Arc::new(answered(Duration::from_secs(90)))], at(10_000));
    let seen = telemetry.of_model("llama", at(10_001)).expect("counted");
    assert_eq!((seen.recent.finished, seen.total.finished), (1, 101));
    near(seen.first_token_p50, 90_000.0);
}

#[test]
fn too_many_models_are_not_told_apart_and_quiet_ones_make_room() {
    let (telemetry, start) = (Telemetry::new(), Instant::now());
    let of = |name: &str| Arc::new(SettledRequest { model: name.into(), ..answered(SLOT) });
    let many: Vec<_> = (0..3_000).map(|n| of(&format!("model-{n}"))).collect();
    telemetry.settled(&many, start);
    assert_eq!(telemetry.of_models(start).len(), MAX_SUBJECTS);
    let later = start + SLOT * 9;
    telemetry.settled(&[of("late"), of("model-0")], later);
    assert_eq!(telemetry.of_model("late", later), None, "all of them still count");
    let quiet = start + SLOT * 10;
    telemetry.settled(&[of("late")], quiet);
    let left: Vec<String> = telemetry.of_models(quiet).keys().map(ToString::to_string).collect();
    assert_eq!(left, ["late", "model-0"]);
    telemetry.settled(&[of("")], quiet);
    assert_eq!(telemetry.of_models(quiet).len(), 2, "a name that the client may have invented");
    assert_eq!(telemetry.of_servers(quiet).len(), 1);
}

proptest! {
    /// Whatever the times, the window has the requests of its slots, and no more than ten slots are kept.
    #[test]
    fn the_window_is_what_a_plain_list_says(gaps in prop::collection::vec(0_u64..90, 1..200)) {
        let (mut performances, start) = (Performances::default(), Instant::now());
        let mut times = Vec::new();
        let mut second = 0;
        for (number, gap) in gaps.iter().enumerate() {
            // The first request begins the first slot.
            second += if number == 0 { 0 } else { *gap };
            times.push(second);
            performances.add(&answered(SLOT), start + Duration::from_secs(second));
            let first = (second / 30 + 1).saturating_sub(SLOTS);
            let expected = times.iter().filter(|time| **time / 30 >= first).count() as u64;
            let now = start + Duration::from_secs(second);
            let seen = performances.of(&performances.models, "llama", now).expect("counted");
            prop_assert_eq!((seen.recent.finished, seen.total.finished), (expected, times.len() as u64));
            prop_assert!(seen.span >= SLOT && seen.span <= SLOT * SLOTS as u32);
            prop_assert!(performances.models.known["llama"].slots.len() as u64 <= SLOTS);
        }
    }
}
