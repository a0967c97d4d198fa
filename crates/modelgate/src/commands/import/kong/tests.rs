use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::read;
use crate::commands::import::tests::{Made, made};

/// Imports a file that was written on 2030-01-01.
fn file(text: &str, without: &[&str]) -> Made {
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    made(read(text, written).unwrap_or_else(|why| panic!("{text}: {why}")), without)
}

/// A file with consumers `ada` (in group `gold`) and `bob`, and these lines.
fn with(lines: &str) -> String {
    format!(
        "consumers:\n\
         - {{ username: ada, id: 1a, groups: [{{ name: gold }}], keyauth_credentials: [{{ key: a1 }}, {{ key: a2 }}] }}\n\
         - {{ username: bob, id: 2b, keyauth_credentials: [{{ key: b1 }}] }}\n\
         consumer_groups: [{{ name: gold, id: 9g }}]\n{lines}\n"
    )
}

fn limit_of(made: &Made, name: &str) -> Value {
    let consumer = made.consumers.iter().find(|consumer| consumer["name"] == name);
    consumer.map_or(Value::Null, |consumer| consumer["limit"].clone())
}

const RL: &str = "rate-limiting";
const RLA: &str = "rate-limiting-advanced";
const AI: &str = "ai-rate-limiting-advanced";
/// Kong's other plugin for limits, with N requests a minute.
const ADVANCED: &str = "name: rate-limiting-advanced, config: { limit: [N], window_size: [60] }";

/// Kong runs the most specific of several plugins of one name.
#[test]
fn the_limits_that_count_for_a_consumer_are_taken_over() {
    let per_minute = |n: u64| if n == 0 { Value::Null } else { json!({ "requests_per_minute": n }) };
    for (lines, ada, bob) in [
        ("plugins: [{ consumer: ada, name: rate-limiting, config: { minute: 5 } }]", 5, 0),
        ("plugins: [{ consumer: 1a, name: rate-limiting, config: { minute: 5 } }]", 5, 0),
        ("plugins: [{ consumer: { id: 1a }, name: rate-limiting, config: { minute: 5 } }]", 5, 0),
        (
            "plugins: [{ consumer: { username: ada }, name: rate-limiting, config: { minute: 5, policy: redis, redis: { host: r } } }]",
            5,
            0,
        ),
        ("plugins: [{ name: rate-limiting, config: { minute: 6 } }]", 6, 6),
        ("plugins: [{ name: rate-limiting, enabled: false, config: { minute: 6 } }]", 0, 0),
        ("plugins: [{ name: rate-limiting, enabled: \"${{ env X }}\", config: { minute: 6 } }]", 6, 6),
        ("services: [{ name: s, plugins: [{ name: rate-limiting, config: { minute: 7 } }] }]", 7, 7),
        (
            "services: [{ name: s, routes: [{ name: r, plugins: [{ name: rate-limiting, config: { minute: 7 } }] }] }]",
            7,
            7,
        ),
        ("routes: [{ name: r, plugins: [{ name: rate-limiting, config: { minute: 7 } }] }]", 7, 7),
        // A group's plugin takes precedence over everybody's, and a consumer's own over both; a plugin at a service or route
        // applies in addition.
        ("plugins: [{ consumer_group: gold, RLA50 }, { RLA5 }]", 50, 5),
        ("plugins: [{ consumer_group: 9g, RLA50 }, { consumer: ada, RLA500 }, { RLA5 }]", 500, 5),
        ("plugins: [{ consumer: ada, RLA500 }, { route: r, RLA5 }]", 500, 5),
        ("plugins: [{ consumer: ada, RLA500 }, { consumer: ada, route: r, RLA5 }]", 5, 0),
        ("plugins: [{ consumer: ada, RLA500 }, { service: s, route: r, RLA5 }]", 5, 5),
        ("plugins: [{ consumer: ada, service: s, RLA500 }, { RLA5 }]", 5, 5),
        ("consumer_group_plugins: [{ consumer_group: gold, RLA50 }]", 50, 0),
        // decK keeps settings separately; YAML has merge keys.
        (
            "_plugin_configs: { slow: { minute: 4, hour: 90 } }\nplugins: [{ name: rate-limiting, _config: slow, config: { hour: ~ } }]",
            4,
            4,
        ),
        ("x: &x { minute: 3 }\nplugins: [{ name: rate-limiting, config: { <<: *x, policy: local } }]", 3, 3),
    ] {
        let lines = ["500", "50", "5"]
            .iter()
            .fold(lines.to_owned(), |lines, n| lines.replace(&format!("RLA{n}"), &ADVANCED.replace('N', n)));
        let made = file(&with(&lines), &["x"]);
        assert_eq!(
            (limit_of(&made, "ada"), limit_of(&made, "bob")),
            (per_minute(ada), per_minute(bob)),
            "{lines}: {}",
            made.said
        );
        assert!(made.keys.iter().all(|key| key.get("disabled").is_none()), "{lines}: {}", made.said);
    }
}

