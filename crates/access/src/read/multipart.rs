//! Reads the model of a multipart form (RFC 7578, RFC 2046 §5.1): uploads of audio and images.
//!
//! Form parsers tolerate different faults: text before the first part, line ends without a carriage return, folded headers, two
//! names for one part. This one tolerates none, so that all parsers agree on what it accepts. It supports only what clients
//! really send.

use memchr::memmem;
use percent_encoding::percent_decode_str;

use super::{
    Unreadable, Where,
    field::{Field, MODEL, OtherField},
    media_type::is_utf8,
    parameters::{self, BLANKS, Parameter},
};

/// Starlette's limit; vLLM and SGLang are built on it.
const MAX_PARTS: usize = 1_000;
/// The maximum total length of a part's headers, in bytes.
const MAX_HEADERS_LEN: usize = 8 * 1024;
/// The maximum number of a part's headers.
const MAX_HEADERS: usize = 8;

type WhyRefused = &'static str;

/// The headers of a part.
#[derive(Debug, Default)]
struct Head<'a> {
    disposition: Option<&'a str>,
    content_type: Option<&'a str>,
    length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
}

/// The relevant parts of a form.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The model.
    pub(super) model: Option<String>,
    /// A field that refers to what servers store for everybody.
    pub(super) stored: Option<&'static str>,
    /// A field other than `model` by which some server chooses one.
    pub(super) other: Option<&'static OtherField>,
}

/// Reads a form.
pub(super) fn read(body: &[u8], boundary: &str) -> Result<Read, Unreadable> {
    let (mut model, mut stored, mut other) = (None, None, None);
    for part in split(body, boundary).map_err(Unreadable::Multipart)? {
        let (head, content) = Head::read(part).map_err(Unreadable::Multipart)?;
        let (name, is_file) = head.name().map_err(Unreadable::Multipart)?;
        match field(name)? {
            Field::Any | Field::Name => {}
            Field::Other(field) => other = Some(field),
            Field::Stored(field) if field.counts_in_forms() => stored = Some(field.name),
            Field::Stored(_) => {}
            Field::Model if model.is_some() => return Err(Unreadable::ModelRepeated(Where::Form)),
            Field::Model if is_file => return Err(Unreadable::Multipart("\"model\" is a file")),
            Field::Model => {
                head.check_model().map_err(Unreadable::Multipart)?;
                model = Some(std::str::from_utf8(content).map_err(|_| Unreadable::NotUtf8)?.to_owned());
            }
        }
    }
    Ok(Read { model, stored, other })
}

/// A part of a form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_file: bool,
    pub(crate) content: &'a [u8],
}

/// The parts of a form that has passed the reader; `None` if it is no form. Its first line is its boundary.
pub(crate) fn parts(body: &[u8]) -> Option<impl Iterator<Item = Part<'_>>> {
    let first = &body[..memmem::find(body, b"\r\n")?];
    let boundary = std::str::from_utf8(first.strip_prefix(b"--")?).ok()?;
    let parts = split(body, boundary).ok()?.into_iter().filter_map(|part| {
        let (head, content) = Head::read(part).ok()?;
        let (name, is_file) = head.name().ok()?;
        Some(Part { name, is_file, content })
    });
    Some(parts)
}

/// The meaning of a part's name. Browsers percent-encode quotes in names, and some readers decode them.
fn field(name: &str) -> Result<Field, Unreadable> {
    let decoded = percent_decode_str(name).decode_utf8_lossy();
    // Others leave it as it is.
    if decoded != name {
        Field::of(name, Where::Form)?;
    }
    let refuse = |field| Err(Unreadable::Disguised { field, place: Where::Form });
    match Field::of(&decoded, Where::Form)? {
        Field::Model if decoded != name => refuse(MODEL),
        Field::Other(field) if decoded != name => refuse(field.name),
        field => Ok(field),
    }
}

