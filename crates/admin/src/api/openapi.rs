//! The API's description (<https://spec.openapis.org/oas/v3.1.1.html>), written by hand. Tests compare it with the routes and
//! with the fields of accounts.

use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::{Problem, extract::Query};

pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub(crate) async fn serve(query: Query) -> Result<Response, Problem> {
    query.finish()?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use accounts::{Account, ConsumerSpec, KeySpec, Plan, parse};
    use axum::http::{Method, Request, StatusCode};
    use catalogue::Catalogue;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{BASE, routes},
        testing::{ADMIN, Dashboard, found, server, text},
    };

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    fn keys(object: &Value) -> BTreeSet<String> {
        object.as_object().expect("an object").keys().cloned().collect()
    }

    #[tokio::test]
    async fn it_has_each_method_of_each_route_and_no_other() {
        let dashboard = Dashboard::of(Catalogue::default());
        let document = document();
        assert_eq!(document["servers"][0]["url"], BASE);
        let paths: BTreeSet<String> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(keys(&document["paths"]), paths);
        for path in paths {
            let request =
                Request::builder().method(Method::TRACE).uri(format!("{BASE}{path}").replace("{name}", "x"));
            let answer = dashboard.ask(Some(ADMIN), request, "").await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allowed = answer.headers()["allow"].to_str().expect("text").to_lowercase();
            let allowed: BTreeSet<String> =
                allowed.split(',').filter(|method| *method != "head").map(str::to_owned).collect();
            let mut described = keys(&document["paths"][&path]);
            described.remove("parameters");
            assert_eq!(described, allowed, "{path}");
        }
        let answer = dashboard.ask(Some(ADMIN), Request::get(format!("{BASE}/openapi.json")), "").await;
        assert_eq!(text(answer).await, DOCUMENT);
    }

    #[tokio::test]
    async fn what_is_told_of_servers_is_described() {
        let gpu = server("gpu", found::unhealthy(), &["llama"]);
        let problems = found::problems(&found::container("gpu", 8000, &[("inference.prot", "8000")]));
        let dashboard = Dashboard::of(Catalogue::assemble([gpu], problems));
        let answer = dashboard.ask(Some(ADMIN), Request::get(format!("{BASE}/servers")), "").await;
        let told: Value = serde_json::from_str(&text(answer).await).expect("JSON");
        assert_eq!(
            (&told["items"][0]["code"], &told["problems"][0]["code"]),
            (&json!("healthcheck_fails"), &json!("label_unknown"))
        );
        let described = &document()["components"]["schemas"]["Servers"]["properties"];
        for list in ["items", "problems"] {
            let schema = &described[list]["items"];
            assert_eq!(keys(&told[list][0]), keys(&schema["properties"]), "{list}");
            let required = schema["required"].as_array().expect("a list").len();
            assert_eq!(keys(&told[list][0]).len(), required, "{list}: all of them are always there");
        }
    }

    /// The keys that are allowed at a place, as the error for an unknown key lists them.
    fn allowed<A: Account>(document: &Value, place: &str) -> BTreeSet<String> {
        let Err(errors) = parse::<A>(document, None) else { panic!("{document} was accepted") };
        let error = errors.0.into_iter().find(|error| error.place == place).expect("an error about the key");
        let (_, listed) = error.message.split_once("allowed here: ").expect("a list");
        listed.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn accounts_have_the_words_of_the_configuration_file() {
        let schemas = &document()["components"]["schemas"];
        let words = |name: &str| keys(&schemas[name]["properties"]);
        let unknown = json!({ "x": 1 });
        assert_eq!(words("GivenPlan"), allowed::<Plan>(&unknown, "the file"));
        assert_eq!(words("GivenConsumer"), allowed::<ConsumerSpec>(&unknown, "the file"));
        assert_eq!(words("GivenKey"), allowed::<KeySpec>(&unknown, "the file"));
        for limits in ["Limits", "GivenLimits"] {
            assert_eq!(words(limits), allowed::<Plan>(&json!({ "name": "p", "limit": unknown }), "limit"));
        }
        for (given, shown) in [("GivenPlan", "Plan"), ("GivenConsumer", "Consumer"), ("GivenKey", "Key")] {
            let hidden = ["sha256", "previous"].map(str::to_owned).into();
            let missing: BTreeSet<String> = words(given).difference(&words(shown)).cloned().collect();
            assert!(missing.is_subset(&hidden), "{missing:?}");
            assert!(words(shown).is_disjoint(&hidden), "digests are not shown");
        }
    }
}
