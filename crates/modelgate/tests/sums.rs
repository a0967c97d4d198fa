//! A million requests with prices that change at dates: the page, the API, the command line and the database say the same to the last
//! unit, and it is what simple arithmetic says.
//!
//! The requests are counted, settled and corrected by what the program itself does that with, in this process, and are written into
//! its store. `MODELGATE_TEST_SUMS=N` takes another number of requests; with `MODELGATE_TEST_SUMS_POSTGRES=1` PostgreSQL is asked as
//! well, which takes longer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::{Consumer, Key, KeyDigest, ModelGlobs, UsageEstimate, UsageOf, estimate::Media};
use jiff::{Timestamp, Zoned, civil::Date, tz::TimeZone};
use metering::{
    Ending, MeteredEndpoint, RequestId, RequestSettlement, RequestShape, ReservedTokens, UsageCorrection,
    UsageKind, UsedTokens,
};
use prices::{Amount, Billed, Charge, Price, PriceEntry, PriceList};
use serde_json::Value;
use store::{Batch, Store, StoreUrl, UsedOn, Writer};
use testkit::{
    Stopwatch,
    modelgate::Modelgate,
    need,
    postgres::{Postgres, postgres_binary},
};
use tokio::sync::watch;
use web::{Metered, Shared};

const TOKEN: &str = "an-admin-token-of-the-tests";
const REQUESTS: u64 = 1_000_000;
const AT_ONCE: u64 = 100_000;
const ZONE: &str = "Europe/Berlin";
const KEYS: u64 = 8;
const DAYS: u64 = 12;
/// The first is free, and one has no tokens but images, one sound.
const MODELS: [&str; 5] = ["free", "llama-small", "llama-large", "painter", "whisper"];

/// Prices of llama change on the fifth and the ninth of the days, that of llama-large on the seventh.
fn prices(first: Date, zone: &TimeZone) -> (PriceList, String) {
    let day = |number: i8| first.saturating_add(jiff::Span::new().days(number));
    let begins = |date: Date| {
        let begins = date.to_zoned(zone.clone()).expect("a day").timestamp().as_second();
        u64::try_from(begins).expect("after 1970")
    };
    let (mut entries, mut yaml) = (Vec::new(), String::new());
    let mut add = |text: &str, from: Option<Date>, fields: &[(&str, &str)]| {
        let amount = |key: &str| {
            let given = fields.iter().find(|(name, _)| *name == key).map_or("0", |(_, amount)| amount);
            given.parse::<Amount>().expect("an amount")
        };
        let price = Price {
            prompt: amount("prompt"),
            cached_prompt: fields
                .iter()
                .any(|(name, _)| *name == "cached_prompt")
                .then(|| amount("cached_prompt")),
            completion: amount("completion"),
            request: amount("request"),
            second: amount("second"),
            image: amount("image"),
            minute: amount("minute"),
            characters: amount("characters"),
        };
        let models = ModelGlobs::parse(&[text.to_owned()]).expect("a pattern");
        entries.push(PriceEntry { text: text.into(), models, from: from.map_or(0, begins), price });
        let from = from.map(|from| format!(", from: {from}")).unwrap_or_default();
        let fields: String = fields.iter().map(|(name, amount)| format!(", {name}: {amount}")).collect();
        yaml.push_str(&format!("    - {{ match: \"{text}\"{from}{fields} }}\n"));
    };
    add(
        "llama-large",
        Some(day(6)),
        &[("prompt", "2.345678901"), ("completion", "9.1"), ("second", "0.000123")],
    );
    add("llama*", None, &[("prompt", "0.15"), ("cached_prompt", "0.0375"), ("completion", "0.6")]);
    add(
        "llama*",
        Some(day(4)),
        &[("prompt", "0.123456789"), ("completion", "0.7"), ("request", "0.000000003")],
    );
    add("llama*", Some(day(8)), &[("prompt", "0.1"), ("completion", "0.000000007")]);
    add("painter", None, &[("image", "0.04")]);
    add("painter", Some(day(4)), &[("image", "0.0333333333".get(..11).expect("digits"))]);
    add("whisper", None, &[("minute", "0.006")]);
    (PriceList::new("EUR".into(), entries), yaml)
}

/// What one key has used of one model on one day.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    requests: i64,
    tokens: i64,
    cost: i64,
    images: i64,
    sound: i64,
}

