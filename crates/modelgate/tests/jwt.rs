//! Tokens of an identity provider in place of API keys, through a real Traefik.

mod common;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, extract::State, routing::get};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use common::{NEWEST, chat, refusal};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};
use testkit::{
    eventually,
    modelgate::{Modelgate, command},
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
        self.sign_as(Some(&self.id), claims)
    }

    /// With another id, or none.
    fn sign_as(&self, id: Option<&str>, claims: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "ES256", "kid": id });
        let random = SystemRandom::new();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pair.serialize_der(), &random)
                .expect("a key");
        let sign = |message: &[u8]| key.sign(&random, message).expect("signed").as_ref().to_vec();
        signed(&header, claims, sign)
    }
}

/// Header, claims and signature (RFC 7515 §7.1).
fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = [header, claims].map(|part| base64(part.to_string().as_bytes())).join(".");
    let signature = base64(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Provider {
    async fn start(keys: Vec<Value>) -> Self {
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
                .route("/others", get(|| async { r#"{"keys":[]}"# }))
                .with_state(Arc::clone(&set));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let provider = Self { url, set };
        provider.publish(keys);
        provider
    }

    fn publish(&self, mut keys: Vec<Value>) {
        keys.push(json!({ "kty": "unheard-of" }));
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

/// An issuer that shares the provider's keys, as Entra ID's do, and one that does not; nobody answers for the last one.
const ENTRA: &str = "https://login.microsoftonline.com/T/v2.0";
const ENTRA_V1: &str = "https://sts.windows.net/T/";
const OTHER: &str = "https://other.example";
const DOWN: &str = "http://127.0.0.1:1";
/// An API key that looks like a token.
const LIKE_A_TOKEN: &str = "eyJrZXki.ZXhwb3J0ZWQ.a2V5";

/// A provider with a key and, by the same id, one that only encrypts; Modelgate, and a Traefik before it.
struct Fixture {
    provider: Provider,
    key: SigningKey,
    encrypting: SigningKey,
    stranger: SigningKey,
    sim: Sim,
    modelgate: Modelgate,
    traefik: Traefik,
}

impl Fixture {
    async fn start(traefik: PathBuf) -> Self {
        let [key, encrypting, stranger] = ["one"; 3].map(SigningKey::new);
        let mut enc = encrypting.jwk();
        (enc["use"], enc["alg"]) = ("enc".into(), "ECDH-ES".into());
        let provider = Provider::start(vec![enc, key.jwk()]).await;
        let sim = Sim::start("a", &["llama", "qwen"]);
        let (url, sim_url) = (&provider.url, sim.url());
        let digest = access::KeyDigest::of(LIKE_A_TOKEN).to_hex();
        let yaml = format!(
            r##"traefik: {{ version: {NEWEST:?} }}
servers: [{{ url: "{sim_url}" }}]
plans: [{{ name: pro, models: ["llama*"], limit: {{ requests_per_hour: 5 }} }}, {{ name: free }}]
consumers:
  - {{ name: banned, disabled: true }}
  - {{ name: "Ada%20Lovelace", disabled: true }}
  - {{ name: "ada_gmail.com#EXT#@contoso.example", disabled: true }}
keys: [{{ name: exported, consumer: exported, sha256: {digest} }}]
jwt:
  - {{ issuer: "{url}", audience: [modelgate], plan_claim: plan }}
  - {{ issuer: "{url}", audience: [machines], consumer_claim: azp, plan: free }}
  - {{ issuer: "{ENTRA}", audience: [modelgate], jwks_url: "{url}/keys", consumer_claim: email, plan: free }}
  - {{ issuer: "{OTHER}", audience: [modelgate], jwks_url: "{url}/others" }}
  - {{ issuer: "{DOWN}", audience: [modelgate] }}
"##
        );
        let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
        traefik.wait_configured().await;
        Self { provider, key, encrypting, stranger, sim, modelgate, traefik }
    }

    /// Good claims with changes, signed with the provider's key.
    fn token(&self, changes: Value) -> String {
        self.key.sign(&self.provider.claims(changes))
    }

    /// Asks from 127.0.0.`host`: whoever waits for a key, or makes up tokens, is slowed, and others are not.
    async fn ask(&self, host: u8, token: &str, model: &str) -> (u16, Value) {
        let client = testkit::client_builder().local_address(IpAddr::from([127, 0, 0, host])).build();
        let client = client.expect("a client");
        let request = client.post(format!("{}/v1/chat/completions", self.traefik.url()));
        refusal(request.bearer_auth(token).json(&chat(model))).await
    }

    /// The consumer whose request has come through, as its server sees it; or the status and message of the refusal.
    async fn consumer(&self, token: &str) -> Result<String, (u16, String)> {
        let (status, body) = self.ask(1, token, "llama").await;
        if status != 200 {
            return Err((status, body["error"]["message"].as_str().unwrap_or_default().to_owned()));
        }
        let seen = self.sim.posts();
        let last = seen.last().expect("a request");
        assert_eq!(last.header("authorization"), None, "the token stays here");
        Ok(last.header("x-inference-consumer").expect("a consumer").to_owned())
    }

    /// `modelgate explain request` with this token.
    async fn explain(&self, token: &str) -> String {
        let mut command = command(env!("CARGO_BIN_EXE_modelgate"));
        command.env("MODELGATE_DOCKER_ENABLED", "false").arg("--config");
        command.arg(self.modelgate.folder().join("modelgate.yaml")).args(["explain", "request", "-H"]);
        command.arg(format!("Authorization: Bearer {token}"));
        command.args(["-d", r#"{"model":"llama"}"#, "http://llm.example.com/v1/chat/completions"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("it runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        text.concat()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_its_consumer_and_plan_and_keys_may_change() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let world = Fixture::start(binary).await;
    eventually(Duration::from_secs(60), || async {
        let token = world.token(json!({ "sub": "early" }));
        (world.ask(2, &token, "llama").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(world.ask(1, &world.token(json!({})), "qwen").await.0, 404, "not in the plan");
    consumers_have_names_that_are_safe_and_their_own(&world).await;
    bad_tokens_are_told_as_what_they_are(&world).await;
    what_our_issuers_have_signed_is_no_forgery(&world).await;
    it_is_explained_as_it_is(&world).await;
    limits_are_counted_for_the_subject(&world).await;
    keys_may_change_and_forgers_are_slowed(&world).await;
    let log = world.modelgate.log();
    assert!(!log.contains("eyJ"), "no token in the log");
    assert!(log.contains(DOWN), "whose keys cannot be had is named");
}

async fn consumers_have_names_that_are_safe_and_their_own(world: &Fixture) {
    let long = |letter: &str| format!("system:serviceaccount:{}:{}", "n".repeat(63), letter.repeat(200));
    for (subject, expected) in [
        ("alice", Some("alice")),
        ("ada+llm@example.com", Some("ada+llm@example.com")),
        ("repo:acme/app:ref:refs/heads/main", Some("repo:acme/app:ref:refs/heads/main")),
        ("system:serviceaccount:inference-production:batch-summaries-worker", None),
        ("bob_gmail.com#EXT#@contoso.example", Some("bob_gmail.com#EXT#@contoso.example")),
        ("Ада", Some("%D0%90%D0%B4%D0%B0")),
        ("b b, c", Some("b%20b%2C%20c")),
    ] {
        let seen = world.consumer(&world.token(json!({ "sub": subject }))).await;
        assert_eq!(seen.as_deref(), Ok(expected.unwrap_or(subject)));
    }
    let seen = [
        world.consumer(&world.token(json!({ "sub": long("a") }))).await.expect("a name"),
        world.consumer(&world.token(json!({ "sub": format!("{}b", long("a")) }))).await.expect("a name"),
    ];
    assert!(
        seen[0] != seen[1] && seen.iter().all(|name| name.len() == 160 && name.contains('~')),
        "{seen:?}"
    );
    // As the configuration has them, quoted.
    for subject in ["banned", "Ada Lovelace", "ada_gmail.com#EXT#@contoso.example"] {
        let (status, message) =
            world.consumer(&world.token(json!({ "sub": subject }))).await.expect_err("disabled");
        assert!(status == 401 && message.contains("disabled"), "{subject}: {message}");
    }
    let others = [
        (json!({ "aud": "machines", "azp": "batch-job", "sub": null, "plan": null }), "batch-job"),
        (json!({ "aud": ["other", "modelgate"], "sub": "two" }), "two"),
        (json!({ "iss": ENTRA, "email": "ada@contoso.example" }), "ada@contoso.example"),
    ];
    for (changes, expected) in others {
        assert_eq!(world.consumer(&world.token(changes)).await.as_deref(), Ok(expected));
    }
    let without_id = world.key.sign_as(None, &world.provider.claims(json!({ "sub": "without-id" })));
    assert_eq!(world.consumer(&without_id).await.as_deref(), Ok("without-id"));
    assert_eq!(world.consumer(LIKE_A_TOKEN).await.as_deref(), Ok("exported"), "an operator's key counts");
}

async fn bad_tokens_are_told_as_what_they_are(world: &Fixture) {
    let Fixture { provider, key, encrypting, stranger, .. } = world;
    let good = provider.claims(json!({}));
    let headed = |header: &str, signature: &str| {
        format!("{}.{}.{signature}", base64(header.as_bytes()), base64(good.to_string().as_bytes()))
    };
    let public = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key_raw());
    let sign = |message: &[u8]| hmac::sign(&public, message).as_ref().to_vec();
    let shared_secret = signed(&json!({ "alg": "HS256", "kid": "one" }), &good, sign);
    let whole = key.sign(&good);
    let token = |changes| world.token(changes);
    for (token, message) in [
        (token(json!({ "exp": now() - 60 })), "it has expired"),
        (token(json!({ "exp": null })), "no claim \"exp\""),
        (token(json!({ "exp": "9999999999" })), "\"exp\" is not a time"),
        (token(json!({ "nbf": now() + 300 })), "it is not valid yet"),
        (token(json!({ "aud": ["other"] })), "another audience"),
        (token(json!({ "aud": null })), "no claim \"aud\""),
        (token(json!({ "iss": "https://evil.example" })), "issuer is not one of those"),
        (token(json!({ "iss": OTHER })), "its issuer has not signed it"),
        (token(json!({ "iss": null })), "issuer is not one of those"),
        (token(json!({ "plan": "gold" })), "its plan is not known"),
        (token(json!({ "plan": 5 })), "its plan is not known"),
        (token(json!({ "plan": ["offline_access"] })), "it names no plan"),
        (token(json!({ "plan": null })), "it names no plan"),
        (token(json!({ "sub": null })), "no claim \"sub\""),
        (token(json!({ "sub": 5 })), "\"sub\", which is to name its consumer, is not a text but a number"),
        (token(json!({ "sub": "a\nb" })), "it holds a control character"),
        (token(json!({ "sub": "" })), "it is empty"),
        (token(json!({ "iss": ENTRA, "azp": "batch-job" })), "no claim \"email\""),
        (stranger.sign(&good), "its signature is not right"),
        (stranger.sign_as(None, &good), "its signature is not right"),
        (stranger.sign_as(Some("two"), &good), "by no key of an issuer"),
        (encrypting.sign(&good), "its signature is not right"),
        (headed(r#"{"alg":"none","typ":"JWT"}"#, ""), "the method of its signature"),
        (headed(r#"{"alg":"RS256","kid":"one"}"#, "c2ln"), "by no key of an issuer"),
        (shared_secret, "the method of its signature"),
        (whole[..whole.len() - 4].to_owned(), "its signature is not right"),
        (format!("{whole}.a.b"), "it is encrypted (JWE)"),
        (token(json!({ "groups": "g".repeat(13_000) })), "longer than 16384 bytes"),
    ] {
        let (status, body) = world.ask(1, &token, "llama").await;
        let found = (status, body["error"]["code"].as_str(), body["error"]["message"].as_str());
        let (401, Some("invalid_api_key"), Some(found)) = found else { panic!("{message}: {status} {body}") };
        assert!(found.contains(message), "{message}: {found}");
    }
    let (status, body) = world.ask(1, &token(json!({ "iss": DOWN })), "llama").await;
    let found = (status, body["error"]["code"].as_str());
    assert_eq!(found, (503, Some("token_keys_unavailable")), "nobody knows whether it is good: {body}");
}

/// A v1 token of Entra ID where v2 is configured was a bad signature, and after 30 of them nobody was let in.
async fn what_our_issuers_have_signed_is_no_forgery(world: &Fixture) {
    let slash = format!("{}/", world.provider.url);
    for issuer in [ENTRA_V1, &slash, OTHER] {
        for _ in 0..12 {
            assert_eq!(world.ask(3, &world.token(json!({ "iss": issuer })), "llama").await.0, 401);
        }
    }
}

async fn it_is_explained_as_it_is(world: &Fixture) {
    let slash = format!("{}/", world.provider.url);
    for (changes, parts) in [
        (json!({ "sub": "Ева" }), vec!["allowed: model llama, consumer %D0%95%D0%B2%D0%B0"]),
        (
            json!({ "aud": "account" }),
            vec!["refused with 401 (invalid_token)", "\"account\"", "\"modelgate\""],
        ),
        (json!({ "iss": ENTRA_V1 }), vec![ENTRA_V1, ENTRA, "requestedAccessTokenVersion"]),
        (
            json!({ "iss": OTHER }),
            vec!["a key of \"http://", "jwt.jwks_url", "https://other.example has no keys"],
        ),
        (json!({ "iss": slash }), vec![&slash, "the slash at the end"]),
        (json!({ "iss": ENTRA, "azp": "batch-job" }), vec!["\"email\"", "\"azp\"", "consumer_claim: azp"]),
        (json!({ "iss": DOWN }), vec!["refused with 503 (token_keys_unavailable)"]),
    ] {
        let text = world.explain(&world.token(changes)).await;
        let down = format!("the keys of {DOWN} cannot be fetched");
        assert!(parts.iter().all(|part| text.contains(part)) && text.contains(&down), "{parts:?}: {text}");
        assert!(!text.contains("eyJ") && !text.contains("batch-job"), "{text}");
    }
}

/// Whichever of its tokens it shows. A plan may stand among roles.
async fn limits_are_counted_for_the_subject(world: &Fixture) {
    let mut statuses = Vec::new();
    for n in 0..6 {
        let token = world.token(json!({ "sub": "carol", "jti": n, "plan": ["offline_access", "pro"] }));
        statuses.push(world.ask(1, &token, "llama").await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
}

async fn keys_may_change_and_forgers_are_slowed(world: &Fixture) {
    // A new key is fetched when a token shows up that is signed with it, and the old one is gone. Two have one id.
    let [second, third] = ["two"; 2].map(SigningKey::new);
    world.provider.publish(vec![second.jwk(), third.jwk()]);
    let claims = |changes| world.provider.claims(changes);
    eventually(Duration::from_secs(60), || async {
        let rotated = second.sign(&claims(json!({ "sub": "dave" })));
        (world.ask(2, &rotated, "llama").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(world.ask(1, &world.token(json!({})), "llama").await.0, 401);
    assert_eq!(world.ask(1, &third.sign(&claims(json!({ "sub": "dora" }))), "llama").await.0, 200);

    // Whoever makes up tokens is slowed, and nobody else: with a key's right id, or an issuer and a key that are not known.
    let (mut forged, start) = (Vec::new(), Instant::now());
    for n in 0..40 {
        let token = match n % 2 {
            0 => world.stranger.sign_as(Some("two"), &claims(json!({}))),
            _ => world.stranger.sign_as(Some("evil"), &claims(json!({ "iss": "https://evil.example" }))),
        };
        forged.push(world.ask(4, &token, "llama").await);
    }
    assert!(forged[..30].iter().all(|(status, _)| *status == 401), "{forged:?}");
    // 30 at once, and one more every two seconds.
    let most = 31 + usize::try_from(start.elapsed().as_secs() / 2).expect("a number");
    let refused = forged.iter().filter(|(status, _)| *status == 401).count();
    assert!(refused <= most, "{refused} of {most}: {forged:?}");
    let (_, slowed) = forged.iter().find(|(status, _)| *status != 401).expect("one that is slowed");
    assert_eq!(slowed["error"]["code"], "rate_limit_exceeded", "{slowed}");
    assert!(forged.iter().all(|(status, _)| [401, 429].contains(status)), "{forged:?}");
    let expired = second.sign(&claims(json!({ "exp": now() - 60 })));
    assert_eq!(world.ask(4, &expired, "llama").await.0, 401);
    let good = second.sign(&claims(json!({ "sub": "erin" })));
    assert_eq!(world.ask(4, &good, "llama").await.0, 200, "right tokens pass");
}
