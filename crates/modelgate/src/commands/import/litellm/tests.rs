use access::KeyDigest;
use serde_json::{Value, json};

use super::read;
use crate::commands::import::{
    source::InputFile,
    tests::{Made, made},
};

fn source(text: &(impl ToString + ?Sized)) -> InputFile {
    InputFile { name: String::new(), text: text.to_string(), written: std::time::SystemTime::UNIX_EPOCH }
}

fn token() -> String {
    KeyDigest::of("sk-x").to_hex()
}

/// Imports a key with these fields, together with the teams, users and organizations of [`owners`].
fn key(mut row: Value, without: &[&str]) -> Made {
    row["token"] = token().into();
    row["key_alias"] = "x".into();
    let mut answer = owners();
    answer["keys"] = json!([row]);
    made(read(&[source(&answer)]).expect("an answer"), without)
}

fn owners() -> Value {
    json!({
        "teams": [
            { "team_id": "known", "models": ["llama*"] },
            { "team_id": "open", "models": [] },
            { "team_id": "nested", "models": ["all-team-models"] },
            { "team_id": "broken", "models": [1] },
            { "team_id": "t" },
            { "team_id": "t", "models": null },
            { "team_id": "blocked", "models": [], "blocked": true },
            { "team_id": "limited", "models": [], "rpm_limit": 7, "tpm_limit": 900, "tpd_limit": 5000 },
            { "team_id": "rich", "models": [], "max_budget": 5.0 },
            { "team_id": "guarded", "models": [], "metadata": { "guardrails": ["pii"] } },
            { "team_id": "aliased", "models": [], "litellm_model_table": { "model_aliases": "{\"gpt-4\": \"mistral\"}" } },
            { "team_id": "members", "models": [], "team_memberships": [
                { "user_id": "ada", "litellm_budget_table": { "rpm_limit": 1 } }, { "user_id": "bob", "budget_id": null } ] },
            { "team_id": "of-acme", "models": [], "organization_id": "acme" },
            { "team_id": "new", "models": [], "colour": "red" },
            { "team_id": "zero", "models": [], "rpm_limit": 0 },
        ],
        "users": [
            { "user_id": "ada", "models": ["a", "b"], "rpm_limit": 3, "spend": 4.2, "user_role": "internal_user" },
            { "user_id": "bob", "models": [], "max_budget": 1.5 },
            { "user_id": "eve", "models": [], "max_budget": 20, "budget_duration": "30d" },
            { "user_id": "gone", "models": [], "metadata": { "scim_active": false } },
        ],
        "organizations": [
            { "organization_id": "acme", "models": ["a*"], "litellm_budget_table": { "tpm_limit": null, "max_budget": null } },
            { "organization_id": "limited", "models": [], "litellm_budget_table": { "rpm_limit": 5 } },
        ],
    })
}