impl Sum {
    fn add(&mut self, one: &One, price: Option<&Price>) {
        self.requests += 1;
        self.tokens += one.used.total() as i64 + one.corrected.unwrap_or(0);
        self.cost += one.cost(price);
        if one.ending != Ending::Refused {
            let [images, sound, _] = one.media.counts();
            self.images += images;
            self.sound += sound;
        }
    }
}

type UsageSums = BTreeMap<(String, String, String, &'static str), Sum>;

/// UsageSums by day, key and model, by their numbers.
type Cells = Vec<[[Sum; MODELS.len()]; KEYS as usize]>;

/// One request, from a number: what it asks for, and what becomes of it.
struct One {
    key: usize,
    /// Its place among [`MODELS`].
    number: usize,
    model: &'static str,
    at: SystemTime,
    estimated: [u32; 2],
    media: Media,
    kind: UsageKind,
    ending: Ending,
    used: UsedTokens,
    milliseconds: u64,
    /// What a server's counters say later that it has used more.
    corrected: Option<i64>,
}

impl One {
    fn of(number: u64, first: SystemTime) -> Self {
        // A fixed sequence of numbers that looks like no order (SplitMix64).
        let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |most: u64| {
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) ^ (state >> 31);
            (state >> 11) % most
        };
        let place = below(5) as usize;
        let model = MODELS[place];
        // Around midnight and at noon, so that there are few rows by hour.
        let hour = [0, 12, 23][below(3) as usize];
        let seconds = below(DAYS) * 86_400 + hour * 3_600 + below(3_600);
        let media = Media {
            images: if model == "painter" { 1 + below(4) as u32 } else { 0 },
            sound: if model == "whisper" { below(300_000) as u32 } else { 0 },
            characters: 0,
        };
        let ending = match below(100) {
            0..6 => Ending::Refused,
            6..12 => Ending::Aborted,
            12..15 => Ending::Unknown,
            _ => Ending::Finished,
        };
        let kind = match (ending, below(10)) {
            (Ending::Unknown, _) => UsageKind::Estimated,
            (_, 0..7) => UsageKind::Exact,
            _ => UsageKind::Measured,
        };
        let estimated = [1 + below(3_000) as u32, below(2_000) as u32];
        let used = match (ending, kind) {
            (Ending::Refused, _) => UsedTokens::default(),
            (_, UsageKind::Estimated) => {
                UsedTokens { prompt: estimated[0].into(), cached: None, completion: estimated[1].into() }
            }
            _ => {
                let prompt = below(3_000);
                UsedTokens { prompt, cached: Some(below(prompt + 1)), completion: below(4_000) }
            }
        };
        let corrected = (kind == UsageKind::Measured && ending == Ending::Finished && below(5) == 0)
            .then(|| below(500) as i64);
        Self {
            key: below(KEYS) as usize,
            number: place,
            model,
            at: first + Duration::from_secs(seconds),
            estimated,
            media,
            kind,
            ending,
            used,
            milliseconds: below(30_000),
            corrected,
        }
    }

    /// What is paid for in the end, by plain arithmetic in units of 10⁻⁹ / 60,000,000, rounded once.
    fn cost(&self, price: Option<&Price>) -> i64 {
        let Some(price) = price else { return 0 };
        let times = |number: i64, price: Amount| i128::from(number) * i128::from(price.0);
        let [prompt, cached, completion] =
            [self.used.prompt, self.used.cached.unwrap_or(0), self.used.completion]
                .map(|tokens| tokens as i64);
        let completion = completion + self.corrected.unwrap_or(0);
        let mut exact = 60
            * (times(prompt - cached, price.prompt)
                + times(cached, price.cached_prompt.unwrap_or(price.prompt))
                + times(completion, price.completion));
        if self.ending != Ending::Refused {
            exact +=
                60_000_000 * (i128::from(price.request.0) + times(self.media.images.into(), price.image));
            exact += 60_000 * times(self.milliseconds as i64, price.second);
            exact += 1_000 * times(self.media.sound.into(), price.minute);
        }
        let (whole, rest) = (exact / 60_000_000, exact % 60_000_000);
        i64::try_from(whole).expect("an amount") + i64::from(rest >= 30_000_000)
    }
}

