//! Messages that Modelgates pass on to each other through the server.
//!
//! A stream (<https://redis.io/docs/latest/develop/data-types/streams/>) and not a channel: whoever has lost its connection for a
//! moment reads on where it was, and no second connection is needed. It keeps the last messages only, and none for longer than
//! [`KEPT`].

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::timeout;

use crate::{SharedLimits, Unavailable, link::random_id};

/// The longest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// How many messages the server keeps, more or less: some 16 MB at most.
const MOST_KEPT: usize = 512;
/// After so long without a new one, the server forgets all.
const KEPT: Duration = Duration::from_secs(30);
/// The number of messages that are read at once: decisions wait for the same connection.
const MOST_READ: usize = 8;
/// How long the server may take. Nobody waits for it.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Where a Modelgate is in what the others have sent.
#[derive(Debug)]
pub struct Place {
    /// Who it is: it skips its own messages.
    id: u64,
    /// The last message that it has read.
    last: String,
}

/// What the others have sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The messages, oldest first.
    pub messages: Vec<Vec<u8>>,
    /// There may be more.
    pub is_full: bool,
}

impl Default for Place {
    /// Begins with what the server keeps.
    fn default() -> Self {
        Self { id: random_id(), last: "0-0".to_owned() }
    }
}

impl SharedLimits {
    /// Sends messages to all other Modelgates, and takes what they have sent since the last call. Messages longer than
    /// [`MAX_MESSAGE_BYTES`] are not sent.
    ///
    /// # Errors
    /// The server does not answer in time, or does not allow its user streams (`+xadd +xread`). Whether the messages were sent is
    /// not known then; limits are not affected.
    pub async fn exchange(&self, place: &mut Place, messages: &[Vec<u8>]) -> Result<Received, Unavailable> {
        let key = self.keys.exchange();
        let mut pipeline = redis::pipe();
        for message in messages.iter().filter(|message| message.len() <= MAX_MESSAGE_BYTES) {
            add(&mut pipeline, &key, place.id, message);
        }
        if !messages.is_empty() {
            pipeline.cmd("EXPIRE").arg(&key).arg(KEPT.as_secs()).ignore();
        }
        pipeline.cmd("XREAD").arg("COUNT").arg(MOST_READ).arg("STREAMS").arg(&key).arg(&place.last);
        let mut connection = self.link.connection().ok_or(Unavailable)?;
        let answer: Result<Vec<Value>, _> =
            timeout(TIMEOUT, pipeline.query_async(&mut connection)).await.map_err(|_| Unavailable)?;
        let answer = answer.map_err(|error| {
            tracing::debug!(%error, "messages cannot be passed on");
            Unavailable
        })?;
        Ok(place.take(answer.last().unwrap_or(&Value::Nil)))
    }
}

fn add(pipeline: &mut Pipeline, key: &str, id: u64, message: &[u8]) {
    let add = pipeline.cmd("XADD").arg(key).arg("MAXLEN").arg("~").arg(MOST_KEPT);
    add.arg("*").arg("from").arg(id).arg("message").arg(message).ignore();
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
            let Some(id) = bytes(id).and_then(|id| std::str::from_utf8(id).ok()) else { continue };
            id.clone_into(&mut self.last);
            let Some([_, from, _, message]) = list(fields) else { continue };
            let (Some(from), Some(message)) = (bytes(from), bytes(message)) else { continue };
            if from != self.id.to_string().as_bytes() && message.len() <= MAX_MESSAGE_BYTES {
                messages.push(message.to_owned());
            }
        }
        Received { messages, is_full: entries.len() >= MOST_READ }
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
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
    use super::*;

    #[test]
    fn what_is_not_a_message_is_skipped() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |id: &str, fields: Vec<Value>| Value::Array(vec![text(id), Value::Array(fields)]);
        let mut place = Place::default();
        let own = place.id.to_string();
        let entries = vec![
            entry("1-0", vec![text("from"), text("7"), text("message"), text("a")]),
            entry("2-0", vec![text("from"), text(&own), text("message"), text("own")]),
            entry("3-0", vec![text("odd")]),
            Value::Int(7),
            entry("4-0", vec![text("from"), text("7"), text("message"), text("b")]),
        ];
        let answer = Value::Array(vec![Value::Array(vec![text("key"), Value::Array(entries)])]);
        let messages = vec![b"a".to_vec(), b"b".to_vec()];
        assert_eq!(place.take(&answer), Received { messages, is_full: false });
        assert_eq!(place.last, "4-0");
        let simple = |text: &str| Value::SimpleString(text.to_owned());
        let odd = vec![simple("from"), simple("7"), simple("message"), simple("c")];
        let answer =
            Value::Array(vec![Value::Array(vec![text("key"), Value::Array(vec![entry("5-0", odd)])])]);
        assert_eq!(place.take(&answer).messages, [b"c"], "a proxy may send texts in this form");
        place.last = "4-0".to_owned();
        for nothing in [Value::Nil, Value::Array(Vec::new()), Value::Array(vec![Value::Nil])] {
            assert_eq!(place.take(&nothing), Received::default());
        }
        assert_eq!(place.last, "4-0");
    }
}
