//! What only a Docker host's labels show; everything else is compared with a real Traefik in `modelgate/tests/explain.rs`.

use catalogue::channel;

use super::*;

fn own(rule: &str, priority: Option<usize>, middlewares: &[&str]) -> OwnRouter {
    OwnRouter {
        container: "app".into(),
        name: "mine".into(),
        rule: rule.into(),
        priority,
        has_tls: false,
        middlewares: middlewares.iter().map(|name| (*name).to_owned()).collect(),
        asks: Vec::new(),
        is_doubtful: false,
    }
}

async fn outcome(own: OwnRouter, uri: &str) -> (String, String) {
    let (mut publisher, reader) = channel();
    publisher.publish(Catalogue::default().with_own_routers(vec![own]));
    let shared = Shared::with_catalogue(reader);
    let headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let uri: Uri = uri.parse().expect("a URL");
    let rehearsal =
        Rehearsal { method: "POST", uri: &uri, headers: &headers, body: b"{}", from: None, key: None };
    let Rehearsed { steps, outcome, .. } = rehearse(&shared, &rehearsal).await.expect("a catalogue");
    (steps.join("\n"), outcome.to_string())
}

#[tokio::test]
async fn routers_of_containers_come_first_where_traefik_asks_them_first() {
    let url = "http://app.lan/v1/chat/completions";
    let rule = "Host(`app.lan`)";
    let (_, ours) = outcome(own(rule, None, &[]), url).await;
    assert!(ours.starts_with("refused with 401 (missing_api_key)"), "its rule is shorter: {ours}");
    let (_, theirs) = outcome(own(rule, Some(1000), &[]), url).await;
    assert_eq!(
        theirs,
        "not for Modelgate: the router mine of container app takes it, and does not ask Modelgate"
    );
    let (_, elsewhere) = outcome(own(rule, Some(1000), &[]), "http://b.lan/v1/chat/completions").await;
    assert!(elsewhere.starts_with("refused with 401"), "{elsewhere}");
    let (steps, asked) = outcome(own(rule, Some(1000), &["compress@file", "modelgate@http"]), url).await;
    assert!(
        steps.contains("and asks Modelgate") && asked.starts_with("refused with 401"),
        "{steps}: {asked}"
    );
    let asks = OwnRouter { asks: vec!["model=llama".into()], ..own(rule, Some(1000), &["check"]) };
    let (steps, asked) = outcome(asks, url).await;
    assert!(
        steps.contains("and asks Modelgate") && asked.starts_with("refused with 401"),
        "{steps}: {asked}"
    );
    let doubtful = OwnRouter { is_doubtful: true, ..own(rule, Some(1000), &[]) };
    let (steps, asked) = outcome(doubtful, url).await;
    assert!(steps.contains("comes first if it matches") && asked.starts_with("refused with 401"), "{steps}");
    let (steps, _) = outcome(own("ClientIP(`10.0.0.0/8`)", Some(1000), &[]), url).await;
    assert!(steps.contains("comes first if it matches"), "{steps}");
    let tls = OwnRouter { has_tls: true, ..own(rule, Some(1000), &[]) };
    assert!(outcome(tls, url).await.1.starts_with("refused with 401"));
}
