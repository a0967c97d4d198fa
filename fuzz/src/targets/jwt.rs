//! Tokens of identity providers: only what the issuer has signed passes, only while it holds, and only for this audience.

use std::{collections::HashMap, sync::LazyLock};

use access::{Issuer, IssuerKeys, Policy, Reason, TokenPlan};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::world::{NOW, now};

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let issuers = vec![issuer(1, "sub"), issuer(2, "realm.name")];
    Policy::default().with_issuers(issuers, HashMap::new())
});

/// A private key; the number makes it.
fn signer(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("a seed")
}

fn issuer(number: u8, consumer_claim: &str) -> Issuer {
    let keys = IssuerKeys::default();
    let point = BASE64.encode(signer(number).public_key());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": number.to_string(), "x": point });
    keys.replace(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a key set");
    Issuer {
        issuer: format!("https://{number}.example"),
        audience: vec!["modelgate".into()],
        consumer_claim: consumer_claim.into(),
        plan_claim: Some("roles".into()),
        plans: HashMap::from([("small".to_owned(), TokenPlan::default())]),
        default_plan: TokenPlan::default(),
        plan_required: false,
        keys,
    }
}

/// The first byte says who signs the two lines that follow (header, claims); if it is no number, all of it is a token.
pub(crate) fn run(data: &[u8]) {
    let token = match data.split_first() {
        Some((number @ b'1'..=b'3', rest)) => {
            let mut lines = rest.splitn(2, |b| *b == b'\n').map(|line| BASE64.encode(line));
            let message = [lines.next(), lines.next()].map(Option::unwrap_or_default).join(".");
            format!("{message}.{}", BASE64.encode(signer(number - b'0').sign(message.as_bytes())))
        }
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    let mut headers = HeaderMap::new();
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else { return };
    headers.insert(AUTHORIZATION, value);
    match POLICY.authenticate(&headers, None, now()) {
        Ok(key) => assert_holds(&token, &key.consumer.name),
        Err(denial) => {
            // What is told names claims, and never the token.
            let told = format!("{} {:?}", denial.reason, denial.reason);
            let signature = token.rsplit('.').next().unwrap_or_default();
            assert!(signature.len() < 40 || !told.contains(signature), "{told}");
            assert!(!matches!(denial.reason, Reason::DisabledKey), "{told}");
        }
    }
}

/// Asserts that a token that passed is one that may.
fn assert_holds(token: &str, consumer: &str) {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{} parts", parts.len()) };
    let decode = |part: &str| BASE64.decode(part).expect("base64url without padding");
    let read = |part: &str| serde_json::from_slice::<Value>(&decode(part)).expect("JSON");
    let (header, claims) = (read(header), read(claims));
    let method = header["alg"].as_str().expect("a method");
    assert!(matches!(method, "EdDSA" | "Ed25519"), "{method}");
    assert!(header.get("crit").is_none());
    let issuer = claims["iss"].as_str().expect("an issuer");
    let number = match issuer {
        "https://1.example" => 1,
        "https://2.example" => 2,
        other => panic!("signed for {other:?}"),
    };
    let message = token.rsplit_once('.').expect("a signature").0;
    let key = UnparsedPublicKey::new(&ED25519, signer(number).public_key().as_ref().to_vec());
    key.verify(message.as_bytes(), &decode(signature)).expect("signed by its issuer");
    let is_ours = |audience: &Value| audience == "modelgate";
    assert!(
        is_ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(is_ours)),
        "{claims}"
    );
    let now = NOW as f64;
    assert!(claims["exp"].as_f64().expect("an end") > now - 30.0, "{claims}");
    assert!(claims.get("nbf").is_none_or(|from| from.as_f64().expect("a time") <= now + 30.0), "{claims}");
    let named = if number == 1 { claims.get("sub") } else { claims.pointer("/realm/name") };
    let named = named.or_else(|| claims.get("realm.name")).and_then(Value::as_str).expect("a name");
    assert!(!named.is_empty() && !consumer.is_empty());
    assert!(consumer.chars().all(|c| c.is_ascii_graphic()), "{consumer:?}");
}
