//! The most tokens that a request can use, for budgets that may never be exceeded.
//!
//! A token of text is at least one byte, so a prompt has no more tokens than its body has bytes (and its normal forms, and what templates
//! print anew: `printed.rs`); what else the model reads (its template, images, sounds, files) counts by stated maxima (`content.rs`). An
//! answer has no more than the request allows in a field that its server reads (`lengths.rs`), or else than the model's context holds.

use super::{
    Count, Media, Servers, answers_in_tokens,
    content::{Content, ContentDocuments},
    endpoint, generates_nothing,
    media::{self, SoundLength},
    printed,
    unbounded::Unbounded,
    without_query,
};
use crate::read::parts;

/// Tokens that a server's template adds to a prompt, at most: roles, a default system prompt, instructions for tools. The longest default
/// system prompt that is known, Devstral's, has about 1,100.
pub const TEMPLATE: u64 = 2_048;
/// The same for each pair of a query and a document: rerankers have a short instruction, and no tools.
const TEMPLATE_OF_PAIR: u64 = 1_024;
/// Tokens of an image, at most.
pub const MOST_OF_IMAGE: u64 = 16_384;
/// Tokens of a sound, a video or a file, at most.
pub const MOST_OF_FILE: u64 = 65_536;
/// Tokens of the text of a second of sound, at most, and of any sound besides: Whisper's decoder writes no more than 448 tokens for
/// each 30 seconds.
const MOST_OF_HEARD_SECOND: u64 = 15;
const MOST_OF_HEARD: u64 = 448;
/// Tokens of a prompt that stand for a second of sound, at most: Whisper's encoder makes 50 vectors of it, and models that are built on it join
/// two (Qwen2-Audio) or more (Voxtral: four) of them to one token.
const MOST_OF_SOUND_SECOND: u64 = 50;
/// The same, at least, for how long sound of [`MOST_OF_FILE`] tokens is: Voxtral has 12.5.
const LEAST_OF_SOUND_SECOND: u64 = 12;
/// The seconds of a piece of sound that is heard by itself, at least. vLLM cuts sound into pieces of 29 to 30 seconds and sends the form's
/// `prompt` with each (<https://docs.vllm.ai/en/latest/contributing/model/transcription/>).
const LEAST_PIECE: u64 = 20;
/// Tokens that a template adds to the prompt of each further piece, at most: it has no tools.
const EACH_PIECE: u64 = 128;
/// Paths on which one request starts any number of others.
const OF_MANY: [&str; 6] = ["batches", "batch", "fine_tuning", "threads", "evals", "runs"];
/// Tokens that a server adds to each of several texts where it adds no whole template, at most: to texts that are embedded.
const EACH: u64 = 64;

/// The most that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of all answers together.
    pub completion: u64,
    /// What it uses besides tokens.
    pub media: Media,
}

/// What is known of a request before the most that it can use is found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BoundOf<'a> {
    pub(crate) uri: &'a str,
    /// `None` stands for a body that there may be, but was not handed over.
    pub(crate) body: Option<&'a [u8]>,
    /// What the reader has counted in the body, if it could.
    pub(crate) count: Option<&'a Count>,
    /// Its media as estimated.
    pub(crate) media: Media,
    /// The model's context, in tokens, if all its servers tell it.
    pub(crate) context: Option<u64>,
    /// The servers that may answer it.
    pub(crate) servers: Servers,
}

impl BoundOf<'_> {
    /// The most that a request can use that has passed the reader.
    ///
    /// # Errors
    /// The most is not known; the error says why.
    pub(crate) fn find(self) -> Result<Bound, Unbounded> {
        let Self { uri, body, count, media, context, servers } = self;
        let path = &*without_query(uri);
        // It may ask for any number of answers to any number of prompts.
        let body = body.ok_or(Unbounded::Body)?;
        if body.is_empty() || generates_nothing(path) {
            return Ok(Bound { prompt: 0, completion: 0, media });
        }
        if path.split('/').any(|segment| OF_MANY.contains(&segment)) {
            return Err(Unbounded::Path);
        }
        if Media::is_heard_elsewhere(path, body) {
            return Err(Unbounded::Elsewhere);
        }
        if let Some(field) = media::script(path, body) {
            return Err(Unbounded::Script(field));
        }
        let lengths = media::lengths_at_most(path, body);
        let media = media.at_most(path, body);
        let heard = heard(media, lengths.len() as u64, context);
        let counted;
        let count = match count {
            Some(count) => count,
            None => match Count::of(body) {
                Some(count) => {
                    counted = count;
                    &counted
                }
                None => return of_other(path, body, (media, &lengths), heard),
            },
        };
        if count.is_partial {
            return Err(Unbounded::Partly);
        }
        if let Some(field) = count.beams {
            return Err(Unbounded::Beams(field));
        }
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Unbounded::Unread);
        }
        let mut content = Content::of(body)?;
        if content.has_unusual_name {
            return Err(Unbounded::Name);
        }
        if let Some(again) = content.again.take() {
            return Err(again);
        }
        // Only prompts are cut to the context everywhere.
        let answer_context = context.filter(|_| !servers.answer_beyond_context());
        let bytes = (body.len() as u64).saturating_add(printed::beyond(body, endpoint(path).is_some()));
        Ok(Bound {
            completion: completion((count, servers), path, &content, answer_context)?,
            prompt: prompt(count, path, (bytes, &content), context)?,
            media,
        })
    }
}

/// Of a body that is not JSON: a form, or the sound itself. Any other text may be in an encoding that is not read here.
fn of_other(
    path: &str,
    body: &[u8],
    (media, sounds): (Media, &[SoundLength]),
    heard: u64,
) -> Result<Bound, Unbounded> {
    // A form may ask for several answers, in fields that are not known.
    if endpoint(path).is_some() || answers_in_tokens(path) {
        return Err(Unbounded::Unread);
    }
    let (mut text, mut files, mut fields) = (body.len() as u64, 0_u64, 0_u64);
    match parts(body) {
        // Base64 or samples are no text; how many tokens they stand for does not depend on their bytes.
        Some(parts) => parts.for_each(|part| match part.is_file {
            true => {
                text -= part.content.len() as u64;
                files += 1;
            }
            false => fields += part.content.len() as u64,
        }),
        None if sounds.is_empty() => return Err(Unbounded::Unread),
        None => (text, files) = (0, 1),
    }
    let of_files = files * MOST_OF_FILE + sounds.iter().map(|sound| beyond_most(*sound)).sum::<u64>();
    let further_pieces: u64 = sounds.iter().map(|sound| pieces(*sound) - 1).sum();
    let again = fields.saturating_add(EACH_PIECE).saturating_mul(further_pieces);
    Ok(Bound { prompt: (text + TEMPLATE + of_files).saturating_add(again), completion: heard, media })
}

/// The tokens of a sound beyond the most of a file.
fn beyond_most(sound: SoundLength) -> u64 {
    (sound.seconds() * MOST_OF_SOUND_SECOND).saturating_sub(MOST_OF_FILE)
}

