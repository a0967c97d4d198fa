//! Classifies Kong's fields and plugins: understood, harmless, or a restriction.

use super::super::fields::{FieldsOf, Meaning, UnimportedField, harmless, restricts, said};

const TIMES: UnimportedField = harmless("created_at", "when it was made");
const CHANGED: UnimportedField = harmless("updated_at", "when it was changed");
const ID: UnimportedField = harmless("id", "stands for it in Kong alone");
const TAGS: UnimportedField = harmless("tags", "labels for people and tools");
const WORKSPACE: UnimportedField =
    harmless("ws_id", "the workspace; it holds apart what is configured, and limits nobody");
const OTHER: &str = "credentials of another kind; they do not work here";
/// Credentials of consumers, which stand at the top of a file or below a consumer.
const OTHER_CREDENTIALS: &[UnimportedField] = &[
    said("basicauth_credentials", OTHER),
    said("hmacauth_credentials", OTHER),
    said("jwt_secrets", OTHER),
    said("oauth2_credentials", OTHER),
    said("mtls_auth_credentials", OTHER),
    said("keyauth_enc_credentials", OTHER),
];

/// The top-level keys of the file.
pub(super) const TOP: FieldsOf<'_> = FieldsOf {
    whose: "its ",
    understood: &[
        "consumers",
        "keyauth_credentials",
        "acls",
        "plugins",
        "services",
        "routes",
        "consumer_groups",
        "consumer_group_consumers",
        "consumer_group_plugins",
        "_plugin_configs",
    ],
    tables: &[
        OTHER_CREDENTIALS,
        &[
            harmless("_format_version", "the form of the file"),
            harmless("_transform", "whether passwords are digests; keys never are"),
            harmless("_comment", "a remark"),
            harmless("_ignore", "what Kong does not read either"),
            harmless("_info", "what decK selected, and defaults for services and routes"),
            harmless("_workspace", "the workspace; it holds apart what is configured, and limits nobody"),
            harmless("_konnect", "the control plane"),
            harmless("_sync_version", "the number of the last change"),
            harmless("workspaces", "they hold apart what is configured, and limit nobody"),
            harmless("upstreams", "where requests go; Modelgate discovers servers"),
            harmless("targets", "where requests go"),
            harmless("certificates", "TLS is Traefik's"),
            harmless("ca_certificates", "TLS is Traefik's"),
            harmless("snis", "TLS is Traefik's"),
            harmless("vaults", "where Kong's own secrets are; a key that stands there is named"),
            harmless("keys", "keys for signatures, none of consumers"),
            harmless("key_sets", "keys for signatures, none of consumers"),
            harmless("licenses", "Kong's own"),
            harmless("parameters", "Kong's own"),
            harmless("clustering_data_planes", "Kong's own"),
            harmless("rbac_roles", "who may change Kong"),
            harmless("rbac_users", "who may change Kong"),
            harmless("partials", "settings of Redis that plugins share"),
            harmless("cloned_plugins", "what plugins are; those in use are named"),
            harmless("custom_plugins", "what plugins are; those in use are named"),
            restricts("filter_chains", "filters in WebAssembly, which may refuse requests"),
        ],
    ],
    unknown: Meaning::Restricts,
    restriction: None,
};

/// A consumer's fields.
pub(super) const CONSUMER: FieldsOf<'_> = FieldsOf {
    whose: "its ",
    understood: &["username", "custom_id", "plugins", "keyauth_credentials", "acls", "groups", "enabled"],
    tables: &[
        OTHER_CREDENTIALS,
        &[
            ID,
            TIMES,
            CHANGED,
            TAGS,
            WORKSPACE,
            harmless("type", "whether it is an application, a developer or an administrator"),
            harmless("username_lower", "its name in small letters"),
        ],
    ],
    unknown: Meaning::Restricts,
    restriction: None,
};

/// A key's fields.
pub(super) const CREDENTIAL: FieldsOf<'_> = FieldsOf {
    whose: "its ",
    understood: &["key", "consumer", "ttl", "enabled"],
    tables: &[&[ID, TIMES, CHANGED, TAGS, WORKSPACE]],
    unknown: Meaning::Restricts,
    restriction: None,
};

