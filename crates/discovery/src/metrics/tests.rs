use catalogue::{Configured, Cordons};
use testkit::sim::{Options, Sim};
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::Sources;

fn spec(name: &str, url: &str) -> ServerSpec {
    ServerSpec::configured(name, ServerUrl::parse(url).expect("a URL"))
}

#[test]
fn a_page_that_cannot_be_read_is_asked_for_less_and_less_often() {
    let (mut pages, start, every) = (Pages::default(), Instant::now(), Duration::from_secs(15));
    let pace = Pace { every, look: every };
    let mut gpu = spec("gpu", "http://10.0.0.1:8000");
    let mut reads = Vec::new();
    for tick in 0..100_u64 {
        let now = start + every * u32::try_from(tick).expect("small");
        if pages.is_due(&gpu, now, every) {
            assert!(!pages.is_due(&gpu, now + RAREST, every), "it is being read");
            pages.was_read(&gpu.url, false, now, pace);
            reads.push(tick);
        }
    }
    assert_eq!(reads, [0, 1, 2, 3, 5, 9, 17, 33, 53, 73, 93], "every five minutes in the end");
    gpu.incarnation = "another run".to_owned();
    let now = start + every * 100;
    assert!(pages.is_due(&gpu, now, every), "a server that has started again is asked at once");
    pages.was_read(&gpu.url, true, now, pace);
    assert!(pages.is_due(&gpu, now + every, every), "and while it answers, each time");
    let look = Duration::from_millis(200);
    pages.was_read(&gpu.url, true, now, Pace { every, look });
    assert!(!pages.is_due(&gpu, now + every - look, every), "not sooner, however often it is looked at");
    assert!(pages.is_due(&gpu, now + look, look), "unless it is wanted sooner now");
}

#[test]
fn the_page_is_beside_the_api() {
    let path_of = |base: &str| {
        let base_path = catalogue::BasePath::parse(base).expect("a path");
        path(&ServerSpec { base_path, ..spec("a", "http://a:1") })
    };
    assert_eq!(["/v1", "/gpu/v1", "/"].map(path_of), ["/metrics", "/gpu/metrics", "/metrics"]);
}

/// One counts, one demands a key that it gets, one has no such page, and one hangs.
#[tokio::test(flavor = "multi_thread")]
async fn what_servers_have_counted_is_read_again_and_again() {
    // It also chooses the cryptography, which discovery needs.
    let client = testkit::client();
    let counting = Sim::start("counting", &["llama"]);
    let keyed = Sim::start_with(Options {
        required_key: Some("secret-of-the-server".to_owned()),
        owned_by: "vllm".to_owned(),
        ..Options::named("keyed", &["qwen"])
    });
    let ollama =
        Sim::start_with(Options { owned_by: "library".to_owned(), ..Options::named("ollama", &["phi"]) });
    let key = catalogue::Credential::new(catalogue::CredentialHeader::Bearer, "secret-of-the-server")
        .expect("a credential");
    let servers = vec![
        spec("counting", &counting.url()),
        ServerSpec { credential: Some(Arc::new(key)), ..spec("keyed", &keyed.url()) },
        spec("ollama", &ollama.url()),
    ];
    let (publisher, catalogue) = catalogue::channel();
    let (_configured, configured) = watch::channel(Configured { servers, ..Configured::default() });
    let (_cordons, cordons) = watch::channel(Cordons::default());
    let (_remembered, remembered) = watch::channel(Arc::default());
    let (_peers, traefik_peers) = watch::channel(Default::default());
    let sources = Sources { docker: Vec::new(), configured, cordons, remembered, traefik_peers, kept: None };
    tokio::spawn(crate::run(sources, publisher, std::future::pending()));
    let (sender, mut readings) = mpsc::channel(16);
    tokio::spawn(read(catalogue, Duration::from_millis(100), sender));

    let chat = serde_json::json!({ "model": "llama", "messages": [{ "role": "user", "content": "Hello" }] });
    let answer = client.post(format!("{}/v1/chat/completions", counting.url())).json(&chat).send().await;
    let answer: serde_json::Value = answer.expect("an answer").json().await.expect("JSON");
    let usage = |name: &str| answer["usage"][name].as_u64().expect("usage");
    let expected = (usage("prompt_tokens"), usage("completion_tokens"));
    let (mut of_counting, mut of_keyed) = (0, 0);
    let all = async {
        while of_counting < 3 || of_keyed < 3 {
            let MetricsReading { url, figures } = readings.recv().await.expect("a reading");
            match url.as_str() {
                url if url == counting.url() => {
                    of_counting += u32::from((figures.prompt_tokens, figures.completion_tokens) == expected);
                }
                url if url == keyed.url() => of_keyed += 1,
                other => panic!("{other} was read"),
            }
        }
    };
    assert!(timeout(Duration::from_secs(60), all).await.is_ok(), "{of_counting} and {of_keyed} readings");
    assert!(ollama.requests().iter().all(|request| request.path != "/metrics"), "Ollama has none");
}
