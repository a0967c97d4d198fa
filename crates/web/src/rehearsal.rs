//! What would happen to a request, for operators: which router of Traefik's takes it, what `/auth` says, and why.
//!
//! Traefik's part is read from the document that it gets (`traefik_config::RouterWay`). Modelgate's part is done by the handlers
//! themselves, with a copy of the state in which nothing has been counted, so that the answer is the one that the client gets.
//! Nothing is counted, and nothing is sent to a model.

mod ask;
#[cfg(test)]
mod tests;
mod told;

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use access::{Explanation, Key, Policy, Reason, Request, estimate::Media};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use catalogue::{Catalogue, OwnRouter};
use ipnet::IpNet;
use limits::{Demands, Left, LimitReached};
use traefik_config::{
    Arrival, AuthQuestion, Document, Gateway, REFUSE_PREFIX, RouterStep, RouterWay, Verdict, render,
};

use crate::{Shared, asked::Asked, pricing::Priced, refusal::Refusal, requests::Requests};
use ask::{ClientRequest, GatewayAnswer};

/// A request to be rehearsed.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The URL: a path alone, or with scheme and host.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
    /// The client's address.
    pub from: Option<IpAddr>,
    /// A key to use in place of one among the headers: operators know keys by their names only.
    pub key: Option<&'a Arc<Key>>,
}

/// What would happen to it.
#[derive(Debug)]
pub struct Rehearsed {
    /// The steps, in order, without secrets.
    pub steps: Vec<String>,
    /// The end of it, as if no limit had been used yet.
    pub outcome: RequestOutcome,
    /// What it takes from which limits; empty if it is refused before.
    pub demands: Demands,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It goes to a server.
    Allowed {
        /// The model, if it names one or has to.
        model: Option<String>,
        /// Whose key it is.
        consumer: String,
        /// The route, if Modelgate chooses it.
        route: Option<String>,
        /// The server's route, if Modelgate chooses the server.
        server: Option<String>,
    },
    /// Modelgate answers it, with something else than an error.
    Answered {
        /// What the answer says, in short.
        what: String,
    },
    /// Modelgate refuses it.
    Refused {
        /// The status that the client gets.
        status: u16,
        /// The reason's name.
        code: String,
        /// What the client is told.
        message: String,
    },
    /// Traefik answers it, and asks nobody.
    ByTraefik {
        /// The status.
        status: u16,
        /// Why.
        why: String,
    },
    /// A router of another container takes it, and asks Modelgate nothing.
    Elsewhere {
        /// The router's name.
        router: String,
        /// The container that defines it.
        container: String,
    },
}

impl RequestOutcome {
    /// Whether the client gets what it asks for, as far as is known here.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Allowed { .. } | Self::Answered { .. })
    }
}

impl fmt::Display for RequestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
        match self {
            Self::Allowed { model, consumer, route, server } => {
                write!(
                    f,
                    "allowed: model {}, consumer {consumer}, route {}",
                    or_none(model),
                    or_none(route)
                )?;
                server.iter().try_for_each(|server| write!(f, ", server {server}"))
            }
            Self::Answered { what } => write!(f, "answered by Modelgate itself: {what}"),
            Self::Refused { status, code, message } => write!(f, "refused with {status} ({code}): {message}"),
            Self::ByTraefik { status, why } => write!(f, "answered by Traefik with {status}: {why}"),
            Self::Elsewhere { router, container } => write!(
                f,
                "not for Modelgate: the router {router} of container {container} takes it, and does not ask Modelgate"
            ),
        }
    }
}

impl Rehearsed {
    /// The limit that refuses it with what is left, in the order of [`demands`](Self::demands), if it would pass otherwise.
    pub fn reached(&self, left: &[Left]) -> Option<LimitReached> {
        self.demands.reached(left).filter(|_| self.outcome.is_good())
    }

    /// The end of it with what is left of its limits and budgets, in the order of [`demands`](Self::demands); amounts of money are in
    /// this currency.
    pub fn outcome_now(&self, left: &[Left], currency: Option<&str>) -> RequestOutcome {
        match self.reached(left) {
            Some(reached) => {
                let Refusal { status, message, .. } = Refusal::limit_reached(&reached, None, currency);
                let code = Reason::LimitReached(reached).code().to_owned();
                RequestOutcome::Refused { status: status.as_u16(), code, message }
            }
            None => self.outcome.clone(),
        }
    }
}

