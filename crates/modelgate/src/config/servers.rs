//! `servers:` — servers that no container's label announces.

use catalogue::{BasePath, ModelName, ServerUrl};

use super::section::Section;

/// One entry of `servers:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaticServer {
    /// For people; unique. By default the host and port of its URL.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) url: ServerUrl,
    /// The prefix of its API.
    pub(crate) base_path: BasePath,
    /// Names given by hand; none means: ask it.
    pub(crate) models: Vec<ModelName>,
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
    let url = url?;
    let authority = || url.as_str().split("://").last().unwrap_or_default().to_owned();
    Some(StaticServer {
        name: name.unwrap_or_else(authority),
        url: url.clone(),
        base_path: base_path.unwrap_or_default(),
        models: models.unwrap_or_default(),
    })
}

fn name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b);
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}
