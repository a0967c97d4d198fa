//! A second reading of JSON, made of a loop over bytes and independent of serde: the top level's fields, repeated ones included.
//! It takes bodies that are no JSON as well; the reader under test has refused those.

/// A field of an object.
#[derive(Debug)]
pub(crate) struct PlainField {
    pub(crate) name: String,
    pub(crate) value: Plain,
}

/// A value, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Text(String),
    Null,
    Other,
}

/// The fields of the object at the top level; `None` if there is none.
pub(crate) fn fields(body: &[u8]) -> Option<Vec<PlainField>> {
    let mut cursor = Cursor { body, at: 0 };
    cursor.blanks();
    cursor.eat(b'{')?;
    let mut fields = Vec::new();
    loop {
        cursor.blanks();
        if cursor.eat(b'}').is_some() {
            break;
        }
        if !fields.is_empty() {
            cursor.eat(b',')?;
            cursor.blanks();
        }
        let name = cursor.text()?;
        cursor.blanks();
        cursor.eat(b':')?;
        cursor.blanks();
        fields.push(PlainField { name, value: cursor.value()? });
    }
    cursor.blanks();
    (cursor.at == body.len()).then_some(fields)
}

struct Cursor<'b> {
    body: &'b [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Plain> {
        match self.peek()? {
            b'"' => self.text().map(Plain::Text),
            b'{' | b'[' => self.nested(),
            first => {
                while !matches!(self.peek()?, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                    self.at += 1;
                }
                Some(if first == b'n' { Plain::Null } else { Plain::Other })
            }
        }
    }

    fn nested(&mut self) -> Option<Plain> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.text()?),
                byte => {
                    self.at += 1;
                    match byte {
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' if depth == 1 => return Some(Plain::Other),
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.eat(b'"')?;
        // In UTF-16, as escapes are.
        let mut text = Vec::new();
        let mut plain = Vec::new();
        loop {
            match self.next()? {
                b'"' => {
                    flush(&mut plain, &mut text);
                    return Some(String::from_utf16_lossy(&text));
                }
                b'\\' => {
                    flush(&mut plain, &mut text);
                    text.push(self.escape()?);
                }
                byte => plain.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        Some(match self.next()? {
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.body.get(self.at..self.at + 4)?;
                self.at += 4;
                u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            other => other.into(),
        })
    }
}

fn flush(plain: &mut Vec<u8>, text: &mut Vec<u16>) {
    text.extend(String::from_utf8_lossy(plain).encode_utf16());
    plain.clear();
}
