//! The parsed file, and the references in it: by id, by name, or as an object with either.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use serde_json::{Map, Value};

use super::super::fields::is_given;

/// The file, with an index of its consumers and groups.
pub(super) struct File<'v> {
    pub(super) root: &'v Map<String, Value>,
    pub(super) people: Vec<Person<'v>>,
    /// Keys that refer to no consumer.
    pub(super) orphans: Vec<Credential<'v>>,
    /// The indexes of the consumers that a name may mean: by id, then by username, then by custom_id.
    numbers: HashMap<&'v str, Vec<usize>>,
    /// The index of each consumer group, by each of its names.
    groups: HashMap<&'v str, usize>,
}

/// A key, and its place in the file.
pub(super) struct Credential<'v> {
    pub(super) place: String,
    pub(super) value: &'v Value,
}

/// A consumer.
pub(super) struct Person<'v> {
    pub(super) number: usize,
    /// `username`, else `custom_id`; empty if it has neither.
    pub(super) name: &'v str,
    pub(super) place: String,
    pub(super) object: &'v Map<String, Value>,
    /// The indexes of its groups.
    pub(super) groups: BTreeSet<usize>,
    /// Its groups that are not in the file.
    pub(super) unknown_groups: Vec<&'v str>,
    /// Whether access control lists restrict it.
    pub(super) has_acls: bool,
    /// Whether the consumer is not in the file; keys refer to it.
    pub(super) is_unknown: bool,
    pub(super) credentials: Vec<Credential<'v>>,
}

/// Parses YAML, with its merge keys (`<<: *defaults`), into JSON.
///
/// # Errors
/// The text is not YAML, or not a mapping whose keys are texts.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut file: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|e| format!("it is not YAML: {e}"))?;
    file.apply_merge().map_err(|e| format!("its merge keys (<<) cannot be expanded: {e}"))?;
    serde_json::to_value(file).map_err(|e| format!("it is no configuration of Kong's: {e}"))
}

/// Whether `enabled` turns a plugin off. Any value other than `true` does; an absent one does not.
pub(super) fn is_off(enabled: Option<&Value>) -> bool {
    enabled.is_some_and(|enabled| !enabled.is_null() && enabled.as_bool() != Some(true))
}

/// The items of a list; empty if there is no list.
pub(super) fn list<'v>(of: &'v Map<String, Value>, key: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    of.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// A reference: a text, or an object with `id`, `name`, `username` or `custom_id`.
pub(super) fn reference(value: Option<&Value>) -> Option<&str> {
    match value? {
        Value::String(text) => Some(text),
        Value::Object(object) => names(object).next(),
        _ => None,
    }
}

/// The names by which an object can be referred to, unique ones first.
fn names(object: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ["id", "username", "name", "custom_id"]
        .into_iter()
        .filter_map(|key| object.get(key).and_then(Value::as_str))
}

impl<'v> File<'v> {
    /// Indexes the file.
    ///
    /// # Errors
    /// It has no list of consumers.
    pub(super) fn of(root: &'v Value) -> Result<Self, String> {
        let root = root.as_object().ok_or("it is no mapping")?;
        let consumers =
            root.get("consumers").and_then(Value::as_array).ok_or("it has no list of consumers")?;
        let mut people = Vec::with_capacity(consumers.len());
        for (number, consumer) in consumers.iter().enumerate() {
            let object = consumer.as_object().ok_or_else(|| format!("consumers[{number}] is no mapping"))?;
            people.push(Person::of(number, object));
        }
        let (orphans, groups) = (Vec::new(), HashMap::new());
        let mut file = Self { root, numbers: numbers(&people), people, orphans, groups };
        file.find_credentials();
        file.find_groups();
        file.find_acls();
        Ok(file)
    }

