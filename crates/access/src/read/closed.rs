//! Paths that manage a server of any kind. Only a key with `manage: true` may use them: they load models, change them under
//! other clients' requests, or show other clients' prompts.
//!
//! This is checked before anything is known of the servers, and for servers about which nothing is known.
//! [`routes`](crate::routes) says what a server of a known kind opens; a test compares both.

use std::{collections::HashMap, sync::LazyLock};

use super::segment::{folded, segments};

/// Management endpoints, without their prefix: `/v1`, or nothing where a server's base path is the root and Traefik removes
/// `/v1`.
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
    "fault_tolerance",
    "finish_weight_update",
    "get_world_size",
    "init_weight_transfer_engine",
    "is_paused",
    "is_sleeping",
    "kv_event_sources",
    "pause",
    "release_kv_cache_memory",
    "reset_encoder_cache",
    "reset_mm_cache",
    "reset_prefix_cache",
    "resume",
    "server_info",
    "shutdown_weight_transfer_engine",
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
    "add_external_corpus",
    "begin_weight_update",
    "clear_hicache_storage_backend",
    "close_session",
    "configure_logging",
    "continue_generation",
    "destroy_weights_update_group",
    "dump_expert_distribution_record",
    "dumper",
    "end_weight_update",
    "flush_cache",
    "freeze_gc",
    "get_hicache_l3_cache_layout",
    "get_remote_instance_transfer_engine_info",
    "get_server_info",
    "get_transfer_engine_info",
    "get_weights_by_name",
    "get_weights_checksum",
    "hicache",
    "init_weights_send_group_for_remote_instance",
    "init_weights_update_group",
    "list_external_corpora",
    "list_loras",
    "load_lora_adapter_from_tensors",
    "merge_lora_weights",
    "open_session",
    "pause_generation",
    "pd_role_switch",
    "register_transfer_engine_info",
    "release_memory_occupation",
    "remote_instance_transfer_engine_info",
    "remove_external_corpus",
    "resume_memory_occupation",
    "scheduler_receive_meta_data",
    "scheduler_receive_url",
    "send_weights_to_remote_instance",
    "set_internal_state",
    "set_lora",
    "set_trace_level",
    "slow_down",
    "start_expert_distribution_record",
    "start_profile",
    "stop_expert_distribution_record",
    "stop_profile",
    "unmerge_lora_weights",
    "update_weights_from_disk",
    "update_weights_from_distributed",
    "update_weights_from_ipc",
    "update_weights_from_tensor",
    "update_weights_from_tensor_checker",
    "vertex_generate",
    "weights_checker",
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
    "api/experimental",
    "api/me",
    "api/ps",
    "api/pull",
    "api/push",
    "api/signout",
    "api/tags",
    "api/user",
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
    // llama-swap: ways to whatever it runs.
    // https://github.com/mostlygeek/llama-swap
    "comfyui",
    "upstream",
    // TabbyAPI.
    "download",
    "model/draft",
    "model/embedding",
    "template/switch",
    "template/unload",
    "api/extra",
    // LMDeploy: its nodes, and the end of it.
    // https://github.com/InternLM/lmdeploy/blob/main/lmdeploy/serve/openai/api_server.py
    "distserve",
    "nodes",
    "terminate",
    "wakeup",
    // TensorRT-LLM.
    // https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/serve/openai_server.py
    "kv_cache_events",
    "perf_metrics",
    "release_memory",
    "resume_memory",
    // Triton.
    // https://github.com/triton-inference-server/server/tree/main/docs/protocol
    "v2/cudasharedmemory",
    "v2/logging",
    "v2/systemsharedmemory",
    "v2/trace",
    // LocalAI: its models, backends, agents and users, and what others asked.
    // https://localai.io/reference/
    "api/agent",
    "api/agents",
    "api/auth",
    "api/backend-logs",
    "api/backend-traces",
    "api/backends",
    "api/branding/asset",
    "api/fine-tuning",
    "api/middleware",
    "api/models/config",
    "api/models/config-json",
    "api/models/config-metadata",
    "api/models/delete",
    "api/models/edit",
    "api/models/install",
    "api/models/job",
    "api/models/vram-estimate",
    "api/node",
    "api/nodes",
    "api/operations",
    "api/p2p",
    "api/pii/events",
    "api/pipeline-models",
    "api/quantization",
    "api/router",
    "api/settings",
    "api/traces",
    "api/usage",
    "api/voice-profiles",
    "backend/load",
    "backend/monitor",
    "backend/shutdown",
    "backends",
    "mcp/chat",
    "mcp/prompts",
    "mcp/resources",
    "mcp/servers",
    "mcp/v1",
    "models/available",
    "models/edit",
    "models/galleries",
    "models/import",
    "models/import-uri",
    "models/jobs",
    "models/reload",
    "models/toggle-pinned",
    "models/toggle-state",
    "network/add",
    "networks",
    "stores",
    "ws/backend-logs",
    "ws/nodes",
    // Triton and KServe: what is in their repository, and loading of it.
    // https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
    "v2/repository",
    "models/apply",
    "models/delete",
    // All of them: numbers about everybody's requests.
    "metrics",
];

