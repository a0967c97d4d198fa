//! Which model a request wants, and whether its key may use that model.
//!
//! All names in a request must mean the same model, by its name or an alias. The servers are chosen by, in this order: the
//! path, from which Traefik removes the name; the body, which the server reads; the `X-Model` header; the query.
//!
//! A model that the key may not use counts as unknown: neither its name nor its aliases are looked up, so that no difference
//! between two refusals reveals that it exists.

use catalogue::{Catalogue, ModelName, Pool, RouteGroup, Selection};

use super::{
    Trace,
    behind::{Addressee, Fields, Gate, Parsed, read_so},
    names::{Names, Rules, is_asked_by_post},
};
use crate::{
    Idle, Key, Mode, Reason, Request, Unreadable,
    estimate::Count,
    read::{Closed, PathForm, Reading, Target, changes_a_model, closed},
    routes,
    select::{chooses, selection},
};

/// A request whose key is known.
pub(super) struct Question<'q> {
    pub(super) key: &'q Key,
    pub(super) catalogue: &'q Catalogue,
    pub(super) request: &'q Request<'q>,
}

/// What the request wants and may have.
pub(super) struct Wanted<'c> {
    /// By the name that the client used.
    pub(super) model: Option<ModelName>,
    pub(super) pool: Option<&'c Pool>,
    /// The pool of the canonical model among the same servers.
    pub(super) main: Option<&'c Pool>,
    pub(super) group: Option<&'c RouteGroup>,
    /// The body's counted tokens, if it could be counted while it was read.
    pub(super) count: Option<Box<Count>>,
}

/// Why a request is refused, and the model that it asks for.
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) model: Option<String>,
}

/// What is known of a request before its names are read.
pub(super) struct Place<'q> {
    /// The selection that it matches, if any.
    pub(super) chosen: Option<&'q Selection>,
    /// The pool and group that Traefik has already chosen.
    pub(super) routed: Option<(&'q Pool, &'q RouteGroup)>,
    /// It is a management request, and its key has the right.
    manages: bool,
}

impl Place<'_> {
    fn addressee(&self, form: PathForm<'_>) -> Addressee {
        match (form, self.routed) {
            (PathForm::Named { .. }, _) | (_, Some(_)) => Addressee::Known,
            (PathForm::Plain(_) | PathForm::Unknown { .. }, None) => Addressee::Unknown,
        }
    }
}

impl<R: Into<Reason>> From<R> for Refused {
    fn from(reason: R) -> Self {
        Self { reason: reason.into(), model: None }
    }
}

