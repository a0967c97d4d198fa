//! HTTP/1.1 as bytes: what no client sends and no server says unless it is told to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};

/// Longer than any answer takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that keeps each request as it came. It has one model, `llama`, and answers as the request's `X-Answer` says:
/// `503` with that status, `503-chunked` the same in chunks, `stream` in two chunks, the second after a while,
/// `close` and then nothing more on this connection, without a word of it. Else `200`.
pub(crate) struct RawServer {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    accepting: AbortHandle,
}

impl RawServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&kept)));
            }
        });
        Self { url, requests, accepting: accepting.abort_handle() }
    }

    /// The requests since the last time, but for those of probes.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *requests);
        taken.into_iter().filter(|request| !is_probe(request)).collect()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn is_probe(request: &str) -> bool {
    request.starts_with("GET /v1/models ") || request.starts_with("GET /metrics ")
}

async fn serve(mut client: TcpStream, requests: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_message(&mut client, &mut buffer).await {
        let answer = header(&request, "x-answer").unwrap_or("200").to_owned();
        let is_list = is_probe(&request);
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        if is_list {
            let list = r#"{"object":"list","data":[{"id":"llama","object":"model"}]}"#;
            let _ = client.write_all(whole("200", "application/json", list).as_bytes()).await;
        } else if say(&mut client, &answer).await.is_err() || answer == "close" {
            return;
        }
    }
}

async fn say(client: &mut TcpStream, answer: &str) -> std::io::Result<()> {
    match answer.split_once('-') {
        Some((status, _)) => {
            let head = format!(
                "HTTP/1.1 {status} Said\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            client.write_all(format!("{head}7\r\nchunked\r\n0\r\n\r\n").as_bytes()).await
        }
        None if answer == "stream" => {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).await?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            client.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await
        }
        None if answer == "close" => client.write_all(whole("200", "text/plain", "bye").as_bytes()).await,
        None => client.write_all(whole(answer, "text/plain", "whole").as_bytes()).await,
    }
}

fn whole(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A header's value in a message as it came.
pub(crate) fn header<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    lines.clone().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A status, from an answer as it came; 0 if there was none.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Sends bytes on a connection of their own and returns the answer, as far as it came within the time.
pub(crate) async fn ask(port: u16, request: &[u8]) -> String {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    server.write_all(request).await.expect("sent");
    let is_head = request.starts_with(b"HEAD ");
    let answer = async {
        match is_head {
            true => read_until(&mut server, &mut Vec::new(), b"\r\n\r\n").await,
            false => read_message(&mut server, &mut Vec::new()).await,
        }
    };
    timeout(ANSWER_TIMEOUT, answer).await.ok().flatten().unwrap_or_default()
}

/// Head and body, by its length or its chunks, trailers included.
async fn read_message(from: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    let head = read_until(from, buffer, b"\r\n\r\n").await?;
    let mut message = head.clone();
    if let Some(length) = header(&head, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        while buffer.len() < length {
            (from.read_buf(buffer).await.ok()? > 0).then_some(())?;
        }
        message.push_str(&String::from_utf8_lossy(&buffer.drain(..length).collect::<Vec<_>>()));
    } else if header(&head, "transfer-encoding").is_some() {
        loop {
            let line = read_until(from, buffer, b"\r\n").await?;
            message.push_str(&line);
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut left = size + 2;
            if size == 0 {
                // What is left of it: trailers, and an empty line.
                loop {
                    let line = read_until(from, buffer, b"\r\n").await?;
                    message.push_str(&line);
                    if line == "\r\n" {
                        return Some(message);
                    }
                }
            }
            while left > 0 {
                if buffer.is_empty() {
                    (from.read_buf(buffer).await.ok()? > 0).then_some(())?;
                }
                let taken: Vec<u8> = buffer.drain(..left.min(buffer.len())).collect();
                left -= taken.len();
                message.push_str(&String::from_utf8_lossy(&taken));
            }
        }
    }
    Some(message)
}

async fn read_until(from: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            let text = buffer.drain(..at + end.len()).collect::<Vec<_>>();
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        (from.read_buf(buffer).await.ok()? > 0).then_some(())?;
    }
}
