//! Keys of other gateways, imported: they go on working, and what cannot be taken over is named.

use std::{fs, process::Output};

use serde_json::json;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let output: Output = command.current_dir(self.0.path()).args(arguments).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Whose a key is, in a configuration made of what was imported; nobody's if it is refused.
    fn owner(&self, key: &str) -> Option<String> {
        let authorization = format!("Authorization: Bearer {key}");
        let request =
            ["explain", "request", "-H", &authorization, "-d", r#"{"model":"x"}"#, "/v1/chat/completions"];
        let (status, text, stderr) = self.run(&request);
        assert_eq!(status, Some(0), "{stderr}");
        let consumer = text.split("of consumer \"").nth(1)?;
        consumer.split('"').next().map(str::to_owned)
    }

    /// Puts what was imported in force and checks it.
    fn put_in_force(&self, yaml: &str) {
        self.write("modelgate.yaml", &format!("docker: {{ enabled: false }}\n{yaml}"));
        let (status, _, stderr) = self.run(&["check"]);
        assert_eq!(status, Some(0), "{stderr}");
    }
}

#[test]
fn kongs_consumers() {
    let folder = Folder::new();
    folder.write("kong.yml", include_str!("import/kong.yml"));
    let (status, yaml, told) = folder.run(&["keys", "import", "--from", "kong", "kong.yml"]);
    assert_eq!(status, Some(0), "{told}");
    folder.put_in_force(&yaml);
    for (key, owner) in [
        ("prod-api-key-here", Some("production-app")),
        ("prod-api-key-two", Some("production-app")),
        ("ds-key", Some("team-data-science")),
        ("late-key", Some("late")),
        ("slow-key", Some("slow")),
        ("nobodys-key", None),
    ] {
        assert_eq!(folder.owner(key).as_deref(), owner, "{key}");
    }
    assert!(yaml.contains("requests_per_second: 5") && yaml.contains("requests_per_hour: 1000"), "{yaml}");
    assert!(yaml.contains("requests_per_hour: 9"), "a plugin that names its consumer: {yaml}");
    assert!(!yaml.contains("requests_per_month"), "a plugin that is turned off: {yaml}");
    for part in [
        "consumers[1].keyauth_credentials[0]",
        "consumers[2] nobody",
        "consumers[3]",
        "key production-app-3: another one is the same API key",
        "keyauth_credentials[2]: it names no consumer",
        "service llm-inference",
        "route chat: its rate-limiting",
        "plugins: its rate-limiting",
        "consumers[4] team data science: its limits: another consumer is called \"team-data-science\" here",
        "consumers[4] team data science: its groups",
        "consumers[4] team data science: its plugin acl",
        "consumers[4].keyauth_credentials[0]: its ttl",
        "consumers[4].keyauth_credentials[1]: its key stands elsewhere",
        "consumers[5] slow: its limit per minute, which is not 1 to",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for text in [&yaml, &told] {
        assert!(
            !text.contains("api-key-here") && !text.contains("ds-key") && !text.contains("blank"),
            "{text}"
        );
    }
}

#[test]
fn litellms_keys() {
    let hash = |key: &str| access::KeyDigest::of(key).to_hex();
    let list = json!({ "keys": [
        { "token": hash("sk-one"), "key_name": "sk-...-one", "key_alias": "one", "team_id": "research", "models": ["llama*"],
          "rpm_limit": 60, "tpm_limit": 20000, "expires": "2099-01-01T00:00:00+00:00", "blocked": null, "spend": 0.5 },
        { "token": hash("sk-two"), "key_alias": null, "user_id": "default_user_id", "models": ["all-proxy-models"],
          "max_budget": 10.0 },
        { "token": hash("sk-three"), "key_alias": "one", "team_id": "research", "models": ["qwen"], "blocked": true },
        { "token": "sk-in-clear", "key_alias": "broken" },
        { "key_alias": "tokenless" },
        { "token": hash("sk-four"), "expires": "soon" },
        "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        { "token": hash("sk-zero"), "key_alias": "zero", "rpm_limit": 0 },
        { "token": hash("sk-rich"), "key_alias": "rich", "tpm_limit": 9_223_372_036_854_775_807_u64,
          "metadata": { "model_rpm_limit": { "llama": 5 }, "model_tpm_limit": {} } },
    ], "total_count": 25, "current_page": 1, "total_pages": 3 });
    let folder = Folder::new();
    folder.write("keys.json", &list.to_string());
    let (status, yaml, told) = folder.run(&["keys", "import", "--from", "litellm", "keys.json"]);
    assert_eq!(status, Some(0), "{told}");
    folder.put_in_force(&yaml);
    for (key, owner) in [
        ("sk-one", Some("research")),
        ("sk-two", Some("default_user_id")),
        ("sk-three", None),
        ("sk-four", None),
        ("sk-in-clear", None),
        ("sk-zero", None),
        ("sk-rich", Some("litellm")),
    ] {
        assert_eq!(folder.owner(key).as_deref(), owner, "{key}: {yaml}");
    }
    for part in [
        "name: one-2",
        "disabled: true",
        "requests_per_minute: 60",
        "tokens_per_minute: 20000",
        "2099-01-01T00:00:00Z",
    ] {
        assert!(yaml.contains(part), "{part}: {yaml}");
    }
    for part in [
        "keys[1] default_user_id: its budget",
        "keys[1] default_user_id: what its user may use, which the list does not say; it may use all models",
        "what LiteLLM sets for teams, users and organizations themselves, which the list does not say",
        "keys[3]",
        "keys[4]: it has no token",
        "keys[5]: its expiry",
        "keys[6]",
        "keys[7]: its rpm_limit is 0",
        "keys[8] rich: its tpm_limit, which is not 1 to",
        "keys[8] rich: its model_rpm_limit",
        "the file has 9 of 25 keys",
        "keys: 4; append",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!yaml.contains("sk-") && !told.contains("sk-in-clear"), "{yaml}{told}");
}

/// What a key's row has, beside its token and its alias `x`.
#[derive(Debug)]
enum Expected {
    /// It is left out, and that is said of it.
    LeftOut(&'static str),
    /// It is imported so: a part of the lines, and of what is said; nothing is said if that is empty.
    Imported(&'static str, &'static str),
}

/// Each of these got all models, or no limit, and nobody was told.
#[test]
fn no_key_of_litellms_gets_wider_rights_without_a_word() {
    use Expected::{Imported, LeftOut};
    const OF_TEAM: &str =
        "keys[0]: its models are those of its team, which the list does not say; write them";
    // Nothing after it: no models, no limit.
    const ALL: &str = "sha256: HASH\n\n";
    for (row, expected) in [
        (json!({ "team_id": "t", "models": ["all-team-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": ["gpt-4o", "all-team-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": ["all-proxy-models"] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": [] }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t" }), LeftOut(OF_TEAM)),
        (json!({ "team_id": "t", "models": [], "team_models": [] }), LeftOut(OF_TEAM)),
        (
            json!({ "models": ["all-team-models"] }),
            LeftOut("its models are those of its team, and it is in none"),
        ),
        (json!({ "organization_id": "o" }), LeftOut("its models are those of its organization")),
        (json!({ "project_id": "p" }), LeftOut("its models are those of its project")),
        (json!({ "access_group_ids": ["g"] }), LeftOut("its models are those of its access groups")),
        // The team's list.
        (json!({ "team_id": "t", "team_models": ["a", "b*"] }), Imported("models:\n  - a\n  - b*\n", "")),
        (json!({ "team_id": "known" }), Imported("models:\n  - llama*\n", "")),
        (
            json!({ "team_id": "known", "models": ["all-team-models", "x"] }),
            Imported("models:\n  - llama*\n", ""),
        ),
        (json!({ "team_id": "open" }), Imported(ALL, "")),
        (json!({ "team_id": "open", "models": ["a"] }), Imported("models:\n  - a\n", "")),
        (
            json!({ "team_id": "known", "models": ["gpt", "llama-3"] }),
            Imported("models:\n  - llama-3\n", "keys[0] x: model \"gpt\", which its team may not use"),
        ),
        (json!({ "team_id": "known", "models": ["gpt"] }), LeftOut("its team may use none of its models")),
        (json!({ "team_id": "nested" }), LeftOut("its team's models are \"all-team-models\"")),
        (json!({ "team_id": "broken" }), LeftOut("its team's models are no list of texts")),
        (json!({ "team_id": "unknown", "models": ["gpt"] }), Imported("models:\n  - gpt\n", "")),
        // Malformed.
        (json!({ "models": [{ "x": 1 }] }), LeftOut("keys[0]: its models are no list of texts")),
        (json!({ "models": ["gpt", null] }), LeftOut("its models are no list of texts")),
        (json!({ "models": "gpt" }), LeftOut("its models are no list of texts")),
        (json!({ "models": [""] }), LeftOut("its models")),
        (json!({ "team_id": 7 }), LeftOut("its team_id is no text")),
        (json!({ "expires": 1_700_000_000 }), LeftOut("its expires is no text")),
        (json!({ "blocked": "yes" }), LeftOut("its blocked is neither true nor false")),
        (json!({ "rpm_limit": "5" }), LeftOut("its rpm_limit is no whole number")),
        (json!({ "litellm_budget_table": [] }), LeftOut("its litellm_budget_table is no object")),
        // Paths.
        (json!({ "allowed_routes": ["info_routes"] }), LeftOut("are none by which a model is used")),
        (json!({ "allowed_routes": ["management_routes", "/key/info"] }), LeftOut("are none by which")),
        (json!({ "allowed_routes": [1] }), LeftOut("its allowed_routes are no list of texts")),
        (json!({ "allowed_routes": ["llm_api_routes"] }), Imported(ALL, "")),
        (
            json!({ "allowed_routes": ["/v1/chat/completions"] }),
            Imported(
                ALL,
                "keys[0] x: its allowed_routes [\"/v1/chat/completions\"]; it may use its models by all",
            ),
        ),
        // Limits.
        (
            json!({ "litellm_budget_table": { "rpm_limit": 5, "tpm_limit": 100 } }),
            Imported("limit:\n    requests_per_minute: 5\n    tokens_per_minute: 100\n", ""),
        ),
        (
            json!({ "rpm_limit": 3, "tpm_limit": 200, "litellm_budget_table": { "rpm_limit": 5, "tpm_limit": 100 } }),
            Imported("limit:\n    requests_per_minute: 3\n    tokens_per_minute: 100\n", ""),
        ),
        (json!({ "litellm_budget_table": { "rpm_limit": 0 } }), LeftOut("its budget's rpm_limit is 0")),
        (json!({ "budget_id": "b" }), Imported(ALL, "the limits of its budget (budget_id), which the list")),
        (
            json!({ "litellm_budget_table": { "max_parallel_requests": 2 } }),
            Imported(ALL, "keys[0] x: its parallel requests"),
        ),
        (json!({ "litellm_budget_table": { "max_budget": 2.5 } }), Imported(ALL, "keys[0] x: its budget;")),
        (json!({ "model_max_budget": { "gpt": 1 } }), Imported(ALL, "keys[0] x: its budget per model")),
        (json!({ "team_rpm_limit": 5 }), Imported(ALL, "keys[0] x: its team's rpm_limit")),
        (json!({ "metadata": { "guardrails": ["pii"] } }), Imported(ALL, "keys[0] x: its guardrails")),
        (json!({ "team_blocked": true }), Imported("disabled: true\n", "")),
        // What LiteLLM writes where nothing is set.
        (
            json!({ "models": [], "allowed_routes": [], "litellm_budget_table": null, "budget_id": null, "metadata": {},
                    "max_budget": null, "model_max_budget": {}, "team_models": [], "team_id": null, "blocked": null,
                    "team_blocked": false, "policies": [], "organization_id": null, "budget_limits": null }),
            Imported(ALL, ""),
        ),
    ] {
        let (token, shown) = (access::KeyDigest::of("sk-x").to_hex(), row.to_string());
        let mut row = row;
        row["token"] = token.as_str().into();
        row["key_alias"] = "x".into();
        let list = json!({ "keys": [row], "teams": [
            { "team_id": "known", "models": ["llama*"] }, { "team_id": "open", "models": [] },
            { "team_id": "nested", "models": ["all-team-models"] }, { "team_id": "broken", "models": [1] },
            { "team_id": "t" }, { "team_id": "t", "models": null },
        ] });
        let folder = Folder::new();
        folder.write("ll.json", &list.to_string());
        let (status, yaml, told) = folder.run(&["keys", "import", "--from", "litellm", "ll.json"]);
        assert_eq!(status, Some(0), "{shown}: {told}");
        let said: Vec<&str> = told.lines().filter(|line| line.starts_with("left out: keys[0]")).collect();
        match expected {
            LeftOut(why) => {
                assert!(yaml.contains("keys: []"), "{shown}: {yaml}");
                assert!(said.len() == 1 && said[0].contains(why), "{shown}: {told}");
            }
            Imported(part, note) => {
                let part = part.replace("HASH", &token);
                assert!(format!("{yaml}\n").contains(&part), "{shown}: {yaml}");
                assert_eq!(yaml.contains("models:"), part.contains("models:"), "{shown}: {yaml}");
                assert_eq!(said.len(), usize::from(!note.is_empty()), "{shown}: {told}");
                assert!(told.contains(note), "{shown}: {told}");
                folder.put_in_force(&yaml);
            }
        }
    }
}

/// Access control lists and `enabled: false` were dropped, and the keys worked for everything.
#[test]
fn a_key_that_kong_does_not_let_everywhere_is_taken_over_disabled() {
    let folder = Folder::new();
    folder.write("kong.yml", include_str!("import/acls.yml"));
    let (status, yaml, told) = folder.run(&["keys", "import", "--from", "kong", "kong.yml"]);
    assert_eq!(status, Some(0), "{told}");
    folder.put_in_force(&yaml);
    for (key, works) in [
        ("listed-key", false),
        ("listed-elsewhere-key", false),
        ("referred-key", false),
        ("off-key", false),
        ("off-key-elsewhere", false),
        ("half-key", true),
        ("half-off-key", false),
        ("odd-key", false),
        ("plain-key", true),
    ] {
        assert_eq!(folder.owner(key).is_some(), works, "{key}: {yaml}");
    }
    for part in [
        "consumers[0] listed: its acls",
        "consumers[1] listed-elsewhere: its acls",
        "consumers[2] referred: its acls",
        "consumers[3] off: it is not enabled; its keys are taken over disabled",
        "consumers[3] off: its acls",
        "consumers[4].keyauth_credentials[1]: it is not enabled; the key is taken over disabled",
        "consumers[4].keyauth_credentials[2]: it is not enabled",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("consumers[5]"), "nothing is dropped of it: {told}");
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let folder = Folder::new();
    folder.write("x.json", "{}");
    for (from, message) in [("kong", "no list of consumers"), ("litellm", "no list of keys")] {
        let (status, yaml, told) = folder.run(&["keys", "import", "--from", from, "x.json"]);
        assert_eq!((status, yaml.as_str()), (Some(1), ""));
        assert!(told.contains("x.json") && told.contains(message), "{told}");
    }
}
