//! Traefik 3.0 to 3.5: one layer of routers, the model in the path, a header, the query or the host.

mod common;

use common::{KEY, LLAMA_KEY, chat, config_of, refusal, send, server};
use reqwest::RequestBuilder;
use serde_json::json;
use testkit::{
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

/// Version, and whether it forwards bodies to ForwardAuth.
const FLAT: [(&str, bool); 3] = [("3.0.4", false), ("3.3.6", true), ("3.5.3", true)];

struct Flat {
    traefik: Traefik,
    modelgate: Modelgate,
    client: reqwest::Client,
}

impl Flat {
    async fn start(version: &str, servers: &[(&Sim, &str)], more: &str) -> Option<Self> {
        let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
        let yaml = config_of(servers, &format!("traefik: {{ version: {version:?} }}\n{more}"));
        let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
        let flat = Self { traefik, modelgate, client: testkit::client() };
        testkit::eventually(std::time::Duration::from_secs(60), || async {
            let list =
                send(flat.client.get(format!("{}/v1/models", flat.traefik.url())).bearer_auth(KEY)).await;
            (list.status() == 200).then_some(())
        })
        .await;
        Some(flat)
    }

    fn post(&self, path: &str, body: &serde_json::Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.traefik.url())).bearer_auth(KEY).json(body)
    }

    async fn answered_by(&self, request: RequestBuilder) -> String {
        let response = send(request).await;
        match response.status().as_u16() {
            200 => server(&response),
            status => format!("{status}: {}", response.text().await.expect("text")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_by_path_header_query_and_host() {
    let (llama, qwen) = (Sim::start("llama", &["org/llama-3.1"]), Sim::start("qwen", &["qwen"]));
    let (code, embed) = (Sim::start("code", &["coder"]), Sim::start("embed", &["minilm"]));
    for (version, forwards_body) in FLAT {
        let servers = [
            // Nobody reads bodies before 3.3: only servers of one model are served.
            (&llama, "kind: vllm"),
            (&qwen, "kind: vllm"),
            (&code, "kind: vllm, select: { host: code.example.com }"),
            (&embed, "models: [embeddings], single_model: true"),
        ];
        let Some(flat) = Flat::start(version, &servers, "").await else { continue };
        let v1 = "/v1/chat/completions";
        let body = chat("org/llama-3.1");
        for (request, by) in [
            (flat.post("/models/org/llama-3.1/v1/chat/completions", &body), "llama"),
            (flat.post("/openai/deployments/org/llama-3.1/chat/completions", &body), "llama"),
            (flat.post(v1, &body).header("x-model", "org/llama-3.1"), "llama"),
            (flat.post("/v1/chat/completions?model=qwen", &chat("qwen")), "qwen"),
            (flat.post(v1, &chat("coder")).header("host", "code.example.com"), "code"),
            (flat.post("/models/embeddings/predict", &json!({ "text": "Hello" })), "embed"),
        ] {
            assert_eq!(flat.answered_by(request).await, by, "{version}");
        }
        assert_eq!(embed.posts()[0].path, "/predict", "{version}");
        let seen = llama.posts();
        assert!(
            seen.iter().all(|p| p.header("authorization").is_none()),
            "{version}: no key reaches a server"
        );
        assert_eq!(seen[0].path, v1, "{version}");
        for (request, status) in [
            (flat.client.post(format!("{}/models/qwen/v1/chat/completions", flat.traefik.url())), 401),
            (
                flat.client
                    .post(format!("{}/models/qwen/v1/chat/completions", flat.traefik.url()))
                    .bearer_auth(LLAMA_KEY),
                404,
            ),
        ] {
            assert_eq!(refusal(request.json(&chat("qwen"))).await.0, status, "{version}");
        }
        let (status, found) = refusal(flat.post(v1, &body)).await;
        assert_eq!(status, 503, "{version}: the body alone cannot choose here: {found}");
        if forwards_body {
            let lie = flat.post(v1, &chat("qwen")).header("x-model", "org/llama-3.1");
            let (status, found) = refusal(lie).await;
            assert_eq!(status, 400, "{version}: {found}");
        }
        embed.forget_requests();
        llama.forget_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_model_needs_no_name_and_limits_hold() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["llama"]));
    for (version, _) in FLAT {
        let more = "models: [{ match: llama, limit: { requests_per_hour: 60, burst: 6 } }]\n";
        let servers = [(&a, "single_model: true"), (&b, "single_model: true")];
        let Some(flat) = Flat::start(version, &servers, more).await else { continue };
        let mut servers = std::collections::BTreeSet::new();
        for _ in 0..6 {
            servers.insert(flat.answered_by(flat.post("/v1/chat/completions", &chat("llama"))).await);
        }
        assert_eq!(servers, ["a".to_owned(), "b".to_owned()].into(), "{version}: both replicas");
        let (status, body) = refusal(flat.post("/v1/chat/completions", &chat("llama"))).await;
        assert_eq!((status, body["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_several_models_need_a_traefik_that_forwards_bodies() {
    let many = Sim::start("many", &["llama", "qwen"]);
    for (version, forwards_body) in FLAT {
        let Some(flat) = Flat::start(version, &[(&many, "")], "").await else { continue };
        let request = flat.post("/models/llama/v1/chat/completions", &chat("llama"));
        let found = flat.answered_by(request).await;
        match forwards_body {
            true => {
                assert_eq!(found, "many", "{version}");
                let other = flat.post("/models/llama/v1/chat/completions", &chat("qwen"));
                assert_eq!(refusal(other).await.0, 400, "{version}");
            }
            false => {
                assert!(found.starts_with("503"), "{version}: {found}");
                let problems = flat.modelgate.readyz().await["problems"].to_string();
                assert!(problems.contains("3.3"), "{version}: {problems}");
            }
        }
    }
}