/// What is expected of a row.
enum Expected {
    /// It is left out, with this message.
    LeftOut(&'static str),
    /// It works, with these settings; and this message is given, if any.
    Works(Value, &'static str),
    /// It is disabled by this restriction, with this message.
    Held(&'static str, &'static str),
}

use Expected::{Held, LeftOut, Works};

fn check(rows: Vec<(Value, Expected)>) {
    for (row, expected) in rows {
        let shown = row.to_string();
        let made = key(row, &[]);
        let said: Vec<&str> = made.said.lines().filter(|line| line.contains("keys[0]")).collect();
        match expected {
            LeftOut(why) => {
                assert!(made.keys.is_empty(), "{shown}: {:?}", made.keys);
                assert!(said.len() == 1 && said[0].contains(why), "{shown}: {}", made.said);
            }
            Works(fields, note) => {
                let mut found = made.keys[0].clone();
                found.as_object_mut().expect("an object").remove("consumer");
                assert_eq!(found, fields, "{shown}: {}", made.said);
                assert_eq!(said.len(), usize::from(!note.is_empty()), "{shown}: {}", made.said);
                assert!(made.said.contains(note), "{shown}: {}", made.said);
            }
            Held(by, why) => {
                assert_eq!(made.held_by, [by], "{shown}: {}", made.said);
                assert_eq!(made.keys[0]["disabled"], true, "{shown}");
                let tells = |line: &str| line.starts_with("disabled: ") && line.contains(why);
                assert!(made.said.lines().any(tells), "{shown}: {}", made.said);
                let alive = key(serde_json::from_str(&shown).expect("JSON"), &[by]);
                assert_eq!(alive.keys[0].get("disabled"), None, "{shown}: {}", alive.said);
                // Regression: "left out" read as if the key were.
                let tells = |line: &str| line.starts_with("imported without this: ") && line.contains(why);
                assert!(alive.said.lines().any(tells), "{shown}: {}", alive.said);
            }
        }
    }
}

#[test]
fn a_key_uses_the_models_that_all_of_its_owners_allow() {
    const OF_TEAM: &str =
        "its models are those of its team, which the files do not say; add the answer to GET /team/list";
    check(vec![
        (json!({ "team_id": "t", "models": ["all-team-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": ["gpt-4o", "all-team-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": ["all-proxy-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": [] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t" }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": [], "team_models": [] }), LeftOut(OF_TEAM)),
        (json!({ "models": ["all-team-models"] }), LeftOut("those of its team, and it is in none")),
        (json!({ "project_id": "p" }), LeftOut("its models are those of its project")),
        (json!({ "access_group_ids": ["g"] }), LeftOut("its models are those of its access groups")),
        (json!({ "team_id": "t", "models": ["gpt"] }), Works(json!({ "models": ["gpt"] }), "")),
        (json!({ "team_id": "t", "team_models": ["a", "b*"] }), Works(json!({ "models": ["a", "b*"] }), "")),
        (json!({ "team_id": "known" }), Works(json!({ "models": ["llama*"] }), "")),
        (
            json!({ "team_id": "known", "models": ["all-team-models", "x"] }),
            Works(json!({ "models": ["llama*"] }), ""),
        ),
        (json!({ "team_id": "open" }), Works(json!({}), "")),
        (json!({ "team_id": "open", "models": ["a"] }), Works(json!({ "models": ["a"] }), "")),
        (
            json!({ "team_id": "known", "models": ["gpt", "llama-3"] }),
            Works(json!({ "models": ["llama-3"] }), "keys[0] x: model \"gpt\", which its team may not use"),
        ),
        (json!({ "team_id": "known", "models": ["l*"] }), Works(json!({ "models": ["llama*"] }), "")),
        (json!({ "team_id": "known", "models": ["llama-3*"] }), Works(json!({ "models": ["llama-3*"] }), "")),
        (json!({ "team_id": "known", "models": ["*a"] }), LeftOut("its team may use none of its models")),
        (
            json!({ "team_id": "known", "team_models": ["llama-3"] }),
            Works(json!({ "models": ["llama-3"] }), ""),
        ),
        (json!({ "team_id": "nested" }), LeftOut("its team's models are \"all-team-models\"")),
        (json!({ "team_id": "broken" }), LeftOut("its team's models are no list of texts")),
    ]);
}

#[test]
fn names_of_models_are_names_and_users_and_organizations_narrow_them() {
    check(vec![
        // Names are names: only * is a pattern.
        (json!({ "models": ["gpt-[34]"] }), Works(json!({ "models": [r"gpt-\[34\]"] }), "")),
        (
            json!({ "models": ["a?b", "{x,y}", r"c\d"] }),
            Works(json!({ "models": [r"a\?b", r"\{x,y\}", r"c\\d"] }), ""),
        ),
        (json!({ "models": ["openai/*"] }), Works(json!({ "models": ["openai/*"] }), "")),
        (json!({ "models": ["gpt-[34]*"] }), LeftOut("makes it a regular expression")),
        // A user's models apply without a team, an organization's always.
        (json!({ "user_id": "ada" }), Works(json!({ "models": ["a", "b"] }), "")),
        (json!({ "user_id": "ada", "models": ["a"] }), Works(json!({ "models": ["a"] }), "")),
        (json!({ "user_id": "default_user_id" }), Works(json!({}), "")),
        (
            json!({ "organization_id": "acme", "models": ["ab", "b"] }),
            Works(json!({ "models": ["ab"] }), "model \"b\""),
        ),
        (json!({ "org_id": "acme" }), Works(json!({ "models": ["a*"] }), "")),
        (json!({ "team_id": "of-acme" }), Works(json!({ "models": ["a*"] }), "")),
        (json!({ "organization_id": "unknown" }), LeftOut("its models are those of its organization")),
        // Malformed.
        (json!({ "models": [{ "x": 1 }] }), LeftOut("keys[0]: its models are no list of texts")),
        (json!({ "models": ["gpt", null] }), LeftOut("its models are no list of texts")),
        (json!({ "models": "gpt" }), LeftOut("its models are no list of texts")),
        (json!({ "models": [""] }), LeftOut("its models")),
    ]);
}

#[test]
fn an_owner_that_is_restricted_or_not_known_holds_a_key() {
    check(vec![
        // Owners that are not in the files may be blocked, or have limits.
        (
            json!({ "team_id": "unknown", "models": ["gpt"] }),
            Held("team_id", "its team \"unknown\" is not in the files"),
        ),
        (
            json!({ "user_id": "unknown", "models": ["gpt"] }),
            Held("user_id", "its user \"unknown\" is not in the files"),
        ),
        (
            json!({ "organization_id": "o", "models": ["gpt"] }),
            Held("organization_id", "add the answer to GET /organization/list"),
        ),
        (
            json!({ "team_id": "zero", "models": ["gpt"] }),
            Held("team_id", "its team \"zero\" is not in the files"),
        ),
        (json!({ "team_id": "rich" }), Works(json!({}), "")),
        (json!({ "team_id": "guarded" }), Held("guardrails", "team guarded: its metadata's guardrails")),
        (json!({ "team_id": "new" }), Held("colour", "team new: its colour: Modelgate does not know it")),
        (json!({ "user_id": "bob" }), Works(json!({}), "")),
        // Regression: the user's budget was dropped without a word.
        (
            json!({ "user_id": "bob", "team_id": "open" }),
            Works(
                json!({}),
                "its user's max_budget (budget_total: 1.5), which applies only to keys without a team",
            ),
        ),
        (
            json!({ "user_id": "eve", "team_id": "open" }),
            Works(json!({}), "its user's max_budget (budget_per_month: 20)"),
        ),
        (
            json!({ "user_id": "ada", "team_id": "open" }),
            Held("user_limit", "limits of its user over keys of several"),
        ),
        (json!({ "user_id": "gone", "team_id": "open" }), Held("scim_active", "its user is not active")),
        (
            json!({ "user_id": "bob", "team_id": "members" }),
            Works(json!({}), "its user's max_budget (budget_total: 1.5)"),
        ),
        (
            json!({ "organization_id": "limited" }),
            Held("rpm_limit", "organization limited: its budget's rpm_limit"),
        ),
    ]);
}

#[test]
fn what_restricts_a_key_itself_holds_it() {
    check(vec![
        (json!({ "max_budget": 10.0 }), Works(json!({ "limit": { "budget_total": 10 } }), "")),
        (
            json!({ "max_budget": 0.25, "budget_duration": "30d", "spend": 0.1, "budget_reset_at": "2026-12-01T00:00:00Z" }),
            Works(
                json!({ "limit": { "budget_per_month": 0.25 } }),
                "its max_budget begins anew at \
                 2026-12-01T00:00:00Z there, and with the calendar of time_zone here",
            ),
        ),
        (
            json!({ "max_budget": 3, "litellm_budget_table": { "max_budget": 2.5, "budget_duration": "7d" } }),
            Works(json!({ "limit": { "budget_per_week": 2.5, "budget_total": 3 } }), ""),
        ),
        (json!({ "max_budget": 0 }), Held("max_budget", "its max_budget is 0, so nothing may be spent")),
        (json!({ "max_budget": -1.0 }), Held("max_budget", "its max_budget (-1.0) is no amount from 0")),
        (
            json!({ "max_budget": 5, "budget_duration": "90d" }),
            Held("max_budget", "its max_budget begins anew every 90d; here a budget is of a day"),
        ),
        (json!({ "team_max_budget": 5 }), Held("team_max_budget", "a budget that is not taken over")),
        (json!({ "model_max_budget": { "gpt": 1 } }), Held("model_max_budget", "its model_max_budget")),
        (
            json!({ "litellm_budget_table": { "max_budget": 2.5, "budget_duration": "2mo" } }),
            Held("max_budget", "its budget's max_budget begins anew every 2mo"),
        ),
        (
            json!({ "litellm_budget_table": { "max_parallel_requests": 2 } }),
            Held("max_parallel_requests", "parallel requests"),
        ),
        (
            json!({ "budget_id": "b" }),
            Held("budget_id", "the limits of its budget, which the files do not say"),
        ),
        (
            json!({ "metadata": { "model_rpm_limit": { "llama": 5 } } }),
            Held("model_rpm_limit", "its metadata's model_rpm_limit"),
        ),
        (
            json!({ "metadata": "{\"guardrails\": [\"pii\"]}" }),
            Held("guardrails", "its metadata's guardrails"),
        ),
        (
            json!({ "team_metadata": { "policies": ["p"] } }),
            Held("policies", "its team's metadata's policies"),
        ),
        (
            json!({ "router_settings": { "model_group_alias": { "a": "b" } } }),
            Held("router_settings", "which models stand for"),
        ),
        (json!({ "object_permission_id": "o" }), Held("object_permission_id", "not in the files")),
        (
            json!({ "object_permission": { "object_permission_id": "o", "vector_stores": ["v"] } }),
            Held("vector_stores", "vector stores"),
        ),
        (json!({ "agent_id": "a" }), Held("agent_id", "its agent_id")),
        (
            json!({ "some_new_limit": 3 }),
            Held("some_new_limit", "its some_new_limit: Modelgate does not know it"),
        ),
        (json!({ "a\n b": [7] }), Held("\"a\\n b\"", "its \"a\\n b\": Modelgate does not know it")),
    ]);
}

#[test]
fn paths_of_a_key_and_models_that_stand_for_others_hold_it() {
    check(vec![
        (
            json!({ "allowed_routes": ["/v1/chat/completions"] }),
            Held(
                "allowed_routes",
                "its allowed_routes [\"/v1/chat/completions\"]; here it may use its models by all paths",
            ),
        ),
        (json!({ "allowed_routes": ["info_routes"] }), LeftOut("are none by which a model is used")),
        (json!({ "allowed_routes": [1] }), LeftOut("its allowed_routes are no list of texts")),
        (json!({ "key_type": "management" }), LeftOut("its key_type is \"management\"")),
        (json!({ "allowed_routes": ["llm_api_routes"], "key_type": "llm_api" }), Works(json!({}), "")),
        // Aliases, which mean another model.
        (
            json!({ "aliases": { "gpt-4": "mistral" } }),
            Held("aliases", "its aliases \"gpt-4\": they stand for other models"),
        ),
        (json!({ "models": ["gpt*"], "aliases": { "gpt-4": "mistral" } }), Held("aliases", "its aliases")),
        (json!({ "team_id": "aliased" }), Held("aliases", "its aliases \"gpt-4\"")),
        (
            json!({ "models": ["gpt-4", "mistral"], "aliases": { "gpt-4": "mistral" } }),
            Works(json!({ "models": ["mistral"] }), "not among its models"),
        ),
        (
            json!({ "models": ["gpt-4"], "team_model_aliases": { "gpt-4": "mistral" } }),
            LeftOut("its models are all aliases: \"gpt-4\""),
        ),
        (
            json!({ "models": ["gpt-4"], "aliases": { "gpt-4": "gpt-4" } }),
            Works(json!({ "models": ["gpt-4"] }), ""),
        ),
    ]);
}

#[test]
fn limits_and_the_end_of_a_key_are_taken_over() {
    check(vec![
        (
            json!({ "litellm_budget_table": { "rpm_limit": 5, "tpm_limit": 100 } }),
            Works(json!({ "limit": { "requests_per_minute": 5, "tokens_per_minute": 100 } }), ""),
        ),
        (
            json!({ "rpm_limit": 3, "tpm_limit": 200, "tpd_limit": 9, "litellm_budget_table": { "rpm_limit": 5, "tpm_limit": 100 } }),
            Works(
                json!({ "limit": { "requests_per_minute": 3, "tokens_per_minute": 100, "tokens_per_day": 9 } }),
                "",
            ),
        ),
        (
            json!({ "tpm_limit": 9_223_372_036_854_775_807_u64 }),
            Works(json!({ "limit": { "tokens_per_minute": 60_000_000 } }), "more than can be written"),
        ),
        (json!({ "rpm_limit": 0 }), LeftOut("its rpm_limit is 0")),
        (json!({ "rpm_limit": "5" }), LeftOut("its rpm_limit is no whole number")),
        (json!({ "litellm_budget_table": { "rpm_limit": 0 } }), LeftOut("its budget's rpm_limit is 0")),
        (json!({ "litellm_budget_table": [] }), LeftOut("its litellm_budget_table is no object")),
        // Blocked or not.
        (
            json!({ "blocked": true }),
            Works(json!({ "disabled": true }), "disabled: keys[0] x: it is blocked there"),
        ),
        (
            json!({ "team_blocked": true }),
            Works(json!({ "disabled": true }), "disabled: keys[0] x: its team is blocked there"),
        ),
        (
            json!({ "team_id": "blocked" }),
            Works(json!({}), "disabled: keys[0] x: its team \"blocked\" is blocked there"),
        ),
        (json!({ "blocked": "yes" }), LeftOut("its blocked is neither true nor false")),
        (json!({ "deleted_at": "2026-01-01T00:00:00Z" }), LeftOut("it is deleted")),
        (json!({ "status": "deleted" }), LeftOut("it is deleted")),
        (
            json!({ "expires": "2020-01-01T00:00:00" }),
            Works(json!({ "expires": "2020-01-01T00:00:00Z" }), ""),
        ),
        (json!({ "expires": 1_700_000_000 }), LeftOut("its expires is no text")),
        (json!({ "team_id": 7 }), LeftOut("its team_id is no text")),
        // Reported, but harmless.
        (
            json!({ "soft_budget": 20 }),
            Works(json!({}), "imported without this: keys[0] x: its soft_budget: it warns"),
        ),
        (json!({ "auto_rotate": true }), Works(json!({}), "its auto_rotate: LiteLLM replaces the key")),
        (
            json!({ "metadata": { "cost_center": "1234-secret" } }),
            Works(json!({}), "its metadata's cost_center: it is not taken over"),
        ),
        // LiteLLM's defaults, and fields without effect.
        (
            json!({ "models": [], "aliases": {}, "config": {}, "allowed_routes": [], "litellm_budget_table": null, "budget_id": null,
                    "metadata": {}, "max_budget": null, "model_max_budget": {}, "team_models": [], "team_id": null,
                    "blocked": null, "team_blocked": false, "policies": [], "organization_id": null, "budget_limits": null,
                    "router_settings": "{}", "object_permission": { "mcp_servers": ["m"], "vector_stores": [] },
                    "spend": 0.42, "rotation_count": 0, "created_by": "default_user_id", "key_name": "sk-...abcd" }),
            Works(json!({}), ""),
        ),
    ]);
}

#[test]
fn owners_have_their_limits_and_stay_distinct() {
    let consumer = |row: Value| key(row, &[]).consumers;
    assert_eq!(consumer(json!({ "team_id": "open" })), [] as [Value; 0], "nothing is said of it");
    assert_eq!(consumer(json!({ "team_id": "blocked" })), [json!({ "name": "blocked", "disabled": true })]);
    let limited = json!({ "requests_per_minute": 7, "tokens_per_minute": 900, "tokens_per_day": 5000 });
    assert_eq!(consumer(json!({ "team_id": "limited" })), [json!({ "name": "limited", "limit": limited })]);
    // The row's own copy differs: the smaller limits apply.
    let smaller = json!({ "requests_per_minute": 5, "tokens_per_minute": 900, "tokens_per_day": 5000 });
    let row = json!({ "team_id": "limited", "team_rpm_limit": 5, "team_tpm_limit": 1000 });
    assert_eq!(consumer(row), [json!({ "name": "limited", "limit": smaller })]);
    assert_eq!(
        consumer(json!({ "user_id": "ada" })),
        [json!({ "name": "ada", "limit": { "requests_per_minute": 3 } })]
    );
    assert_eq!(consumer(json!({ "user_id": "gone" })), [json!({ "name": "gone", "disabled": true })]);

    let row =
        |i: u32, user: &str| json!({ "token": KeyDigest::of(&i.to_string()).to_hex(), "user_id": user });
    let team =
        |i: u32, team: &str| json!({ "token": KeyDigest::of(&i.to_string()).to_hex(), "team_id": team });
    let answer = json!({
        "keys": [row(1, "Ада"), row(2, "Яна"), row(3, "李雷"), row(4, "Ада"), row(5, "ops"), team(6, "1"), team(7, "2")],
        "users": [{ "user_id": "Ада", "models": [] }, { "user_id": "Яна", "models": [] }, { "user_id": "李雷", "models": [] },
                  { "user_id": "ops", "models": [], "rpm_limit": 2 }],
        "teams": [{ "team_id": "1", "team_alias": "ops", "models": [], "rpm_limit": 3 }, { "team_id": "2", "team_alias": "ops", "models": [] }],
    });
    let made = made(read(&[source(&answer)]).expect("an answer"), &[]);
    let owner = |i: usize| made.keys[i]["consumer"].as_str().expect("a name");
    let distinct: std::collections::BTreeSet<&str> = (0..7).map(owner).collect();
    assert_eq!((owner(0), distinct.len()), (owner(3), 6), "{:?}", made.keys);
    let notes: Vec<&Value> = made.consumers.iter().filter_map(|consumer| consumer.get("note")).collect();
    assert!(notes.contains(&&json!("李雷")), "{:?}", made.consumers);
}

#[test]
fn each_of_litellms_answers_is_read() {
    let row =
        json!({ "token": token(), "key_alias": "x", "team_id": "t", "user_id": "u", "organization_id": "o" });
    let bare = {
        let mut row = row.clone();
        row.as_object_mut().expect("an object").remove("token");
        row
    };
    let keys = [
        json!({ "keys": [row], "total_count": 1, "current_page": 1, "total_pages": 1 }),
        json!([row]),
        row.clone(),
        json!({ "key": "sk-x", "info": bare }),
        json!({ "key": token(), "info": bare }),
        json!({ "team_id": "t", "team_info": { "team_id": "t", "models": [] }, "keys": [row], "team_memberships": [] }),
    ];
    let teams = [
        json!([{ "team_id": "t", "models": [], "members_with_roles": [], "rpm_limit": 7, "keys": [row], "team_memberships": [] }]),
        json!({ "teams": [{ "team_id": "t", "models": [], "rpm_limit": 7 }], "total": 1, "page": 1, "page_size": 10, "total_pages": 1 }),
        json!({ "team_id": "t", "team_info": { "team_id": "t", "models": [], "rpm_limit": 7 }, "keys": [row], "team_memberships": [] }),
    ];
    let users = [
        json!({ "users": [{ "user_id": "u", "models": [] }], "total": 1, "page": 1, "page_size": 25, "total_pages": 1 }),
        json!({ "user_id": "u", "user_info": { "models": [] }, "keys": [], "teams": [] }),
        json!({ "user_id": "u", "user_email": null, "models": [] }),
    ];
    let organizations = [
        json!([{ "organization_id": "o", "organization_alias": "O", "models": [], "budget_id": "b",
                 "litellm_budget_table": { "budget_id": "b", "max_budget": null }, "members": [], "teams": [] }]),
        json!({ "organizations": [{ "organization_id": "o", "models": [] }] }),
    ];
    for (i, of_keys) in keys.iter().enumerate() {
        let sources = [&teams[i % 3], &users[i % 3], of_keys, &organizations[i % 2]].map(source);
        let made = made(read(&sources).expect("answers"), &[]);
        assert_eq!(made.keys, [json!({ "consumer": "t" })], "{i}: {}", made.said);
        assert_eq!(
            made.consumers,
            [json!({ "name": "t", "limit": { "requests_per_minute": 7 } })],
            "{i}: {}",
            made.said
        );
    }
}

#[test]
fn what_is_none_of_litellms_answers_is_refused() {
    for (text, why) in [
        ("{", "it is not JSON"),
        ("{}", "it has no list of keys"),
        ("7", "it has no list of keys"),
        (r#"{"keys": 7}"#, "its keys are no list"),
        (r#"{"keys": [], "teams": [7]}"#, "teams[0] is no object"),
        (r#"{"teams": []}"#, "it has no list of keys"),
    ] {
        let refused = read(&[source(text)]).expect_err(text);
        assert!(refused.contains(why), "{text}: {refused}");
    }
    let odd =
        made(read(&[source(&json!({ "keys": [], "total_count": 9, "teem": [] }))]).expect("an answer"), &[]);
    assert!(
        odd.said.contains("teem: Modelgate does not know it") && odd.said.contains("they have 0 of 9 keys"),
        "{}",
        odd.said
    );
}

/// Regression: users and teams without keys were left out without a word, a key that its team disabled was not named, and neither was a
/// consumer of another name.
#[test]
fn what_has_no_key_or_another_name_is_said_and_so_is_each_key_that_is_disabled() {
    let users: Vec<Value> =
        (0..12).map(|i| json!({ "user_id": format!("user-{i}"), "max_budget": 25 })).collect();
    let answer = json!({
        "keys": [
            { "token": token(), "key_alias": "x", "team_id": "1", "user_id": "user-3" },
            { "token": "in-clear", "user_id": "user-4" },
        ],
        "teams": [
            { "team_id": "1", "team_alias": "T One", "models": [], "metadata": { "guardrails": ["pii"] } },
            { "team_id": "2", "team_alias": "Lonely", "models": [] },
        ],
    });
    let sources =
        |answer: &Value| [source(answer), source(&json!({ "users": users, "total": 40, "page": 1 }))];
    let made = made(read(&sources(&answer)).expect("an answer"), &[]);
    let lines: Vec<&str> = made.said.lines().collect();
    let name = made.keys[0]["consumer"].as_str().expect("a name");
    assert!(name.starts_with("T-One-"), "{name}");
    for line in [
        "left out: 10 users without keys: user-0, user-1, user-2, user-5, user-6, user-7, user-8, user-9, user-10, user-11",
        "left out: 1 team without keys: Lonely",
        "disabled: keys[0] x: its team \"T One\" is restricted by guardrails",
        &format!("differs: team T One: its consumer is called {name} here"),
        "left out: the files: they have 12 of 40 users; ask for each page, and import all of them",
    ] {
        assert!(lines.contains(&line), "{line}: {}", made.said);
    }
    let mut alone = answer;
    alone["keys"] = json!([]);
    let made = self::made(read(&sources(&alone)).expect("an answer"), &[]);
    let named = "left out: 12 users without keys: user-0, user-1, user-2, user-3, user-4, user-5, user-6, user-7, user-8, user-9, …";
    assert!(made.said.lines().any(|line| line == named), "{}", made.said);
}

/// If two answers contain the same API key, the narrower values apply.
#[test]
fn a_key_that_comes_twice_is_blocked_if_one_says_so() {
    let rows = json!({ "keys": [{ "token": token() }, { "token": token(), "blocked": true }, { "token": token(), "model_max_budget": { "a": 1 } }] });
    let made = made(read(&[source(&rows)]).expect("an answer"), &["model_max_budget"]);
    assert_eq!(made.keys, [json!({ "consumer": "litellm", "disabled": true })], "{}", made.said);
}
