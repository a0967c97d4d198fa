//! Servers that an operator has cordoned, which is to say withdrawn by hand.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Finding, LifecycleFinding, ServerId, ServerSpec};

/// How long a server stays cordoned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CordonKind {
    /// Until the server restarts: its next run takes requests again. For a restart or an upgrade in place.
    Drain {
        /// The run that is drained.
        incarnation: String,
    },
    /// Until an operator resumes it, restarts included.
    Pause,
}

/// The cordon of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordon {
    /// How long it lasts.
    pub kind: CordonKind,
    /// The operator's name.
    pub by: Arc<str>,
}

/// The servers that operators have cordoned. They are still known and probed, but get no requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cordons(BTreeMap<ServerId, Cordon>);

impl Cordon {
    /// Why the server gets no requests.
    pub fn finding(&self) -> Finding {
        let by = Arc::clone(&self.by);
        match self.kind {
            CordonKind::Drain { .. } => LifecycleFinding::Drained { by }.into(),
            CordonKind::Pause => LifecycleFinding::Paused { by }.into(),
        }
    }

    fn applies_to(&self, spec: &ServerSpec) -> bool {
        match &self.kind {
            CordonKind::Drain { incarnation } => *incarnation == spec.incarnation,
            CordonKind::Pause => true,
        }
    }
}

impl Cordons {
    /// Cordons a server.
    pub fn cordon(&mut self, server: ServerId, cordon: Cordon) {
        self.0.insert(server, cordon);
    }

    /// Lets a server take requests again; returns whether it was cordoned.
    pub fn resume(&mut self, server: &ServerId) -> bool {
        self.0.remove(server).is_some()
    }

    /// The cordon that is in force for a server, if any.
    pub fn of(&self, spec: &ServerSpec) -> Option<&Cordon> {
        self.0.get(&spec.id).filter(|cordon| cordon.applies_to(spec))
    }

    /// All of them, by server.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Cordon)> {
        self.0.iter()
    }

    /// Forgets drains of runs that are over. A server that is not there may only be so for now, or for this Modelgate.
    pub fn retain<'s>(&mut self, servers: impl IntoIterator<Item = &'s ServerSpec>) {
        let known: BTreeMap<&ServerId, &ServerSpec> =
            servers.into_iter().map(|spec| (&spec.id, spec)).collect();
        self.0.retain(|id, cordon| known.get(id).is_none_or(|spec| cordon.applies_to(spec)));
    }
}

impl FromIterator<(ServerId, Cordon)> for Cordons {
    fn from_iter<C: IntoIterator<Item = (ServerId, Cordon)>>(cordons: C) -> Self {
        Self(cordons.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerUrl;

    fn run(name: &str, incarnation: &str) -> ServerSpec {
        ServerSpec {
            incarnation: incarnation.into(),
            ..ServerSpec::configured(name, ServerUrl::http(name, 8000))
        }
    }

    /// A drain that outlived its run would keep an upgraded server from requests for ever; a pause that did not would send
    /// requests to a server that its operator took out.
    #[test]
    fn a_drain_ends_with_its_run_and_a_pause_does_not() {
        let drain = || CordonKind::Drain { incarnation: "1".into() };
        for (kind, second, code) in
            [(drain(), false, "drained_by_operator"), (CordonKind::Pause, true, "paused_by_operator")]
        {
            let (first, restarted, other) = (run("a", "1"), run("a", "2"), run("b", "1"));
            let mut cordons = Cordons::default();
            cordons.cordon(first.id.clone(), Cordon { kind, by: "alice".into() });
            assert_eq!(cordons.of(&first).map(|cordon| cordon.finding().code()), Some(code));
            assert_eq!(cordons.of(&restarted).is_some(), second, "{code}");
            assert_eq!(cordons.of(&other), None);
            let written = cordons.iter().map(|(id, cordon)| (id.clone(), cordon.clone()));
            assert_eq!(written.collect::<Cordons>(), cordons, "as the store keeps it over a restart");
            let mut later = cordons.clone();
            later.retain([&first, &other]);
            assert_eq!(later, cordons, "its run is still there");
            later.retain([&restarted]);
            assert_eq!(later == cordons, second, "{code}");
            let mut gone = cordons.clone();
            gone.retain([&other]);
            assert_eq!(gone, cordons, "a server that is not there may come back");
            assert!(cordons.resume(&first.id) && !cordons.resume(&first.id));
            assert_eq!(cordons.of(&first), None);
        }
    }
}