/// A state without servers, keys or a listener.
fn shared() -> Shared {
    Shared::new(web::Parts {
        catalogue: catalogue::channel().1,
        settings: web::Settings {
            trusted_networks: Vec::new(),
            traefik: traefik_config::RenderOptions::default(),
            version_is_given: true,
            advertise: None,
            hold: Duration::ZERO,
            telemetry: None,
            prices: PriceList::default(),
            keeps_hard_budgets: true,
        },
        policy: Arc::default(),
        authority: web::CertificateAuthority::open(None, None).expect("an authority"),
        requests_port: 8101,
        traefik_peers: watch::channel(BTreeSet::new()).0,
    })
}

/// The keys, two of each consumer.
fn keys() -> Vec<Arc<Key>> {
    let key = |number: u64| {
        let consumer = Arc::new(Consumer::new(format!("team-{}", number / 2)));
        Arc::new(Key::new(format!("key-{number}"), consumer, KeyDigest::of(&format!("mg-{number}"))))
    };
    (0..KEYS).map(key).collect()
}

/// Counts a request as `/auth` does, and settles it as the ledger does.
fn come(shared: &Shared, key: &Arc<Key>, one: &One, price: Option<Arc<Price>>) -> RequestSettlement<Metered> {
    let [prompt, completion] = one.estimated;
    let [images, sound, _] = one.media.counts();
    let tokens = Billed { prompt: prompt.into(), completion: completion.into(), ..Billed::default() };
    let charge = Charge::new(price, Billed { requests: 1, images, sound, ..tokens });
    let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model: one.model };
    let estimate = UsageEstimate { prompt, completion, cost: charge.amount().0, media: one.media };
    let hour = shared.usage().allowed(of, one.at, estimate);
    RequestSettlement {
        request: RequestId(1),
        model: one.model.into(),
        shape: RequestShape {
            endpoint: MeteredEndpoint::of("/v1/chat/completions"),
            streams: false,
            traces: true,
            is_shaped: false,
            is_mirrored: false,
            has_beams: false,
            choices: 1,
            prompts: 1,
        },
        reserved: ReservedTokens { prompt, completion, is_open: false },
        held: Metered::unlimited(Arc::clone(key), hour, charge, one.media),
        kind: one.kind,
        used: one.used,
        ending: one.ending,
        status: None,
        time_to_first_token: None,
        duration: Some(Duration::from_millis(one.milliseconds)),
        server: None,
        answer_bytes: None,
        is_unworked: one.ending == Ending::Refused,
        attempts: 1,
        has_ended: true,
        worked: None,
    }
}

fn corrected((settled, by): (RequestSettlement<Metered>, Option<i64>)) -> Option<UsageCorrection<Metered>> {
    Some(UsageCorrection {
        request: settled.request,
        settled: settled.used.total(),
        whose: settled.held,
        model: settled.model,
        kind: settled.kind,
        prompt: 0,
        cached: 0,
        completion: by?,
    })
}

/// Lets requests come, settles and corrects them, and adds them up plainly. Each batch goes to `write`.
async fn use_up(
    requests: u64,
    (first, zone): (SystemTime, &TimeZone),
    prices: &PriceList,
    mut write: impl AsyncFnMut(Batch),
) -> UsageSums {
    let (shared, keys) = (shared(), keys());
    let date = |at: SystemTime| -> Date {
        let at: Zoned = Timestamp::try_from(at).expect("a time").to_zoned(zone.clone());
        at.date()
    };
    let begins = date(first);
    let mut days: HashMap<u64, usize> = HashMap::new();
    // A change of the clock moves midnight, so a day is not always the same number of seconds.
    let mut day = |at: SystemTime| {
        let hour = at.duration_since(first).expect("later").as_secs() / 3_600;
        *days.entry(hour).or_insert_with(|| usize::try_from((date(at) - begins).get_days()).expect("later"))
    };
    let (mut cells, mut number): (Cells, _) = (vec![Default::default(); DAYS as usize + 1], 0);
    for begin in (0..requests).step_by(AT_ONCE as usize) {
        for some in (begin..requests.min(begin + AT_ONCE)).collect::<Vec<_>>().chunks(1_000) {
            let (mut settlements, mut corrections) = (Vec::new(), Vec::new());
            for one in some.iter().map(|number| One::of(*number, first)) {
                let price = prices.at(one.model, one.at).cloned();
                cells[day(one.at)][one.key][one.number].add(&one, price.as_deref());
                settlements.push(come(&shared, &keys[one.key], &one, price));
                corrections.push(one.corrected);
            }
            shared.settle(&mut settlements, web::Corrections::default()).await;
            let mut corrected: Vec<_> =
                settlements.into_iter().zip(corrections).filter_map(corrected).collect();
            shared.correct_by_counters(&mut corrected).await;
        }
        let used = shared.usage().take().into_iter();
        let used = used.map(|used| UsedOn { day: date(used.hour.start()).to_string(), used }).collect();
        number += 1;
        write(Batch { number, counts: Vec::new(), used, at: SystemTime::now() }).await;
    }
    named(&cells, &keys, begins)
}

