//! Sends the requests of a load when they are due, each with a prompt whose blocks are its own, and measures the time to the first
//! token.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use choice_simulator::{Load, SimulatedRequest, Start};
use serde_json::json;
use testkit::{client, eventually};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::contenders::{KEY, MODEL};

/// Bytes of a token.
const TOKEN_BYTES: usize = 4;

/// What came out.
pub(super) struct Replayed {
    /// Seconds to the first token, in the load's own time, sorted.
    pub(super) first_token: Vec<f64>,
    pub(super) failed: usize,
}

impl Replayed {
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let place = (self.first_token.len() as f64 * share) as usize;
        self.first_token.get(place.min(self.first_token.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// Sends all of it.
pub(super) async fn send(url: &str, load: &Load, speed: f64) -> Replayed {
    let client = client();
    let url: Arc<str> = format!("{url}/v1/chat/completions").into();
    let begun = Instant::now();
    let mut open = JoinSet::new();
    for (place, asked) in load.requests.iter().enumerate() {
        let Start::At(second) = asked.start else { continue };
        let body = body(place, asked, load.block_tokens as usize);
        sleep_until(begun + Duration::from_secs_f64(second / speed)).await;
        open.spawn(ask(client.clone(), Arc::clone(&url), body));
    }
    let mut replayed = Replayed { first_token: Vec::new(), failed: 0 };
    while let Some(answer) = open.join_next().await {
        match answer.expect("no panic") {
            Some(first_token) => replayed.first_token.push(first_token.as_secs_f64() * speed),
            None => replayed.failed += 1,
        }
    }
    replayed.first_token.sort_by(f64::total_cmp);
    replayed
}

/// The time to the first token, if the answer came to its end.
async fn ask(client: reqwest::Client, url: Arc<str>, body: String) -> Option<Duration> {
    let begun = Instant::now();
    let request = client.post(&*url).bearer_auth(KEY).header("content-type", "application/json").body(body);
    let mut answer = request.send().await.ok().filter(|answer| answer.status().is_success())?;
    let (mut first_token, mut text) = (None, Vec::new());
    while let Some(piece) = answer.chunk().await.ok()? {
        text.extend_from_slice(&piece);
        if first_token.is_none() && text.starts_with(b"data: {") {
            first_token = Some(begun.elapsed());
        }
    }
    first_token.filter(|_| text.ends_with(b"data: [DONE]\n\n"))
}

/// Equal blocks have equal texts, and no others.
fn body(place: usize, asked: &SimulatedRequest, block_tokens: usize) -> String {
    let mut prompt = String::with_capacity(asked.prompt_tokens as usize * TOKEN_BYTES + 64);
    for block in &asked.blocks {
        fill(&mut prompt, *block, block_tokens * TOKEN_BYTES);
    }
    let rest = (asked.prompt_tokens as usize).saturating_sub(asked.blocks.len() * block_tokens);
    fill(&mut prompt, !(place as u64), rest * TOKEN_BYTES);
    // Routers keep no field that they do not know, but the prompt.
    let _ = write!(prompt, " #{place}");
    let messages = [json!({ "role": "user", "content": prompt })];
    json!({ "model": MODEL, "stream": true, "max_tokens": asked.answer_tokens, "messages": messages })
        .to_string()
}

/// Adds so many bytes of words that only this number has.
fn fill(prompt: &mut String, number: u64, bytes: usize) {
    let end = prompt.len() + bytes;
    let mut word = number;
    while prompt.len() < end {
        let _ = write!(prompt, "{word:016x} ");
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
    prompt.truncate(end);
}

/// Waits until a router has found its servers.
pub(super) async fn wait_for_answer(url: &str) {
    let client = client();
    let body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hello" }] });
    eventually(Duration::from_secs(60), || async {
        let request = client.post(format!("{url}/v1/chat/completions")).json(&body);
        request.send().await.ok().filter(|answer| answer.status().is_success()).map(|_| ())
    })
    .await;
}
