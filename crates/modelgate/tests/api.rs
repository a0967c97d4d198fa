//! The admin REST API of a running Modelgate, with SQLite and with PostgreSQL.

mod common;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime},
};

use common::{
    auth::Auth,
    both::{ADMIN, FILE_KEY, READER, TestStore},
};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use testkit::{
    Stopwatch, eventually,
    modelgate::Modelgate,
    need,
    postgres::{Postgres, postgres_binary},
    sim::Sim,
};

with_both! {
    a_key_is_made_used_limited_rotated_and_revoked
    what_was_used_and_who_did_what_is_told
    the_same_again_changes_nothing
    accounts_of_the_file_are_shown_and_not_changed
    a_hundred_keys_are_listed_page_by_page
    whatever_is_wrong_is_named
    schemathesis_finds_nothing
}

struct Api {
    client: reqwest::Client,
    url: String,
    token: &'static str,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    fn of(modelgate: &Modelgate, token: &'static str) -> Self {
        let url = format!("{}/api/v1", modelgate.admin_url());
        Self { client: testkit::client(), url, token }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        request.bearer_auth(self.token).timeout(Duration::from_secs(30))
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(method, path).json(body)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body).await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, body).await
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::PATCH, path).header(CONTENT_TYPE, "application/merge-patch+json");
        Answer::of(request.body(body.to_string())).await
    }

    async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// What the audit log says of somebody's deeds, newest first: what was done to what.
    async fn deeds(&self, actor: &str) -> Vec<String> {
        let audit = self.get(&format!("/audit?actor={actor}&limit=1000")).await.good(200);
        let deed = |entry: &Value| format!("{}: {}", text(&entry["action"]), text(&entry["subject"]));
        list(&audit["items"]).iter().map(deed).collect()
    }
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.text().await.expect("a body");
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        Self { status, headers, body }
    }

    /// The body, if it was good.
    #[track_caller]
    fn good(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        self.body
    }

    /// The problem's code and the places that are wrong, sorted, if it was one.
    #[track_caller]
    fn problem(&self, status: u16) -> (&str, Vec<&str>) {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json", "{:?}", self.body);
        assert_eq!(self.body["status"], status);
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut places: Vec<&str> = errors.iter().map(|error| text(&error["place"])).collect();
        places.sort_unstable();
        (text(&self.body["code"]), places)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

fn names(listed: &Value) -> Vec<&str> {
    list(&listed["items"]).iter().map(|item| text(&item["name"])).collect()
}

/// What `/v1/models` says to a key; nothing if it is refused.
async fn models(modelgate: &Modelgate, key: &str) -> Option<Value> {
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let request = client.get(format!("{}/v1/models", modelgate.requests_url())).bearer_auth(key);
    let answer = request.send().await.expect("an answer");
    if answer.status() != 200 {
        return None;
    }
    let models: Value = answer.json().await.expect("JSON");
    Some(list(&models["data"]).iter().map(|model| model["id"].clone()).collect())
}

async fn a_key_is_made_used_limited_rotated_and_revoked(place: TestStore) {
    let sim = Sim::start("sim", &["llama", "qwen"]);
    let modelgate = place.start(&sim).await;
    let (api, auth) = (Api::of(&modelgate, ADMIN), Auth::of(&modelgate));

    let plan = json!({ "name": "gold", "models": ["llama*"], "priority": "high", "limit_per_model": { "tokens_per_day": 1000 } });
    let made = api.post("/plans", &plan).await.good(201);
    assert_eq!((&made["source"], &made["priority"]), (&json!("store"), &json!("high")));
    api.put("/consumers/team", &json!({ "plan": "gold", "limit": { "requests_per_hour": 50 } }))
        .await
        .good(201);
    let made = api
        .post(
            "/keys",
            &json!({ "name": "ci", "consumer": "team", "plan": "gold", "limit": { "requests_per_hour": 3 } }),
        )
        .await;
    assert_eq!(made.headers["location"], "/api/v1/keys/ci");
    let odd = api.post("/plans", &json!({ "name": "eu/a=1" })).await;
    let location = odd.headers["location"].to_str().expect("text").to_owned();
    let path = location.strip_prefix("/api/v1").expect("below the API");
    assert_eq!(api.get(path).await.good(200)["name"], "eu/a=1", "{location}");
    api.delete(path).await;
    let made = made.good(201);
    let first = text(&made["api_key"]).to_owned();
    assert_eq!((&made["state"], &made["source"]), (&json!("active"), &json!("store")));
    assert!(made.get("sha256").is_none() && made.get("last_used").is_none(), "{made}");

    auth.soon(&first, 200).await;
    assert_eq!(models(&modelgate, &first).await, Some(json!(["llama"])), "the plan's models");
    let shown = api.get("/keys/ci").await.good(200);
    assert!(shown.get("api_key").is_none() && shown.get("sha256").is_none(), "shown once: {shown}");

    what_is_left_is_told_as_to_the_caller(&api).await;
    let [second, third] = it_is_rotated(&modelgate, &api, &auth, &first).await;
    it_is_disabled_expired_and_deleted(&api, &auth, &third).await;
    // Nobody has written a key down.
    let (dump, log) = (place.dump().await, modelgate.log());
    let audit = api.get("/audit?limit=1000").await.good(200).to_string();
    assert!(dump.contains("key ci") && audit.contains("key ci"), "what is searched is there");
    for key in [&first, &second, &third] {
        for text in [&dump, &log, &audit] {
            assert!(!text.contains(key.as_str()), "a key in clear");
        }
    }
}

async fn what_is_left_is_told_as_to_the_caller(api: &Api) {
    let left = api.get("/keys/ci/limits?model=llama").await.good(200);
    let of = |scope: &str| list(&left["limits"]).iter().find(|l| l["scope"] == scope).cloned();
    let hour = of("key").expect("the key's own");
    assert_eq!((&hour["amount"], &hour["per"], &hour["remaining"]), (&json!(3), &json!("hour"), &json!(2)));
    let day = of("key_and_model").expect("the plan's");
    assert_eq!((&day["unit"], &day["amount"]), (&json!("estimated_tokens"), &json!(1000)));
    assert!((1..1000).contains(&day["remaining"].as_u64().expect("a number")), "{day}");
    assert!(of("consumer").is_some(), "{left}");
    assert_eq!(api.get("/keys/ci/limits?model=qwen").await.problem(404).0, "not_found");
}

/// Both work, then one. The keys that it had after the first.
async fn it_is_rotated(modelgate: &Modelgate, api: &Api, auth: &Auth, first: &str) -> [String; 2] {
    let rotated = api.post("/keys/ci/rotate", &json!({ "grace": "1h" })).await.good(200);
    let second = text(&rotated["api_key"]).to_owned();
    assert_eq!(rotated["state"], "rotated");
    let until_when = humantime::parse_rfc3339(text(&rotated["old_key_works_until"])).expect("a time");
    let grace = until_when.duration_since(SystemTime::now()).expect("later").as_secs();
    assert!((3500..=3600).contains(&grace), "{grace}");
    auth.soon(&second, 200).await;
    assert_eq!(models(modelgate, first).await, Some(json!(["llama"])), "still");
    // A patch may have a part of it; what the rest of it was stays.
    let later = json!({ "previous": { "until": rotated["old_key_works_until"] } });
    let same = api.patch("/keys/ci", &later).await.good(200);
    assert_eq!(same["old_key_works_until"], rotated["old_key_works_until"]);
    assert_eq!(models(modelgate, first).await, Some(json!(["llama"])), "still");
    let ended = api.patch("/keys/ci", &json!({ "previous": null })).await.good(200);
    assert_eq!((&ended["state"], ended.get("old_key_works_until")), (&json!("active"), None));
    auth.soon(first, 401).await;
    let third = api.post("/keys/ci/rotate", &json!({ "grace": "2s" })).await.good(200);
    let third = text(&third["api_key"]).to_owned();
    auth.soon(&third, 429).await;
    assert!(models(modelgate, &third).await.is_some(), "it works, its hour is used up");
    eventually(Duration::from_secs(60), || async {
        models(modelgate, &second).await.is_none().then_some(())
    })
    .await;
    assert_eq!(api.get("/keys/ci").await.good(200)["state"], "active");
    [second, third]
}

/// Disabled by itself and by its consumer.
async fn it_is_disabled_expired_and_deleted(api: &Api, auth: &Auth, key: &str) {
    for (path, patch, back) in [
        ("/keys/ci", json!({ "disabled": true }), json!({ "disabled": null })),
        ("/consumers/team", json!({ "disabled": true }), json!({ "disabled": false })),
        ("/keys/ci", json!({ "expires": "2020-01-01T00:00:00Z" }), json!({ "expires": null })),
    ] {
        api.patch(path, &patch).await.good(200);
        let state = if patch.get("expires").is_some() { "expired" } else { "disabled" };
        assert_eq!(api.get("/keys/ci").await.good(200)["state"], state, "{path} {patch}");
        auth.soon(key, 401).await;
        api.patch(path, &back).await.good(200);
        auth.soon(key, 429).await;
    }
    assert_eq!(api.delete("/consumers/team").await.problem(409).0, "conflict", "it has a key");
    assert_eq!(api.delete("/keys/ci").await.status, 204);
    auth.soon(key, 401).await;
    assert_eq!(api.delete("/consumers/team").await.status, 204);
    assert_eq!(api.delete("/plans/gold").await.status, 204);
}

async fn what_was_used_and_who_did_what_is_told(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let (api, auth) = (Api::of(&modelgate, ADMIN), Auth::of(&modelgate));
    let key = api.post("/keys", &json!({ "name": "a" })).await.good(201);
    let key = text(&key["api_key"]).to_owned();
    auth.soon(&key, 200).await;
    assert_eq!(auth.status(&key).await, 200);
    let usage = eventually(Duration::from_secs(60), || async {
        let usage = api.get("/usage?key=a&consumer=a&model=llama").await.good(200);
        (list(&usage["items"]).first().is_some_and(|row| row["requests"] == 2)).then_some(usage)
    })
    .await;
    let row = &usage["items"][0];
    assert!(row["estimated_tokens"].as_u64().expect("a number") >= 20, "two requests of ten and more: {row}");
    let day = text(&row["day"]);
    let rows = async |query: String| list(&api.get(&query).await.good(200)["items"]).len();
    assert_eq!(rows(format!("/usage?from={day}&to={day}")).await, 1);
    assert_eq!(rows("/usage?to=2020-01-01".into()).await, 0);
    assert_eq!(rows("/usage?key=b".into()).await, 0);
    let by_hour = api.get("/usage?by=hour,consumer").await.good(200)["items"][0].clone();
    let hour = humantime::parse_rfc3339(text(&by_hour["hour"])).expect("a time");
    assert!(hour.elapsed().expect("before now") < Duration::from_secs(7_200), "{by_hour}");
    assert_eq!((&by_hour["consumer"], by_hour.get("key"), by_hour.get("day")), (&json!("a"), None, None));
    assert_eq!(by_hour["prompt_tokens"], row["prompt_tokens"]);
    let shown = api.get("/keys/a").await.good(200);
    let last = humantime::parse_rfc3339(text(&shown["last_used"])).expect("a time");
    assert!(last.elapsed().expect("before now") < Duration::from_secs(600), "{shown}");
    assert_eq!(api.get("/keys?search=A").await.good(200)["items"][0]["last_used"], shown["last_used"]);

    let reader = Api::of(&modelgate, READER);
    assert_eq!(reader.delete("/keys/a").await.problem(403).0, "read_only");
    api.patch("/keys/a", &json!({ "note": "hello" })).await.good(200);
    place.run(&["keys", "disable", "a"]);
    who_did_what_is_told_by_name_and_origin(&reader).await;
    the_log_comes_page_by_page_and_as_lines(&reader).await;
    what_else_is_known_is_told(&reader).await;
    let person = json!({ "key": "a" });
    assert_eq!(reader.post("/usage/erase", &person).await.problem(403).0, "read_only");
    for wrong in [
        json!({}),
        json!({ "key": "a", "consumer": "a" }),
        json!({ "plan": "a" }),
        json!({ "key": "" }),
        json!({ "key": "a", "consumer": null }),
    ] {
        assert_eq!(api.post("/usage/erase", &wrong).await.problem(422).0, "invalid", "{wrong}");
    }
    let erased = api.post("/usage/erase", &person).await.good(200);
    assert!(erased["rows_of_usage"] == 2 && erased["entries"].as_u64() >= Some(2), "{erased}");
    let nobody = api.get("/usage").await.good(200)["items"][0].clone();
    assert_eq!((&nobody["key"], &nobody["consumer"]), (&json!("(erased)"), &json!("(erased)")));
    assert_eq!((&nobody["tokens"], &nobody["requests"]), (&row["tokens"], &row["requests"]));
}

async fn who_did_what_is_told_by_name_and_origin(reader: &Api) {
    assert_eq!(reader.deeds("alice").await, ["key changed: key a", "key created: key a"]);
    assert_eq!(reader.deeds("command%20line").await, ["key changed: key a"]);
    assert_eq!(reader.deeds("bob").await, [""; 0], "refused");
    let found = reader.get("/audit?subject=key%20a&action=key%20created").await.good(200);
    assert_eq!((names_of_actors(&found), &found["next"]), (vec!["alice"], &Value::Null));
    assert!(found["items"][0]["details"].get("sha256").is_none(), "{found}");
    assert_eq!(
        (&found["items"][0]["address"], &found["items"][0]["host"]),
        (&json!("127.0.0.1"), &Value::Null)
    );
    let there = reader.get("/audit?actor=command%20line").await.good(200)["items"][0].clone();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!((&there["address"], &there["host"]), (&Value::Null, &json!(host.trim())), "it has no address");
}

async fn the_log_comes_page_by_page_and_as_lines(reader: &Api) {
    let page = reader.get("/audit?limit=1&subject=key%20a").await.good(200);
    assert_eq!(names_of_actors(&page), ["command line (ada)"]);
    let next = text(&page["next"]);
    let page = reader.get(&format!("/audit?limit=5&subject=key%20a&before={next}")).await.good(200);
    assert_eq!(names_of_actors(&page), ["alice", "alice"]);
    let by_header =
        reader.request(Method::GET, "/audit?subject=key%20a").header("accept", "application/x-ndjson");
    for request in [by_header, reader.request(Method::GET, "/audit?subject=key%20a&format=jsonl")] {
        let lines = Answer::of(request).await;
        assert_eq!(lines.headers[CONTENT_TYPE], "application/x-ndjson");
        let lines: Vec<Value> =
            text(&lines.body).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            lines.iter().map(|entry| text(&entry["actor"])).collect::<Vec<_>>(),
            ["command line (ada)", "alice", "alice"]
        );
    }
}