    /// The indexes of the consumers to which a name may refer.
    pub(super) fn numbers_of(&self, name: &str) -> &[usize] {
        self.numbers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The index of the group to which a name refers.
    pub(super) fn group(&self, name: &str) -> Option<usize> {
        self.groups.get(name).copied()
    }

    /// Finds who is in which group: consumers list their groups, groups list their consumers, or a separate list has both.
    fn find_groups(&mut self) {
        let mut members: Vec<(&str, &str)> = Vec::new();
        for (number, group) in list(self.root, "consumer_groups").enumerate() {
            let Some(group) = group.as_object() else { continue };
            for name in names(group) {
                self.groups.entry(name).or_insert(number);
            }
            let Some(name) = names(group).next() else { continue };
            let consumers = list(group, "consumers").filter_map(|consumer| reference(Some(consumer)));
            members.extend(consumers.map(|consumer| (consumer, name)));
        }
        for member in list(self.root, "consumer_group_consumers") {
            let (consumer, group) =
                (reference(member.get("consumer")), reference(member.get("consumer_group")));
            members.extend(consumer.zip(group));
        }
        for (consumer, group) in members {
            for number in self.numbers.get(consumer).into_iter().flatten() {
                self.people[*number].join(&self.groups, group);
            }
        }
        for person in &mut self.people {
            let object = person.object;
            for group in list(object, "groups").filter_map(|group| reference(Some(group))) {
                person.join(&self.groups, group);
            }
        }
    }

    fn find_acls(&mut self) {
        for person in &mut self.people {
            person.has_acls = person.object.get("acls").is_some_and(is_given);
        }
        for consumer in list(self.root, "acls").filter_map(|acl| reference(acl.get("consumer"))) {
            for number in self.numbers.get(consumer).into_iter().flatten() {
                self.people[*number].has_acls = true;
            }
        }
    }

    fn find_credentials(&mut self) {
        const LIST: &str = "keyauth_credentials";
        for person in &mut self.people {
            let place = |i| format!("consumers[{}].{LIST}[{i}]", person.number);
            let own = list(person.object, LIST).enumerate();
            person.credentials = own.map(|(i, value)| Credential { place: place(i), value }).collect();
        }
        for (i, value) in list(self.root, LIST).enumerate() {
            let credential = Credential { place: format!("{LIST}[{i}]"), value };
            match reference(value.get("consumer")) {
                Some(owner) => {
                    let number = self.number_of_owner(owner);
                    self.people[number].credentials.push(credential);
                }
                None => self.orphans.push(credential),
            }
        }
    }

    /// The index of a key's owner, which need not be in the file.
    fn number_of_owner(&mut self, owner: &'v str) -> usize {
        if let Some(number) = self.numbers_of(owner).first() {
            return *number;
        }
        let number = self.people.len();
        let place = format!("consumer {owner}");
        self.people.push(Person { name: owner, place, is_unknown: true, ..Person::of(number, &NOTHING) });
        self.numbers.insert(owner, vec![number]);
        number
    }
}

/// The object of a consumer that is not in the file.
static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn numbers<'v>(people: &[Person<'v>]) -> HashMap<&'v str, Vec<usize>> {
    let mut numbers: HashMap<&str, Vec<usize>> = HashMap::with_capacity(people.len());
    for key in ["id", "username", "custom_id"] {
        for person in people {
            if let Some(name) = person.object.get(key).and_then(Value::as_str) {
                numbers.entry(name).or_default().push(person.number);
            }
        }
    }
    numbers
}

impl<'v> Person<'v> {
    fn of(number: usize, object: &'v Map<String, Value>) -> Self {
        let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("username").or_else(|| text("custom_id")).unwrap_or_default();
        Self {
            number,
            name,
            place: format!("consumers[{number}] {name}").trim_end().to_owned(),
            object,
            groups: BTreeSet::new(),
            unknown_groups: Vec::new(),
            has_acls: false,
            is_unknown: false,
            credentials: Vec::new(),
        }
    }

    fn join(&mut self, groups: &HashMap<&'v str, usize>, name: &'v str) {
        match groups.get(name) {
            Some(group) => {
                self.groups.insert(*group);
            }
            None => self.unknown_groups.push(name),
        }
    }
}
