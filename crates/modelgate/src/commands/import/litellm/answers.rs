//! Recognises which of LiteLLM's answers a file is: `/key/list`, `/key/info`, `/team/list`, `/team/info`, `/user/list`,
//! `/user/info` or `/organization/list`, or several of them in one object (`{"keys": […], "teams": […]}`).

use access::KeyDigest;
use serde_json::{Map, Value};

use super::{fields::RowKind, values::text};
use crate::commands::import::{fields::shown, source::InputFile};

/// The rows of all files.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) keys: Vec<Row>,
    pub(super) owners: Vec<(RowKind, Map<String, Value>)>,
    /// How many keys LiteLLM has in all, if an answer says so.
    total: u64,
    /// The same of the lists of teams and users.
    total_of_owners: Vec<(RowKind, u64)>,
    has_keys: bool,
    not_understood: Vec<String>,
}

/// A key's row.
pub(super) struct Row {
    pub(super) place: String,
    value: Value,
}

/// The names of lists in answers, and the kind of their rows.
const LISTS: [(&str, RowKind); 4] = [
    ("keys", RowKind::Key),
    ("teams", RowKind::Team),
    ("users", RowKind::User),
    ("organizations", RowKind::Organization),
];
/// The names of single objects in answers, which have lists beside them.
const ONES: [(&str, RowKind); 3] = [
    ("team_info", RowKind::Team),
    ("user_info", RowKind::User),
    ("organization_info", RowKind::Organization),
];
/// Fields of the answer itself, and not of its rows.
const OF_THE_ANSWER: [&str; 10] = [
    "total_count",
    "current_page",
    "total_pages",
    "total",
    "page",
    "page_size",
    "team_id",
    "user_id",
    "team_memberships",
    "admin_mcp_permissions",
];

impl Answers {
    /// Sorts the rows of all files by kind.
    ///
    /// # Errors
    /// A file is not such an answer, or no file has keys.
    pub(super) fn of(sources: &[InputFile]) -> Result<Self, String> {
        let mut answers = Self::default();
        for source in sources {
            let whose = |error: String| format!("{}{error}", source.name);
            let value = serde_json::from_str(&source.text).map_err(|error| {
                whose(format!(
                    "it is not JSON: {error}; allowed are answers of LiteLLM's API, such as GET /key/list?return_full_object=true \
                     (its configuration file has no keys)"
                ))
            })?;
            answers.add(value, &source.name).map_err(whose)?;
        }
        if answers.has_keys { Ok(answers) } else { Err("it has no list of keys".into()) }
    }

    fn add(&mut self, answer: Value, file: &str) -> Result<(), String> {
        match answer {
            Value::Array(rows) => {
                let kind = kind_of(rows.first());
                self.add_all(kind, rows, "keys", file)
            }
            Value::Object(answer) => self.add_object(answer, file),
            _ => Err("it has no list of keys".into()),
        }
    }