#[test]
fn groups_know_their_consumers_too() {
    let members = "consumers: [{ username: ada, keyauth_credentials: [{ key: a }] }]\nconsumer_groups: [{ name: gold, MEMBERS plugins: [{ RLA }] }]\nLIST";
    for (of_group, list) in [
        ("consumers: [{ username: ada }],", ""),
        ("", "consumer_group_consumers: [{ consumer: ada, consumer_group: gold }]"),
    ] {
        let text = members
            .replace("MEMBERS", of_group)
            .replace("LIST", list)
            .replace("RLA", &ADVANCED.replace('N', "8"));
        assert_eq!(limit_of(&file(&text, &[]), "ada"), json!({ "requests_per_minute": 8 }), "{text}");
    }
}

#[test]
fn limits_are_said_exactly_or_smaller() {
    for (name, config, limit, said) in [
        (
            RL,
            "{ second: 1, minute: 2, hour: 3, day: 4, month: 5 }",
            json!({ "requests_per_second": 1, "requests_per_minute": 2, "requests_per_hour": 3, "requests_per_day": 4, "requests_per_month": 5 }),
            "",
        ),
        (RL, "{ minute: 10.7 }", json!({ "requests_per_minute": 10 }), ""),
        (RL, "{ minute: 99999999999, limit_by: ip }", json!({ "requests_per_minute": 60_000_000 }), ""),
        (
            RLA,
            "{ limit: [10, 600], window_size: [1, 86400], identifier: consumer, namespace: n, window_type: sliding, redis: { host: r } }",
            json!({ "requests_per_second": 10, "requests_per_day": 600 }),
            "",
        ),
        (
            RLA,
            "{ limit: 10, window_size: 30 }",
            json!({ "requests_per_minute": 10 }),
            "10 requests in 30 s are taken over as 10 a minute",
        ),
        (
            RLA,
            "{ limit: [30000], window_size: [2628000], compound_identifier: [consumer, ip] }",
            json!({ "requests_per_month": 30_000 }),
            "",
        ),
        (
            AI,
            "{ llm_providers: [{ name: openai, limit: [900], window_size: [60] }, { name: mistral, limit: [500], window_size: [3600] }] }",
            json!({ "tokens_per_minute": 900, "tokens_per_day": 500 }),
            "500 tokens in 3600 s are taken over as 500 a day",
        ),
    ] {
        let made =
            file(&with(&format!("plugins: [{{ consumer: bob, name: {name}, config: {config} }}]")), &[]);
        assert_eq!(limit_of(&made, "bob"), limit, "{config}: {}", made.said);
        assert!(made.said.contains(said) && made.held_by.is_empty(), "{config}: {}", made.said);
    }
    let by_key =
        file(&with("plugins: [{ name: rate-limiting, config: { minute: 9, limit_by: credential } }]"), &[]);
    assert!(
        by_key.consumers.is_empty()
            && by_key.keys.iter().all(|key| key["limit"] == json!({ "requests_per_minute": 9 }))
    );
}

#[test]
fn limits_that_cannot_be_said_hold_a_key() {
    for (name, config, why) in [
        (RL, "{ minute: 0 }", "its limit per minute, which is not 1 or more"),
        (RL, "{ minute: '${{ env \"N\" }}' }", "its limit per minute"),
        (RL, "{ year: 9, minute: 1 }", "its limit per year"),
        (RL, "{ minute: 5, limit_by: service }", "its limit_by; Modelgate limits keys, consumers and models"),
        (RL, "{ minute: 5, week: 7 }", "its rate-limiting's week: Modelgate does not know it"),
        (RL, "{}", "it has no limit"),
        (RL, "7", "its config is no mapping"),
        (RLA, "{ limit: [5], window_size: [60], identifier: consumer-group }", "its identifier"),
        (RLA, "{ limit: [5], window_size: [60], compound_identifier: [service, path] }", "its identifier"),
        (RLA, "{ limit: [5, 6], window_size: [60] }", "its limit and window_size"),
        (RLA, "{ limit: [5], window_size: [31536000] }", "its limit in 31536000 s"),
        (
            AI,
            "{ llm_providers: [{ name: requestPrompt, limit: [5], window_size: [60] }] }",
            "its limit by a function",
        ),
        (
            AI,
            "{ tokens_count_strategy: cost, llm_providers: [{ name: openai, limit: [5], window_size: [60] }] }",
            "it counts no tokens",
        ),
        (
            AI,
            "{ policies: [{ limits: [5] }], llm_providers: [{ name: openai, limit: [5], window_size: [60] }] }",
            "policies: Modelgate does not know it",
        ),
    ] {
        let text = with(&format!("plugins: [{{ consumer: bob, name: {name}, config: {config} }}]"));
        let made = file(&text, &[]);
        assert_eq!(made.held_by, [name], "{config}: {}", made.said);
        assert!(
            made.said.contains("disabled: consumers[1] bob: ") && made.said.contains(why),
            "{config}: {}",
            made.said
        );
        assert_eq!(
            made.keys.iter().filter(|key| key.get("disabled").is_some()).count(),
            1,
            "bob's alone: {config}"
        );
        assert!(file(&text, &[name]).held_by.is_empty(), "{config}");
    }
}

