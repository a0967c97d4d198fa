//! `modelgate reference`: every label, the corresponding key in the configuration file and its meaning, as Markdown.
//! `deploy/reference.md` is its output; a test compares them. With `--schema`: the JSON Schema of the configuration file.

use std::{fmt::Write as _, process::ExitCode};

use access::{Class, routes_of, source_of};
use catalogue::{Kind, LABELS, settings};

use serde_json::{Value, json};

use crate::{
    config::{Config, PRICE_KEYS},
    output::{self, say},
};

const HEAD: &str = "\
# Reference: labels and their equals in the configuration file

Printed by `modelgate reference`. A label stands on an inference container (in a Swarm, on the service). What stands
before the dots of a key is a level in the file: `inference.sticky.cookie=llm` is

```yaml
servers:
  - url: http://10.0.0.7:8000
    sticky: { cookie: llm }
```

A label that is wrong keeps its container from being routed, and is named by `modelgate check --servers`,
`modelgate explain container NAME` and the admin listener's `/readyz`. The rest goes on.

## Where a server is and what it serves

| label | in `servers:` | meaning | default | allowed |
|---|---|---|---|---|
";

const SERVERS: &str = "
A server in the file also has `name`, and `credential: {header: bearer|x-api-key|api-key, env: VARIABLE}` (or `file: PATH`)
for one that demands a key of its own.

## How a server takes part

| label `inference.…`, key in `servers:` | meaning | default | allowed |
|---|---|---|---|
";

const MODELS: &str = "
## How the requests for a model are spread

These are about all servers of a model. Put them on each of its containers (one is enough; if two differ, the first by id
counts and the other is named), or into `models:`, where they count more than what servers say:

```yaml
models:
  - match: \"llama*\"
    strategy: p2c
    timeout: { response_header: 120s }
```

| label `inference.…`, key in `servers:` and `models:` | meaning | default | allowed | Traefik |
|---|---|---|---|---|
";

const PRICES: &str = "
## What models cost

Only in the file, in `prices:`. The first `match` that fits the model and has a price by then counts; entries with the same
`match` are one price over time, of which the latest `from` that has come counts. A model without a price is free. A request
keeps the price of the moment at which it came.

```yaml
prices:
  currency: EUR
  models:
    - match: \"llama*\"
      prompt: 0.15
      completion: 0.60
    - match: \"llama*\"
      from: 2026-12-01
      prompt: 0.12
      completion: 0.60
```

| key in `prices.models` | the price of | allowed |
|---|---|---|
";

const KINDS: &str = "
## What is open of each kind of server

Which program a server is, its model list tells, or `inference.kind`. Of a kind that is known, the paths below are open, as
the server sees them, by method; a path that is not listed needs a key with `manage: true`. What servers keep for all their
users (files, stored responses, conversations) needs a key with `stored_data: true`; what runs models that are named in
there (batches, fine-tuning, assistants) needs one that may use every model as well. `inference.paths` names the paths that
are open instead, and `inference.kind: other` opens all but what is known to manage a server of any kind. `{}` stands for
one segment of a path, `{*}` for any number.
";

/// Prints the reference, or the JSON Schema of the configuration file.
pub(crate) fn print(schema: bool) -> ExitCode {
    match schema {
        true => say!("{:#}", self::schema()),
        false => output::text(text()),
    }
    ExitCode::SUCCESS
}

/// The JSON Schema of the configuration file, for editors. `deploy/modelgate.schema.json` is what this prints.
fn schema() -> Value {
    let mut schema = Config::schema().unwrap_or_default();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Modelgate's configuration file".into();
    schema["description"] = json!(
        "Words, ranges, lists and levels are checked here; `modelgate check` also says what is wrong with a value."
    );
    schema
}

fn text() -> String {
    let mut text = String::from(HEAD);
    for label in LABELS {
        let key = if label.file_key.is_empty() { "" } else { &format!("`{}`", label.file_key) };
        let cells = [&format!("`{}`", label.name), key, label.meaning, label.default, label.allowed];
        row(&mut text, &cells);
    }
    text.push_str(SERVERS);
    for setting in settings().filter(|s| !s.is_of_model()) {
        row(&mut text, &[&format!("`{}`", setting.key), setting.meaning, setting.default, setting.allowed]);
    }
    text.push_str(MODELS);
    for setting in settings().filter(|s| s.is_of_model()) {
        let since = if setting.since.is_empty() { "any" } else { setting.since };
        let cells = [&format!("`{}`", setting.key), setting.meaning, setting.default, setting.allowed, since];
        row(&mut text, &cells);
    }
    text.push_str(PRICES);
    for key in &PRICE_KEYS {
        row(&mut text, &[&format!("`{}`", key.name), key.meaning, prices::Amount::ALLOWED]);
    }
    text.push_str(KINDS);
    for kind in Kind::ALL {
        add_kind(&mut text, kind);
    }
    text
}

/// The routes of a kind of server, by what they do.
fn add_kind(text: &mut String, kind: Kind) {
    let _ = writeln!(text, "\n### `{}`: {}\n\nRead from {}.\n", kind.name(), kind.title(), source_of(kind));
    for (class, what) in [
        (Class::Open, "open"),
        (Class::Stored, "with `stored_data`"),
        (Class::Jobs, "with `stored_data` and every model"),
        (Class::Manage, "with `manage`"),
        (Class::Never, "closed to all"),
    ] {
        let mut routes: Vec<(&str, Vec<&str>)> = Vec::new();
        for route in routes_of(kind).iter().filter(|route| route.class == class) {
            match routes.last_mut() {
                Some((path, methods)) if *path == route.path => methods.push(route.method),
                _ => routes.push((route.path, vec![route.method])),
            }
        }
        let words: Vec<String> =
            routes.iter().map(|(path, methods)| format!("`{} {path}`", methods.join(","))).collect();
        if !words.is_empty() {
            let _ = writeln!(text, "- {what}: {}", words.join(", "));
        }
    }
    if kind == Kind::Other {
        text.push_str("- open: everything else\n");
    }
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}
