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

    #[tokio::test]
    async fn what_is_told_of_requests_is_described() {
        use metering::Ending;
        let gpu = server("gpu", catalogue::ServerState::Ready, &["llama"]);
        let dashboard = Dashboard::of(Catalogue::assemble([gpu], Vec::new()));
        let ask = async |path: &str| {
            let answer = dashboard.ask(Some(ADMIN), Request::get(format!("{BASE}{path}")), "").await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            serde_json::from_str::<Value>(&text(answer).await).expect("JSON")
        };
        dashboard.admits(3);
        assert_eq!(ask("/models").await["items"][0]["last_minutes"], Value::Null);
        dashboard.told(vec![
            crate::testing::settled(1, Ending::Finished, Some(200)),
            crate::testing::settled(2, Ending::Aborted, Some(499)),
        ]);
        let (schemas, told) = (document()["components"]["schemas"].clone(), ask("/requests").await);
        let [running, aborted, answered] = &told["items"].as_array().expect("a list")[..] else {
            panic!("{told}")
        };
        assert_eq!((&running["outcome"], &aborted["outcome"]["ending"]), (&Value::Null, &json!("aborted")));
        assert_eq!(
            answered["outcome"],
            json!({
                "ending": "answered", "status": 200, "server": "gpu", "first_token_seconds": 0.2, "seconds": 1.5,
                "tokens_are": "exact", "prompt_tokens": 1_200, "cached_tokens": 1_000, "completion_tokens": 34,
            })
        );
        assert_eq!(ask("/requests?ending=aborted").await["items"], json!([aborted]));
        assert_eq!(ask("/requests?limit=1&consumer=team").await["items"], json!([running]));
        let (servers, models) = (ask("/servers").await, ask("/models").await);
        let (gpu, llama) = (&servers["items"][0], &models["items"][0]);
        assert_eq!(gpu["metering"]["code"], "metering_exact");
        assert_eq!(
            (&gpu["last_minutes"]["aborted"], &llama["last_minutes"]["answered"]),
            (&json!(1), &json!(1))
        );
        for (told, schema) in [
            (answered, &schemas["Request"]),
            (&answered["outcome"], &schemas["Outcome"]),
            (&gpu["last_minutes"], &schemas["LastMinutes"]["anyOf"][1]),
            (&gpu["metering"], &schemas["Servers"]["properties"]["items"]["items"]["properties"]["metering"]),
            (llama, &schemas["Models"]["properties"]["items"]["items"]),
        ] {
            assert_eq!(keys(told), keys(&schema["properties"]));
            let required = schema["required"].as_array().expect("a list").iter();
            assert_eq!(keys(told), required.map(|key| key.as_str().expect("a key").to_owned()).collect());
        }
        let answer =
            dashboard.ask(Some(ADMIN), Request::get(format!("{BASE}/requests?ending=fine")), "").await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert!(text(answer).await.contains("allowed: answered, refused, aborted or unknown"));
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
