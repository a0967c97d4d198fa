use limits::Rate;
use serde_json::json;

use super::*;

/// The rate that a token with these claims gets, in requests a minute; 0 without limits.
fn allowed(issuer: &Issuer, claims: &Value) -> Result<u32, String> {
    let Value::Object(mut claims) = claims.clone() else { panic!("claims") };
    claims.insert("sub".into(), "alice".into());
    let key = bearer(issuer, &HashMap::new(), &claims).map_err(|fault| Reason::from(fault).to_string())?;
    Ok(key.limits.rates().first().map_or(0, Rate::amount))
}

fn issuer(plan_claim: &str) -> Issuer {
    let plan = |requests| TokenPlan {
        limits: Rate::per_minute(requests, None).expect("a rate").into(),
        ..TokenPlan::default()
    };
    Issuer {
        issuer: "https://login.example.com".into(),
        audience: vec!["modelgate".into()],
        consumer_claim: "sub".into(),
        plan_claim: Some(plan_claim.into()),
        plans: [("bronze", 1), ("gold", 100)].map(|(name, n)| (name.to_owned(), plan(n))).into(),
        default_plan: TokenPlan::default(),
        plan_required: true,
        keys: IssuerKeys::default(),
    }
}

/// A plan claim that was not a text used to remove all limits; roles and groups are lists, so that was the usual case.
#[test]
fn a_claim_of_any_type_names_a_plan_or_the_token_is_refused() {
    let required = issuer("roles");
    let with_default = Issuer {
        plan_required: false,
        default_plan: TokenPlan {
            limits: Rate::per_minute(7, None).expect("a rate").into(),
            ..TokenPlan::default()
        },
        ..issuer("roles")
    };
    let (unknown, none) = (Err("its plan is not known"), Err("it names no plan"));
    for (claims, expected, by_default) in [
        (json!({ "roles": "bronze" }), Ok(1), Ok(1)),
        (json!({ "roles": "nope" }), unknown, unknown),
        (json!({ "roles": "" }), unknown, unknown),
        (json!({ "roles": ["bronze"] }), Ok(1), Ok(1)),
        (json!({ "roles": ["offline_access", 5, null, "gold", "bronze"] }), Ok(100), Ok(100)),
        (json!({ "roles": ["offline_access", "nope", ["gold"]] }), none, Ok(7)),
        (json!({ "roles": [] }), none, Ok(7)),
        (json!({ "roles": 5 }), unknown, unknown),
        (json!({ "roles": true }), unknown, unknown),
        (json!({ "roles": { "bronze": true } }), unknown, unknown),
        (json!({ "roles": null }), none, Ok(7)),
        (json!({}), none, Ok(7)),
    ] {
        for (issuer, expected) in [(&required, expected), (&with_default, by_default)] {
            let expected = expected.map_err(|why| format!("the token is not valid: {why}"));
            assert_eq!(allowed(issuer, &claims), expected, "{claims}");
        }
    }
}

#[test]
fn a_claim_may_stand_within_others() {
    let realm = issuer("realm_access.roles");
    assert_eq!(allowed(&realm, &json!({ "realm_access": { "roles": ["gold"] } })), Ok(100));
    assert_eq!(allowed(&realm, &json!({ "realm_access.roles": "bronze" })), Ok(1), "a name with a dot");
    for within in [json!(["gold"]), json!("gold"), json!({ "groups": ["gold"] })] {
        assert!(allowed(&realm, &json!({ "realm_access": within })).is_err(), "{within}");
    }
    let namespaced = issuer("https://example.com/plan");
    assert_eq!(allowed(&namespaced, &json!({ "https://example.com/plan": "bronze" })), Ok(1));
}

#[test]
fn without_a_claim_to_read_the_default_plan_holds() {
    let issuer = Issuer { plan_claim: None, plan_required: false, ..issuer("") };
    assert_eq!(allowed(&issuer, &json!({ "roles": 5 })), Ok(0));
}

fn claims(json: Value) -> Claims {
    let Value::Object(claims) = json else { panic!("claims") };
    claims
}