/// What happens to a request, if a Traefik has Modelgate's routes ([`Polls::unheard`](crate::Polls::unheard) tells if none has).
/// `None` while the first look for servers is not finished.
pub async fn rehearse(shared: &Shared, rehearsal: &Rehearsal<'_>) -> Option<Rehearsed> {
    let catalogue = shared.catalogue().load().clone()?;
    let mut steps = Vec::new();
    let (policy, headers) = client(shared, rehearsal);
    let settings = Arc::clone(&shared.settings());
    let client = ClientRequest::new(rehearsal, headers, &settings.traefik, &mut steps);
    let stage = RehearsalStage {
        document: rendered(shared, &catalogue),
        scratch: Arc::new(shared.uncounted(policy)),
        catalogue: &catalogue,
        client: &client,
        from: rehearsal.from,
    };
    let (outcome, demands) = stage.play(&mut steps).await;
    Some(Rehearsed { steps, outcome, demands })
}

/// The policy and the headers with which it is tried. A key that is known by its name alone gets another digest for this.
fn client(shared: &Shared, rehearsal: &Rehearsal<'_>) -> (Arc<Policy>, HeaderMap) {
    let mut headers = rehearsal.headers.clone();
    let policy = shared.policy().clone();
    let Some(key) = rehearsal.key else { return (policy, headers) };
    let Ok(made) = access::NewKey::generate() else { return (policy, headers) };
    let bearer = HeaderValue::from_str(&format!("Bearer {}", made.reveal()));
    headers.extend(bearer.ok().map(|bearer| (header::AUTHORIZATION, bearer)));
    let key = Key { digest: made.digest(), previous: None, ..Key::clone(key) };
    (Arc::new(policy.with_this_key_alone(key)), headers)
}

fn rendered(shared: &Shared, catalogue: &Catalogue) -> Document {
    let nobody = Gateway { authority: "modelgate".into(), ca_pem: String::new() };
    render(catalogue, &shared.settings().traefik, &nobody)
}

/// Everything that a rehearsal needs.
struct RehearsalStage<'a> {
    document: Document,
    /// The state in which nothing has been counted.
    scratch: Arc<Shared>,
    catalogue: &'a Catalogue,
    client: &'a ClientRequest<'a>,
    from: Option<IpAddr>,
}

/// What takes a request: one of Modelgate's routers, or a container's.
enum Taker<'a> {
    Ours(RouterWay),
    Own(&'a OwnRouter),
    Nobody,
}

impl<'a> RehearsalStage<'a> {
    /// The same for another form of the request.
    fn with<'b>(&self, client: &'b ClientRequest<'b>) -> RehearsalStage<'b>
    where
        'a: 'b,
    {
        let Self { scratch, catalogue, from, .. } = self;
        RehearsalStage {
            document: Document::default(),
            scratch: Arc::clone(scratch),
            catalogue,
            client,
            from: *from,
        }
    }

    async fn play(&self, steps: &mut Vec<String>) -> (RequestOutcome, Demands) {
        let arrival = self.client.arrival();
        match self.taker(&arrival, steps) {
            Taker::Nobody => {
                let settings = self.scratch.settings();
                steps.extend(told::why_nobody(&arrival, &settings.traefik));
                (told::no_router(), Demands::default())
            }
            Taker::Own(own) => self.play_own(own, steps).await,
            Taker::Ours(way) => {
                steps.push(format!("Traefik's router {} takes it", way.router));
                match self.at_the_edge(&way) {
                    Some(outcome) => (outcome, Demands::default()),
                    None => self.play_ours(&way, &arrival, steps).await,
                }
            }
        }
    }

