//! How much longer tools, the arguments of their calls, schemas and documents may be when a server prints them for the model.
//!
//! Chat templates print such JSON anew, each in one of three forms ([`PrintedForms`]): as JSON with spaces, or with each element in a line
//! of its own (Llama 3.1 to 3.3: `tojson(indent=4)`); with the name of each field in tags (`<a>…</a>`); or with the parameters of tools in a
//! signature, in a list of arguments and as JSON (Hermes 2 Pro and 3). In all of them, what is not ASCII may be written as `\uXXXX` (Python's
//! `json.dumps`), and so may `<`, `>`, `&`, `'` (Jinja's `tojson`, Go's `json.Marshal`), and numbers at full length. Servers read the arguments
//! of calls out of their string, and print those, too. So the bytes of the body are no bound for these fields. This counts the longest form
//! of each value, in one look at the bytes. A field of a message that is not on the list of those that are known counts as one of these.

use std::mem;

use memchr::memchr2;

use super::{names, turns};
use crate::read::GivenName;

/// The widest indentation that is known of templates.
const INDENT: u64 = 4;
/// What servers put around a tool, a call or a result that was sent in another API's form, at most: `"type": "function", "function": {…}`
/// and fields that are null, each in a line.
const AROUND: u64 = 192;
/// What is around the name of a field and its value in tags, at most: `<parameter name="…">…</parameter>` and a line.
const TAGS: u64 = 36;
/// What is around the name of a parameter in a signature and in a list of arguments, and each in its line.
const SIGNATURE: u64 = 24;
/// How deep templates print a field's value, at most, and the arguments of a call, which they print with the call.
const DEPTH: u64 = 2;
const DEPTH_OF_CALLS: u64 = 4;
/// The depth up to which bodies are read.
const DEEPEST: usize = 128;
/// `\\uXXXX`: of a string that holds JSON, even the escapes are escaped.
const ESCAPED: u8 = 7;

/// Fields that templates print, wherever they stand.
const PRINTED: [&str; 15] = [
    "tools",
    "functions",
    "tool_calls",
    "function_call",
    "tool_choice",
    "tool_changes",
    "definition",
    "response_format",
    "format",
    "json_schema",
    "schema",
    "guided_json",
    "structured_outputs",
    "output_config",
    "chat_template_kwargs",
];
/// The arguments of a call: OpenAI's, and Anthropic's, which are an object. Any other `input` is the prompt.
const ARGUMENTS: [&str; 2] = ["arguments", "input"];
/// Fields of a call or its result, of which templates print every part.
const OF_CALLS: [&str; 4] = ["tool_call_id", "tool_use_id", "call_id", "tool_name"];
/// Those of them that templates may print several times.
const TOOLS: [&str; 2] = ["tools", "functions"];
/// The fields of a body with messages, or with parts of them.
const MESSAGES: [&str; 3] = ["messages", "input", "system"];
/// The roles of messages that are no user's.
const OF_OTHERS: [&[u8]; 6] =
    [b"\"assistant\"", b"\"system\"", b"\"developer\"", b"\"tool\"", b"\"function\"", b"\"ipython\""];
/// The roles of messages that templates print as text.
const OF_TEXT: [&[u8]; 4] = [b"\"user\"", b"\"assistant\"", b"\"system\"", b"\"developer\""];

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrintedPart {
    /// The value of the field.
    Value,
    /// The same, deeper.
    Arguments,
    /// The object that has the field.
    Object,
}

impl PrintedPart {
    /// How deep it is printed.
    fn depth(self) -> u64 {
        match self {
            Self::Value => DEPTH,
            Self::Arguments | Self::Object => DEPTH_OF_CALLS,
        }
    }
}

/// The name of a field whose value costs more than its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrintedName {
    /// It may be JSON in a string.
    Arguments,
    /// The parameters of a tool.
    Properties,
    Description,
    Name,
    Any,
}

impl PrintedName {
    fn of(name: &[u8]) -> Self {
        let name = JsonName::of(name);
        match () {
            () if name.is("arguments") => Self::Arguments,
            () if name.is("properties") => Self::Properties,
            () if name.is("description") => Self::Description,
            () if name.is("name") => Self::Name,
            () => Self::Any,
        }
    }
}

/// How many bytes a body of JSON has more when what templates print of it is printed, at most. `has_template` if documents are printed,
/// too; otherwise they are ranked.
pub(super) fn beyond(body: &[u8], has_template: bool) -> u64 {
    let (mut beyond, mut ended, mut buffer) = (0_u64, 0, Vec::new());
    let PrintedValues { values, users } = PrintedValues::of(body, has_template);
    // What tools cost each time, and the value that was read last.
    let (mut tools, mut whole) = (0_u64, 0);
    for PrintedValue { from, part, has_tools, name } in values {
        // What is within another one is printed with that.
        if from >= ended {
            let (forms, end) = print(body, from, (part.depth(), AROUND), Some(&mut buffer));
            let printed = forms.longest();
            beyond = beyond.saturating_add(printed.saturating_sub((end - from) as u64)).saturating_add(name);
            (ended, whole) = (end, printed);
        }
        if has_tools {
            tools = tools.saturating_add(mem::take(&mut whole));
        }
    }
    if tools == 0 || !has_template {
        return beyond;
    }
    let again = turns::equal_to_last(body, &users) - 1;
    beyond.saturating_add(tools.saturating_add(AROUND).saturating_mul(again))
}