/// A plugin's fields. Conditions on when it runs are ignored, so its limit always applies.
pub(super) const PLUGIN: FieldsOf<'_> = FieldsOf {
    whose: "its ",
    understood: &["name", "config", "_config", "enabled", "consumer", "consumer_group", "service", "route"],
    tables: &[&[
        ID,
        TIMES,
        CHANGED,
        TAGS,
        WORKSPACE,
        harmless("instance_name", "what people call it"),
        harmless("protocols", "for which protocols; here it holds for all"),
        harmless("ordering", "before which other plugins it runs"),
        harmless("run_on", "on which node it runs"),
        harmless("condition", "for which requests; here it holds for all"),
        harmless("partials", "settings of Redis that plugins share"),
    ]],
    unknown: Meaning::Restricts,
    restriction: None,
};

/// For plugins that demand a credential. With `anonymous` they admit requests without one.
pub(super) const ASKED_TOO: &str =
    "Kong asks for its credential as well as for the key, where both are in force";

/// Plugins that refuse nobody, or whose refusals Modelgate makes as well. Any other plugin is a restriction, unless its settings
/// are read.
pub(super) const PLUGINS: &[UnimportedField] = &[
    harmless("cors", "Traefik's or Modelgate's own"),
    harmless("prometheus", "Modelgate has metrics of its own"),
    harmless("datadog", "it observes"),
    harmless("statsd", "it observes"),
    harmless("statsd-advanced", "it observes"),
    harmless("zipkin", "it observes"),
    harmless("opentelemetry", "it observes"),
    harmless("file-log", "it observes"),
    harmless("http-log", "it observes"),
    harmless("tcp-log", "it observes"),
    harmless("udp-log", "it observes"),
    harmless("syslog", "it observes"),
    harmless("loggly", "it observes"),
    harmless("kafka-log", "it observes"),
    harmless("correlation-id", "it adds a header"),
    harmless("key-auth", "it asks for a key, as Modelgate does"),
    said("request-transformer", "what it changes is not taken over"),
    said("request-transformer-advanced", "what it changes is not taken over"),
    harmless("response-transformer", "it changes answers"),
    harmless("response-transformer-advanced", "it changes answers"),
    harmless("proxy-cache", "it keeps answers"),
    harmless("proxy-cache-advanced", "it keeps answers"),
    harmless("ai-semantic-cache", "it keeps answers"),
    harmless("ai-proxy", "where requests go; Modelgate discovers servers"),
    harmless("ai-proxy-advanced", "where requests go; Modelgate discovers servers"),
    said("ai-prompt-decorator", "what it changes is not taken over"),
    said("ai-prompt-template", "what it changes is not taken over"),
    said("ai-prompt-compressor", "what it changes is not taken over"),
    said("ai-rag-injector", "what it changes is not taken over"),
    harmless("grpc-web", "it changes requests"),
    harmless("grpc-gateway", "it changes requests"),
    harmless("route-by-header", "where requests go"),
    harmless("session", "signing in to websites"),
    restricts("jwt", ASKED_TOO),
    restricts("jwt-signer", ASKED_TOO),
    restricts("openid-connect", ASKED_TOO),
    restricts("oauth2", ASKED_TOO),
    restricts("oauth2-introspection", ASKED_TOO),
    restricts("basic-auth", ASKED_TOO),
    restricts("hmac-auth", ASKED_TOO),
    restricts("ldap-auth", ASKED_TOO),
    restricts("ldap-auth-advanced", ASKED_TOO),
    restricts("mtls-auth", ASKED_TOO),
    restricts("key-auth-enc", ASKED_TOO),
    restricts("acl", "which groups may pass; give keys models or a plan"),
    restricts("ip-restriction", "from where requests may come"),
    restricts("request-termination", "it refuses every request"),
    restricts("request-size-limiting", "how large requests may be"),
    restricts("rate-limiting", "how many requests may come"),
    restricts("rate-limiting-advanced", "how many requests may come"),
    restricts("ai-rate-limiting-advanced", "how many tokens may be used"),
    restricts("response-ratelimiting", "how much answers may cost"),
    restricts("bot-detection", "which clients may pass"),
    restricts("ai-prompt-guard", "which prompts may pass"),
    restricts("ai-semantic-prompt-guard", "which prompts may pass"),
];
