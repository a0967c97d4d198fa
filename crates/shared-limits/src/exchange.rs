//! Messages that Modelgates pass on to each other through the server.
//!
//! Streams (<https://redis.io/docs/latest/develop/data-types/streams/>) and not channels: whoever has lost its connection for a
//! moment reads on where it was. A stream keeps the last messages only, and none once there was no
//! new one for [`KEPT`].
//!
//! What may take a moment is exchanged on the connection on which decisions are made ([`SharedLimits::exchange`]). Who has to hear at
//! once waits on a connection of its own ([`SharedLimits::listen`]), and sends with [`SharedLimits::send`].

use std::time::Duration;

use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};
use tokio::time::timeout;
use tracing::debug;

use crate::{ServerTime, SharedLimits, Unavailable, link::random_id};

/// How many messages the server keeps of a stream, more or less.
const MOST_KEPT: usize = 512;
/// After so long without a new one, the server forgets all.
const KEPT: Duration = Duration::from_secs(30);
/// The number of messages that are read at once: decisions wait for the same connection.
const MOST_READ: usize = 8;
/// The same for who listens: some three megabytes at most.
const MOST_HEARD: usize = 64;
/// How long the server may take. Nobody waits for it.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long who listens waits for the next message before it asks again.
const LISTENS: Duration = Duration::from_secs(1);
/// For how long a secret that nobody asks for is kept.
const SECRET_KEPT: Duration = Duration::from_secs(86_400);

/// A row of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What was told about requests after they were answered.
    Receipts,
    /// Which server was chosen for which request.
    Choices,
}

/// Where a Modelgate is in what the others have sent.
#[derive(Debug)]
pub struct Place {
    stream: Stream,
    /// Who it is: it skips its own messages.
    id: u64,
    /// The last message that it has read.
    last: String,
}

/// A Modelgate that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSender {
    stream: Stream,
    id: u64,
}

/// What the others have sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// There may be more.
    pub is_full: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The number of the Modelgate that has sent it.
    pub from: u64,
    /// When the server has got it.
    pub sent_at: ServerTime,
    /// The message itself.
    pub bytes: Vec<u8>,
}

/// Hears what the others send, on a connection of its own.
#[derive(Debug)]
pub struct Listener<'l> {
    limits: &'l SharedLimits,
    place: Place,
    connection: Option<MultiplexedConnection>,
}

impl Stream {
    /// The name of its key.
    fn name(self) -> &'static str {
        match self {
            Self::Receipts => "exchange",
            Self::Choices => "choices",
        }
    }

    /// The longest message, in bytes.
    #[must_use]
    pub fn max_message_bytes(self) -> usize {
        match self {
            Self::Receipts => 32 << 10,
            // The longest prompt that is looked at has 4,096 hashes of 8 bytes, which base64 makes a third longer.
            Self::Choices => 48 << 10,
        }
    }
}

impl Place {
    /// Begins with what the server keeps.
    #[must_use]
    pub fn begin(stream: Stream) -> Self {
        Self { stream, id: random_id(), last: "0-0".to_owned() }
    }

    /// Who sends as the same Modelgate.
    #[must_use]
    pub fn sender(&self) -> StreamSender {
        StreamSender { stream: self.stream, id: self.id }
    }
}

impl SharedLimits {
    /// Sends messages to all other Modelgates, and takes what they have sent since the last call. Messages longer than
    /// [`Stream::max_message_bytes`] are not sent.
    ///
    /// # Errors
    /// The server does not answer in time, or does not allow its user streams (`+xadd +xread`). Whether the messages were sent is
    /// not known then; limits are not affected.
    pub async fn exchange(&self, place: &mut Place, messages: &[Vec<u8>]) -> Result<Received, Unavailable> {
        let key = self.keys.named(place.stream.name());
        let mut pipeline = self.adding(place.sender(), messages);
        pipeline.cmd("XREAD").arg("COUNT").arg(MOST_READ).arg("STREAMS").arg(&key).arg(&place.last);
        let answer = self.answer(&pipeline).await?;
        Ok(place.take(answer.last().unwrap_or(&Value::Nil)))
    }