/// What a bearer and an operator are told about a token that would be refused whatever key signed it.
#[test]
fn what_is_no_signed_token_is_told_as_what_it_is() {
    let read = |shown: &str| {
        let shown = Shown::of(shown.as_bytes()).expect("the form of a token");
        Token::read(shown).err().expect("a fault")
    };
    let long = format!("eyJhbGciOiJSUzI1NiJ9.e30.{}", "x".repeat(16 * 1024));
    for (shown, is_guess, hears, operator) in [
        ("eyJhbGciOiJub25lIn0.e30.", true, "method", "\"none\""),
        ("eyJhbGciOiJIUzI1NiJ9.e30.abcd", true, "method", "\"HS256\""),
        ("eyJhbGciOiJFUzUxMiJ9.e30.abcd", true, "method", "\"ES512\""),
        ("eyJ0eXAiOiJKV1QifQ.e30.abcd", true, "method", "\"\""),
        (
            "eyJhbGciOiJSUzI1NiIsImNyaXQiOlsiYjY0Il0sImI2NCI6ZmFsc2V9.e30.abcd",
            true,
            "extensions",
            "extensions",
        ),
        ("eyJ.e30.abcd", true, "cannot be read", "cannot be read"),
        ("eyJhbGciOiJSUzI1NiJ9.MTIz.abcd", true, "cannot be read", "cannot be read"),
        ("eyJhbGciOiJSUzI1NiJ9.a.b.c.d", false, "encrypted (JWE)", "encrypted (JWE)"),
        (&long, false, "longer than 16384 bytes", "longer than 16384 bytes"),
    ] {
        let fault = read(shown);
        assert_eq!(fault.is_guess(), is_guess, "{fault}");
        assert!(fault.to_string().contains(hears), "{fault}");
        assert!(fault.for_operators().contains(operator), "{}", fault.for_operators());
    }
    for key in ["ey.a", "mg-abc.def.ghi", "eyJ.a.b.c", "sk-1", ""] {
        assert_eq!(Shown::of(key.as_bytes()), None, "{key}");
    }
}

/// A token may hold any number of long names: an operator reads the first of them, in their order.
#[test]
fn an_operator_is_told_no_more_than_fits() {
    let told = |found: &[&str], configured: &[&str]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let details =
            TokenFault::Audience { found: texts(found), configured: texts(configured) }.for_operators();
        details
            .strip_prefix("of the token: it is meant for another audience; ")
            .expect("its words")
            .to_owned()
    };
    let (longest, names) = ("é".repeat(300), (100..141).map(|number| number.to_string()).collect::<Vec<_>>());
    let names: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    let quoted =
        |names: &[&str]| names.iter().rev().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    assert_eq!(told(&[], &["b", "a"]), "its aud is none, and jwt.audience is \"a\", \"b\"");
    assert_eq!(
        told(&names[1..], &[&longest]),
        format!("its aud is {}, and jwt.audience is {longest:?}", quoted(&names[1..]))
    );
    assert_eq!(
        told(&names, &[&format!("{longest}x")]),
        format!("its aud is {} and 1 more, and jwt.audience is {longest:?}…", quoted(&names[1..]))
    );
}

/// Each of these used to be "its signature is of no known issuer", and was throttled as a forgery.
#[test]
fn an_operator_hears_how_an_issuer_differs() {
    let entra = "https://login.microsoftonline.com/T/v2.0";
    for (found, configured, hint) in [
        (Some("https://sts.windows.net/T/"), entra, "requestedAccessTokenVersion"),
        (Some(entra), "https://sts.windows.net/T/", "v2 token of Entra ID"),
        (Some("https://x.auth0.com/"), "https://x.auth0.com", "the slash at the end"),
        (Some("https://id.example/o/llm"), "https://id.example/o/llm/", "the slash at the end"),
        (Some("http://id.example"), "https://id.example", "http and https"),
        (Some("https://ID.example"), "https://id.example", "upper and lower case"),
        (Some("https://login.microsoftonline.com/U/v2.0"), entra, "set jwt.issuer to what tokens say"),
        (None, entra, "no claim \"iss\""),
    ] {
        let found = found.map(str::to_owned);
        let fault = TokenFault::Issuer { found: found.clone(), configured: vec![configured.to_owned()] };
        let (hears, operator) = (fault.to_string(), fault.for_operators());
        assert!(operator.contains(hint) && operator.contains(configured), "{operator}");
        assert!(found.is_none_or(|found| operator.contains(&found) && !hears.contains(&found)), "{hears}");
        assert!(!fault.is_guess() && !hears.contains(configured), "{hears}");
    }
}

