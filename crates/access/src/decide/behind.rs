//! What a request may reach on the servers of its route besides its model: other paths, data that servers store for everybody,
//! other models.

use catalogue::{Choice, Door, Kind, Pool, RouteGroup};

use super::{
    Trace,
    names::{NameInPath, Names},
    wanted::Question,
};
use crate::{
    Reason, Unreadable,
    read::{Oddities, PathForm, deep_in_body, shows_models},
    routes::{self, Class},
};

/// What is known of the servers that a request reaches.
#[derive(Debug, Clone, Copy)]
struct Behind {
    /// What it could choose there.
    choice: Choice,
    /// Whether WebSockets pass whatever their messages name.
    websockets: bool,
    /// Whether a body without a model gets this one: the router's owner has said so.
    default_is_told: bool,
}

/// What a router's owner says about the server behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    /// The owner says which model it is.
    pub(super) owner_says: bool,
    /// The server has that model and no other.
    pub(super) single_model: bool,
}

/// Whether it is known to which server a request goes. Keys with `manage: true` may manage only a server that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addressee {
    /// Its path names a model, or Traefik has chosen a route for it.
    Known,
    /// It may go to any server.
    Unknown,
}

/// The parts of a request that have been read.
#[derive(Clone, Copy)]
pub(super) struct Parsed<'r> {
    pub(super) names: &'r Names<'r>,
    pub(super) form: PathForm<'r>,
    pub(super) addressee: Addressee,
}

/// What the fields of a body mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    /// What the APIs that these servers share define.
    Shared,
    /// What an application defines for its own paths.
    Own,
}

/// Whether the servers read an odd body as it was read here.
pub(super) fn read_so(oddities: Oddities, choice: Choice, doors: &[Door]) -> bool {
    let Oddities { untyped, empty_name, null_model } = oddities;
    doors.iter().all(|Door { kind, .. }| {
        (!untyped || kind.reads_json_of_any_type())
            && (!empty_name || kind.ignores_empty_name())
            && (!null_model || kind.takes_null_for_no_model() || choice == Choice::Nothing)
    })
}

/// Whether all servers of a pool accept a name that none of them has, without choosing anything by it: clients whose API
/// requires a model in the body send any name.
pub(super) fn takes_any_name(pool: &Pool, name: &str) -> bool {
    let is_sglang = |door: &Door| door.kind == Kind::Sglang;
    let chooses_nothing = match pool.choice() {
        Choice::Nothing => true,
        // vLLM may load an adapter of that name.
        Choice::Sole => pool.groups.iter().all(|group| group.doors.iter().all(is_sglang)),
        Choice::Unknown | Choice::Several => false,
    };
    chooses_nothing && pool.ready.iter().all(|server| server.accepts(name))
}

