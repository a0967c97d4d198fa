//! `servers:` — servers that are configured here and not by a container's labels.

use catalogue::{
    BasePath, Credential, CredentialHeader, GivenModelSettings, ModelName, ServerSettings, ServerUrl,
};

use config_reader::Section;

use super::files;

/// One entry of `servers:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaticServer {
    /// The name that people see; unique. By default the host and port of its URL.
    pub(crate) name: String,
    /// The URL at which it listens.
    pub(crate) url: ServerUrl,
    /// The prefix of its API.
    pub(crate) base_path: BasePath,
    /// Models that the operator lists; if there are none, the server is asked.
    pub(crate) models: Vec<ModelName>,
    /// How it takes part in its pools.
    pub(crate) settings: ServerSettings,
    /// The settings of its models.
    pub(crate) model_settings: GivenModelSettings,
    /// The credential that it demands.
    pub(crate) credential: Option<Credential>,
}

const NAME: &str = "1 to 64 letters, digits and ._-:[]";
const URL: &str = "http://HOST:PORT or https://HOST:PORT";
const BASE_PATH: &str =
    "/, or a path such as /v1 of letters, digits and -._~/ without an empty, \".\" or \"..\" segment";

pub(super) fn read(sections: Vec<Section<'_>>) -> Vec<StaticServer> {
    let mut servers: Vec<(usize, StaticServer)> = Vec::with_capacity(sections.len());
    for (i, mut section) in sections.into_iter().enumerate() {
        if let Some(server) = read_one(&mut section) {
            match servers.iter().find(|(_, other)| other.name == server.name) {
                Some((other, _)) => section.error(
                    "name",
                    format!("servers[{other}] is called {:?} too; allowed: a name of its own", server.name),
                ),
                None => servers.push((i, server)),
            }
        }
        section.finish();
    }
    servers.into_iter().map(|(_, server)| server).collect()
}

fn read_one(section: &mut Section<'_>) -> Option<StaticServer> {
    let url = section.url("url", URL, ServerUrl::parse);
    section.require("url", URL);
    let name = section.get("name", NAME, name);
    let base_path = section.get("base_path", BASE_PATH, |text| BasePath::parse(text).ok());
    let models = section.try_list("models", "the name of a model", |text| {
        ModelName::new(text).map_err(|invalid| invalid.reason)
    });
    let credential = credential(section);
    let (mut settings, mut model_settings) = (ServerSettings::default(), GivenModelSettings::default());
    section.settings(&mut settings, &mut model_settings, |_| true);
    for fault in [settings.check(), model_settings.check()].into_iter().filter_map(Result::err) {
        section.error(fault.split(' ').next().unwrap_or_default(), fault);
    }
    let url = url?;
    let authority = || url.as_str().split("://").last().unwrap_or_default().to_owned();
    Some(StaticServer {
        name: name.unwrap_or_else(authority),
        url: url.clone(),
        base_path: base_path.unwrap_or_default(),
        models: models.unwrap_or_default(),
        settings,
        model_settings,
        credential,
    })
}

/// Reads `credential:`, a header and the place of its secret. The secret itself is never in the file, because people show the
/// file to each other.
fn credential(server: &mut Section<'_>) -> Option<Credential> {
    const SECRET: &str = "1 to 4096 visible ASCII characters, without spaces";
    let given = server.has("credential");
    let mut section = server.section("credential");
    let headers = [
        ("bearer", CredentialHeader::Bearer),
        ("x-api-key", CredentialHeader::XApiKey),
        ("api-key", CredentialHeader::ApiKey),
    ];
    let header = section.one_of("header", &headers).unwrap_or(CredentialHeader::Bearer);
    let credential = files::secret_in(&mut section, SECRET, |secret| Credential::new(header, secret));
    if given {
        files::require_place(&section, "credential");
    }
    section.finish();
    credential
}

fn name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}
