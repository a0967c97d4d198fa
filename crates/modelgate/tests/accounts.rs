//! `modelgate keys`, `consumers`, `plans`, `usage` and `audit`, with SQLite and with PostgreSQL, beside a running server.

mod common;

use std::{path::Path, time::Duration};

use common::{
    auth::Auth,
    both::{self, FILE_KEY, TestStore},
};
use serde_json::{Value, json};
use testkit::{eventually, modelgate::Modelgate, sim::Sim};

with_both! {
    a_key_is_made_changed_rotated_disabled_and_deleted
    plans_and_consumers_are_set_and_deleted
    what_cannot_be_done_is_said_and_nothing_is_changed
    what_was_used_and_who_did_what_is_printed
    keys_of_other_gateways_go_into_the_store
    keys_without_names_come_page_by_page
    a_backup_is_made_and_restored_while_the_server_runs
    a_file_says_which_accounts_there_are
}

impl TestStore {
    /// What a command prints, if all is well.
    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        stdout
    }

    /// The same as JSON.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let stdout = self.good(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// What a command says that cannot do it.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let (found, stdout, stderr) = self.run(arguments);
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
        stderr
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}

fn column<'a>(rows: &'a Value, name: &str) -> Vec<&'a str> {
    rows.as_array().expect("a list").iter().map(|row| text(&row[name])).collect()
}

/// The key that people are shown.
fn api_key(printed: &str) -> String {
    let line = printed.lines().map(str::trim).find(|line| line.starts_with("mg-"));
    line.unwrap_or_else(|| panic!("a key: {printed}")).to_owned()
}

/// Who begins with nothing is shown a key once, and never again.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_key_is_made_and_shown_once() {
    let sim = Sim::start("sim", &["llama"]);
    let config = format!("servers: [{{ url: \"{}\" }}]\n", sim.url());
    let builder = Modelgate::builder(both::BINARY, &config).keep_state();
    let mut modelgate = builder.env("MODELGATE_STORE_FIRST_KEY", "true").start().await;
    modelgate.wait_ready().await;
    let shown = modelgate.take_log();
    assert!(!shown.contains('\u{1b}'), "no colours without a terminal: {shown}");
    let key = api_key(&shown);
    Auth::of(&modelgate).until(&key, 200).await;
    let folder = modelgate.folder().to_owned();
    let run = |arguments: &[&str]| {
        let mut command = testkit::modelgate::command(both::BINARY);
        let command = command.env("MODELGATE_STATE_DIR", folder.join("state")).current_dir(&folder);
        let output = command.args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["keys", "revoke", "first"]);
    Auth::of(&modelgate).until(&key, 401).await;
    modelgate.stop().await;
    assert!(run(&["audit"]).contains("revoked_api_key"), "a stop writes what was refused a moment ago");
    modelgate.restart().await;
    modelgate.wait_ready().await;
    assert!(!modelgate.log().contains("first one was made"), "somebody has used this store");
}

/// The token that was shown at the first start is gone with the container's log; another one can be had.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_token_can_be_had_again() {
    let mut modelgate = Modelgate::builder(both::BINARY, "").keep_state().start().await;
    modelgate.wait_ready().await;
    let token = |text: &str| -> String {
        let line = text.lines().map(str::trim).find(|line| line.starts_with("mgadmin-"));
        line.unwrap_or_else(|| panic!("a token: {text}")).to_owned()
    };
    let shown = modelgate.log();
    assert!(shown.contains("modelgate admin token --new"), "{shown}");
    let first = token(&shown);
    let url = format!("{}/api/v1/audit", modelgate.admin_url());
    let status = async |token: &str| {
        let answer = testkit::client().get(&url).bearer_auth(token).send().await.expect("an answer");
        answer.status().as_u16()
    };
    assert_eq!(status(&first).await, 200);
    let state = modelgate.folder().join("state");
    let new = |state: &Path, more: &[(&str, &str)]| {
        let mut command = testkit::modelgate::command(both::BINARY);
        command.env("MODELGATE_STATE_DIR", state).envs(more.iter().copied()).current_dir(modelgate.folder());
        command.args(["admin", "token", "--new"]).output().expect("it runs")
    };
    let printed = String::from_utf8(new(&state, &[]).stdout).expect("text");
    let second = token(&printed);
    eventually(Duration::from_secs(60), || async { (status(&second).await == 200).then_some(()) }).await;
    assert_eq!(status(&first).await, 401, "the old one is over");
    assert!(!new(&state, &[]).stdout.is_empty(), "and again");
    let refused = new(&state, &[("MODELGATE_ADMIN_TOKEN", "a-token-of-the-configuration")]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("would not be used"));
    modelgate.stop().await;
}

