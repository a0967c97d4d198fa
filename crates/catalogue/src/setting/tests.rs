use limits::Limits;

use super::*;

fn read(key: &str, text: &str) -> Result<(ServerSettings, ModelSettings), NotAllowed> {
    let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
    Setting::find(key).expect(key).read(text, &mut server, &mut model)?;
    Ok((server, model.resolve()))
}

#[test]
fn keys_are_unique_and_no_key_is_a_section_of_another_value() {
    let keys: Vec<_> = settings().map(|s| s.key).collect();
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key), "{key}");
        assert!(
            !keys.iter().any(|other| other.starts_with(&format!("{key}."))),
            "{key} cannot be both in YAML"
        );
    }
}

#[test]
fn good_values_change_something() {
    for (key, text) in [
        ("weight", "3"),
        ("priority", "1"),
        ("ready.path", "/api/ps"),
        ("ready.contains", "llama"),
        ("aliases", "fast, smart=org/llama"),
        ("accepts", "any"),
        ("select.header", "X-Model-Size: 70b"),
        ("select.header_regexp", "Content-Type: .*code.*"),
        ("select.query", "fast=true"),
        ("select.host", "code.example.com"),
        ("select.others", "true"),
        ("pass_host_header", "false"),
        ("strategy", "leasttime"),
        ("failover.status", "500-599, 429"),
        ("sticky.cookie", "llm_backend"),
        ("sticky.secure", "true"),
        ("sticky.http_only", "false"),
        ("sticky.same_site", "lax"),
        ("sticky.max_age", "1h"),
        ("canary.model", "llama-next"),
        ("canary.percent", "0"),
        ("mirror.model", "llama-next"),
        ("mirror.percent", "100"),
        ("healthcheck.path", "/health"),
        ("healthcheck.interval", "15s"),
        ("healthcheck.timeout", "100ms"),
        ("healthcheck.status", "200"),
        ("passive_healthcheck.max_failed_attempts", "3"),
        ("passive_healthcheck.failure_window", "30s"),
        ("timeout.response_header", "120s"),
        ("timeout.dial", "2s"),
        ("timeout.idle", "1m 30s"),
        ("retry.attempts", "1"),
        ("concurrency.max", "8"),
        ("concurrency.per_key", "2"),
        ("concurrency.per_consumer", "3"),
        ("concurrency.native", "true"),
        ("limit.requests_per_minute", "600"),
        ("pick.wait", "20s"),
        ("pick.max_requests", "8"),
    ] {
        let nothing = (ServerSettings::default(), ModelSettings::default());
        assert_ne!(read(key, text).expect(key), nothing, "{key}={text}");
        assert_ne!(Ok(nothing), read(key, &format!(" {text} ")), "{key}: spaces around it");
    }
}

/// Each key below `limit:` of an account is also a label with the same meaning.
#[test]
fn limits_are_those_that_are_read_everywhere() {
    let resolved = |pairs: &[(&str, &str)]| {
        let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
        for (key, text) in pairs {
            Setting::find(key).expect(key).read(text, &mut server, &mut model).expect(text);
        }
        (model.check(), model.resolve().limits)
    };
    let some = [("limit.requests_per_minute", "60"), ("limit.tokens_per_minute", "600")];
    let expected: LimitSpec =
        [(Field::RequestsPerMinute, 60), (Field::TokensPerMinute, 600)].into_iter().collect();
    assert_eq!(resolved(&some), (Ok(()), expected.limits()));
    for field in Field::ALL {
        let key = format!("limit.{}", field.name());
        assert_eq!(Setting::find(&key).expect(&key).allowed, field.allowed());
        let text = if field.is_number() { "7" } else { "hard" };
        let budget = ("limit.budget_total", "8");
        let read = |field: Field, text| (field, field.read(text).expect("a value"));
        let given = [read(Field::BudgetTotal, budget.1), read(field, text)];
        let with = expected.iter().chain(given).collect::<LimitSpec>().limits();
        assert_ne!(with, expected.iter().chain([given[0]]).collect::<LimitSpec>().limits(), "{key}");
        let pairs = [some[0], some[1], budget, (&key, text)];
        assert_eq!(resolved(&pairs), (Ok(()), with), "{key}");
    }
    assert_eq!(settings().filter(|setting| setting.key.starts_with("limit.")).count(), Field::ALL.len());
    let lone = |key| resolved(&[(key, "7")]);
    let nothing = Limits::default();
    let words = "limit.burst is given without limit.requests_per_minute or another time";
    assert_eq!(lone("limit.burst"), (Err(words), nothing.clone()));
    assert_eq!(
        lone("limit.tokens_burst"),
        (Err("limit.tokens_burst is given without limit.tokens_per_minute"), nothing)
    );
}

