use super::*;
use crate::TraefikVersion;

fn arrival<'a>(method: &'a str, path: &'a str, headers: &[(&'a str, &'a str)]) -> Arrival<'a> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    Arrival {
        method,
        is_https: None,
        host: Some("LLM.example.com:8443"),
        path,
        query,
        headers: headers.to_vec(),
        version: TraefikVersion::default(),
    }
}

#[test]
fn rules_are_read_as_traefik_reads_them() {
    let asked = arrival(
        "POST",
        "/v1/a%2Fb%20c?model=x%20y&flag",
        &[("X-Model", "one"), ("x-model", "two"), ("Content-Length", "12")],
    );
    for (rule, verdict) in [
        ("Host(`llm.example.com`)", Verdict::Yes),
        ("Host(`example.com`) || Host(`llm.example.com`)", Verdict::Yes),
        ("Host(`a.example`,`llm.example.com`)", Verdict::Yes),
        ("HostRegexp(`^[a-z]+\\.example\\.com$`)", Verdict::Yes),
        ("HostRegexp(\"^[a-z]+\\\\.example\\\\.com$\")", Verdict::Yes),
        ("PathPrefix(`/v1/`) && !Method(`GET`)", Verdict::Yes),
        ("Path(`/v1/a%2Fb c`)", Verdict::Yes),
        ("Path(`/v1`)", Verdict::No),
        ("PathRegexp(`^/v1/[^/]+$`)", Verdict::Yes),
        ("Header(`X-Model`, `two`)", Verdict::Yes),
        ("Header(`X-Model`, `t`)", Verdict::No),
        ("HeaderRegexp(`X-Model`, `^o`) && HeaderRegexp(`Content-Length`, `.`)", Verdict::Yes),
        ("Query(`model`, `x y`) && Query(`flag`)", Verdict::Yes),
        ("QueryRegexp(`model`, `^x`)", Verdict::Yes),
        // `&&` binds more tightly than `||`.
        ("Method(`POST`) || Method(`GET`) && Path(`/`)", Verdict::Yes),
        ("(Method(`POST`) || Method(`GET`)) && Path(`/`)", Verdict::No),
        ("!(Method(`GET`) || Path(`/`))", Verdict::Yes),
        ("ClientIP(`10.0.0.0/8`)", Verdict::Perhaps),
        ("ClientIP(`10.0.0.0/8`) && Method(`GET`)", Verdict::No),
        ("ClientIP(`10.0.0.0/8`) || Method(`POST`)", Verdict::Yes),
        ("Nonsense", Verdict::Perhaps),
        ("Path(`/` && Method(`GET`)", Verdict::Perhaps),
        ("PathRegexp(`(`)", Verdict::Perhaps),
        ("", Verdict::Perhaps),
    ] {
        assert_eq!(asked.meets(rule), verdict, "{rule}");
    }
    let deep = format!("{}Method(`POST`){}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(asked.meets(&deep), Verdict::Perhaps);
    let unknown = Arrival { host: None, ..asked.clone() };
    assert_eq!(unknown.meets("Host(`a`)"), Verdict::Perhaps);
    let older = Arrival { version: "3.0.0".parse().expect("a version"), ..asked };
    assert_eq!(older.meets("Path(`/v1/a/b c`)"), Verdict::Yes);
}
