//! The fields that say how long an answer may be: which endpoint has which, and which kind of server reads them.
//!
//! A limit that a server does not read is none. So a field bounds an answer for hard budgets, and what is measured of it, only if each
//! server that may get the request is known to read it there.

use catalogue::{Kind, Pool, ServerUrl};

/// The fields that limit an answer.
pub(super) const LENGTHS: [&str; 6] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
    "n_predict",
    "max_new_tokens",
];

/// The place of such a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Among the fields of the body.
    Top,
    /// In an object of settings: Ollama's.
    Options,
    /// SGLang's and vLLM's.
    SamplingParams,
    /// TGI's.
    Parameters,
}
use Level::{Options, Parameters, SamplingParams, Top};

impl Level {
    pub(super) const ALL: [Self; 4] = [Top, Options, SamplingParams, Parameters];

    /// The object of settings with this name.
    pub(super) fn of_settings(name: &str) -> Option<Self> {
        match name {
            "options" => Some(Options),
            "sampling_params" => Some(SamplingParams),
            "parameters" => Some(Parameters),
            _ => None,
        }
    }
}

/// A field that an endpoint has for the length of answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LengthField {
    pub(super) level: Level,
    pub(super) name: &'static str,
    /// The kinds of server that are known to read it there.
    readers: &'static [Kind],
}

const fn field(level: Level, name: &'static str, readers: &'static [Kind]) -> LengthField {
    LengthField { level, name, readers }
}

/// In llama.cpp they take precedence over all others, on nearly every path.
pub(super) const ABOVE_OTHERS: [(Level, &str); 2] = [(Top, "n_predict"), (Top, NEWER)];

/// The field of the API itself, which all that have the API read.
const ALL: &[Kind] = &Kind::ALL;
const VLLM: &[Kind] = &[Kind::Vllm];
const SGLANG: &[Kind] = &[Kind::Sglang];
/// Nothing else has its paths, so they are the same behind llama-swap.
const LLAMA_CPP: &[Kind] = &[Kind::LlamaCpp, Kind::LlamaCppRouter, Kind::LlamaSwap];
/// SGLang has Ollama's API, too.
const OLLAMA: &[Kind] = &[Kind::Ollama, Kind::Sglang];
/// OpenAI's newer name of a field. Ollama 0.33 ignores it, as many providers and other programs do; OpenAI itself reads it.
const NEWER: &str = "max_completion_tokens";
/// The kinds that look at no other length than the endpoint's. llama.cpp does: to `"max_output_tokens": 5, "max_completion_tokens": -1` it
/// answers as long as it can, and older versions do so if one is null or a text.
const OF_ONE_LENGTH: [Kind; 3] = [Kind::Vllm, Kind::Sglang, Kind::Ollama];
const NEWER_API: &[Kind] = &[Kind::Vllm, Kind::Sglang, Kind::LlamaCpp, Kind::LlamaCppRouter];

/// The fields that an endpoint reads, if the endpoint is known.
pub(super) fn endpoint(path: &str) -> Option<&'static [LengthField]> {
    static OF_ENDPOINTS: [(&str, &[LengthField]); 12] = [
        ("/chat/completions", &[field(Top, "max_tokens", ALL), field(Top, NEWER, NEWER_API)]),
        ("/completions", &[field(Top, "max_tokens", ALL)]),
        ("/responses", &[field(Top, "max_output_tokens", ALL)]),
        ("/messages", &[field(Top, "max_tokens", ALL)]),
        ("/api/chat", &[field(Options, "num_predict", OLLAMA)]),
        ("/api/generate", &[field(Options, "num_predict", OLLAMA)]),
        // vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
        ("/cohere/v2/chat", &[field(Top, "max_tokens", VLLM)]),
        ("/inference/v1/generate", &[field(SamplingParams, "max_tokens", VLLM)]),
        // TGI is not told from other programs that have this path, so nothing is known to read its field.
        (
            "/generate",
            &[field(SamplingParams, "max_new_tokens", SGLANG), field(Parameters, "max_new_tokens", &[])],
        ),
        ("/generate_stream", &[field(Parameters, "max_new_tokens", &[])]),
        ("/completion", &[field(Top, "n_predict", LLAMA_CPP), field(Top, "max_tokens", LLAMA_CPP)]),
        ("/infill", &[field(Top, "n_predict", LLAMA_CPP), field(Top, "max_tokens", LLAMA_CPP)]),
    ];
    OF_ENDPOINTS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, own)| *own)
}

/// The servers that may answer a request, as far as it decides which fields they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Servers {
    /// A bit for each kind, by its place in [`Kind::ALL`].
    kinds: u16,
    /// All accounts at providers are OpenAI's own.
    are_openais: bool,
}

impl Servers {
    /// Programs of which nothing is known.
    pub(crate) const UNKNOWN: Self = Self::of_kind(Kind::Other);

    const fn of_kind(kind: Kind) -> Self {
        Self { kinds: 1 << kind as u16, are_openais: false }
    }