#[test]
fn a_consumer_that_is_missing_no_text_or_no_name_is_told_apart() {
    let by_email =
        Issuer { consumer_claim: "email".into(), plan_claim: None, plan_required: false, ..issuer("") };
    let of = |json| bearer(&by_email, &HashMap::new(), &claims(json));
    let machine = json!({ "iss": "x", "azp": "batch-job", "sub": "5f3c" });
    for (json, hears, operator) in [
        (machine, "no claim \"email\"", "\"azp\", \"iss\", \"sub\"; is it a machine's"),
        (json!({ "iss": "x", "client_id": "batch-job" }), "no claim", "consumer_claim: client_id"),
        (json!({ "email": null }), "no claim \"email\"", "\"email\""),
        (json!({ "email": 5 }), "is not a text but a number", "a number"),
        (json!({ "email": ["a@b"] }), "is not a text but a list", "a list"),
        (json!({ "email": " " }), "cannot be used as the name of its consumer: it is empty", "empty"),
        (json!({ "email": "a\nb" }), "it holds a control character", "control"),
    ] {
        let fault = of(json).expect_err("a fault");
        assert!(fault.to_string().contains(hears), "{fault}");
        assert!(fault.for_operators().contains(operator), "{}", fault.for_operators());
        assert!(!fault.to_string().contains("azp") && !fault.for_operators().contains("5f3c"), "{fault}");
    }
    let key = of(json!({ "email": "Ada <ada+llm@example.com>" })).expect("a key");
    assert_eq!(key.consumer.name, "Ada%20%3Cada+llm@example.com%3E");
}

#[test]
fn of_an_issuers_entries_the_first_counts_that_a_token_is_for_and_that_names_its_consumer() {
    let entry = |audience: &str, claim: &str| Issuer {
        audience: vec![audience.into()],
        consumer_claim: claim.into(),
        ..issuer("roles")
    };
    let entries = [entry("other", "email"), entry("llm", "email"), entry("llm", "azp")];
    let entries: Vec<&Issuer> = entries.iter().collect();
    let chosen = |json| {
        let entry = entry_for(&entries, &claims(json)).map_err(|fault| fault.to_string())?;
        Ok::<_, String>(format!("{} {}", entry.audience[0], entry.consumer_claim))
    };
    for (json, expected) in [
        (json!({ "aud": "llm", "email": "a@b", "azp": "c" }), "llm email"),
        (json!({ "aud": ["x", "llm"], "azp": "c" }), "llm azp"),
        (json!({ "aud": ["llm", "other"], "email": "a@b" }), "other email"),
        (json!({ "aud": "llm" }), "llm email"),
    ] {
        assert_eq!(chosen(json.clone()).as_deref(), Ok(expected), "{json}");
    }
    let fault = |json| chosen(json).expect_err("a fault");
    assert_eq!(fault(json!({ "aud": ["x"], "email": "a@b" })), "it is meant for another audience");
    assert!(fault(json!({ "aud": 5 })).contains("no claim \"aud\""));
}

/// A subject and a consumer's name may be the same text.
#[test]
fn limits_are_counted_by_subject_and_else_by_name() {
    let by_azp =
        Issuer { consumer_claim: "azp".into(), plan_claim: None, plan_required: false, ..issuer("") };
    let other = Issuer { issuer: "https://other.example".into(), ..by_azp.clone() };
    let digest =
        |issuer: &Issuer, json| bearer(issuer, &HashMap::new(), &claims(json)).expect("a key").digest;
    let user = digest(&by_azp, json!({ "azp": "app", "sub": "x" }));
    assert_eq!(user, digest(&by_azp, json!({ "azp": "another-app", "sub": "x" })), "the same subject");
    let machine = digest(&by_azp, json!({ "azp": "x" }));
    assert_eq!(machine, digest(&by_azp, json!({ "azp": "x", "sub": "" })));
    let others = [digest(&other, json!({ "azp": "app", "sub": "x" })), digest(&other, json!({ "azp": "x" }))];
    assert!(machine != user && !others.contains(&user) && !others.contains(&machine));
}

/// Usage of keys that stand for tokens is told by their consumer; that of keys in the configuration by their name.
#[test]
fn a_key_that_stands_for_a_token_is_known_by_its_name() {
    for (name, expected) in
        [("jwt:alice", true), ("jwt:", true), ("jwt", false), ("alice", false), ("a-jwt:b", false)]
    {
        assert_eq!(is_of_token(name), expected, "{name}");
    }
}