async fn what_else_is_known_is_told(reader: &Api) {
    let known = reader.get("/models").await.good(200);
    assert_eq!((names(&known), &known["items"][0]["state"]), (vec!["llama"], &json!("ready")));
    let known = reader.get("/servers").await.good(200);
    assert_eq!((names(&known), &known["items"][0]["models"]), (vec!["sim"], &json!(["llama"])));
    let status = reader.get("/status").await.good(200);
    assert_eq!((&status["ready"], &status["store"]["state"]), (&json!(true), &json!("up")));
    assert_eq!(status["known"], json!({ "models": 1, "servers": 1, "problems": 0 }));
    assert_eq!(status["keys_in_force"], 2);
}

fn names_of_actors(audit: &Value) -> Vec<&str> {
    list(&audit["items"]).iter().map(|entry| text(&entry["actor"])).collect()
}

async fn the_same_again_changes_nothing(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let api = Api::of(&modelgate, ADMIN);
    for (path, body) in [
        ("/plans/p", json!({ "limit": { "requests_per_minute": 5 }, "note": null })),
        ("/consumers/c", json!({ "plan": "p", "name": "c" })),
        ("/keys/k", json!({ "consumer": "c", "models": ["llama*"], "networks": ["127.0.0.0/8", "::1"] })),
    ] {
        let made = api.put(path, &body).await;
        assert_eq!(made.headers["location"], format!("/api/v1{path}"));
        let mut made = made.good(201);
        let again = api.put(path, &body).await.good(200);
        made.as_object_mut().expect("an object").remove("api_key");
        assert_eq!(again, made, "the same, and no other key");
        let patch = json!({ "note": "x", "limit": { "requests_per_hour": 9 } });
        let changed = api.patch(path, &patch).await.good(200);
        assert_eq!(api.patch(path, &patch).await.good(200), changed);
        assert_eq!(changed["note"], "x");
        let undone = api.patch(path, &json!({ "note": null, "limit": { "requests_per_hour": null } })).await;
        // With its last limit the key, too, is gone.
        assert_eq!(undone.good(200).get("limit"), made.get("limit"), "{path}");
    }
    let budgets =
        json!({ "limit": { "budget_total": 0.5, "budget_per_day": "0.25", "budget_kind": "hard" } });
    let mut made = api.put("/plans/money", &budgets).await.good(201);
    assert_eq!(made["limit"]["budget_kind"], "hard", "{made}");
    // What is shown is accepted.
    made.as_object_mut().expect("an object").retain(|key, _| ["name", "limit"].contains(&key.as_str()));
    assert_eq!(api.put("/plans/money", &made).await.good(200)["limit"], made["limit"]);
    let wrong = api.put("/plans/money", &json!({ "limit": { "budget_total": true } })).await;
    assert_eq!(wrong.problem(422).1, ["limit.budget_total"]);
    for path in ["/keys/k", "/consumers/c", "/plans/p", "/plans/money"] {
        assert_eq!(api.delete(path).await.status, 204);
        assert_eq!(api.delete(path).await.status, 204, "gone already");
        assert_eq!(api.get(path).await.problem(404).0, "not_found");
        assert_eq!(api.patch(path, &json!({})).await.problem(404).0, "not_found");
    }
    let deeds = api.deeds("alice").await;
    for (kind, name) in [("plan", "p"), ("consumer", "c"), ("key", "k")] {
        for action in ["created", "deleted"] {
            let deed = format!("{kind} {action}: {kind} {name}");
            assert_eq!(deeds.iter().filter(|other| **other == deed).count(), 1, "{deed}: {deeds:?}");
        }
    }
}

