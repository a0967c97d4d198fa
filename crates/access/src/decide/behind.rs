//! What a request may reach of the servers behind a route besides the model that it is for: their other paths, what they
//! store for everybody, their other models.

use catalogue::{Choice, Door, Kind, Leg, Pool};

use super::{Trace, names::Names, wanted::Question};
use crate::{
    Reason, Unreadable,
    read::{Oddities, PathForm, deep_in_body, shows_models},
    routes::{self, Class},
};

/// What is known of the servers that a request reaches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behind {
    /// What it could choose there.
    pub(super) choice: Choice,
    /// Whether WebSockets pass, whatever their messages say.
    pub(super) websockets: bool,
    /// Whether a body that names no model gets this one: somebody says so who knows.
    pub(super) default_is_told: bool,
}

/// What the owner of a router says of the server to which it leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    /// Which model it is.
    pub(super) owner_says: bool,
    /// The server has that model and no other.
    pub(super) single_model: bool,
}

/// Whether servers read an odd body as it was read here.
pub(super) fn read_so(oddities: Oddities, choice: Choice, doors: &[Door]) -> bool {
    let Oddities { untyped, empty_name, null_model } = oddities;
    doors.iter().all(|Door { kind, .. }| {
        (!untyped || kind.reads_json_of_any_type())
            && (!empty_name || kind.ignores_empty_name())
            && (!null_model || kind.takes_null_for_no_model() || choice == Choice::Nothing)
    })
}

/// Whether all servers of a pool answer to a name that none of them has, and choose nothing by it: clients that have to put a
/// model into the body put anything there.
pub(super) fn takes_any_name(pool: &Pool, name: &str) -> bool {
    let is_sglang = |door: &Door| door.kind == Kind::Sglang;
    let chooses_nothing = match pool.choice() {
        Choice::Nothing => true,
        // vLLM may load an adapter of that name.
        Choice::Sole => pool.legs.iter().all(|leg| leg.doors.iter().all(is_sglang)),
        Choice::Unknown | Choice::Several => false,
    };
    chooses_nothing && pool.ready.iter().all(|server| server.accepts(name))
}

