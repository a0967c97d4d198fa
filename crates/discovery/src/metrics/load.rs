//! What servers' metrics say about how busy they are, how fast, and what their caches are good for.

use server_choice::{AdapterId, Counters, ToldAdapters};

use super::page::{Sample, samples};

/// What the metrics of a program are called; empty where it has none. Those of several engines and adapters add up.
struct LoadNames {
    running: &'static str,
    waiting: &'static str,
    /// Tokens of prompts.
    prompt: &'static str,
    /// Tokens that were looked for in the cache; empty if all of `prompt` are.
    asked: &'static str,
    cached: &'static str,
    /// `prompt` contains `cached`.
    contains_cached: bool,
    read_seconds: &'static str,
    answer_seconds: &'static str,
    answer_tokens: &'static str,
}

const VLLM: LoadNames = LoadNames {
    running: "vllm:num_requests_running",
    waiting: "vllm:num_requests_waiting",
    prompt: "vllm:prompt_tokens_total",
    asked: "vllm:prefix_cache_queries_total",
    cached: "vllm:prefix_cache_hits_total",
    contains_cached: true,
    read_seconds: "vllm:request_prefill_time_seconds_sum",
    answer_seconds: "vllm:inter_token_latency_seconds_sum",
    answer_tokens: "vllm:inter_token_latency_seconds_count",
};

const PROGRAMS: [LoadNames; 4] = [
    // https://docs.vllm.ai/en/stable/usage/metrics.html
    VLLM,
    // https://docs.sglang.ai/references/production_metrics.html
    LoadNames {
        running: "sglang:num_running_reqs",
        waiting: "sglang:num_queue_reqs",
        prompt: "sglang:prompt_tokens_total",
        asked: "",
        cached: "sglang:cached_tokens_total",
        contains_cached: true,
        read_seconds: "",
        answer_seconds: "sglang:inter_token_latency_seconds_sum",
        answer_tokens: "sglang:inter_token_latency_seconds_count",
    },
    // https://github.com/ggml-org/llama.cpp/tree/master/tools/server#get-metrics-prometheus-compatible-metrics-exporter
    LoadNames {
        running: "llamacpp:requests_processing",
        waiting: "llamacpp:requests_deferred",
        prompt: "llamacpp:prompt_tokens_total",
        asked: "",
        cached: "llamacpp:prompt_tokens_cached_total",
        contains_cached: false,
        read_seconds: "llamacpp:prompt_seconds_total",
        answer_seconds: "llamacpp:tokens_predicted_seconds_total",
        answer_tokens: "llamacpp:tokens_predicted_total",
    },
    // https://huggingface.co/docs/text-generation-inference/reference/metrics
    LoadNames {
        running: "tgi_batch_current_size",
        waiting: "tgi_queue_size",
        prompt: "",
        asked: "",
        cached: "",
        contains_cached: false,
        read_seconds: "",
        answer_seconds: "",
        answer_tokens: "",
    },
];

/// Reads a page; `None` if it does not say how busy a server of a known program is.
pub(super) fn read(page: &[u8]) -> Option<(Counters, Option<ToldAdapters>)> {
    Some((read_counters(page)?, read_adapters(page)))
}

/// Which adapters requests are using. vLLM makes a new series whenever others are in use, and the old ones stay; the value of each is the
/// time at which it was true (<https://docs.vllm.ai/en/stable/design/metrics.html>). Adapters that only waiting requests want are not
/// loaded yet.
fn read_adapters(page: &[u8]) -> Option<ToldAdapters> {
    let series = samples(page).filter(|sample| sample.name == "vllm:lora_requests_info");
    let newest = series.max_by(|a, b| a.value.total_cmp(&b.value))?;
    let most = newest.label("max_lora")?.parse().ok().filter(|most| *most > 0)?;
    let names = newest.label("running_lora_adapters")?.split(',').map(str::trim);
    Some(ToldAdapters { most, running: names.filter(|name| !name.is_empty()).map(AdapterId::of).collect() })
}

fn read_counters(page: &[u8]) -> Option<Counters> {
    let mut found = [(Counters::default(), None, None); PROGRAMS.len()];
    for sample in samples(page) {
        // With `--enable-metrics-for-all-schedulers` each of SGLang's schedulers tells what their first one tells.
        if sample.label("tp_rank").is_some_and(|rank| rank != "0") {
            continue;
        }
        for (names, (load, prompt, cached)) in PROGRAMS.iter().zip(&mut found) {
            let sum = match sample.name {
                name if name == names.running => {
                    add_requests(&mut load.running, sample.value);
                    continue;
                }
                name if name == names.waiting => {
                    add_requests(&mut load.waiting, sample.value);
                    continue;
                }
                name if name == names.prompt => prompt,
                name if name == names.asked => &mut load.asked_tokens,
                name if name == names.cached => cached,
                name if name == names.read_seconds => &mut load.read_seconds,
                name if name == names.answer_seconds => &mut load.answer_seconds,
                name if name == names.answer_tokens => &mut load.answer_tokens,
                _ => continue,
            };
            *sum = Some(sum.unwrap_or(0.0) + sample.value.max(0.0));
        }
        for (load, ..) in &mut found {
            load.cache_tokens = load.cache_tokens.or_else(|| cache_size(&sample));
        }
    }
    PROGRAMS.iter().zip(found).find_map(|(names, (load, prompt, cached))| {
        load.running?;
        let both = prompt.zip(cached);
        let sign = if names.contains_cached { -1.0 } else { 1.0 };
        let other = both.map(|(prompt, cached)| prompt + sign * cached);
        let (all, read_tokens) =
            if names.contains_cached { (prompt, other.or(prompt)) } else { (other, prompt) };
        Some(Counters {
            asked_tokens: load.asked_tokens.or(all).filter(|_| cached.is_some()),
            cached_tokens: cached,
            read_tokens,
            ..load
        })
    })
}

