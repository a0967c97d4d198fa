//! Paths that manage a server. Only a key with that right opens them: they load models, change them
//! under other people's requests, or show what other people asked.

use std::{collections::HashMap, sync::LazyLock};

use super::segment::{folded, segments};

/// Management endpoints, without what stands before them: `/v1`, or nothing at all where a server's
/// base path is the root and Traefik takes `/v1` off.
const ENDPOINTS: &[&str] = &[
    // vLLM: adapters (the second kind is SageMaker's) and elastic scaling.
    // https://docs.vllm.ai/en/latest/features/lora.html
    // https://github.com/vllm-project/vllm/tree/main/vllm/entrypoints/serve
    "load_lora_adapter",
    "unload_lora_adapter",
    "adapters",
    "scale_elastic_ep",
    "is_scaling_elastic_ep",
    // vLLM, development mode.
    // https://docs.vllm.ai/en/latest/usage/security.html
    "abort_requests",
    "collective_rpc",
    "finish_weight_update",
    "init_weight_transfer_engine",
    "is_paused",
    "is_sleeping",
    "pause",
    "reset_encoder_cache",
    "reset_mm_cache",
    "reset_prefix_cache",
    "resume",
    "server_info",
    "sleep",
    "start_draft_weight_update",
    "start_weight_update",
    "update_weight_version",
    "update_weights",
    "wake_up",
    "weight_checker",
    "weight_info",
    // vLLM and SGLang: an entry for SageMaker, where a header can choose the adapter.
    // https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-deploy-models.html
    "invocations",
    // SGLang; profiling is vLLM's as well.
    // https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/entrypoints/http_server.py
    "abort_request",
    "clear_hicache_storage_backend",
    "close_session",
    "configure_logging",
    "continue_generation",
    "destroy_weights_update_group",
    "dump_expert_distribution_record",
    "flush_cache",
    "freeze_gc",
    "get_server_info",
    "get_weights_by_name",
    "init_weights_send_group_for_remote_instance",
    "init_weights_update_group",
    "load_lora_adapter_from_tensors",
    "open_session",
    "pause_generation",
    "release_memory_occupation",
    "resume_memory_occupation",
    "send_weights_to_remote_instance",
    "set_internal_state",
    "slow_down",
    "start_expert_distribution_record",
    "start_profile",
    "stop_expert_distribution_record",
    "stop_profile",
    "update_weights_from_disk",
    "update_weights_from_distributed",
    "update_weights_from_ipc",
    "update_weights_from_tensor",
    "vertex_generate",
    // llama.cpp: other people's prompts (slots), adapters, settings, models, and a proxy to anywhere.
    // https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "cors-proxy",
    "lora-adapters",
    "models/load",
    "models/sse",
    "models/unload",
    "props",
    "slots",
    "tools",
    // Ollama: its models.
    // https://github.com/ollama/ollama/blob/main/docs/api.md
    "api/blobs",
    "api/copy",
    "api/create",
    "api/delete",
    "api/ps",
    "api/pull",
    "api/push",
    "api/tags",
    // TabbyAPI and Aphrodite.
    // https://github.com/theroyallab/tabbyAPI/wiki/API-Reference
    "lora/load",
    "lora/unload",
    "model/load",
    "model/unload",
    // AIBrix's sidecar.
    // https://github.com/vllm-project/aibrix/blob/main/pkg/controller/modeladapter/lora_client.go
    "lora_adapter/load",
    "lora_adapter/unload",
    // LocalAI.
    // https://localai.io/models/
    "models/apply",
    "models/delete",
    // All of them: numbers about everybody's requests.
    "metrics",
];

/// The endpoints by their first segment: a request goes past all of them, so it must not compare itself with each.
static BY_FIRST_SEGMENT: LazyLock<HashMap<&str, Vec<&str>>> = LazyLock::new(|| {
    let mut endpoints: HashMap<&str, Vec<&str>> = HashMap::new();
    for endpoint in ENDPOINTS {
        let first = endpoint.split('/').next().unwrap_or_default();
        endpoints.entry(first).or_default().push(endpoint);
    }
    endpoints
});

/// To whom a path is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// To keys without the right to manage servers.
    ToMost,
    /// To all: it leads to other hosts, or asks for a model where nobody reads it.
    ToAll,
}

