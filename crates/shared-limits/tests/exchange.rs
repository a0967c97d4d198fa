//! What Modelgates pass on to each other through Redis.

mod common;

use std::time::{Duration, Instant};

use common::{connect, connected};
use shared_limits::{Place, Received, SharedLimits, Stream, Unavailable, is_url};
use testkit::{
    eventually, need,
    redis::{Redis, redis_server},
};

/// The messages, and whether there may be more.
type Heard = (Vec<Vec<u8>>, bool);

fn heard(received: Received) -> Heard {
    (received.messages.into_iter().map(|message| message.bytes).collect(), received.is_full)
}

async fn exchange(
    limits: &SharedLimits,
    place: &mut Place,
    messages: &[Vec<u8>],
) -> Result<Heard, Unavailable> {
    limits.exchange(place, messages).await.map(heard)
}

fn received(messages: &[&[u8]], is_full: bool) -> Result<Heard, Unavailable> {
    Ok((messages.iter().map(|message| message.to_vec()).collect(), is_full))
}

/// A receipt that is lost, or that comes twice, settles a request wrongly.
#[tokio::test]
async fn each_message_reaches_each_other_modelgate_once() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let (one, other) = (connected(&redis).await, connected(&redis).await);
    let (mut of_one, mut of_other) = (Place::begin(Stream::Receipts), Place::begin(Stream::Receipts));
    let nothing = || received(&[], false);
    assert_eq!(exchange(&one, &mut of_one, &[]).await, nothing());
    assert_eq!(redis.ask("EXISTS {modelgate}:exchange").await, ":0", "nothing is kept for nothing");

    let longest = vec![7; Stream::Receipts.max_message_bytes()];
    let sent = [b"a".to_vec(), vec![7; longest.len() + 1], longest.clone()];
    assert_eq!(exchange(&one, &mut of_one, &sent).await, nothing(), "its own");
    // What nobody takes is gone after half a minute.
    let keeps: i32 = redis.ask("TTL {modelgate}:exchange").await[1..].parse().expect("seconds");
    assert!((1..=30).contains(&keeps), "{keeps}");
    assert_eq!(exchange(&other, &mut of_other, &[b"b".to_vec()]).await, received(&[b"a", &longest], false));
    assert_eq!(exchange(&other, &mut of_other, &[]).await, nothing(), "once");
    assert_eq!(exchange(&one, &mut of_one, &[]).await, received(&[b"b"], false));

    // Whoever comes later begins with what is kept, eight at a time.
    let many: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number]).collect();
    assert_eq!(exchange(&one, &mut of_one, &many).await, received(&[], true));
    let mut late = Place::begin(Stream::Receipts);
    let first = exchange(&other, &mut late, &[]).await.expect("an answer");
    assert_eq!((first.0.len(), first.1), (8, true));
    let rest = exchange(&other, &mut late, &[]).await.expect("an answer");
    assert_eq!((rest.0.last(), rest.0.len(), rest.1), (Some(&vec![7]), 3, false));
}

/// Who listens hears at once what others send, whoever sends to another stream, and goes on after the server was gone.
#[tokio::test]
async fn who_listens_hears_at_once() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    let (one, other) = (connected(&redis).await, connected(&redis).await);
    let (of_one, of_other) = (Place::begin(Stream::Choices), Place::begin(Stream::Choices));
    let (sender, own) = (of_one.sender(), of_other.sender());
    assert_eq!(one.send(sender, &[]).await, Ok(()));
    assert_eq!(redis.ask("EXISTS {modelgate}:choices").await, ":0", "nothing is kept for nothing");
    let early = b"before it listened".to_vec();
    assert_eq!(one.send(sender, std::slice::from_ref(&early)).await, Ok(()));
    let mut listener = other.listen(of_other);
    assert_eq!(listener.next().await.map(heard), received(&[&early], false));
    let mut receipts = Place::begin(Stream::Receipts);
    assert_eq!(exchange(&one, &mut receipts, &[b"a receipt".to_vec()]).await, received(&[], false));
    assert_eq!(other.send(own, &[b"its own".to_vec()]).await, Ok(()));
    assert_eq!(listener.next().await.map(heard), received(&[], false), "its own");

    let began = Instant::now();
    let send = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let sent_at = began.elapsed();
        assert_eq!(one.send(sender, &[b"now".to_vec()]).await, Ok(()));
        sent_at
    };
    let (next, sent_at) = tokio::join!(listener.next(), send);
    let next = next.expect("an answer");
    assert!(
        began.elapsed() - sent_at < Duration::from_millis(500),
        "it was not waited for the end of a second"
    );
    let age = other.age(&next.messages[0]);
    assert!(age < Duration::from_millis(500), "{age:?}");
    assert_eq!(heard(next), (vec![b"now".to_vec()], false));
    let began = Instant::now();
    assert_eq!(listener.next().await.map(heard), received(&[], false));
    assert!(began.elapsed() >= Duration::from_millis(900), "nothing is asked for again and again");

    redis.kill();
    assert_eq!(listener.next().await.map(heard), Err(Unavailable));
    redis.restart().await;
    // The loss may not have been noticed yet.
    eventually(Duration::from_secs(60), || async { one.send(sender, &[b"again".to_vec()]).await.ok() }).await;
    assert_eq!(listener.next().await.map(heard), received(&[b"again"], false));
}

/// Modelgates that hash prompts with different secrets tell each other nothing.
#[tokio::test]
async fn all_have_the_same_secret() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let (one, other) = (connected(&redis).await, connected(&redis).await);
    let (first, second) = (u64::MAX - 1, 7);
    assert_eq!(one.secret("s", first).await, Ok(first));
    assert_eq!(other.secret("s", second).await, Ok(first), "the first one's");
    assert_eq!(one.secret("other", second).await, Ok(second));
    let kept: u64 = redis.ask("TTL {modelgate}:s").await[1..].parse().expect("seconds");
    assert!((86_000..=86_400).contains(&kept), "{kept}");
    redis.ask("EXPIRE {modelgate}:s 10").await;
    assert_eq!(one.secret("s", second).await, Ok(first));
    assert_ne!(redis.ask("TTL {modelgate}:s").await, ":10", "whoever asks keeps it");
    redis.ask("SET {modelgate}:s odd").await;
    assert_eq!(one.secret("s", first).await, Err(Unavailable));
    redis.ask("FLUSHALL").await;
    assert_eq!(other.secret("s", second).await, Ok(second), "it was lost");
}

/// Limits are not affected, and nobody waits.
#[tokio::test]
async fn without_a_server_nothing_is_passed_on() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    redis.kill();
    let limits = connect(&redis.url()).await;
    assert_eq!(
        limits.exchange(&mut Place::begin(Stream::Receipts), &[b"a".to_vec()]).await,
        Err(Unavailable)
    );
    let place = Place::begin(Stream::Choices);
    assert_eq!(limits.send(place.sender(), &[b"a".to_vec()]).await, Err(Unavailable));
    assert_eq!(limits.secret("s", 7).await, Err(Unavailable));
    assert_eq!(limits.listen(place).next().await.map(heard), Err(Unavailable));
    assert_eq!(limits.failures(), 0);
}

/// The configuration asks this before anything is connected.
#[test]
fn what_is_a_url_of_redis() {
    for (text, is_one) in [
        ("redis://h", true),
        ("redis://user:secret@h:7000/2", true),
        ("unix:///run/redis.sock", true),
        ("h:6379", false),
        ("http://h", false),
        ("", false),
    ] {
        assert_eq!(is_url(text), is_one, "{text}");
    }
}
