//! Whether a rule matches a request: Traefik's matchers, `&&`, `||`, `!` and parentheses.

use regex::Regex;

use super::Arrival;

/// Whether a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It does not.
    No,
    /// It depends on what is not known here, or on a matcher that is not known here.
    Perhaps,
    /// It does.
    Yes,
}

/// The deepest nesting that is followed.
const MAX_DEPTH: usize = 32;

/// Whether a rule matches a request.
pub(super) fn rule(rule: &str, arrival: &Arrival<'_>) -> Verdict {
    let mut reader = RuleReader { rest: rule.trim(), arrival, depth: 0 };
    match reader.any() {
        Some(verdict) if reader.rest.is_empty() => verdict,
        // Not a rule as they are known here.
        _ => Verdict::Perhaps,
    }
}

impl Arrival<'_> {
    /// Whether it meets a rule of Traefik's.
    pub fn meets(&self, text: &str) -> Verdict {
        rule(text, self)
    }
}

/// Reads a rule from left to right, and evaluates what it has read.
struct RuleReader<'r, 'a> {
    rest: &'r str,
    arrival: &'r Arrival<'a>,
    depth: usize,
}

impl RuleReader<'_, '_> {
    fn any(&mut self) -> Option<Verdict> {
        let mut verdict = self.all()?;
        while self.skip("||") {
            verdict = verdict.max(self.all()?);
        }
        Some(verdict)
    }

    fn all(&mut self) -> Option<Verdict> {
        let mut verdict = self.one()?;
        while self.skip("&&") {
            verdict = verdict.min(self.one()?);
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<Verdict> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let verdict = if self.skip("!") {
            self.one()?.not()
        } else if self.skip("(") {
            let verdict = self.any()?;
            self.skip(")").then_some(verdict)?
        } else {
            self.matcher()?
        };
        self.depth -= 1;
        Some(verdict)
    }

    fn matcher(&mut self) -> Option<Verdict> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).filter(|end| *end > 0)?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip("(").then_some(())?;
        let mut arguments = vec![self.text()?];
        while self.skip(",") {
            arguments.push(self.text()?);
        }
        self.skip(")").then_some(())?;
        Some(matches(name, &arguments, self.arrival))
    }

    /// A text between backticks, or between quotes as in Go.
    fn text(&mut self) -> Option<String> {
        if self.skip("`") {
            let (text, rest) = self.rest.split_once('`')?;
            self.rest = rest;
            return Some(text.to_owned());
        }
        self.skip("\"").then_some(())?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                (_, '\\') => match chars.next()?.1 {
                    escaped @ ('"' | '\\') => text.push(escaped),
                    _ => return None,
                },
                (_, plain) => text.push(plain),
            }
        }
    }

    /// Skips a word of the grammar, and spaces around it unless a text begins here.
    fn skip(&mut self, word: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(word) else { return false };
        self.rest = if matches!(word, "`" | "\"") { rest } else { rest.trim_start() };
        true
    }
}

impl Verdict {
    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }
}

fn matches(name: &str, arguments: &[String], arrival: &Arrival<'_>) -> Verdict {
    let any_of = |is_it: &dyn Fn(&str) -> bool| known(arguments.iter().any(|argument| is_it(argument)));
    match (name, arguments) {
        ("Host", _) => {
            arrival.host_name().map_or(Verdict::Perhaps, |host| any_of(&|it| it.eq_ignore_ascii_case(host)))
        }
        ("HostRegexp", [expression]) => match arrival.host_name() {
            Some(host) => found(expression, [host.to_ascii_lowercase()]),
            None => Verdict::Perhaps,
        },
        ("Path", _) => any_of(&|path| arrival.matched_path() == path),
        ("PathPrefix", _) => any_of(&|prefix| arrival.matched_path().starts_with(prefix)),
        ("PathRegexp", [expression]) => found(expression, [arrival.matched_path()]),
        ("Method", _) => any_of(&|method| method.eq_ignore_ascii_case(arrival.method)),
        ("Header", [name, value]) => known(arrival.values(name).any(|given| given == value)),
        ("HeaderRegexp", [name, expression]) => found(expression, arrival.values(name)),
        ("Query", [name]) => known(arrival.parameters(name).next().is_some()),
        ("Query", [name, value]) => known(arrival.parameters(name).any(|given| given == *value)),
        ("QueryRegexp", [name, expression]) => found(expression, arrival.parameters(name)),
        _ => Verdict::Perhaps,
    }
}

fn known(matches: bool) -> Verdict {
    if matches { Verdict::Yes } else { Verdict::No }
}

/// Whether an expression is found in one of these texts.
fn found(expression: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) -> Verdict {
    match Regex::new(expression) {
        Ok(expression) => known(texts.into_iter().any(|text| expression.is_match(text.as_ref()))),
        Err(_) => Verdict::Perhaps,
    }
}