/// Other checks that Kong makes before it admits a request.
#[test]
fn what_restricts_a_consumer_holds_its_keys() {
    for (lines, held, by) in [
        ("plugins: [{ consumer: bob, name: request-termination }]", 1, "request-termination"),
        ("plugins: [{ name: request-termination }]", 3, "request-termination"),
        ("plugins: [{ name: request-termination, config: { trigger: x-test } }]", 0, ""),
        ("plugins: [{ consumer_group: gold, name: ai-prompt-guard }]", 2, "ai-prompt-guard"),
        ("services: [{ name: s, plugins: [{ name: acl, config: { allow: [partners] } }] }]", 3, "acl"),
        ("services: [{ name: s, plugins: [{ name: acl, config: { deny: [outcasts] } }] }]", 0, ""),
        ("acls: [{ consumer: 2b, group: partners }]", 1, "acl"),
        ("plugins: [{ name: basic-auth }]", 3, "basic-auth"),
        ("plugins: [{ name: basic-auth, config: { anonymous: nobody } }]", 0, ""),
        ("plugins: [{ name: my-own-plugin }]", 3, "my-own-plugin"),
        ("plugins: [{ name: my-own-plugin, enabled: false }, { name: cors }, { name: file-log }]", 0, ""),
        ("plugins: [{ consumer: bob, name: rate-limiting, _config: nowhere }]", 1, "rate-limiting"),
        ("plugins: [{ name: rate-limiting, config: { minute: 1 }, hours: [9, 17] }]", 3, "hours"),
        (
            "plugins: [{ consumer: bob, name: ip-restriction, config: { deny: [10.0.0.0/8] } }]",
            1,
            "ip-restriction",
        ),
        (
            "plugins: [{ consumer: bob, name: ip-restriction, config: { allow: [nonsense] } }]",
            1,
            "ip-restriction",
        ),
        (
            "routes: [{ name: a, plugins: [{ name: ip-restriction, config: { allow: [10.0.0.1] } }] }, { name: b, plugins: [{ name: ip-restriction, config: { allow: [10.0.0.2] } }] }]",
            3,
            "ip-restriction",
        ),
        ("filter_chains: [{ name: f }]", 3, "filter_chains"),
        ("service_packages: [{ name: p }]", 3, "service_packages"),
        (
            "upstreams: [{ name: u }]\ncertificates: [{ id: 1 }]\n_info: { select_tags: [x] }\n_workspace: w\n_transform: false",
            0,
            "",
        ),
        (
            "plugins: [{ consumer: nobody, name: request-termination }, { consumer_group: none, name: my-own-plugin }]",
            0,
            "",
        ),
    ] {
        let made = file(&with(lines), &[]);
        let disabled = made.keys.iter().filter(|key| key["disabled"] == true).count();
        assert_eq!(disabled, held, "{lines}: {}", made.said);
        assert_eq!(
            made.held_by,
            (held > 0).then_some(by).into_iter().collect::<Vec<_>>(),
            "{lines}: {}",
            made.said
        );
        if held > 0 {
            assert!(made.said.contains("disabled: "), "{lines}: {}", made.said);
            let alive = file(&with(lines), &[by]);
            assert!(alive.keys.iter().all(|key| key.get("disabled").is_none()), "{lines}: {}", alive.said);
        }
    }
}

