//! Styles and scripts, built into the program. Their URLs contain a digest of their content, so browsers may cache them forever.

use std::sync::LazyLock;

use access::KeyDigest;
use axum::{
    extract::Path,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse as _, Response},
};

use crate::Refusal;

struct Asset {
    name: &'static str,
    content: &'static str,
    content_type: &'static str,
    /// `/assets/<name>-<digest>.<extension>`
    url: String,
}

macro_rules! assets {
    ($($name:literal from $file:literal as $content_type:literal,)*) => {
        vec![$(Asset::new($name, include_str!(concat!("../assets/", $file)), $content_type)),*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets![
        "app.css" from "app.css" as "text/css; charset=utf-8",
        "app.js" from "app.js" as "text/javascript; charset=utf-8",
        "icon.svg" from "icon.svg" as "image/svg+xml",
        // https://github.com/bigskysoftware/idiomorph, 0BSD
        "idiomorph.js" from "vendor/idiomorph-0.8.0.min.js" as "text/javascript; charset=utf-8",
    ]
});

impl Asset {
    fn new(name: &'static str, content: &'static str, content_type: &'static str) -> Self {
        let digest = KeyDigest::of(content).to_hex();
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let url = format!("/assets/{stem}-{}.{extension}", &digest[..12]);
        Self { name, content, content_type, url }
    }
}

/// The URL of a file in `assets/`, for templates.
pub(crate) fn url(name: &str) -> &'static str {
    ASSETS.iter().find(|asset| asset.name == name).map_or("", |asset| &asset.url)
}

/// `GET /assets/{name}`
pub(crate) async fn serve(Path(name): Path<String>, parts: Parts) -> Response {
    match ASSETS.iter().find(|asset| asset.url.strip_prefix("/assets/") == Some(&name)) {
        Some(asset) => {
            let mut response = asset.content.into_response();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
            response
        }
        None => Refusal::not_found(&parts).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asset_has_a_url_of_its_content() {
        for asset in ASSETS.iter() {
            assert!(!asset.content.is_empty(), "{}", asset.name);
            assert_eq!(url(asset.name), asset.url);
        }
        let urls: std::collections::HashSet<_> = ASSETS.iter().map(|asset| &asset.url).collect();
        assert_eq!(urls.len(), ASSETS.len());
    }
}
