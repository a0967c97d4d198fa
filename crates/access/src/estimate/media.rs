//! What requests use that is not counted in tokens: images that are made, sound that is heard, text that is spoken.
//!
//! Only three kinds of endpoints count, as OpenAI has them (<https://platform.openai.com/docs/api-reference>); what a chat contains
//! of images and sound counts as tokens:
//!
//! - `/images/generations`, `/images/edits`, `/images/variations`: as many images as the field `n` asks for, whatever their size;
//! - `/sdapi/v1/txt2img` and `/img2img` (AUTOMATIC1111 and those that copy it): `batch_size` times `n_iter`, and `/sdcpp/v1/img_gen`
//!   (stable-diffusion.cpp): `batch_count`;
//! - `/audio/transcriptions`, `/audio/translations`: the length of the files. That of a WAV file with samples follows from its
//!   header and its bytes. That of any other file is estimated at [`SOUND_BYTES`] bytes a second, because only a decoder knows it;
//! - `/audio/speech`: the characters of `input`.

use std::{borrow::Cow, fmt};

use memchr::memmem;
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{answers_in_tokens, endpoint, generates_nothing, without_query};
use crate::read::{Part, parts, resembles};

/// The bytes that a second of sound takes in a file whose length is not known: 64 kbit/s, as usual for speech in MP3 or AAC.
pub const SOUND_BYTES: u64 = 8_000;
/// The bytes that a second of sound takes at least, in a file whose length is not known: 6 kbit/s, the lowest rate of speech in Opus
/// (RFC 6716 §2). MP3, AAC and FLAC take more. Only files made for it, or of silence, take less.
pub const LEAST_SOUND_BYTES: u64 = 750;
/// The sound of a request whose body does not pass through here, in milliseconds: ten minutes.
pub const UNSEEN_SOUND: u64 = 600_000;

/// What a request uses that is not counted in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Media {
    /// Images that it asks for.
    pub images: u32,
    /// Sound that it sends to be written down, in milliseconds.
    pub sound: u32,
    /// Characters that it sends to be spoken.
    pub characters: u32,
}

/// What an endpoint makes or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Images,
    Sound,
    Speech,
}

/// What the requests of a path are paid by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaidBy {
    /// Tokens of prompts and answers.
    Tokens,
    /// Tokens of prompts: nothing is generated.
    Prompt,
    /// Images that are made.
    Images,
    /// Sound that is written down.
    Sound,
    /// Characters that are spoken.
    Characters,
    /// Nothing: they only tell something about the server, its models, or a prompt that no model reads.
    Nothing,
    /// It is not known: the path is one of a server's own.
    Unknown,
}

impl PaidBy {
    /// Of a path, and a body that may be empty; `None` if there may be one that was not handed over.
    pub fn of(uri: &str, body: Option<&[u8]>) -> Self {
        /// What only tells something: models, and how a server is.
        const TELLS: [&str; 10] =
            ["models", "health", "healthz", "live", "ready", "readyz", "ping", "version", "metrics", "sdapi"];
        let path = &*without_query(uri);
        let is_empty = body.is_some_and(<[u8]>::is_empty) && !uri.contains('?');
        match Kind::of(path) {
            _ if generates_nothing(path) => Self::Nothing,
            _ if is_empty && path.split('/').any(|segment| TELLS.contains(&segment)) => Self::Nothing,
            Some(Kind::Images) => Self::Images,
            Some(Kind::Sound) => Self::Sound,
            Some(Kind::Speech) => Self::Characters,
            None if !answers_in_tokens(path) => Self::Prompt,
            None if endpoint(path).is_some() => Self::Tokens,
            None => Self::Unknown,
        }
    }
}

/// Fields that say how many images are made: OpenAI's, and those of servers that have another one besides.
const NUMBERS_OF_IMAGES: [&str; 5] =
    ["n", "num_images", "num_images_per_prompt", "num_outputs_per_prompt", "batch_size"];