async fn accounts_of_the_file_are_shown_and_not_changed(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let api = Api::of(&modelgate, ADMIN);
    for (path, name) in [("/plans", "file-plan"), ("/consumers", "file-team"), ("/keys", "in-file")] {
        let listed = api.get(path).await.good(200);
        assert_eq!(
            (names(&listed), &listed["total"], &listed["next"]),
            (vec![name], &json!(1), &Value::Null)
        );
        let one = format!("{path}/{name}");
        let shown = api.get(&one).await.good(200);
        assert_eq!((&shown, &shown["source"]), (&listed["items"][0], &json!("file")));
        assert!(shown.get("sha256").is_none() && shown.get("created").is_none(), "{shown}");
        let in_file = "in_configuration_file";
        assert_eq!(api.post(path, &json!({ "name": name })).await.problem(409).0, in_file);
        assert_eq!(api.put(&one, &json!({})).await.problem(409).0, in_file);
        assert_eq!(api.patch(&one, &json!({ "note": "mine" })).await.problem(409).0, in_file);
        assert_eq!(api.delete(&one).await.problem(409).0, in_file);
    }
    let rotated = api.post("/keys/in-file/rotate", &json!({ "grace": "1h" })).await;
    assert_eq!(rotated.problem(409).0, "in_configuration_file");
    let same = json!({ "name": "copy", "sha256": access::KeyDigest::of(FILE_KEY).to_hex() });
    assert_eq!(api.post("/keys", &same).await.problem(409).0, "conflict", "the same API key");
    let left = api.get("/keys/in-file/limits").await.good(200);
    assert_eq!((&left["consumer"], &left["limits"][0]["scope"]), (&json!("file-team"), &json!("consumer")));
    // What the store has may refer to what the file has.
    api.post("/keys", &json!({ "name": "k", "consumer": "file-team", "plan": "file-plan" })).await.good(201);
    assert_eq!(names(&api.get("/keys?consumer=file-team").await.good(200)), ["in-file", "k"]);
    assert_eq!(names(&api.get("/keys?plan=file-plan").await.good(200)), ["k"]);
    assert_eq!(names(&api.get("/consumers?plan=file-plan").await.good(200)), ["file-team"]);
}

