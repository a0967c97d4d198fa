//! Parses a list of a server's routes: lines of class, methods and path.

use std::collections::HashMap;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// It answers prompts, or gives harmless information.
    Open,
    /// It reads, changes or lists what the server keeps for all its users.
    Stored,
    /// Like `Stored`, and jobs stored there run on models that are named in them.
    Jobs,
    /// It manages the server, or shows what other clients do.
    Manage,
    /// No key opens it: it leads to an address that the caller gives, or names a model where the reader does not look.
    Never,
}

impl Class {
    /// The meaning for the client.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Stored => "stored data, so it needs a key with stored_data",
            Self::Jobs => "work on stored data, so it needs a key with stored_data that may use every model",
            Self::Manage => "management, so it needs a key with manage",
            Self::Never => "closed to all",
        }
    }
}

/// A method and a path of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What it does.
    pub class: Class,
    /// The method; `*` for all. `HEAD` counts as `GET`.
    pub method: &'static str,
    /// The path: `{}` matches one segment, `{*}` at the end any number of them.
    pub path: &'static str,
}

/// The routes of one kind of server.
pub(super) struct Table {
    source: &'static str,
    routes: Vec<Route>,
    /// The routes without placeholders.
    plain: HashMap<&'static str, Vec<Route>>,
    /// The routes with placeholders, in order.
    patterns: Vec<Route>,
}

impl Table {
    /// Parses a list. Its first line is a comment that gives its source.
    pub(super) fn read(text: &'static str) -> Self {
        let mut lines = text.lines();
        let source = lines.next().unwrap_or_default().trim_start_matches(['#', ' ']);
        let lines = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let routes: Vec<Route> = lines.flat_map(routes_of_line).collect();
        let (patterns, literal): (Vec<Route>, Vec<Route>) =
            routes.iter().partition(|route| route.path.contains('{'));
        let mut plain: HashMap<&str, Vec<Route>> = HashMap::new();
        for route in literal {
            plain.entry(route.path).or_default().push(route);
        }
        Self { source, routes, plain, patterns }
    }

    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    pub(super) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The class of a request, if it is listed. Case matters.
    pub(super) fn class(&self, method: &str, path: &str) -> Option<Class> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let method = if method == "HEAD" { "GET" } else { method };
        let plain = self.plain.get(path).into_iter().flatten();
        let found = plain.chain(self.patterns.iter().filter(|route| route.matches(path)));
        found
            .filter(|route| matches!(route.method, "*") || route.method == method)
            .map(|route| route.class)
            .next()
    }
}

impl Route {
    /// Whether the pattern matches a path.
    fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for wanted in self.path.split('/') {
            match (wanted, segments.next()) {
                ("{*}", found) => return found.is_some_and(|first| !first.is_empty()),
                ("{}", Some(found)) if !found.is_empty() => {}
                (wanted, Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

/// Parses `open  GET,POST  /path`.
fn routes_of_line(line: &'static str) -> Vec<Route> {
    let mut words = line.split_whitespace();
    let (Some(class), Some(methods), Some(path), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        panic!("a line of routes is: class, methods, path; not {line:?}");
    };
    let class = match class {
        "open" => Class::Open,
        "stored" => Class::Stored,
        "jobs" => Class::Jobs,
        "manage" => Class::Manage,
        "never" => Class::Never,
        other => panic!("{other:?} is no class of a route: open, stored, jobs, manage or never"),
    };
    methods.split(',').map(|method| Route { class, method, path }).collect()
}
