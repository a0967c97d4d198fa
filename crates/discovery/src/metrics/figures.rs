//! What servers' metrics say about their work.

use super::page::samples;

/// What a server has done since its start, and what it does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Tokens of prompts since its start, cached ones included unless [`leaves_out_cached`](Self::leaves_out_cached).
    pub prompt_tokens: u64,
    /// Of those, tokens that were found in the cache; 0 if it does not count them.
    pub cached_tokens: u64,
    /// [`prompt_tokens`](Self::prompt_tokens) leaves out what was found in the cache, and nothing counts that (llama.cpp before
    /// `prompt_tokens_cached_total`).
    pub leaves_out_cached: bool,
    /// A prompt counts once for each of the answers to it (vLLM's `n`).
    pub repeats_prompts: bool,
    /// Tokens of answers since its start, those of answers that were broken off included.
    pub completion_tokens: u64,
    /// Requests that it works on.
    pub running: Option<u64>,
    /// Requests that wait at the server.
    pub waiting: u64,
}

/// What the metrics of a program are called. Those of several engines and adapters add up.
struct Names {
    prompt_tokens: &'static str,
    cached_tokens: &'static str,
    /// `prompt_tokens` does not contain `cached_tokens`.
    leaves_out_cached: bool,
    repeats_prompts: bool,
    completion_tokens: &'static str,
    running: &'static str,
    waiting: &'static str,
}

const PROGRAMS: [Names; 4] = [
    // https://docs.vllm.ai/en/stable/usage/metrics.html
    Names {
        prompt_tokens: "vllm:prompt_tokens_total",
        cached_tokens: "vllm:prompt_tokens_cached_total",
        leaves_out_cached: false,
        repeats_prompts: true,
        completion_tokens: "vllm:generation_tokens_total",
        running: "vllm:num_requests_running",
        waiting: "vllm:num_requests_waiting",
    },
    // https://docs.sglang.ai/references/production_metrics.html
    Names {
        prompt_tokens: "sglang:prompt_tokens_total",
        cached_tokens: "sglang:cached_tokens_total",
        leaves_out_cached: false,
        repeats_prompts: false,
        completion_tokens: "sglang:generation_tokens_total",
        running: "sglang:num_running_reqs",
        waiting: "sglang:num_queue_reqs",
    },
    // https://github.com/ggml-org/llama.cpp/tree/master/tools/server#get-metrics-prometheus-compatible-metrics-exporter
    Names {
        prompt_tokens: "llamacpp:prompt_tokens_total",
        cached_tokens: "llamacpp:prompt_tokens_cached_total",
        leaves_out_cached: true,
        repeats_prompts: false,
        completion_tokens: "llamacpp:tokens_predicted_total",
        running: "llamacpp:requests_processing",
        waiting: "llamacpp:requests_deferred",
    },
    // https://huggingface.co/docs/text-generation-inference/reference/metrics: sums of histograms, which count finished requests.
    Names {
        prompt_tokens: "tgi_request_input_length_sum",
        cached_tokens: "",
        leaves_out_cached: false,
        repeats_prompts: false,
        completion_tokens: "tgi_request_generated_tokens_sum",
        running: "tgi_batch_current_size",
        waiting: "tgi_queue_size",
    },
];

/// Sums of the metrics of one program.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    prompt_tokens: Option<f64>,
    cached_tokens: Option<f64>,
    completion_tokens: Option<f64>,
    running: Option<f64>,
    waiting: Option<f64>,
}

