//! Tests of whole tokens, signed here: from what a client shows to the key that it gets.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use limits::Rate;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{Issuer, IssuerKeys, Shown, TokenPlan, token, verify};
use crate::{Consumer, Key, KeyDigest, ModelGlobs, Policy, Reason, WaitPriority};

const NOW: u64 = 1_800_000_000;

/// A private key; the number makes it.
fn signer(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("a seed")
}

fn signed(number: u8, header: &Value, claims: &Value) -> String {
    let message = [header, claims].map(|part| BASE64.encode(part.to_string())).join(".");
    format!("{message}.{}", BASE64.encode(signer(number).sign(message.as_bytes())))
}

/// A token of the first issuer.
fn token(claims: &Value) -> String {
    signed(1, &json!({ "alg": "EdDSA", "kid": "1" }), claims)
}

/// An issuer that signs with the key of this number.
fn issuer(number: u8) -> Issuer {
    let keys = IssuerKeys::default();
    let point = BASE64.encode(signer(number).public_key());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": number.to_string(), "x": point });
    assert_eq!(keys.replace(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a key set"), 1);
    Issuer {
        issuer: format!("https://{number}.example"),
        audience: vec!["modelgate".into()],
        consumer_claim: "sub".into(),
        plan_claim: None,
        plans: HashMap::new(),
        default_plan: TokenPlan::default(),
        plan_required: false,
        keys,
    }
}

/// The claims of a token that is valid, and these.
fn claims(more: Value) -> Value {
    let mut claims =
        json!({ "iss": "https://1.example", "aud": "modelgate", "exp": NOW + 60, "sub": "alice" });
    let (all, Value::Object(more)) = (claims.as_object_mut().expect("an object"), more) else {
        panic!("claims")
    };
    all.extend(more);
    all.retain(|_, value| !value.is_null());
    claims
}

fn shown(issuers: &[Issuer], token: &str) -> Result<Arc<Key>, String> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let shown = Shown::of(token.as_bytes()).expect("the form of a token");
    verify(issuers, &HashMap::new(), shown, at).map_err(|denial| match denial.reason {
        Reason::BadToken(fault) => fault.to_string(),
        reason => reason.code().to_owned(),
    })
}

#[track_caller]
fn assert_refused(issuers: &[Issuer], token: &str, expected: &str) {
    let found = shown(issuers, token).map(|key| key.name.clone()).expect_err("it passes");
    assert!(found.starts_with(expected), "{found:?}, not {expected:?}");
}

#[test]
fn a_token_is_a_key_with_the_rights_of_its_plan() {
    let [rate, per_model] = [7, 3].map(|amount| Rate::per_minute(amount, None).expect("a rate").into());
    let models = ModelGlobs::parse(&["llama".to_owned()]).expect("a pattern");
    let priority = Some(WaitPriority::Low);
    let plan = TokenPlan { models, limits: rate, limits_per_model: per_model, priority };
    let with_plan = Issuer { default_plan: plan.clone(), ..issuer(1) };
    let key = shown(&[with_plan], &token(&claims(json!({})))).expect("a key");
    assert_eq!((key.name.as_str(), key.consumer.name.as_str()), ("jwt:alice", "alice"));
    assert_eq!((&key.limits, &key.limits_per_model), (&plan.limits, &plan.limits_per_model));
    assert_eq!(key.priority(), WaitPriority::Low);
    assert!(key.models.matches("llama") && !key.models.matches("dear"));
    assert!(!key.manage && !key.stored_data && !key.disabled);
    // The store has counts under this number.
    assert_eq!(key.id, KeyDigest::of("jwt\nhttps://1.example\nalice").prefix());
}

#[test]
fn the_consumer_that_is_configured_counts() {
    let limited =
        Consumer { limits: Rate::per_minute(1, None).expect("a rate").into(), ..Consumer::new("alice") };
    let disabled = Consumer { disabled: true, ..Consumer::new("alice") };
    for consumer in [limited, disabled] {
        let consumers = HashMap::from([("alice".to_owned(), Arc::new(consumer.clone()))]);
        let (token, at) = (token(&claims(json!({}))), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
        let shown = Shown::of(token.as_bytes()).expect("the form of a token");
        match verify(&[issuer(1)], &consumers, shown, at) {
            Ok(key) => assert!(!consumer.disabled && key.consumer.limits == consumer.limits),
            Err(denial) => {
                assert!(consumer.disabled && denial.reason == Reason::DisabledKey, "{}", denial.reason);
                assert!(denial.consumer.is_some_and(|known| known.name == "alice"));
            }
        }
    }
}

/// The same name at two issuers is two people, whatever claim names the consumer.
#[test]
fn limits_are_counted_by_issuer_and_subject() {
    let issuers = [1, 2].map(|number| Issuer { consumer_claim: "email".into(), ..issuer(number) });
    let id = |number: u8, more: Value| {
        let header = json!({ "alg": "EdDSA", "kid": number.to_string() });
        let mut claims = claims(more);
        claims["iss"] = format!("https://{number}.example").into();
        shown(&issuers, &signed(number, &header, &claims)).expect("a key").id
    };
    let first = id(1, json!({ "email": "a@x" }));
    assert_eq!(first, id(1, json!({ "email": "another@x" })), "the same subject");
    assert_ne!(first, id(2, json!({ "email": "a@x" })), "of another issuer");
    assert_ne!(first, id(1, json!({ "email": "a@x", "sub": "bob" })));
    assert_ne!(id(1, json!({ "email": "a@x", "sub": null })), id(2, json!({ "email": "a@x", "sub": null })));
}

#[test]
fn a_token_holds_from_nbf_to_exp_with_half_a_minute_of_leeway() {
    let issuers = [issuer(1)];
    for (more, expected) in [
        (json!({ "exp": NOW + 1 }), Ok(())),
        (json!({ "exp": NOW - 29 }), Ok(())),
        (json!({ "exp": (NOW as f64) - 29.5 }), Ok(())),
        (json!({ "exp": NOW - 30 }), Err("it has expired")),
        (json!({ "exp": 0 }), Err("it has expired")),
        (json!({ "exp": null }), Err("it has no claim \"exp\"")),
        (json!({ "exp": "1900000000" }), Err("its claim \"exp\" is not a time")),
        (json!({ "exp": -1 }), Err("its claim \"exp\" is not a time")),
        (json!({ "exp": 1e12 }), Err("its claim \"exp\" is not a time")),
        (json!({ "exp": 999_999_999_999_u64 }), Ok(())),
        (json!({ "nbf": 0 }), Ok(())),
        (json!({ "nbf": NOW + 30 }), Ok(())),
        (json!({ "nbf": NOW + 31 }), Err("it is not valid yet")),
        (json!({ "nbf": "soon" }), Err("its claim \"nbf\" is not a time")),
    ] {
        let token = token(&claims(more.clone()));
        match expected {
            Ok(()) => assert!(shown(&issuers, &token).is_ok(), "{more}"),
            Err(told) => assert_refused(&issuers, &token, told),
        }
    }
}

/// A token need not say which key has signed it; then all are tried.
#[test]
fn a_key_id_may_be_missing_but_not_wrong() {
    let issuers = [issuer(1), issuer(2)];
    let missed = || issuers.each_ref().map(|issuer| issuer.keys.take_missed());
    for header in [json!({ "alg": "EdDSA" }), json!({ "alg": "Ed25519", "kid": "1" })] {
        assert!(shown(&issuers, &signed(1, &header, &claims(json!({})))).is_ok(), "{header}");
    }
    assert_eq!(missed(), [false, false]);
    let unknown = "its signature is by no key of an issuer";
    let wrong = "its signature is not right";
    for (number, header, told, asked) in [
        // The issuer may have a new key: it is asked, and no other.
        (1, json!({ "alg": "EdDSA", "kid": "new" }), unknown, [true, false]),
        // A forged one, which names a key that is there.
        (3, json!({ "alg": "EdDSA", "kid": "1" }), wrong, [false, false]),
        // It may be of a new key, since it does not say which.
        (3, json!({ "alg": "EdDSA" }), wrong, [true, false]),
    ] {
        assert_refused(&issuers, &signed(number, &header, &claims(json!({}))), told);
        assert_eq!(missed(), asked, "{header}");
    }
    let of_nobody = claims(json!({ "iss": "https://9.example" }));
    assert_refused(&issuers, &signed(3, &json!({ "alg": "EdDSA", "kid": "9" }), &of_nobody), unknown);
    assert_eq!(missed(), [true, true], "any of them may have another name");
}

#[test]
fn an_issuer_signs_only_for_itself() {
    let issuers = [issuer(1), issuer(2)];
    let by_second = signed(2, &json!({ "alg": "EdDSA", "kid": "2" }), &claims(json!({})));
    assert_refused(&issuers, &by_second, "its issuer has not signed it");
    let unnamed = claims(json!({ "iss": "https://9.example" }));
    assert_refused(&issuers, &token(&unnamed), "its issuer is not one of those");
    assert_refused(&issuers, &token(&claims(json!({ "iss": null }))), "its issuer is not one of those");
    assert_refused(
        &issuers,
        &token(&claims(json!({ "aud": "another" }))),
        "it is meant for another audience",
    );
    let not_fetched = Issuer { keys: IssuerKeys::default(), ..issuer(1) };
    assert_refused(&[not_fetched, issuer(2)], &token(&claims(json!({}))), "token_keys_unavailable");
}

/// Users and machines may have an entry each, with the same keys or others.
#[test]
fn an_issuer_may_have_several_entries() {
    let users = issuer(1);
    let same_keys = Issuer { audience: vec!["batch".into()], ..users.clone() };
    let other_keys = Issuer { issuer: users.issuer.clone(), audience: vec!["batch".into()], ..issuer(2) };
    let for_audience = |issuers: &[Issuer], number, audience: &str| {
        let claims = claims(json!({ "aud": audience }));
        shown(issuers, &signed(number, &json!({ "alg": "EdDSA" }), &claims)).map(|key| key.name.clone())
    };
    for (second, signers) in [(same_keys, [1, 1]), (other_keys, [1, 2])] {
        let entries = [users.clone(), second];
        for (audience, number) in ["modelgate", "batch"].into_iter().zip(signers) {
            assert_eq!(for_audience(&entries, number, audience).as_deref(), Ok("jwt:alice"), "{audience}");
        }
    }
}

/// An operator, who alone is told so, learns which issuers are configured and which of them has signed a token.
#[test]
fn an_operator_learns_the_issuers() {
    let issuers = [issuer(1), issuer(2)];
    let told = |token: &str| {
        let (shown, at) = (Shown::of(token.as_bytes()), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
        let denial = verify(&issuers, &HashMap::new(), shown.expect("the form of a token"), at);
        match denial.expect_err("it passes").reason {
            Reason::BadToken(fault) => fault.for_operators(),
            reason => panic!("{reason}"),
        }
    };
    let of_nobody = claims(json!({ "iss": "https://9.example" }));
    let unknown = told(&signed(3, &json!({ "alg": "EdDSA", "kid": "9" }), &of_nobody));
    assert!(
        ["https://1.example", "https://2.example"].iter().all(|known| unknown.contains(known)),
        "{unknown}"
    );
    let renamed = told(&token(&of_nobody));
    assert!(renamed.contains("https://1.example") && !renamed.contains("https://2.example"), "{renamed}");
}

/// The signature must be by the algorithm that the key is for: nobody may choose a weaker one, or none.
#[test]
fn no_token_chooses_how_it_is_checked() {
    let issuers = [issuer(1)];
    for alg in ["none", "None", "", "HS256", "HS512"] {
        let weak = signed(1, &json!({ "alg": alg, "kid": "1" }), &claims(json!({})));
        assert_refused(&issuers, &weak, "the method of its signature");
    }
    for alg in ["RS256", "PS256", "ES256", "ES384"] {
        let other = signed(1, &json!({ "alg": alg, "kid": "1" }), &claims(json!({})));
        assert_refused(&issuers, &other, "its signature is by no key");
    }
    // The public key, as the secret of a signature that nobody here takes.
    let point = BASE64.encode(signer(1).public_key());
    let own = json!({ "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": point } });
    assert_refused(&issuers, &signed(3, &own, &claims(json!({}))), "its signature is not right");
}

#[test]
fn the_longest_token_is_read_and_a_longer_one_is_not() {
    // Base64 has no parts of some lengths, so both parts are padded.
    let padded = |length: usize| {
        let of = |header: usize, padding: usize| {
            let header = json!({ "alg": "EdDSA", "kid": "1", "pad": "x".repeat(header) });
            signed(1, &header, &claims(json!({ "pad": "x".repeat(padding) })))
        };
        let tokens =
            (0..4).flat_map(|header| (0..200).map(move |less| (header, length * 3 / 4 - 100 - less)));
        let mut tokens = tokens.map(|(header, padding)| of(header, padding));
        tokens.find(|token| token.len() == length).expect("a token of this length")
    };
    let issuers = [issuer(1)];
    assert!(shown(&issuers, &padded(16 * 1024)).is_ok());
    assert_refused(&issuers, &padded(16 * 1024 + 1), "it is longer than 16384 bytes");
}

/// Operators may have made keys that have the form of a token.
#[test]
fn a_key_that_looks_like_a_token_is_a_key() {
    let clear = "eyJ.own.key";
    let own = Key::new("own", Arc::new(Consumer::new("bob")), KeyDigest::of(clear));
    let policy = Policy::new(vec![own], Vec::new()).with_issuers(vec![issuer(1)], HashMap::new());
    let who = |shown: &str| {
        let value = format!("Bearer {shown}").parse().expect("a header value");
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let known = policy.authenticate(&headers, None, at);
        known.map_or_else(|denial| denial.reason.code().to_owned(), |key| key.name.clone())
    };
    assert_eq!(who(clear), "own");
    assert_eq!(who(&token(&claims(json!({})))), "jwt:alice");
    assert_eq!(who("eyJ.another.key"), "invalid_token");
    let shows = |shown: &str| {
        let value = format!("Bearer {shown}").parse().expect("a header value");
        policy.shows_token(&http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]))
    };
    assert!(shows("eyJ.another.key") && !shows(clear) && !shows("mg-abc"));
    assert!(
        Reason::UnknownKey.is_guess() && Reason::MistypedKey.is_guess() && !Reason::MissingKey.is_guess()
    );
    assert_eq!(who("ey.no-token"), "invalid_api_key");
    // Longer than any key, but not than any token.
    let long = token(&claims(json!({ "pad": "x".repeat(600) })));
    assert!(long.len() > 512 && who(&long) == "jwt:alice");
}

