//! Servers that an operator has withdrawn by hand.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Finding, LifecycleFinding, ServerId, ServerSpec};

/// How long a server is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CordonKind {
    /// Until it is started anew: its next run takes requests again. For a restart or an upgrade in place.
    Drain {
        /// The run that is drained.
        incarnation: String,
    },
    /// Until it is resumed, whatever becomes of it.
    Pause,
}

/// One server's withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordon {
    /// How long it lasts.
    pub kind: CordonKind,
    /// The operator's name.
    pub by: Arc<str>,
}

/// The servers that operators have withdrawn. They are known and asked as before, but get no requests.
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
    /// Withdraws a server.
    pub fn cordon(&mut self, server: ServerId, cordon: Cordon) {
        self.0.insert(server, cordon);
    }

    /// Lets it take requests again; whether it was withdrawn.
    pub fn resume(&mut self, server: &ServerId) -> bool {
        self.0.remove(server).is_some()
    }

    /// What holds a server back now, if anything does.
    pub fn of(&self, spec: &ServerSpec) -> Option<&Cordon> {
        self.0.get(&spec.id).filter(|cordon| cordon.applies_to(spec))
    }

    /// Forgets servers that are gone, and drains that are over.
    pub fn retain<'s>(&mut self, servers: impl IntoIterator<Item = &'s ServerSpec>) {
        let known: BTreeMap<&ServerId, &ServerSpec> =
            servers.into_iter().map(|spec| (&spec.id, spec)).collect();
        self.0.retain(|id, cordon| known.get(id).is_some_and(|spec| cordon.applies_to(spec)));
    }
}