impl Figures {
    /// Reads a page; `None` if it has no counters of tokens of a program that is known here.
    pub fn read(page: &[u8]) -> Option<Self> {
        let mut sums = [Sums::default(); PROGRAMS.len()];
        for sample in samples(page) {
            // With `--enable-metrics-for-all-schedulers` each of SGLang's schedulers tells what their first one tells.
            if sample.label("tp_rank").is_some_and(|rank| rank != "0") {
                continue;
            }
            for (names, sums) in PROGRAMS.iter().zip(&mut sums) {
                let sum = match sample.name {
                    name if name == names.prompt_tokens => &mut sums.prompt_tokens,
                    name if name == names.cached_tokens => &mut sums.cached_tokens,
                    name if name == names.completion_tokens => &mut sums.completion_tokens,
                    name if name == names.running => &mut sums.running,
                    name if name == names.waiting => &mut sums.waiting,
                    _ => continue,
                };
                *sum = Some(sum.unwrap_or(0.0) + sample.value.max(0.0));
            }
        }
        PROGRAMS.iter().zip(sums).find_map(|(names, sums)| {
            let cached = sums.cached_tokens.unwrap_or(0.0);
            let left_out = if names.leaves_out_cached { cached } else { 0.0 };
            Some(Self {
                prompt_tokens: whole(sums.prompt_tokens? + left_out),
                cached_tokens: whole(cached),
                leaves_out_cached: names.leaves_out_cached && sums.cached_tokens.is_none(),
                repeats_prompts: names.repeats_prompts,
                completion_tokens: whole(sums.completion_tokens?),
                running: sums.running.map(whole),
                waiting: whole(sums.waiting.unwrap_or(0.0)),
            })
        })
    }

    /// Whether it is known to have nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running == Some(0) && self.waiting == 0
    }
}

#[expect(
    clippy::as_conversions,
    reason = "`as` stops at both ends; counters beyond 2⁵³ are wrong by a token"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// vLLM 0.32.0 (shortened) and llama.cpp were run for these pages. SGLang's has the lines of its documentation, and TGI's has
    /// those that its reference of metrics names.
    #[test]
    fn pages_of_real_servers() {
        let figures = |prompt_tokens, completion_tokens| Figures {
            prompt_tokens,
            completion_tokens,
            running: Some(0),
            ..Figures::default()
        };
        for (page, expected) in [
            (include_str!("testdata/vllm.txt"), Figures { repeats_prompts: true, ..figures(183, 541) }),
            (
                include_str!("testdata/sglang.txt"),
                Figures { running: Some(7), waiting: 2, ..figures(8_128_902, 7_557_572) },
            ),
            (include_str!("testdata/llamacpp.txt"), Figures { cached_tokens: 92, ..figures(120 + 92, 98) }),
            (
                include_str!("testdata/tgi.txt"),
                Figures { running: Some(4), waiting: 3, ..figures(12_345, 50_000) },
            ),
        ] {
            assert_eq!(Figures::read(page.as_bytes()), Some(expected), "{page}");
        }
    }

    #[test]
    fn engines_add_up_and_other_pages_say_nothing() {
        let page = "vllm:prompt_tokens_total{engine=\"0\",model_name=\"a\"} 10.0\n\
                    vllm:prompt_tokens_total{engine=\"1\",model_name=\"a\"} 5.0\n\
                    vllm:generation_tokens_total{engine=\"0\",model_name=\"a\"} 1e3\n\
                    vllm:num_requests_running{engine=\"1\",model_name=\"a\"} 1.0\n";
        let figures = Figures::read(page.as_bytes()).expect("vLLM's");
        assert_eq!((figures.prompt_tokens, figures.completion_tokens), (15, 1_000));
        assert!(!figures.is_idle());
        let old = "llamacpp:prompt_tokens_total 5\nllamacpp:tokens_predicted_total 6\n";
        let figures = Figures::read(old.as_bytes()).expect("llama.cpp's");
        assert!(figures.leaves_out_cached && !figures.is_idle(), "nobody knows");
        let idle = format!("{old}llamacpp:requests_processing 0\n");
        assert!(Figures::read(idle.as_bytes()).is_some_and(|figures| figures.is_idle()));
        let ranks = "sglang:prompt_tokens_total{tp_rank=\"0\"} 3\nsglang:prompt_tokens_total{tp_rank=\"1\"} 3\n\
                     sglang:generation_tokens_total 4\n";
        assert_eq!(Figures::read(ranks.as_bytes()).map(|figures| figures.prompt_tokens), Some(3));
        for other in ["", "vllm:prompt_tokens_total 1\n", "process_cpu_seconds_total 1\n", "<html>"] {
            assert_eq!(Figures::read(other.as_bytes()), None, "{other}");
        }
    }
}