#[test]
fn parts_of_a_token_are_objects_in_base64() {
    let header = BASE64.encode(r#"{"alg":"EdDSA"}"#);
    for (claims, is_read) in [("{}", true), ("[]", false), ("1", false), ("", false), ("{", false)] {
        let text = format!("{header}.{}.", BASE64.encode(claims));
        let read = token::Token::read(Shown::of(text.as_bytes()).expect("the form of a token"));
        assert_eq!(read.is_ok(), is_read, "{claims:?}");
    }
}

/// The consumer that the operator has named has its own limits, whichever token it shows; another's are not touched.
#[test]
fn a_tokens_consumer_is_the_configured_one() {
    let mut team = Consumer::new("alice");
    team.limits = Rate::per_minute(7, None).expect("a rate").into();
    let team = Arc::new(team);
    let policy = Policy::default()
        .with_issuers(vec![issuer(1)], HashMap::from([("alice".to_owned(), Arc::clone(&team))]));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let of = |subject: &str| {
        let bearer = format!("Bearer {}", token(&claims(json!({ "sub": subject }))));
        let headers =
            http::HeaderMap::from_iter([(http::header::AUTHORIZATION, bearer.parse().expect("a value"))]);
        policy.authenticate(&headers, None, at).expect("a key")
    };
    assert!(Arc::ptr_eq(&of("alice").consumer, &team));
    assert!(of("bob").consumer.limits.is_empty() && of("bob").consumer.name == "bob");
}

/// Of several credentials the known one counts where the operator says so: a token is known by its signature.
#[test]
fn a_token_beside_a_foreign_key_is_the_known_one() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let policy = |issuers| Policy::default().with_issuers(issuers, HashMap::new()).ignoring_foreign(true);
    let good = token(&claims(json!({})));
    let forged = signed(2, &json!({ "alg": "EdDSA", "kid": "1" }), &claims(json!({})));
    for (shown, issuers, is_known) in
        [(&good, vec![issuer(1)], true), (&forged, vec![issuer(1)], false), (&good, Vec::new(), false)]
    {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", "Bearer sk-other".parse().expect("a value"));
        headers.insert("x-api-key", shown.parse().expect("a value"));
        let policy = policy(issuers);
        assert_eq!(policy.authenticate(&headers, None, at).is_ok(), is_known);
        assert_eq!(policy.takes_tokens(), !std::ptr::eq(shown, &good) || is_known);
    }
}

