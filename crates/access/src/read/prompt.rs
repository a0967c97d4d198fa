//! Where the prompt stands in a JSON body: what a server reads first comes first.
//!
//! It is looked for in a body that has passed the reader already, and decides only which server is likely to have the beginning of
//! the prompt in its cache. So values are skipped, not read: strings at the speed of `memchr`.

use memchr::memchr2;

/// The parts of a prompt as they stand in the body, in the order in which servers read them: tools, system prompt, messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptParts<'b>([&'b [u8]; 3]);

impl<'b> PromptParts<'b> {
    /// The parts of a body; empty if it is not a JSON object or has none of them.
    pub fn of(body: &'b [u8]) -> Self {
        let mut parts = Self::default();
        if (FieldScanner { body, at: 0 }).object(&mut parts).is_none() {
            // Not JSON after all: what was found so far may be wrong.
            parts = Self::default();
        }
        parts
    }

    /// The parts, of which at least one is not empty unless [`is_empty`](Self::is_empty).
    pub fn iter(&self) -> impl Iterator<Item = &'b [u8]> {
        self.0.into_iter().filter(|part| !part.is_empty())
    }

    /// Whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    fn place(key: &[u8]) -> Option<usize> {
        match key {
            b"tools" | b"functions" => Some(0),
            b"system" | b"instructions" => Some(1),
            b"messages" | b"prompt" | b"input" => Some(2),
            _ => None,
        }
    }
}

struct FieldScanner<'b> {
    body: &'b [u8],
    at: usize,
}

impl<'b> FieldScanner<'b> {
    fn object(&mut self, parts: &mut PromptParts<'b>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return Some(());
        }
        loop {
            let from = self.peek().filter(|byte| *byte == b'"').map(|_| self.at + 1)?;
            self.string()?;
            let key = self.body.get(from..self.at.checked_sub(1)?)?;
            self.expect(b':')?;
            self.peek()?;
            let from = self.at;
            self.value()?;
            if let Some(place) = PromptParts::place(key) {
                parts.0[place] = self.body.get(from..self.at)?;
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The next byte that is not a space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.body.get(self.at..)?;
        self.at += rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))?;
        self.body.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let found = self.at + memchr2(b'"', b'\\', self.body.get(self.at..)?)?;
            if self.body.get(found) == Some(&b'"') {
                self.at = found + 1;
                return Some(());
            }
            self.at = found + 2;
        }
    }

    fn value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.body.get(self.at)? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => self.scalar()?,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn scalar(&mut self) -> Option<()> {
        let ends =
            |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' | b':' | b'"');
        let length = self.body.get(self.at..)?.iter().position(ends).filter(|length| *length > 0)?;
        self.at += length;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, value::RawValue};

    use super::*;

    fn texts<'b>(parts: &PromptParts<'b>) -> Vec<&'b str> {
        parts.iter().map(|part| std::str::from_utf8(part).expect("UTF-8")).collect()
    }

    #[test]
    fn the_parts_come_in_the_order_in_which_servers_read_them() {
        let body = r#"{"model":"m", "messages" : [{"role":"user","content":"a]\"}{"}],"stream":true,"tools":[{"x":{}}],
                       "system":"be \\" , "n":1.5e3}"#;
        let parts = PromptParts::of(body.as_bytes());
        assert!(!parts.is_empty());
        assert_eq!(texts(&parts), [r#"[{"x":{}}]"#, r#""be \\""#, r#"[{"role":"user","content":"a]\"}{"}]"#]);
        assert_eq!(texts(&PromptParts::of(br#"{"prompt":"x"}"#)), [r#""x""#]);
        for none in [
            "",
            "{}",
            "[]",
            r#"{"model":"m"}"#,
            r#"{"prompt":"x""#,
            r#"{"prompt":"x"]"#,
            r#"{"prompt":}"#,
            r#"{"prompt":,"x"}"#,
            r#"{"model":,"prompt":"x"}"#,
        ] {
            assert!(PromptParts::of(none.as_bytes()).is_empty(), "{none}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],:]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// As serde reads them, whatever stands beside them; and any bytes end without a panic.
        #[test]
        fn parts_are_those_that_serde_finds(
            fields in prop::collection::vec((prop_oneof!["messages|tools|system|model", any::<String>()], json()), 0..6),
            pretty in any::<bool>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let object: Map<String, Value> = fields.into_iter().collect();
            let body = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.expect("JSON");
            let read: std::collections::HashMap<String, &RawValue> = serde_json::from_slice(&body).expect("an object");
            let expected: Vec<&str> =
                ["tools", "system", "messages"].iter().filter_map(|key| read.get(*key)).map(|raw| raw.get()).collect();
            prop_assert_eq!(texts(&PromptParts::of(&body)), expected);
            let _ = PromptParts::of(&body[..cut.index(body.len() + 1)]);
        }
    }
}
