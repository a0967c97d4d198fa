//! What Modelgates pass on to each other through Redis.

mod common;

use common::{connect, connected};
use shared_limits::{MAX_MESSAGE_BYTES, Place, Received, Unavailable, is_url};
use testkit::{
    need,
    redis::{Redis, redis_server},
};

fn received(messages: &[&[u8]], is_full: bool) -> Received {
    Received { messages: messages.iter().map(|message| message.to_vec()).collect(), is_full }
}

/// A receipt that is lost, or that comes twice, settles a request wrongly.
#[tokio::test]
async fn each_message_reaches_each_other_modelgate_once() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let (one, other) = (connected(&redis).await, connected(&redis).await);
    let (mut of_one, mut of_other) = (Place::default(), Place::default());
    let nothing = || Ok(Received::default());
    assert_eq!(one.exchange(&mut of_one, &[]).await, nothing());
    assert_eq!(redis.ask("EXISTS {modelgate}:exchange").await, ":0", "nothing is kept for nothing");

    let longest = vec![7; MAX_MESSAGE_BYTES];
    let sent = [b"a".to_vec(), vec![7; MAX_MESSAGE_BYTES + 1], longest.clone()];
    assert_eq!(one.exchange(&mut of_one, &sent).await, nothing(), "its own");
    // What nobody takes is gone after half a minute.
    let keeps: i32 = redis.ask("TTL {modelgate}:exchange").await[1..].parse().expect("seconds");
    assert!((1..=30).contains(&keeps), "{keeps}");
    assert_eq!(other.exchange(&mut of_other, &[b"b".to_vec()]).await, Ok(received(&[b"a", &longest], false)));
    assert_eq!(other.exchange(&mut of_other, &[]).await, nothing(), "once");
    assert_eq!(one.exchange(&mut of_one, &[]).await, Ok(received(&[b"b"], false)));

    // Whoever comes later begins with what is kept, eight at a time.
    let many: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number]).collect();
    assert_eq!(one.exchange(&mut of_one, &many).await, Ok(received(&[], true)));
    let mut late = Place::default();
    let first = other.exchange(&mut late, &[]).await.expect("an answer");
    assert_eq!((first.messages.len(), first.is_full), (8, true));
    let rest = other.exchange(&mut late, &[]).await.expect("an answer");
    assert_eq!((rest.messages.last(), rest.messages.len(), rest.is_full), (Some(&vec![7]), 3, false));
}

/// Limits are not affected, and nobody waits.
#[tokio::test]
async fn without_a_server_nothing_is_passed_on() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    redis.kill();
    let limits = connect(&redis.url()).await;
    assert_eq!(limits.exchange(&mut Place::default(), &[b"a".to_vec()]).await, Err(Unavailable));
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