/// Splits a body into its parts: each is headers, an empty line, and content.
///
/// The boundary may occur nowhere else: readers differ in how they treat `--boundary` in the middle of a line, or with
/// something after it.
fn split<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, WhyRefused> {
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    let mut rest = body.strip_prefix(delimiter.as_bytes()).ok_or("it does not start with its boundary")?;
    let mut parts = Vec::new();
    while let Some(part_onwards) = rest.strip_prefix(b"\r\n") {
        if parts.len() == MAX_PARTS {
            return Err("it has too many parts");
        }
        let end = finder.find(part_onwards).ok_or("its last boundary is missing")?;
        let part = part_onwards[..end].strip_suffix(b"\r\n").ok_or("its boundary occurs within a line")?;
        parts.push(part);
        rest = &part_onwards[end + delimiter.len()..];
    }
    match rest {
        b"--" | b"--\r\n" => Ok(parts),
        _ => Err("something else than the end of a line follows a boundary"),
    }
}

impl<'a> Head<'a> {
    /// Reads a part's headers, and returns its content as well.
    fn read(part: &'a [u8]) -> Result<(Self, &'a [u8]), WhyRefused> {
        // The search for the empty line includes the last header's line end, so that "no headers" is found, too.
        let window = &part[..part.len().min(MAX_HEADERS_LEN)];
        let end = memmem::find(window, b"\r\n\r\n").ok_or("a part's headers do not end")?;
        let text = std::str::from_utf8(&part[..end]).map_err(|_| "a part's headers are not UTF-8")?;
        let content = &part[end + 4..];
        let mut head = Self::default();
        for (count, line) in text.split("\r\n").enumerate() {
            if count == MAX_HEADERS {
                return Err("a part has too many headers");
            }
            head.add(line)?;
        }
        // A reader that uses the length would see other parts.
        if head.length.is_some_and(|length| length != content.len().to_string()) {
            return Err("a part has another length than it says");
        }
        Ok((head, content))
    }

