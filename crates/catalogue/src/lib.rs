//! What is known about inference servers and the models they serve.
//!
//! Plain observation records go in ([`ServerRecord`], [`ContainerRecord`]); an immutable [`Catalogue`] and [`Problem`]s come
//! out, each about one [`Finding`]. Nothing here does I/O.
//!
//! ```text
//! ContainerRecord ─interpret()─▶ ServerSpec ─(discovery asks it for its models)─▶ ServerRecord
//!                                                        ServerRecords ─assemble()─▶ Catalogue
//! ```
//!
//! The finished catalogue travels one way only: [`channel`] gives one [`Publisher`] and any number of [`Reader`]s.

mod api;
mod assemble;
mod bypass;
mod channel;
mod closest;
mod container;
mod cordon;
mod credential;
mod finding;
mod glob;
mod kind;
mod label;
mod labelled;
mod listing;
mod misaddressed;
mod model;
mod problem;
mod route;
mod selector;
mod server;
mod setting;
mod swarm;

pub use api::Api;
pub use assemble::{
    Branch, Catalogue, Choice, Door, ModelOverrides, OwnLimits, Pick, PickBy, Pool, Readiness, RouteGroup,
    Selection, ServerRoute,
};
pub use bypass::{
    Blind, Doors, Exposable, OwnRouter, Provider, ProviderKind, Role, Sight, StaticConfiguration,
    TraefikSeen, doors,
};
pub use channel::{Publisher, Reader, channel};
pub use closest::closest;
pub use container::{
    ContainerHealth, ContainerRecord, ContainerStatus, Interpretation, NetworkView, PublishedPort, interpret,
    open_port,
};
pub use cordon::{Cordon, CordonKind, Cordons};
pub use credential::{Credential, CredentialHeader};
pub use finding::{
    AddressFinding, AskedFor, Behind, BranchFault, BranchKind, DockerFinding, DockerHost, DoorFinding,
    Finding, LabelFinding, LabelledRouter, LifecycleFinding, ListingFinding, NoConnection, PickFault,
    ProbeFault, ProbeFinding, ProbedServer, SettingFinding, Severity, Silence,
};
pub use glob::{InvalidGlob, ModelGlobs};
pub use kind::Kind;
pub use label::{LABELS, LabelDoc, OPT_IN, misspelt_opt_in};
pub use labelled::{Labelled, Outcome};
pub use listing::{Listing, ListingError, MAX_LISTING_BYTES, MAX_MODELS_PER_SERVER, parse_listing};
pub use misaddressed::{BASES, ENDPOINTS, endpoint_meant};
pub use model::{InvalidModelName, ModelCard, ModelName};
pub use problem::{Problem, ProblemSubject};
pub use route::RouteId;
pub use selector::{Condition, Expression, Selector, Traits};
pub use server::{
    BasePath, Configured, HealthMode, InvalidBasePath, InvalidServerUrl, LOADING_TIME, Origin, ServerId,
    ServerRecord, ServerSpec, ServerState, ServerUrl, Source,
};
pub use setting::{
    Accepts, Alias, GivenModelSettings, ModelSettings, NotAllowed, OpenPath, SameSite, ServerSettings,
    Setting, Strategy, settings,
};
pub use swarm::{TaskRecord, TaskStatus, interpret_task};