#[test]
fn every_setting_refuses_nonsense_and_says_what_is_allowed() {
    for setting in settings() {
        for text in ["", "a\nb", "-1", "9999999999999999"] {
            let refused = read(setting.key, text);
            let plain_text = matches!(
                setting.key,
                "ready.contains"
                    | "aliases"
                    | "canary.model"
                    | "mirror.model"
                    | "sticky.cookie"
                    | "select.host"
            );
            if plain_text && !text.is_empty() && !text.contains('\n') {
                continue;
            }
            assert_eq!(refused, Err(NotAllowed { allowed: setting.allowed }), "{}={text:?}", setting.key);
        }
    }
}

#[test]
fn the_ends_of_ranges() {
    for (key, text, allowed) in [
        ("weight", "1", true),
        ("weight", "1000", true),
        ("weight", "0", false),
        ("weight", "1001", false),
        ("weight", "+1", false),
        ("priority", "9", true),
        ("priority", "10", false),
        ("canary.percent", "101", false),
        ("failover.status", "599-500", false),
        ("failover.status", "99", false),
        ("healthcheck.status", "600", false),
        ("timeout.response_header", "0s", true),
        ("timeout.response_header", "24h", true),
        ("timeout.response_header", "86401s", false),
        ("sticky.max_age", "8760h", true),
        ("sticky.max_age", "8761h", false),
        ("timeout.response_header", "120", false),
        ("timeout.dial", "1us", false),
        ("timeout.dial", "1000h", false),
        ("healthcheck.path", "health", false),
        ("healthcheck.path", "/a`b", false),
        ("healthcheck.path", "off", true),
        ("strategy", "random", false),
    ] {
        assert_eq!(read(key, text).is_ok(), allowed, "{key}={text}");
    }
}

#[test]
fn what_was_said_first_stays_and_the_difference_is_told() {
    let given = |pairs: &[(&str, &str)]| {
        let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
        for (key, text) in pairs {
            Setting::find(key).expect(key).read(text, &mut server, &mut model).expect(key);
        }
        model
    };
    let mut first = given(&[("strategy", "p2c"), ("retry.attempts", "3")]);
    let conflicts =
        first.fill_in(&given(&[("strategy", "wrr"), ("retry.attempts", "3"), ("timeout.dial", "1s")]));
    assert_eq!(conflicts, ["strategy"]);
    let settings = first.resolve();
    assert_eq!(settings.strategy, Some(Strategy::P2c));
    assert_eq!(settings.timeout_dial, Some(std::time::Duration::from_secs(1)));
}

/// A path more than was meant opens what manages the server; one less refuses what clients need.
#[test]
fn the_paths_that_an_operator_opens() {
    let opened = |text: &str| read("paths", text).map(|(server, _)| server.paths);
    for (text, opens, closed) in [
        ("/predict", &["/predict"][..], &["/predict/", "/predict/a", "/predictor", "/", ""][..]),
        ("/predict/*", &["/predict/", "/predict/a/b"], &["/predict", "/predictor/a", "/a/predict/b"]),
        ("/*", &["/", "/a/b", ""], &["a"]),
        ("/", &["/"], &["/a", ""]),
    ] {
        let paths = opened(text).expect(text);
        assert_eq!(paths.iter().map(ToString::to_string).collect::<Vec<_>>(), [text], "as it was written");
        for path in opens {
            assert!(paths[0].opens(path), "{text} opens {path:?}");
        }
        for path in closed {
            assert!(!paths[0].opens(path), "{text} does not open {path:?}");
        }
    }
    let longest = format!("/{}", "a".repeat(255));
    assert!(opened(&longest).is_ok() && opened(&format!("{longest}a")).is_err());
    for bad in ["predict", "/a//b", "/a/", "/./a", "/../a", "/a%2fb", "/a?b", "/a b", "*", "/a*", "//*"] {
        assert!(opened(bad).is_err(), "{bad}");
    }
}

