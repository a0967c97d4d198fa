//! What each getter takes, what it says of what it refuses, and the form that it tells.

use std::{cell::Cell, time::Duration};

use catalogue::{GivenModelSettings, ServerSettings, Setting};
use config_reader::{ConfigErrors, Origins, Report, Section, network, size};
use serde_json::{Value, json};
use serde_yaml::Mapping;

/// What is said of a document, one line an error, and what was read.
fn read<T>(yaml: &str, reads: impl FnOnce(&mut Section<'_>) -> T) -> (T, Vec<String>) {
    let mapping: Mapping = serde_yaml::from_str(yaml).expect("a mapping");
    let mut origins = Origins::default();
    origins.note("of_environment".into(), "MODELGATE_OF_ENVIRONMENT");
    let report = Report::new(origins, Vec::new());
    let mut root = Section::root(&report, &mapping);
    let found = reads(&mut root);
    root.finish();
    (found, report.into_errors().iter().map(ToString::to_string).collect())
}

/// The form that these getters tell.
fn form(reads: impl FnOnce(&mut Section<'_>)) -> Value {
    let (report, nothing) = (Report::of_form(), Mapping::new());
    let mut root = Section::root(&report, &nothing);
    reads(&mut root);
    root.finish();
    report.into_schema().expect("a form")
}

fn settings_of(section: &mut Section<'_>) -> (ServerSettings, GivenModelSettings) {
    let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
    let here = |setting: &Setting| {
        ["ready.path", "ready.contains", "websockets", "weight", "paths", "select.header"]
            .contains(&setting.key)
    };
    section.settings(&mut server, &mut model, here);
    (server, model)
}

/// The same of all getters.
fn all(root: &mut Section<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |value: Option<String>| found.extend(value);
    say(root.get("letter", "a or b", |text| ["a", "b"].contains(&text).then(|| text.into())));
    say(root.try_get("integer", "an integer", str::parse::<i8>).map(|it| it.to_string()));
    say(root.url("address", "a URL", str::parse::<i8>).map(|it| it.to_string()));
    say(root.secret("password", "1 to 3 letters", |text| (text.len() < 4).then(|| text.into())));
    say(root.one_of("word", &[("one", 1), ("two", 2)]).map(|it| it.to_string()));
    say(root.bool("switch").map(|it| it.to_string()));
    say(root.number("number", 2..=9).map(|it| it.to_string()));
    say(root.large_number("large", 2..=5_000_000_000).map(|it| it.to_string()));
    say(root.socket_addr("listen").map(|it| it.to_string()));
    say(root.duration("span", Duration::from_secs(2)..=Duration::from_secs(90)).map(|it| format!("{it:?}")));
    say(root.bytes("bytes", 1024..=1 << 30).map(|it| it.to_string()));
    say(root
        .list("letters", "a letter", |text| text.chars().next().filter(|_| text.len() == 1))
        .map(|it| format!("{it:?}")));
    say(root.try_list("integers", "an integer", str::parse::<i8>).map(|it| format!("{it:?}")));
    found
}

#[test]
fn what_is_right_is_read() {
    let yaml = "letter: a\ninteger: -7\naddress: 8\npassword: abc\nword: two\nswitch: true\nnumber: 9\nlarge: 5000000000\n\
                listen: 127.0.0.1:80\nspan: 90s\nbytes: 1GiB\nletters: [x, y]\nintegers: [1, '2', -3]\n";
    let expected = [
        "a",
        "-7",
        "8",
        "abc",
        "2",
        "true",
        "9",
        "5000000000",
        "127.0.0.1:80",
        "90s",
        "1073741824",
        "['x', 'y']",
        "[1, 2, -3]",
    ];
    assert_eq!(read(yaml, all), (expected.map(String::from).to_vec(), Vec::new()));
    let least = "number: 2\nlarge: '2'\nspan: 2s\nbytes: 1024\nswitch: 'false'\nletters: []\n";
    assert_eq!(read(least, all).0, ["false", "2", "2", "2s", "1024", "[]"]);
    let nothing: Vec<String> = Vec::new();
    for absent in ["{}", "letter:\nnumber: null\nletters: ~\n"] {
        assert_eq!(read(absent, all), (nothing.clone(), nothing.clone()), "{absent}");
    }
}

/// Each error names its key, what was found and what is allowed, and none hides another.
#[test]
fn what_is_wrong_is_told() {
    let yaml = "letter: c\ninteger: x\naddress: http://a:b@c\npassword: abcd\nword: three\nswitch: 1\nnumber: 10\nlarge: 1\n\
                listen: there\nspan: 91s\nbytes: 1023\nletters: [x, xy, x, [z]]\nintegers: {}\nnumbr: 3\n\
                mg-0123456789012345678901234567890: 1\n'a b': 1\n";
    let (found, errors) = read(yaml, all);
    assert_eq!(found, ["['x']"]);
    let known = "letter, integer, address, password, word, switch, number, large, listen, span, bytes, letters, integers";
    let expected = [
        r#"letter: found "c"; allowed: a or b"#.into(),
        r#"integer: found "x"; invalid digit found in string"#.into(),
        "address: invalid digit found in string (the value is not shown)".into(),
        "password: allowed: 1 to 3 letters (the value is not shown)".into(),
        r#"word: found "three"; allowed: one, two"#.into(),
        r#"switch: found "1"; allowed: true, false"#.into(),
        r#"number: found "10"; allowed: a whole number from 2 to 9"#.into(),
        r#"large: found "1"; allowed: a whole number from 2 to 5000000000"#.into(),
        r#"listen: found "there"; allowed: an IP address and a port, such as 0.0.0.0:8100 or [::]:8100"#
            .into(),
        r#"span: found "91s"; allowed: a time with its unit, from 2s to 90s, such as 5s"#.into(),
        r#"bytes: found "1023"; allowed: a size from 1KiB to 1GiB, such as 1MiB"#.into(),
        r#"letters[1]: found "xy"; allowed: a letter"#.into(),
        "letters[2]: is in the list already".into(),
        "letters[3]: found a list; allowed: a letter".into(),
        "integers: found keys with values; allowed: a list, each an integer".into(),
        format!("the file: unknown key `numbr`; did you mean `number`? allowed here: {known}"),
        format!("the file: unknown key (not shown); allowed here: {known}"),
        format!("the file: unknown key (not shown); allowed here: {known}"),
    ];
    assert_eq!(errors, expected);
    // Text is shortened, and every kind of value has a name.
    let long = read(&format!("letter: {}", "x".repeat(81)), all).1;
    assert_eq!(long, [format!(r#"letter: found "{}"…; allowed: a or b"#, "x".repeat(80))]);
    let exact = read(&format!("letter: {}", "x".repeat(80)), all).1;
    assert_eq!(exact, [format!(r#"letter: found "{}"; allowed: a or b"#, "x".repeat(80))]);
    for (value, kind) in [("[]", "a list"), ("{}", "keys with values"), ("!x 1", "a value with a YAML tag")] {
        let told = read(&format!("letter: {value}"), all).1;
        assert_eq!(told, [format!("letter: found {kind}; allowed: a or b")]);
    }
    for (value, kind) in [("x", "text"), ("7", "a number"), ("true", "true or false")] {
        let told = read(&format!("letters: {value}"), all).1;
        assert_eq!(told, [format!("letters: found {kind}; allowed: a list, each a letter")]);
    }
    for credential in ["http://c/?a", "http://c/#a"] {
        let told = read(&format!("address: '{credential}'"), all).1;
        assert_eq!(told, ["address: invalid digit found in string (the value is not shown)"]);
    }
    assert_eq!(read("address: x", all).1, [r#"address: found "x"; invalid digit found in string"#]);
}

#[test]
fn sections_have_their_own_keys() {
    let reads = |root: &mut Section<'_>| {
        let mut one = root.section("one");
        let number = one.number("number", 0..=9);
        let seen =
            (one.has("number"), one.has("other"), one.has_only("number"), one.is_empty(), one.is_form());
        one.finish();
        let each = root.sections("each").into_iter().map(|mut each| {
            each.require("number", "a digit");
            let number = each.number("number", 0..=9);
            each.finish();
            number
        });
        (number, seen, each.collect::<Vec<_>>())
    };
    let yaml = "one: { number: 3 }\neach: [{ number: 1 }, { numer: 2 }, 7, { number: 11 }]\n";
    let (found, errors) = read(yaml, reads);
    assert_eq!(found, (Some(3), (true, false, true, false, false), vec![Some(1), None, None, None]));
    let expected = [
        "each[2]: found a number; allowed: keys with values",
        "each[1].number: is missing; allowed: a digit",
        "each[1]: unknown key `numer`; did you mean `number`? allowed here: number",
        "each[2].number: is missing; allowed: a digit",
        r#"each[3].number: found "11"; allowed: a whole number from 0 to 9"#,
    ];
    assert_eq!(errors, expected);
    let (found, errors) = read("one: { number: , other: }\neach: 3\n", reads);
    assert_eq!(found, (None, (false, false, false, true, false), Vec::new()));
    assert_eq!(
        errors,
        ["one: unknown key `other`; allowed here: number", "each: found a number; allowed: a list"]
    );
    let (found, errors) = read("one: [1]\n", reads);
    assert_eq!(found, (None, (false, false, false, false, false), Vec::new()));
    assert_eq!(errors, ["one: found a list; allowed: keys with values"]);
    let two = read("number: 1\nother: 2\n", |root| {
        ["number", "other"].into_iter().for_each(|key| root.skip(key));
        (root.has_only("number"), root.has("other"))
    });
    assert_eq!(two, ((false, true), Vec::new()), "keys that are skipped are known");
}

#[test]
fn an_empty_list_is_none_where_one_is_needed() {
    let told = |yaml: &str| {
        read(yaml, |root| {
            let list = root.list("list", "a word", |text| Some(text.to_owned())).unwrap_or_default();
            root.require_some("list", &list);
        })
        .1
    };
    assert_eq!(told("list: []"), ["list: found an empty list; allowed: at least one, or leave the key out"]);
    assert_eq!(told("list: [[]]"), ["list[0]: found a list; allowed: a word"]);
    assert_eq!(told("list: [a]"), Vec::<String>::new());
    assert_eq!(told("{}"), Vec::<String>::new());
}

#[test]
fn an_error_names_the_variable_that_a_value_came_from() {
    let (variables, errors) = read("of_environment: { number: x }\nof_file: 1\n", |root| {
        let mut section = root.section("of_environment");
        section.number("number", 0..=9);
        let variables =
            (section.variable("number"), root.variable("of_environment"), root.variable("of_environmental"));
        root.error("of_file", "is wrong");
        root.skip("of_file");
        variables
    });
    assert_eq!(variables, (Some("MODELGATE_OF_ENVIRONMENT"), Some("MODELGATE_OF_ENVIRONMENT"), None));
    let expected = [
        r#"of_environment.number (from MODELGATE_OF_ENVIRONMENT): found "x"; allowed: a whole number from 0 to 9"#,
        "of_file: is wrong",
    ];
    assert_eq!(errors, expected);
    let one = ConfigErrors::one("a", "b");
    assert_eq!(one.to_string(), "the configuration has 1 error:\n  a: b");
    let two = ConfigErrors([one.0.clone(), one.0].concat());
    assert_eq!(two.to_string(), "the configuration has 2 errors:\n  a: b\n  a: b");
}

/// What does not need a secret can use the rest.
#[test]
fn a_secret_that_cannot_be_read_is_told_apart() {
    let mapping: Mapping = serde_yaml::from_str("one: here\ntwo: there\nthree: x\n").expect("a mapping");
    let report = Report::new(Origins::default(), Vec::new());
    let mut root = Section::root(&report, &mapping);
    let read = |at: &str| if at == "here" { Ok(7) } else { Err("nothing is kept there".to_owned()) };
    assert_eq!(root.kept_secret("one", "a place", read), Some(7));
    assert_eq!(root.kept_secret("two", "a place", read), None);
    let asked = Cell::new(false);
    let never = |_: &str| {
        asked.set(true);
        Ok(7)
    };
    assert_eq!((root.kept_secret("absent", "a place", never), asked.get()), (None, false));
    assert_eq!(root.number("three", 0..=9), None);
    let unread: Vec<String> = report.unread_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(unread, [r#"two: found "there"; nothing is kept there"#]);
    assert_eq!(report.into_errors().len(), 2);
}

/// Settings have dots in their names, and are levels in a file.
#[test]
fn settings_are_read_at_their_levels() {
    let yaml = "ready: { path: /v2 }\nwebsockets: true\nweight: 7\nselect: { header: 'X-Size: 70b' }\npaths: [/a, /b]\n";
    let ((server, _), errors) = read(yaml, settings_of);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((server.websockets, server.weight, server.paths.len()), (true, Some(7), 2));
    let yaml = "ready: { path: {}, paths: 1, contains:  }\nweight: x\nselect: y\npaths: [[1]]\nelse: 1\n";
    let errors = read(yaml, settings_of).1;
    let places: Vec<&str> = errors.iter().filter_map(|error| error.split(": ").next()).collect();
    assert_eq!(places, ["ready.path", "ready", "weight", "select", "paths", "the file"], "{errors:#?}");
    assert!(errors[0].contains("found keys with values; allowed: "), "{errors:?}");
    assert!(errors[1].ends_with("unknown key `paths`; allowed here: path, contains"), "{errors:?}");
    assert!(errors[2].contains(r#"found "x"; "#), "{errors:?}");
    assert!(errors[3].ends_with("found text; allowed: keys with values"), "{errors:?}");
    assert!(errors[4].contains("found a list; allowed: "), "{errors:?}");
}

/// The form says what a getter would have taken, so that an editor can check a file.
#[test]
fn a_form_is_told() {
    let form = form(|root| {
        all(root);
        root.require("word", "one, two");
        root.require("word", "one, two");
        root.require("switch", "true, false");
        assert!(root.is_form() && root.has("anything"));
        let mut each = root.sections("each").remove(0);
        each.number("number", 0..=9);
        each.section("inner").bool("switch");
        settings_of(root);
    });
    assert_eq!(
        (&form["additionalProperties"], &form["required"]),
        (&json!(false), &json!(["word", "switch"]))
    );
    let of = |key: &str| &form["properties"][key];
    assert_eq!(of("word"), &json!({ "enum": [null, "one", "two"] }));
    assert_eq!(of("switch"), &json!({ "enum": [null, "true", true, "false", false] }));
    assert_eq!(
        of("letter"),
        &json!({ "type": ["string", "number", "boolean", "null"], "description": "a or b" })
    );
    let number = json!({
        "type": ["integer", "string", "null"], "minimum": 2, "maximum": 9, "pattern": "^[+]?[0-9]+$",
        "description": "a whole number from 2 to 9",
    });
    assert_eq!(of("number"), &number);
    assert_eq!(of("large")["maximum"], json!(5_000_000_000_u64));
    let span = json!({
        "type": ["string", "number", "null"], "pattern": "^ *[0-9.]", "minimum": 0,
        "description": "a time with its unit, from 2s to 90s, such as 5s",
    });
    assert_eq!(of("span"), &span);
    assert_eq!(of("bytes")["description"], "a size from 1KiB to 1GiB, such as 1MiB");
    let item = json!({ "type": ["string", "number", "boolean"], "description": "a letter" });
    assert_eq!(of("letters"), &json!({ "type": ["array", "null"], "items": item }));
    assert_eq!(of("each")["type"], json!(["array", "null"]));
    let each = &of("each")["items"]["properties"];
    assert_eq!((&each["number"]["maximum"], &each["inner"]["type"]), (&json!(9), &json!(["object", "null"])));
    assert_eq!(each["inner"]["properties"]["switch"]["enum"], json!([null, "true", true, "false", false]));
    assert_eq!(of("websockets")["enum"], json!([null, true, "true", false, "false"]));
    assert!(
        of("websockets")["description"]
            .as_str()
            .is_some_and(|told| told.contains(". Allowed: true or false"))
    );
    assert_eq!(
        (&of("weight")["type"], &of("weight")["minimum"]),
        (&json!(["integer", "string", "null"]), &json!(1))
    );
    assert!(
        of("weight")["description"]
            .as_str()
            .is_some_and(|told| told.contains(". Allowed: a whole number from "))
    );
    assert_eq!(of("paths")["type"], json!(["string", "number", "boolean", "array", "null"]));
    assert_eq!(of("ready")["properties"]["path"]["items"]["type"], json!(["string", "number", "boolean"]));
    assert_eq!(Report::default().into_schema(), None);
}

#[test]
fn sizes_and_networks_are_written_as_people_do() {
    for (bytes, text) in [
        (0, "0"),
        (1_023, "1023"),
        (1_024, "1KiB"),
        (1_025, "1025"),
        (3 << 20, "3MiB"),
        ((1 << 20) + 1_024, "1025KiB"),
        (2 << 30, "2GiB"),
    ] {
        assert_eq!(size(bytes), text);
    }
    let told = |text: &str| network(text).map(|network| network.to_string());
    assert_eq!(told("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(told("10.0.0.1").as_deref(), Some("10.0.0.1/32"));
    assert_eq!(told("there"), None);
}
