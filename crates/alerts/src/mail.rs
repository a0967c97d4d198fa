//! Messages by e-mail, over SMTP (RFC 5321) with TLS from the first byte (RFC 8314), STARTTLS (RFC 3207) or none.
//!
//! lettre speaks SMTP. Each message has a connection of its own, and the same `Message-ID` whenever it is sent again.

use std::{fmt, str::FromStr, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor,
    address::AddressError,
    message::{
        Mailbox, Mailboxes,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use tokio::time::timeout;

use crate::{
    Form, Message,
    delivery::{DeliveryError, TIMEOUT},
    form,
};

/// How long it may take to deliver a message to the mail server, which may let strangers wait on purpose.
const SESSION: Duration = Duration::from_secs(30);

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// It begins in clear, and goes on only if the server can encrypt it.
    StartTls,
    /// From the first byte.
    Tls,
    /// Not at all: for a server on this machine.
    None,
}

impl MailSecurity {
    /// All of them by the words of the configuration.
    pub const WORDS: [(&str, Self); 3] =
        [("starttls", Self::StartTls), ("tls", Self::Tls), ("none", Self::None)];
}

/// A user and a password. The `Debug` output does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct MailLogin {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for MailLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A sender's or receiver's address, as `NAME@HOST` or `WORDS <NAME@HOST>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAddress(Mailbox);

impl FromStr for MailAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Self)
    }
}

/// What is allowed.
pub const MAIL_ADDRESS: &str = "NAME@HOST, or WORDS <NAME@HOST>";

/// Certificates of authorities that are trusted besides the system's.
#[derive(Debug, Clone)]
pub struct MailAuthorities {
    pem: Vec<u8>,
    certificate: Certificate,
}

impl MailAuthorities {
    /// Reads PEM; `None` if it has no certificate.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let has_one = std::str::from_utf8(pem).is_ok_and(|text| text.contains("-----BEGIN CERTIFICATE-----"));
        let certificate = Certificate::from_pem(pem).ok().filter(|_| has_one)?;
        Some(Self { pem: pem.to_vec(), certificate })
    }
}

impl PartialEq for MailAuthorities {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for MailAuthorities {}

/// The mail server that takes messages, and between whom they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRoute {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: MailSecurity,
    /// With what Modelgate signs in, if it does.
    pub login: Option<MailLogin>,
    /// Authorities that are trusted besides the system's.
    pub authorities: Option<MailAuthorities>,
    /// The sender.
    pub from: MailAddress,
    /// The receivers.
    pub to: Vec<MailAddress>,
}

impl MailRoute {
    /// Sends a message once.
    pub(crate) async fn send(&self, message: &Message, dashboard: Option<&str>) -> Result<(), DeliveryError> {
        let mail = self.mail(message, dashboard)?;
        // lettre waits as long as the server does once they are connected.
        match timeout(SESSION, self.transport()?.send(mail)).await {
            Ok(sent) => sent.map(drop).map_err(|error| failure(&error)),
            Err(_) => Err(late(SESSION)),
        }
    }

    fn mail(&self, message: &Message, dashboard: Option<&str>) -> Result<Mail, DeliveryError> {
        let unsendable = |error: &dyn fmt::Display| DeliveryError::Unsendable(error.to_string());
        let to: Mailboxes = self.to.iter().map(|address| address.0.clone()).collect();
        let sender: &Address = &self.from.0.email;
        let mut mail = Mail::builder()
            .from(self.from.0.clone())
            .mailbox(lettre::message::header::To::from(to))
            .subject(form::title(message))
            .date(message.at)
            .message_id(Some(format!("<{}@{}>", message.id, sender.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(form::text(message, Form::Standard, dashboard))
            .map_err(|error| unsendable(&error))?;
        // So that nobody's absence is answered (RFC 3834).
        if let Ok(name) = HeaderName::new_from_ascii("Auto-Submitted".into()) {
            mail.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".into()));
        }
        Ok(mail)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, DeliveryError> {
        let tls = match self.security {
            MailSecurity::None => Tls::None,
            MailSecurity::StartTls => Tls::Required(self.parameters()?),
            MailSecurity::Tls => Tls::Wrapper(self.parameters()?),
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        Ok(match &self.login {
            Some(MailLogin { user, password }) => {
                builder.credentials(Credentials::new(user.clone(), password.clone())).build()
            }
            None => builder.build(),
        })
    }

    fn parameters(&self) -> Result<TlsParameters, DeliveryError> {
        let builder = TlsParameters::builder(self.host.clone());
        let builder = match &self.authorities {
            Some(authorities) => builder.add_root_certificate(authorities.certificate.clone()),
            None => builder,
        };
        builder.build().map_err(|error| failure(&error))
    }
}

fn late(time: Duration) -> DeliveryError {
    DeliveryError::NoAnswer(format!("no answer within {} s", time.as_secs()))
}

/// A mail server's answer is told by its number only, as those of web servers are.
fn failure(error: &lettre::transport::smtp::Error) -> DeliveryError {
    match error.status() {
        Some(code) if error.is_permanent() => DeliveryError::MailRefused(code.to_string()),
        Some(code) => DeliveryError::MailBusy(code.to_string()),
        None if error.is_timeout() => late(TIMEOUT),
        None => {
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            DeliveryError::NoAnswer(cause.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_mail_is_the_same_whenever_it_is_sent_again_and_no_line_can_be_added() {
        let address = |text: &str| text.parse::<MailAddress>().expect(text);
        let route = MailRoute {
            host: "mail.example.com".into(),
            port: 587,
            security: MailSecurity::StartTls,
            login: Some(MailLogin { user: "gate".into(), password: "secret".into() }),
            authorities: None,
            from: address("Modelgate <gate@example.com>"),
            to: vec![address("ops@example.com"), address("boss@example.com")],
        };
        let mut message = Message::test(SystemTime::UNIX_EPOCH);
        message.items[0].id.about = "model a\r\nBcc: evil@example.com".into();
        let of = |message: &Message| {
            String::from_utf8(route.mail(message, None).expect("a mail").formatted()).expect("ASCII")
        };
        let mail = of(&message);
        assert_eq!(mail, of(&message));
        let (head, body) = mail.split_once("\r\n\r\n").expect("a head and a body");
        for line in [
            "From: Modelgate <gate@example.com>",
            "To: ops@example.com, boss@example.com",
            "Subject: Modelgate: test",
            "Auto-Submitted: auto-generated",
            &format!("Message-ID: <{}@example.com>", message.id),
        ] {
            assert!(head.lines().any(|found| found == line), "{line}: {head}");
        }
        assert!(!head.contains("evil") && body.contains("alerts reach you here"), "{mail}");
        assert!(!format!("{route:?}").contains("secret"));
        for bad in ["", "ops", "ops@", "a@b\r\nBcc: c@d", "@example.com"] {
            assert!(bad.parse::<MailAddress>().is_err(), "{bad}");
        }
        assert_eq!(MailAuthorities::from_pem(b"not PEM"), None);
    }
}