    /// Traefik asks the router with the highest priority first, whosever it is.
    fn taker(&self, arrival: &Arrival<'_>, steps: &mut Vec<String>) -> Taker<'_> {
        let way = self.document.way(arrival);
        let priority = way.as_ref().map_or(0, |way| way.priority);
        let own_priority = |own: &OwnRouter| own.priority.unwrap_or(own.rule.len());
        let may_take = |own: &&OwnRouter| {
            own_priority(own) > priority && (arrival.is_https != Some(false) || !own.has_tls)
        };
        let mut others: Vec<(&OwnRouter, Verdict)> = self
            .catalogue
            .own_routers()
            .iter()
            .filter(may_take)
            .map(|own| (own, arrival.meets(&own.rule)))
            .filter(|(_, verdict)| *verdict != Verdict::No)
            .collect();
        others.sort_by_key(|(own, _)| std::cmp::Reverse(own_priority(own)));
        for (own, verdict) in others {
            if verdict == Verdict::Yes && !own.is_doubtful {
                return Taker::Own(own);
            }
            steps.push(told::perhaps_own(own));
        }
        way.map_or(Taker::Nobody, Taker::Ours)
    }

    /// What Traefik answers before it asks anybody.
    fn at_the_edge(&self, way: &RouterWay) -> Option<RequestOutcome> {
        let is_allowed = |from: IpAddr| {
            let network =
                |text: &String| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            way.allowed.iter().filter_map(|text| network(text).ok()).any(|network| network.contains(&from))
        };
        if self.from.is_some_and(|from| !way.allowed.is_empty() && !is_allowed(from)) {
            let why = "its address is not in traefik.allow_ips".into();
            return Some(RequestOutcome::ByTraefik { status: 403, why });
        }
        let is_preflight = self.client.is_preflight() && way.answers_preflights;
        is_preflight.then(|| RequestOutcome::ByTraefik {
            status: 200,
            why: "a page's preflight (OPTIONS), which has no key".into(),
        })
    }

    async fn play_ours(
        &self,
        way: &RouterWay,
        arrival: &Arrival<'_>,
        steps: &mut Vec<String>,
    ) -> (RequestOutcome, Demands) {
        let nothing = Demands::default();
        match &way.step {
            RouterStep::Redirect => {
                let (why, is_get) = ("a redirect to https".into(), self.client.method == "GET");
                (RequestOutcome::ByTraefik { status: if is_get { 301 } else { 308 }, why }, nothing)
            }
            RouterStep::Dashboard => (RequestOutcome::Answered { what: "the dashboard".into() }, nothing),
            RouterStep::Answer { prefix } => {
                if !prefix.starts_with(REFUSE_PREFIX) {
                    steps.extend(self.whose_key());
                }
                let answer = self.client.send(&self.scratch, prefix).await;
                let outcome = answer.outcome();
                if !outcome.is_good() {
                    steps.extend(self.lacks(None));
                }
                (outcome, nothing)
            }
            RouterStep::Ask(questions) => {
                let (outcome, demands) = match &way.replaced {
                    None => self.ask(questions, steps).await,
                    Some(path) => {
                        steps.push(format!("it makes {path} of the path, by traefik.path_prefixes"));
                        let client = self.client.at(path);
                        self.with(&client).ask(questions, steps).await
                    }
                };
                if let RequestOutcome::Allowed { route, server, model, .. } = &outcome {
                    steps.extend(self.behind(way, arrival, [route.as_deref(), server.as_deref()]));
                    steps.extend(self.lacks(model.as_deref()));
                } else {
                    steps.extend(self.lacks(None));
                }
                (outcome, demands)
            }
        }
    }

    async fn play_own(&self, own: &OwnRouter, steps: &mut Vec<String>) -> (RequestOutcome, Demands) {
        let mut questions = self.document.questions(own.middlewares.iter().map(String::as_str));
        questions.extend(own.asks.iter().map(|query| AuthQuestion {
            query: query.clone(),
            has_body: !query.contains("body=none"),
            max_body: None,
            page: None,
        }));
        if questions.is_empty() {
            let (router, container) = (own.name.clone(), own.container.clone());
            return (RequestOutcome::Elsewhere { router, container }, Demands::default());
        }
        steps.push(format!(
            "the router {} of container {} takes it, and asks Modelgate",
            own.name, own.container
        ));
        self.ask(&questions, steps).await
    }

    /// Asks one question after the other, as Traefik does, until one is refused.
    async fn ask(&self, questions: &[AuthQuestion], steps: &mut Vec<String>) -> (RequestOutcome, Demands) {
        let mut demands = Demands::default();
        let mut last = None;
        for question in questions {
            if let Some(outcome) = self.too_long(question).await {
                return (outcome, demands);
            }
            let explanation = self.explain(question);
            let answer = self.client.ask(&self.scratch, question).await;
            let is_last = !answer.is_ok() || std::ptr::eq(question, questions.last().unwrap_or(question));
            if let Some(explanation) = explanation.filter(|_| is_last) {
                steps.extend(explanation.steps);
                if answer.is_ok() {
                    demands = self.priced(question).unwrap_or(explanation.demands);
                    steps.extend(answer.chosen.as_ref().map(ToString::to_string));
                }
            }
            let is_ok = answer.is_ok();
            last = Some(answer);
            if !is_ok {
                break;
            }
        }
        (last.map_or_else(told::no_router, |answer: GatewayAnswer| answer.outcome()), demands)
    }

    /// The answer to a body that is longer than Traefik reads.
    async fn too_long(&self, question: &AuthQuestion) -> Option<RequestOutcome> {
        let max = question.max_body.filter(|_| question.has_body)?;
        if u64::try_from(self.client.body.len()).unwrap_or(u64::MAX) <= max {
            return None;
        }
        Some(match &question.page {
            Some(page) => self.client.page(&self.scratch, page).await.outcome(),
            None => RequestOutcome::ByTraefik {
                status: 401,
                why: format!("a body without a Content-Length that is longer than {max} bytes"),
            },
        })
    }

    /// The decision in steps, by the code that decides.
    fn explain(&self, question: &AuthQuestion) -> Option<Explanation> {
        self.asked(question, |_, request| access::explain(&self.scratch.policy(), self.catalogue, request))
    }

    /// What an allowed request takes from its limits, with what it takes from budgets by the price of its model.
    fn priced(&self, question: &AuthQuestion) -> Option<Demands> {
        let settings = self.scratch.settings();
        self.asked(question, |asked, request| {
            let mut pending = access::prepare(&self.scratch.policy(), self.catalogue, request).ok()?;
            let priced = Priced {
                prices: &settings.prices,
                uri: request.uri,
                body: request.known_body(),
                media: Media::of(request.uri, request.known_body()),
                is_websocket: asked.is_websocket(),
                keeps_hard_budgets: settings.keeps_hard_budgets,
                now: request.now,
            };
            priced.price(&mut pending).ok()?;
            Some(pending.demands().clone())
        })
        .flatten()
    }

    /// Has something done with the request as `/auth` is asked about it; `None` if the question is about the key alone.
    fn asked<T>(
        &self,
        question: &AuthQuestion,
        with: impl FnOnce(&Asked<'_>, &Request<'_>) -> T,
    ) -> Option<T> {
        let asked = Asked::parse(&question.query).filter(|asked| !asked.is_key_alone())?;
        let uri = self.client.uri();
        let request = Request {
            method: self.client.method,
            uri: &uri,
            host: self.client.host.as_deref(),
            headers: &self.client.headers,
            body: if question.has_body { self.client.body } else { &[] },
            mode: asked.mode(),
            // The answer is the one for a Traefik that has proven to be one.
            trusted: true,
            from: self.from,
            now: SystemTime::now(),
        };
        Some(with(&asked, &request))
    }

    /// Whose key a request shows that `/auth` is not asked about.
    fn whose_key(&self) -> Option<String> {
        let policy = self.scratch.policy();
        let now = SystemTime::now();
        match policy.authenticate(&self.client.headers, self.from, now) {
            Ok(key) => Some(access::whose(&key)),
            Err(denial) => access::about_key(&policy, &self.client.headers, &denial.reason, now),
        }
    }

    /// Where Traefik sends it then.
    fn behind(
        &self,
        way: &RouterWay,
        arrival: &Arrival<'_>,
        [route, server]: [Option<&str>; 2],
    ) -> Option<String> {
        let route = route?;
        let mut arrival = arrival.clone();
        let is_ours = |name: &str| traefik_config::is_withheld(name, &[]);
        arrival.headers.retain(|(name, _)| !is_ours(name));
        arrival.headers.push(("X-Inference-Route", route));
        arrival.headers.extend(server.map(|server| ("X-Inference-Server", server)));
        arrival.path = way.replaced.as_deref().unwrap_or(arrival.path);
        let (router, service) = self.document.behind(&way.router, &arrival)?;
        Some(format!("then Traefik's router {router} sends it to the service {service}"))
    }

    /// What this version of Traefik lacks, as far as it concerns the request.
    fn lacks(&self, model: Option<&str>) -> Vec<String> {
        let options = &self.scratch.settings().traefik;
        let found = traefik_config::shortcomings(self.catalogue, options);
        let concerns = |of: Option<&str>| match (of, model) {
            (Some(of), Some(model)) => of.starts_with(&format!("{model:?}")),
            (None, None) => true,
            _ => false,
        };
        let left_out =
            |it: &traefik_config::Shortcoming| it.leaves_out() && (model.is_none() || it.model.is_none());
        let found = found.iter().filter(|it| concerns(it.model.as_deref()) || left_out(it));
        found.map(|it| format!("a limit of this version of Traefik: {it}")).collect()
    }
}

/// The names of headers that end at a proxy (RFC 9110 §7.6.1); Traefik leaves them out of its question.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The service of the listener, with a state in which nothing has been counted.
fn handlers(scratch: &Arc<Shared>) -> Requests {
    Requests::new(scratch)
}
