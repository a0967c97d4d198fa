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
        ("ds-key", Some("team/data-science-da60f23ba076")),
        ("late-key", None),
        ("slow-key", None),
        ("nobodys-key", None),
    ] {
        assert_eq!(folder.owner(key).as_deref(), owner, "{key}");
    }
    assert!(yaml.contains("requests_per_second: 5") && yaml.contains("requests_per_hour: 1000"), "{yaml}");
    assert!(yaml.contains("requests_per_hour: 9"), "a plugin that names its consumer: {yaml}");
    assert!(!yaml.contains("requests_per_month"), "a plugin that is turned off: {yaml}");
    assert!(yaml.contains("  note: team/data science\n"), "what it is called elsewhere: {yaml}");
    for part in [
        "left out: consumers[1].keyauth_credentials[0]: its key is not a text",
        "left out: consumers[2] nobody: it has no keyauth_credentials",
        "left out: consumers[3]: it has neither username nor custom_id",
        "left out: key production-app-3: another one is the same API key",
        "left out: keyauth_credentials[2]: it names no consumer",
        "disabled: consumer late: the file has its keys, and does not have the consumer",
        "differs: service llm-inference: its rate-limiting is taken over as the limit of each consumer that has none",
        "route chat: its rate-limiting",
        "plugins: its rate-limiting",
        "disabled: consumers[4] team data science: its group \"gold\", which the file does not have",
        "disabled: consumers[4] team data science: its plugin acl",
        "differs: consumers[4].keyauth_credentials[0]: its ttl counts from when the file was written: the key expires 2",
        "left out: consumers[4].keyauth_credentials[1]: its key stands elsewhere",
        "disabled: consumers[5] slow: its rate-limiting: its limit per minute, which is not 1 or more",
        "keys disabled by rate-limiting: 1; --without rate-limiting takes them over as if it were not there",
        "left out: key-auth: keys in a query",
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

/// A page of LiteLLM's keys, of which not all can be taken over.
fn litellms_list() -> serde_json::Value {
    let hash = |key: &str| access::KeyDigest::of(key).to_hex();
    json!({ "keys": [
        { "token": hash("sk-one"), "key_name": "sk-...-one", "key_alias": "one", "team_id": "research", "models": ["llama*"],
          "rpm_limit": 60, "tpm_limit": 20000, "expires": "2099-01-01T00:00:00+00:00", "blocked": null, "spend": 0.5 },
        { "token": hash("sk-two"), "key_alias": null, "user_id": "default_user_id", "models": ["all-proxy-models"],
          "max_budget": 10.0, "budget_duration": "90d" },
        { "token": hash("sk-three"), "key_alias": "one", "team_id": "research", "models": ["qwen"], "blocked": true },
        { "token": "sk-in-clear", "key_alias": "broken" },
        { "key_alias": "tokenless" },
        { "token": hash("sk-four"), "expires": "soon" },
        "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        { "token": hash("sk-zero"), "key_alias": "zero", "rpm_limit": 0 },
        { "token": hash("sk-rich"), "key_alias": "rich", "tpm_limit": 9_223_372_036_854_775_807_u64,
          "metadata": { "model_rpm_limit": { "llama": 5 }, "model_tpm_limit": {} } },
    ], "total_count": 25, "current_page": 1, "total_pages": 3 })
}

#[test]
fn litellms_keys() {
    let folder = Folder::new();
    folder.write("keys.json", &litellms_list().to_string());
    folder.write(
        "teams.json",
        &json!([{ "team_id": "research", "models": [], "members_with_roles": [], "rpm_limit": 90 }])
            .to_string(),
    );
    let from_files = ["keys", "import", "--from", "litellm", "keys.json", "teams.json"];
    let (status, yaml, told) = folder.run(&from_files);
    assert_eq!(status, Some(0), "{told}");
    folder.put_in_force(&yaml);
    for (key, owner) in [
        ("sk-one", Some("research")),
        ("sk-two", None),
        ("sk-three", None),
        ("sk-four", None),
        ("sk-in-clear", None),
        ("sk-zero", None),
        ("sk-rich", None),
    ] {
        assert_eq!(folder.owner(key).as_deref(), owner, "{key}: {yaml}");
    }
    for part in [
        "name: one-2",
        "disabled: true",
        "requests_per_minute: 60",
        "requests_per_minute: 90",
        "tokens_per_minute: 20000",
        "2099-01-01T00:00:00Z",
    ] {
        assert!(yaml.contains(part), "{part}: {yaml}");
    }
    for part in [
        "disabled: keys.json: keys[1] default_user_id: its max_budget begins anew every 90d",
        "left out: keys.json: keys[3]: its token is not a SHA-256 digest",
        "keys[4]: it has no token",
        "keys[5]: its expiry",
        "keys[6]: only its token is there",
        "keys[7]: its rpm_limit is 0",
        "differs: keys.json: keys[8] rich: its tpm_limit, which is more than can be written",
        "disabled: keys.json: keys[8] rich: its metadata's model_rpm_limit",
        "they have 9 of 25 keys",
        "keys: 4; append",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // The operator does without the budgets.
    let (_, yaml_without, told) =
        folder.run(&[&from_files[..], &["--without", "max_budget,colour"]].concat());
    folder.put_in_force(&yaml_without);
    assert_eq!(folder.owner("sk-two").as_deref(), Some("default_user_id"), "{yaml_without}");
    assert_eq!(folder.owner("sk-rich"), None, "its limits per model hold it still");
    assert!(told.contains("--without colour: nothing here is restricted by that"), "{told}");
    assert!(
        told.contains("imported without this: keys.json: keys[1] default_user_id: its max_budget"),
        "{told}"
    );
    assert!(!yaml.contains("sk-") && !told.contains("sk-in-clear"), "{yaml}{told}");
}

/// Kong's clients send their key in the header `apikey`, unless `key_names` says otherwise.
#[test]
fn kongs_clients_go_on_sending_their_keys_where_they_did() {
    let folder = Folder::new();
    folder.write("kong.yml", "consumers: [{ username: red, keyauth_credentials: [{ key: red-key }] }]");
    let (status, yaml, told) = folder.run(&["keys", "import", "--from", "kong", "kong.yml"]);
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("requests: { key_headers: [apikey] }"), "{told}");
    folder.put_in_force(&yaml);
    let request =
        ["explain", "request", "-H", "apikey: red-key", "-d", r#"{"model":"x"}"#, "/v1/chat/completions"];
    let (status, text, stderr) = folder.run(&request);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(text.contains("of consumer \"red\""), "{text}");
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
        "disabled: consumers[3] off: it is not enabled; its keys are taken over disabled",
        "consumers[3] off: its acls",
        "keys disabled by acl: 5",
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
        assert!(told.contains(message), "{told}");
    }
    let (status, _, told) = folder.run(&["keys", "import", "--from", "kong", "x.json", "x.json"]);
    assert!(status == Some(1) && told.contains("several files of Kong's"), "{told}");
    let (status, _, told) = folder.run(&["keys", "import", "--from", "kong", "nowhere.yml"]);
    assert!(status == Some(1) && told.contains("nowhere.yml: No such file"), "{told}");
}

/// What is spent in LiteLLM counts in the running period, once, and rows that are wrong are named.
#[test]
fn what_is_spent_of_litellms_budgets_is_taken_over() {
    let folder = Folder::new();
    folder.write(
        "modelgate.yaml",
        "docker: { enabled: false }\nstate_dir: state\ntime_zone: UTC\nprices: { currency: EUR, models: [{ match: \"*\", prompt: 1 }] }\n",
    );
    let token = |key: &str| access::KeyDigest::of(key).to_hex();
    let answer = json!({
        "keys": [
            { "token": token("a"), "key_alias": "monthly", "team_id": "research", "max_budget": 10.0, "budget_duration": "30d",
              "spend": 2.5000000004, "budget_reset_at": "2099-01-01T00:00:00+00:00" },
            { "token": token("b"), "key_alias": "over", "max_budget": 5, "budget_duration": "1d", "spend": 4.0,
              "budget_reset_at": "2020-01-01T00:00:00Z" },
            { "token": token("c"), "key_alias": "ever", "max_budget": 5, "spend": "1.25" },
            { "token": token("d"), "key_alias": "odd", "max_budget": 5, "spend": "a lot", "budget_duration": "7d",
              "budget_reset_at": "soon" },
            { "token": token("e"), "key_alias": "free", "spend": 7.5 },
        ],
        "teams": [{ "team_id": "research", "team_alias": "research", "models": [], "max_budget": 100, "spend": 30.75 }],
    });
    folder.write("keys.json", &answer.to_string());
    let import = ["keys", "import", "--from", "litellm", "keys.json"];
    let (status, yaml, told) = folder.run(&import);
    assert_eq!(status, Some(0), "{told}");
    assert!(
        told.contains(
            "imported without this: key monthly: 2.500000001 of its budget is spent; only --store takes that over"
        ),
        "{told}"
    );
    assert!(!yaml.contains("spen"), "{yaml}");
    let (status, _, told) = folder.run(&[&import[..], &["--store"]].concat());
    assert_eq!(status, Some(0), "{told}");
    for part in [
        "spent already: consumer research: 30.75 of its budget",
        "spent already: key monthly: 2.500000001 of its budget; the budget begins anew at ",
        " here, and at 2099-01-01T00:00:00Z there",
        "imported without this: key over: 4 was spent in a period that is over there",
        "spent already: key ever: 1.25 of its budget",
        "odd: its spend (\"a lot\") is no amount from 0 to 1000000000",
        "odd: its budget_reset_at (\"soon\") is no time in UTC",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("7.5"), "a key without a budget: {told}");
    let spent = |of: [&str; 2], per| {
        let show = [&["budgets", "show", "--json", "--per", per][..], &of].concat();
        let (status, json, told) = folder.run(&show);
        assert_eq!(status, Some(0), "{told}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        json["spent"].as_str().expect("an amount").to_owned()
    };
    for _ in 0..2 {
        assert_eq!(spent(["--key", "monthly"], "month"), "2.500000001");
        assert_eq!(spent(["--key", "over"], "day"), "0");
        assert_eq!(spent(["--key", "ever"], "ever"), "1.25");
        assert_eq!(spent(["--consumer", "research"], "ever"), "30.75");
        // A second time nothing is counted again.
        let (status, _, told) = folder.run(&[&import[..], &["--store"]].concat());
        assert!(status == Some(0) && !told.contains("spent already"), "{told}");
    }
    let (_, audit, _) = folder.run(&["audit"]);
    assert_eq!(audit.matches("budget spent elsewhere").count(), 3, "{audit}");
}
