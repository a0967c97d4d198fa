//! Just enough of [`multipart/form-data`](https://www.rfc-editor.org/rfc/rfc7578) for a transcription request: the value
//! of the `model` field and the size of the `file`.

/// The fields of a form that the simulated server looks at. Of two fields with one name the last counts, as in Starlette.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) model: Option<String>,
    pub(super) file_size: Option<usize>,
}

impl Form {
    /// Reads a body whose `Content-Type` header is given; `None` when it is not a form.
    pub(super) fn read(content_type: &str, body: &[u8]) -> Option<Self> {
        if !content_type.to_ascii_lowercase().starts_with("multipart/form-data") {
            return None;
        }
        let boundary = parameter(content_type, "boundary")?;
        // The first delimiter has no line before it; give it one, so that all delimiters look alike.
        let text = [b"\r\n", body].concat();
        let delimiter = format!("\r\n--{boundary}");
        let mut form = Self::default();
        for part in split(&text, delimiter.as_bytes()).skip(1) {
            form.take(part);
        }
        Some(form)
    }

    fn take(&mut self, part: &[u8]) {
        let Some(end) = find(part, b"\r\n\r\n") else { return };
        let head = String::from_utf8_lossy(&part[..end]).into_owned();
        let value = &part[end + 4..];
        match parameter(&head, "name").as_deref() {
            Some("model") => self.model = Some(String::from_utf8_lossy(value).into_owned()),
            Some("file") => self.file_size = Some(value.len()),
            _ => {}
        }
    }
}

/// `name=value` or `name="value"` among the parameters of a header.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split([';', '\r']).find_map(|piece| {
        let (key, value) = piece.trim().split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn split<'a>(text: &'a [u8], delimiter: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (piece, next) = match find(text, delimiter) {
            Some(at) => (&text[..at], Some(&text[at + delimiter.len()..])),
            None => (text, None),
        };
        rest = next;
        Some(piece)
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    // Uploads of 100 MB are sent to unoptimised test programs, too.
    memchr::memmem::find(text, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_model_and_the_size_of_the_file() {
        let body = b"--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n\
            --xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
            Content-Type: audio/wav\r\n\r\n\0\r\n\r\n--\xff\r\n--xyz--\r\n";
        let form = Form::read("multipart/form-data; boundary=xyz", body);
        assert_eq!(form, Some(Form { model: Some("whisper".to_owned()), file_size: Some(8) }));
    }

    #[test]
    fn is_no_form_under_another_content_type() {
        assert_eq!(Form::read("application/json", b"{}"), None);
        assert_eq!(Form::read("multipart/form-data", b"no boundary"), None);
    }
}