/// What an operator hears, and the bearer does not.
#[test]
fn an_operator_hears_what_is_wrong_with_a_token() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let unfetched = Issuer { keys: IssuerKeys::default(), ..issuer(1) };
    let planned = || Issuer { plan_claim: Some("plan".into()), plan_required: true, ..issuer(1) };
    let good = || claims(json!({}));
    for (issuers, claims, operator) in [
        (vec![], good(), Some("it has the form of an identity provider's token, and jwt names none")),
        (vec![unfetched], good(), Some("the keys of its issuer could not be fetched so far")),
        (vec![issuer(1)], good(), None),
        (vec![issuer(1)], claims(json!({ "exp": NOW - 100 })), Some("; that was 100 s ago")),
        (vec![issuer(1)], claims(json!({ "nbf": NOW + 100 })), Some("; it will be in 100 s")),
        (
            vec![issuer(1)],
            claims(json!({ "aud": "x" })),
            Some("; its aud is \"x\", and jwt.audience is \"modelgate\""),
        ),
        (
            vec![issuer(1)],
            claims(json!({ "aud": null })),
            Some("; jwt.audience is \"modelgate\", and the token has the claims \"exp\""),
        ),
        (
            vec![issuer(1), issuer(2)],
            claims(json!({ "iss": "https://2.example" })),
            Some("; its iss is \"https://2.example\", and a key of \"https://1.example\" has signed it"),
        ),
        (vec![planned()], good(), Some("; jwt.plan_claim is \"plan\", and the token has the claims \"aud\"")),
        (
            vec![planned()],
            claims(json!({ "plan": "x" })),
            Some("; its claim \"plan\" is \"x\", and no plan is called so"),
        ),
    ] {
        let policy = Policy::default().with_issuers(issuers, HashMap::new());
        let shown = signed(1, &json!({ "alg": "EdDSA" }), &claims);
        let headers = http::HeaderMap::from_iter([(
            http::header::AUTHORIZATION,
            format!("Bearer {shown}").parse().expect("a value"),
        )]);
        let reason = policy.authenticate(&headers, None, at).err().map(|denial| denial.reason);
        let told = reason.as_ref().and_then(|reason| crate::about_key(&policy, &headers, reason, at));
        match operator {
            None => assert_eq!(told, None),
            Some(part) => {
                assert!(told.as_deref().is_some_and(|told| told.contains(part)), "{told:?}, not {part}");
            }
        }
        let hears = reason.map(|reason| reason.to_string()).unwrap_or_default();
        assert!(!hears.contains("example") && !hears.contains(" s ago"), "{hears}");
    }
    // A key that is unknown has nothing to do with tokens.
    let headers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-api-key"),
        "mg-x".parse().expect("a value"),
    )]);
    assert_eq!(crate::about_key(&Policy::default(), &headers, &Reason::UnknownKey, at), None);
    assert_eq!(crate::about_key(&Policy::default(), &headers, &Reason::MissingKey, at), None);
}