/// The endpoints by their first segment: every request is checked, so it must not be compared with each endpoint.
static BY_FIRST_SEGMENT: LazyLock<HashMap<&str, Vec<&str>>> = LazyLock::new(|| {
    let mut endpoints: HashMap<&str, Vec<&str>> = HashMap::new();
    for endpoint in ENDPOINTS {
        let first = endpoint.split('/').next().unwrap_or_default();
        endpoints.entry(first).or_default().push(endpoint);
    }
    endpoints
});

/// The keys to which a path is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// To keys without the right to manage servers.
    ToMost,
    /// To all keys: it leads to other hosts, or names a model where the reader does not look.
    ToAll,
}

/// Endpoints that no key opens.
const CLOSED_TO_ALL: &[&str] = &[
    // They fetch from, or send weights to, any address that the caller gives.
    "api/experimental",
    "comfyui",
    "cors-proxy",
    "get_remote_instance_transfer_engine_info",
    "get_transfer_engine_info",
    "init_weight_transfer_engine",
    "init_weights_send_group_for_remote_instance",
    "init_weights_update_group",
    "register_transfer_engine_info",
    "remote_instance_transfer_engine_info",
    "scheduler_receive_meta_data",
    "scheduler_receive_url",
    "send_weights_to_remote_instance",
    "update_weights",
    // llama-swap: whatever stands behind, for any of its models.
    "upstream",
    // They answer prompts. The body of a management request is not read, so a key for one of a server's models would reach the
    // others.
    "invocations",
    "vertex_generate",
];

/// Whether a decoded path leads to a management endpoint.
///
/// Its segments may be anywhere in the path, so that neither a prefix nor an id behind them evades this; case is ignored.
pub(crate) fn closed(path: &str) -> Option<Closed> {
    let path = folded(path);
    let mut rest = segments(&path);
    let mut found = None;
    while let Some(name) = rest.next() {
        // vLLM serves metrics at any path that begins with this.
        if name.starts_with("metrics") {
            found = Some(Closed::ToMost);
        }
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
    found
}

/// Whether a request changes a model: OpenAI's way to delete a fine-tuned one, which LocalAI has too; Triton's and KServe's
/// ways to load one; those of speaches to fetch and delete one.
/// <https://platform.openai.com/docs/api-reference/models/delete>,
/// <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>,
/// <https://speaches.ai/usage/speech-to-text/>.
pub(crate) fn changes_a_model(path: &str, method: &str) -> bool {
    let path = folded(path);
    let reads = ["GET", "HEAD", "OPTIONS"].iter().any(|reads| method.eq_ignore_ascii_case(reads));
    let names = || segments(path.trim_end_matches('/'));
    if reads || !names().any(|name| name == "models") {
        return false;
    }
    let last = names().next_back().unwrap_or_default();
    // `NAME:predict` is TensorFlow Serving's word for a question.
    let is_a_model =
        || names().zip(names().skip(1)).any(|pair| pair == ("v1", "models")) && !last.contains(':');
    let asks = || matches!(last, "infer" | "predict" | "explain" | "generate" | "generate_stream");
    method.eq_ignore_ascii_case("DELETE") || matches!(last, "load" | "unload") || is_a_model() && !asks()
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
            assert_eq!(closed(path), Some(Closed::ToMost), "{path}");
        }
    }

    #[test]
    fn a_way_to_other_hosts_is_closed_to_all() {
        for path in
            ["/v1/cors-proxy", "/v1/sleep/cors-proxy", "/v1/CORS-proxy/http:/x", "/cors-proxy;x/sleep"]
        {
            assert_eq!(closed(path), Some(Closed::ToAll), "{path}");
        }
    }

    #[test]
    fn a_model_is_changed_by_whoever_manages_it() {
        for (method, path) in [
            ("DELETE", "/v1/models/ft:gpt"),
            ("delete", "/v1/Models/a"),
            ("POST", "/v1/models/llama/load"),
            ("POST", "/v2/models/llama/unload"),
            ("POST", "/v1/models/org/llama"),
            ("POST", "/v1/models"),
        ] {
            assert!(changes_a_model(path, method), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/v1/models"),
            ("GET", "/v1/models/ft:gpt"),
            ("GET", "/v1/models/org/load"),
            ("DELETE", "/v1/responses/resp_1"),
            ("POST", "/v1/models/llama:predict"),
            ("POST", "/v2/models/llama/infer"),
            ("POST", "/v1/models/llama/generate"),
        ] {
            assert!(!changes_a_model(path, method), "{method} {path}");
        }
    }

    #[test]
    fn inference_is_open() {
        for path in [
            "/",
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
            assert_eq!(closed(path), None, "{path}");
        }
    }

    #[test]
    fn every_endpoint_is_closed_and_listed_once() {
        for endpoint in ENDPOINTS {
            let found = closed(&format!("/v1/{endpoint}"));
            assert!(found.is_some(), "{endpoint} must be written in lower case");
        }
        assert!(CLOSED_TO_ALL.iter().all(|endpoint| ENDPOINTS.contains(endpoint)));
        let unique: std::collections::HashSet<_> = ENDPOINTS.iter().collect();
        assert_eq!(unique.len(), ENDPOINTS.len());
    }
}