async fn a_hundred_keys_are_listed_page_by_page(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let api = Api::of(&modelgate, ADMIN);
    let mut expected = BTreeSet::from(["in-file".to_owned()]);
    for n in 0..100 {
        let name = format!("{}{n}", ["Key-", "key_", "k.", "KEY@"][n % 4]);
        api.post("/keys", &json!({ "name": name, "consumer": format!("team-{}", n % 3) })).await.good(201);
        expected.insert(name);
    }
    let (mut found, mut path, mut pages) = (Vec::new(), "/keys?limit=30".to_owned(), 0);
    loop {
        let page = api.get(&path).await.good(200);
        assert_eq!(page["total"], 101);
        assert!(list(&page["items"]).len() <= 30);
        found.extend(names(&page).into_iter().map(str::to_owned));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = format!("/keys?limit=30&after={next}"),
            None => break,
        }
    }
    assert_eq!((found, pages), (expected.into_iter().collect::<Vec<_>>(), 4));
    let searched = api.get("/keys?search=KEY_&limit=1000").await.good(200);
    assert_eq!((&searched["total"], list(&searched["items"]).len()), (&json!(25), 25), "no pattern");
    let of_team = api.get("/keys?consumer=team-1&limit=5").await.good(200);
    assert_eq!((&of_team["total"], list(&of_team["items"]).len()), (&json!(33), 5));
    assert_eq!(list(&api.get("/keys").await.good(200)["items"]).len(), 100, "if nobody says how many");
}

