//! Classifies the fields of LiteLLM's rows: understood, harmless, or a restriction.

use serde_json::{Map, Value};

use super::values::{object, text};
use crate::commands::import::{
    fields::{FieldsOf, Meaning, UnimportedField, harmless, is_given, restricts, said},
    found::Findings,
};

const BUDGET: &str = "a budget that is not taken over";
const PER_MODEL: &str = "limits of single models; limit_per_model is the same for each model";
const SPENT: &str = "what has been spent; where there is a budget it is taken over into the store";
const WHEN: &str = "who made or changed it, and when";
const ELSEWHERE: &str = "what is checked beside the key, and is not in the files";
const NOT_HERE: &str = "a right to what Modelgate does not have";

/// Fields that all kinds of rows have.
const COMMON: &[UnimportedField] = &[
    harmless("spend", SPENT),
    harmless("total_spend", SPENT),
    harmless("model_spend", SPENT),
    harmless("model_max_budget_usage", SPENT),
    harmless("budget_limits_usage", SPENT),
    said("soft_budget", "it warns and refuses nobody; here alerts tell which budgets are nearly spent"),
    harmless("soft_budget_cooldown", "it warns and refuses nobody"),
    harmless("budget_duration", "when a budget begins anew"),
    harmless("budget_reset_at", "when a budget begins anew"),
    harmless("budget_fallbacks", "which model is used when a budget is spent, which is named"),
    harmless("temp_budget_increase", "how much more than a budget may be spent, which is named"),
    harmless("temp_budget_expiry", "how much more than a budget may be spent, which is named"),
    harmless("created_at", WHEN),
    harmless("created_by", WHEN),
    harmless("created_by_user", WHEN),
    harmless("updated_at", WHEN),
    harmless("updated_by", WHEN),
    harmless("settings_updated_at", WHEN),
    harmless("last_active", WHEN),
    harmless("last_refreshed_at", WHEN),
    harmless("allowed_cache_controls", "Modelgate keeps no answers"),
    restricts("max_budget", BUDGET),
    restricts("model_max_budget", BUDGET),
    restricts("budget_limits", BUDGET),
    restricts("max_parallel_requests", "parallel requests; Modelgate limits requests and tokens in a time"),
    restricts("policies", "what may be asked and answered"),
    restricts("guardrails", "what may be asked and answered"),
    restricts("router_settings", "which models stand for which, and where requests go"),
    restricts("object_permission_id", ELSEWHERE),
    restricts(
        "access_group_ids",
        "models of access groups, which the files do not say; write them into its models",
    ),
];

const KEY: &[UnimportedField] = &[
    harmless("key_name", "how the key ends"),
    harmless("api_key", "the digest again"),
    harmless("key", "the digest again"),
    harmless("status", "whether it is expired or blocked, which other fields say"),
    harmless("id", "the number of a deleted row"),
    harmless("user", "the user again"),
    harmless("user_email", "the user's address"),
    harmless("user_role", "what the user may do in LiteLLM's own interface"),
    harmless("user_spend", SPENT),
    harmless("team_spend", SPENT),
    harmless("team_soft_budget", "it is named where the team is"),
    harmless("team_member", "the user's role in the team"),
    harmless("team_member_spend", SPENT),
    harmless("organization_alias", "what the organization is called"),
    harmless("project_alias", "what the project is called"),
    harmless("request_route", "of the request that listed the keys"),
    harmless("jwt_claims", "of the request that listed the keys"),
    harmless("rotation_count", "how often it was rotated"),
    harmless("last_rotation_at", "when it was rotated"),
    harmless("rotation_interval", "when it is rotated, if auto_rotate says so"),
    harmless("key_rotation_at", "when it is rotated, if auto_rotate says so"),
    said("auto_rotate", "LiteLLM replaces the key by another from time to time; here it stays"),
    said("permissions", "what else the key may do in LiteLLM"),
    said("config", "settings of LiteLLM's for the key"),
    restricts("agent_id", ELSEWHERE),
    restricts("project_id", ELSEWHERE),
    restricts("allowed_model_region", "in which region models must be"),
    restricts("rpm_limit_per_model", PER_MODEL),
    restricts("tpm_limit_per_model", PER_MODEL),
    restricts("team_max_budget", BUDGET),
    restricts("team_model_max_budget", BUDGET),
    restricts("team_object_permission_id", ELSEWHERE),
    restricts("team_object_permission", ELSEWHERE),
    restricts("team_member_rpm_limit", "a limit of the user within the team"),
    restricts("team_member_tpm_limit", "a limit of the user within the team"),
    restricts("user_rpm_limit", "a limit of the user over all keys"),
    restricts("user_tpm_limit", "a limit of the user over all keys"),
    restricts("user_max_budget", BUDGET),
    restricts("user_model_max_budget", BUDGET),
    restricts("organization_rpm_limit", "a limit over several teams"),
    restricts("organization_tpm_limit", "a limit over several teams"),
    restricts("organization_max_budget", BUDGET),
    restricts("is_session_token", "it is a session of LiteLLM's own interface"),
];

