//! The program that a server runs.
//!
//! The kind comes from `owned_by` in the server's model list and is determined once, when the list is read; where that leaves
//! Ollama possible, the server is asked. A server can claim another kind, but a known kind mostly means that less is open.
//! Where a kind opens more (because nothing in a body chooses a model), only the server itself can be reached.

use serde_json::Value;

/// A program that serves models. For each kind it is known which paths answer prompts, which ones manage the server, and how
/// the server chooses a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Kind {
    /// vLLM (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>).
    Vllm,
    /// SGLang (<https://docs.sglang.ai/basic_usage/openai_api.html>).
    Sglang,
    /// llama.cpp's `llama-server` with one model (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server>).
    LlamaCpp,
    /// `llama-server` in router mode: the name in a body chooses among several models.
    LlamaCppRouter,
    /// Ollama (<https://github.com/ollama/ollama/blob/main/docs/api.md>).
    Ollama,
    /// Hugging Face's Text Embeddings Inference (<https://huggingface.co/docs/text-embeddings-inference>).
    Tei,
    /// llama-swap, which also runs models that it does not list (<https://github.com/mostlygeek/llama-swap>).
    LlamaSwap,
    /// An account at a provider (OpenAI, Anthropic, Mistral, …): all keys share what it stores, and it has more
    /// models than it lists.
    Provider,
    /// Something else, such as an application of the operator's own.
    #[default]
    Other,
}

impl Kind {
    /// All kinds, in the order of the reference.
    pub const ALL: [Self; 9] = [
        Self::Vllm,
        Self::Sglang,
        Self::LlamaCpp,
        Self::LlamaCppRouter,
        Self::Ollama,
        Self::Tei,
        Self::LlamaSwap,
        Self::Provider,
        Self::Other,
    ];

    /// Whether such a server can export a span for each request that it has answered, or one behind it can.
    pub fn may_export_spans(self) -> bool {
        match self {
            Self::Vllm | Self::Sglang | Self::LlamaSwap | Self::Other => true,
            Self::LlamaCpp | Self::LlamaCppRouter | Self::Ollama | Self::Tei | Self::Provider => false,
        }
    }

