//! A [WebSocket](https://www.rfc-editor.org/rfc/rfc6455) client for tests, with any headers and subprotocols; it sends and
//! receives text.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::{HeaderMap, HeaderName, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    headers: HeaderMap,
}

/// Why no WebSocket was opened: the answer instead of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUpgraded {
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
    /// The answer's body, or what went wrong.
    pub body: String,
}

impl WebSocket {
    /// Connects to a `ws://` address.
    ///
    /// # Errors
    /// The server does not upgrade, or chooses a subprotocol that was not offered (or none of those offered).
    ///
    /// # Panics
    /// If the address or a header cannot be sent at all.
    pub async fn connect(
        url: &str,
        headers: &[(&str, &str)],
        protocols: &[&str],
    ) -> Result<Self, NotUpgraded> {
        let mut request = url.into_client_request().expect("an address");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header's name");
            request.headers_mut().append(name, value.parse().expect("a header's value"));
        }
        if !protocols.is_empty() {
            let offered: HeaderValue = protocols.join(", ").parse().expect("subprotocols");
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offered);
        }
        let failed = |body: String| NotUpgraded { status: 0, body };
        let connected = timeout(ANSWER_TIMEOUT, connect_async(request)).await;
        match connected.map_err(|_| failed(format!("no answer within {ANSWER_TIMEOUT:?}")))? {
            Ok((stream, answer)) => Ok(Self { stream, headers: answer.headers().clone() }),
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let body = String::from_utf8_lossy(body).into_owned();
                Err(NotUpgraded { status: answer.status().as_u16(), body })
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The subprotocol that the server chose.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
    }

    /// The headers of the answer that upgraded the connection.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn send(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.expect("the text is sent");
    }

    /// The next text; `None` once the server has closed.
    ///
    /// # Panics
    /// If nothing comes within 30 seconds, or the connection breaks.
    pub async fn receive(&mut self) -> Option<String> {
        loop {
            let message = timeout(ANSWER_TIMEOUT, self.stream.next()).await.expect("a message in time")?;
            match message.expect("a message") {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