const TEAM: &[UnimportedField] = &[
    harmless("admins", "who may change the team"),
    harmless("members", "who is in the team; its keys are named by it"),
    harmless("members_with_roles", "who is in the team; its keys are named by it"),
    harmless("members_count", "how many are in the team"),
    harmless("keys_count", "how many keys the team has"),
    harmless("team_member_permissions", "what members may change"),
    harmless("default_team_member_models", "what new members get"),
    harmless("allow_team_guardrail_config", "whether the team may change its guardrails"),
    harmless("keys", "the team's keys; they are taken from the list of keys"),
    harmless("litellm_organization_table", "the organization again"),
    harmless("access_group_models", "models of access groups, which the team may use beside its own"),
    harmless("access_group_mcp_server_ids", NOT_HERE),
    harmless("access_group_agent_ids", NOT_HERE),
    harmless("access_group_skill_names", NOT_HERE),
    harmless("access_group_details", "models of access groups, which the team may use beside its own"),
    harmless("unresolved_access_group_ids", NOT_HERE),
    harmless("caller_edit_access", "what the one who asked may change"),
    harmless("is_member", "of the one who asked"),
    harmless("organization_alias", "what the organization is called"),
    harmless("projects", "its projects; keys of a project are held by project_id"),
    restricts(
        "model_id",
        "model aliases that the files do not say; import the answer to GET /team/info?team_id=…",
    ),
    restricts("team_member_budget_table", "a limit of each user within the team"),
];

const USER: &[UnimportedField] = &[
    harmless("team_id", "a team; keys say theirs"),
    harmless("teams", "teams; keys say theirs"),
    harmless("user_email", "the user's address"),
    harmless("user_role", "what the user may do in LiteLLM's own interface"),
    harmless("sso_user_id", "how the user signs in"),
    harmless("password", "how the user signs in"),
    harmless("password_reset_required", "how the user signs in"),
    harmless("last_breach_check_at", "how the user signs in"),
    harmless("key_count", "how many keys the user has"),
    harmless("organization_memberships", "organizations; keys say theirs"),
    harmless("litellm_organization_table", "organizations; keys say theirs"),
    harmless("invitations_created", "how the user signs in"),
    harmless("invitations_updated", "how the user signs in"),
    harmless("invitations_user", "how the user signs in"),
];

const ORGANIZATION: &[UnimportedField] = &[
    harmless("users", "who is in the organization"),
    harmless("members", "who is in the organization"),
    harmless("teams", "its teams, which are read on their own"),
    harmless("keys", "its keys, which are read on their own"),
    restricts("rpm_limit", "a limit over several teams"),
    restricts("tpm_limit", "a limit over several teams"),
    restricts("tpd_limit", "a limit over several teams"),
];

const BUDGET_TABLE: &[UnimportedField] = &[
    harmless("budget_id", "what the budget is called"),
    restricts("allowed_models", "models of a member of a team"),
];