/// Into how many pieces a sound is cut at most. If its length is not known, it is as long as the most tokens of a file allow.
fn pieces(sound: SoundLength) -> u64 {
    let seconds = match sound {
        SoundLength::Exact(_) => sound.seconds(),
        SoundLength::AtMost(_) => sound.seconds().max(MOST_OF_FILE / LEAST_OF_SOUND_SECOND),
    };
    seconds.div_ceil(LEAST_PIECE).max(1)
}

/// The most tokens of all answers to a body of JSON.
fn completion(
    (count, servers): (&Count, Servers),
    path: &str,
    content: &Content,
    context: Option<u64>,
) -> Result<u64, Unbounded> {
    let answers = count.choices.max(1).saturating_mul(count.prompts.max(1));
    if !answers_in_tokens(path) {
        // One token for each item that is scored. Sound never comes in JSON.
        return Ok(if last(path) == "generative_scoring" { content.texts() } else { 0 });
    }
    let (tokens, _) = count.answer(path, None);
    let tokens = match count.limit(path, servers) {
        Ok(()) => in_context(tokens, answers, context),
        Err(Some(field)) => context.ok_or(Unbounded::Answer(field))?.saturating_mul(answers),
        // Whatever fields it has, the server may look at others.
        Err(None) => context.ok_or(Unbounded::Path)?.saturating_mul(answers).max(tokens),
    };
    Ok(tokens.saturating_add(content.predicted.saturating_mul(answers)))
}

