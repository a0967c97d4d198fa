//! `admin:` — who may use the dashboard, and the host under which Traefik shows it.

use access::KeyDigest;
use admin::{AdminToken, AdminTokens, Role};

use accounts::{NAME, name};
use config_reader::Section;

use super::host::dns_name;

const SHA256: &str = "64 hexadecimal digits, the SHA-256 of a token: printf %s TOKEN | sha256sum";
/// Shorter tokens can be guessed.
const CLEAR: &str = "16 to 512 visible ASCII characters, without spaces";
const HOST: &str = "a host name such as modelgate.example.com";

/// `admin:` in the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdminConfig {
    /// The tokens of those who may sign in. If there are none, a token is generated.
    pub(crate) tokens: AdminTokens,
    /// The host under which Traefik serves the dashboard; `None`: it does not serve it.
    pub(crate) host: Option<String>,
}

/// Reads `admin:`; `tokens` is its list of that name.
pub(super) fn read(mut section: Section<'_>) -> AdminConfig {
    let mut tokens: Vec<AdminToken> = Vec::new();
    let host = section.get("host", HOST, dns_name);
    if let Some(digest) = section.secret("token", CLEAR, from_clear) {
        tokens.push(AdminToken { name: "default".into(), digest, role: Role::Admin });
    }
    for mut section in section.sections("tokens") {
        if let Some(token) = read_token(&mut section) {
            if tokens.iter().any(|other| other.name == token.name) {
                let message =
                    format!("another admin token is called {:?} too; allowed: a name of its own", token.name);
                section.error("name", message);
            }
            if tokens.iter().any(|other| other.digest == token.digest) {
                section.error("sha256", "is another token's too; allowed: each token once");
            }
            tokens.push(token);
        }
        section.finish();
    }
    section.finish();
    AdminConfig { tokens: AdminTokens::new(tokens), host }
}

fn read_token(section: &mut Section<'_>) -> Option<AdminToken> {
    let name = section.get("name", NAME, name);
    section.require("name", NAME);
    let digest = section.secret("sha256", SHA256, |text| KeyDigest::parse_hex(text).ok());
    section.require("sha256", SHA256);
    let role = section.one_of("role", &[("admin", Role::Admin), ("reader", Role::Reader)]);
    Some(AdminToken { name: name?.into(), digest: digest?, role: role.unwrap_or(Role::Admin) })
}

/// The digest of a token that is given in clear; the token itself is not kept.
fn from_clear(text: &str) -> Option<KeyDigest> {
    let fits = (16..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| KeyDigest::of(text))
}