#[test]
fn networks_bind_keys_and_what_is_not_known_of_a_consumer_holds_them() {
    let bound = file(
        &with(
            "plugins: [{ consumer: bob, name: ip-restriction, config: { allow: [10.0.0.0/8, '2001:db8::1'] } }]",
        ),
        &[],
    );
    assert_eq!(bound.keys[2]["networks"], json!(["10.0.0.0/8", "2001:db8::1/128"]), "{}", bound.said);
    assert_eq!(bound.keys[0].get("networks"), None);
    for (consumer, by) in [
        ("{ username: x, quota: 5, keyauth_credentials: [{ key: k }] }", "quota"),
        ("{ username: x, keyauth_credentials: [{ key: k, hours: 5 }] }", "hours"),
        ("{ username: x, groups: [{ name: lost }], keyauth_credentials: [{ key: k }] }", "consumer_groups"),
        ("{ username: x, keyauth_credentials: [{ key: k, ttl: soon }] }", "ttl"),
    ] {
        let made = file(&format!("consumers: [{consumer}]"), &[]);
        assert_eq!(
            (made.held_by, &made.keys[0]["disabled"]),
            (vec![by.to_owned()], &json!(true)),
            "{consumer}: {}",
            made.said
        );
    }
}

#[test]
fn consumers_stay_distinct_and_keys_end_when_they_should() {
    let made = file(
        "consumers:\n\
         - { username: Ада, keyauth_credentials: [{ key: a, ttl: 60 }] }\n\
         - { username: Яна, keyauth_credentials: [{ key: b, ttl: ~ }] }\n\
         - { username: x, keyauth_credentials: [{ key: c, ttl: 0 }] }\n\
         - { custom_id: x, keyauth_credentials: [{ key: d }] }\n\
         keyauth_credentials: [{ consumer: late, key: e }]\n\
         plugins: [{ name: rate-limiting, config: { minute: 2 } }, { consumer: x, name: request-termination }]\n",
        &[],
    );
    let owners: std::collections::BTreeSet<&str> =
        made.keys.iter().filter_map(|key| key["consumer"].as_str()).collect();
    assert_eq!(owners.len(), 5, "{owners:?}");
    assert_eq!(made.keys[0]["expires"], "2030-01-01T00:01:00Z");
    assert_eq!(made.keys[1].get("expires"), None);
    assert_eq!(made.keys[2]["expires"], "2030-01-01T00:00:00Z");
    // A name that may mean two consumers applies to both.
    assert_eq!([&made.keys[2]["disabled"], &made.keys[3]["disabled"]], [true, true]);
    assert_eq!(made.held_by, ["consumer", "request-termination"], "{}", made.said);
    // What applies to everybody also applies to consumers that are not in the file.
    assert_eq!(limit_of(&made, "late"), json!({ "requests_per_minute": 2 }));
}

#[test]
fn clients_go_on_sending_their_keys_where_they_did() {
    for (plugins, headers) in [
        ("[]", Some("apikey")),
        ("[{ name: key-auth }]", Some("apikey")),
        ("[{ name: key-auth, config: { key_names: [X-API-Key] } }]", None),
        (
            "[{ name: key-auth, config: { key_names: [My-Key, Authorization] } }, { name: key-auth, service: s }]",
            Some("apikey my-key"),
        ),
        ("[{ name: key-auth, config: { key_names: [cookie, 'a b', token] } }]", Some("token")),
        ("[{ name: key-auth, enabled: false, config: { key_names: [old] } }]", Some("apikey")),
        ("[{ name: key-auth, config: { key_names: [token], key_in_header: false } }]", None),
    ] {
        let written = SystemTime::UNIX_EPOCH;
        let imported = read(&with(&format!("plugins: {plugins}")), written).expect("a file");
        let found = imported.requests.map(|requests| requests.key_headers.join(" "));
        assert_eq!(found.as_deref(), headers, "{plugins}");
    }
}

#[test]
fn what_is_no_configuration_of_kongs_is_refused() {
    for (text, why) in [
        ("{", "it is not YAML"),
        ("[]", "it is no mapping"),
        ("{}", "it has no list of consumers"),
        ("consumers: [7]", "consumers[0] is no mapping"),
        ("consumers: []\n<<: 7", "merge keys (<<) cannot be expanded"),
        ("consumers: []\n---\nconsumers: []", "it is not YAML"),
        ("consumers: []\n[a, b]: 1", "it is no"),
    ] {
        let refused = read(text, SystemTime::UNIX_EPOCH).err().unwrap_or_else(|| panic!("{text} was read"));
        assert!(refused.contains(why), "{text}: {refused}");
    }
}

/// Found by the fuzz target `import`: names were printed as the file has them, and a terminal obeys what it is sent.
#[test]
fn a_message_is_one_line_whatever_the_names_hold() {
    let held = r#"consumers: [{ username: "ada\e[2J\t\nleft out: nobody", x: 1, keyauth_credentials: [{ key: a1 }] }]"#;
    let said = file(held, &[]).said;
    assert!(said.lines().any(|line| line.contains("ada") && line.contains("left out: nobody")), "{said:?}");
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}