/// Paths of image servers' own APIs.
const OWN_PATHS: [&str; 3] = ["/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdcpp/v1/img_gen"];
/// Fields that say how often that is done.
const TIMES: [&str; 2] = ["n_iter", "batch_count"];
/// Texts that are images each (LocalAI).
const PROMPTS: &str = "prompt";
/// stable-diffusion.cpp takes arguments from a prompt, between tags of this name, also how many images it makes
/// (<https://github.com/leejet/stable-diffusion.cpp/blob/master/examples/server/README.md>).
const ARGUMENTS: &str = "sd_cpp_extra_args";
/// Fields of AUTOMATIC1111's API by which a script makes any number of images
/// (<https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API>).
const SCRIPTS: [&str; 2] = ["script_name", "alwayson_scripts"];

impl Kind {
    fn of(path: &str) -> Option<Self> {
        let path = &*without_query(path);
        let is_own = |end: &str| path.ends_with(end);
        if OWN_PATHS.into_iter().any(is_own) {
            return Some(Self::Images);
        }
        let mut from_end = path.rsplit('/');
        let (last, before) = (from_end.next()?, from_end.next()?);
        match (before, last) {
            ("images", "generations" | "edits" | "variations") => Some(Self::Images),
            ("audio", "transcriptions" | "translations") => Some(Self::Sound),
            ("audio", "speech") => Some(Self::Speech),
            _ => None,
        }
    }
}

impl Media {
    /// Of a request that has passed the reader. `None` stands for a body that there may be, but was not handed over: it counts an
    /// image, or [`UNSEEN_SOUND`].
    pub fn of(path: &str, body: Option<&[u8]>) -> Self {
        let Some(kind) = Kind::of(path) else { return Self::default() };
        let nothing = Self::default();
        match (kind, body) {
            (_, Some([])) => nothing,
            (Kind::Images, body) => Self { images: small(body.map_or(1, images)), ..nothing },
            (Kind::Sound, body) => Self { sound: small(body.map_or(UNSEEN_SOUND, sound)), ..nothing },
            (Kind::Speech, body) => Self { characters: small(body.map_or(0, characters)), ..nothing },
        }
    }

    /// The most that it may be, of the same request.
    pub(super) fn at_most(self, path: &str, body: &[u8]) -> Self {
        let lengths = lengths_at_most(path, body);
        let most = lengths.iter().map(|length| length.milliseconds()).fold(0, u64::saturating_add);
        Self { sound: small(most).max(self.sound), ..self }
    }

    /// How much longer its sound may be than estimated, in milliseconds.
    pub fn longer_sound(self, path: &str, body: Option<&[u8]>) -> u32 {
        let most = body.map_or(self, |body| self.at_most(path, body));
        most.sound.saturating_sub(self.sound)
    }

    /// Whether sound is to be written down that is not in the body: the server would fetch it, however long it is.
    pub(crate) fn is_heard_elsewhere(path: &str, body: &[u8]) -> bool {
        if Kind::of(path) != Some(Kind::Sound) || body.is_empty() {
            return false;
        }
        match parts(body) {
            Some(mut parts) => !parts.any(|part| is_sound(&part)),
            None => body.trim_ascii_start().starts_with(b"{"),
        }
    }

    /// Whether the path is one that uses any, so that the body must be known.
    pub fn is_used_by(path: &str) -> bool {
        Kind::of(path).is_some()
    }

