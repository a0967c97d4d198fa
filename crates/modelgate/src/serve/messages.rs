//! The form in which Modelgates tell each other something: lines of JSON. A later version may add fields.

use serde::{Serialize, de::DeserializeOwned};
use shared_limits::Stream;

/// Packs items into messages. One that fits into none is left out.
pub(super) fn pack<T: Serialize>(items: impl IntoIterator<Item = T>, stream: Stream) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let lines = items.into_iter().filter_map(|item| serde_json::to_vec(&item).ok());
    for mut line in lines {
        line.push(b'\n');
        match messages.last_mut() {
            Some(message) if message.len() + line.len() <= stream.max_message_bytes() => message.extend(line),
            _ => messages.push(line),
        }
    }
    messages
}

/// The items of a message. What cannot be read is left out.
pub(super) fn unpack<T: DeserializeOwned>(message: &[u8]) -> impl Iterator<Item = T> {
    message.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