async fn a_file_says_which_accounts_there_are(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("accounts.yaml");
    let file = path.display().to_string();
    let apply = ["apply", "-f", &file];
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    let digest = access::KeyDigest::of("mg-known").to_hex();
    write(&format!(
        "plans: [{{ name: free, limit: {{ requests_per_minute: 60 }} }}]\n\
         consumers: [{{ name: team, plan: free }}]\n\
         keys:\n  - {{ name: made, plan: free }}\n  - {{ name: known, consumer: team, sha256: \"{digest}\" }}\n"
    ));
    let dry = place.good(&[&apply[..], &["--dry-run"]].concat());
    let planned = "+ plan free\n+ consumer team\n+ key made\n+ key known\n4 changed, 0 as they were (--dry-run: nothing was changed)\n";
    assert_eq!(dry, planned);
    assert!(!place.good(&["keys", "list"]).contains("made"), "nothing was changed");
    let made = api_key(&place.good(&apply).replace("  (shown this once)", ""));
    auth.until(&made, 200).await;
    auth.until("mg-known", 200).await;
    assert_eq!(
        place.good(&apply),
        "0 changed, 4 as they were\n",
        "again, and without a digest the key stays"
    );
    let exported = place.good(&["export"]);
    write(&exported);
    assert_eq!(place.good(&[&apply[..], &["--prune"]].concat()), "0 changed, 4 as they were\n", "{exported}");
    write(
        "plans: [{ name: free, limit: { requests_per_minute: 30 } }]\nkeys: [{ name: made, plan: free, models: [\"llama*\"] }]\n",
    );
    let changed = place.good(&[&apply[..], &["--prune"]].concat());
    let expected = "~ plan free: limit: {\"requests_per_minute\":60} → {\"requests_per_minute\":30}\n\
                    ~ key made: models: not set → [\"llama*\"]\n- key known\n- consumer team\n4 changed, 0 as they were\n";
    assert_eq!(changed, expected);
    auth.until("mg-known", 401).await;
    auth.until(&made, 200).await;
    write(
        "keys:\n  - { name: a, modles: [] }\n  - { name: ok, plan: free }\n  - { name: b, plan: none }\n  - { name: b }\n",
    );
    let refused = place.refused(&apply, 1);
    for part in
        ["keys[0] a: unknown key `modles`", "keys[3] b: another one has this name", "nothing was changed"]
    {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    write("kyes: []\n");
    assert!(place.refused(&apply, 1).contains("unknown key `kyes`; allowed: plans, consumers, keys"));
}

async fn a_backup_is_made_and_restored_while_the_server_runs(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    let created = place.json(&["keys", "create", "kept"]);
    let kept = text(&created["api_key"]);
    auth.until(kept, 200).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup.db").display().to_string();
    let (_, _, said) = place.run(&["backup", &file]);
    assert!(said.contains("accounts 1, audit "), "{said}");
    place.good(&["keys", "delete", "kept"]);
    let later = place.json(&["keys", "create", "later"]);
    let later = text(&later["api_key"]);
    auth.until(kept, 401).await;
    auth.until(later, 200).await;
    let refused = place.refused(&["restore", &file], 1);
    assert!(refused.contains("the store is not empty: it holds 1 accounts"), "{refused}");
    assert!(refused.contains("--replace"), "{refused}");
    place.good(&["restore", &file, "--replace"]);
    auth.until(kept, 200).await;
    auth.until(later, 401).await;
    assert!(place.good(&["audit"]).contains("store restored"));
}

async fn a_key_is_made_changed_rotated_disabled_and_deleted(place: TestStore) {
    let sim = Sim::start("sim", &["llama", "qwen"]);
    // Before there is a server.
    let early = place.json(&["keys", "create", "early"]);
    let modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    auth.until(text(&early["api_key"]), 200).await;
    auth.until(FILE_KEY, 200).await;

    let create = "keys create ci --consumer team --plan file-plan --models llama* --models x? \
                  --limit requests_per_hour=100 --limit burst=50 --limit-per-model tokens_per_day=100000 \
                  --manage true --expires 2099-01-01T00:00:00Z --network 127.0.0.0/8 --network ::1";
    let printed = place.good(&[&words(create)[..], &["--note", "for the builds"]].concat());
    let first = api_key(&printed);
    let shown = place.json(&["keys", "show", "ci"]);
    let expected = json!({
        "name": "ci", "consumer": "team", "plan": "file-plan", "models": ["llama*", "x?"],
        "limit": { "requests_per_hour": 100, "burst": 50 }, "limit_per_model": { "tokens_per_day": 100_000 },
        "manage": true, "expires": "2099-01-01T00:00:00Z", "networks": ["127.0.0.0/8", "::1/128"],
        "note": "for the builds", "source": "store", "state": "active",
        "created": shown["created"], "changed": shown["changed"],
    });
    assert_eq!(shown, expected);
    assert!(place.good(&["keys", "show", "ci"]).contains("note: for the builds"), "as YAML");

    what_is_given_is_changed_and_the_rest_stays(&place);
    it_is_explained(&place, &first);
    let [second, third] = it_is_rotated_disabled_and_enabled(&place, &auth, &first).await;
    let table = all_keys_and_some_are_listed(&place, &auth).await;

    assert_eq!(place.json(&["keys", "delete", "ci"]), json!({ "deleted": true }));
    auth.soon(&third, 401).await;
    assert_eq!(place.json(&["keys", "delete", "ci"]), json!({ "deleted": false }));
    let (dump, log) = (place.dump().await, modelgate.log());
    let audit = place.good(&["audit", "--jsonl"]);
    assert!(dump.contains("key ci") && audit.contains("key ci"), "what is searched is there");
    for key in [&first, &second, &third] {
        for text in [&dump, &log, &audit, &table] {
            assert!(!text.contains(key.as_str()), "a key in clear");
        }
    }
    assert!(!audit.contains(&digest_of_given()), "a digest");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// What is unset is gone.
fn what_is_given_is_changed_and_the_rest_stays(place: &TestStore) {
    let set = "keys set ci --limit requests_per_hour=none --limit requests_per_minute=60 \
               --unset models --unset expires --unset networks --note other --manage false";
    let changed = place.json(&words(set));
    assert_eq!(changed["limit"], json!({ "requests_per_minute": 60, "burst": 50 }));
    assert_eq!((&changed["note"], &changed["plan"]), (&json!("other"), &json!("file-plan")));
    for gone in ["models", "expires", "networks", "manage"] {
        assert!(changed.get(gone).is_none(), "{gone}: {changed}");
    }
}

fn it_is_explained(place: &TestStore, key: &str) {
    let explain = |key: &str| {
        let header = format!("Authorization: Bearer {key}");
        place.good(&["explain", "request", "-H", &header, "-d", r#"{"model":"llama"}"#, "/v1/completions"])
    };
    let explained = explain(key);
    assert!(explained.contains("of consumer \"team\""), "keys of the store are known, too: {explained}");
    assert!(explain("mg-unknown").contains("invalid_api_key"));
}

/// The running server notices each change soon. The keys that it had after the first.
async fn it_is_rotated_disabled_and_enabled(place: &TestStore, auth: &Auth, first: &str) -> [String; 2] {
    auth.soon(first, 200).await;
    let rotated = place.json(&["keys", "rotate", "ci", "--grace", "1h"]);
    let second = text(&rotated["api_key"]).to_owned();
    auth.soon(&second, 200).await;
    assert_eq!((auth.status(first).await, text(&rotated["state"])), (200, "rotated"));
    assert!(place.good(&["keys", "list"]).contains("rotated, the old one works until "));
    place.json(&["keys", "set", "ci", "--unset", "previous"]);
    auth.soon(first, 401).await;
    let third = api_key(&place.good(&["keys", "rotate", "ci", "--grace", "0s"]));
    auth.soon(&third, 200).await;
    auth.soon(&second, 401).await;

    assert_eq!(place.json(&["keys", "disable", "ci"])["state"], "disabled");
    auth.soon(&third, 401).await;
    assert_eq!(place.json(&["keys", "enable", "ci"])["state"], "active");
    auth.soon(&third, 200).await;
    let owner = text(&place.json(&["keys", "set", "ci", "--note", "x"])["consumer"]).to_owned();
    place.json(&["consumers", "set", &owner, "--disabled", "true"]);
    let (code, shown, told) = place.run(&["keys", "enable", "ci"]);
    let advice = format!("modelgate consumers set {owner} --disabled false");
    assert!(code == Some(0) && shown.contains("disabled") && told.contains(&advice), "{shown} {told}");
    place.json(&["consumers", "set", &owner, "--disabled", "false"]);
    auth.soon(&third, 200).await;
    [second, third]
}

fn digest_of_given() -> String {
    access::KeyDigest::of("mg-given").to_hex()
}

/// The table of all.
async fn all_keys_and_some_are_listed(place: &TestStore, auth: &Auth) -> String {
    let digest = digest_of_given();
    place.json(&["keys", "create", "given", "--sha256", &digest, "--consumer", "team"]);
    auth.soon("mg-given", 200).await;
    let all = place.json(&["keys", "list"]);
    assert_eq!(column(&all, "name"), ["ci", "early", "given", "in-file"]);
    assert_eq!(column(&all, "source"), ["store", "store", "store", "file"]);
    assert_eq!(column(&place.json(&["keys", "list", "--consumer", "team"]), "name"), ["ci", "given"]);
    assert_eq!(column(&place.json(&["keys", "list", "--plan", "file-plan"]), "name"), ["ci"]);
    assert_eq!(column(&place.json(&["keys", "list", "--search", "EARL"]), "name"), ["early"]);
    let table = place.good(&["keys", "list"]);
    let columns: Vec<&str> = table.lines().next().expect("a heading").split_whitespace().collect();
    assert_eq!(columns, ["NAME", "CONSUMER", "STATE", "PLAN", "MODELS", "LAST", "USED", "SOURCE"]);
    assert_eq!(table.lines().count(), 5);
    for text in [&table, &all.to_string()] {
        assert!(!text.contains(&digest), "a digest");
    }
    table
}

async fn plans_and_consumers_are_set_and_deleted(place: TestStore) {
    let plan = place.json(&[
        "plans",
        "set",
        "gold",
        "--models",
        "llama*",
        "--limit",
        "tokens_per_month=5",
        "--note",
        "n",
    ]);
    assert_eq!((&plan["models"], &plan["limit"]), (&json!(["llama*"]), &json!({ "tokens_per_month": 5 })));
    let several = place.json(&["plans", "set", "gold", "--models", "a,b*", "--models", "c"]);
    assert_eq!(several["models"], json!(["a", "b*", "c"]));
    let plan = place.json(&[
        "plans",
        "set",
        "gold",
        "--unset",
        "models",
        "--limit-per-model",
        "requests_per_second=2",
    ]);
    assert_eq!((plan.get("models"), &plan["note"]), (None, &json!("n")));
    assert_eq!(plan["limit_per_model"], json!({ "requests_per_second": 2 }));
    assert_eq!(place.json(&["plans", "show", "gold"]), plan);
    assert_eq!(column(&place.json(&["plans", "list"]), "name"), ["file-plan", "gold"]);
    assert_eq!(column(&place.json(&["plans", "list", "--search", "gol"]), "name"), ["gold"]);
    assert!(place.good(&["plans", "list"]).contains("tokens_per_month=5"));

    let consumer = place.json(&["consumers", "set", "team", "--plan", "gold", "--disabled", "true"]);
    assert_eq!((&consumer["plan"], &consumer["disabled"]), (&json!("gold"), &json!(true)));
    place.json(&["consumers", "set", "team", "--limit", "requests_per_hour=7"]);
    let unlimited = place.json(&["consumers", "set", "team", "--limit", "requests_per_hour=none"]);
    assert_eq!(unlimited.get("limit"), None, "its last one");
    let consumer =
        place.json(&["consumers", "set", "team", "--disabled", "false", "--limit", "requests_per_day=3"]);
    assert_eq!((consumer.get("disabled"), &consumer["limit"]), (None, &json!({ "requests_per_day": 3 })));
    assert_eq!(place.json(&["consumers", "show", "team"]), consumer);
    assert_eq!(column(&place.json(&["consumers", "list"]), "name"), ["file-team", "team"]);
    assert_eq!(column(&place.json(&["consumers", "list", "--plan", "gold"]), "name"), ["team"]);
    assert!(place.good(&["consumers", "list", "--search", "TEA"]).contains("requests_per_day=3"));

    // In use, and then not.
    place.json(&["keys", "create", "k", "--consumer", "team"]);
    assert!(place.refused(&["plans", "delete", "gold"], 1).contains("in use by consumer \"team\""));
    assert!(place.refused(&["consumers", "delete", "team"], 1).contains("in use by key \"k\""));
    let (code, stdout, stderr) = place.run(&["keys", "delete", "k"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", "the key \"k\" is deleted\n"));
    place.json(&["consumers", "set", "team", "--unset", "plan"]);
    for (kind, name) in [("plans", "gold"), ("consumers", "team")] {
        assert_eq!(place.json(&[kind, "delete", name]), json!({ "deleted": true }));
        assert!(
            place
                .refused(&[kind, "show", name], 1)
                .contains(&format!("there is no {} {name:?}", &kind[..kind.len() - 1]))
        );
    }
}

async fn what_cannot_be_done_is_said_and_nothing_is_changed(place: TestStore) {
    place.json(&["keys", "create", "k"]);
    let before = place.json(&["audit"]);
    for (arguments, words) in [
        (&["keys", "create", "k"][..], "there is a key \"k\" already"),
        (&["keys", "create", "a b"], "nothing was changed:\n  name: found \"a b\""),
        (&["keys", "create", "a", "--plan", "none"], "allowed: the name of a plan: file-plan"),
        (&["keys", "create", "a", "--limit", "burst=3"], "limit.burst"),
        (
            &["keys", "create", "a", "--limit", "requests_per_hour=-3"],
            "limit.requests_per_hour: found \"-3\"",
        ),
        (&["keys", "create", "a", "--limit", "requests_per_fortnight=3"], "requests_per_fortnight"),
        (&["keys", "create", "a", "--models", "a["], "models[0]"),
        (&["keys", "create", "a", "--expires", "soon"], "expires: found \"soon\""),
        (&["keys", "create", "a", "--network", "here"], "networks[0]"),
        (&["keys", "create", "a", "--sha256", "mg-secret"], "sha256"),
        (&["keys", "set", "k"], "nothing to change"),
        (&["keys", "set", "k", "--note", "x", "--unset", "note"], "both given and unset"),
        (&["keys", "set", "nobody", "--note", "x"], "there is no key \"nobody\""),
        (&["keys", "show", "nobody"], "there is no key \"nobody\""),
        (&["keys", "rotate", "nobody", "--grace", "1h"], "there is no key \"nobody\""),
        (&["keys", "disable", "in-file"], "is in the configuration file; change it there"),
        (&["keys", "delete", "in-file"], "is in the configuration file; change it there"),
        (&["consumers", "set", "file-team", "--note", "x"], "is in the configuration file; change it there"),
        (&["plans", "delete", "file-plan"], "is in the configuration file; change it there"),
        (&["keys", "import", "--store", "--from", "kong", "nowhere.yml"], "nowhere.yml"),
    ] {
        let said = place.refused(arguments, 1);
        assert!(said.contains(words) && !said.contains("mg-secret"), "{arguments:?}: {said}");
    }
    // What clap itself says.
    for (arguments, words) in [
        (&["keys", "rotate", "k"][..], "--grace"),
        (&["keys", "rotate", "k", "--grace", "3years"], "at most 366days"),
        (&["keys", "create", "a", "--limit", "many"], "NAME=NUMBER"),
        (&["keys", "set", "k", "--unset", "name"], "limit_per_model"),
        (&["usage", "--from", "2026-02-30"], "allowed: a day"),
        (&["audit", "--json", "--jsonl"], "cannot be used with"),
    ] {
        let said = place.refused(arguments, 2);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(place.json(&["audit"]), before);
}

async fn what_was_used_and_who_did_what_is_printed(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    let key = place.json(&[
        "keys",
        "create",
        "k",
        "--consumer",
        "team",
        "--models",
        "\u{1b}red",
        "--models",
        "llama",
    ]);
    let key = text(&key["api_key"]).to_owned();
    auth.until(&key, 200).await;
    let usage = eventually(Duration::from_secs(60), || async {
        let usage = place.json(&["usage", "--key", "k"]);
        (usage[0]["requests"] == 1).then_some(usage)
    })
    .await;
    assert_eq!((&usage[0]["consumer"], &usage[0]["model"]), (&json!("team"), &json!("llama")));
    let day = text(&usage[0]["day"]).to_owned();
    assert_eq!(
        place.json(&["usage", "--consumer", "team", "--model", "llama", "--from", &day, "--to", &day]),
        usage
    );
    assert_eq!(place.json(&["usage", "--to", "2020-01-01"]), json!([]));
    assert!(place.good(&["usage"]).starts_with("DAY"));
    let listed = place.good(&["keys", "list"]);
    assert!(
        listed.contains(&day) && !listed.contains('\u{1b}'),
        "last used, and nothing that a terminal obeys: {listed}"
    );
    auth.until("mg-unknown", 401).await;
    place.json(&["keys", "set", "k", "--note", "x"]);
    who_did_what_is_printed(&place);
    // Refusals are sampled, with their reason.
    eventually(Duration::from_secs(60), || async {
        let refused = place.json(&["audit", "--actor", "/auth"]);
        (refused[0]["details"]["reason"] == "invalid_api_key"
            && refused[0]["address"].as_str().is_some_and(|address| address.starts_with("127.")))
        .then_some(())
    })
    .await;
    a_name_is_erased(&place, &usage[0]);
}

fn a_name_is_erased(place: &TestStore, used: &Value) {
    for (arguments, words) in [
        (&["usage", "erase"][..], "--key"),
        (&["usage", "erase", "--key", "k", "--consumer", "team"], "cannot be used with"),
        (&["usage", "--by", "week"], "allowed: hour, day or month"),
    ] {
        let said = place.refused(arguments, 2);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let erased = place.json(&["usage", "erase", "--consumer", "team"]);
    assert!(
        erased["rows_of_usage"] == 2 && erased["entries"].as_u64() >= Some(2),
        "by day and by hour: {erased}"
    );
    assert_eq!(place.json(&["usage", "--consumer", "team"]), json!([]));
    let rows = place.json(&["usage"]);
    let names = (&rows[0]["key"], &rows[0]["consumer"], &rows[0]["tokens"]);
    assert_eq!(names, (&json!("(erased)"), &json!("(erased)"), &used["tokens"]));
    assert_eq!(place.json(&["audit", "--subject", "key k"]), json!([]));
    let who = place.json(&["audit", "--action", "usage erased"]);
    assert_eq!(
        (column(&who, "subject"), column(&who, "actor")),
        (vec!["consumer (erased)"], vec!["command line (ada)"])
    );
    let table = place.good(&["usage", "--by", "month,consumer"]);
    assert!(
        table.starts_with("MONTH") && table.contains("(erased)") && table.contains(" ABORTED "),
        "{table}"
    );
}

fn who_did_what_is_printed(place: &TestStore) {
    let entries = place.json(&["audit", "--actor", "command line", "--subject", "key k"]);
    assert_eq!(column(&entries, "action"), ["key changed", "key created"]);
    assert_eq!(column(&entries, "actor"), ["command line (ada)"; 2], "the system's user");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!((column(&entries, "host"), &entries[0]["address"]), (vec![host.trim(); 2], &Value::Null));
    let table = place.good(&["audit", "--subject", "key k"]);
    assert!(table.contains(" FROM ") && table.contains(&format!("  host {}  ", host.trim())), "{table}");
    assert_eq!(place.json(&["audit", "--actor", "command line (ada)", "--subject", "key k"]), entries);
    assert_eq!(place.json(&["audit", "--actor", "command line (eve)"]), json!([]));
    assert_eq!(column(&place.json(&["audit", "--action", "key cre"]), "subject"), ["key k"]);
    assert_eq!(
        place.json(&["audit", "--actor", "command line", "--limit", "1"]).as_array().map(Vec::len),
        Some(1)
    );
    let lines = place.good(&["audit", "--jsonl", "--subject", "key k"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(Value::from(lines), entries);
    assert!(place.good(&["audit"]).starts_with("AT"));
}

async fn keys_of_other_gateways_go_into_the_store(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    std::fs::write(place.folder().join("kong.yml"), include_str!("import/kong.yml")).expect("written");
    let hash = |key: &str| access::KeyDigest::of(key).to_hex();
    let rows = json!({ "keys": [
        { "token": hash("sk-one"), "key_alias": "one", "team_id": "research", "models": ["llama*"], "rpm_limit": 60 },
        { "token": hash("sk-two"), "key_alias": "in-file" },
        { "token": hash(FILE_KEY), "key_alias": "copy" },
        { "token": "sk-in-clear", "key_alias": "broken" },
    ], "teams": [{ "team_id": "research", "models": [] }] });
    std::fs::write(place.folder().join("keys.json"), rows.to_string()).expect("written");

    let (code, stdout, told) = import(&place, "kong", "kong.yml");
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{told}");
    assert!(told.contains("consumers written: 6") && told.contains("keys written: 6"), "{told}");
    let (code, _, told) = import(&place, "litellm", "keys.json");
    assert_eq!(code, Some(0), "{told}");
    for part in [
        "left out: keys[3]: its token is not a SHA-256 digest",
        "renamed: key \"in-file\" is another API key; this one is \"in-file-2\"",
        "already there: key copy: it is \"in-file\" of the configuration file",
        "keys written: 2; already there: 1",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for key in ["prod-api-key-here", "prod-api-key-two", "ds-key", "sk-one", "sk-two"] {
        auth.until(key, 200).await;
    }
    // `late` is no consumer of the file: its key is taken over disabled.
    for key in ["sk-in-clear", "nobodys-key", "late-key"] {
        assert_eq!(auth.status(key).await, 401, "{key}");
    }
    let consumer = place.json(&["consumers", "show", "production-app"]);
    let limit = json!({ "requests_per_second": 5, "requests_per_hour": 1000, "requests_per_day": 5000 });
    assert_eq!(consumer["limit"], limit);
    let imported = place.json(&["audit", "--subject", "key one"]);
    assert_eq!(
        (&imported[0]["actor"], &imported[0]["details"]),
        (&json!("command line (ada)"), &json!({ "imported_from": "litellm" }))
    );
    the_same_again_does_no_harm(&place);
    new_keys_of_a_consumer_with_other_limits_wait(&place);
}

fn import(place: &TestStore, from: &str, file: &str) -> (Option<i32>, String, String) {
    place.run(&["keys", "import", "--store", "--from", from, file])
}

fn the_same_again_does_no_harm(place: &TestStore) {
    let names = column(&place.json(&["keys", "list"]), "name").join(" ");
    let (code, _, told) = import(place, "kong", "kong.yml");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("consumers written: 0") && told.contains("keys written: 0; already"), "{told}");
    assert!(
        told.contains("already there: key late: it is \"late\"\n") && !told.contains("renamed"),
        "{told}"
    );
    assert!(told.contains("already there: consumer production-app\n"), "{told}");
    assert_eq!(column(&place.json(&["keys", "list"]), "name").join(" "), names);
}

/// A consumer that has other limits meanwhile may be somebody else: its new keys wait for somebody to look.
fn new_keys_of_a_consumer_with_other_limits_wait(place: &TestStore) {
    place.json(&["consumers", "set", "production-app", "--limit", "requests_per_second=50"]);
    let more = "consumers: [{ username: production-app, keyauth_credentials: [{ key: new-key }], \
                plugins: [{ name: rate-limiting, config: { second: 5 } }] }]";
    std::fs::write(place.folder().join("more.yml"), more).expect("written");
    let (_, _, told) = import(place, "kong", "more.yml");
    let differs =
        "disabled: new keys of consumer production-app: it is in the store already, with other limits than";
    assert!(told.contains(differs) && told.contains("keys written: 1"), "{told}");
    assert_eq!(place.json(&["keys", "show", "production-app-3"])["disabled"], true);
}

/// LiteLLM answers 100 keys at a time, and a key needs no alias: the second page of a team was left out, since the names
/// that its keys get were those of the first page.
async fn keys_without_names_come_page_by_page(place: TestStore) {
    let hash = |key: &str| access::KeyDigest::of(key).to_hex();
    let import = |keys: &[&str], alias: Option<&str>| {
        let row = |key: &&str| json!({ "token": hash(key), "key_alias": alias, "team_id": "ml", "models": ["llama"] });
        let page = json!({ "keys": keys.iter().map(row).collect::<Vec<_>>() });
        std::fs::write(place.folder().join("page.json"), page.to_string()).expect("written");
        let arguments = ["keys", "import", "--store", "--from", "litellm", "page.json"];
        let (code, stdout, told) = place.run(&arguments);
        assert_eq!((code, stdout.as_str()), (Some(0), ""), "{told}");
        told
    };
    let names = || column(&place.json(&["keys", "list", "--consumer", "ml"]), "name").join(" ");

    let told = import(&["sk-1", "sk-2", "sk-3"], None);
    assert!(told.contains("keys written: 3; already there: 0") && !told.contains("renamed"), "{told}");
    let told = import(&["sk-4", "sk-5", "sk-6"], None);
    assert!(told.contains("keys written: 3; already there: 0"), "{told}");
    assert!(told.contains("renamed: key \"ml\" is another API key; this one is \"ml-4\""), "{told}");
    assert_eq!(names(), "ml ml-2 ml-3 ml-4 ml-5 ml-6");

    // A page again, and one that has changed meanwhile.
    let told = import(&["sk-4", "sk-5", "sk-6"], None);
    assert!(told.contains("keys written: 0; already there: 3") && !told.contains("renamed"), "{told}");
    assert!(told.contains("already there: key ml: it is \"ml-4\""), "{told}");
    let told = import(&["sk-6", "sk-7"], None);
    assert!(told.contains("keys written: 1; already there: 1"), "{told}");
    assert_eq!(names(), "ml ml-2 ml-3 ml-4 ml-5 ml-6 ml-7");

    // An alias that another key has.
    let told = import(&["sk-8"], Some("ml-3"));
    assert!(told.contains("renamed: key \"ml-3\" is another API key; this one is \"ml-3-2\""), "{told}");

    // What a key was before it was rotated does not come back as a key of its own.
    place.json(&["keys", "rotate", "ml-7", "--grace", "1h"]);
    let told = import(&["sk-7"], None);
    assert!(told.contains("keys written: 0; already there: 1"), "{told}");
    assert_eq!(names(), "ml ml-2 ml-3 ml-3-2 ml-4 ml-5 ml-6 ml-7");
}

/// Regression: in the wrong folder these commands spoke of keys of a file, and did not say that there was none.
#[test]
fn in_an_empty_folder_the_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("modelgate.yaml").display().to_string();
    for arguments in [
        &["usage"][..],
        &["usage", "recost", "--from", "2026-11-01"],
        &["audit"],
        &["export"],
        &["apply", "-f", "accounts.yaml"],
        &["backup", "backup.db"],
        &["keys", "create", "x"],
    ] {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let output = command.current_dir(folder.path()).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(&format!("there is no configuration file {missing}")), "{arguments:?}: {said}");
        assert!(said.contains("MODELGATE_STATE_DIR") && said.contains("--config"), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing was made");
}

#[test]
fn without_a_store_the_file_is_listed_and_what_to_set_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |config: &str, arguments: &[&str]| {
        std::fs::write(folder.path().join("modelgate.yaml"), config).expect("written");
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let output = command.current_dir(folder.path()).args(arguments).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let digest = access::KeyDigest::of("mg-a").to_hex();
    let config =
        format!("docker: {{ enabled: false }}\nkeys: [{{ name: a, consumer: b, sha256: \"{digest}\" }}]\n");
    let (code, listed, said) = run(&config, &["keys", "list"]);
    assert!(code == Some(0) && listed.contains("file") && !listed.contains(&digest), "{listed}");
    assert_eq!(said, "");
    let (code, _, said) = run(&config, &["plans", "list"]);
    assert!(
        code == Some(0) && said.contains("MODELGATE_STATE_DIR"),
        "nothing, and perhaps in the wrong folder: {said}"
    );
    for arguments in [
        &["keys", "create", "x"][..],
        &["keys", "disable", "x"],
        &["keys", "delete", "x"],
        &["keys", "rotate", "x", "--grace", "0s"],
        &["keys", "import", "--store", "--from", "kong", "x.yml"],
        &["consumers", "set", "x"],
        &["plans", "set", "x"],
        &["usage"],
        &["audit"],
    ] {
        let (code, stdout, said) = run(&config, arguments);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}: {said}");
        assert!(said.contains("MODELGATE_STATE_DIR") && said.contains("store.url"), "{arguments:?}: {said}");
        assert!(said.contains("/modelgate.yaml has neither"), "{arguments:?}: {said}");
    }
    let (code, _, said) = run("docker: { enabled: maybe }", &["keys", "list"]);
    assert!(code == Some(64) && said.contains("docker.enabled"), "{said}");
    let (code, _, said) = run("store: { url: \"sqlite:///proc/none/x.db\" }", &["keys", "list"]);
    assert!(code == Some(1) && said.contains("/proc/none/x.db"), "a store that cannot be opened: {said}");
    std::fs::write(folder.path().join("text.db"), "no database".repeat(100)).expect("written");
    let (code, _, said) = run("store: { url: \"sqlite:text.db\" }", &["keys", "list"]);
    assert!(code == Some(1) && said.contains("text.db: file is not a database"), "{said}");
    let (code, _, said) =
        run("store: { url: \"postgres://u:secret-word@127.0.0.1:9/d\" }", &["keys", "list"]);
    assert!(code == Some(1) && !said.contains("secret-word"), "{said}");
    assert!(said.contains("refused") && said.contains("is PostgreSQL running?"), "{said}");
}