    /// Sends messages to all other Modelgates, as [`Self::exchange`] does.
    ///
    /// # Errors
    /// The same.
    pub async fn send(&self, from: StreamSender, messages: &[Vec<u8>]) -> Result<(), Unavailable> {
        if messages.is_empty() {
            return Ok(());
        }
        self.answer(&self.adding(from, messages)).await.map(|_| ())
    }

    /// Hears what the others send from here on. Connects with the first call of [`Listener::next`].
    #[must_use]
    pub fn listen(&self, place: Place) -> Listener<'_> {
        Listener { limits: self, place, connection: None }
    }

    /// A secret that all Modelgates share: `mine` if there is none yet. It is forgotten when nobody has asked for a day, or when the
    /// server loses its data.
    ///
    /// # Errors
    /// The server does not answer in time, or answers with what is no number.
    pub async fn secret(&self, name: &str, mine: u64) -> Result<u64, Unavailable> {
        let (key, kept) = (self.keys.named(name), SECRET_KEPT.as_secs());
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(&key).arg(mine).arg("EX").arg(kept).arg("NX").ignore();
        pipeline.cmd("EXPIRE").arg(&key).arg(kept).ignore();
        pipeline.cmd("GET").arg(&key);
        let answer = self.answer(&pipeline).await?;
        let text = answer.last().and_then(bytes).and_then(|digits| std::str::from_utf8(digits).ok());
        text.and_then(|text| text.parse().ok()).ok_or(Unavailable)
    }

    /// How long ago a message was sent; zero if the server's clock is not known yet.
    #[must_use]
    pub fn age(&self, message: &Message) -> Duration {
        self.link.age(message.sent_at)
    }

    fn adding(&self, from: StreamSender, messages: &[Vec<u8>]) -> Pipeline {
        let key = self.keys.named(from.stream.name());
        let mut pipeline = redis::pipe();
        let longest = from.stream.max_message_bytes();
        for message in messages.iter().filter(|message| message.len() <= longest) {
            let add = pipeline.cmd("XADD").arg(&key).arg("MAXLEN").arg("~").arg(MOST_KEPT);
            add.arg("*").arg("from").arg(from.id).arg("message").arg(message).ignore();
        }
        if !messages.is_empty() {
            pipeline.cmd("EXPIRE").arg(&key).arg(KEPT.as_secs()).ignore();
        }
        pipeline
    }

    async fn answer(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Unavailable> {
        let mut connection = self.link.connection().ok_or(Unavailable)?;
        self.query(pipeline, &mut connection, TIMEOUT).await
    }

    async fn query(
        &self,
        pipeline: &Pipeline,
        connection: &mut MultiplexedConnection,
        within: Duration,
    ) -> Result<Vec<Value>, Unavailable> {
        let answer = timeout(within, pipeline.query_async(connection)).await.map_err(|_| Unavailable)?;
        answer.map_err(|error: RedisError| {
            if !error.is_io_error() && !error.is_timeout() {
                self.link.note_refusal(&error);
            }
            debug!(%error, "messages cannot be passed on");
            Unavailable
        })
    }
}

impl Listener<'_> {
    /// The next messages; none if nothing has come for a second.
    ///
    /// # Errors
    /// The server does not answer, or does not allow its user streams (`+xread`). The next call connects anew; wait before it.
    pub async fn next(&mut self) -> Result<Received, Unavailable> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.limits.link.connect_to_wait().await?,
        };
        let key = self.limits.keys.named(self.place.stream.name());
        let mut pipeline = redis::pipe();
        let read =
            pipeline.cmd("XREAD").arg("COUNT").arg(MOST_HEARD).arg("BLOCK").arg(LISTENS.as_millis() as u64);
        read.arg("STREAMS").arg(&key).arg(&self.place.last);
        let answer = self.limits.query(&pipeline, &mut connection, LISTENS + TIMEOUT).await?;
        self.connection = Some(connection);
        Ok(self.place.take(answer.last().unwrap_or(&Value::Nil)))
    }
}