/// Rights to MCP servers, agents and skills, which Modelgate does not have.
const PERMISSION: &[UnimportedField] = &[
    harmless("object_permission_id", "what the rights are called"),
    harmless("mcp_servers", NOT_HERE),
    harmless("mcp_access_groups", NOT_HERE),
    harmless("mcp_tool_permissions", NOT_HERE),
    harmless("mcp_toolsets", NOT_HERE),
    harmless("mcp_tool_search_enabled", NOT_HERE),
    harmless("agents", NOT_HERE),
    harmless("agent_access_groups", NOT_HERE),
    harmless("search_tools", NOT_HERE),
    harmless("skills", NOT_HERE),
    restricts("vector_stores", "which vector stores may be used"),
    restricts("models", "which models may be used"),
    restricts("blocked_tools", "which tools may not be used"),
];

/// The metadata that LiteLLM reads; the rest is the operator's own notes.
const METADATA: &[UnimportedField] = &[
    harmless("rpm_limit_type", "whether more passes while others are idle; here it does not"),
    harmless("tpm_limit_type", "whether more passes while others are idle; here it does not"),
    harmless("default_estimated_output_tokens", "how tokens are estimated"),
    harmless("default_estimated_output_tokens_per_model", "how tokens are estimated"),
    harmless("mcp_rpm_limit", NOT_HERE),
    harmless("throttle_on_budget_exceeded", "what happens when a budget is spent, which is named"),
    harmless("soft_budget_alerting_emails", "it warns and refuses nobody"),
    harmless("enable_prompt_caching", "what a provider is asked for"),
    harmless("team_member_key_duration", "how long new keys live"),
    harmless("logging", "where requests are logged"),
    harmless("secret_manager_settings", "where keys are kept"),
    harmless("allowed_passthrough_routes", NOT_HERE),
    harmless("denied_passthrough_routes", NOT_HERE),
    harmless("service_account_id", "whose key it is"),
    harmless("scim_blocked", "that `blocked` comes from the identity provider"),
    harmless("scim_active", "read where the user is"),
    harmless("priority", "who waits when a model is busy"),
    harmless("disable_global_guardrails", "what is not checked"),
    said("tags", "tags; they may have budgets of their own"),
    said("prompts", "prompts that LiteLLM adds"),
    said("disable_fallbacks", "whether another model answers if one does not"),
    said("enforced_file_expires_after", "when files are deleted"),
    said("enforced_batch_output_expires_after", "when files are deleted"),
    restricts("model_rpm_limit", PER_MODEL),
    restricts("model_tpm_limit", PER_MODEL),
    restricts("model_itpm_limit", PER_MODEL),
    restricts("model_otpm_limit", PER_MODEL),
    restricts("tag_rpm_limit", "limits of requests with a tag"),
    restricts("enforced_params", "which parameters a request must have"),
    restricts("require_trace_id", "which header a request must have"),
    restricts("allowed_vector_store_indexes", "which vector stores may be used"),
    restricts("end_user_budget_id", "a limit of each end user"),
    restricts("team_member_budget_id", "a limit of each user within the team"),
    restricts("allowed_model_region", "in which region models must be"),
    restricts("model_config", "which models stand for which"),
];

/// A kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    Key,
    Team,
    User,
    Organization,
}