impl<'q> Question<'q> {
    pub(super) fn answer(&self, trace: &mut impl Trace) -> Result<Wanted<'q>, Refused> {
        self.wanted(trace).map_err(|refused| self.or_over_http(refused))
    }

    /// A WebSocket that is refused because it is one gets the refusal after which clients fall back to HTTP.
    fn or_over_http(&self, refused: Refused) -> Refused {
        let is_for_what_it_is = match &refused.reason {
            Reason::ClosedPath | Reason::StoredData => true,
            Reason::Unreadable(unreadable) => unreadable.is_about_no_model(),
            _ => false,
        };
        match is_for_what_it_is && is_asked_by_post(self.request.uri, self.request.headers) {
            true => Refused { reason: Reason::NoWebSocket, ..refused },
            false => refused,
        }
    }

    fn wanted(&self, trace: &mut impl Trace) -> Result<Wanted<'q>, Refused> {
        let target = Target::parse_named(self.request.uri)?;
        let mut place = self.place(&target)?;
        if let Some(chosen) = place.chosen {
            trace.step(|| format!("it chooses servers by {}", chosen.selector));
        }
        let form = self.path_form(&target, place.chosen);
        let addressee = place.addressee(form);
        let opened = self.opens(&target, form, addressee);
        if opened.is_err() {
            trace.step(|| {
                "the path manages servers of any kind: a key with manage: true opens it, below /models/NAME/, unless it \
                 leads elsewhere"
                    .to_owned()
            });
        }
        place.manages = opened?;
        if place.manages {
            trace.step(|| "the path manages a server, which this API key may".to_owned());
        }
        if let PathForm::Unknown { name } = form {
            let name: String = name.chars().take(ModelName::MAX_LEN).collect();
            return Err(Refused { reason: self.no_pool(place.chosen, &name), model: Some(name) });
        }
        target.refuse_encoded_behind(self.end_of_name(&target, form))?;
        let names = self.names(&target, form, &place)?;
        for (at, name) in names.iter() {
            trace.step(|| format!("{at} names the model {name:?}"));
        }
        let wanted = self.of_names(&place, Parsed { names: &names, form, addressee }, trace)?;
        Ok(Wanted { count: names.into_count(), ..wanted })
    }

    /// From names alone; its body has not been counted.
    fn of_names(
        &self,
        place: &Place<'q>,
        reading: Parsed<'_>,
        trace: &mut impl Trace,
    ) -> Result<Wanted<'q>, Refused> {
        self.agree(reading.names, place)?;
        let Some(name) = reading.names.routing() else {
            return self.nothing_named(place, reading, trace);
        };
        let model = ModelName::new(name).map_err(|error| Unreadable::ModelInvalid(error.reason))?;
        let of_model = |reason: Reason| Refused { reason, model: Some(model.as_str().to_owned()) };
        if let Mode::Gate { model: said, single_model, .. } = self.request.mode {
            let gate = Gate { owner_says: said.is_some(), single_model };
            return self.gate(gate, place, reading, &model).map_err(of_model);
        }
        let pool = match place.routed {
            Some((pool, _)) => self.allowed(pool).ok_or_else(|| not_found(name)),
            None => self.pool(place.chosen, name),
        };
        pool.and_then(|pool| self.check(pool, place, reading, trace)).map_err(of_model)
    }

    fn place(&self, target: &Target<'_>) -> Result<Place<'q>, Reason> {
        let (chosen, routed) = match self.request.mode {
            Mode::Layered => (selection(self.catalogue, self.request, target.query), None),
            Mode::Routed { route, .. } => {
                let (pool, group) = self.route(route)?;
                let selections = self.catalogue.selections();
                let chosen =
                    pool.selector.as_ref().and_then(|s| selections.iter().find(|c| c.selector == *s));
                (chosen, Some((pool, group)))
            }
            Mode::Gate { .. } => (None, None),
        };
        Ok(Place { chosen, routed, manages: false })
    }

    /// The pool of a route, and the group to which Traefik will send the request: another group's credential must not go there.
    fn route(&self, route: &str) -> Result<(&'q Pool, &'q RouteGroup), Reason> {
        let found = self.catalogue.pool_of_route(route).and_then(|pool| {
            let group = pool.groups.iter().find(|group| group.route.as_str() == route)?;
            Some((pool.as_ref(), group))
        });
        found.ok_or_else(|| Reason::NotReady { model: route.to_owned(), idle: Idle::Draining })
    }

    /// The offset up to which Traefik removes the model's name from the path, or 0.
    fn end_of_name(&self, target: &Target<'_>, form: PathForm<'_>) -> usize {
        match self.request.mode {
            // A router of the user's own need not remove it.
            Mode::Gate { .. } => 0,
            Mode::Layered | Mode::Routed { .. } => form.end_of_name(&target.path),
        }
    }

    fn path_form<'t>(&self, target: &'t Target<'_>, chosen: Option<&'q Selection>) -> PathForm<'t> {
        let path = &*target.path;
        if let Mode::Gate { model, .. } = self.request.mode {
            return match PathForm::read(path, |name| self.catalogue.knows(name)) {
                // Its owner knows better what a path of theirs means.
                PathForm::Unknown { .. } if model.is_some() => PathForm::Plain(path),
                PathForm::Unknown { .. } => PathForm::by_first_segment(path),
                form => form,
            };
        }
        let among = |chosen| PathForm::read(path, |name| self.find(chosen, name).is_some());
        match (among(chosen), chosen) {
            // A model that only other servers have gets another refusal than an unknown one.
            (PathForm::Unknown { .. }, Some(_)) => among(None),
            (form, _) => form,
        }
    }

    /// Refuses management paths, unless the key has that right and the server is known; returns whether this is such a path. A
    /// model may have any word as its name where Traefik removes the name from the path.
    fn opens(&self, target: &Target<'_>, form: PathForm<'_>, addressee: Addressee) -> Result<bool, Reason> {
        let (seen, judged) = match (self.request.mode, form) {
            // A router of the user's own need not remove the model's name.
            (Mode::Gate { .. }, _) => (&*target.path, &*target.path),
            // With nothing behind it, `/models/load` is more likely a management path than a model.
            (_, PathForm::Named { rest, .. }) if rest.trim_matches('/').is_empty() => (rest, &*target.path),
            (_, PathForm::Named { rest, .. }) => (rest, rest),
            (_, PathForm::Plain(_) | PathForm::Unknown { .. }) => (form.seen(), &*target.path),
        };
        let changes = || changes_a_model(seen, self.request.method).then_some(Closed::ToMost);
        match closed(judged).or_else(changes) {
            None => Ok(false),
            Some(Closed::ToMost) if self.key.manage && addressee == Addressee::Known => Ok(true),
            Some(Closed::ToMost) if form.is_ollamas_list() => {
                let before = judged.strip_suffix(form.seen()).unwrap_or_default();
                closed(before).map_or(Ok(false), |_| Err(Reason::ClosedPath))
            }
            Some(_) => Err(Reason::ClosedPath),
        }
    }

    fn names<'a>(
        &self,
        target: &Target<'a>,
        form: PathForm<'a>,
        place: &Place<'q>,
    ) -> Result<Names<'a>, Unreadable>
    where
        'q: 'a,
    {
        // A header that chooses servers does not name a model.
        let header_chose = place.chosen.is_some_and(|chosen| {
            let looks = chosen.selector.conditions().iter().any(|c| c.header_name() == Some("x-model"));
            looks && chooses(&chosen.selector, self.request, target.query)
        });
        let rules = Rules {
            header_chose,
            skip_body: place.manages,
            any_body: place.routed.is_some(),
            reading: Reading::Strict,
        };
        let names = Names::read(self.request, target, form, rules);
        if names.as_ref().is_ok_and(|names| names.fault().is_none()) {
            return names;
        }
        // Only servers of some kinds are known to read such a body as it would be read here.
        let lenient = Names::read(self.request, target, form, Rules { reading: Reading::Lenient, ..rules });
        match lenient {
            Ok(lenient) if lenient.fault().is_none() && self.all_read_so(&lenient, place) => Ok(lenient),
            _ => names,
        }
    }

    /// Whether all servers that a request may reach read its body as it was read here. The request must name a model that the key
    /// may use: otherwise the refusal would reveal something about the servers.
    fn all_read_so(&self, names: &Names<'_>, place: &Place<'q>) -> bool {
        let routed = place.routed.and_then(|(pool, _)| self.allowed(pool));
        let named = || names.routing().and_then(|name| self.find(place.chosen, name));
        let in_layers = !matches!(self.request.mode, Mode::Gate { .. });
        match if in_layers { routed.or_else(named) } else { None } {
            Some(pool) => {
                pool.groups.iter().all(|group| read_so(names.oddities(), pool.choice(), &group.doors))
            }
            None => false,
        }
    }

    fn nothing_named(
        &self,
        place: &Place<'q>,
        reading: Parsed<'_>,
        trace: &mut impl Trace,
    ) -> Result<Wanted<'q>, Refused> {
        let missing =
            || reading.names.other().cloned().unwrap_or(Unreadable::ModelMissing(reading.names.ways()));
        let pool = match (self.request.mode, place.routed) {
            (Mode::Gate { .. }, _) if self.key.may_use_all() => {
                let class = routes::class_of_unknown(self.request.method, reading.form.seen());
                self.may_reach(class, reading.addressee)?;
                return Ok(Wanted { model: None, pool: None, main: None, group: None, count: None });
            }
            // The name of a model that the key may not use is not revealed either.
            (_, Some((pool, _))) => self.allowed(pool).ok_or_else(missing)?,
            (_, None) => place.chosen.and_then(|chosen| self.only_pool(chosen)).ok_or_else(missing)?,
        };
        Ok(self.check(pool, place, reading, trace)?)
    }

    /// The only model of the selection that the key may use, if there is exactly one.
    fn only_pool(&self, chosen: &'q Selection) -> Option<&'q Pool> {
        let mut pools = chosen.pools().filter_map(|pool| self.allowed(pool));
        let only = pools.next()?;
        pools.all(|pool| pool.canonical == only.canonical).then_some(())?;
        self.find(Some(chosen), only.canonical.as_str()).or(Some(only))
    }

    /// The pool of a name. Unknown and forbidden ones look the same, so that nobody can ask which
    /// models there are.
    fn pool(&self, chosen: Option<&'q Selection>, name: &str) -> Result<&'q Pool, Reason> {
        self.find(chosen, name).ok_or_else(|| match (chosen, self.no_pool(chosen, name)) {
            (Some(chosen), Reason::ModelNotFound { model }) if self.key.may_use_name(name) => {
                Reason::NotServedThere { model, chosen_by: chosen.selector.to_string() }
            }
            (_, reason) => reason,
        })
    }

    /// Why a name has no pool.
    fn no_pool(&self, chosen: Option<&'q Selection>, name: &str) -> Reason {
        let may_have_it = match chosen {
            Some(chosen) => chosen.may_have_any_model(),
            None => self.catalogue.may_have_any_model(),
        };
        no_such_model(self.key, name, may_have_it || self.catalogue.may_return(name))
    }

    /// The pool of a name among the servers in question, if the key may use it.
    pub(super) fn find(&self, chosen: Option<&'q Selection>, name: &str) -> Option<&'q Pool> {
        self.among(chosen, name).and_then(|pool| self.allowed(pool))
    }

    fn among(&self, chosen: Option<&'q Selection>, name: &str) -> Option<&'q Pool> {
        let pool = match chosen {
            Some(chosen) => chosen.pool(name),
            None => self.catalogue.pool(name),
        };
        pool.map(AsRef::as_ref)
    }

    /// The canonical model's pool, among the same servers.
    fn main(&self, chosen: Option<&'q Selection>, pool: &'q Pool) -> Option<&'q Pool> {
        match pool.canonical == pool.model {
            true => Some(pool),
            false => self.among(chosen, pool.canonical.as_str()),
        }
    }

    /// The pool, if the key may use it.
    pub(super) fn allowed(&self, pool: &'q Pool) -> Option<&'q Pool> {
        self.key.may_use(pool).then_some(pool)
    }

    fn check(
        &self,
        pool: &'q Pool,
        place: &Place<'q>,
        reading: Parsed<'_>,
        trace: &mut impl Trace,
    ) -> Result<Wanted<'q>, Reason> {
        if let Some(idle) = Idle::of(pool.readiness()) {
            return Err(Reason::NotReady { model: pool.model.as_str().to_owned(), idle });
        }
        let may_learn = |group: &RouteGroup| group.credential.is_none() || self.request.trusted;
        let group = match place.routed {
            Some((_, group)) => may_learn(group).then_some(group),
            None => pool.groups.iter().find(|group| may_learn(group)),
        };
        let group = group.ok_or(Reason::UntrustedPeer)?;
        match place.manages {
            true => self.manage(group, reading)?,
            false => self.pass(pool.choice(), group, reading, trace)?,
        }
        Ok(Wanted {
            model: Some(pool.model.clone()),
            pool: Some(pool),
            main: self.main(place.chosen, pool),
            group: Some(group),
            count: None,
        })
    }

    /// A router of the user's own: its server reads what was read here, unless the owner has said which model it is.
    fn gate(
        &self,
        gate: Gate,
        place: &Place<'q>,
        reading: Parsed<'_>,
        model: &ModelName,
    ) -> Result<Wanted<'q>, Reason> {
        let pool = self.among(None, model.as_str());
        if !pool.map_or_else(|| self.key.may_use_name(model.as_str()), |pool| self.key.may_use(pool)) {
            return Err(not_found(model.as_str()));
        }
        if !place.manages {
            let path = reading.form.seen();
            self.may_reach(routes::class_of_unknown(self.request.method, path), reading.addressee)?;
            if routes::takes_a_model(path) {
                self.leave_stored(reading.names)?;
                self.look_deeper(Fields::Shared)?;
            }
            if !self.key.may_use_all() {
                self.leave_no_choice_at(gate, pool, reading)?;
            }
        }
        let main = pool.and_then(|pool| self.main(None, pool));
        Ok(Wanted { model: Some(model.clone()), pool, main, group: None, count: None })
    }
}

/// Why a key is refused a model for which no server is known that it may use. `may_be_had`: a server is loading whose models
/// nobody knows yet, or the model was there before Modelgate's start.
pub fn no_such_model(key: &Key, name: &str, may_be_had: bool) -> Reason {
    match may_be_had && key.may_use_name(name) {
        true => Reason::ModelNotKnownYet { model: name.to_owned() },
        false => not_found(name),
    }
}

fn not_found(name: &str) -> Reason {
    Reason::ModelNotFound { model: name.to_owned() }
}