impl Question<'_> {
    /// What a request of a key that manages servers may not do all the same.
    pub(super) fn manage(&self, leg: &Leg, form: PathForm<'_>) -> Result<(), Reason> {
        let classes =
            leg.doors.iter().filter_map(|door| routes::class(door, self.request.method, &form.at_server()));
        let mut other = classes.filter(|class| matches!(class, Class::Stored | Class::Jobs | Class::Never));
        other.try_for_each(|class| self.may_reach(class, true))
    }

    /// Refuses what reaches more than the model, at any server that may get the request.
    pub(super) fn pass(
        &self,
        choice: Choice,
        leg: &Leg,
        names_server: bool,
        names: &Names<'_>,
        form: PathForm<'_>,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        if choice != Choice::Nothing && (names.unread().is_some() || names.is_handshake()) {
            trace.step(|| {
                "what Modelgate cannot read passes only to a server whose settings say single_model: true (a WebSocket also \
                 with websockets: true)"
                    .to_owned()
            });
        }
        let mut asks_a_model = names.is_handshake();
        for door in &leg.doors {
            let class = self.enter(door, names_server, form, trace)?;
            // What is stored is about no model, and the key may use it.
            if !matches!(class, Some(Class::Stored | Class::Jobs)) {
                asks_a_model = true;
                self.leave_fields(door.kind, choice, names, form)?;
            }
        }
        if !asks_a_model {
            return Ok(());
        }
        let websockets = leg.doors.iter().all(|door| door.websockets);
        self.leave_no_choice(Behind { choice, websockets, default_is_told: false }, names, form)
    }

    /// Refuses a path that a kind of server does not open to this key.
    pub(super) fn enter(
        &self,
        door: &Door,
        names_server: bool,
        form: PathForm<'_>,
        trace: &mut impl Trace,
    ) -> Result<Option<Class>, Reason> {
        let (method, path) = (self.request.method, form.at_server());
        let class = routes::class(door, method, &path);
        trace.step(|| {
            let by = if door.paths.is_empty() { "the routes of its kind" } else { "its setting paths" };
            let unlisted = "not listed, so it needs a key with manage: true (below /models/NAME/), or the server's setting \
                            paths or kind: other";
            let what = class.map_or(unlisted, Class::meaning);
            format!("for a server of kind {}, {method} {path} is {what} ({by})", door.kind.name())
        });
        match class {
            // What is not known of a kind may be new, and do anything.
            None if self.key.manage && names_server => Ok(None),
            None => Err(Reason::ClosedPath),
            Some(class) => self.may_reach(class, names_server).map(|()| Some(class)),
        }
    }

    /// Refuses fields of the body that reach what the path does not tell of.
    pub(super) fn leave_fields(
        &self,
        kind: Kind,
        choice: Choice,
        names: &Names<'_>,
        form: PathForm<'_>,
    ) -> Result<(), Reason> {
        match names.other() {
            Some(other) if kind != Kind::Other || choice != Choice::Nothing => {
                return Err(other.clone().into());
            }
            _ => {}
        }
        // On its own paths, an application's fields mean what it wants.
        let reads_fields = kind != Kind::Other || routes::takes_a_model(&form.at_server());
        if reads_fields {
            self.leave_stored(names)?;
        }
        self.leave_unread(kind, names)?;
        match kind {
            Kind::Provider => self.look_deeper(reads_fields),
            Kind::Other if choice != Choice::Nothing => self.look_deeper(reads_fields),
            _ => Ok(()),
        }
    }

    /// Refuses a body that was not read where it could refer to what is stored. A server of one model says nothing of
    /// that.
    fn leave_unread(&self, kind: Kind, names: &Names<'_>) -> Result<(), Reason> {
        let unread = match kind {
            Kind::Provider => names.unread(),
            // They read JSON alone, and before Traefik 3.3 nobody sees their bodies.
            Kind::Vllm | Kind::Sglang => names.fault().cloned(),
            _ => None,
        };
        match unread {
            Some(unread) if !self.key.stored_data => Err(unread.into()),
            _ => Ok(()),
        }
    }

    /// Whether the request asks for something that is there, and for no answer to a prompt.
    fn reads(&self) -> bool {
        matches!(self.request.method, "GET" | "HEAD")
    }

    /// Whether the key may use what a route does.
    pub(super) fn may_reach(&self, class: Class, names_server: bool) -> Result<(), Reason> {
        match class {
            Class::Open => Ok(()),
            Class::Stored if self.key.stored_data => Ok(()),
            // What is stored there names models that nobody reads here.
            Class::Jobs if self.key.stored_data && self.key.may_use_all() => Ok(()),
            Class::Stored | Class::Jobs => Err(Reason::StoredData),
            Class::Manage if self.key.manage && names_server => Ok(()),
            Class::Manage | Class::Never => Err(Reason::ClosedPath),
        }
    }

    /// Refuses a body that refers to what servers store for everybody, unless the key may use that.
    pub(super) fn leave_stored(&self, names: &Names<'_>) -> Result<(), Reason> {
        match names.stored() {
            Some(field) if !self.key.stored_data => Err(Unreadable::StoredField(field).into()),
            _ => Ok(()),
        }
    }

    /// Refuses models and adapters that stand deeper in a body, and references there.
    pub(super) fn look_deeper(&self, reads_fields: bool) -> Result<(), Reason> {
        match deep_in_body(self.request)? {
            Some(field) if reads_fields && !self.key.stored_data => {
                Err(Unreadable::StoredField(field).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses what a server could take for a request for another model than the one that it is for.
    pub(super) fn leave_no_choice(
        &self,
        behind: Behind,
        names: &Names<'_>,
        form: PathForm<'_>,
    ) -> Result<(), Reason> {
        let Behind { choice, websockets, default_is_told } = behind;
        if choice == Choice::Nothing {
            return Ok(());
        }
        if choice == Choice::Sole {
            // A body that is not handed over may name an adapter at most that the server loads by itself.
            return names.fault().cloned().map_or(Ok(()), |fault| Err(fault.into()));
        }
        // A key that manages servers may see their lists.
        if shows_models(form.seen()) {
            return if self.key.manage { Ok(()) } else { Err(Reason::ClosedPath) };
        }
        // What a WebSocket's messages say is not seen here. vLLM takes the model from `session.update`; OpenAI
        // takes the one that transcribes from there.
        if names.is_handshake() {
            return if websockets { Ok(()) } else { Err(Unreadable::ModelInMessages.into()) };
        }
        let open = match choice {
            Choice::Several => names.left_open(self.reads()),
            _ if !default_is_told && names.is_silent() && routes::takes_a_model(&form.at_server()) => {
                Some(Unreadable::ModelNotInBody)
            }
            _ => names.unread(),
        };
        open.map_or(Ok(()), |open| Err(open.into()))
    }

    /// The same as behind a route, as far as the router's owner says what stands there.
    pub(super) fn leave_no_choice_at(
        &self,
        gate: Gate,
        pool: Option<&Pool>,
        names: &Names<'_>,
        form: PathForm<'_>,
    ) -> Result<(), Reason> {
        match (gate.owner_says, gate.single_model) {
            (true, true) => Ok(()),
            _ if names.other().is_some() => names.other().cloned().map_or(Ok(()), |other| Err(other.into())),
            (true, false) => {
                let choice = pool.map_or(Choice::Unknown, Pool::choice);
                let behind = Behind { choice, websockets: false, default_is_told: true };
                self.leave_no_choice(behind, names, form)
            }
            (false, _) if shows_models(form.seen()) => Err(Reason::ClosedPath),
            (false, _) if names.is_handshake() => Err(Unreadable::ModelInMessages.into()),
            (false, _) => match names.left_open(true) {
                Some(open) => Err(open.into()),
                None => Ok(()),
            },
        }
    }
}