    /// Those of a pool, and those of its canary.
    pub(crate) fn of(pool: &Pool) -> Self {
        let canary = pool.canary.iter().flat_map(|canary| &canary.ready);
        let mut servers = Self { kinds: 0, are_openais: true };
        for server in pool.ready.iter().chain(canary) {
            let kind = server.kind();
            servers.kinds |= Self::of_kind(kind).kinds;
            servers.are_openais &= kind != Kind::Provider || is_openais(&server.spec.url);
        }
        if servers.kinds == 0 { Self::UNKNOWN } else { servers }
    }

    fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.kinds & Self::of_kind(*kind).kinds != 0)
    }

    /// Whether an answer may be longer than the context: Ollama forgets the beginning and goes on.
    pub(super) fn answer_beyond_context(self) -> bool {
        self.kinds().any(|kind| kind == Kind::Ollama)
    }

    /// Checks that each server reads a field that limits its answers. `are_clear` if all lengths of the body are numbers above zero.
    ///
    /// # Errors
    /// One does not. The error names the field that it would read, if one is known.
    pub(super) fn read(
        self,
        fields: &'static [LengthField],
        limits: impl Fn(&LengthField) -> bool,
        are_clear: bool,
    ) -> Result<(), Option<&'static str>> {
        self.kinds().try_for_each(|kind| {
            let is_openais = kind == Kind::Provider && self.are_openais;
            let is_read =
                |field: &&LengthField| field.readers.contains(&kind) || is_openais && field.name == NEWER;
            let mut own = fields.iter().filter(is_read);
            let first = own.clone().next().map(|field| field.name);
            let is_told = are_clear || is_openais || OF_ONE_LENGTH.contains(&kind);
            if is_told && own.any(&limits) { Ok(()) } else { Err(first) }
        })
    }
}

/// Whether an account at a provider is one at OpenAI or at Azure OpenAI, by its host: gateways list any model as OpenAI's
/// (<https://platform.openai.com/docs/api-reference>, <https://learn.microsoft.com/azure/ai-services/openai/reference>).
fn is_openais(url: &ServerUrl) -> bool {
    let Some(authority) = url.as_str().strip_prefix("https://") else { return false };
    let host = authority.split(':').next().unwrap_or_default().as_bytes();
    let ends_with = |end: &str| {
        let start = host.len().checked_sub(end.len());
        start.and_then(|start| host.get(start..)).is_some_and(|own| own.eq_ignore_ascii_case(end.as_bytes()))
    };
    host.eq_ignore_ascii_case(b"api.openai.com")
        || ends_with(".api.openai.com")
        || ends_with(".openai.azure.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Servers {
        pub(in crate::estimate) const fn of_test(kind: Kind) -> Self {
            Self::of_kind(kind)
        }

        /// An account at OpenAI.
        pub(in crate::estimate) const OPENAI: Self =
            Self { are_openais: true, ..Self::of_kind(Kind::Provider) };
    }

    /// A kind too many lets an answer be as long as the server likes, whatever a hard budget has taken for it.
    #[test]
    fn an_account_at_openai_is_known_by_its_host() {
        for (url, expected) in [
            ("https://api.openai.com", true),
            ("https://eu.api.openai.com:443", true),
            ("https://team.openai.azure.com", true),
            ("http://api.openai.com", false),
            ("https://litellm:4000", false),
            ("https://api.openai.com.example", false),
            ("https://myapi.openai.com", false),
        ] {
            assert_eq!(is_openais(&ServerUrl::parse(url).expect("a URL")), expected, "{url}");
        }
    }

    #[test]
    fn what_each_kind_reads_is_known() {
        for (path, fields) in [
            (
                "/v1/chat/completions",
                "max_tokens: vllm sglang llamacpp llamacpp-router ollama tei llama-swap provider other\n\
                 max_completion_tokens: vllm sglang llamacpp llamacpp-router\n",
            ),
            (
                "/v1/completions",
                "max_tokens: vllm sglang llamacpp llamacpp-router ollama tei llama-swap provider other\n",
            ),
            ("/api/chat", "num_predict: sglang ollama\n"),
            ("/api/generate", "num_predict: sglang ollama\n"),
            ("/cohere/v2/chat", "max_tokens: vllm\n"),
            ("/inference/v1/generate", "max_tokens: vllm\n"),
            ("/generate", "max_new_tokens: sglang\nmax_new_tokens: \n"),
            ("/generate_stream", "max_new_tokens: \n"),
            (
                "/completion",
                "n_predict: llamacpp llamacpp-router llama-swap\nmax_tokens: llamacpp llamacpp-router llama-swap\n",
            ),
        ] {
            let known = |field: &LengthField| {
                let read = |kind: &Kind| field.readers.contains(kind);
                let kinds: Vec<_> = Kind::ALL.into_iter().filter(read).map(Kind::name).collect();
                format!("{}: {}\n", field.name, kinds.join(" "))
            };
            let found: String = endpoint(path).expect(path).iter().map(known).collect();
            assert_eq!(found, fields, "{path}");
        }
    }
}