async fn whatever_is_wrong_is_named(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let api = Api::of(&modelgate, ADMIN);
    api.post("/keys", &json!({ "name": "k" })).await.good(201);
    wrong_documents(&api).await;
    for (kind, unknown) in [("plans", "disabled"), ("consumers", "models"), ("keys", ""), ("keys", "plna")] {
        unknown_keys_that_are_null(&api, kind, unknown).await;
    }
    wrong_queries_and_names(&api).await;
    conflicts(&api).await;
    wrong_bodies(&api).await;
    wrong_methods_and_tokens(&api, &Api::of(&modelgate, READER)).await;
}

async fn wrong_documents(api: &Api) {
    for (body, places) in [
        // Who names no consumer means one of the key's name.
        (json!({}), vec!["name"]),
        (json!({ "name": "a b", "consumer": "" }), vec!["consumer", "name"]),
        (json!({ "name": "a", "plan": "none" }), vec!["plan"]),
        (json!({ "name": "a", "sha256": "mg-secret" }), vec!["sha256"]),
        (json!({ "name": "a", "limit": {} }), vec!["limit.requests_per_minute"]),
        (
            json!({ "name": "a", "limit": { "burst": 3, "requests_per_day": 0 } }),
            vec!["limit.burst", "limit.requests_per_day"],
        ),
        (json!({ "name": "a", "limit": { "requests_per_minute": "60" } }), vec!["limit.requests_per_minute"]),
        (json!({ "name": 1, "models": "llama", "disabled": "yes" }), vec!["disabled", "models", "name"]),
        (
            json!({ "name": "a", "models": ["a["], "expires": "soon", "networks": ["x"] }),
            vec!["expires", "models[0]", "networks[0]"],
        ),
        (json!({ "name": "a", "state": "active" }), vec!["the document"]),
        (json!([1]), vec!["the document"]),
    ] {
        let answer = api.post("/keys", &body).await;
        assert_eq!(answer.problem(422), ("invalid", places), "{body}");
        assert!(!answer.body.to_string().contains("mg-secret"), "{}", answer.body);
    }
    for (body, places) in [
        (json!({}), vec!["grace"]),
        (json!({ "grace": "1000000h" }), vec!["grace"]),
        (json!({ "grace": 5 }), vec!["grace"]),
        (json!({ "grace": "1h", "when": "now" }), vec!["the document"]),
    ] {
        assert_eq!(api.post("/keys/k/rotate", &body).await.problem(422), ("invalid", places), "{body}");
    }
    assert_eq!(api.put("/keys/k", &json!({ "name": "other" })).await.problem(422).1, ["name"]);
    assert_eq!(api.patch("/keys/k", &json!({ "sha256": null })).await.problem(422).1, ["sha256"]);
}

