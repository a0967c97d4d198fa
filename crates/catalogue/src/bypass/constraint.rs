//! The expressions by which Traefik's providers choose containers
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/docker/#constraints>): `Label`, `LabelRegex`,
//! `&&`, `||`, `!` and parentheses.

use std::collections::BTreeMap;

use regex::Regex;

/// Whether labels match an expression; `None` if the expression is not understood.
pub(super) fn matches(expression: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
    let mut parser = Parser { rest: expression, labels, depth: 0 };
    let fits = parser.any()?;
    parser.rest.trim().is_empty().then_some(fits)
}

/// The deepest nesting of parentheses and `!` that is parsed.
const MAX_DEPTH: usize = 32;

struct Parser<'a> {
    rest: &'a str,
    labels: &'a BTreeMap<String, String>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Option<bool> {
        let mut fits = self.all()?;
        while self.takes("||") {
            fits |= self.all()?;
        }
        Some(fits)
    }

    fn all(&mut self) -> Option<bool> {
        let mut fits = self.one()?;
        while self.takes("&&") {
            fits &= self.one()?;
        }
        Some(fits)
    }

    fn one(&mut self) -> Option<bool> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let fits = if self.takes("!") {
            !self.one()?
        } else if self.takes("(") {
            let fits = self.any()?;
            self.takes(")").then_some(fits)?
        } else {
            self.call()?
        };
        self.depth -= 1;
        Some(fits)
    }

    fn call(&mut self) -> Option<bool> {
        let is_regex = self.takes("LabelRegex");
        if !is_regex && !self.takes("Label") {
            return None;
        }
        let name = self.takes("(").then(|| self.text())??;
        let wanted = self.takes(",").then(|| self.text())??;
        self.takes(")").then_some(())?;
        let found = self.labels.get(name).map_or("", String::as_str);
        Some(match is_regex {
            false => found == wanted,
            true => Regex::new(wanted).is_ok_and(|regex| regex.is_match(found)),
        })
    }

    /// A text between back quotes, or between double quotes if it has no escapes.
    fn text(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|quote| ['`', '"'].contains(quote))?;
        let (text, rest) = rest[1..].split_once(quote)?;
        self.rest = rest;
        (quote == '`' || !text.contains('\\')).then_some(text)
    }

    fn takes(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_as_the_documentation_has_them() {
        let labels =
            BTreeMap::from([("team".to_owned(), "ml".to_owned()), ("tier".to_owned(), "gpu-1".to_owned())]);
        for (expression, expected) in [
            ("Label(`team`, `ml`)", Some(true)),
            ("Label(\"team\",\"web\")", Some(false)),
            ("!Label(`team`,`web`)", Some(true)),
            ("Label(`a`, `b`) || (Label(`team`,`ml`) && LabelRegex(`tier`, `^gpu-[0-9]+$`))", Some(true)),
            ("Label(`team`,`ml`) && !LabelRegex(`tier`,`gpu`)", Some(false)),
            ("LabelRegex(`tier`, `(`)", Some(false)),
            ("Label(`absent`, ``)", Some(true)),
            ("Label(`team`)", None),
            ("Host(`a`)", None),
            ("Label(`team`,`ml`) &&", None),
            ("Label(`team`,`ml`) Label(`a`,`b`)", None),
            ("", None),
            // An escape that is not understood: nothing is said, rather than something wrong.
            (r#"Label("team","m\\u006c")"#, None),
            (r"Label(`team`,`m\u006c`)", Some(false)),
        ] {
            assert_eq!(matches(expression, &labels), expected, "{expression}");
        }
        assert_eq!(matches(&"(".repeat(100_000), &labels), None);
        let nested = |depth: usize| format!("{}Label(`team`,`ml`)", "!".repeat(depth));
        assert_eq!((matches(&nested(30), &labels), matches(&nested(31), &labels)), (Some(true), Some(false)));
        assert_eq!(matches(&nested(32), &labels), None, "too deep");
        let side_by_side = vec!["!!Label(`team`,`ml`)"; 40].join(" && ");
        assert_eq!(matches(&side_by_side, &labels), Some(true), "long is not deep");
    }
}