impl Place {
    /// `[[key, [[id, [from, …, message, …]], …]]]`, or nothing.
    fn take(&mut self, answer: &Value) -> Received {
        let entries =
            list(answer).and_then(|streams| list(streams.first()?)).and_then(|one| list(one.get(1)?));
        let entries = entries.unwrap_or_default();
        let mut messages = Vec::new();
        for entry in entries {
            let Some([id, fields]) = list(entry) else { continue };
            let Some(id) = text(id) else { continue };
            id.clone_into(&mut self.last);
            let Some([_, from, _, message]) = list(fields) else { continue };
            let from = text(from).and_then(|from| from.parse().ok());
            let (Some(from), Some(message)) = (from, bytes(message)) else { continue };
            if from != self.id && message.len() <= self.stream.max_message_bytes() {
                messages.push(Message { from, sent_at: time_of(id), bytes: message.to_owned() });
            }
        }
        Received { messages, is_full: entries.len() >= MOST_READ }
    }
}

/// `1732000000000-0` begins with the server's time in milliseconds.
fn time_of(id: &str) -> ServerTime {
    let millis = id.split('-').next().and_then(|millis| millis.parse().ok());
    ServerTime(millis.map_or(0, |millis: u64| millis.saturating_mul(1_000_000)))
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    bytes(value).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::Options;

    /// Requests that another Modelgate has sent to a server long ago are not waiting there any more.
    #[tokio::test]
    async fn a_message_is_as_old_as_the_servers_clock_says() {
        let limits =
            SharedLimits::connect("redis://127.0.0.1:1", Options::default()).await.expect("valid options");
        let second = 1_000_000_000;
        let now = 1_000_000_000 * second;
        let age = |sent_at| limits.age(&Message { from: 7, sent_at: ServerTime(sent_at), bytes: Vec::new() });
        assert_eq!(age(now), Duration::ZERO, "its clock is not known");
        limits.link.learn_time(Instant::now(), ServerTime(now));
        let old = age(now - 1_000 * second);
        assert!((1_000..1_060).contains(&old.as_secs()), "{old:?}");
        assert_eq!(age(now + 1_000 * second), Duration::ZERO, "its clock was set back");
    }

    #[test]
    fn what_is_not_a_message_is_skipped() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |id: &str, fields: Vec<Value>| Value::Array(vec![text(id), Value::Array(fields)]);
        let mut place = Place::begin(Stream::Receipts);
        let own = place.id.to_string();
        let entries = vec![
            entry("1-0", vec![text("from"), text("7"), text("message"), text("a")]),
            entry("2-0", vec![text("from"), text(&own), text("message"), text("own")]),
            entry("3-0", vec![text("odd")]),
            entry("3-1", vec![text("from"), text("who"), text("message"), text("odd")]),
            Value::Int(7),
            entry("4-0", vec![text("from"), text("7"), text("message"), text("b")]),
        ];
        let answer = Value::Array(vec![Value::Array(vec![text("key"), Value::Array(entries)])]);
        let message = |bytes: &[u8], millis: u64| Message {
            from: 7,
            sent_at: ServerTime(millis * 1_000_000),
            bytes: bytes.to_vec(),
        };
        let messages = vec![message(b"a", 1), message(b"b", 4)];
        assert_eq!(place.take(&answer), Received { messages, is_full: false });
        assert_eq!(place.last, "4-0");
        let simple = |text: &str| Value::SimpleString(text.to_owned());
        let odd = vec![simple("from"), simple("7"), simple("message"), simple("c")];
        let answer =
            Value::Array(vec![Value::Array(vec![text("key"), Value::Array(vec![entry("5-0", odd)])])]);
        assert_eq!(place.take(&answer).messages, [message(b"c", 5)], "a proxy may send texts in this form");
        place.last = "4-0".to_owned();
        for nothing in [Value::Nil, Value::Array(Vec::new()), Value::Array(vec![Value::Nil])] {
            assert_eq!(place.take(&nothing), Received::default());
        }
        assert_eq!(place.last, "4-0");
    }
}