    fn add(&mut self, line: &'a str) -> Result<(), WhyRefused> {
        let (name, value) = line.split_once(':').ok_or("a part has a header without a colon")?;
        // This also refuses folded lines, which start with a blank.
        if !parameters::is_token(name) {
            return Err("a part has a header with a wrong name");
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err("a part has a header with a control character");
        }
        let slot = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut self.disposition,
            "content-type" => &mut self.content_type,
            "content-length" => &mut self.length,
            "content-transfer-encoding" => &mut self.transfer_encoding,
            _ => return Ok(()),
        };
        match slot.replace(value.trim_matches(BLANKS)) {
            None => Ok(()),
            Some(_) => Err("a part has a header twice"),
        }
    }

    /// The part's name, and whether it is a file.
    fn name(&self) -> Result<(&'a str, bool), WhyRefused> {
        let disposition = self.disposition.ok_or("a part has no Content-Disposition")?;
        let (kind, parameters) = parameters::split(disposition)?;
        if !kind.eq_ignore_ascii_case("form-data") {
            return Err("a part is not form-data");
        }
        let content_type = self.content_type.unwrap_or_default().as_bytes();
        if content_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/")) {
            return Err("a part has parts of its own");
        }
        let (mut name, mut file, mut encoded_file) = (None, None, None);
        for Parameter { name: parameter, value } in parameters {
            let slot = match parameter {
                "name" => &mut name,
                "filename" => &mut file,
                "filename*" => &mut encoded_file,
                _ => return Err("a Content-Disposition has an unknown parameter"),
            };
            if slot.replace(value).is_some() {
                return Err("a Content-Disposition has a parameter twice");
            }
        }
        let name = name.ok_or("a part has no name")?;
        match name {
            // RFC 7578 §4.6: it would change how the other parts are read.
            _ if name.trim().eq_ignore_ascii_case("_charset_") => Err("a part sets the charset"),
            _ if name.contains('\\') => Err("a part's name has a backslash"),
            _ => Ok((name, file.or(encoded_file).is_some())),
        }
    }

    /// Checks that the part is plain text to every reader.
    fn check_model(&self) -> Result<(), WhyRefused> {
        if self.transfer_encoding.is_some() {
            return Err("\"model\" has a Content-Transfer-Encoding");
        }
        let Some(content_type) = self.content_type else { return Ok(()) };
        let (media_type, parameters) = parameters::split(content_type)?;
        let plain = media_type.eq_ignore_ascii_case("text/plain");
        let utf8 = |p: &Parameter<'_>| {
            p.name.eq_ignore_ascii_case("charset")
                && (is_utf8(p.value) || p.value.eq_ignore_ascii_case("us-ascii"))
        };
        match plain && parameters.len() <= 1 && parameters.iter().all(utf8) {
            true => Ok(()),
            false => Err("\"model\" is not plain text in UTF-8"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A form of parts, each given as headers and content.
    fn form(parts: &[(&str, &str)]) -> String {
        let parts: String =
            parts.iter().map(|(head, content)| format!("--xyz\r\n{head}\r\n\r\n{content}\r\n")).collect();
        format!("{parts}--xyz--\r\n")
    }

    fn read(body: &str) -> Result<Option<String>, Unreadable> {
        let read = super::read(body.as_bytes(), "xyz")?;
        match read.other {
            Some(field) => Err(field.refusal()),
            None => Ok(read.model),
        }
    }

    const MODEL_HEAD: &str = "Content-Disposition: form-data; name=\"model\"";
    const FILE_HEAD: &str =
        "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav";

    #[test]
    fn forms_as_clients_send_them_are_read() {
        let file = (FILE_HEAD, "RIFF\r\n-- \r\n--x\r\n\r\n\0");
        for head in [
            MODEL_HEAD,
            "content-disposition: Form-Data; name=model",
            "Content-Disposition:form-data;name=\"model\"",
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=UTF-8",
            "Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"model\"\r\nContent-Length: 5",
            "Content-Disposition: form-data; name=\"model\"\r\nX-Other: 1\t2",
        ] {
            for parts in [[(head, "llama"), file], [file, (head, "llama")]] {
                assert_eq!(read(&form(&parts)).expect(head).as_deref(), Some("llama"), "{head}");
            }
        }
        assert_eq!(read(&form(&[file])).expect("a form"), None);
        assert_eq!(read("--xyz--").expect("an empty form"), None);
        assert_eq!(read(&form(&[(MODEL_HEAD, "")])).expect("a form").as_deref(), Some(""));
        for head in [
            "Content-Disposition: form-data; name=\"f\"; filename=\"d\u{e9}j\u{e0}.wav\"",
            "Content-Disposition: form-data; name=\"f\"; filename=\"x\"; filename*=utf-8''%e2%82%ac.wav",
            "Content-Disposition: form-data; name=\"f\"; filename=\"C:\\a.wav\"",
            "Content-Disposition: form-data; name=\"messages[0][model]\"",
        ] {
            assert_eq!(read(&form(&[(head, "x"), (MODEL_HEAD, "a")])).expect(head).as_deref(), Some("a"));
        }
    }

    /// The head of a part with this after `name=`.
    fn name(text: &str) -> String {
        format!("Content-Disposition: form-data; name={text}")
    }

    /// The head of the part with the model, and more.
    fn model_and(text: &str) -> String {
        format!("{MODEL_HEAD}{text}")
    }

    #[track_caller]
    fn assert_refused(heads: &[(String, &str)]) {
        for (head, code) in heads {
            let refused = read(&form(&[(head, "llama")])).expect_err(head);
            assert_eq!(refused.code(), *code, "{head}: {refused}");
            assert!(!refused.is_media_type());
        }
    }

    #[test]
    fn parts_that_readers_take_differently_are_refused() {
        assert_refused(&[
            // Another name for it.
            (name("\"Model\""), "model_ambiguous"),
            (name("\" model\""), "model_ambiguous"),
            (name("\"model[]\""), "model_ambiguous"),
            (name("\"mod%65l\""), "model_ambiguous"),
            (name("\"%4dodel\""), "model_ambiguous"),
            // Found by fuzzing: as it stands, a reader that leaves out what is no letter would take it for the model.
            (name("\"mo%del\""), "model_ambiguous"),
            (name("\"lora%_path\""), "model_ambiguous"),
            (name("\"lora%5Fpath\""), "model_ambiguous"),
            (name("\"mod\\el\""), "invalid_multipart"),
            (name("\"model\\\""), "invalid_multipart"),
            (name("\"x\\\"; name=\"model\""), "invalid_multipart"),
            (name("x; name=model"), "invalid_multipart"),
            (name("x; Name=model"), "invalid_multipart"),
            (name("x; name*=utf-8''model"), "invalid_multipart"),
            (name("mo; name*0=model"), "invalid_multipart"),
            (name("x; size=1"), "invalid_multipart"),
            (name("'model'"), "model_ambiguous"),
            (name("_charset_"), "invalid_multipart"),
            ("Content-Disposition: form-data; filename=x".into(), "invalid_multipart"),
            ("Content-Disposition: form-data".into(), "invalid_multipart"),
            ("Content-Disposition: attachment; name=model".into(), "invalid_multipart"),
            ("Content-Type: text/plain".into(), "invalid_multipart"),
            // Other fields that choose a model.
            (name("lora_path"), "field_not_accepted"),
            (name("Lora_Path"), "model_ambiguous"),
        ]);
    }

    #[test]
    fn a_model_in_a_file_encoded_or_below_faulty_headers_is_refused() {
        let many = format!("{MODEL_HEAD}{}", "\r\nX: 1".repeat(MAX_HEADERS));
        let long = format!("{MODEL_HEAD}\r\nX: {}", "x".repeat(MAX_HEADERS_LEN));
        assert_refused(&[
            // A file, or encoded.
            (model_and("; filename=\"x\""), "invalid_multipart"),
            (model_and("; filename=\"\""), "invalid_multipart"),
            (model_and("; filename*=utf-8''x"), "invalid_multipart"),
            (model_and("\r\nContent-Transfer-Encoding: base64"), "invalid_multipart"),
            (model_and("\r\nContent-Transfer-Encoding: 8bit"), "invalid_multipart"),
            (model_and("\r\nContent-Type: application/json"), "invalid_multipart"),
            (model_and("\r\nContent-Type: text/plain; charset=utf-16"), "invalid_multipart"),
            (model_and("\r\nContent-Type: text/plain; charset=utf-8; charset=utf-16"), "invalid_multipart"),
            (model_and("\r\nContent-Length: 9"), "invalid_multipart"),
            // Faulty headers.
            (model_and("\r\nContent-Disposition: form-data; name=\"x\""), "invalid_multipart"),
            (model_and("\r\nContent-Type: text/plain\r\ncontent-type: text/plain"), "invalid_multipart"),
            (model_and(";\r\n filename=\"x\""), "invalid_multipart"),
            (model_and("\nX: 1"), "invalid_multipart"),
            (model_and("\rX: 1"), "invalid_multipart"),
            (model_and("\0"), "invalid_multipart"),
            (model_and("\r\nX: \u{1}"), "invalid_multipart"),
            (model_and("\r\nX"), "invalid_multipart"),
            (model_and("\r\nX : 1"), "invalid_multipart"),
            ("Content-Disposition : form-data; name=\"model\"".into(), "invalid_multipart"),
            (" Content-Disposition: form-data; name=\"model\"".into(), "invalid_multipart"),
            ("\u{feff}Content-Disposition: form-data; name=\"model\"".into(), "invalid_multipart"),
            (
                "Content-Disposition: form-data; name=\"f\"\r\nContent-Type: Multipart/mixed; boundary=y"
                    .into(),
                "invalid_multipart",
            ),
            (many, "invalid_multipart"),
            (long, "invalid_multipart"),
        ]);
        let twice = form(&[(MODEL_HEAD, "a"), (FILE_HEAD, ""), (MODEL_HEAD, "a")]);
        assert_eq!(read(&twice), Err(Unreadable::ModelRepeated(Where::Form)));
        let latin1 = form(&[(MODEL_HEAD, "l?ma")]).replace('?', "\u{1}").into_bytes();
        let latin1: Vec<_> = latin1.into_iter().map(|b| if b == 1 { 0xe9 } else { b }).collect();
        assert_eq!(super::read(&latin1, "xyz").err(), Some(Unreadable::NotUtf8));
    }

    #[test]
    fn boundaries_stand_exactly_where_they_must() {
        let part = format!("{MODEL_HEAD}\r\n\r\nllama");
        let good = format!("--xyz\r\n{part}\r\n--xyz--\r\n");
        assert_eq!(read(&good).expect("a form").as_deref(), Some("llama"));
        for body in [
            String::new(),
            "x".into(),
            format!("preamble\r\n{good}"),
            format!("\r\n{good}"),
            format!("{good}epilogue"),
            format!("{good}\r\n"),
            good.replace("\r\n", "\n"),
            good.replace("--xyz\r\n", "--xyz \r\n"),
            good.replace("--xyz\r\n", "--xyz\n"),
            good.replace("--xyz--\r\n", "--xyz-- "),
            good.replace("--xyz--\r\n", "--xyz-"),
            good.replace("--xyz--\r\n", "--xyz\r\n"),
            good.replace("--xyz--\r\n", "--XYZ--\r\n"),
            good.replace("--xyz--", ""),
            // Within the content: another boundary to somebody.
            good.replace("llama", "llama\r\n--xyzzy"),
            good.replace("llama", "llama\n--xyz\n"),
            good.replace("llama", "llama\r--xyz\r"),
            good.replace("llama", "--xyz"),
            good.replace("llama", "llama--xyz--"),
            good.replace("llama", "llama\r\n--xyz \r\n"),
            good.replace("llama", "llama\r\n--xyz--\r\nmore"),
            // Within the headers.
            good.replace("\"model\"", "\"model--xyz\""),
            good.replace("\r\n\r\nllama", "\r\n--xyz\r\n\r\nllama"),
            // The empty line and the boundary share a line end.
            format!("--xyz\r\n{MODEL_HEAD}\r\n\r\n--xyz--\r\n"),
            // No headers at all.
            "--xyz\r\n\r\nllama\r\n--xyz--\r\n".into(),
            "--xyz\r\n--xyz--\r\n".into(),
            form(&vec![(FILE_HEAD, ""); MAX_PARTS + 1]),
        ] {
            let refused = read(&body).expect_err(&body);
            assert!(matches!(refused, Unreadable::Multipart(_)), "{body:?}: {refused}");
        }
        assert!(read(&form(&vec![(FILE_HEAD, ""); MAX_PARTS])).is_ok());
    }

    #[test]
    fn a_boundary_of_dashes_is_found() {
        let body = format!("------\r\n{MODEL_HEAD}\r\n\r\nllama\r\n--------\r\n");
        assert_eq!(super::read(body.as_bytes(), "----").expect("a form").model.as_deref(), Some("llama"));
    }

    proptest! {
        #[test]
        fn every_content_comes_back_or_is_refused(contents in prop::collection::vec("[a-z\r\n\\-]{0,40}", 0..4)) {
            let mut parts: Vec<_> = contents.iter().map(|content| (FILE_HEAD, content.as_str())).collect();
            parts.insert(parts.len() / 2, (MODEL_HEAD, "llama"));
            if let Ok(found) = read(&form(&parts)) {
                prop_assert_eq!(found.as_deref(), Some("llama"));
            }
        }

        #[test]
        fn a_form_with_changed_bytes_does_not_panic(
            changes in prop::collection::vec((0usize..400, any::<u8>()), 1..6),
        ) {
            let mut body = form(&[(FILE_HEAD, "RIFF"), (MODEL_HEAD, "llama")]).into_bytes();
            for (at, byte) in changes {
                let at = at % body.len();
                body[at] = byte;
            }
            if let Ok(Read { model: Some(found), .. }) = super::read(&body, "xyz") {
                prop_assert!(memmem::find(&body, found.as_bytes()).is_some());
            }
        }

        #[test]
        fn random_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200), boundary in "[a-z-]{1,3}") {
            let mut marked = format!("--{boundary}\r\n").into_bytes();
            marked.extend(body);
            prop_assert!(!matches!(super::read(&marked, &boundary), Err(refused) if refused.is_media_type()));
        }
    }
}
