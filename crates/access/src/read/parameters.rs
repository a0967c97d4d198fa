//! The parameters of `Content-Type` and `Content-Disposition` (RFC 9110 §5.6.6).

/// A parameter: `; name=value` or `; name="value"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    /// The name as it was written; case does not matter.
    pub(super) name: &'a str,
    /// The value without quotes. Backslashes are kept, because readers differ: some remove one, others do not know them. No
    /// value has a backslash before a quote.
    pub(super) value: &'a str,
}

/// More than any client sends.
const MAX_PARAMETERS: usize = 8;

/// Splits a header value into the part before the first `;` and its parameters.
///
/// # Errors
/// The reason, if it has any other form.
pub(super) fn split(value: &str) -> Result<(&str, Vec<Parameter<'_>>), &'static str> {
    let end = value.find(';').unwrap_or(value.len());
    let (head, mut rest) = value.split_at(end);
    let mut parameters = Vec::new();
    while let Some(after) = rest.strip_prefix(';') {
        let after = after.trim_start_matches(BLANKS);
        if after.is_empty() {
            return Ok((head.trim_matches(BLANKS), parameters));
        }
        if parameters.len() == MAX_PARAMETERS {
            return Err("it has too many parameters");
        }
        let (parameter, after) = parameter(after)?;
        parameters.push(parameter);
        rest = after.trim_start_matches(BLANKS);
    }
    match rest {
        "" => Ok((head.trim_matches(BLANKS), parameters)),
        _ => Err("something follows a parameter"),
    }
}

/// Optional white space (RFC 9110 §5.6.3).
pub(super) const BLANKS: [char; 2] = [' ', '\t'];

fn parameter(text: &str) -> Result<(Parameter<'_>, &str), &'static str> {
    let (name, after) = text.split_once('=').ok_or("a parameter has no value")?;
    if !is_token(name) {
        return Err("a parameter's name is not a token");
    }
    let Some(quoted) = after.strip_prefix('"') else {
        let end = after.find(|c: char| c == ';' || BLANKS.contains(&c)).unwrap_or(after.len());
        let (value, after) = after.split_at(end);
        return match is_token(value) {
            true => Ok((Parameter { name, value }, after)),
            false => Err("a parameter's value needs quotes"),
        };
    };
    let (value, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
    if value.ends_with('\\') {
        return Err("a quote is escaped with a backslash");
    }
    if value.chars().any(char::is_control) {
        return Err("a parameter holds a control character");
    }
    Ok((Parameter { name, value }, after))
}

/// A token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_apart() {
        let (head, parameters) = split("form-data; name=\"a;b\" ;\tfilename=x;").expect("a value");
        assert_eq!(head, "form-data");
        let pairs: Vec<_> = parameters.iter().map(|p| (p.name, p.value)).collect();
        assert_eq!(pairs, [("name", "a;b"), ("filename", "x")]);
        assert_eq!(split(" text/plain "), Ok(("text/plain", Vec::new())));
        assert_eq!(split(r#"x; a="C:\y""#).expect("a value").1[0].value, r"C:\y");
    }

    #[test]
    fn whatever_is_unclear_is_refused() {
        for (value, reason) in [
            ("x; a", "a parameter has no value"),
            ("x;; a=b", "a parameter's name is not a token"),
            ("x; a =b", "a parameter's name is not a token"),
            ("x; =b", "a parameter's name is not a token"),
            ("x; a=", "a parameter's value needs quotes"),
            ("x; a= b", "a parameter's value needs quotes"),
            ("x; a=b/c", "a parameter's value needs quotes"),
            ("x; a=b c=d", "something follows a parameter"),
            ("x; a=\"b\"c", "something follows a parameter"),
            ("x; a=\"b", "a quote is not closed"),
            (r#"x; a="b\"; c="d""#, "a quote is escaped with a backslash"),
            ("x; a=\"b\u{7f}\"", "a parameter holds a control character"),
            ("x;a=1;a=1;a=1;a=1;a=1;a=1;a=1;a=1;a=1", "it has too many parameters"),
        ] {
            assert_eq!(split(value), Err(reason), "{value}");
        }
    }
}