/// A key that nobody knows is one also when it is null, in each kind of account and of change.
async fn unknown_keys_that_are_null(api: &Api, kind: &str, unknown: &str) {
    let body = json!({ "name": "n", unknown: null, "limit": { "requests_per_day": 1, "burst": null } });
    let place = |place: &'static str| ("invalid", vec![place]);
    assert_eq!(api.post(&format!("/{kind}"), &body).await.problem(422), place("the document"), "{body}");
    let path = format!("/{kind}/n");
    assert_eq!(api.put(&path, &body).await.problem(422), place("the document"), "{body}");
    assert!(matches!(api.put(&path, &json!({ "name": null, "note": null })).await.status, 200 | 201));
    let patch = json!({ unknown: null });
    assert_eq!(api.patch(&path, &patch).await.problem(422), place("the document"), "{path}: {patch}");
    let patch = json!({ "limit": { "requests_per_month": null, "requests_per_year": null } });
    let answer = api.patch(&path, &patch).await;
    assert_eq!(answer.problem(422).1, ["limit", "limit.requests_per_minute"], "{path}: {patch}");
    let patch = json!({ "limit": { "requests_per_month": null }, "note": null });
    assert!(api.patch(&path, &patch).await.good(200).get("limit").is_none());
    let nothing = json!({ "name": "m", "limit": { "requests_per_month": null } });
    assert_eq!(
        api.post(&format!("/{kind}"), &nothing).await.problem(422).1.last(),
        Some(&"limit.requests_per_minute")
    );
    assert_eq!(api.delete(&path).await.status, 204);
}

async fn wrong_queries_and_names(api: &Api) {
    for path in [
        "/keys?limit=0",
        "/keys?limit=1001",
        "/keys?limit=many",
        "/keys?limit=1&limit=2",
        "/keys?after=a%20b",
        "/keys?search=%00",
        "/keys?limt=1",
        "/plans?consumer=a",
        "/usage?from=2026-13-01",
        "/usage?to=yesterday",
        "/usage?by=week",
        "/audit?format=xml",
        "/status?verbose=1",
    ] {
        let (code, places) = (api.get(path).await, path.split(['?', '=']).nth(1).expect("a parameter"));
        assert_eq!(code.problem(400), ("bad_query", vec![places]), "{path}");
    }
    for path in [
        "/keys/nobody",
        "/keys/a%20b",
        "/keys/%ff",
        "/plans/a%2Fb",
        "/keys/nobody/limits",
        "/nothing",
        "",
        "/keys/",
    ] {
        assert_eq!(api.get(path).await.problem(404).0, "not_found", "{path}");
    }
    assert_eq!(api.post("/keys/nobody/rotate", &json!({ "grace": "1h" })).await.problem(404).0, "not_found");
    // As a token of an identity provider may name its consumer.
    let subject = "/consumers/repo:acme%2Fapp%23x%2520y";
    api.put(subject, &json!({})).await.good(201);
    assert_eq!(api.get(subject).await.good(200)["name"], "repo:acme/app#x%20y");
}

async fn conflicts(api: &Api) {
    let digest = access::KeyDigest::of("mg-x").to_hex();
    assert_eq!(api.post("/keys", &json!({ "name": "k" })).await.problem(409).0, "conflict");
    api.post("/keys", &json!({ "name": "given", "sha256": digest })).await.good(201);
    assert_eq!(
        api.post("/keys", &json!({ "name": "twin", "sha256": digest })).await.problem(409).0,
        "conflict"
    );
    api.put("/plans/p", &json!({})).await.good(201);
    api.patch("/keys/k", &json!({ "plan": "p" })).await.good(200);
    assert_eq!(api.delete("/plans/p").await.problem(409).0, "conflict");
}