impl RowKind {
    /// The kind's name in a sentence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Team => "team",
            Self::User => "user",
            Self::Organization => "organization",
        }
    }

    fn understood(self) -> &'static [&'static str] {
        match self {
            Self::Key => &[
                "max_budget",
                "token",
                "key_alias",
                "team_id",
                "team_alias",
                "user_id",
                "organization_id",
                "org_id",
                "models",
                "team_models",
                "aliases",
                "team_model_aliases",
                "allowed_routes",
                "key_type",
                "rpm_limit",
                "tpm_limit",
                "tpd_limit",
                "team_rpm_limit",
                "team_tpm_limit",
                "team_tpd_limit",
                "blocked",
                "team_blocked",
                "expires",
                "metadata",
                "team_metadata",
                "project_metadata",
                "organization_metadata",
                "litellm_budget_table",
                "budget_id",
                "object_permission",
            ],
            Self::Team => &[
                "max_budget",
                "team_id",
                "team_alias",
                "organization_id",
                "models",
                "rpm_limit",
                "tpm_limit",
                "tpd_limit",
                "blocked",
                "metadata",
                "litellm_model_table",
                "object_permission",
                "team_memberships",
            ],
            Self::User => &[
                "max_budget",
                "user_id",
                "user_alias",
                "organization_id",
                "models",
                "rpm_limit",
                "tpm_limit",
                "tpd_limit",
                "metadata",
                "object_permission",
            ],
            Self::Organization => &[
                "organization_id",
                "organization_alias",
                "models",
                "metadata",
                "litellm_budget_table",
                "budget_id",
                "object_permission",
            ],
        }
    }

    fn table(self) -> &'static [UnimportedField] {
        match self {
            Self::Key => KEY,
            Self::Team => TEAM,
            Self::User => USER,
            Self::Organization => ORGANIZATION,
        }
    }

    /// Reports what is not imported from a row.
    ///
    /// # Errors
    /// A part of it is not an object.
    pub(super) fn look(self, row: &Map<String, Value>, findings: &mut Findings) -> Result<(), String> {
        let mut understood = self.understood().to_vec();
        if object(row, "object_permission")?.is_some() {
            understood.push("object_permission_id");
        }
        if object(row, "litellm_model_table")?.is_some() {
            understood.push("model_id");
        }
        let place = |whose, understood, tables, unknown| FieldsOf {
            whose,
            understood,
            tables,
            unknown,
            restriction: None,
        };
        let own = [self.table(), COMMON];
        let in_metadata = [METADATA, COMMON, self.table()];
        place("its ", &understood, &own, Meaning::Restricts).look(row, findings);
        let parts: [(&str, &str, &[&[UnimportedField]], Meaning); 6] = [
            ("metadata", "its metadata's ", &in_metadata, Meaning::Said),
            ("team_metadata", "its team's metadata's ", &[METADATA, COMMON], Meaning::Said),
            ("project_metadata", "its project's metadata's ", &[METADATA, COMMON], Meaning::Said),
            ("organization_metadata", "its organization's metadata's ", &[METADATA, COMMON], Meaning::Said),
            ("object_permission", "its object_permission's ", &[PERMISSION], Meaning::Restricts),
            (
                "litellm_budget_table",
                "its budget's ",
                &[BUDGET_TABLE, ORGANIZATION, COMMON],
                Meaning::Restricts,
            ),
        ];
        for (part, whose, tables, unknown) in parts {
            let Some(part_of_it) = object(row, part)? else { continue };
            // Limits in an organization's budget are over several teams, so they are reported; those of a key's budget are read.
            let read: &[&str] = match (self, part) {
                (Self::Key, "litellm_budget_table") => &["rpm_limit", "tpm_limit", "tpd_limit", "max_budget"],
                _ => &[],
            };
            place(whose, read, tables, unknown).look(&part_of_it, findings);
        }
        if is_given(row.get("budget_id").unwrap_or(&Value::Null))
            && object(row, "litellm_budget_table")?.is_none()
        {
            findings.hold("budget_id", "its budget_id: the limits of its budget, which the files do not say");
        }
        Ok(())
    }
}

/// Whether the row is of something that was deleted, and is kept only as a record.
pub(super) fn is_deleted(row: &Map<String, Value>) -> bool {
    row.get("deleted_at").is_some_and(is_given)
        || row.get("status").and_then(Value::as_str) == Some("deleted")
}

/// The member in an entry of `team_memberships`, if it has limits within the team, which are not imported.
pub(super) fn limited_member(membership: &Value) -> Option<&str> {
    let membership = membership.as_object()?;
    let budget = membership.get("litellm_budget_table").and_then(Value::as_object);
    let is_limited = match budget {
        Some(budget) => budget.iter().any(|(name, value)| {
            let known = [BUDGET_TABLE, COMMON].iter().copied().flatten().find(|field| field.name == name);
            is_given(value) && known.is_none_or(|field| field.meaning == Meaning::Restricts)
        }),
        None => membership.get("budget_id").is_some_and(is_given),
    };
    text(membership, "user_id").ok().flatten().filter(|_| is_limited)
}
