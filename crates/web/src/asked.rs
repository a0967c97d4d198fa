//! Parses the address of a ForwardAuth middleware.
//!
//! ```text
//! /auth                    layered layout: the answer chooses the route
//! /auth?route=<route id>   flat layout: Traefik has chosen the route
//! /auth?gate               a router of the user's own
//! /auth?model=<name>       likewise, and its owner says which model it leads to
//! …&single_model           and the server there has no other model: requests need not be read
//! …&websocket              Traefik lets the request keep its `Upgrade: websocket`
//! …&body=none              Traefik does not forward bodies
//! /auth?key                checks only the key, before the body is read; one of the others follows
//! ```

use std::borrow::Cow;

use access::Mode;
use percent_encoding::percent_decode_str;

/// The parsed address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    route: Option<&'a str>,
    model: Option<Cow<'a, str>>,
    gate: bool,
    key: bool,
    no_body: bool,
    single_model: bool,
    websocket: bool,
}

impl<'a> Asked<'a> {
    /// Parses the query; `None` for a query that Modelgate does not render: a misspelt word must not open more than was meant.
    pub(crate) fn parse(query: &'a str) -> Option<Self> {
        let mut asked = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("route", route) if asked.route.is_none() => asked.route = Some(route),
                ("model", model) if asked.model.is_none() && !model.is_empty() => {
                    asked.model = Some(percent_decode_str(model).decode_utf8().ok()?);
                }
                ("gate", "") => asked.gate = true,
                ("key", "") => asked.key = true,
                ("body", "none") => asked.no_body = true,
                ("single_model", "") => asked.single_model = true,
                ("websocket", "") => asked.websocket = true,
                _ => return None,
            }
        }
        let by_hand = asked.gate || asked.model.is_some();
        let ways = [asked.route.is_some(), by_hand, asked.key].into_iter().filter(|way| *way).count();
        let may_lack_body = by_hand || asked.route.is_some();
        let names_one = asked.model.is_some() || !asked.single_model;
        (ways <= 1 && (may_lack_body || !asked.no_body) && names_one).then_some(asked)
    }

    /// Whether the request passes as a WebSocket, with its `Upgrade`.
    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// Whether only the key is checked.
    pub(crate) fn is_key_alone(&self) -> bool {
        self.key
    }

    pub(crate) fn mode(&self) -> Mode<'_> {
        let body_forwarded = !self.no_body;
        match (self.route, &self.model) {
            (Some(route), _) => Mode::Routed { route, body_forwarded },
            (None, Some(model)) => {
                Mode::Gate { model: Some(model), body_forwarded, single_model: self.single_model }
            }
            (None, None) if self.gate => Mode::Gate { model: None, body_forwarded, single_model: false },
            (None, None) => Mode::Layered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_says_how_to_decide() {
        let mode = |query| Asked::parse(query).map(|asked| format!("{:?}", asked.mode()));
        for (query, expected) in [
            ("", "Layered"),
            ("route=llama-1", "Routed { route: \"llama-1\", body_forwarded: true }"),
            ("route=llama-1&body=none", "Routed { route: \"llama-1\", body_forwarded: false }"),
            ("gate", "Gate { model: None, body_forwarded: true, single_model: false }"),
            ("gate&body=none", "Gate { model: None, body_forwarded: false, single_model: false }"),
            ("key", "Layered"),
            ("websocket", "Layered"),
            ("gate&websocket", "Gate { model: None, body_forwarded: true, single_model: false }"),
            (
                "model=org%2Fllama",
                "Gate { model: Some(\"org/llama\"), body_forwarded: true, single_model: false }",
            ),
            ("model=a&single_model", "Gate { model: Some(\"a\"), body_forwarded: true, single_model: true }"),
        ] {
            assert_eq!(mode(query).as_deref(), Some(expected), "{query}");
        }
        for query in [
            "modle=a",
            "single_model",
            "gate&single_model",
            "model=a&single_model=false",
            "route=a&model=b",
            "route=a&gate",
            "body=none",
            "model=",
            "model=%ff",
            "gate=1",
            "key=mg-1",
            "key&gate",
            "key&route=a",
            "key&body=none",
            "route=a&route=b",
        ] {
            assert_eq!(mode(query), None, "{query}");
        }
    }

    #[test]
    fn only_a_question_about_the_key_alone_is_one() {
        let is_key_alone = |query| Asked::parse(query).map(|asked| asked.is_key_alone());
        assert_eq!(
            [is_key_alone("key"), is_key_alone("gate"), is_key_alone("")],
            [Some(true), Some(false), Some(false)]
        );
    }
}
