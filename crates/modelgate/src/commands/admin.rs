//! `modelgate admin`: the token with which operators sign in.

use admin::AdminTokens;
use store::{Audit, Registry};

use super::registry::{ACTOR, CommandFailure, answer};
use crate::{config::Config, output::say};

/// `modelgate admin token --new`: makes another token in place of the generated one, and prints it. A running Modelgate takes it
/// within a second.
pub(crate) async fn new_token(config: &Config, registry: &Registry) -> Result<(), CommandFailure> {
    if !config.admin.tokens.is_empty() {
        return Err(CommandFailure::Configuration(
            "the configuration has tokens (admin.tokens, admin.token or MODELGATE_ADMIN_TOKEN), and a generated one would not be \
             used: change them there"
                .into(),
        ));
    }
    let folder = config.state_dir.as_deref().ok_or_else(|| {
        CommandFailure::Configuration(
            "without state_dir (or MODELGATE_STATE_DIR) a generated token is not kept: Modelgate prints a new one at each start"
                .into(),
        )
    })?;
    let token = AdminTokens::renewed(folder)?;
    say!(
        "Admin token, shown this once. The one before is not valid any more, and its sessions have ended:\n\n  {}\n",
        token.reveal()
    );
    if let Ok(store) = registry.store() {
        answer(store.record(&[Audit::new(&*ACTOR, "admin token made").about("generated")])).await?;
    }
    Ok(())
}