/// The tokens of several prompts or answers: no more than fit into the context of each.
fn in_context(tokens: u64, times: u64, context: Option<u64>) -> u64 {
    context.map_or(tokens, |context| tokens.min(context.saturating_mul(times)))
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The tokens of the text of what is heard. A model's context is that of 30 seconds for some, of the whole sound for others.
fn heard(media: Media, sounds: u64, context: Option<u64>) -> u64 {
    if sounds == 0 {
        return 0;
    }
    let seconds = u64::from(media.sound).div_ceil(1_000);
    let by_length = seconds * MOST_OF_HEARD_SECOND + sounds * MOST_OF_HEARD;
    by_length.max(context.unwrap_or(0).saturating_mul(sounds))
}

/// The most tokens of all prompts of a body of JSON, which has these bytes.
fn prompt(
    count: &Count,
    path: &str,
    (bytes, content): (u64, &Content),
    context: Option<u64>,
) -> Result<u64, Unbounded> {
    /// Everything but the documents is read once more with each document.
    const IN_PAIRS: [&str; 4] = ["rerank", "reranking", "score", "generative_scoring"];
    let one = read_once(bytes, content);
    let prompts = count.prompts.max(1);
    let unbounded = content.unbounded();
    if endpoint(path).is_some() {
        let all = one.saturating_add(TEMPLATE.saturating_mul(prompts));
        return match unbounded {
            Some(unbounded) => Ok(context.ok_or(unbounded)?.saturating_mul(prompts)),
            None => Ok(in_context(all, prompts, context)),
        };
    }
    let texts = content.texts().max(prompts);
    let all = if IN_PAIRS.contains(&last(path)) {
        // Which lists are paired is certain only of one that is the longest. Whatever else is a list may be of queries.
        let documents = content.documents.as_deref().filter(|documents| documents.elements == texts);
        let alone = documents.map_or(0, |ContentDocuments { bytes, content, .. }| read_once(*bytes, content));
        let with_each = one.saturating_sub(alone).saturating_add(TEMPLATE_OF_PAIR);
        with_each.saturating_mul(texts).saturating_add(alone.saturating_mul(content.longest.max(prompts)))
    } else {
        one.saturating_add(TEMPLATE).saturating_add(EACH.saturating_mul(texts))
    };
    match unbounded {
        // A text that is longer than the model's context may be read in parts, so the context alone is no bound.
        Some(unbounded) => Ok(context.ok_or(unbounded)?.saturating_mul(texts).max(all)),
        None => Ok(all),
    }
}

/// The tokens of a body, or a part of one, that is read once.
fn read_once(bytes: u64, content: &Content) -> u64 {
    let text = bytes.saturating_sub(content.data).saturating_add(content.added);
    let images = content.images.saturating_add(content.in_markdown).saturating_mul(MOST_OF_IMAGE);
    let files = content.files.saturating_add(content.unknown).saturating_mul(MOST_OF_FILE);
    text.saturating_add(images).saturating_add(files)
}

#[cfg(test)]
mod tests {
    use catalogue::Kind;

    use super::*;
    use crate::estimate::sum;

    const CHAT: &str = "/v1/chat/completions";

    fn of(path: &str, body: &str, context: Option<u64>) -> Result<(u64, u64), Unbounded> {
        find(path, Some(body.as_bytes()), context).map(|bound| (bound.prompt, bound.completion))
    }

    /// Of servers of the kind that has the path.
    fn find(uri: &str, body: Option<&[u8]>, context: Option<u64>) -> Result<Bound, Unbounded> {
        let kind = match uri {
            uri if uri.contains("/api/") => Kind::Ollama,
            uri if uri.ends_with("/completion") => Kind::LlamaCpp,
            uri if uri.ends_with("/generate") && !uri.starts_with("/inference") => Kind::Sglang,
            _ => Kind::Vllm,
        };
        find_at(Servers::of_test(kind), uri, body, context)
    }

    /// Once with what the reader has counted, and once without it: both must come to the same.
    fn find_at(
        servers: Servers,
        uri: &str,
        body: Option<&[u8]>,
        context: Option<u64>,
    ) -> Result<Bound, Unbounded> {
        let media = Media::of(uri, body);
        let counted = body.and_then(crate::read::count);
        let [found, again] = [counted.as_deref(), None]
            .map(|count| (BoundOf { uri, body, count, media, context, servers }).find());
        assert_eq!(found, again, "{uri}");
        found
    }

    #[test]
    fn a_request_is_bounded_by_its_bytes_and_by_what_it_allows() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"n":3,"max_tokens":50}"#;
        let bytes = body.len() as u64;
        assert_eq!(of(CHAT, body, None), Ok((bytes + TEMPLATE, 150)));
        assert_eq!(of(CHAT, body, Some(32)), Ok((32, 96)), "no more than the context holds");
        let open = body.replace(",\"max_tokens\":50", "");
        assert_eq!(of(CHAT, &open, None), Err(Unbounded::Answer("max_tokens")));
        assert_eq!(of("/v1/responses", &open, None), Err(Unbounded::Answer("max_output_tokens")));
        assert_eq!(of(CHAT, &open, Some(4_096)).map(|(_, completion)| completion), Ok(3 * 4_096));
        assert_eq!(of("/v1/embeddings", &open, None), Ok((open.len() as u64 + TEMPLATE + EACH, 0)));
        // Regression: it counted as one prompt and one answer, and may ask for a hundred, or for tools of the server's.
        for (path, context) in [(CHAT, None), (CHAT, Some(8_192)), ("/v1/embeddings", Some(8_192))] {
            assert_eq!(find(path, None, context), Err(Unbounded::Body));
        }
        // A name is told as far as it is short: clients choose it.
        let long = Unbounded::beside(&"é".repeat(65)).to_string();
        assert!(long.contains(&format!("{:?} is not known", "é".repeat(64))), "{long}");
        let params =
            [Unbounded::Answer("n_predict"), Unbounded::History("conversation"), Unbounded::WebSocket];
        assert_eq!(params.each_ref().map(Unbounded::param), [Some("n_predict"), Some("conversation"), None]);
        assert_eq!(of(CHAT, "max_tokens=5", None), Err(Unbounded::Unread));
        assert_eq!(of(CHAT, "", None), Ok((0, 0)), "a request without a body, such as GET");
        let two = r#"{"prompt":["a","b"],"max_tokens":5}"#;
        assert_eq!(of("/v1/completions", two, None).map(|(_, completion)| completion), Ok(10));
        // By another spelling of the name, too.
        let history = r#"{"previous\u005fresponse_id":"x","input":"hi","max_output_tokens":5}"#;
        assert_eq!(of("/v1/responses", history, None), Err(Unbounded::History("previous_response_id")));
        assert_eq!(of("/v1/responses", history, Some(100)), Ok((100, 5)));
    }

    /// Each of these once passed with a smaller bound than what a server makes of it.
    #[test]
    fn no_spelling_and_no_other_field_makes_the_bound_smaller() {
        let completion = |path: &str, body: &str| of(path, body, None).map(|(_, completion)| completion);
        for (path, body, expected) in [
            // The last one counts for Go's reader, whatever its case.
            (CHAT, r#"{"max_tokens":5,"Max_Tokens":70}"#, Ok(70)),
            (CHAT, r#"{"max_tokens":5,"MAX_TOKEN\u017f":70}"#, Ok(70)),
            (CHAT, r#"{"max_tokens":5,"N":9}"#, Ok(45)),
            // Which of two counts, and whether it says a length, depends on the reader.
            (
                "/api/chat",
                r#"{"options":{"num_predict":5},"Options":{"num_predict":70}}"#,
                Err(Unbounded::Answer("num_predict")),
            ),
            ("/api/chat", r#"{"options":{"num_predict":5,"Num_Predict":70}}"#, Ok(70)),
            (CHAT, r#"{"max_tokens":5,"max_completion_tokens":"70"}"#, Ok(70)),
            (CHAT, r#"{"max_tokens":5.5}"#, Ok(6)),
            (CHAT, r#"{"max_tokens":5,"n_predict":-1}"#, Err(Unbounded::Answer("max_tokens"))),
            (CHAT, r#"{"max_tokens":5,"n":"3"}"#, Ok(15)),
            ("/v1/completions", r#"{"max_tokens":5,"n":2,"best_of":7}"#, Ok(35)),
            // A path whose fields are not known.
            ("/v9/chat", r#"{"max_tokens":5}"#, Err(Unbounded::Path)),
            ("/v9/chat", "a form", Err(Unbounded::Unread)),
            ("/cohere/v2/chat", r#"{"max_output_tokens":5}"#, Err(Unbounded::Answer("max_tokens"))),
            ("/cohere/v2/chat", r#"{"max_tokens":5}"#, Ok(5)),
            (
                "/inference/v1/generate",
                r#"{"sampling_params":{"max_new_tokens":5}}"#,
                Err(Unbounded::Answer("max_tokens")),
            ),
            ("/inference/v1/generate", r#"{"sampling_params":{"max_tokens":5,"n":2}}"#, Ok(10)),
            ("/v1/messages/count_tokens", r#"{"messages":[]}"#, Ok(0)),
            // What the server does on its own.
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"tools":[{"type":"web_search"}]}"#,
                Err(Unbounded::Tools("tools")),
            ),
            (
                "/v1/messages",
                r#"{"max_tokens":5,"tools":[{"type":"web_fetch_20250910"}]}"#,
                Err(Unbounded::Tools("tools")),
            ),
            (
                "/v1/messages",
                r#"{"max_tokens":5,"mcp_servers":[{"url":"x"}]}"#,
                Err(Unbounded::Tools("mcp_servers")),
            ),
            (
                "/v1/messages",
                r#"{"max_tokens":5,"tools":[{"name":"a"},{"type":"bash_20250124"}],"mcp_servers":[]}"#,
                Ok(5),
            ),
            (CHAT, r#"{"max_tokens":5,"tools":[{"type":"function","function":{}}]}"#, Ok(5)),
            (
                "/api/generate",
                r#"{"prompt":"hi","template":"{{.Prompt}}{{.Prompt}}","options":{"num_predict":5}}"#,
                Err(Unbounded::Template("template")),
            ),
            (
                CHAT,
                r#"{"max_tokens":5,"web_search_options":{}}"#,
                Err(Unbounded::Tools("web_search_options")),
            ),
            (CHAT, r#"{"max_tokens":5,"tools":[{"Type":"web_search"}]}"#, Err(Unbounded::Tools("tools"))),
            (CHAT, r#"{"max_tokens":5,"Tools":[{"type":"web_search"}]}"#, Err(Unbounded::Name)),
            ("/v1/completions", r#"{"max_tokens":5,"prompt":"a","Prompt":["a","b"]}"#, Err(Unbounded::Name)),
            ("/api/generate", r#"{"Template":"x","options":{"num_predict":5}}"#, Err(Unbounded::Name)),
            // What only some readers can read to its end.
            ("/api/chat", r#"{"options":{"stop":["\ud800"],"num_predict":100000}}"#, Err(Unbounded::Partly)),
            ("/v1/completions", r#"{"prompt":["\ud800","a","b"],"max_tokens":50}"#, Err(Unbounded::Partly)),
            (CHAT, r#"{"messages":[{"x":1e999,"content":[]}],"max_tokens":5}"#, Err(Unbounded::Partly)),
            ("/v1/audio/transcriptions", r#"{"file_url":"http://a/b"}"#, Err(Unbounded::Elsewhere)),
            ("/v1/batches", r#"{"input_file_id":"f","max_tokens":5}"#, Err(Unbounded::Path)),
            // llama.cpp answers each of these; they counted as one.
            (
                "/completion",
                r#"{"prompt":[{"prompt_string":"a"},{"prompt_string":"b"}],"n_predict":5}"#,
                Ok(10),
            ),
            ("/v1/chat/completi%6Fns/", r#"{"max_tokens":5}"#, Ok(5)),
            // A model that is called so.
            ("/models/audio/v1/chat/completions", r#"{"max_tokens":5}"#, Ok(5)),
            ("/models/images/generate", r#"{"sampling_params":{"max_new_tokens":5}}"#, Ok(5)),
        ] {
            assert_eq!(completion(path, body), expected, "{path} {body}");
        }
        assert_eq!(of("/v1/batches", r#"{"input_file_id":"f"}"#, Some(100)), Err(Unbounded::Path));
        let form = "--x\r\nContent-Disposition: form-data; name=n\r\n\r\n100\r\n--x--\r\n";
        assert_eq!(of("/v9/chat", form, Some(100)), Err(Unbounded::Unread), "it counted as one answer");
        assert_eq!(of("/v9/chat", r#"{"max_tokens":500}"#, Some(100)).map(|(_, tokens)| tokens), Ok(500));
        // An image by its address or as it is, by the names of several servers.
        for field in ["image_data", "multimodal_data", "video_data"] {
            let body = format!(
                r#"{{"text":"hi","{field}":["http://a/b.png","QUJD"],"sampling_params":{{"max_new_tokens":1}}}}"#
            );
            let (prompt, _) = of("/generate", &body, None).expect(field);
            assert!(prompt >= 2 * MOST_OF_IMAGE, "{field}: {prompt}");
        }
    }

    /// Regressions: Ollama ignores `max_completion_tokens`, and answered 40,000 tokens where one was paid for; each server reads only
    /// its own object of settings.
    #[test]
    fn a_length_that_a_server_does_not_read_is_none() {
        let at = |servers: Servers, path: &str, body: &str, context| {
            find_at(servers, path, Some(body.as_bytes()), context).map(|bound| bound.completion)
        };
        let newer = r#"{"max_completion_tokens":1}"#;
        let open = Err(Unbounded::Answer("max_tokens"));
        for kind in Kind::ALL {
            let read = matches!(kind, Kind::Vllm | Kind::Sglang | Kind::LlamaCpp | Kind::LlamaCppRouter);
            let expected = if read { Ok(1) } else { open.clone() };
            assert_eq!(at(Servers::of_test(kind), CHAT, newer, None), expected, "{}", kind.name());
            assert_eq!(at(Servers::of_test(kind), CHAT, r#"{"max_tokens":1}"#, None), Ok(1));
        }
        assert_eq!(at(Servers::OPENAI, CHAT, newer, None), Ok(1));
        let [ollama, sglang, vllm, llama, other] =
            [Kind::Ollama, Kind::Sglang, Kind::Vllm, Kind::LlamaCpp, Kind::Other].map(Servers::of_test);
        assert_eq!(at(other, CHAT, newer, Some(4_096)), Ok(4_096), "what the context holds");
        assert_eq!(at(ollama, CHAT, newer, Some(4_096)), open, "Ollama answers beyond its context");
        assert_eq!(at(ollama, CHAT, r#"{"max_tokens":5000}"#, Some(4_096)), Ok(5_000));
        for (servers, path, body, expected) in [
            (ollama, "/api/chat", r#"{"options":{"num_predict":5}}"#, Ok(5)),
            (
                ollama,
                "/api/chat",
                r#"{"parameters":{"num_predict":5}}"#,
                Err(Unbounded::Answer("num_predict")),
            ),
            (vllm, "/api/chat", r#"{"options":{"num_predict":5}}"#, Err(Unbounded::Path)),
            (sglang, "/api/chat", r#"{"options":{"num_predict":5}}"#, Ok(5)),
            (sglang, "/generate", r#"{"sampling_params":{"max_new_tokens":5}}"#, Ok(5)),
            (
                sglang,
                "/generate",
                r#"{"parameters":{"max_new_tokens":5}}"#,
                Err(Unbounded::Answer("max_new_tokens")),
            ),
            // The second prompt has SGLang's usual length; the second object takes the place of the first.
            (
                sglang,
                "/generate",
                r#"{"text":["a","b"],"sampling_params":[{"max_new_tokens":5},{}]}"#,
                Err(Unbounded::Answer("max_new_tokens")),
            ),
            (
                sglang,
                "/generate",
                r#"{"sampling_params":{"max_new_tokens":5},"sampling_params":null}"#,
                Err(Unbounded::Answer("max_new_tokens")),
            ),
            // The real llama.cpp answered 2,024 tokens to the first of these, and 2,044 to the second.
            (
                llama,
                "/v1/responses",
                r#"{"max_output_tokens":5,"max_completion_tokens":-1}"#,
                Err(Unbounded::Answer("max_output_tokens")),
            ),
            (
                llama,
                "/completion",
                r#"{"max_tokens":5,"max_completion_tokens":-1}"#,
                Err(Unbounded::Answer("n_predict")),
            ),
            (llama, CHAT, r#"{"max_tokens":5,"max_completion_tokens":null}"#, open.clone()),
            (llama, CHAT, r#"{"max_tokens":"5"}"#, open.clone()),
            (llama, CHAT, r#"{"max_tokens":5,"max_completion_tokens":7}"#, Ok(7)),
            (vllm, CHAT, r#"{"max_tokens":"5","max_completion_tokens":null}"#, Ok(5)),
            (other, "/generate", r#"{"parameters":{"max_new_tokens":5}}"#, Err(Unbounded::Path)),
            (other, "/completion", r#"{"n_predict":5}"#, Err(Unbounded::Path)),
        ] {
            assert_eq!(at(servers, path, body, None), expected, "{path} {body}");
        }
    }

    /// Regression: each step of each beam read the prompt again, and a request of 0.0045 cost 0.2273.
    #[test]
    fn a_search_with_beams_is_refused() {
        let refused = |field: &'static str| Err(Unbounded::Beams(field));
        for (more, expected) in [
            (r#""use_beam_search":true"#, refused("use_beam_search")),
            (r#""use_beam_search":1"#, refused("use_beam_search")),
            (r#""use_beam_search":"yes""#, refused("use_beam_search")),
            (r#""sampling_params":{"num_beams":4}"#, refused("num_beams")),
            (r#""use_beam_search":false,"num_beams":null,"beam_width":0"#, Ok(5)),
            (r#""metadata":{"use_beam_search":true}"#, Ok(5)),
        ] {
            let body = format!(r#"{{"max_tokens":5,{more}}}"#);
            for context in [None, Some(4_096)] {
                let found = of(CHAT, &body, context).map(|(_, completion)| completion);
                assert_eq!(found, expected, "{body}");
            }
        }
    }

    #[test]
    fn an_image_counts_its_maximum_and_not_its_bytes() {
        let data = "QUJD".repeat(100_000);
        let image = format!(
            r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}]}}"#
        );
        let (prompt, _) = of(CHAT, &image, None).expect("a bound");
        let least = MOST_OF_IMAGE + TEMPLATE;
        assert!((least..least + 900).contains(&prompt), "{prompt}");
        let text = |text: &str| {
            let part = r#"{"type":"text","text":"TEXT"},{"type":"image_url""#.replace("TEXT", text);
            of(CHAT, &image.replacen(r#"{"type":"image_url""#, &part, 1), None).expect("a bound").0
        };
        let empty = text("");
        assert_eq!(empty, prompt + 26, "its bytes");
        assert_eq!(text(&"a".repeat(100)), empty + 100, "a character of ASCII is a byte");
        assert_eq!(text(&"漢".repeat(100)), empty + 300, "another one is its bytes");
        assert_eq!(
            text(&"𝅘𝅥𝅮".repeat(100)),
            empty + 1_200,
            "what tokenizers make of U+1D160: three characters"
        );
        assert_eq!(text(&r"\ufdfa".repeat(100)), empty + 600 + 3_000, "and of U+FDFA eighteen, of 33 bytes");
        let embedded = r#"{"input":["a","b"],"prompt_name":"query"}"#;
        assert_eq!(
            of("/v1/embeddings", embedded, None),
            Ok((embedded.len() as u64 + TEMPLATE + 2 * EACH, 0)),
            "a server may add a prompt of its own to each"
        );
    }

    /// Regression: the whole body counted once for each document, so a thousand of 1 kB were a thousand million tokens.
    #[test]
    fn a_document_is_read_once_and_the_rest_with_each() {
        // With each of several queries a document is read once more.
        let scored = r#"{"text_1":["a","b"],"text_2":["much to read","c","d"]}"#;
        let (documents, bytes) = (r#"["much to read","c","d"]"#.len() as u64, scored.len() as u64);
        let expected = 2 * documents + 3 * (bytes - documents + TEMPLATE_OF_PAIR);
        assert_eq!(of("/v1/score", scored, None), Ok((expected, 0)));
        for (path, documents, body, times) in [
            ("/v1/rerank", r#"["a","b","c"]"#, r#"{"query":"why","documents":DOCS}"#, 3),
            ("/rerank", r#"["aé","b"]"#, r#"{"query":"why é","texts":DOCS,"passages":["a"]}"#, 2),
            ("/rerank", r#"["aé","b"]"#, r#"{"query":"why é","passages":["a"],"texts":DOCS}"#, 2),
            (
                "/generative_scoring",
                r#"["a","b"]"#,
                r#"{"query":"why","items":DOCS,"label_token_ids":[1,2,3]}"#,
                2,
            ),
            // Tokens are no texts, their lists are.
            (
                "/generative_scoring",
                "[[1],[2],[3]]",
                r#"{"query":[1,2],"items":DOCS,"label_token_ids":[1,2,3,4,5]}"#,
                3,
            ),
            // What is paired with what is not certain: everything counts as often as the longest list is long.
            ("/v1/score", "", r#"{"text_1":["a","b","c"],"text_2":"much to read"}"#, 3),
            ("/v1/score", "", r#"{"text_1":["a","b","c"],"text_2":["much to read"]}"#, 3),
            ("/rerank", "", r#"{"query":"why","documents":[["a","b","c"],"d"]}"#, 3),
        ] {
            let body = body.replace("DOCS", documents);
            // The normal form of é is a byte longer.
            let added = |text: &str| text.matches('é').count() as u64;
            let cost = |text: &str| text.len() as u64 + added(text);
            let rest = cost(&body) - cost(documents);
            let scored = if path == "/generative_scoring" { times } else { 0 };
            let expected = cost(documents) + times * (rest + TEMPLATE_OF_PAIR);
            assert_eq!(of(path, &body, None), Ok((expected, scored)), "{body}");
        }
        let alone = of("/generative_scoring", r#"{"query":"why","items":"a"}"#, None);
        assert_eq!(alone.map(|(_, scored)| scored), Ok(1), "one item, without a list");
        let document = format!("{:?},", "x".repeat(997)).repeat(1_000);
        let ordinary = format!(r#"{{"query":"why","documents":[{}]}}"#, document.trim_end_matches(','));
        let (prompt, _) = of("/v1/rerank", &ordinary, None).expect("a bound");
        assert!((2_000_000..2_100_000).contains(&prompt), "{prompt}");
    }

    /// A transcription has no more tokens than its decoder writes for each 30 seconds, and no fewer than the context of a server that
    /// reads the whole sound.
    #[test]
    fn compressed_sound_is_as_long_as_the_slowest_codec_makes_it() {
        const PATH: &str = "/v1/audio/transcriptions";
        let seconds = |seconds: u64| seconds * MOST_OF_HEARD_SECOND;
        let prompt = MOST_OF_FILE + TEMPLATE + 273 * EACH_PIECE;
        assert_eq!(of(PATH, "a file", None), Ok((prompt, seconds(1) + MOST_OF_HEARD)));
        // Regression: the context of Whisper's decoder, which is that of 30 seconds, took the place of the whole length.
        assert_eq!(of(PATH, "a file", Some(99)), Ok((prompt, seconds(1) + MOST_OF_HEARD)));
        assert_eq!(of(PATH, "a file", Some(8_192)), Ok((prompt, 8_192)));
        // Regression: Opus at 6 kbit/s was as long as at 64.
        let hour = "x".repeat(3_600 * 750);
        let counted = of(PATH, &hour, Some(448)).map(|(_, completion)| completion);
        assert_eq!(counted, Ok(seconds(3_600) + MOST_OF_HEARD));
        let found = find(PATH, Some(hour.as_bytes()), None).expect("a bound");
        assert_eq!((found.media.sound, Media::of(PATH, Some(hour.as_bytes())).sound), (3_600_000, 337_500));
        // A WAV file says how long it is: two seconds, of 1,000 samples each.
        let format =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\xe8\x03\0\0\0\0\0\0\x01\0\x08\0data\0\0\0\0";
        let wav = |samples: usize| {
            let head = b"--xyz\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n";
            let form = [&head[..], &format[..], &vec![0; samples][..], b"\r\n--xyz--\r\n"].concat();
            find(PATH, Some(&form), None).expect("a bound")
        };
        let found = wav(2_000);
        assert_eq!((found.media.sound, found.completion), (2_000, seconds(2) + MOST_OF_HEARD));
        let empty = wav(0);
        assert_eq!(empty.completion, MOST_OF_HEARD, "silence is written down, too");
    }

    /// Regression: an hour of sound in a WAV file of 3.6 kB counted as 3,600 tokens, and Voxtral makes 45,000 of it. And what vLLM reads
    /// anew with each 30 seconds of sound counted once.
    #[test]
    fn sound_counts_by_its_length_and_a_prompt_once_for_each_piece_of_it() {
        const PATH: &str = "/v1/audio/transcriptions";
        let wav = |seconds: usize| {
            let format =
                b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x01\0\0\0\x01\0\0\0\x01\0\x08\0data\0\0\0\0";
            [&format[..], &vec![0x80; seconds]].concat()
        };
        let prompt = |file: &[u8], text: &str| {
            let head = format!(
                "--xyz\r\nContent-Disposition: form-data; name=prompt\r\n\r\n{text}\r\n--xyz\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
            );
            let form = [head.as_bytes(), file, b"\r\n--xyz--\r\n"].concat();
            let found = find(PATH, Some(&form), None).expect("a bound").prompt;
            found - (form.len() - file.len()) as u64 - TEMPLATE
        };
        let pieces = |seconds: u64| seconds.div_ceil(20) - 1;
        assert_eq!(prompt(&wav(3_600), ""), 180_000 + pieces(3_600) * EACH_PIECE);
        assert_eq!(prompt(&wav(3_600), "hello"), 180_000 + pieces(3_600) * (EACH_PIECE + 5));
        assert_eq!(prompt(&wav(20), "hello"), MOST_OF_FILE, "one piece");
        assert_eq!(prompt(&wav(21), "hello"), MOST_OF_FILE + EACH_PIECE + 5);
        // Its length is not known: as many pieces as 65,536 tokens allow, or as its bytes do.
        assert_eq!(prompt(b"ID3", "hello"), MOST_OF_FILE + pieces(5_461) * (EACH_PIECE + 5));
        let hour = vec![7; 3_600 * 750];
        assert_eq!(prompt(&hour, "hello"), 180_000 + pieces(5_461) * (EACH_PIECE + 5));
        // The sound itself, without a form.
        let found = find(PATH, Some(&wav(3_600)), None).expect("a bound");
        assert_eq!(found.prompt, TEMPLATE + 180_000 + pieces(3_600) * EACH_PIECE);
    }

    /// Regression: each file made room for 65,536 bytes of text.
    #[test]
    fn the_text_of_a_form_counts_beside_its_files() {
        let form = |parts: &[(&str, usize)]| {
            let part = |(head, size): &(&str, usize)| {
                format!(
                    "--xyz\r\nContent-Disposition: form-data; name={head}\r\n\r\n{}\r\n",
                    "x".repeat(*size)
                )
            };
            parts.iter().map(part).collect::<String>() + "--xyz--\r\n"
        };
        let prompt = |parts: &[(&str, usize)]| {
            let (body, bare) =
                (form(parts), form(&parts.iter().map(|(head, _)| (*head, 0)).collect::<Vec<_>>()));
            let (prompt, _) = of("/v1/images/edits", &body, None).expect("a bound");
            prompt - TEMPLATE - bare.len() as u64
        };
        let (small, large, most) = (1_000, 200_000, MOST_OF_FILE as usize);
        for (parts, expected) in [
            (&[("\"file\"; filename=\"a\"", large)][..], most),
            (&[("\"file\"; filename=\"a\"", small), ("prompt", large)], most + large),
            (&[("\"file\"; filename=\"a\"", large), ("\"b\"; filename=\"b\"", small)], 2 * most),
            (
                &[("\"file\"; filename=\"a\"", large), ("\"b\"; filename=\"b\"", large), ("prompt", small)],
                2 * most + small,
            ),
        ] {
            assert_eq!(prompt(parts), expected as u64, "{parts:?}");
        }
        // Neither JSON nor a form: it may be compressed, or in another encoding.
        assert_eq!(of("/v1/embeddings", "{\0\"\0i\0", None), Err(Unbounded::Unread));
        assert_eq!(of("/v1/embeddings", r#"["a"]"#, None), Err(Unbounded::Unread));
    }

    /// Regression: the reader of models skips what is inside an image, so anything there hid all images behind it.
    #[test]
    fn what_only_some_readers_can_read_is_refused_inside_a_medium_too() {
        let image = r#"{"type":"image_url","image_url":{"url":"http://a"}},"#.repeat(1_000);
        let deep = "[".repeat(200) + &"]".repeat(200);
        for odd in ["1e999", r#""\ud800""#, &deep] {
            for medium in [
                r#"{"type":"image_url","image_url":{"url":"http://a","x":ODD}}"#,
                r#"{"type":"input_audio","input_audio":{"data":"QQ==","x":[ODD]}}"#,
                r#"{"type":"image","source":{"type":"url","url":"http://a","x":ODD}}"#,
            ] {
                let medium = medium.replace("ODD", odd);
                let body = format!(
                    r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{medium},{}]}}]}}"#,
                    image.trim_end_matches(',')
                );
                assert!(crate::read::count(body.as_bytes()).is_some(), "the reader passes over it: {medium}");
                assert_eq!(of(CHAT, &body, Some(4_096)), Err(Unbounded::Partly), "{medium}");
            }
        }
    }

    /// Regression: an address in a field that is not known cost its bytes.
    #[test]
    fn a_field_that_is_not_known_may_hold_a_medium() {
        let with = |field: &str| {
            let body = format!(r#"{{"prompt":"a","max_tokens":5,{field}}}"#);
            let bytes = body.len() as u64 + TEMPLATE;
            (of("/v1/completions", &body, None).map(|(prompt, _)| prompt - bytes), body)
        };
        let base64 = format!(r#""ref_images":["{}"]"#, "QUJD".repeat(50));
        for (field, files) in [
            // As the values of settings are, and scalars.
            (
                r#""guided_decoding_backend":"xgrammar","sampler":["Euler a","DPM++ 2M"],"tomorrow":{"a":1.5,"b":null}"#,
                0,
            ),
            (r#""tomorrow":[1,2,3]"#, 0),
            (r#""user":"http://a","stop":["http://a"],"metadata":{"a":"http://a"}"#, 0),
            // What may be a medium, or name one.
            (&*base64, 1),
            (r#""ref_images":["/data/a.png","b.png"]"#, 2),
            (r#""tomorrow":{"of":[{"id":"file-BVJmVpM5H9pWFmDfHvHfTk"}]}"#, 1),
            (r#""tomorrow":"All of this is prose, and may be read.""#, 1),
            (
                r#""tomorrow":{"metadata":{"a":"/a.png"},"source":"/b.png","type":["/c.png"],"input":"/d.png"}"#,
                4,
            ),
        ] {
            assert_eq!(with(field).0, Ok(files * MOST_OF_FILE), "{field}");
        }
        for (field, refusal) in [
            (r#""ref_images":["http://a","http://b"]"#, Unbounded::beside("ref_images")),
            (r#""tomorrow":{"a":[{"b":"data:image/png;base64,QQ=="}]}"#, Unbounded::beside("tomorrow")),
            (r#""fps":1,"tomorrow":"/data/a.mp4""#, Unbounded::Medium("fps")),
            (r#""tomorrow":{"source":"http://a"}"#, Unbounded::beside("tomorrow")),
            (r#""tomorrow":{"format":["http://a"]}"#, Unbounded::beside("tomorrow")),
        ] {
            let (found, body) = with(field);
            assert_eq!(found, Err(refusal), "{field}");
            assert_eq!(of("/v1/completions", &body, Some(4_096)), Ok((4_096, 5)), "{field}");
        }
    }

    /// Each of these once cost its bytes, or a part of what it may cost.
    #[test]
    fn what_its_bytes_do_not_pay_for_counts_as_a_medium_or_is_refused() {
        const OTHER: u64 = MOST_OF_FILE;
        const IMAGE: u64 = MOST_OF_IMAGE;
        let media = |path: &str, body: &str| {
            let (prompt, _) = of(path, body, None).unwrap_or_else(|error| panic!("{body}: {error}"));
            prompt - prompt % IMAGE
        };
        let chat =
            |part: &str| format!(r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{part}]}}]}}"#);
        for (part, expected) in [
            (r#"{"type":"image_url","image_url":{"url":"http://a/b.png","detail":"high"}}"#, IMAGE),
            // vLLM has it in its cache.
            (r#"{"type":"image_url","image_url":null,"uuid":"x"}"#, IMAGE),
            (r#"{"image_url":null,"uuid":"x"}"#, OTHER),
            (r#"{"type":"input_audio","input_audio":{"data":"QQ==","format":"wav"}}"#, OTHER),
            (
                r#"{"type":"video_url","video_url":{"url":"http://a/b"}},{"type":"video","video":"http://a"}"#,
                2 * OTHER,
            ),
            (r#"{"type":"tomorrow","tomorrow":"http://a/b"}"#, OTHER),
            (r#"{"type":"text","type":"image_url","text":"a"}"#, OTHER),
            (r#"{"type":"image","source":{"type":"url","url":"http://a/b"}}"#, IMAGE),
            (r#"{"source":{"type":"file","file_id":"f"},"type":"document"}"#, OTHER),
            (r#"{"type":"document","source":{"type":"text","data":"hi","media_type":"text/plain"}}"#, 0),
            (
                r#"{"type":"tool_use","id":"t","name":"f","input":{"image":"a","File":"b","type":"c","fps":1}}"#,
                0,
            ),
            (r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"a"}]}"#, 0),
            (
                r#"{"type":"tool_result","content":[{"type":"image","source":{"type":"base64","data":"AAAA"}}]}"#,
                IMAGE,
            ),
            (r#"{"type":"text","text":"a","image_url":null,"audio":null,"images":[]}"#, 0),
            (r#"{"type":"video","video":[[0.5,1],[2,3]]}"#, OTHER),
            // One medium hides no other.
            (r#"{"type":"video_url","video_url":{"url":"http://a","image":"b"}}"#, IMAGE + OTHER),
            (r#"{"type":"image_url","image_url":{"url":"http://a","video":"b"}}"#, IMAGE + OTHER),
            (r#"{"type":"image_url","image_url":{"url":"http://a","data":[1,2]}}"#, 2 * IMAGE),
            (r#"{"type":"tomorrow","content":"http://a","image":"b"}"#, IMAGE + OTHER),
            // Nor is one counted twice, or what is none.
            (r#"{"type":"image_url","image_url":{"url":["http://a","b"]}}"#, 2 * IMAGE),
            (r#"{"type":"image_url","image_url":{"detail":"high","images":["a","b"]}}"#, 2 * IMAGE),
            (r#"{"type":"video_url","video_url":{"url":"http://a","image":null}}"#, OTHER),
            // Which of two types counts depends on the reader.
            (r#"{"type":"text","type":["image"],"text":"a"}"#, OTHER),
            (r#"{"type":"text","type":null,"text":"a"}"#, OTHER),
            (r#"{"type":"tool_use","type":null,"name":"f","input":{"image":"a"}}"#, IMAGE),
            // A source is a medium, unless it says nothing of one.
            (r#"{"source":{"type":"url","url":"http://a"}}"#, OTHER),
            (r#"{"type":"text","text":"a","source":[1,2]}"#, OTHER),
            (r#"{"type":"text","text":"a","source":{"title":"b"}}"#, 0),
            // Whoever takes these for `format` and `caller` reads text.
            (r#"{"type":"text","text":"a","Format":"b","Caller":"c"}"#, 0),
            (r#"{"type":"image","source":"http://a"}"#, IMAGE),
            (r#"{"type":"image","source":{"path":"a"}}"#, IMAGE),
            (r#"{"source":[{"type":"url","url":"http://a"},{"type":"url","url":"http://b"}]}"#, 2 * OTHER),
            (
                r#"{"type":"search_result","source":"http://a","title":"b","content":[{"type":"text","text":"c"}]}"#,
                0,
            ),
            // TGI fetches what Markdown refers to without other words.
            (r#"{"type":"text","text":"![](http://a) ![b](http://c)"},"![](http://a)""#, 2 * IMAGE),
            (r#"{"type":"tool_use","name":"f","input":{"a":"![](b)"}}"#, IMAGE),
            (r#""data:image/png;base64,AAAA""#, IMAGE),
        ] {
            assert_eq!(media(CHAT, &chat(part)), expected, "{part}");
        }
        for (path, body, expected) in [
            (
                "/v1/completions",
                r#"{"max_tokens":5,"prompt":"a","multi_modal_data":{"image":["a","b"],"video":"c"}}"#,
                2 * IMAGE + OTHER,
            ),
            (
                "/completion",
                r#"{"n_predict":5,"prompt":{"prompt_string":"a","multimodal_data":["QQ==","QQ=="]}}"#,
                2 * OTHER,
            ),
            (
                "/generate",
                r#"{"text":"a","sampling_params":{"max_new_tokens":5},"image_data":[["a","b"],["c"]]}"#,
                3 * IMAGE,
            ),
            // The query's image is read once more with each document.
            (
                "/v1/score",
                r#"{"text_1":{"content":[{"type":"image_url","image_url":{"url":"a"}}]},"text_2":["a","b"]}"#,
                2 * IMAGE,
            ),
            (
                "/rerank",
                r#"{"query":"a","documents":{"content":[{"type":"image_url","image_url":{"url":"a"}},{"type":"image_url","image_url":{"url":"b"}}]}}"#,
                4 * IMAGE,
            ),
            // That of a document is read once.
            ("/rerank", r#"{"query":"a","documents":["![](b)","c"]}"#, IMAGE),
            // In what is text as a whole, data is text.
            (
                CHAT,
                r#"{"max_tokens":5,"messages":[],"metadata":{"a":"data:image/png;base64,AAAA","b":["data:,c"]}}"#,
                0,
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"type":"input_image","image_url":"http://a"},{"type":"tomorrow"}]}"#,
                IMAGE + OTHER,
            ),
            // Regression: a type at the top of the body made it the arguments of a tool, and a text.
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"type":"tool_use","input":{"image":"a"}}]}"#,
                IMAGE + OTHER,
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","image_url":"http://a"}}]}"#,
                IMAGE,
            ),
            (
                "/api/chat",
                r#"{"options":{"num_predict":5},"messages":[{"role":"user","content":"a","images":["QQ==","QQ=="]}]}"#,
                2 * IMAGE,
            ),
            (
                "/v1/messages",
                r#"{"max_tokens":5,"messages":[],"metadata":{"image_url":"a"},"tools":[{"name":"a","input_schema":{"type":"object","properties":{"file":{"type":"x"}}}}]}"#,
                0,
            ),
        ] {
            assert_eq!(media(path, body), expected, "{body}");
        }
        let url = r#"{"type":"image_url","image_url":{"url":"http://a"}}"#;
        for (path, body, expected) in [
            (
                CHAT,
                chat(&url.replace("\"url\"", "\"max_pixels\":9,\"url\"")),
                Unbounded::Medium("max_pixels"),
            ),
            (CHAT, chat(&url.replace("}}", "},\"max_pixels\":9}")), Unbounded::Medium("max_pixels")),
            (CHAT, chat(&url.replace("\"url\"", "\"tomorrow\":9,\"url\"")), Unbounded::beside("tomorrow")),
            (
                CHAT,
                chat(r#"{"type":"text","text":"a","source":{"type":"url","url":"b"},"tomorrow":1}"#),
                Unbounded::beside("tomorrow"),
            ),
            (CHAT, chat(r#"{"type":"image","source":{"Type":"base64","data":"AAAA"}}"#), Unbounded::Name),
            (CHAT, chat(&url.replace("}}", "},\"tomorrow\":9}")), Unbounded::beside("tomorrow")),
            (
                CHAT,
                chat(url).replace("{\"max", "{\"mm_processor_kwargs\":{\"size\":9},\"max"),
                Unbounded::Medium("mm_processor_kwargs"),
            ),
            (CHAT, chat(url).replace("{\"max", "{\"tomorrow\":1,\"max"), Unbounded::beside("tomorrow")),
            (CHAT, chat(&url.replace("image_url\":{", "Image_URL\":{")), Unbounded::Name),
            (CHAT, chat(&url.replace("\"type", "\"Type")), Unbounded::Name),
            (
                "/api/chat",
                r#"{"options":{"num_predict":5},"messages":[{"role":"user","Images":["QQ=="]}]}"#.into(),
                Unbounded::Name,
            ),
            (
                "/v1/completions",
                r#"{"max_tokens":5,"prompt_embeds":"QQ=="}"#.into(),
                Unbounded::Medium("prompt_embeds"),
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"id":"msg_1"}]}"#.into(),
                Unbounded::History("item_reference"),
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"type":"item_reference","id":"msg_1"}]}"#.into(),
                Unbounded::History("item_reference"),
            ),
            // A medium beside the id says nothing of what it is for.
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"id":"msg_1","source":[1]}]}"#.into(),
                Unbounded::History("item_reference"),
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":[{"id":"msg_1","image":"a"}]}"#.into(),
                Unbounded::History("item_reference"),
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"input":"a","prompt":{"id":"p"}}"#.into(),
                Unbounded::History("prompt"),
            ),
            (
                "/v1/responses",
                r#"{"max_output_tokens":5,"type":"tool_use","input":{"image":"a"}}"#.into(),
                Unbounded::beside("type"),
            ),
            (
                "/sdapi/v1/txt2img",
                r#"{"prompt":"a","script_name":"x/y/z plot"}"#.into(),
                Unbounded::Script("script_name"),
            ),
        ] {
            assert_eq!(of(path, &body, None), Err(expected.clone()), "{body}");
            let in_context = of(path, &body, Some(4_096)).map(|(prompt, _)| prompt);
            let is_lasting = matches!(expected, Unbounded::Script(_));
            assert_eq!(in_context, if is_lasting { Err(expected) } else { Ok(4_096) }, "{body}");
        }
        assert!(
            of(
                CHAT,
                &chat(r#"{"type":"text","text":"a"}"#).replace("{\"max", "{\"fps\":1,\"tomorrow\":1,\"max"),
                None
            )
            .is_ok()
        );
        // Base64 is data only where media are named; elsewhere it is text, and its bytes count.
        let data = format!("data:image/png;base64,{}", "A".repeat(IMAGE as usize));
        let read = format!(r#"{{"max_output_tokens":5,"input":"{data}"}}"#);
        assert!(of("/v1/responses", &read, None).expect("a bound").0 > 2 * IMAGE);
    }

    /// Regression: a list of numbers as `source`, or an image beside a field that is not known, made the bound of a long text that of the
    /// model's context. vLLM embeds longer texts in parts (`enable_chunked_processing`).
    #[test]
    fn a_long_text_has_no_smaller_bound_for_what_stands_beside_it() {
        let text = "hello ".repeat(33_000);
        for path in ["/v1/embeddings", "/rerank", "/pooling"] {
            for beside in [r#""source":[1]"#, r#""source":["a"]"#, r#""image":"a","tomorrow":1"#] {
                let body = format!(r#"{{"input":"{text}",{beside}}}"#);
                let (bound, _) = of(path, &body, Some(8_192)).expect("a bound");
                assert!(bound >= text.len() as u64, "{path} {beside}: {bound}");
            }
        }
    }

    /// Whatever else stands where a medium is expected may be read as text, and costs its bytes beside the medium.
    #[test]
    fn only_base64_that_is_a_medium_costs_no_bytes() {
        let (base64, url) = ("A".repeat(65), r#"{"type":"image_url","image_url":{"url":"TEXT"}}"#);
        let source = |fields: &str| format!(r#"{{"type":"document","source":{{{fields}}}}}"#);
        let image = source(r#""type":"base64","media_type":"image/png","data":"TEXT""#);
        let of_type = |name: &str| format!("data:{name},{base64}");
        for (part, text, is_data) in [
            (url, base64.clone(), true),
            (url, of_type("image/png;base64"), true),
            (url, of_type(&"x".repeat(123)), true),
            (url, of_type(&"x".repeat(124)), false),
            (url, base64[1..].to_owned(), false),
            (url, of_type("image/png;base64")[1..].to_owned(), false),
            (url, format!("data:image/png;base64,{}", &base64[1..]), false),
            (url, format!("see this,{base64}"), false),
            (url, "All of this is prose, and may be read. ".repeat(9), false),
            (url, "All of this is prose and may be read ".repeat(9), false),
            (r#"{"type":"file","file":{"file_data":"TEXT"}}"#, base64.clone(), true),
            // A file may be text that is named like a file.
            (r#"{"type":"file","file":"TEXT"}"#, base64.clone(), false),
            (&image, base64.clone(), true),
            (&source(r#""data":"TEXT","type":"base64""#), base64.clone(), true),
            (&format!("{image},{image},{url}"), base64.clone(), true),
            // The source of a document is its text, unless all readers take it for base64.
            (&source(r#""type":"text","data":"TEXT""#), base64.clone(), false),
            (&source(r#""data":"TEXT""#), base64.clone(), false),
            (&source(r#""type":"text","type":"base64","data":"TEXT""#), base64.clone(), false),
            (&source(r#""type":"base64","type":"base64","data":"TEXT""#), base64.clone(), false),
        ] {
            let prompt = |text: &str| {
                let part = part.replace("TEXT", text);
                let body = format!(r#"{{"max_tokens":5,"messages":[{{"role":"user","content":[{part}]}}]}}"#);
                of(CHAT, &body, None).expect("a bound").0
            };
            let bytes = if is_data { 0 } else { text.len() as u64 };
            assert_eq!(prompt(&text), prompt("") + bytes, "{part} {text}");
        }
    }

    /// What is estimated, and corrected later, is within what was reserved.
    #[test]
    fn the_bound_is_never_below_the_estimate() {
        for (path, body) in [
            (CHAT, r#"{"messages":[{"role":"user","content":"äöü 漢字 😀"}],"max_tokens":1}"#),
            (
                CHAT,
                r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"QQ=="}}]}],"max_completion_tokens":9}"#,
            ),
            ("/v1/completions", r#"{"prompt":[[1,2,3],[4,5]],"n":2,"max_tokens":7}"#),
            (
                "/v1/messages",
                r#"{"max_tokens":3,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"text","data":"hello"}}]}]}"#,
            ),
            ("/v1/embeddings", r#"{"input":["a","b"]}"#),
            ("/api/chat", r#"{"messages":[],"options":{"num_predict":4}}"#),
        ] {
            let (most, estimate) =
                (of(path, body, None).expect(body), sum(path, Some(body.as_bytes()), None));
            assert!(most.0 >= estimate.prompt && most.1 >= estimate.answer, "{body}: {most:?} {estimate:?}");
        }
    }
}