fn named(cells: &Cells, keys: &[Arc<Key>], begins: Date) -> UsageSums {
    let mut sums = UsageSums::new();
    for (day, of_day) in (0..).zip(cells) {
        let day = begins.saturating_add(jiff::Span::new().days(day)).to_string();
        for (key, of_key) in keys.iter().zip(of_day) {
            for (model, sum) in MODELS.into_iter().zip(of_key).filter(|(_, sum)| sum.requests > 0) {
                sums.insert((day.clone(), key.name.clone(), key.consumer.name.clone(), model), *sum);
            }
        }
    }
    sums
}

/// Whom rows are about, and the sums of the test by that.
fn by(sums: &UsageSums, columns: &[&str]) -> BTreeMap<Vec<String>, Sum> {
    let mut found: BTreeMap<Vec<String>, Sum> = BTreeMap::new();
    for ((day, key, consumer, model), more) in sums {
        let names = columns.iter().map(|column| match *column {
            "day" => day.clone(),
            "month" => day[..7].to_owned(),
            "key" => key.clone(),
            "consumer" => consumer.clone(),
            _ => (*model).to_owned(),
        });
        let sum = found.entry(names.collect()).or_default();
        sum.requests += more.requests;
        sum.tokens += more.tokens;
        sum.cost += more.cost;
        sum.images += more.images;
        sum.sound += more.sound;
    }
    found
}

fn billionths(amount: &str) -> i64 {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, "0"));
    format!("{whole}{part:0<9}").parse().expect("an amount")
}

/// Rows as JSON, of the API and of the command line.
fn of_json(rows: &Value, columns: &[&str]) -> BTreeMap<Vec<String>, Sum> {
    let row = |row: &Value| {
        let number = |name: &str| row[name].as_i64().expect(name);
        let names = columns.iter().map(|column| row[*column].as_str().expect("a name").to_owned()).collect();
        let sum = Sum {
            requests: number("requests"),
            tokens: number("tokens"),
            cost: billionths(row["cost"].as_str().expect("an amount")),
            images: number("images"),
            sound: (row["sound_seconds"].as_f64().expect("a number") * 1e3).round() as i64,
        };
        (names, sum)
    };
    rows.as_array().expect("a list").iter().map(row).collect()
}

fn of_csv(csv: &str, columns: &[&str]) -> BTreeMap<Vec<String>, Sum> {
    let mut lines = csv.lines();
    let heading: Vec<_> = lines.next().expect("a heading").split(',').collect();
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.split(',').collect();
        let cell = |name: &str| cells[heading.iter().position(|one| *one == name).expect(name)];
        let number = |name: &str| cell(name).parse::<i64>().expect(name);
        let sum = Sum {
            requests: number("requests"),
            tokens: number("tokens"),
            cost: billionths(cell("cost")),
            images: number("images"),
            sound: (cell("sound_seconds").parse::<f64>().expect("a number") * 1e3).round() as i64,
        };
        (columns.iter().map(|column| cell(column).to_owned()).collect(), sum)
    });
    rows.collect()
}