    /// Images, milliseconds of sound, and characters.
    pub fn counts(self) -> [i64; 3] {
        [self.images, self.sound, self.characters].map(i64::from)
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The images that a body asks for: of several numbers the largest, as often as the largest of the others says, and one without any; so
/// many for each prompt of a list.
fn images(body: &[u8]) -> u64 {
    let (mut most, mut prompts) = ([1_u64; 2], 1);
    let mut see = |name: &str, value: &[u8]| {
        if resembles(name, PROMPTS) {
            prompts = elements(value).max(prompts);
        }
        for (known, most) in [&NUMBERS_OF_IMAGES[..], &TIMES].into_iter().zip(&mut most) {
            if known.iter().any(|known| resembles(name, known)) {
                *most = number(value).unwrap_or(1).max(*most);
            }
        }
    };
    match parts(body) {
        Some(parts) => {
            parts.for_each(|part| see(&percent_decode_str(part.name).decode_utf8_lossy(), part.content));
        }
        None => {
            let fields = EachField(|name: &str, value: &RawValue| see(name, value.get().as_bytes()));
            // What is no JSON is refused by every server.
            let _ = serde_json::Deserializer::from_slice(body).deserialize_map(fields);
        }
    }
    most[0].saturating_mul(most[1]).saturating_mul(prompts)
}

/// How many elements a value has, if it is a list.
fn elements(value: &[u8]) -> u64 {
    serde_json::from_slice::<Vec<IgnoredAny>>(value).map_or(1, |list| list.len() as u64)
}

/// The field by which a script makes any number of images, if there is one, or the tag in a prompt by which it does.
pub(super) fn script(path: &str, body: &[u8]) -> Option<&'static str> {
    if Kind::of(path) != Some(Kind::Images) {
        return None;
    }
    if has_arguments(body) {
        return Some(ARGUMENTS);
    }
    if !OWN_PATHS.iter().any(|own| path.ends_with(own)) {
        return None;
    }
    let mut found = None;
    let fields = EachField(|name: &str, value: &RawValue| {
        let script = SCRIPTS.into_iter().find(|script| resembles(name, script));
        found = script.filter(|_| !matches!(value.get(), "null" | "{}" | "\"\"")).or(found);
    });
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(fields);
    found
}

/// Whether a text of a body has [`ARGUMENTS`].
fn has_arguments(body: &[u8]) -> bool {
    if memmem::find(body, ARGUMENTS.as_bytes()).is_some() {
        return true;
    }
    // By another spelling of its letters.
    let mut found = false;
    let fields = EachField(|_: &str, value: &RawValue| {
        found |= value.get().contains('\\')
            && serde_json::from_str::<Value>(value.get()).is_ok_and(|value| {
                memmem::find(value.to_string().as_bytes(), ARGUMENTS.as_bytes()).is_some()
            });
    });
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(fields);
    found
}

/// A number as servers read it: digits, a float, or either in quotes. Readers know other digits than ASCII's; such a number counts as
/// the largest.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` stops at both ends")]
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned());
    let text = text.trim().trim_matches('"').trim().replace('_', "");
    if !text.is_ascii() {
        return Some(u64::MAX);
    }
    text.parse::<f64>().ok().map(|number| number.ceil() as u64)
}

/// The length of a sound.
#[derive(Debug, Clone, Copy)]
pub(super) enum SoundLength {
    /// By its header and its bytes, in milliseconds.
    Exact(u64),
    /// By its bytes, in milliseconds. Only sound that is made for it, or silence, is longer.
    AtMost(u64),
}

impl SoundLength {
    fn milliseconds(self) -> u64 {
        match self {
            Self::Exact(length) | Self::AtMost(length) => length,
        }
    }

    /// In seconds, rounded up.
    pub(super) fn seconds(self) -> u64 {
        self.milliseconds().div_ceil(1_000)
    }
}

/// How long each sound of a body is at most that is to be written down: [`LEAST_SOUND_BYTES`] are a second of a file whose length is not
/// known.
pub(super) fn lengths_at_most(path: &str, body: &[u8]) -> Vec<SoundLength> {
    if Kind::of(path) != Some(Kind::Sound) || body.is_empty() {
        return Vec::new();
    }
    let of = |file: &[u8]| match wav(file) {
        Some(length) => SoundLength::Exact(length),
        None => SoundLength::AtMost(of_bytes(file, LEAST_SOUND_BYTES)),
    };
    let lengths: Vec<SoundLength> = match parts(body) {
        Some(parts) => parts.filter(is_sound).map(|part| of(part.content)).collect(),
        None => vec![of(body)],
    };
    if lengths.is_empty() { vec![SoundLength::AtMost(UNSEEN_SOUND)] } else { lengths }
}