/// An error shows where a value is wrong, but not what may be a secret in it.
#[test]
fn a_value_is_shown_as_far_as_it_holds_no_secret() {
    for (key, value, shown) in [
        ("select.header", "X-Token: s3cret", "X-Token:…"),
        ("select.header_regexp", "X-Token: ^s3cret", "X-Token:…"),
        ("select.header", "s3cret without a colon", "s3cret without a colon"),
        ("ready.path", "/ready?token=s3cret", "/ready…"),
        ("healthcheck.path", "/ready#s3cret", "/ready…"),
        ("ready.path", "ready", "ready"),
        ("ready.contains", "a?b", "a?b"),
        ("strategy", "random: #1", "random: #1"),
    ] {
        assert_eq!(Setting::find(key).expect(key).told(value), shown, "{key}");
    }
}

#[test]
fn settings_that_need_another_say_so() {
    let check = |pairs: &[(&str, &str)]| {
        let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
        assert!(model.is_empty());
        for (key, text) in pairs {
            let setting = Setting::find(key).expect(key);
            setting.read(text, &mut server, &mut model).expect(text);
            assert_eq!(setting.is_of_model(), key != &"ready.contains" && key != &"ready.path", "{key}");
        }
        let of_model = pairs.iter().filter(|(key, _)| !key.starts_with("ready.")).count();
        assert_eq!((model.is_empty(), model.iter().count()), (of_model == 0, of_model));
        (server.check().err(), model.check().err())
    };
    for (key, text, needed, value) in [
        ("canary.percent", "5", "canary.model", "next"),
        ("mirror.percent", "5", "mirror.model", "next"),
        ("sticky.max_age", "1h", "sticky.cookie", "c"),
        ("passive_healthcheck.failure_window", "30s", "passive_healthcheck.max_failed_attempts", "3"),
        ("concurrency.native", "true", "concurrency.per_key", "2"),
    ] {
        let told = check(&[(key, text)]).1.expect(key);
        assert!(told.starts_with(&format!("{key} is given without")), "{told}");
        assert_eq!(check(&[(key, text), (needed, value)]), (None, None), "{key}");
    }
    assert!(check(&[("ready.contains", "x")]).0.is_some_and(|told| told.contains("without ready.path")));
    assert_eq!(check(&[("ready.contains", "x"), ("ready.path", "/ready")]), (None, None));
    assert_eq!(check(&[("ready.path", "/ready")]), (None, None));
}

/// Traefik refuses a whole document for one word that it does not know.
#[test]
fn words_are_traefiks() {
    use super::model::SameSite;
    for (word, is_modelgates) in [
        ("wrr", false),
        ("p2c", false),
        ("hrw", false),
        ("leasttime", false),
        ("cache", true),
        ("least-busy", true),
    ] {
        let strategy = read("strategy", word).expect(word).1.strategy.expect(word);
        assert_eq!((strategy.as_str(), strategy.is_modelgates()), (word, is_modelgates));
    }
    assert_eq!(
        [SameSite::None, SameSite::Lax, SameSite::Strict].map(SameSite::as_str),
        ["none", "lax", "strict"]
    );
    assert_eq!(read("weight", "7").map(|(server, _)| server.weight()), Ok(7));
    assert_eq!(ServerSettings::default().weight(), 1);
    for (text, accepts) in [("any", Some(Accepts::Any)), ("listed", Some(Accepts::Listed))] {
        assert_eq!(read("accepts", text).expect(text).0.accepts, accepts);
    }
    assert!(read("ready.contains", "a\u{1}").is_err());
}
