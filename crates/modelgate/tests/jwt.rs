//! Tokens of an identity provider in place of API keys, through a real Traefik.

mod common;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{Router, extract::State, routing::get};
use common::{NEWEST, chat, refusal, send};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Client;
use serde_json::{Value, json};
use testkit::{
    eventually,
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

/// An identity provider that can change its keys.
struct Provider {
    url: String,
    set: Arc<Mutex<Value>>,
}

struct SigningKey {
    id: String,
    pair: rcgen::KeyPair,
}

impl SigningKey {
    fn new(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { id: id.into(), pair }
    }

    /// As in a key set (RFC 7518 §6.2).
    fn jwk(&self) -> Value {
        let point = self.pair.public_key_raw();
        let [x, y] = [&point[1..33], &point[33..65]].map(base64);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).expect("a token")
    }
}

/// Without padding and for URLs (RFC 4648 §5).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let letter = |six: &[u8]| {
        let value = (0..6).fold(0, |sum, i| sum << 1 | usize::from(six.get(i).copied().unwrap_or(0)));
        char::from(LETTERS[value])
    };
    bits.chunks(6).map(letter).collect()
}

impl Provider {
    async fn start(keys: &[&SigningKey]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let set = Arc::new(Mutex::new(Value::Null));
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
        let app =
            Router::new()
                .route("/.well-known/openid-configuration", get(move || async move { discovery }))
                .route(
                    "/keys",
                    get(|State(set): State<Arc<Mutex<Value>>>| async move {
                        set.lock().expect("a set").to_string()
                    }),
                )
                .with_state(Arc::clone(&set));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let provider = Self { url, set };
        provider.publish(keys);
        provider
    }