    fn add_object(&mut self, mut answer: Map<String, Value>, file: &str) -> Result<(), String> {
        if answer.contains_key("token") {
            return self.add_all(RowKind::Key, vec![Value::Object(answer)], "keys", file);
        }
        if let (Some(key), Some(Value::Object(info))) = (answer.get("key").cloned(), answer.get("info")) {
            let mut row = info.clone();
            row.insert("token".into(), as_token(&key));
            return self.add_all(RowKind::Key, vec![Value::Object(row)], "keys", file);
        }
        self.total = self.total.max(answer.get("total_count").and_then(Value::as_u64).unwrap_or_default());
        let mut is_known = false;
        for (name, kind) in ONES {
            let Some(Value::Object(mut one)) = answer.remove(name) else { continue };
            for beside in ["team_id", "user_id", "team_memberships"] {
                if let Some(value) = answer.get(beside) {
                    one.entry(beside).or_insert_with(|| value.clone());
                }
            }
            is_known = true;
            self.owners.push((kind, one));
        }
        // Of several lists in one object it would not say which it is of.
        let lists = LISTS.iter().filter(|(name, _)| answer.get(*name).is_some_and(Value::is_array)).count();
        let total = answer.get("total").and_then(Value::as_u64).filter(|_| lists == 1);
        for (name, kind) in LISTS {
            match answer.remove(name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(rows)) => {
                    is_known = true;
                    self.total_of_owners.extend(total.map(|total| (kind, total)));
                    self.add_all(kind, rows, name, file)?;
                }
                Some(_) => return Err(format!("its {name} are no list")),
            }
        }
        if !is_known && kind_of(Some(&Value::Object(answer.clone()))) != RowKind::Key {
            let kind = kind_of(Some(&Value::Object(answer.clone())));
            return self.add_all(kind, vec![Value::Object(answer)], kind.name(), file);
        }
        answer.retain(|name, _| !OF_THE_ANSWER.contains(&name.as_str()));
        self.not_understood.extend(answer.keys().map(|name| format!("{file}{}", shown(name))));
        if is_known { Ok(()) } else { Err("it has no list of keys, teams, users or organizations".into()) }
    }

    fn add_all(&mut self, kind: RowKind, rows: Vec<Value>, list: &str, file: &str) -> Result<(), String> {
        self.has_keys |= kind == RowKind::Key;
        for (i, value) in rows.into_iter().enumerate() {
            match (kind, value) {
                (RowKind::Key, value) => self.keys.push(Row { place: format!("{file}{list}[{i}]"), value }),
                (kind, Value::Object(row)) => self.owners.push((kind, row)),
                (_, _) => return Err(format!("{list}[{i}] is no object")),
            }
        }
        Ok(())
    }

    /// Reports what is missing in the files, and what is in them and not understood.
    pub(super) fn incomplete(&self) -> Vec<String> {
        let mut said: Vec<String> =
            self.not_understood.iter().map(|name| format!("{name}: Modelgate does not know it")).collect();
        let found = self.keys.len();
        if self.total > found as u64 {
            let pages =
                "ask for each page, and import each: /key/list?return_full_object=true&size=100&page=2";
            said.push(format!("they have {found} of {} keys; {pages}", self.total));
        }
        for kind in [RowKind::Team, RowKind::User] {
            let totals = self.total_of_owners.iter().filter(|(of, _)| *of == kind);
            let total = totals.map(|(_, total)| *total).max().unwrap_or_default();
            let found = self.owners.iter().filter(|(of, _)| *of == kind).count();
            if total > found as u64 {
                let name = kind.name();
                said.push(format!(
                    "they have {found} of {total} {name}s; ask for each page, and import all of them"
                ));
            }
        }
        said
    }

    /// The owners to which rows of keys refer, also of those that are not imported.
    pub(super) fn owners_of_keys(&self) -> impl Iterator<Item = (RowKind, &str)> {
        const FIELDS: [(&str, RowKind); 4] = [
            ("team_id", RowKind::Team),
            ("user_id", RowKind::User),
            ("organization_id", RowKind::Organization),
            ("org_id", RowKind::Organization),
        ];
        self.keys.iter().flat_map(|row| {
            FIELDS.iter().filter_map(|(field, kind)| Some((*kind, row.value.get(field)?.as_str()?)))
        })
    }
}

/// The kind of a list's rows, by its first row.
fn kind_of(row: Option<&Value>) -> RowKind {
    let has = |field: &str| row.is_some_and(|row| row.get(field).is_some());
    if ["token", "key_name", "key_alias"].into_iter().any(has) {
        return RowKind::Key;
    }
    if ["members_with_roles", "team_member_permissions", "team_memberships"].into_iter().any(has) {
        return RowKind::Team;
    }
    if has("organization_alias") && has("organization_id") && !has("team_id") {
        return RowKind::Organization;
    }
    if has("user_id") && ["user_role", "user_email", "user_alias"].into_iter().any(has) {
        return RowKind::User;
    }
    if has("team_id") && (has("team_alias") || has("admins")) { RowKind::Team } else { RowKind::Key }
}

/// `/key/info` repeats the key as it was requested: in clear, or as its digest.
fn as_token(key: &Value) -> Value {
    match key.as_str() {
        Some(key) if key.starts_with("sk-") => KeyDigest::of(key).to_hex().into(),
        _ => key.clone(),
    }
}

impl Row {
    /// The row as an object.
    ///
    /// # Errors
    /// The row is only a token.
    pub(super) fn object(&self) -> Result<&Map<String, Value>, String> {
        match &self.value {
            Value::Object(object) => Ok(object),
            Value::String(_) => Err("only its token is there; ask with return_full_object=true".into()),
            _ => Err("it is no object".into()),
        }
    }

    /// The digest by which the key is recognised.
    ///
    /// # Errors
    /// It is absent, or not a digest.
    pub(super) fn digest(&self) -> Result<KeyDigest, String> {
        let token = text(self.object()?, "token")?.ok_or("it has no token")?;
        KeyDigest::parse_hex(token).map_err(|_| "its token is not a SHA-256 digest".into())
    }
}
