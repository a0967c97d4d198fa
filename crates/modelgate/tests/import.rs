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
        { "token": hash("sk-two"), "key_alias": null, "user_id": "default_user_id", "models": ["all-team-models"],
          "max_budget": 10.0 },
        { "token": hash("sk-three"), "key_alias": "one", "team_id": "research", "models": [], "blocked": true },
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