/// The length of all files of a form, in milliseconds; a body that is no form is one file.
fn sound(body: &[u8]) -> u64 {
    match parts(body) {
        Some(parts) => {
            let lengths: Vec<u64> = parts.filter(is_sound).map(|part| length(part.content)).collect();
            if lengths.is_empty() { UNSEEN_SOUND } else { lengths.iter().sum() }
        }
        None => of_bytes(body, SOUND_BYTES),
    }
}

fn is_sound(part: &Part<'_>) -> bool {
    part.is_file || part.name == "file"
}

fn length(file: &[u8]) -> u64 {
    wav(file).unwrap_or_else(|| of_bytes(file, SOUND_BYTES))
}

fn of_bytes(file: &[u8], rate: u64) -> u64 {
    (file.len() as u64 * 1_000).div_ceil(rate)
}

/// The length of a WAV file with samples (<https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html>). All that follows
/// the header counts as samples, whatever lengths are written there. `None` if it is no such file.
fn wav(file: &[u8]) -> Option<u64> {
    const EXTENDED: u16 = 0xFFFE;
    let mut rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let mut format: Option<&[u8]> = None;
    loop {
        let (name, length) = (rest.get(..4)?, u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?));
        rest = &rest[8..];
        if name == b"data" {
            break;
        }
        // Chunks have an even number of bytes.
        let length = usize::try_from(length).ok()?;
        let chunk = rest.get(..length)?;
        rest = rest.get(length.checked_add(length % 2)?..)?;
        // Readers differ about which of two counts.
        if name == b"fmt " && format.replace(chunk).is_some() {
            return None;
        }
    }
    let format = format?;
    let number = |at: usize| Some(u16::from_le_bytes(format.get(at..at + 2)?.try_into().ok()?));
    let rate = u64::from(u32::from_le_bytes(format.get(4..8)?.try_into().ok()?));
    let (kind, channels, bits) = (number(0)?, number(2)?, number(14)?);
    // The extended form has the kind at the start of an identifier.
    let kind = if kind == EXTENDED { number(24)? } else { kind };
    let bytes_of_sample = match (kind, bits) {
        // Integers, and floats.
        (1, 8 | 16 | 24 | 32) | (3, 32 | 64) => u64::from(bits / 8),
        // A-law and µ-law have a byte, whatever stands there.
        (6 | 7, _) => 1,
        _ => return None,
    };
    let bytes = rate * u64::from(channels) * bytes_of_sample;
    (bytes > 0).then(|| (rest.len() as u64 * 1_000).div_ceil(bytes))
}

/// The characters of a text that is to be spoken. If it cannot be read, each byte of the body counts.
fn characters(body: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Speech<'b> {
        #[serde(borrow)]
        input: Cow<'b, str>,
    }
    match serde_json::from_slice::<Speech<'_>>(body) {
        Ok(Speech { input }) => input.chars().count() as u64,
        Err(_) => body.len() as u64,
    }
}

/// Sees each field of an object.
struct EachField<F>(F);

