//! A strict reader of OpenMetrics 1.0 text
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>): whatever a real
//! scraper might refuse is refused.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Labels = BTreeMap<String, String>;

/// A family: its type, and its samples with the end of their name (`_total`, `_bucket` or nothing).
#[derive(Debug, Default)]
pub(crate) struct Family {
    kind: Option<String>,
    has_help: bool,
    samples: Vec<(String, Labels, f64)>,
}

#[derive(Debug)]
pub(crate) struct Exposition(BTreeMap<String, Family>);

impl Exposition {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.strip_suffix("# EOF\n").ok_or("it does not end in # EOF")?;
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in lines.lines() {
            let wrong = |why: &str| format!("{why}: {line:?}");
            if let Some(comment) = line.strip_prefix("# ") {
                let [word, name, rest] = split(comment).ok_or_else(|| wrong("no comment"))?;
                if name != current {
                    if families.contains_key(name) || !is_name(name, true) {
                        return Err(wrong("a name that is wrong or came before"));
                    }
                    name.clone_into(&mut current);
                }
                let family = families.entry(current.clone()).or_default();
                if !family.samples.is_empty() {
                    return Err(wrong("a comment after samples"));
                }
                match word {
                    "HELP" if !family.has_help && !rest.is_empty() => family.has_help = true,
                    "TYPE" if family.kind.is_none() => family.kind = Some(rest.to_owned()),
                    _ => return Err(wrong("not one HELP and one TYPE")),
                }
            } else {
                let (name, labels, value) = sample(line).ok_or_else(|| wrong("no sample"))?;
                let family = families.get_mut(&current).ok_or_else(|| wrong("a sample of no family"))?;
                let end = name.strip_prefix(&current).ok_or_else(|| wrong("a sample of another family"))?;
                if family.samples.iter().any(|(e, l, _)| e == end && *l == labels) {
                    return Err(wrong("the same sample again"));
                }
                family.samples.push((end.to_owned(), labels, value));
            }
        }
        for (name, family) in &families {
            family.check().map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(Self(families))
    }

    /// All samples of a family whose names end so, with their labels.
    pub(crate) fn samples<'a>(
        &'a self,
        family: &str,
        end: &'a str,
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        let samples = &self.0.get(family).unwrap_or_else(|| panic!("no family {family}")).samples;
        samples.iter().filter(move |(e, _, _)| e == end).map(|(_, labels, value)| (labels, *value))
    }

    /// The one sample with these labels; 0 if there is none, as Prometheus has it of counters.
    pub(crate) fn value(&self, family: &str, end: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.samples(family, end).find(|(found, _)| **found == labels).map_or(0.0, |(_, value)| value)
    }
}

impl Family {
    fn check(&self) -> Result<(), String> {
        let ends = |allowed: &[&str]| {
            let wrong = self.samples.iter().find(|(end, _, _)| !allowed.contains(&end.as_str()));
            wrong.map_or(Ok(()), |sample| Err(format!("{sample:?}")))
        };
        let label_names: BTreeSet<Vec<&String>> =
            self.samples.iter().map(|(_, l, _)| l.keys().filter(|name| *name != "le").collect()).collect();
        if label_names.len() > 1 {
            return Err(format!("samples have different labels: {label_names:?}"));
        }
        if !self.has_help {
            return Err("no HELP".into());
        }
        match self.kind.as_deref() {
            Some("gauge") => ends(&[""]),
            Some("counter") => {
                ends(&["_total"])?;
                let good = |value: f64| value.is_finite() && value >= 0.0;
                self.samples.iter().all(|s| good(s.2)).then_some(()).ok_or("a bad count".into())
            }
            Some("info") => {
                ends(&["_info"])?;
                self.samples.iter().all(|s| s.2 == 1.0).then_some(()).ok_or("not 1".into())
            }
            Some("histogram") => {
                ends(&["_bucket", "_sum", "_count"])?;
                self.check_buckets()
            }
            other => Err(format!("a type that is not used here: {other:?}")),
        }
    }

    /// Of one histogram without labels of its own.
    fn check_buckets(&self) -> Result<(), String> {
        let mut buckets = Vec::new();
        for (end, labels, count) in &self.samples {
            if end == "_bucket" {
                let le = labels.get("le").ok_or("a bucket without le")?;
                let le = if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| "a bad le")? };
                buckets.push((le, *count));
            }
        }
        let rising = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let of =
            |wanted: &str| self.samples.iter().find(|(end, _, _)| end == wanted).map(|(_, _, value)| *value);
        let (Some(count), Some(_)) = (of("_count"), of("_sum")) else { return Err("no count or sum".into()) };
        let last = buckets.last().copied();
        (rising && last == Some((f64::INFINITY, count))).then_some(()).ok_or(format!("{buckets:?}, {count}"))
    }
}

fn split(comment: &str) -> Option<[&str; 3]> {
    let (word, rest) = comment.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    Some([word, name, rest])
}

fn is_name(name: &str, with_colon: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || with_colon && c == ':';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// `name{label="value",…} number`, with single spaces and nothing else.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = label_value(after)?;
            if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = after.strip_prefix(',')?;
        }
    }
    let number = rest.strip_prefix(' ')?;
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e');
    let value = number.chars().all(plain).then(|| number.parse().ok())??;
    is_name(name, true).then(|| (name.to_owned(), labels, value))
}

/// A value up to its closing quote, and what stands behind that.
fn label_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}