async fn wrong_bodies(api: &Api) {
    let raw = |content_type: &'static str, body: String| {
        Answer::of(api.request(Method::POST, "/keys").header(CONTENT_TYPE, content_type).body(body))
    };
    for body in ["", "{", "{\"name\": \"a\"} x", "\u{feff}{}"] {
        assert_eq!(raw("application/json", body.into()).await.problem(400).0, "unreadable", "{body}");
    }
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", ""]
    {
        assert_eq!(raw(content_type, "{}".into()).await.problem(415).0, "wrong_media_type", "{content_type}");
    }
    let with_charset = raw("Application/JSON; charset=utf-8", json!({ "name": "l" }).to_string()).await;
    assert_eq!(with_charset.status, 201);
    let with_note = |length: usize| json!({ "name": "long", "note": "x".repeat(length) }).to_string();
    let long = |length: usize| with_note(length - with_note(0).len());
    assert_eq!(raw("application/json", long(64 << 10)).await.problem(422).1, ["note"]);
    assert_eq!(raw("application/json", long((64 << 10) + 1)).await.problem(413).0, "too_long");
}

async fn wrong_methods_and_tokens(api: &Api, reader: &Api) {
    let wrong = Answer::of(api.request(Method::PUT, "/keys")).await;
    assert_eq!(wrong.problem(405).0, "wrong_method");
    assert_eq!(wrong.headers["allow"], "GET,HEAD,POST");
    for (method, path) in [
        (Method::POST, "/keys"),
        (Method::PUT, "/plans/p"),
        (Method::PATCH, "/consumers/c"),
        (Method::DELETE, "/keys/k"),
        (Method::POST, "/keys/k/rotate"),
    ] {
        assert_eq!(
            reader.send(method.clone(), path, &json!({})).await.problem(403).0,
            "read_only",
            "{method} {path}"
        );
    }
    let nobody = Answer::of(api.client.get(format!("{}/keys", api.url)).header("accept", "text/html")).await;
    assert_eq!(nobody.problem(401).0, "unauthorized");
    assert!(nobody.headers.contains_key("www-authenticate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_file_is_shown_and_nothing_is_written() {
    let sim = Sim::start("sim", &["llama"]);
    let mut modelgate =
        Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &common::both::config(&sim)).await;
    modelgate.wait_ready().await;
    let api = Api::of(&modelgate, ADMIN);
    assert_eq!(names(&api.get("/keys").await.good(200)), ["in-file"]);
    assert_eq!(api.get("/keys/in-file").await.good(200)["state"], "active");
    assert_eq!(api.get("/status").await.good(200)["store"], json!({ "state": "off" }));
    for answer in [
        api.post("/keys", &json!({ "name": "a" })).await,
        api.put("/plans/p", &json!({})).await,
        api.delete("/keys/a").await,
        api.get("/usage").await,
        api.get("/audit").await,
    ] {
        assert_eq!(answer.problem(409).0, "no_store");
        assert!(text(&answer.body["detail"]).contains("state_dir"), "what to set: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_told_and_keeps_nobody_waiting_for_ever() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let mut server = Postgres::start(&binary).await;
    let sim = Sim::start("sim", &["llama"]);
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &common::both::config(&sim));
    let mut modelgate = builder.env("MODELGATE_STORE_URL", server.url()).start().await;
    modelgate.wait_ready().await;
    let api = Api::of(&modelgate, ADMIN);
    api.post("/keys", &json!({ "name": "a" })).await.good(201);
    for is_dead in [false, true] {
        if is_dead {
            server.kill();
        } else {
            server.freeze();
        }
        for path in ["/keys", "/keys/a", "/usage", "/audit"] {
            let start = Instant::now();
            let answer = api.get(path).await;
            assert_eq!(answer.problem(503).0, "unavailable", "{path}");
            assert!(answer.headers.contains_key("retry-after"));
            assert!(text(&answer.body["detail"]).contains("see whether"), "what to do: {}", answer.body);
            // The limit is 3 s.
            assert!(start.elapsed() < Duration::from_secs(9), "{path}: {:?}", start.elapsed());
        }
        assert_eq!(api.post("/keys", &json!({ "name": "b" })).await.problem(503).0, "unavailable");
        assert!(!api.get("/status").await.good(200).to_string().contains("password"));
        if is_dead {
            server.restart().await;
        } else {
            server.thaw();
        }
        eventually(Duration::from_secs(60), || async {
            (api.get("/keys/a").await.status == 200).then_some(())
        })
        .await;
    }
}

fn python() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/openapi/bin/python");
    let python = std::env::var_os("MODELGATE_TEST_SCHEMATHESIS");
    let python = python.map_or_else(|| PathBuf::from(installed), PathBuf::from);
    need(python.exists().then_some(python), "Python with schemathesis")
}

async fn run(mut command: Command) -> (bool, String) {
    let run = tokio::task::spawn_blocking(move || command.output().expect("Python runs"));
    let Output { status, stdout, stderr } = run.await.expect("it ended");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.success(), format!("{}{}", text(&stdout), text(&stderr)))
}

