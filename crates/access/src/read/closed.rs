//! Paths that manage a server. No key opens them: they load models, change them under other people's
//! requests, or show what other people asked.

use std::{collections::HashMap, sync::LazyLock};

use super::fold::fold;

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
    // Ollama: its models; and `show`, which reads the model from `name`.
    // https://github.com/ollama/ollama/blob/main/docs/api.md
    "api/blobs",
    "api/copy",
    "api/create",
    "api/delete",
    "api/ps",
    "api/pull",
    "api/push",
    "api/show",
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

/// Whether a decoded path leads to a management endpoint.
///
/// Its segments may stand anywhere in the path, so neither a prefix nor an id behind them gets around
/// this; upper and lower case are the same.
pub(crate) fn is_closed(path: &str) -> bool {
    let path: String = path.chars().map(fold).collect();
    // Some servers cut parameters off a segment: `sleep;x`.
    let names: Vec<&str> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default().trim()).collect();
    names.iter().enumerate().any(|(at, name)| {
        let mut endpoints = BY_FIRST_SEGMENT.get(name).into_iter().flatten();
        endpoints.any(|endpoint| starts_with(&names[at..], endpoint))
    })
}

/// Whether a path goes on with the segments of an endpoint.
fn starts_with(names: &[&str], endpoint: &str) -> bool {
    let mut names = names.iter();
    endpoint.split('/').all(|wanted| names.next() == Some(&wanted))
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
            assert!(is_closed(path), "{path}");
        }
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
        ] {
            assert!(!is_closed(path), "{path}");
        }
    }

    #[test]
    fn every_endpoint_is_closed_and_listed_once() {
        for endpoint in ENDPOINTS {
            assert!(is_closed(&format!("/v1/{endpoint}")), "{endpoint} must be written in lower case");
        }
        let unique: std::collections::HashSet<_> = ENDPOINTS.iter().collect();
        assert_eq!(unique.len(), ENDPOINTS.len());
    }
}