/// Endpoints that no key opens.
const CLOSED_TO_ALL: &[&str] = &[
    // They fetch from, or send weights to, wherever the caller says.
    "cors-proxy",
    "init_weight_transfer_engine",
    "init_weights_send_group_for_remote_instance",
    "init_weights_update_group",
    "send_weights_to_remote_instance",
    // They answer prompts. The body of a management request is not read, so a key for one model of
    // a server would reach the others.
    "invocations",
    "vertex_generate",
];

/// Whether a decoded path leads to a management endpoint.
///
/// Its segments may stand anywhere in the path, so neither a prefix nor an id behind them gets around
/// this; upper and lower case are the same.
pub(crate) fn closed(path: &str, method: &str) -> Option<Closed> {
    let path = folded(path);
    let mut rest = segments(&path);
    let (mut found, mut names_models) = (None, false);
    while let Some(name) = rest.next() {
        names_models |= name == "models";
        for endpoint in BY_FIRST_SEGMENT.get(name).into_iter().flatten() {
            let mut following = rest.clone();
            if endpoint.split('/').skip(1).all(|wanted| following.next() == Some(wanted)) {
                match CLOSED_TO_ALL.contains(endpoint) {
                    true => return Some(Closed::ToAll),
                    false => found = Some(Closed::ToMost),
                }
            }
        }
    }
    // OpenAI's way to delete a fine-tuned model; LocalAI has it too.
    // https://platform.openai.com/docs/api-reference/models/delete
    let deletes = names_models && method.eq_ignore_ascii_case("DELETE");
    found.or(deletes.then_some(Closed::ToMost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn management_is_closed_however_it_is_spelled() {
        for path in [
            "/v1/load_lora_adapter",
            "/v1/load_lora_adapter/",
            "/V1/Load_LoRA_Adapter",
            "/v1/v1/unload_lora_adapter",
            "/load_lora_adapter",
            "/v1/load_lora_adapter;x",
            "/v1/load_lora_adapter ",
            "/v1/\u{17f}leep",
            "/v1/sleep",
            "/v1/slots/0",
            "/v1/models/load",
            "/v1/api/pull",
            "/v1/props",
        ] {
            assert_eq!(closed(path, "POST"), Some(Closed::ToMost), "{path}");
        }
    }

    #[test]
    fn a_way_to_other_hosts_is_closed_to_all() {
        for path in
            ["/v1/cors-proxy", "/v1/sleep/cors-proxy", "/v1/CORS-proxy/http:/x", "/cors-proxy;x/sleep"]
        {
            assert_eq!(closed(path, "GET"), Some(Closed::ToAll), "{path}");
        }
    }

    #[test]
    fn a_model_is_deleted_by_whoever_manages_it() {
        assert_eq!(closed("/v1/models/ft:gpt", "DELETE"), Some(Closed::ToMost));
        assert_eq!(closed("/v1/Models/a", "delete"), Some(Closed::ToMost));
        assert_eq!(closed("/v1/models/ft:gpt", "GET"), None);
        assert_eq!(closed("/v1/responses/resp_1", "DELETE"), None);
    }

    #[test]
    fn inference_is_open() {
        for path in [
            "/",
            "/v1/models",
            "/v1/models/org/load",
            "/v1/models/llama",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses/resp_1/cancel",
            "/v1/audio/transcriptions",
            "/v1/messages/count_tokens",
            "/v1/tokenize",
            "/v1/rerank",
            "/v1/model",
            "/v1/load",
            "/api/chat",
            "/api/show",
            "/completion",
            "/infill",
            "/tokenize",
            "/predict",
        ] {
            assert_eq!(closed(path, "POST"), None, "{path}");
        }
    }

    #[test]
    fn every_endpoint_is_closed_and_listed_once() {
        for endpoint in ENDPOINTS {
            let found = closed(&format!("/v1/{endpoint}"), "POST");
            assert!(found.is_some(), "{endpoint} must be written in lower case");
        }
        assert!(CLOSED_TO_ALL.iter().all(|endpoint| ENDPOINTS.contains(endpoint)));
        let unique: std::collections::HashSet<_> = ENDPOINTS.iter().collect();
        assert_eq!(unique.len(), ENDPOINTS.len());
    }
}
