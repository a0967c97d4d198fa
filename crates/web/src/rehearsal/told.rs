//! The words about what Traefik does with a request.

use catalogue::{Api, OwnRouter};
use serde_json::Value;
use traefik_config::{Arrival, RenderOptions, Verdict, api_rules};

use super::RequestOutcome;

/// The maximum number of names shown of a list.
const MOST_NAMES: usize = 20;

/// What some versions of Traefik do with a path.
pub(super) fn of_path(path: &str, options: &RenderOptions) -> Option<String> {
    let has_slash = path.to_ascii_lowercase().contains("%2f");
    (has_slash && options.version.may_refuse_encoded_slashes()).then(|| {
        "Traefik 3.6.4 to 3.6.6 answer 400 to a path with %2F, unless the entry point has \
         http.encodedCharacters.allowEncodedSlash=true"
            .to_owned()
    })
}

pub(super) fn no_router() -> RequestOutcome {
    let why = "\"404 page not found\", for no router of Modelgate's takes it; a router that Modelgate cannot see may";
    RequestOutcome::ByTraefik { status: 404, why: why.into() }
}

pub(super) fn perhaps_own(own: &OwnRouter) -> String {
    let OwnRouter { name, container, rule, .. } = own;
    format!(
        "the router {name} of container {container} comes first if it matches, which cannot be told here: {rule}"
    )
}

/// Why no router of Modelgate's takes a request: another host, or a path of no API that is offered.
pub(super) fn why_nobody(arrival: &Arrival<'_>, options: &RenderOptions) -> Vec<String> {
    let mut steps = Vec::new();
    let is_served = |host: &String| arrival.meets(&format!("Host(`{host}`)")) != Verdict::No;
    if let Some(host) =
        arrival.host.filter(|_| !options.hosts.is_empty() && !options.hosts.iter().any(is_served))
    {
        steps.push(format!("its host {host} is not in traefik.hosts ({})", options.hosts.join(", ")));
    }
    if options.tls.is_some() && arrival.is_https == Some(false) {
        steps.push("traefik.tls is set, so that Modelgate's routers take https alone".to_owned());
    }
    let takes = |api: &Api| api_rules(*api, options).iter().any(|rule| arrival.meets(rule) == Verdict::Yes);
    if Api::ALL.iter().any(|api| options.apis.contains(api) && takes(api)) {
        return steps;
    }
    let others: Vec<&str> = Api::ALL.iter().filter(|api| takes(api)).map(|api| api.name()).collect();
    let offered: Vec<&str> = options.apis.iter().map(|api| api.name()).collect();
    steps.push(match others.is_empty() {
        true => format!(
            "its path belongs to none of the APIs that are offered (traefik.apis: {})",
            offered.join(", ")
        ),
        false => format!(
            "its path belongs to the API {}, and traefik.apis has only {}",
            others.join(" or "),
            offered.join(", ")
        ),
    });
    steps
}

/// What an answer of Modelgate's own says, in short.
pub(super) fn of_answer(body: &Value, raw: &[u8]) -> String {
    let listed = body["data"].as_array().or(body["models"].as_array());
    let name = |model: &Value| model["id"].as_str().or(model["name"].as_str()).map(str::to_owned);
    if let Some(models) = listed {
        let mut names: Vec<String> = models.iter().filter_map(name).take(MOST_NAMES).collect();
        if models.len() > names.len() {
            names.push(format!("and {} more", models.len() - names.len()));
        }
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        return format!("the list of models: {names}");
    }
    match (name(body), body.is_object()) {
        (Some(name), _) => format!("the model {name}"),
        (None, true) => body.to_string(),
        (None, false) => String::from_utf8_lossy(raw).into_owned(),
    }
}
