//! Which server of a pool answers a request soonest.
//!
//! A server that has seen the beginning of a prompt before need not read it again: its prefix cache has it. A server with much to
//! do lets a request wait. Both are time, so they are added up: for each server, the seconds until everything that was sent there
//! is read, and the seconds in which it reads the part of this prompt that it does not have. A request for an adapter that must be
//! loaded first takes that much longer. The smallest
//! sum wins. While there is a queue at every server, reading counts more than waiting: it delays all who come after.
//! Hit rates are not maximised; they are not what a user waits for.
//!
//! ```text
//! body ─▶ PromptHasher ─▶ hashes of blocks ─▶ choose ─▶ Server::sent      (per request, on any thread)
//!                                               ▲            │
//!            counters, each second ─▶ Watch ─▶ Server ◀──────┘            (one Watch per server, off the way of requests)
//! ```
//!
//! - [`PromptHasher`]: hashes of the prompt's blocks, each of which includes everything before it.
//! - [`Belief`]: which blocks a server is believed to have. It forgets the least recently used, as the server does.
//! - [`Server`]: what is known of a server: belief, work under way, speed.
//! - [`Watch`]: corrects this by what the server itself counts.
//! - [`WaitingRoom`]: who is next among requests that wait until a server has room ([`Server::room`]).
//!
//! # No lock
//!
//! Requests share no lock. All that is known of a server is atomics in its own [`Server`]; a pool is a list of `Arc<Server>` in
//! whatever its owner publishes. Choosing only reads; [`Server::sent`] writes to the chosen server alone. Two requests that choose
//! in the same microsecond do not see each other: the second may wait for the first. Both are in the books of the next.
//!
//! # Memory
//!
//! A [`Server`] has a fixed size, from its creation on: 16 bytes for each block that its belief may hold, rounded up to a power
//! of two, and 45 KB ([`Server::bytes`]). With [`DEFAULT_BLOCKS`] that is 307 KB, and 20 MB for 64 servers. A request has 8 bytes
//! for each block of its prompt, at most 32 KB ([`MAX_BLOCKS`]).
//!
//! No I/O, and no clock: `now` is the time since some fixed moment, the same for all calls.

mod adapters;
mod belief;
mod choose;
mod estimate;
mod prompt;
mod server;
mod under_way;
mod waiting;
mod watch;

pub use adapters::{AdapterId, ToldAdapters};
pub use belief::{Belief, Needed};
pub use choose::{Choice, choose, estimate};
pub use estimate::Estimate;
pub use prompt::{BLOCK_BYTES, MAX_BLOCKS, Prompt, PromptHasher};
pub use server::{DEFAULT_BLOCKS, SentSums, Server};
pub use under_way::SentRequest;
pub use waiting::{Arrived, Comer, WaitingBounds, WaitingPlace, WaitingRoom};
pub use watch::{Counters, Watch};