/// Each way to ask says what the test has added up.
async fn all_say_the_same(modelgate: &Modelgate, sums: &UsageSums, (from, to): (Date, Date)) {
    let client = reqwest::Client::new();
    let ask = async |path: String| {
        let request = client.get(format!("{}{path}", modelgate.admin_url())).bearer_auth(TOKEN);
        request
            .send()
            .await
            .expect("an answer")
            .error_for_status()
            .expect(&path)
            .text()
            .await
            .expect("a text")
    };
    for columns in [
        &["day"][..],
        &["month"],
        &["model"],
        &["key"],
        &["consumer"],
        &["day", "model"],
        &["month", "key", "model"],
        &["day", "key", "consumer", "model"],
    ] {
        let (expected, by_text) = (by(sums, columns), columns.join(","));
        let span = format!("by={by_text}&from={from}&to={to}");
        let json: Value = serde_json::from_str(&ask(format!("/api/v1/usage?{span}")).await).expect("JSON");
        assert_eq!(of_json(&json["items"], columns), expected, "by the API: {span}");
        assert_eq!(json["has_more"], false);
        assert_eq!(
            of_csv(&ask(format!("/usage.csv?{span}")).await, columns),
            expected,
            "the page's CSV: {span}"
        );
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let command = command.current_dir(modelgate.folder()).env("MODELGATE_STATE_DIR", "state");
        let command = command.arg("usage").args(["--by", &by_text, "--json"]);
        let command = command.args(["--from", &from.to_string(), "--to", &to.to_string(), "--limit", "2000"]);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(of_json(&json, columns), expected, "by the command line: {span}");
        let page = ask(format!("/usage?{span}")).await;
        // The first row is the sum of all, with the exact amount beside what people read.
        let shown = page.split("<data value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let all = by(sums, &[])[&Vec::new()];
        assert_eq!(shown.map(billionths), Some(all.cost), "the page: {span}");
        assert!(all.requests != 1_000_000 || page.contains("1,000,000"), "{page}");
    }
}

/// The sums of each table of the database, without any of the program's code.
fn tables_of(file: &Path) -> Vec<Sum> {
    const SCRIPT: &str = "
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
tables = ['usage', 'usage_hours', 'usage_months', 'usage_models', 'usage_model_months']
columns = 'sum(requests), sum(exact + measured + tokens), sum(cost), sum(images), sum(sound)'
print(json.dumps([db.execute(f'SELECT {columns} FROM {table}').fetchone() for table in tables]))
";
    let output = Command::new("python3").args(["-c", SCRIPT]).arg(file).output().expect("Python runs");
    let rows: Vec<[i64; 5]> = serde_json::from_slice(&output.stdout).expect("JSON");
    rows.into_iter()
        .map(|[requests, tokens, cost, images, sound]| Sum { requests, tokens, cost, images, sound })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_requests_add_up_to_the_last_unit_wherever_one_asks() {
    let requests =
        std::env::var("MODELGATE_TEST_SUMS").map_or(REQUESTS, |text| text.parse().expect("a number"));
    let zone = TimeZone::get(ZONE).expect("a zone");
    let today = Timestamp::try_from(SystemTime::now()).expect("a time").to_zoned(zone.clone()).date();
    let first = today.saturating_sub(jiff::Span::new().days(DAYS as i64));
    let begins: SystemTime = first.to_zoned(zone.clone()).expect("a day").timestamp().into();
    let (list, yaml) = prices(first, &zone);
    let config = format!(
        "time_zone: {ZONE}\nadmin: {{ tokens: [{{ name: ada, sha256: \"{}\" }}] }}\nprices:\n  currency: EUR\n  models:\n{yaml}",
        KeyDigest::of(TOKEN).to_hex()
    );
    let mut modelgate =
        Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config).keep_state().start().await;
    modelgate.stop().await;
    let folder = modelgate.folder().join("state");
    let store = Store::open(StoreUrl::in_folder(&folder)).await.expect("a store");
    let (writer, stopwatch) = (Writer::new(), Stopwatch::start());
    let mut batches = Vec::new();
    let sums = use_up(requests, (begins, &zone), &list, async |batch: Batch| {
        store.add(&writer, &batch).await.expect("added");
        batches.push(batch);
    })
    .await;
    drop(store);
    println!("{requests} requests counted, settled and written in {:?}", stopwatch.elapsed());
    let all = by(&sums, &[])[&Vec::new()];
    assert!(all.requests == requests as i64 && all.cost > 0 && all.images > 0 && all.sound > 0, "{all:?}");
    assert_eq!(tables_of(&folder.join("modelgate.db")), [all; 5]);
    modelgate.restart().await;
    all_say_the_same(&modelgate, &sums, (first, today)).await;
    println!("all of it in {:?}", stopwatch.elapsed());

    if std::env::var_os("MODELGATE_TEST_SUMS_POSTGRES").is_some() {
        let Some(postgres) = need(postgres_binary(), "PostgreSQL") else { return };
        let postgres = Postgres::shared(&postgres).await;
        let url = postgres.create_database().await;
        let store = Store::open(url.parse().expect("a URL")).await.expect("a store");
        for batch in &batches {
            store.add(&writer, batch).await.expect("added");
        }
        drop(store);
        let config = format!("{config}store: {{ url: \"{url}\" }}\n");
        let modelgate = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config).start().await;
        all_say_the_same(&modelgate, &sums, (first, today)).await;
    }
}
