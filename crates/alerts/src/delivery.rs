//! What becomes of a message that is sent.

use std::time::Duration;

use reqwest::StatusCode;

/// How long an address may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a message did not arrive. Never contains the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The address does not want it; sending it again is of no use.
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// Where the address leads is not what the operator has written down.
    #[error("it answers {0}, a redirect, which is not followed: write down where it leads")]
    Redirected(StatusCode),
    /// The address cannot take it now.
    #[error("it answers {status}")]
    Busy {
        /// What it answers.
        status: StatusCode,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The mail server does not want it, or not from Modelgate; sending it again is of no use.
    #[error("the mail server answers {0}")]
    MailRefused(String),
    /// The mail server cannot take it now.
    #[error("the mail server answers {0}")]
    MailBusy(String),
    /// It cannot be written as a mail.
    #[error("{0}")]
    Unsendable(String),
    /// There is no answer.
    #[error("{0}")]
    NoAnswer(String),
}

impl DeliveryError {
    /// Whether the message is given up.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Redirected(_) | Self::MailRefused(_) | Self::Unsendable(_) => true,
            Self::Busy { .. } | Self::MailBusy(_) | Self::NoAnswer(_) => false,
        }
    }

    /// How long the address asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            Self::Refused(_)
            | Self::Redirected(_)
            | Self::MailRefused(_)
            | Self::MailBusy(_)
            | Self::Unsendable(_)
            | Self::NoAnswer(_) => None,
        }
    }

    pub(crate) fn of(status: StatusCode, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            _ if status.is_success() => None,
            _ if status.is_redirection() => Some(Self::Redirected(status)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Some(Self::Busy { status, retry_after })
            }
            _ if status.is_client_error() => Some(Self::Refused(status)),
            _ => Some(Self::Busy { status, retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again_and_what_is_not() {
        let is_final = |status: u16| {
            DeliveryError::of(StatusCode::from_u16(status).expect("a status"), None)
                .map(|error| error.is_final())
        };
        for status in [200, 202, 204] {
            assert_eq!(is_final(status), None, "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 404, 410] {
            assert_eq!(is_final(status), Some(true), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503] {
            assert_eq!(is_final(status), Some(false), "{status}");
        }
    }
}