/// So many examples, and not for so long: what is tried does not depend on the machine's speed. JSON Schema cannot say that a plan must
/// exist, or what a pattern is. A consumer that keys name is there also without an entry, so a check of its own looks whether one that
/// was deleted is gone. 503 is what the API says if the store takes longer than 3 s; the test looks whether the machine was stalled.
const SCHEMATHESIS_SETTINGS: &str = r#"
hooks = "checks"
[phases.stateful]
generation.max-examples = 25
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "503"]
[[operations]]
include-path = "/consumers/{name}"
checks.use_after_free.enabled = false
"#;

/// `use_after_free` for consumers, and a list of what was answered with 503.
const SCHEMATHESIS_CHECKS: &str = r#"
import schemathesis
from schemathesis.specs.openapi.checks import use_after_free

@schemathesis.check
def a_deleted_consumer_is_gone(ctx, response, case):
    if case.operation.path != "/consumers/{name}":
        return True
    if case.method == "GET" and response.status_code == 200 and response.json()["source"] == "keys":
        return True
    return use_after_free(ctx, response, case)

@schemathesis.check
def unavailable_is_noted(ctx, response, case):
    if response.status_code == 503:
        with open("unavailable", "a") as file:
            file.write(f"{case.operation.label}: {response.text}\n")
"#;

/// The document is valid, and no request that it allows, or forbids, is answered otherwise than it says.
async fn schemathesis_finds_nothing(place: TestStore) {
    let Some(python) = python() else { return };
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let api = Api::of(&modelgate, ADMIN);
    let document = api.get("/openapi.json").await.good(200);
    let file = place.folder().join("openapi.json");
    std::fs::write(&file, document.to_string()).expect("written");
    let mut validate = Command::new(&python);
    validate.args(["-m", "openapi_spec_validator", "--errors", "all"]).arg(&file);
    let (is_valid, said) = run(validate).await;
    assert!(is_valid, "{said}");

    // Something to be found.
    api.put("/keys/k", &json!({ "plan": "file-plan" })).await.good(201);
    // What schemathesis lists systematically, some 5,000 requests, is about the reading of requests, which is the same with each store.
    let (phases, examples) = match place.variable() {
        ("MODELGATE_STATE_DIR", _) => ("coverage,fuzzing,stateful", 8),
        _ => ("fuzzing,stateful", 20),
    };
    let settings = format!("{SCHEMATHESIS_SETTINGS}[phases.fuzzing]\ngeneration.max-examples = {examples}\n");
    std::fs::write(place.folder().join("schemathesis.toml"), settings).expect("written");
    std::fs::write(place.folder().join("checks.py"), SCHEMATHESIS_CHECKS).expect("written");
    let mut schemathesis = Command::new(&python);
    schemathesis
        .current_dir(place.folder())
        .args(["-m", "schemathesis.cli", "run", "--no-color", "--continue-on-failure", "--phases", phases])
        // Wrong tokens from one address are slowed, and then the right one is, too. Another test tries them.
        .args(["--exclude-checks", "ignored_auth"])
        // One that reproduces: what it finds does not depend on the day.
        .args(["--seed", "1", "--suppress-health-check", "all", "--request-timeout", "15"])
        .args(["-H", &format!("Authorization: Bearer {ADMIN}")])
        .arg(format!("{}/openapi.json", api.url));
    let stopwatch = Stopwatch::start();
    let (is_good, said) = run(schemathesis).await;
    assert!(is_good, "{said}\n{}", modelgate.log());
    // One request after the other, each of which has waited for 3 s.
    let unavailable = std::fs::read_to_string(place.folder().join("unavailable")).unwrap_or_default();
    let held_up = stopwatch.held_up();
    assert!(unavailable.lines().count() as u64 <= held_up.as_secs() / 2, "{held_up:?}\n{unavailable}");
    let operations = document["paths"].as_object().expect("paths").values();
    let count = operations.flat_map(|path| path.as_object().expect("a path").keys());
    let count = count.filter(|method| *method != "parameters").count();
    // All but the document itself, which it has read before.
    assert!(said.contains(&format!("Tested: {}\n", count - 1)), "all operations: {said}");
    let log = modelgate.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}