    fn publish(&self, keys: &[&SigningKey]) {
        let unknown = json!({ "kty": "unheard-of" });
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).chain([unknown]).collect();
        *self.set.lock().expect("a set") = json!({ "keys": keys });
    }

    /// Claims that are good, with changes; a null takes a claim away.
    fn claims(&self, changes: Value) -> Value {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let good =
            json!({ "iss": self.url, "aud": "modelgate", "sub": "alice", "exp": now + 600, "plan": "pro" });
        let mut claims: BTreeMap<String, Value> = serde_json::from_value(good).expect("claims");
        claims.extend(serde_json::from_value::<BTreeMap<String, Value>>(changes).expect("changes"));
        claims.retain(|_, value| !value.is_null());
        json!(claims)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_its_consumer_and_plan_and_keys_may_change() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let (first, second, stranger) = (SigningKey::new("one"), SigningKey::new("two"), SigningKey::new("one"));
    let provider = Provider::start(&[&first]).await;
    let sim = Sim::start("a", &["llama", "qwen"]);
    let yaml = format!(
        "traefik: {{ version: {NEWEST:?} }}\nservers: [{{ url: \"{}\" }}]\nplans:\n  - {{ name: pro, models: [\"llama*\"], \
         limit: {{ requests_per_hour: 5 }} }}\nconsumers: [{{ name: banned, disabled: true }}]\njwt:\n  - {{ issuer: \
         \"{}\", audience: [modelgate], plan_claim: plan }}\n",
        sim.url(),
        provider.url
    );
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    // Whoever waits for a key, or makes up tokens, is slowed; others with another address are not.
    let [client, patient, forger] = [1, 2, 3].map(|host| {
        let address = IpAddr::from([127, 0, 0, host]);
        testkit::client_builder().local_address(address).build().expect("a client")
    });
    let ask_by = |client: &Client, token: String, model: &str| {
        let request = client.post(format!("{}/v1/chat/completions", traefik.url()));
        request.bearer_auth(token).json(&chat(model))
    };
    let ask = |token, model| ask_by(&client, token, model);
    let good = || first.sign(&provider.claims(json!({})));
    eventually(Duration::from_secs(60), || async {
        (send(ask_by(&patient, good(), "llama")).await.status() == 200).then_some(())
    })
    .await;
    let seen = sim.posts();
    assert_eq!(seen.last().expect("a request").header("x-inference-consumer"), Some("alice"));
    assert!(seen.iter().all(|p| p.header("authorization").is_none()), "the token stays here");
    assert_eq!(refusal(ask(good(), "qwen")).await.0, 404, "not in the plan");

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = |changes| provider.claims(changes);
    let unsigned = format!(
        "{}.{}.",
        base64(br#"{"alg":"none","typ":"JWT"}"#),
        base64(claims(json!({})).to_string().as_bytes())
    );
    let shared_secret = jsonwebtoken::encode(
        &Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) },
        &claims(json!({})),
        &EncodingKey::from_secret(first.pair.public_key_raw()),
    );
    for (what, token) in [
        ("expired", first.sign(&claims(json!({ "exp": now - 60 })))),
        ("without an expiry", first.sign(&claims(json!({ "exp": null })))),
        ("an expiry that is text", first.sign(&claims(json!({ "exp": "9999999999" })))),
        ("not valid yet", first.sign(&claims(json!({ "nbf": now + 300 })))),
        ("another audience", first.sign(&claims(json!({ "aud": ["other"] })))),
        ("no audience", first.sign(&claims(json!({ "aud": null })))),
        ("another issuer", first.sign(&claims(json!({ "iss": "https://evil.example" })))),
        ("an unknown plan", first.sign(&claims(json!({ "plan": "gold" })))),
        ("a plan that is no name", first.sign(&claims(json!({ "plan": 5 })))),
        ("no plan in a list", first.sign(&claims(json!({ "plan": ["offline_access"] })))),
        ("no plan at all", first.sign(&claims(json!({ "plan": null })))),
        ("no subject", first.sign(&claims(json!({ "sub": null })))),
        ("a subject with a line break", first.sign(&claims(json!({ "sub": "a\nb" })))),
        ("a disabled consumer", first.sign(&claims(json!({ "sub": "banned" })))),
        ("a stranger's key of the same id", stranger.sign(&claims(json!({})))),
        ("unsigned", unsigned),
        ("signed with the public key as a secret", shared_secret.expect("a token")),
        ("cut off", good()[..good().len() - 4].to_owned()),
    ] {
        let (status, body) = refusal(ask(token, "llama")).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (401, Some("invalid_api_key")),
            "{what}: {body}"
        );
    }
    let two_audiences = first.sign(&claims(json!({ "aud": ["other", "modelgate"], "sub": "bob" })));
    assert_eq!(send(ask(two_audiences, "llama")).await.status(), 200);

    // Limits are counted for the subject, whichever of its tokens it shows. A plan may stand among roles.
    let mut statuses = Vec::new();
    for n in 0..6 {
        let changes = json!({ "sub": "carol", "jti": n, "plan": ["offline_access", "pro"] });
        statuses.push(send(ask(first.sign(&claims(changes)), "llama")).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);

    // A new key is fetched when a token shows up that is signed with it, and the old one is gone.
    provider.publish(&[&second]);
    eventually(Duration::from_secs(60), || async {
        let rotated = second.sign(&claims(json!({ "sub": "dave" })));
        (send(ask_by(&patient, rotated, "llama")).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(send(ask(good(), "llama")).await.status(), 401);

    // Whoever makes up tokens is slowed, and nobody else.
    let mut forged = Vec::new();
    for _ in 0..40 {
        let token = stranger.sign(&provider.claims(json!({})));
        forged.push(refusal(ask_by(&forger, token, "llama")).await);
    }
    assert_eq!(forged[0].0, 401, "{forged:?}");
    let (status, body) = forged.pop().expect("the last one");
    assert_eq!((status, body["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")), "{body}");
    let expired = second.sign(&provider.claims(json!({ "exp": now - 60 })));
    assert_eq!(send(ask_by(&forger, expired, "llama")).await.status(), 401);
    let good = second.sign(&provider.claims(json!({ "sub": "erin" })));
    assert_eq!(send(ask_by(&forger, good, "llama")).await.status(), 200, "right tokens pass");
    let log = modelgate.log();
    assert!(!log.contains("eyJ"), "no token in the log");
}