/// Adds a number of requests, of one engine of several.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates"
)]
fn add_requests(sum: &mut Option<u32>, more: f64) {
    *sum = Some(sum.unwrap_or(0).saturating_add(more as u32));
}

/// vLLM tells it as labels; SGLang as a figure.
fn cache_size(sample: &Sample<'_>) -> Option<f64> {
    let label =
        |name| sample.label(name).and_then(|value| value.parse::<f64>().ok()).filter(|size| *size > 0.0);
    match sample.name {
        "vllm:cache_config_info" => {
            label("kv_cache_size_tokens").or_else(|| Some(label("num_gpu_blocks")? * label("block_size")?))
        }
        "sglang:max_total_num_tokens" => Some(sample.value).filter(|size| *size > 0.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See the test of `figures.rs` about these pages.
    #[test]
    fn pages_of_real_servers() {
        for (page, expected) in [
            (
                include_str!("testdata/vllm.txt"),
                Counters {
                    running: Some(0),
                    waiting: Some(0),
                    read_tokens: Some(183.0),
                    asked_tokens: Some(183.0),
                    cached_tokens: Some(0.0),
                    answer_seconds: Some(1.709_959_972_000_206),
                    answer_tokens: Some(532.0),
                    cache_tokens: Some(524_288.0),
                    read_seconds: None,
                },
            ),
            (
                include_str!("testdata/sglang.txt"),
                Counters {
                    running: Some(7),
                    waiting: Some(2),
                    read_tokens: Some(8_128_902.0),
                    ..Counters::default()
                },
            ),
            (
                include_str!("testdata/llamacpp.txt"),
                Counters {
                    running: Some(0),
                    waiting: Some(0),
                    read_tokens: Some(120.0),
                    read_seconds: Some(0.002_617),
                    asked_tokens: Some(212.0),
                    cached_tokens: Some(92.0),
                    answer_seconds: Some(0.044_789),
                    answer_tokens: Some(98.0),
                    cache_tokens: None,
                },
            ),
            (
                include_str!("testdata/tgi.txt"),
                Counters { running: Some(4), waiting: Some(3), ..Counters::default() },
            ),
        ] {
            assert_eq!(read(page.as_bytes()), Some((expected, None)), "{page}");
        }
    }

    #[test]
    fn the_newest_series_says_which_adapters_are_loaded() {
        let page = |series: &str| format!("vllm:num_requests_running 1\n{series}");
        let adapters = |series: &str| read(page(series).as_bytes()).expect("vLLM's").1;
        let info = |running: &str, most: &str, at: &str| {
            format!(
                "vllm:lora_requests_info{{max_lora=\"{most}\",running_lora_adapters=\"{running}\",\
                 waiting_lora_adapters=\"w\"}} {at}\n"
            )
        };
        let told = |most, names: &[&str]| {
            Some(ToldAdapters { most, running: names.iter().map(|name| AdapterId::of(name)).collect() })
        };
        let [old, new, idle] =
            [("a", "1.789828498802105e+09"), ("b, c/d", "1.789828499e+09"), ("", "1.78982850e+09")]
                .map(|(running, at)| info(running, "4", at));
        assert_eq!(adapters(&old), told(4, &["a"]));
        assert_eq!(adapters(&format!("{new}{old}")), told(4, &["b", "c/d"]));
        assert_eq!(adapters(&format!("{old}{idle}{new}")), told(4, &[]));
        assert_eq!(adapters(""), None);
        for wrong in ["0", "", "x"] {
            assert_eq!(adapters(&info("a", wrong, "1")), None, "{wrong}");
        }
    }

    #[test]
    fn engines_add_up_and_other_pages_say_nothing() {
        let page = "vllm:num_requests_running{engine=\"0\"} 1\nvllm:num_requests_running{engine=\"1\"} 2\n\
                    vllm:prompt_tokens_total 100\n\
                    vllm:prefix_cache_queries_total 110\nvllm:prefix_cache_hits_total 30\n\
                    vllm:request_prefill_time_seconds_sum 1.5\n\
                    vllm:cache_config_info{num_gpu_blocks=\"10\",block_size=\"16\"} 1\n";
        let (load, _) = read(page.as_bytes()).expect("vLLM's");
        assert_eq!((load.running, load.waiting, load.cache_tokens), (Some(3), None, Some(160.0)));
        assert_eq!((load.read_tokens, load.read_seconds), (Some(70.0), Some(1.5)));
        assert_eq!((load.asked_tokens, load.cached_tokens), (Some(110.0), Some(30.0)));
        let sglang = "sglang:num_running_reqs{tp_rank=\"0\"} 3\nsglang:num_running_reqs{tp_rank=\"1\"} 3\n\
                      sglang:max_total_num_tokens 4096\n";
        let (load, _) = read(sglang.as_bytes()).expect("SGLang's");
        assert_eq!((load.running, load.cache_tokens), (Some(3), Some(4096.0)));
        for other in ["", "vllm:prompt_tokens_total 1\n", "<html>"] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }
}
