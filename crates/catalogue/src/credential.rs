//! The credential that a server demands of its clients.

use std::fmt;

/// A header with a secret, which a server demands. It comes from a file or the environment only: everybody on the Docker host
/// can read labels.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    header: CredentialHeader,
    value: String,
}

/// The header that carries a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHeader {
    /// `Authorization: Bearer <value>`, as OpenAI and most others want it.
    Bearer,
    /// `x-api-key: <value>`, as Anthropic wants it.
    XApiKey,
    /// `api-key: <value>`, as Azure wants it.
    ApiKey,
}

impl Credential {
    /// Takes a secret of 1 to 4,096 visible ASCII characters; returns `None` for anything else.
    pub fn new(header: CredentialHeader, secret: &str) -> Option<Self> {
        let fits = (1..=4096).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic());
        let value = match header {
            CredentialHeader::Bearer => format!("Bearer {secret}"),
            CredentialHeader::XApiKey | CredentialHeader::ApiKey => secret.to_owned(),
        };
        fits.then_some(Self { header, value })
    }

    /// The header's name, in lower case.
    pub fn header(&self) -> &'static str {
        match self.header {
            CredentialHeader::Bearer => "authorization",
            CredentialHeader::XApiKey => "x-api-key",
            CredentialHeader::ApiKey => "api-key",
        }
    }

    /// The header's value, unmasked.
    pub fn reveal(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}: …)", self.header())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_never_shows_itself() {
        let credential = Credential::new(CredentialHeader::Bearer, "sk-secret").expect("a credential");
        assert_eq!(format!("{credential:?}"), "Credential(authorization: …)");
        assert_eq!(credential.reveal(), "Bearer sk-secret");
        assert!(Credential::new(CredentialHeader::ApiKey, "two words").is_none());
        assert!(Credential::new(CredentialHeader::ApiKey, "").is_none());
    }
}