impl<'de, F: FnMut(&str, &RawValue)> Visitor<'de> for EachField<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            self.0(&name, map.next_value()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, body: &[u8]) -> [i64; 3] {
        Media::of(path, Some(body)).counts()
    }

    fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut form = Vec::new();
        for (head, content) in parts {
            form.extend(format!("--xyz\r\nContent-Disposition: form-data; name={head}\r\n\r\n").as_bytes());
            form.extend(*content);
            form.extend(b"\r\n");
        }
        form.extend(b"--xyz--\r\n");
        form
    }

    #[test]
    fn images_are_as_many_as_are_asked_for_however_that_is_written() {
        const PATH: &str = "/v1/images/generations?api-version=1";
        for (body, expected) in [
            (r#"{"model":"m","prompt":"a cat"}"#, 1),
            (r#"{"n":4}"#, 4),
            (r#"{"n":"4"}"#, 4),
            (r#"{"n":3.2}"#, 4),
            (r#"{"n":1e3}"#, 1_000),
            (r#"{"n":2,"n":7}"#, 7),
            (r#"{"n":1,"N":9}"#, 9),
            (r#"{"n":1,"num_outputs_per_prompt":6}"#, 6),
            (r#"{"n":null}"#, 1),
            (r#"{"n":0}"#, 1),
            (r#"{"n":-5}"#, 1),
            (r#"{"n":[5]}"#, 1),
            (r#"{"n":"\u0039\u0039"}"#, 99),
            (r#"{"n":"９９"}"#, i64::from(u32::MAX)),
            (r#"{"n":1e999}"#, i64::from(u32::MAX)),
            (r#"{"batch_size":3,"n_iter":"4","Batch_Count":2}"#, 12),
            ("no JSON", 1),
        ] {
            assert_eq!(of(PATH, body.as_bytes()), [expected, 0, 0], "{body}");
        }
        let edit = form(&[("n", b"3"), ("image; filename=a.png", b"\x89PNG n"), ("size", b"1024x1024")]);
        assert_eq!(of("/openai/deployments/m/images/edits", &edit), [3, 0, 0]);
        assert_eq!(
            of("/v1/images/edits", &form(&[("%6E", b"3"), ("image; filename=a.png", b"")])),
            [3, 0, 0]
        );
        assert_eq!(of("/v1/images/variations", &form(&[("image; filename=a", b"9")])), [1, 0, 0]);
        assert_eq!(of("/v1/chat/completions", br#"{"n":4}"#), [0; 3]);
        assert_eq!(of("/v1/Images/gener%61tions", br#"{"n":4}"#), [4, 0, 0], "however the path is written");
        assert_eq!(of("/a/sdapi/v1/txt2img", br#"{"batch_size":4,"n_iter":2}"#), [8, 0, 0]);
        assert_eq!(of("/v1/images/generations", b""), [0; 3]);
        assert_eq!(Media::of("/v1/images/generations", None).counts(), [1, 0, 0]);
    }

    /// A WAV file: its samples, and what is said of them.
    fn wav_of(samples: usize, (kind, channels, rate, bits): (u16, u16, u32, u16)) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
        file.extend([kind, channels].into_iter().flat_map(u16::to_le_bytes));
        file.extend([rate, 7].into_iter().flat_map(u32::to_le_bytes));
        file.extend([9, bits].into_iter().flat_map(u16::to_le_bytes));
        file.extend(b"data\x01\0\0\0");
        file.extend(vec![0; samples]);
        file
    }

    #[test]
    fn sound_is_as_long_as_its_samples_or_estimated_by_its_bytes() {
        const PATH: &str = "/v1/audio/transcriptions";
        let length = |file: &[u8]| of(PATH, &form(&[("model", b"whisper"), ("file; filename=a", file)]))[1];
        assert_eq!(length(&wav_of(64_000, (1, 1, 16_000, 16))), 2_000, "whatever lengths it says");
        assert_eq!(length(&wav_of(88_200 * 4, (3, 2, 44_100, 32))), 1_000);
        assert_eq!(length(&wav_of(5, (1, 1, 1, 8))), 5_000, "a byte a second");
        assert_eq!(length(&wav_of(16_000, (7, 1, 8_000, 65_528))), 2_000, "a byte for each sample of µ-law");
        let url = form(&[("model", b"whisper"), ("file_url", b"http://a/b.wav")]);
        assert_eq!(of(PATH, &url)[1], UNSEEN_SOUND as i64, "the server would fetch it");
        assert!(Media::is_heard_elsewhere(PATH, &url));
        assert!(!Media::is_heard_elsewhere(PATH, &form(&[("file; filename=a", b"RIFF")])));
        for odd in [(1, 0, 16_000, 16), (1, 1, 0, 16), (2, 1, 16_000, 4)] {
            let file = wav_of(80_000, odd);
            assert_eq!(length(&file), file.len().div_ceil(8) as i64, "{odd:?}");
        }
        let mut twice = wav_of(8, (1, 1, 16_000, 16));
        twice.splice(12..12, b"fmt \x02\0\0\0\x01\0".iter().copied());
        assert_eq!(length(&twice), twice.len().div_ceil(8) as i64);
        assert_eq!(length(&[7; 16_000]), 2_000);
        assert_eq!(length(b"RIFF\0\0\0\0WAVEdata"), 2);
        let two = form(&[("file; filename=a", &[7; 8_000]), ("file; filename=b", &[7; 8_000])]);
        assert_eq!(of("/v1/audio/translations", &two), [0, 2_000, 0]);
        assert_eq!(of(PATH, &form(&[("file", &[7; 8_000])])), [0, 1_000, 0], "without a file's name");
        assert_eq!(of(PATH, &[7; 8_000]), [0, 1_000, 0], "no form");
        assert_eq!(Media::of(PATH, None).counts(), [0, 600_000, 0]);
    }

    /// A hard budget reserves what a decoder could find: a second of 750 bytes, and not of 8,000. Only a header tells a length.
    #[test]
    fn sound_may_be_longer_than_estimated_unless_its_header_says_how_long_it_is() {
        const PATH: &str = "/v1/audio/transcriptions";
        let file = |content: &[u8]| form(&[("file; filename=a", content)]);
        for (path, body, estimated, longer) in [
            (PATH, Some(file(&[7; 24_000])), 3_000, 29_000),
            (PATH, Some(file(&wav_of(64_000, (1, 1, 16_000, 16)))), 2_000, 0),
            (PATH, Some(form(&[("file_url", b"http://a")])), UNSEEN_SOUND, 0),
            (PATH, Some(Vec::new()), 0, 0),
            (PATH, None, UNSEEN_SOUND, 0),
            ("/v1/chat/completions", Some(b"{}".to_vec()), 0, 0),
        ] {
            let media = Media::of(path, body.as_deref());
            let found = (u64::from(media.sound), media.longer_sound(path, body.as_deref()));
            assert_eq!(found, (estimated, longer), "{path} {:?}", body.map(|body| body.len()));
        }
    }

    /// A price by image is no price of a chat, and a list of models is free: what a path is paid by says which price counts.
    #[test]
    fn a_path_says_what_its_requests_are_paid_by() {
        let (nothing, json): (&[u8], &[u8]) = (b"", b"{}");
        for (uri, body, expected) in [
            ("/v1/chat/completions", Some(json), PaidBy::Tokens),
            ("/v1/chat/completions", Some(nothing), PaidBy::Tokens),
            ("/v1/messages?beta=true", None, PaidBy::Tokens),
            ("/v1/embeddings", Some(json), PaidBy::Prompt),
            ("/v1/images/generations", Some(json), PaidBy::Images),
            ("/sdapi/v1/txt2img", Some(json), PaidBy::Images),
            ("/v1/audio/translations", Some(json), PaidBy::Sound),
            ("/v1/audio/speech", Some(json), PaidBy::Characters),
            ("/tokenize", Some(json), PaidBy::Nothing),
            // It only tells something if nothing is asked.
            ("/v1/models", Some(nothing), PaidBy::Nothing),
            ("/sdapi/v1/samplers", Some(nothing), PaidBy::Nothing),
            ("/v1/models", Some(json), PaidBy::Unknown),
            ("/v1/models?prompt=a", Some(nothing), PaidBy::Unknown),
            ("/v1/models", None, PaidBy::Unknown),
            ("/predict", Some(json), PaidBy::Unknown),
            ("/predict", Some(nothing), PaidBy::Unknown),
        ] {
            assert_eq!(PaidBy::of(uri, body), expected, "{uri} {body:?}");
        }
    }

    #[test]
    fn speech_is_as_long_as_its_text() {
        const PATH: &str = "/v1/audio/speech";
        assert_eq!(of(PATH, r#"{"input":"grün\n","voice":"x"}"#.as_bytes()), [0, 0, 5]);
        let twice = r#"{"input":"a","input":"bb"}"#;
        assert_eq!(of(PATH, twice.as_bytes()), [0, 0, twice.len() as i64]);
        assert_eq!(Media::of(PATH, None).counts(), [0; 3]);
    }
}
