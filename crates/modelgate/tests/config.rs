//! Bad configuration, one file per key: each gives the message expected, and exit status 64.
//!
//! `config/bad.txt` holds, for each bad file, the file behind `>` and the message behind it.
//! `UPDATE_EXPECT=1 cargo test -p modelgate --test config` writes the messages anew; read the difference.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    process::{Output, Stdio},
};

fn check(yaml: &str, variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("modelgate.yaml");
    fs::write(&file, yaml).expect("written");
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    // Named from inside, so that messages do not hold the folder's name.
    command.current_dir(folder.path()).envs(variables.iter().copied());
    command.args(["check", "--config", "modelgate.yaml"]).output().expect("it runs")
}

fn message(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_bad_value_is_told_with_its_key_and_what_is_allowed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/bad.txt");
    let expected = fs::read_to_string(path).expect("the cases");
    let mut found = String::new();
    let mut lines = expected.lines().peekable();
    let mut cases = 0;
    while lines.peek().is_some() {
        let mut yaml = String::new();
        while let Some(line) = lines.next_if(|l| l.starts_with('>')) {
            let _ = writeln!(found, "{line}");
            let _ = writeln!(yaml, "{}", line.get(2..).unwrap_or_default());
        }
        while lines.next_if(|l| !l.starts_with('>')).is_some() {}
        let told = message(&check(&yaml, &[]));
        let _ = writeln!(found, "{}\n", told.trim_end());
        assert!(told.contains("the configuration has"), "{told}");
        cases += 1;
    }
    assert!(cases > 30, "there are {cases} cases");
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, &found).expect("written");
    }
    assert_eq!(found, if env::var_os("UPDATE_EXPECT").is_some() { found.clone() } else { expected });
}