impl Question<'_> {
    /// What even the request of a key that manages servers may not do.
    pub(super) fn manage(&self, group: &RouteGroup, reading: Parsed<'_>) -> Result<(), Reason> {
        let path = reading.form.at_server();
        let classes = group.doors.iter().filter_map(|door| routes::class(door, self.request.method, &path));
        let mut other = classes.filter(|class| matches!(class, Class::Stored | Class::Jobs | Class::Never));
        other.try_for_each(|class| self.may_reach(class, reading.addressee))
    }

    /// Refuses a request that reaches more than its model on any server to which it may go.
    pub(super) fn pass(
        &self,
        choice: Choice,
        group: &RouteGroup,
        reading: Parsed<'_>,
        trace: &mut impl Trace,
    ) -> Result<(), Reason> {
        let names = reading.names;
        if choice != Choice::Nothing && (names.unread().is_some() || names.is_handshake()) {
            trace.step(|| {
                "what Modelgate cannot read passes only to a server whose settings say single_model: true (a WebSocket also \
                 with websockets: true)"
                    .to_owned()
            });
        }
        let mut asks_a_model = names.is_handshake();
        for door in &group.doors {
            let class = self.enter(door, reading, trace)?;
            // Stored data belongs to no model, and the key may use it.
            if !matches!(class, Some(Class::Stored | Class::Jobs)) {
                asks_a_model = true;
                self.leave_fields(door.kind, choice, reading)?;
            }
        }
        if !asks_a_model {
            return Ok(());
        }
        let websockets = group.doors.iter().all(|door| door.websockets);
        self.leave_no_choice(Behind { choice, websockets, default_is_told: false }, reading)
    }

    /// Refuses a path that a kind of server does not open to this key.
    fn enter(
        &self,
        door: &Door,
        reading: Parsed<'_>,
        trace: &mut impl Trace,
    ) -> Result<Option<Class>, Reason> {
        let (method, path) = (self.request.method, reading.form.at_server());
        let class = routes::class(door, method, &path);
        trace.step(|| {
            let by = if door.paths.is_empty() { "the routes of its kind" } else { "its setting paths" };
            let unlisted = "not listed, so it needs a key with manage: true (below /models/NAME/), or the server's setting \
                            paths or kind: other";
            let what = class.map_or(unlisted, Class::meaning);
            format!("for a server of kind {}, {method} {path} is {what} ({by})", door.kind.name())
        });
        match class {
            // An unknown path of a known kind may be new, and do anything.
            None if self.key.manage && reading.addressee == Addressee::Known => Ok(None),
            None => Err(Reason::ClosedPath),
            Some(class) => self.may_reach(class, reading.addressee).map(|()| Some(class)),
        }
    }

    /// Refuses fields of the body that reach more than the path shows.
    fn leave_fields(&self, kind: Kind, choice: Choice, reading: Parsed<'_>) -> Result<(), Reason> {
        let Parsed { names, form, .. } = reading;
        match names.other() {
            Some(other) if kind != Kind::Other || choice != Choice::Nothing => {
                return Err(other.clone().into());
            }
            _ => {}
        }
        let fields = match kind {
            Kind::Other if !routes::takes_a_model(&form.at_server()) => Fields::Own,
            _ => Fields::Shared,
        };
        if fields == Fields::Shared {
            self.leave_stored(names)?;
        }
        self.leave_unread(kind, names)?;
        match kind {
            Kind::Provider => self.look_deeper(fields),
            Kind::Other if choice != Choice::Nothing => self.look_deeper(fields),
            _ => Ok(()),
        }
    }

    /// Refuses an unread body that could refer to stored data. Servers with one model have stored data, too.
    fn leave_unread(&self, kind: Kind, names: &Names<'_>) -> Result<(), Reason> {
        let unread = match kind {
            Kind::Provider => names.unread(),
            // They read only JSON, and before Traefik 3.3 bodies are not visible.
            Kind::Vllm | Kind::Sglang => names.fault().cloned(),
            _ => None,
        };
        match unread {
            Some(unread) if !self.key.stored_data => Err(unread.into()),
            _ => Ok(()),
        }
    }

    /// Whether the request reads existing data, rather than asking for an answer to a prompt.
    fn reads(&self) -> bool {
        matches!(self.request.method, "GET" | "HEAD")
    }

    /// Whether the key may use a route of this class.
    pub(super) fn may_reach(&self, class: Class, addressee: Addressee) -> Result<(), Reason> {
        match class {
            Class::Open => Ok(()),
            Class::Stored if self.key.stored_data => Ok(()),
            // Stored jobs name models, and nothing here reads those.
            Class::Jobs if self.key.stored_data && self.key.may_use_all() => Ok(()),
            Class::Stored | Class::Jobs => Err(Reason::StoredData),
            Class::Manage if self.key.manage && addressee == Addressee::Known => Ok(()),
            Class::Manage | Class::Never => Err(Reason::ClosedPath),
        }
    }

    /// Refuses a body that refers to data that servers store for everybody, unless the key may use that.
    pub(super) fn leave_stored(&self, names: &Names<'_>) -> Result<(), Reason> {
        match names.stored() {
            Some(field) if !self.key.stored_data => Err(Unreadable::StoredField(field).into()),
            _ => Ok(()),
        }
    }

    /// Refuses models and adapters deeper in a body, and references there if its fields mean stored data.
    pub(super) fn look_deeper(&self, fields: Fields) -> Result<(), Reason> {
        match deep_in_body(self.request)? {
            Some(field) if fields == Fields::Shared && !self.key.stored_data => {
                Err(Unreadable::StoredField(field).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a request that a server could take for another model's.
    fn leave_no_choice(&self, behind: Behind, reading: Parsed<'_>) -> Result<(), Reason> {
        let Parsed { names, form, .. } = reading;
        let Behind { choice, websockets, default_is_told } = behind;
        if choice == Choice::Nothing {
            return Ok(());
        }
        if choice == Choice::Sole {
            // A body that Traefik does not hand over can at most name an adapter that the server loads by itself.
            return names.fault().cloned().map_or(Ok(()), |fault| Err(fault.into()));
        }
        // A key that manages servers may see their model lists.
        if shows_models(form.seen()) {
            return if self.key.manage { Ok(()) } else { Err(Reason::ClosedPath) };
        }
        // A WebSocket's messages are not visible here. vLLM takes the model from `session.update`; OpenAI takes the
        // transcription model from there.
        if names.is_handshake() {
            return if websockets { Ok(()) } else { Err(Unreadable::ModelInMessages.into()) };
        }
        let open = match choice {
            Choice::Several if self.reads() => names.left_open(NameInPath::Enough),
            Choice::Several => names.left_open(NameInPath::TakenOff),
            _ if !default_is_told && names.is_silent() && routes::takes_a_model(&form.at_server()) => {
                Some(Unreadable::ModelNotInBody)
            }
            _ => names.unread(),
        };
        open.map_or(Ok(()), |open| Err(open.into()))
    }

    /// Like `leave_no_choice`, for a router of the operator's own, as far as its owner says what is behind it.
    pub(super) fn leave_no_choice_at(
        &self,
        gate: Gate,
        pool: Option<&Pool>,
        reading: Parsed<'_>,
    ) -> Result<(), Reason> {
        let Parsed { names, form, .. } = reading;
        match (gate.owner_says, gate.single_model) {
            (true, true) => Ok(()),
            _ if names.other().is_some() => names.other().cloned().map_or(Ok(()), |other| Err(other.into())),
            (true, false) => {
                let choice = pool.map_or(Choice::Unknown, Pool::choice);
                let behind = Behind { choice, websockets: false, default_is_told: true };
                self.leave_no_choice(behind, reading)
            }
            (false, _) if shows_models(form.seen()) => Err(Reason::ClosedPath),
            (false, _) if names.is_handshake() => Err(Unreadable::ModelInMessages.into()),
            (false, _) => match names.left_open(NameInPath::Enough) {
                Some(open) => Err(open.into()),
                None => Ok(()),
            },
        }
    }
}
