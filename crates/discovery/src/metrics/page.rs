//! Reads pages in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>) line by line, and keeps nothing of them.
//!
//! The crates that parse the whole format build maps of everything, of which five numbers are wanted here.

/// One line with a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample<'p> {
    pub(super) name: &'p str,
    /// What stands between the braces.
    labels: &'p str,
    pub(super) value: f64,
}

/// The samples of a page. Lines that are not in the format are left out; so are those whose value is not a finite number.
pub(super) fn samples(page: &[u8]) -> impl Iterator<Item = Sample<'_>> {
    page.split(|byte| *byte == b'\n').filter_map(|line| Sample::read(std::str::from_utf8(line).ok()?))
}

impl<'p> Sample<'p> {
    fn read(line: &'p str) -> Option<Self> {
        let line = line.trim_matches([' ', '\t', '\r']);
        let (name, rest) = line.split_at(line.find(|c| !is_of_name(c))?);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let rest = rest.trim_start_matches([' ', '\t']);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inside) => {
                let end = SampleLabels(inside).end()?;
                (&inside[..end], &inside[end + 1..])
            }
            None => ("", rest),
        };
        // A time may follow.
        let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        value.is_finite().then_some(Self { name, labels, value })
    }

    /// The value of a label, as it is written: `\"`, `\\` and `\n` stand for what they escape.
    pub(super) fn label(&self, name: &str) -> Option<&'p str> {
        SampleLabels(self.labels).find(|(other, _)| *other == name).map(|(_, value)| value)
    }
}

/// `a="b",c="d"`, up to the closing brace or the end.
#[derive(Clone, Copy)]
struct SampleLabels<'p>(&'p str);

impl<'p> SampleLabels<'p> {
    /// Where the closing brace is.
    fn end(self) -> Option<usize> {
        let mut rest = self;
        rest.by_ref().for_each(drop);
        rest.0.starts_with('}').then(|| self.0.len() - rest.0.len())
    }
}

impl<'p> Iterator for SampleLabels<'p> {
    type Item = (&'p str, &'p str);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_start_matches([' ', '\t', ',']);
        self.0 = text;
        let (name, rest) = text.split_once('=')?;
        let name = name.trim_end();
        let inside = rest.trim_start().strip_prefix('"').filter(|_| name.chars().all(is_of_name))?;
        let end = end_of_quoted(inside)?;
        self.0 = inside[end + 1..].trim_start_matches([' ', '\t']);
        Some((name, &inside[..end]))
    }
}

fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_a_name_labels_and_a_value() {
        let page = "# HELP a b\n# TYPE a counter\r\na 1\nb{} 2.5 1395066363000\n\
                    c{ x=\"1\" , y=\"}\\\"\\\\\",} 8.128902e+06\n\td_total\t{z=\"\"}\t4\r\n";
        let found: Vec<_> = samples(page.as_bytes()).collect();
        let names: Vec<_> = found.iter().map(|sample| (sample.name, sample.value)).collect();
        assert_eq!(names, [("a", 1.0), ("b", 2.5), ("c", 8_128_902.0), ("d_total", 4.0)]);
        let labels = ["x", "y", "z"].map(|name| found[2].label(name));
        assert_eq!(labels, [Some("1"), Some("}\\\"\\\\"), None]);
        assert_eq!(found[3].label("z"), Some(""));
    }

    #[test]
    fn one_bad_line_takes_no_other_away() {
        let page = "a\n1a 2\na{x=\"1\" 2\na{x=1} 2\na{x=\"1} 2\na NaN\na +Inf\na x\n{x=\"1\"} 2\na{x=\"1\"}\n\u{e9} 1\nok 7\n";
        let mut page = page.as_bytes().to_vec();
        page.extend(b"\xff 1\nb 8");
        let found: Vec<_> = samples(&page).map(|sample| (sample.name, sample.value)).collect();
        assert_eq!(found, [("ok", 7.0), ("b", 8.0)]);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(page in "[a-c{}=\",\\\\0-9 .\n\u{e9}]{0,80}") {
            for sample in samples(page.as_bytes()) {
                prop_assert!(!sample.name.is_empty() && sample.value.is_finite());
                prop_assert_eq!(sample.label("\u{e9}"), None);
            }
        }
    }
}
