//! Golden documents. `crates/modelgate/tests/golden.rs` has them decoded by real Traefiks.

use catalogue::Api;

use super::*;

fn golden(name: &str, servers: Vec<ServerRecord>, options: &RenderOptions) {
    insta::with_settings!({ snapshot_path => "../../golden", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, render_servers(servers, options).to_json_pretty());
    });
}

fn two() -> Vec<ServerRecord> {
    vec![server("vllm-1", "/v1", &["llama", "sql"]), server("vllm-2", "/v1", &["llama"])]
}

/// Every way of balancing requests, in one catalogue.
pub(super) fn balanced() -> Vec<ServerRecord> {
    let llama = [
        ("strategy", "p2c"),
        ("sticky.cookie", "llm"),
        ("sticky.secure", "true"),
        ("sticky.same_site", "strict"),
        ("sticky.max_age", "1h"),
        ("failover.status", "500-599,429"),
        ("passive_healthcheck.max_failed_attempts", "3"),
        ("healthcheck.path", "/health"),
        ("healthcheck.status", "200"),
        ("canary.model", "llama-next"),
        ("canary.percent", "20"),
        ("mirror.model", "llama-test"),
        ("mirror.percent", "5"),
        ("timeout.response_header", "2m"),
        ("timeout.dial", "250ms"),
        ("retry.attempts", "3"),
        ("concurrency.max", "8"),
        ("concurrency.per_key", "2"),
    ];
    let backup = |name, priority| set(server(name, "/v1", &["llama"]), &[("priority", priority)]);
    let mut manual = set(server("tei", "/v1", &["bge"]), &[("failover.status", "503")]);
    manual.spec.models = manual.models.iter().map(|m| m.name.clone()).collect();
    let mut by_https = set(server("https", "/v1", &["mixed"]), &[("weight", "2")]);
    by_https.spec.url = ServerUrl::parse("https://llm.example.com").expect("a URL");
    vec![
        set(of_kind(server("a", "/v1", &["llama"]), "vllm"), &llama),
        set(of_kind(server("b", "/v1", &["llama"]), "vllm"), &[("weight", "3")]),
        of_kind(backup("c", "1"), "vllm"),
        of_kind(backup("d", "2"), "vllm"),
        of_kind(set(server("next", "/v1", &["llama-next"]), &[("accepts", "any")]), "vllm"),
        of_kind(set(server("test", "/api/openai", &["llama-test"]), &[("accepts", "any")]), "vllm"),
        manual,
        set(server("tei-backup", "/v1", &["bge"]), &[("priority", "1")]),
        set(
            server("plain", "/", &["mixed", "org/name"]),
            &[("sticky.cookie", "mixed"), ("strategy", "leasttime")],
        ),
        by_https,
        server("local", "/v1", &["gpt"]),
        set(cloud("cloud", &["gpt"]), &[("priority", "1")]),
        set(server("fast", "/v1", &["tiny", "x`) || PathPrefix(`/"]), &[("select.query", "fast=true")]),
        set(
            server("code", "/v1", &["code"]),
            &[("select.header_regexp", "X-Model: ^code.*"), ("select.host", "code.example.com")],
        ),
    ]
}

/// Pools whose servers `/auth` chooses: of the same servers, with a backup and a limit of concurrency, with different base paths,
/// and with servers that Traefik does not check.
pub(super) fn picked() -> Vec<ServerRecord> {
    let cache = ("strategy", "cache");
    let of =
        |name, base, models: &[&str], settings: &[(&str, &str)]| set(server(name, base, models), settings);
    let unchecked =
        |name| of(name, "/v1", &["unchecked"], &[("strategy", "least-busy"), ("healthcheck.path", "off")]);
    vec![
        of("a", "/v1", &["llama", "sql"], &[cache]),
        of("b", "/v1", &["llama", "sql"], &[cache]),
        of("c", "/v1", &["counted"], &[cache, ("concurrency.per_key", "2")]),
        of("d", "/v1", &["counted"], &[cache]),
        of("e", "/v1", &["counted"], &[cache, ("priority", "1")]),
        of("f", "/v1", &["mixed"], &[cache]),
        of("g", "/api/openai", &["mixed"], &[cache]),
        unchecked("h"),
        unchecked("i"),
    ]
}

/// All options of the part before the models.
pub(super) fn edge(traefik: &str) -> RenderOptions {
    let day = std::time::Duration::from_secs(24 * 3600);
    RenderOptions {
        entry_points: vec!["websecure".into()],
        hosts: vec!["llm.example.com".into()],
        apis: Api::ALL.into(),
        tls: Some(Tls::default()),
        redirect_entry_points: vec!["web".into()],
        hsts: Some(Hsts { max_age: 365 * day, include_subdomains: true, preload: true }),
        cors: Some(Cors {
            origins: vec!["https://app.example.com".into()],
            headers: Vec::new(),
            max_age: day,
        }),
        allow_ips: vec!["10.0.0.0/8".into(), "::1/128".into()],
        ip_depth: 1,
        client_certificate: Some(ClientCertificate {
            cert: "/etc/traefik/modelgate.crt".into(),
            key: "/etc/traefik/modelgate.key".into(),
        }),
        ..options(traefik)
    }
}

#[test]
fn golden_documents() {
    golden("oldest", two(), &RenderOptions::default());
    golden("newest", two(), &options("3.7.0"));
    golden("empty", Vec::new(), &RenderOptions::default());
    let tls = RenderOptions {
        entry_points: vec!["websecure".into()],
        hosts: vec!["llm.example.com".into(), "ai.example.com".into()],
        tls: Some(Tls { cert_resolver: Some("le".into()) }),
        max_chunked_body: 0,
        ..options("3.7.0")
    };
    golden("tls", vec![server("ollama", "/", &["qwen2.5:7b"])], &tls);
    let dashboard = Some(Dashboard { host: "modelgate.example.com".into(), port: 8102 });
    golden(
        "dashboard",
        vec![server("vllm", "/v1", &["llama"])],
        &RenderOptions { dashboard: dashboard.clone(), ..options("3.6.2") },
    );
    golden(
        "dashboard-edge",
        vec![server("vllm", "/v1", &["llama"])],
        &RenderOptions { dashboard, ..edge("3.7.0") },
    );
    golden(
        "traced",
        vec![server("vllm", "/v1", &["llama"])],
        &RenderOptions { traces: true, ..options("3.7.0") },
    );
    golden("balanced", balanced(), &options("3.7.0"));
    golden("balanced-3-6-2", balanced(), &options("3.6.2"));
    golden("picked", picked(), &options("3.7.0"));
    golden("picked-3-6-2", picked(), &options("3.6.2"));
    golden(
        "edge",
        vec![set(server("code", "/v1", &["code"]), &[("select.host", "code.example.com")])],
        &edge("3.6.2"),
    );
    golden("flat-edge", vec![server("ollama", "/v1", &["qwen2.5:7b"])], &edge("3.0.0"));
    golden("flat-3-0", balanced(), &options("3.0.0"));
    golden("flat-3-3", balanced(), &options("3.3.0"));
    golden("flat-3-5", balanced(), &options("3.5.0"));
}
