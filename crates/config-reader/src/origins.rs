//! Where values came from: the file or the environment.

/// Which key came from which environment variable.
#[derive(Debug, Default)]
pub struct Origins(Vec<(String, &'static str)>);

impl Origins {
    /// Notes that the value at a path such as `listen.admin` came from a variable.
    pub fn note(&mut self, path: String, variable: &'static str) {
        self.0.push((path, variable));
    }

    /// The variable that a key, or a section around it, came from.
    pub fn variable_of(&self, path: &str) -> Option<&'static str> {
        let part_of = |whole: &str| {
            path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.0.iter().find(|(whole, _)| part_of(whole)).map(|(_, variable)| *variable)
    }
}