    /// The name in `inference.kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llamacpp",
            Self::LlamaCppRouter => "llamacpp-router",
            Self::Ollama => "ollama",
            Self::Tei => "tei",
            Self::LlamaSwap => "llama-swap",
            Self::Provider => "provider",
            Self::Other => "other",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::LlamaCpp => "llama.cpp",
            Self::LlamaCppRouter => "llama.cpp in router mode",
            Self::Ollama => "Ollama",
            Self::Tei => "Text Embeddings Inference",
            Self::LlamaSwap => "llama-swap",
            Self::Provider => "a provider",
            Self::Other => "other",
        }
    }

    /// Finds a kind by its name in `inference.kind`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of a server that lists these models.
    pub(crate) fn of_list(entries: &[Value]) -> Self {
        let owner = |entry: &Value| entry.get("owned_by").and_then(Value::as_str).map(str::to_owned);
        let owners: Vec<Option<String>> = entries.iter().map(owner).collect();
        let all =
            |name: &str| !owners.is_empty() && owners.iter().all(|owner| owner.as_deref() == Some(name));
        let any = |name: &str| owners.iter().any(|owner| owner.as_deref() == Some(name));
        // Router mode lists several models, and says of each whether it is loaded.
        let is_router = || entries.len() > 1 || entries.iter().any(|entry| entry.get("status").is_some());
        match () {
            () if all("vllm") => Self::Vllm,
            () if all("sglang") => Self::Sglang,
            () if all("llamacpp") && !is_router() => Self::LlamaCpp,
            () if any("llamacpp") => Self::LlamaCppRouter,
            // Ollama writes `library` for its own models, and the publisher's name for others.
            () if any("library") => Self::Ollama,
            () if any("llama-swap") => Self::LlamaSwap,
            () if any("openai") || any("system") || any("openai-internal") => Self::Provider,
            () => Self::Other,
        }
    }

    /// Whether it ignores the model's name in a body: it has one model and always uses that.
    pub fn ignores_names(self) -> bool {
        match self {
            Self::LlamaCpp | Self::Tei => true,
            Self::Vllm
            | Self::Sglang
            | Self::LlamaCppRouter
            | Self::Ollama
            | Self::LlamaSwap
            | Self::Provider
            | Self::Other => false,
        }
    }

    /// Whether each name on its list is a model of its own, chosen by the name in a body. In vLLM several names may be aliases
    /// of one model.
    pub fn names_choose(self) -> bool {
        match self {
            Self::LlamaCppRouter | Self::Ollama | Self::LlamaSwap => true,
            Self::Vllm | Self::Sglang | Self::LlamaCpp | Self::Tei | Self::Provider | Self::Other => false,
        }
    }

    /// Whether it accepts any name in a body. SGLang does, except for adapters, which have a field of their own.
    pub fn answers_to_any_name(self) -> bool {
        self.ignores_names() || self == Self::Sglang
    }

    /// Whether it may close a connection without a word soon after an answer, so that the next request over it fails. llama.cpp
    /// does (cpp-httplib), as tests have seen; uvicorn does so after 5 s without a request.
    pub fn drops_connections(self) -> bool {
        match self {
            Self::LlamaCpp | Self::LlamaCppRouter => true,
            Self::Vllm
            | Self::Sglang
            | Self::Ollama
            | Self::LlamaSwap
            | Self::Tei
            | Self::Provider
            | Self::Other => false,
        }
    }

    /// Whether its list is complete. Other kinds load models that they do not list, or take theirs from the operator's
    /// configuration.
    pub fn lists_all_it_runs(self) -> bool {
        match self {
            Self::Vllm | Self::Sglang | Self::LlamaCpp | Self::Tei => true,
            Self::LlamaCppRouter | Self::Ollama | Self::LlamaSwap | Self::Provider | Self::Other => false,
        }
    }

    /// Whether it parses a body as JSON whatever its `Content-Type` is, except for forms. All of Ollama's handlers, `/v1`
    /// included, do so (`ShouldBindJSON`, which ignores the type).
    pub fn reads_json_of_any_type(self) -> bool {
        self == Self::Ollama
    }

    /// Whether `POST /api/show` ignores an empty `name` beside `model`: Ollama's own Go client always sends one.
    pub fn ignores_empty_name(self) -> bool {
        self == Self::Ollama
    }

    /// Whether it treats `"model": null` like a missing `model`, or refuses it: Pydantic's `Optional[str]` (vLLM) and `str`
    /// (SGLang), Go's decoder (Ollama, llama-swap), llama.cpp's `json_value`; TEI has no such field.
    pub fn takes_null_for_no_model(self) -> bool {
        match self {
            Self::Vllm
            | Self::Sglang
            | Self::LlamaCpp
            | Self::LlamaCppRouter
            | Self::Ollama
            | Self::Tei
            | Self::LlamaSwap => true,
            Self::Provider | Self::Other => false,
        }
    }

    /// Whether it never answers 429 itself: these kinds queue requests.
    pub fn never_answers_429(self) -> bool {
        match self {
            Self::Vllm | Self::Sglang | Self::LlamaCpp | Self::LlamaCppRouter | Self::Ollama => true,
            Self::Tei | Self::LlamaSwap | Self::Provider | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_tells_the_kind() {
        let of = |owners: &[&str]| {
            let entries: Vec<Value> =
                owners.iter().map(|owner| json!({ "id": "a", "owned_by": owner })).collect();
            Kind::of_list(&entries)
        };
        for (owners, kind) in [
            (&["vllm", "vllm"][..], Kind::Vllm),
            (&["sglang"], Kind::Sglang),
            (&["llamacpp"], Kind::LlamaCpp),
            (&["mannix", "library"], Kind::Ollama),
            (&["llama-swap"], Kind::LlamaSwap),
            (&["openai", "my-team"], Kind::Provider),
            (&["system", "my-team"], Kind::Provider),
            (&["openai-internal", "my-team"], Kind::Provider),
            // One known `owned_by` does not vouch for the other entries.
            (&["vllm", "somebody"], Kind::Other),
            (&["vLLM"], Kind::Other),
            (&[], Kind::Other),
        ] {
            assert_eq!(of(owners), kind, "{owners:?}");
        }
        let router = [json!({ "id": "a", "owned_by": "llamacpp", "status": { "value": "unloaded" } })];
        assert_eq!(Kind::of_list(&router), Kind::LlamaCppRouter);
        assert_eq!(of(&["llamacpp", "llamacpp"]), Kind::LlamaCppRouter, "the one model has one entry");
        assert_eq!(Kind::of_list(&[json!({ "id": "a" }), json!(7)]), Kind::Other);
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("vLLM"), None);
        let titles: std::collections::BTreeSet<&str> = Kind::ALL.into_iter().map(Kind::title).collect();
        assert!(titles.len() == Kind::ALL.len() && !titles.contains(""), "{titles:?}");
    }

    /// A kind too many in one of the first five rows lets a request reach a model that its key may not use, or a body pass that
    /// the server reads otherwise. One too few refuses what clients send every day.
    #[test]
    fn what_each_program_does_is_known() {
        type Row = (fn(Kind) -> bool, &'static str);
        let rows: [Row; 9] = [
            (Kind::ignores_names, "llamacpp tei"),
            (Kind::answers_to_any_name, "sglang llamacpp tei"),
            (Kind::reads_json_of_any_type, "ollama"),
            (Kind::ignores_empty_name, "ollama"),
            (Kind::takes_null_for_no_model, "vllm sglang llamacpp llamacpp-router ollama tei llama-swap"),
            (Kind::names_choose, "llamacpp-router ollama llama-swap"),
            (Kind::lists_all_it_runs, "vllm sglang llamacpp tei"),
            // Of these a 429 that Traefik has seen is Traefik's own.
            (Kind::never_answers_429, "vllm sglang llamacpp llamacpp-router ollama"),
            (Kind::may_export_spans, "vllm sglang llama-swap other"),
        ];
        for (does, kinds) in rows {
            let found: Vec<&str> = Kind::ALL.into_iter().filter(|kind| does(*kind)).map(Kind::name).collect();
            assert_eq!(found.join(" "), kinds);
        }
        let drop: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.drops_connections()).collect();
        assert_eq!(drop, [Kind::LlamaCpp, Kind::LlamaCppRouter]);
    }
}