/// Regression: whoever looked at keys on a shell without the variables of the service was refused for the secret of a server.
#[test]
fn only_commands_that_need_a_secret_ask_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = "docker: { enabled: false }
state_dir: state
traefik: { trusted_addresses: [127.0.0.1] }
servers: [{ url: \"http://127.0.0.1:9\", name: cloud, credential: { env: OF_SERVER } }]
alerts: { webhooks: [{ name: chat, url_from: { env: OF_WEBHOOK } }, { name: gone, url: \"http://127.0.0.1:9\" }] }
";
    fs::write(folder.path().join("modelgate.yaml"), yaml).expect("written");
    let server = "servers[0].credential.env: found \"OF_SERVER\"; this variable is not set";
    let webhook = "alerts.webhooks[0].url_from.env: found \"OF_WEBHOOK\"; this variable is not set";
    for (arguments, status, needed) in [
        ("keys create laptop", 0, &[][..]),
        ("keys list", 0, &[]),
        ("usage", 0, &[]),
        ("explain middleware llama", 0, &[]),
        // They ask servers, which answer otherwise without a key.
        ("explain container cloud", 64, &[server]),
        ("explain model llama", 64, &[server]),
        ("explain request http://host/v1/models", 64, &[server]),
        ("render", 64, &[server]),
        ("alerts test", 64, &[webhook]),
        ("alerts test chat", 64, &[webhook]),
        // Regression: the secrets of all others were asked for. It is not reached, and so fails.
        ("alerts test gone", 1, &[]),
        ("check", 64, &[server, webhook]),
        ("serve", 64, &[server, webhook]),
    ] {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let output = command.current_dir(folder.path()).args(arguments.split(' ')).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {told}");
        for unread in [server, webhook] {
            let (is_error, is_note) =
                (told.contains(&format!("\n  {unread}")), told.contains(&format!("note: {unread}")));
            let expected = (needed.contains(&unread), status != 64);
            assert_eq!((is_error, is_note), expected, "{arguments}, {unread}: {told}");
        }
    }
}

#[test]
fn all_errors_are_told_together() {
    let told = message(&check("listen: { admin: nowhere }\nlog: { format: xml }\nkyes: []\n", &[]));
    for part in ["listen.admin", "log.format", "kyes", "3 errors"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_is_named_when_it_is_wrong() {
    let told = message(&check("listen: { admin: 127.0.0.1:1 }\n", &[("MODELGATE_LISTEN_ADMIN", "nowhere")]));
    assert!(told.contains("listen.admin (from MODELGATE_LISTEN_ADMIN)"), "{told}");
    let told = message(&check("", &[("MODELGATE_LISTEN_ADMN", "127.0.0.1:1")]));
    assert!(told.contains("MODELGATE_LISTEN_ADMN"), "{told}");
    assert!(
        check("listen: { admin: nowhere }\n", &[("MODELGATE_LISTEN_ADMIN", "127.0.0.1:1")]).status.success()
    );
}

/// Whoever looks for the reason of a value had to guess whether the file or the environment has it.
#[test]
fn check_tells_where_each_setting_comes_from() {
    let variables = [
        ("MODELGATE_LISTEN_ADMIN", "127.0.0.1:2"),
        ("MODELGATE_STORE_URL", "postgres://ann:hush@db/modelgate"),
    ];
    let yaml = "docker: { enabled: false }\nlisten: { admin: 127.0.0.1:1 }\nservers: [{ url: \"http://gpu:8000\" }]\n";
    let output = check(yaml, &variables);
    let told = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("ok: modelgate.yaml: 1 server, 0 keys in the configuration"), "{told}");
    assert!(
        lines[1].starts_with("the file: /") && lines[1].ends_with("/modelgate.yaml, named by --config"),
        "{told}"
    );
    let expected = [
        "  docker.enabled  from the file",
        "  listen.admin    from environment variable MODELGATE_LISTEN_ADMIN; the file's value is not used",
        "  servers         from the file",
        "  store.url       from environment variable MODELGATE_STORE_URL",
        "  all other settings: their defaults",
    ];
    assert_eq!(lines[2..7], expected, "{told}");
    assert!(!told.contains("hush"), "{told}");
    let folder = tempfile::tempdir().expect("a folder");
    let bare = || {
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        command.current_dir(folder.path()).arg("check");
        command
    };
    let told = |command: &mut std::process::Command| {
        String::from_utf8_lossy(&command.output().expect("it runs").stdout).into_owned()
    };
    let none = told(&mut bare());
    // The first line depends on whether this machine has a Docker Engine.
    let (first, rest) = none.split_once('\n').expect("lines");
    assert!(first.starts_with("ok: no file: 0 servers, 0 keys in the configuration"), "{none}");
    assert!(rest.starts_with("  all settings: their defaults\n"), "{none}");
    fs::write(folder.path().join("modelgate.yaml"), "").expect("written");
    assert!(told(&mut bare()).contains("/modelgate.yaml, found in this folder\n"));
    let named = told(bare().env("MODELGATE_CONFIG", "./modelgate.yaml"));
    assert!(named.contains("/modelgate.yaml, named by MODELGATE_CONFIG\n"), "{named}");
}

/// Regression: it said "0 keys" at a site whose keys were all in the store.
#[test]
fn check_says_which_servers_and_keys_it_has_not_counted() {
    let first_line = |yaml: &str, more: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("modelgate.yaml"), yaml).expect("written");
        let command = |arguments: &[&str]| {
            let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
            command.current_dir(folder.path()).args(arguments);
            command
        };
        if yaml.contains("state_dir") {
            let made = command(&["keys", "create", "laptop"]).output().expect("it runs");
            assert!(made.status.success(), "{made:?}");
        }
        // The rest, which is about an engine that is not there, would take half a minute.
        let mut checking = command(&["check"]).args(more).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(checking.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let _ = checking.kill();
        checking.wait().expect("it ends");
        line.trim_end().to_owned()
    };
    let none = "docker: { enabled: false }\n";
    let store = "state_dir: state\n";
    // Nobody listens there.
    let docker = "docker: { enabled: true, endpoint: \"tcp://127.0.0.1:9\" }\n";
    let counted = "ok: modelgate.yaml: 0 servers, 0 keys in the configuration";
    let (containers, keys) =
        ("containers (see \"modelgate check --servers\")", "keys in the store (see \"modelgate keys list\")");
    for (yaml, more, expected) in [
        (none.to_owned(), &[][..], counted.to_owned()),
        (format!("{none}{store}"), &[], format!("{counted}; not counted: {keys}")),
        (docker.to_owned(), &[], format!("{counted}; not counted: {containers}")),
        (format!("{docker}{store}"), &[], format!("{counted}; not counted: {containers}, {keys}")),
        (format!("{none}{store}"), &["--servers"], format!("{counted}; not counted: {keys}")),
        // They are listed below.
        (docker.to_owned(), &["--servers"], counted.to_owned()),
    ] {
        assert_eq!(first_line(&yaml, more), expected, "{yaml} {more:?}");
    }
}

#[test]
fn a_dashboard_that_traefik_may_not_reach_is_warned_of_unless_traefik_must_be_on_this_machine() {
    let told = |listen: &str| {
        let yaml = format!("listen: {{ {listen} }}\nadmin: {{ host: dash.localhost }}\n");
        let output = check(&yaml, &[]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout)
            .contains("admin.host is set, but listen.admin is 127.0.0.1:8102")
    };
    assert!(told(""), "the defaults");
    assert!(told("provider: 127.0.0.1:8100"), "who asks about requests may be elsewhere");
    assert!(told("requests: 127.0.0.1:8101"), "who polls may be elsewhere");
    assert!(!told("provider: 127.0.0.1:8100, requests: \"[::1]:8101\""));
    assert!(!told("admin: 0.0.0.0:8102"));
}

#[test]
fn quotas_without_a_store_are_warned_of() {
    let warned = |yaml: &str, variables: &[(&str, &str)]| {
        let output = check(&format!("docker: {{ enabled: false }}\n{yaml}"), variables);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).contains("a restart forgets what they have counted")
    };
    let digest = access::KeyDigest::of("mg-a").to_hex();
    let key = |limit: &str| {
        let limit = format!("limit_per_model: {{ {limit}: 5 }}");
        format!("keys: [{{ name: a, consumer: a, sha256: \"{digest}\", {limit} }}]\n")
    };
    let model = "models: [{ match: \"*\", limit: { tokens_per_month: 5 } }]\n";
    assert!(warned(&key("requests_per_day"), &[]) && warned(model, &[]));
    assert!(!warned(&key("requests_per_hour"), &[]));
    assert!(!warned(&key("requests_per_day"), &[("MODELGATE_STATE_DIR", "state")]));
}

#[test]
fn what_a_token_without_a_plan_may_is_told() {
    let told = |options: &str| {
        let issuer = format!("issuer: \"https://login.example.com\", audience: [modelgate]{options}");
        let output = check(&format!("plans: [{{ name: free }}]\njwt: [{{ {issuer} }}]\n"), &[]);
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = told.lines().find_map(|line| line.strip_prefix("tokens of https://login.example.com: "));
        line.expect("a line").to_owned()
    };
    assert_eq!(told(""), "no plan, so no limits");
    assert_eq!(told(", plan: free"), "plan \"free\"");
    assert_eq!(told(", plan_claim: roles"), "the plan that claim \"roles\" names; refused if it names none");
    assert_eq!(
        told(", plan_claim: roles, plan: free"),
        "the plan that claim \"roles\" names, else plan \"free\""
    );
}

#[test]
fn no_secret_is_told() {
    let secret = "mg-this-is-a-secret-key";
    let yaml = format!("keys:\n  - {{ name: a, consumer: a, sha256: \"{secret}\" }}\n");
    let variables = [("MODELGATE_API_KEY", secret), ("MODELGATE_API_KEY_FILE", "/nonexistent")];
    for told in [message(&check(&yaml, &[])), message(&check("", &variables))] {
        assert!(!told.contains(secret), "{told}");
    }
}

/// Files that variables name are read once: one that cannot be read was told twice.
#[test]
fn each_secret_in_the_environment_that_cannot_be_had_is_one_error() {
    let unreadable = |variable: &str| {
        format!(
            "error: the configuration has 1 error:\n  \
             {variable}: cannot read \"/nonexistent\": No such file or directory (os error 2)\n"
        )
    };
    for (variable, clear) in [
        ("MODELGATE_API_KEY_FILE", "MODELGATE_API_KEY"),
        ("MODELGATE_ADMIN_TOKEN_FILE", "MODELGATE_ADMIN_TOKEN"),
    ] {
        assert_eq!(message(&check("", &[(variable, "/nonexistent")])), unreadable(variable));
        let told = message(&check("", &[(variable, "/nonexistent"), (clear, "mg-0123456789abcdef")]));
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains(&format!("{clear}: {variable} is given too")), "{told}");
    }
}

#[test]
fn a_file_with_every_key_is_good_and_so_is_the_example() {
    for file in ["tests/config/full.yaml", "../../deploy/modelgate.example.yaml"] {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let output = check(&fs::read_to_string(&path).expect(&path), &[]);
        assert!(output.status.success(), "{file}: {output:?}");
    }
}

#[test]
fn known_faults_of_the_traefik_in_use_are_told() {
    let told = |version: &str| {
        let output = check(&format!("traefik: {{ version: {version:?} }}\n"), &[]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let advisories: Vec<String> =
        told("3.7.12").lines().filter(|line| line.starts_with("  CVE-")).map(str::to_owned).collect();
    assert_eq!(advisories.len(), 2, "{advisories:?}");
    for (cve, advisory) in ["CVE-2026-88008", "CVE-2026-88004"].into_iter().zip(&advisories) {
        assert!(
            advisory.contains(cve) && advisory.contains("Traefik 3.7.13 or later mends it"),
            "{advisory}"
        );
    }
    assert!(!told("3.7.13").contains("advisory"));
}
