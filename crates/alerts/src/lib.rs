//! Alerts: tells operators' webhooks what needs attention, once, and that it is over.
//!
//! ```text
//! conditions, now and then ─▶ teller.rs ─▶ Message ─▶ form.rs ─▶ signature.rs ─▶ webhook.rs ─▶ the operator's address
//!                             what this webhook            ▲
//!                             has been told already        └─ standard, Slack, Discord or ntfy
//! ```
//!
//! Mail goes through `mail.rs` in place of `signature.rs`. Only `webhook.rs` and `mail.rs` do I/O. A webhook is level-triggered: it is told what holds when it can be reached. So an address that was
//! down for an hour does not get an hour's messages, and nothing that is still wrong is forgotten.

mod condition;
mod delivery;
mod form;
mod mail;
mod quiet;
mod signature;
mod teller;
mod webhook;

pub use condition::{Condition, ConditionId};
pub use delivery::{DeliveryError, TIMEOUT};
pub use form::Form;
pub use mail::{MAIL_ADDRESS, MailAddress, MailAuthorities, MailLogin, MailRoute, MailSecurity};
pub use quiet::{QUIET, QuietHours};
pub use signature::{InvalidSecret, SECRET, Secret};
pub use teller::{MAX_ITEMS, Message, MessageKind, Patience, Teller};
pub use webhook::{InvalidUrl, URL, Way, Webhook, WebhookUrl, Webhooks};
