//! `modelgate explain` and `modelgate check --servers`: what an operator asks when something is not routed.

use std::{fs, process::Output};

use testkit::sim::{Options, Sim};

const KEY: &str = "mg-test-key-of-alice";

struct Folder(tempfile::TempDir);

impl Folder {
    /// Alice may use `llama*`; the servers as YAML.
    fn with(servers: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = access::KeyDigest::of(KEY).to_hex();
        let yaml = format!(
            "docker: {{ enabled: false }}\nkeys: [{{ name: laptop, consumer: alice, sha256: \"{digest}\", models: \
             [\"llama*\"] }}]\nservers:\n{servers}"
        );
        fs::write(folder.path().join("modelgate.yaml"), yaml).expect("written");
        Self(folder)
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        command.current_dir(self.0.path()).args(arguments);
        let output: Output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_a_model_are_explained() {
    let sim = Sim::start("gpu-1", &["llama", "qwen"]);
    let servers = format!(
        "  - {{ url: \"{}\", name: gpu-1, weight: 3, strategy: p2c, aliases: [fast=llama] }}\n",
        sim.url()
    );
    let folder = Folder::with(&servers);
    let (status, text) = folder.run(&["explain", "container", "gpu-1"]).await;
    assert_eq!(status, Some(0), "{text}");
    for part in
        [sim.url().as_str(), "ready", "llama, qwen", "weight=3", "strategy=p2c", "\"fast\" by route fast-"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, text) = folder.run(&["explain", "model", "fast"]).await;
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "alias of    llama",
        "gpu-1 at",
        "Header(`X-Inference-Route`",
        "modelgate-retry",
        "loadBalancer",
        "p2c",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, text) = folder.run(&["explain", "model", "lama"]).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("known are: ") && text.contains("llama"), "{text}");
    let (status, text) = folder.run(&["explain", "container", "gpu-2"]).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("inference.enable=true; known are:\n  gpu-1: ready"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_explained_from_the_command_line_and_from_a_har_file() {
    let sim = Sim::start("gpu-1", &["llama", "qwen"]);
    let folder = Folder::with(&format!("  - {{ url: \"{}\", name: gpu-1 }}\n", sim.url()));
    let authorization = format!("Authorization: Bearer {KEY}");
    let ask = |body: &'static str| {
        let arguments = [
            "explain",
            "request",
            "-H",
            &authorization,
            "-d",
            body,
            "http://llm.example.com/v1/chat/completions",
        ];
        arguments.map(str::to_owned)
    };
    for (body, code, parts) in [
        (r#"{"model":"llama"}"#, "allowed: model llama", vec!["\"laptop\"", "\"alice\"", "gpu-1 at"]),
        (r#"{"model":"qwen"}"#, "refused (model_not_found)", vec!["\"laptop\""]),
        (r#"{"model":"llama","Model":"qwen"}"#, "refused (model_ambiguous)", vec!["\"laptop\""]),
    ] {
        let arguments = ask(body);
        let (status, text) = folder.run(&arguments.each_ref().map(String::as_str)).await;
        assert_eq!(status, Some(0), "{text}");
        assert!(text.contains(code) && parts.iter().all(|part| text.contains(part)), "{body}: {text}");
        assert!(!text.contains(KEY), "{text}");
    }
    let har = serde_json::json!({ "log": { "entries": [{ "request": {
        "method": "POST", "url": "https://llm.example.com/v1/chat/completions",
        "headers": [
            { "name": ":method", "value": "POST" },
            { "name": "authorization", "value": format!("Bearer {KEY}") },
            { "name": "content-type", "value": "application/json" },
        ],
        "postData": { "mimeType": "application/json", "text": r#"{"model":"llama"}"# },
    } }] } });
    fs::write(folder.0.path().join("saved.har"), har.to_string()).expect("written");
    let (status, text) = folder.run(&["explain", "request", "--har", "saved.har"]).await;
    assert!(status == Some(0) && text.contains("allowed: model llama"), "{text}");
    let (status, text) = folder.run(&["explain", "request", "--har", "saved.har", "--entry", "7"]).await;
    assert!(status == Some(1) && text.contains("it has 1 entries"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_wrong_with_servers() {
    let good = Sim::start("good", &["llama"]);
    let folder = Folder::with(&format!("  - {{ url: \"{}\", name: good }}\n", good.url()));
    let (status, text) = folder.run(&["check", "--servers"]).await;
    assert!(status == Some(0) && text.contains("server good: ready"), "{text}");
    let bad = Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named("bad", &["qwen"]) });
    let servers = format!(
        "  - {{ url: \"{}\", name: good, strategy: p2c, canary: {{ model: qwen }} }}\n  - {{ url: \"{}\", name: bad, \
         aliases: [fast] }}\n  - {{ url: \"http://127.0.0.1:1\", name: gone }}\n",
        good.url(),
        bad.url()
    );
    let (status, text) = Folder::with(&servers).run(&["check", "--servers"]).await;
    assert_eq!(status, Some(1), "{text}");
    for part in
        ["server gone: starting", "canary.model", "does not answer to \"llama\"", "--served-model-name"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}