/// What templates print of a body.
#[derive(Default)]
struct PrintedValues {
    /// In their order.
    values: Vec<PrintedValue>,
    /// Where lists of messages begin, and messages of users in them; in the order of these.
    users: Vec<(usize, usize)>,
}

struct PrintedValue {
    from: usize,
    part: PrintedPart,
    /// Tools are in it.
    has_tools: bool,
    /// What is printed of its name.
    name: u64,
}

/// A field, as it stands in a body.
struct PrintedField<'b> {
    written: &'b [u8],
    name: JsonName<'b>,
    /// The body from its value on, and where that begins.
    value: &'b [u8],
    from: usize,
    /// Where its object begins.
    object: usize,
    /// Where that begins in which the object is; the body is in nothing.
    list: Option<usize>,
    /// It is a field of a message or a part of one.
    is_of_message: bool,
}

impl PrintedValues {
    fn of(body: &[u8], has_template: bool) -> Self {
        let mut found = Self::default();
        let (mut open, mut depth, mut at, mut is_of_messages) = ([0; DEEPEST], 0_usize, 0, false);
        while let Some(byte) = body.get(at) {
            match byte {
                b'{' | b'[' => {
                    if let Some(place) = open.get_mut(depth) {
                        *place = at;
                    }
                    depth += 1;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'"' => {
                    let (written, after) = string(body, at);
                    let Some(from) = value_after(body, after) else {
                        at = after;
                        continue;
                    };
                    at = from;
                    let around =
                        |levels| depth.checked_sub(levels).and_then(|level| open.get(level)).copied();
                    let (name, value, list) = (JsonName::of(written), &body[from..], around(2));
                    if depth == 1 {
                        is_of_messages = MESSAGES.iter().any(|known| name.is(known));
                    }
                    let is_in_list = list.is_some_and(|list| body[list] == b'[');
                    let is_of_message = has_template && is_of_messages && is_in_list;
                    let object = around(1).unwrap_or(0);
                    found.note(
                        &PrintedField { written, name, value, from, object, list, is_of_message },
                        has_template,
                    );
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    fn note(&mut self, field: &PrintedField<'_>, has_template: bool) {
        let PrintedField { written, name, value, from, object, .. } = field;
        let has_tools = TOOLS.iter().any(|known| name.is(known));
        let mut value_of = |part, name| {
            self.values.push(PrintedValue { from: *from, part, has_tools, name });
        };
        match part(name, value, has_template) {
            Some(part @ PrintedPart::Object) => {
                let within = self.values.partition_point(|value| value.from < *object);
                let has_tools = self.values.drain(within..).any(|value| value.has_tools);
                self.values.push(PrintedValue { from: *object, part, has_tools, name: 0 });
            }
            Some(part) => value_of(part, 0),
            None if field.is_of_message && !name.is_known_in_message() => {
                value_of(PrintedPart::Arguments, text_of(written) + TAGS);
            }
            None => {}
        }
        if let Some(list) = field.list
            && name.is("role")
            && !OF_OTHERS.iter().any(|role| value.starts_with(role))
        {
            // Its role may be given twice, and what is within it is no message.
            while self.users.pop_if(|(_, from)| *from >= *object).is_some() {}
            self.users.push((list, *object));
        }
    }
}

/// What a field says about what is printed, if anything is.
fn part(name: &JsonName<'_>, value: &[u8], has_template: bool) -> Option<PrintedPart> {
    let is_one_of = |names: &[&str]| names.iter().any(|known| name.is(known));
    match () {
        () if is_one_of(&ARGUMENTS) && (value.starts_with(b"{") || !name.is("input")) => {
            Some(PrintedPart::Arguments)
        }
        () if is_one_of(&PRINTED) || has_template && name.is("documents") => Some(PrintedPart::Value),
        () if is_one_of(&OF_CALLS) => Some(PrintedPart::Object),
        () if name.is("role") && !OF_TEXT.iter().any(|role| value.starts_with(role)) => {
            Some(PrintedPart::Object)
        }
        () => None,
    }
}

/// A name as it stands in JSON.
enum JsonName<'n> {
    /// Of small letters, as nearly all are.
    Usual(&'n [u8]),
    /// An escape in it may be any letter.
    Escaped,
    Other(GivenName<'n>),
}

impl<'n> JsonName<'n> {
    fn of(name: &'n [u8]) -> Self {
        if name.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_') {
            return Self::Usual(name);
        }
        match str::from_utf8(name).ok().filter(|_| !name.contains(&b'\\')) {
            Some(name) => Self::Other(GivenName::new(name)),
            None => Self::Escaped,
        }
    }

    /// Whether it is the name of a field of messages, or their parts, that templates print as text, if at all.
    fn is_known_in_message(&self) -> bool {
        match self {
            Self::Usual(name) => str::from_utf8(name).is_ok_and(names::is_known_in_message),
            Self::Escaped | Self::Other(_) => false,
        }
    }

    /// Whether some reader may take it for this one: Go's ignore case.
    fn is(&self, known: &str) -> bool {
        match self {
            Self::Usual(name) => *name == known.as_bytes(),
            Self::Escaped => true,
            Self::Other(name) => name.resembles(known),
        }
    }
}

/// The string that begins here, and where it has ended.
fn string(json: &[u8], from: usize) -> (&[u8], usize) {
    let start = from + 1;
    let mut at = start;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return (&json[start..at], at + 1);
        }
        at += 2;
    }
    (json.get(start..).unwrap_or_default(), json.len())
}

/// Where the value begins, if what has ended here was a name.
fn value_after(json: &[u8], from: usize) -> Option<usize> {
    let next = |from: usize| {
        json.get(from..)?.iter().position(|byte| !byte.is_ascii_whitespace()).map(|blanks| from + blanks)
    };
    let colon = next(from).filter(|at| json[*at] == b':')?;
    next(colon + 1)
}

/// The bytes of a value in each form in which a template may print it, at most.
#[derive(Debug, Clone, Copy, Default)]
struct PrintedForms {
    /// As JSON, each element in a line.
    json: u64,
    /// Names in tags.
    tags: u64,
    /// The parameters of tools three times.
    signature: u64,
}

impl PrintedForms {
    /// It is as long in all forms.
    fn all(bytes: u64) -> Self {
        Self { json: bytes, tags: bytes, signature: bytes }
    }

    fn and(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    fn each(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            json: of(self.json, other.json),
            tags: of(self.tags, other.tags),
            signature: of(self.signature, other.signature),
        }
    }

    fn longest(self) -> u64 {
        self.json.max(self.tags).max(self.signature)
    }
}

/// The bytes of the value that begins here when it is printed at this depth, with so much around each of its elements, at most; and where it
/// has ended. With a buffer, arguments are read out of their strings.
fn print(
    json: &[u8],
    from: usize,
    (depth, around): (u64, u64),
    mut buffer: Option<&mut Vec<u8>>,
) -> (PrintedForms, usize) {
    let is_list = json.get(from) == Some(&b'[');
    let mut printer = Printer::new(depth, around, if is_list { 2 } else { 1 });
    let (mut forms, mut at) = (PrintedForms::default(), from);
    while let Some(byte) = json.get(at) {
        let (more, end) = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => (PrintedForms::default(), at + 1),
            b'}' | b']' | b',' if printer.open == 0 => break,
            b'{' | b'[' | b'}' | b']' | b',' | b':' => (printer.mark(*byte), at + 1),
            b'"' => {
                let (text, end) = string(json, at);
                (printer.text(text, buffer.as_deref_mut()), end)
            }
            b'-' | b'0'..=b'9' => {
                let (bytes, end) = number(json, at);
                (PrintedForms::all(bytes), end)
            }
            _ => {
                let letters = json[at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count().max(1);
                (PrintedForms::all(letters as u64), at + letters)
            }
        };
        (forms, at) = (forms.and(more), end);
        if printer.open == 0 && !byte.is_ascii_whitespace() {
            break;
        }
    }
    (forms, at)
}

/// What has been read of a value that is printed.
struct Printer<'j> {
    /// How deep it is printed.
    depth: u64,
    /// What is put around each of its elements.
    around: u64,
    /// How many objects and lists are open in it.
    open: u64,
    /// How many are open within an element: 1 if it is an object itself, 2 in a list.
    elements: u64,
    /// How many are within the parameters of a tool; 0 outside.
    parameters: u64,
    /// The last string, which may be a name, and what it has cost.
    last: (u64, &'j [u8]),
    /// The name of the value that comes.
    name: PrintedName,
}

impl<'j> Printer<'j> {
    fn new(depth: u64, around: u64, elements: u64) -> Self {
        let (last, name): ((u64, &[u8]), _) = ((0, b""), PrintedName::Arguments);
        Self { depth, around, open: 0, elements, parameters: 0, last, name }
    }

    /// A mark costs itself and a blank, and in JSON a line.
    fn line(&self) -> PrintedForms {
        let line = INDENT.saturating_mul(self.depth.saturating_add(self.open));
        PrintedForms { json: 2 + line, tags: 2, signature: 2 }
    }

    fn mark(&mut self, mark: u8) -> PrintedForms {
        if mark == b':' {
            self.name = PrintedName::of(self.last.1);
            let signature = if self.parameters == self.open { 2 + SIGNATURE } else { 2 };
            return PrintedForms { json: 2, tags: 2 + self.last.0 + TAGS, signature };
        }
        let name = mem::replace(&mut self.name, PrintedName::Any);
        match mark {
            b'{' | b'[' => {
                self.open += 1;
                if name == PrintedName::Properties && self.parameters == 0 {
                    self.parameters = self.open;
                }
                let around = if mark == b'{' && self.open == self.elements { self.around } else { 0 };
                self.line().and(PrintedForms::all(around))
            }
            b'}' | b']' => {
                self.open -= 1;
                if self.open < self.parameters {
                    self.parameters = 0;
                }
                self.line()
            }
            _ => self.line(),
        }
    }

    /// The list of arguments has what describes a parameter, and names and types are in the signature, too. So is the name of the tool.
    fn text(&mut self, text: &'j [u8], buffer: Option<&mut Vec<u8>>) -> PrintedForms {
        let cost = text_of(text);
        self.last = (cost, text);
        let signature = match self.name {
            PrintedName::Description if self.parameters > 0 => 2 * cost,
            _ if self.parameters > 0 => 3 * cost,
            PrintedName::Name => 2 * cost,
            _ => cost,
        };
        let forms = PrintedForms { signature, ..PrintedForms::all(cost) };
        match (self.name, buffer) {
            (PrintedName::Arguments, Some(buffer)) => {
                unescape(text, buffer);
                print(buffer, 0, (self.depth + self.open, 0), None).0.each(forms, u64::max)
            }
            _ => forms,
        }
    }
}

/// What each byte of a text costs; of a character in UTF-8 its first byte costs all.
const COSTS: [u8; 256] = {
    let mut costs = [1; 256];
    let mut byte = 0x7f;
    while byte < 256 {
        costs[byte] = match byte {
            0x7f | 0xc0..0xf0 => ESCAPED,
            0x80..0xc0 => 0,
            _ => 2 * ESCAPED,
        };
        byte += 1;
    }
    costs[b'<' as usize] = ESCAPED;
    costs[b'>' as usize] = ESCAPED;
    costs[b'&' as usize] = ESCAPED;
    costs[b'\'' as usize] = ESCAPED;
    costs
};

/// The bytes of a text with its quotes, which are escaped where it is within a string.
fn text_of(escaped: &[u8]) -> u64 {
    let (mut bytes, mut at) = (4, 0);
    while let Some(byte) = escaped.get(at) {
        let (cost, length) = match (byte, escaped.get(at + 1)) {
            (b'\\', Some(b'u')) => (ESCAPED, 6),
            // Go prints them as \u0008 and \u000c.
            (b'\\', Some(b'b' | b'f')) => (ESCAPED, 2),
            (b'\\', _) => (4, 2),
            (byte, _) => (COSTS[usize::from(*byte)], 1),
        };
        bytes += u64::from(cost);
        at += length;
    }
    bytes
}

/// The bytes of a number, which may be printed without its exponent, and where it has ended.
fn number(json: &[u8], from: usize) -> (u64, usize) {
    /// As many digits as a double needs, its sign, its point, and the zeros behind it.
    const LONGEST: u64 = 28;
    const MOST_EXPONENT: i64 = 400;
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let length = json[from..].iter().take_while(|byte| is_of_number(byte)).count();
    let (text, end) = (&json[from..from + length], from + length);
    let bytes = length as u64;
    if !text.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        // Some print 1 as 1.0.
        return (bytes + 2, end);
    }
    let mut parts = text.split(|byte| matches!(byte, b'e' | b'E'));
    let whole = parts.next().map_or(0, |digits| digits.iter().take_while(|byte| **byte != b'.').count());
    let exponent = parts.next().and_then(|digits| str::from_utf8(digits).ok()).map_or(0, |digits| {
        let beyond = if digits.starts_with('-') { 0 } else { MOST_EXPONENT };
        digits.parse().unwrap_or(beyond).min(MOST_EXPONENT)
    });
    let digits = i64::try_from(whole).unwrap_or(i64::MAX).saturating_add(exponent);
    (bytes.max(LONGEST).saturating_add_signed(digits.max(0)), end)
}

/// What a string of JSON says. For characters that are not ASCII one stands that costs as much.
fn unescape(escaped: &[u8], into: &mut Vec<u8>) {
    into.clear();
    let mut at = 0;
    while let Some(byte) = escaped.get(at) {
        at += 1;
        if *byte != b'\\' {
            into.push(*byte);
            continue;
        }
        let said = escaped.get(at).copied().unwrap_or(b'\\');
        at += 1;
        match said {
            b'n' => into.push(b'\n'),
            b't' => into.push(b'\t'),
            b'r' => into.push(b'\r'),
            b'b' | b'f' => into.push(b'\x7f'),
            b'u' => {
                let hex = escaped.get(at..at + 4).and_then(|hex| str::from_utf8(hex).ok());
                let unit = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                at += 4;
                match unit.filter(|unit| matches!(unit, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
                    Some(ascii) => into.push(ascii),
                    None => into.extend_from_slice("\u{80}".as_bytes()),
                }
            }
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;
    use serde_json::{Map, Value, json, ser::PrettyFormatter};

    use super::*;

    /// How a template prints JSON.
    #[derive(Debug, Clone, Copy)]
    struct PrintedForm {
        indent: Option<&'static [u8]>,
    }

    /// Any other form is shorter than one of these.
    const LONGEST: [PrintedForm; 2] = [PrintedForm { indent: None }, PrintedForm { indent: Some(b"    ") }];

    impl PrintedForm {
        fn print(self, value: &Value) -> String {
            let text = match self.indent {
                None => compact(value, ", ", ": ", &|number| number.to_string()),
                Some(indent) => {
                    let mut out = Vec::new();
                    let mut serializer = serde_json::Serializer::with_formatter(
                        &mut out,
                        PrettyFormatter::with_indent(indent),
                    );
                    value.serialize(&mut serializer).expect("JSON");
                    String::from_utf8(out).expect("UTF-8")
                }
            };
            text.chars().map(Self::escaped).collect()
        }

        fn escaped(c: char) -> String {
            match c {
                '<' | '>' | '&' | '\'' => format!("\\u{:04x}", u32::from(c)),
                '\u{7f}'.. => {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                c => c.into(),
            }
        }
    }

    fn compact(
        value: &Value,
        comma: &str,
        colon: &str,
        number: &dyn Fn(&serde_json::Number) -> String,
    ) -> String {
        let inner = |value: &Value| compact(value, comma, colon, number);
        match value {
            Value::Number(found) => number(found),
            Value::Array(list) => format!("[{}]", list.iter().map(inner).collect::<Vec<_>>().join(comma)),
            Value::Object(fields) => {
                let field =
                    |(name, value): (&String, &Value)| format!("{}{colon}{}", json!(name), inner(value));
                format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(comma))
            }
            other => other.to_string(),
        }
    }

    /// The shortest way to send a value: a client writes 1000000000000000.0 as 1e15.
    fn sent(value: &Value) -> String {
        compact(value, ",", ":", &|number| {
            let short = number.as_f64().filter(|_| number.is_f64()).map(|number| format!("{number:e}"));
            short.unwrap_or_else(|| number.to_string())
        })
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec![1e15, 1e-7, -1.5, 1e20, 123_456.789, 5e-324]).prop_map(Value::from),
            "[a-z<>&'\"\\\\\n\u{8}\u{7f}é漢😀]{0,12}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec(("[a-z<é]{0,6}", inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    /// The bound of a body, and the longest form of what templates print of it beside the rest.
    fn check(body: &str, sent: &str, printed: &Value) {
        let most = body.len() as u64 + beyond(body.as_bytes(), true);
        for form in LONGEST {
            let whole = body.len() - sent.len() + form.print(printed).len();
            assert!(most >= whole as u64, "{form:?} {body}: {most} < {whole}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn no_template_prints_more_than_is_counted(value in any_value(), deep in 0_usize..40) {
            let value = (0..deep).fold(value, |value, _| json!([value]));
            let whole = sent(&value);
            for field in ["tools", "functions", "response_format", "documents", "Tools", "t\\u006fols"] {
                check(&format!(r#"{{"max_tokens":5,"{field}":{whole},"n":1}}"#), &whole, &value);
            }
            // Arguments are read out of their string.
            let arguments = json!(whole).to_string();
            let call = |arguments: &str| format!(r#"[{{"id":"1","function":{{"name":"f","arguments":{arguments}}}}}]"#);
            let calls = json!([{ "id": "1", "function": { "name": "f", "arguments": value } }]);
            for sent in [call(&arguments), call(&whole)] {
                check(&format!(r#"{{"messages":[{{"role":"assistant","tool_calls":{sent}}}]}}"#), &sent, &calls);
            }
            let sent = format!(r#"{{"type":"function_call","name":"f","arguments":{arguments}}}"#);
            let item = json!({ "type": "function_call", "name": "f", "arguments": value });
            check(&format!(r#"{{"input":[{sent}]}}"#), &sent, &item);
            let sent = format!(r#"{{"type":"tool_use","input":{{"a":{whole}}}}}"#);
            let item = json!({ "type": "tool_use", "input": { "a": value } });
            check(&format!(r#"{{"messages":[{{"content":[{sent}]}}]}}"#), &sent, &item);
            // Llama 3.1 prints what tools answer as JSON.
            for result in [r#""role":"tool""#, r#""role":"ipython""#, r#""tool_use_id":"t""#] {
                let sent = format!(r#"{{"content":{whole},{result}}}"#);
                let Ok(printed) = serde_json::from_str(&sent) else { continue };
                check(&format!(r#"{{"messages":[{sent}]}}"#), &sent, &printed);
            }
        }

        /// Not even of what is no JSON.
        #[test]
        fn any_bytes_are_read_to_their_end(body in any::<Vec<u8>>(), text in "[\\[\\]{}\",:\\\\a1eu ]{0,40}") {
            beyond(&body, true);
            beyond(format!(r#"{{"tools":{text}"#).as_bytes(), true);
            let arguments = json!(text);
            beyond(format!(r#"{{"arguments":{arguments}}}"#).as_bytes(), true);
        }
    }

    /// Regression: each object was read again when a field of it behind another object said that it is printed, and what was within it
    /// counted as often. A megabyte took seconds.
    #[test]
    fn what_is_within_another_counts_once() {
        let nested = |deep: usize, text: &str| {
            format!("{}{:?}{}", r#"{"a":"#.repeat(deep), text, r#","role":"tool"}"#.repeat(deep))
        };
        let text = "a".repeat(1_000_000);
        let more = |deep| beyond(nested(deep, &text).as_bytes(), true);
        // Each level has two fields and a line for each mark, which are indented by what is around them.
        assert!(more(100) < 100 * 100 * 4 * 8, "{} {}", more(1), more(100));
    }

    /// What a template does not print as JSON costs its bytes.
    #[test]
    fn ordinary_text_costs_nothing_more() {
        for body in [
            r#"{"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":"<漢> 'a'\n"}],"max_tokens":5}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"[1,2]"}]},{"role":"assistant","content":"b"}]}"#,
            r#"{"prompt":[1,2,3],"options":{"num_predict":5},"stop":["a"],"logit_bias":{"5":1}}"#,
            r#"{"input":[{"role":"developer","content":"tools and arguments"}],"input":"a"}"#,
        ] {
            assert_eq!(beyond(body.as_bytes(), true), 0, "{body}");
        }
        let ranked = br#"{"query":"a","documents":["<b>","c"]}"#;
        assert_eq!(beyond(ranked, false), 0);
        assert!(beyond(ranked, true) > 12);
    }

    /// Regression: these were counted by their bytes, and llama.cpp read five times as many tokens.
    #[test]
    fn lists_of_numbers_cost_a_line_for_each() {
        let nested = |numbers: usize, depth: usize| {
            let list = format!("[{}]", vec!["1"; numbers].join(","));
            let list = format!("{}{list}{}", "[".repeat(depth), "]".repeat(depth));
            let schema = format!(r#"{{"type":"object","properties":{{"a":{{"enum":{list}}}}}}}"#);
            let tool = format!(
                r#"{{"type":"function","function":{{"name":"f","description":"d","parameters":{schema}}}}}"#
            );
            format!(r#"{{"tools":[{tool}]}}"#)
        };
        for (numbers, depth, tokens) in [(100, 0, 3_090), (30, 40, 14_320)] {
            let body = nested(numbers, depth);
            let most = body.len() as u64 + beyond(body.as_bytes(), true);
            assert!((tokens..3 * tokens).contains(&most), "{numbers} {depth}: {most}");
        }
    }

    /// Hermes 2 Pro prints a signature, a list of arguments, and then the parameters.
    #[test]
    fn what_is_printed_twice_counts_twice() {
        let (name, about) = ("p".repeat(500), "1".repeat(2_000));
        for name_of_schema in ["parameters", "input_schema"] {
            let parameter = json!({ &name: { "type": "string", "description": about } });
            let schema = json!({ "type": "object", "properties": parameter });
            let tool = json!({ "name": "f", "description": "d", name_of_schema: schema });
            let body = json!({ "tools": [tool] }).to_string();
            let printed = format!("f({name}: str) - d\n\n    Args:\n        {name}(str): {about}{schema}");
            let most = body.len() as u64 + beyond(body.as_bytes(), true);
            assert!(most >= printed.len() as u64, "{name_of_schema}: {most}");
        }
    }

    /// The same to the byte: a letter too few of what is printed is an answer that nobody has paid for.
    #[test]
    fn each_letter_of_a_tool_counts_as_often_as_it_is_printed() {
        let tool = r#"{"type":"function","name":"NAME","FIELD":"TITLE","description":"ABOUT","parameters":{"properties":{
            "a":{"type":"FIRST"},"PARAMETER":{"type":"TYPE","description":"MEANING","items":{"title":"INNER"}}},"required":["REQUIRED"]}}"#;
        for (word, times) in [
            // In the signature and in JSON.
            ("NAME", 2),
            ("TITLE", 1),
            ("ABOUT", 1),
            // In tags at both ends.
            ("FIELD", 2),
            // In the signature, in the list of arguments and in JSON.
            ("PARAMETER", 3),
            ("FIRST", 3),
            ("TYPE", 3),
            ("INNER", 3),
            // It is not in the signature.
            ("MEANING", 2),
            ("REQUIRED", 1),
        ] {
            let most = |letters: usize| {
                let body = format!(r#"{{"tools":[{}]}}"#, tool.replace(word, &"x".repeat(letters)));
                cost(&body)
            };
            assert_eq!(most(9_000) - most(5_000), times * 4_000, "{word}");
        }
        // A parameter more: its name three times and what is around that, and as many marks as it has.
        let with = |more: &str| {
            cost(&format!(
                r#"{{"tools":[{}]}}"#,
                tool.replace("TYPE", &"x".repeat(9_000)).replace("\"a\":{", more)
            ))
        };
        let name = 3 * text_of(b"b") + 2 + SIGNATURE;
        assert_eq!(with(r#""b":{},"a":{"#) - with(r#""a":{"#), name + 2 + 2 + 2);
        let inner = 3 * text_of(b"c") + 2 + number(b"1", 0).0;
        assert_eq!(with(r#""b":{"c":1},"a":{"#) - with(r#""b":{},"a":{"#), inner);
    }

    /// What a body costs with all that is printed of it.
    fn cost(body: &str) -> u64 {
        body.len() as u64 + beyond(body.as_bytes(), true)
    }

    /// A template indents what stands deeper, and prints the arguments of a call within the call.
    #[test]
    fn each_mark_costs_a_line_as_deep_as_a_template_prints_it() {
        let nested = |depth: usize| (0..depth).fold(json!("x"), |value, _| json!([value]));
        let printed = |depth| LONGEST[1].print(&nested(depth)).len() as u64;
        let as_text = |value: &str| json!(value).to_string();
        let escaped = |value: &str| {
            format!(
                "\" {}\"",
                value.replace('[', r"\u005b\n\t ").replace(']', r"\r\u005D").replace('"', "\\\"")
            )
        };
        for (body, depth) in [
            (r#"{"tools":VALUE}"#, 2),
            ("{ \"tools\" \n:\t VALUE }", 2),
            (r#"{"documents":VALUE}"#, 2),
            (r#"{"messages":[{"role":"assistant","tool_calls":VALUE}]}"#, 2),
            (r#"{"input":[{"type":"function_call","arguments":VALUE}]}"#, 4),
            (r#"{"messages":[{"role":"user","content":"a","tomorrow":VALUE}]}"#, 4),
            // With the object that has it, also if that is printed for another reason.
            (r#"{"tool_calls":{"tool_call_id":"c","a":VALUE}}"#, 5),
            (r#"{"messages":[{"role":"tool","content":VALUE}]}"#, 5),
            (r#"{"messages":[{"content":VALUE,"tool_call_id":"c"}]}"#, 5),
            (r#"{"messages":[{"tool_calls":[{"function":{"arguments":VALUE}}]}]}"#, 5),
            // Read out of a text, however that is escaped.
            (r#"{"messages":[{"tool_calls":[{"function":{"arguments":TEXT}}]}]}"#, 5),
            (r#"{"messages":[{"tool_calls":[{"function":{"arguments":ESCAPED}}]}]}"#, 5),
            (r#"{"input":[{"type":"function_call","arguments":TEXT}]}"#, 4),
        ] {
            let most = |levels: usize| {
                let value = nested(levels).to_string();
                let body = body.replace("VALUE", &value).replace("TEXT", &as_text(&value));
                cost(&body.replace("ESCAPED", &escaped(&value)))
            };
            let expected = printed(depth + 20) - printed(depth + 10);
            assert_eq!(most(20) - most(10), expected, "{body}");
        }
    }

    /// As Python, Jinja and Go write them, within a text that is escaped itself.
    #[test]
    fn letters_and_numbers_cost_the_longest_way_to_write_them() {
        let of = |value: &str| cost(&format!(r#"{{"tools":[{value}]}}"#)) - cost(r#"{"tools":[]}"#);
        for (text, expected) in [
            ("a", 1),
            (" ~", 2),
            ("<", 7),
            (">&'", 21),
            ("\u{7f}", 7),
            ("é", 7),
            ("漢", 7),
            ("😀", 14),
            (r#"\""#, 4),
            (r"\\", 4),
            (r"\n", 4),
            (r"\b\f", 14),
            (r"\u00e9a", 8),
            (r"\ud83d\ude00", 14),
        ] {
            assert_eq!(of(&format!("\"{text}\"")), 4 + expected, "{text}");
        }
        for (number, expected) in [
            // Some print 1 as 1.0.
            ("1", 3),
            ("-12", 5),
            // A double has up to 28 bytes, and the digits before its point.
            ("1.5", 28 + 1),
            ("-1.5", 28 + 2),
            ("123456.789", 28 + 6),
            ("1e15", 28 + 16),
            ("1E+2", 28 + 3),
            ("12e-7", 28),
            ("1e-1", 28),
            // None has more than 400.
            ("1e999", 28 + 401),
            ("1e99999999999999999999", 28 + 401),
            ("1e-99999999999999999999", 28 + 1),
            ("0.12345678901234567890123456789012345678", 40 + 1),
        ] {
            assert_eq!(of(number), expected, "{number}");
        }
        assert_eq!(of("true"), 4);
        // The name of a field that is not known, in its tags.
        let unknown = r#"{"messages":[{"role":"user","content":"a","tomorrow":1}]}"#;
        assert_eq!(beyond(unknown.as_bytes(), true), text_of(b"tomorrow") + TAGS + 2);
    }

    /// Servers put words around each tool and call that was sent in another API's form, and around nothing else.
    #[test]
    fn each_tool_has_something_around_it() {
        let marks = |depth: u64, open: u64| 2 + INDENT * (depth + open);
        // A comma and two braces.
        let object = marks(2, 1) + marks(2, 2) + marks(2, 1);
        let tools = |tools: &str| cost(&format!(r#"{{"tools":{tools}}}"#));
        assert_eq!(tools("[{},{}]") - tools("[{}]"), object + AROUND);
        assert_eq!(tools("[{},[{}]]") - tools("[{},[]]"), marks(2, 3) + marks(2, 2), "not within one");
        assert_eq!(tools("{}"), 10 + marks(2, 1) + marks(2, 0) + AROUND, "one without a list");
    }

    /// Regression: Mistral's template prints all tools once for each message of a user that is equal to the last one. 36 times "a" and one
    /// tool had a bound of 5,625 tokens, and were 24,262.
    #[test]
    fn tools_count_once_for_each_message_of_a_user_that_is_equal_to_the_last() {
        let tool =
            json!({ "type": "function", "function": { "name": "f", "description": "d".repeat(3_000) } });
        let said = |texts: &[&str]| {
            texts.iter().map(|text| json!({ "role": "user", "content": text })).collect::<Vec<_>>()
        };
        let most = |body: &Value| {
            let body = body.to_string();
            body.len() as u64 + beyond(body.as_bytes(), true)
        };
        let same = said(&["a"; 36]);
        let once = json!([tool]).to_string().len() as u64;
        for body in [
            json!({ "messages": same, "tools": [tool] }),
            json!({ "tools": [tool], "messages": same }),
            json!({ "functions": [tool], "messages": same }),
            json!({ "messages": [same], "tools": [tool] }),
            json!({ "input": same, "tools": [tool] }),
        ] {
            let most = most(&body);
            assert!((36 * once..60 * once).contains(&most), "{most}: {body}");
        }
        // None of these makes it less.
        for body in [
            json!({ "messages": same, "tools": [tool], "role": "tool", "tool_call_id": "c" }),
            json!({ "messages": same, "tools": [tool], "role": "user" }),
            json!({ "messages": same, "tools": [tool], "tomorrow": said(&["b"]) }),
            json!({ "messages": same, "tools": [tool, { "name": "g", "parameters": { "role": "user", "content": "b" } }] }),
        ] {
            assert!(most(&body) >= 36 * once, "{}: {body}", most(&body));
        }
        let mut hidden = same.clone();
        hidden.push(json!({ "role": "assistant", "tool_calls": [{ "function": { "arguments": { "role": "user", "content": "b" } } }] }));
        assert!(most(&json!({ "messages": hidden, "tools": [tool] })) >= 36 * once);
        let different = said(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
        let body = json!({ "messages": different, "tools": [tool] });
        let apart = most(&json!({ "messages": different })) + most(&json!({ "tools": [tool] }));
        assert!(most(&body) <= apart, "they count once: {} of {apart}", most(&body));
        let text = json!({ "messages": same }).to_string();
        assert_eq!(beyond(text.as_bytes(), true), 0, "without tools nothing is printed again");
        let ranked = json!({ "messages": same, "tools": [tool] }).to_string();
        assert!(beyond(ranked.as_bytes(), false) < once, "nor where no template is");
    }

    /// Regression: these cost their bytes, whatever a template prints of them.
    #[test]
    fn fields_of_messages_that_are_not_known_count_as_printed() {
        let list = vec![1; 400];
        let printed = |body: &Value, value: &Value| {
            let (body, value) = (body.to_string(), value.to_string());
            (body.len() as u64 + beyond(body.as_bytes(), true)) / value.len() as u64
        };
        let value = json!({ "a": list });
        for body in [
            json!({ "messages": [{ "role": "user", "content": "a", "tomorrow": value }] }),
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a", "tomorrow": value }] }] }),
            json!({ "messages": [{ "role": "user", "content": "a", "Content": value }] }),
            json!({ "input": [{ "role": "user", "content": "a", "tomorrow": value }] }),
            json!({ "system": [{ "type": "text", "text": "a", "tomorrow": value }] }),
        ] {
            assert!(printed(&body, &value) >= 10, "each number in a line: {}", printed(&body, &value));
        }
        let long = "n".repeat(2_000);
        let body = json!({ "messages": [{ "role": "user", "content": "a", long: 1 }] }).to_string();
        assert!(beyond(body.as_bytes(), true) >= 2_000, "a template may print names twice");
        for body in [
            json!({ "messages": [{ "role": "user", "content": "a", "metadata": value, "reasoning_content": "r" }] }),
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a", "citations": value }] }] }),
            json!({ "tomorrow": [{ "a": value }] }),
        ] {
            assert_eq!(beyond(body.to_string().as_bytes(), true), 0, "{body}");
        }
    }

    /// Regression: all forms were added up. Tools of 46 kB, which Llama 3.1 prints in 173 kB, had a bound of 287,452 tokens.
    #[test]
    fn a_value_is_printed_in_one_form() {
        let property = |name: &str| json!({ name: { "type": "string", "enum": ["first", "second"], "default": "first" } });
        let tool = |number: usize| {
            let mut properties = Map::new();
            for name in
                ["repository", "state", "labels", "direction", "since", "page", "per_page", "sort_order"]
            {
                properties.extend(property(name).as_object().expect("an object").clone());
            }
            let parameters =
                json!({ "type": "object", "properties": properties, "required": ["repository"] });
            json!({ "type": "function", "function": { "name": format!("list_{number}"), "description": "Lists issues.", "parameters": parameters } })
        };
        let tools = Value::from((0..60).map(tool).collect::<Vec<_>>());
        let body = json!({ "tools": tools }).to_string();
        let indented = LONGEST[1].print(&tools).len() as u64;
        let most = body.len() as u64 + beyond(body.as_bytes(), true);
        assert!(most >= indented && most < indented * 3 / 2, "{most} for {indented} of {}", body.len());
    }

    /// Tools of agents are prose for the most part: they may not cost a multiple.
    #[test]
    fn usual_tools_cost_little_more_than_their_bytes() {
        let tool = json!({
            "name": "Read",
            "description": "Reads a file from the local filesystem. You can access any file directly by using this tool.\n".repeat(20),
            "input_schema": {
                "type": "object",
                "properties": {
                    "file_path": { "type": "string", "description": "The absolute path to the file to read" },
                    "limit": { "type": "number", "description": "The number of lines to read" },
                },
                "required": ["file_path"],
            },
        });
        let body = json!({ "tools": vec![tool; 20] }).to_string();
        let more = beyond(body.as_bytes(), true) as usize;
        assert!(more < body.len() / 2, "{more} of {}", body.len());
    }
}
