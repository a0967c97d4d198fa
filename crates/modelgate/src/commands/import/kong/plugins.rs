//! Plugins: where they apply, and which of them applies to a consumer.
//!
//! Of several plugins of the same name Kong runs only the most specific one: a consumer's takes precedence over its groups', and
//! these over those of routes, services and everybody
//! (<https://developer.konghq.com/gateway/entities/plugin/#plugin-precedence>). Modelgate has no routes or services to which a
//! plugin could belong: what applies to one of them always applies, and the smallest of several limits is used.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::{
    effect::Effect,
    fields,
    file::{File, Person, list, reference},
    limits, networks,
};
use crate::commands::import::{
    fields::{Meaning, is_given},
    found::{Findings, Imported, Limit},
};

/// The enabled plugins, grouped by the consumers that they apply to.
#[derive(Default)]
pub(super) struct Plugins<'v> {
    all: Vec<Plugin<'v>>,
    /// Their indexes, by the index of the consumer they apply to.
    of_person: HashMap<usize, Vec<usize>>,
    of_group: HashMap<usize, Vec<usize>>,
    of_everybody: Vec<usize>,
    /// The settings of each `key-auth`.
    pub(super) key_auth: Vec<Map<String, Value>>,
}

/// An enabled plugin and its effect.
struct Plugin<'v> {
    name: &'v str,
    /// Whether it applies only to a service or a route.
    at: At,
    effect: Effect,
    holds: BTreeSet<String>,
}

/// Where a plugin applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct At {
    service: bool,
    route: bool,
}

/// What a consumer and its keys get.
#[derive(Debug, Default)]
pub(super) struct Rights {
    pub(super) of_consumer: Limit,
    pub(super) of_key: Limit,
    pub(super) networks: Vec<String>,
    /// The restrictions that hold its keys.
    pub(super) held_by: BTreeSet<String>,
}

/// To whom a plugin applies, and the object that contains it.
#[derive(Clone, Default)]
struct Scope {
    people: Option<Vec<usize>>,
    group: Option<usize>,
    at: At,
    place: String,
}

/// The plugins whose settings are read. Of each, Kong runs only the most specific one.
const READ: [&str; 4] =
    ["rate-limiting", "rate-limiting-advanced", "ai-rate-limiting-advanced", "ip-restriction"];

impl<'v> Plugins<'v> {
    /// Reads all enabled plugins. Restrictions that Modelgate does not have are reported, once each.
    pub(super) fn of(file: &File<'v>, imported: &mut Imported) -> Self {
        let mut found = Self::default();
        for person in &file.people {
            let scope =
                Scope { people: Some(vec![person.number]), place: person.place.clone(), ..Scope::default() };
            found.add_all(file, person.object, &scope, imported);
        }
        for (number, group) in list(file.root, "consumer_groups").enumerate() {
            let Some(object) = group.as_object() else { continue };
            let place = format!("consumer group {}", name_of(object));
            found.add_all(file, object, &Scope { group: Some(number), place, ..Scope::default() }, imported);
        }
        for service in list(file.root, "services").filter_map(Value::as_object) {
            let at = At { service: true, route: false };
            let place = format!("service {}", name_of(service));
            found.add_all(file, service, &Scope { at, place, ..Scope::default() }, imported);
            found.add_routes(file, service, imported);
        }
        found.add_routes(file, file.root, imported);
        found.add_all(file, file.root, &Scope { place: "plugins".into(), ..Scope::default() }, imported);
        for plugin in list(file.root, "consumer_group_plugins") {
            found.add(
                file,
                plugin,
                Scope { place: "consumer_group_plugins".into(), ..Scope::default() },
                imported,
            );
        }
        found
    }

    fn add_routes(&mut self, file: &File<'v>, of: &'v Map<String, Value>, imported: &mut Imported) {
        for route in list(of, "routes").filter_map(Value::as_object) {
            let at = At { service: false, route: true };
            let place = format!("route {}", name_of(route));
            self.add_all(file, route, &Scope { at, place, ..Scope::default() }, imported);
        }
    }

    fn add_all(
        &mut self,
        file: &File<'v>,
        of: &'v Map<String, Value>,
        scope: &Scope,
        imported: &mut Imported,
    ) {
        for plugin in list(of, "plugins") {
            self.add(file, plugin, scope.clone(), imported);
        }
    }

    fn add(&mut self, file: &File<'v>, plugin: &'v Value, mut scope: Scope, imported: &mut Imported) {
        let Some(object) = plugin.as_object() else {
            return imported.say(scope.place, "a plugin that is no mapping");
        };
        if object.get("enabled").and_then(Value::as_bool) == Some(false) {
            return;
        }
        let name = object.get("name").and_then(Value::as_str).unwrap_or("without a name");
        if let Err(why) = scope.narrow(file, object) {
            return imported.say(scope.place, format!("its plugin {name}: {why}"));
        }
        let mut findings = Findings::default();
        let effect = match config(file.root, object) {
            Ok(config) => {
                let effect = effect(name, &config, &mut findings);
                if name == "key-auth" {
                    self.key_auth.push(config);
                }
                effect
            }
            Err(why) => {
                findings.hold(name, format!("its plugin {name}: {why}"));
                Effect::default()
            }
        };
        fields::PLUGIN.look(object, &mut findings);
        if scope.is_for_all() && !(effect.of_consumer.is_empty() && effect.of_key.is_empty()) {
            findings.differ(format!(
                "its {name} is taken over as the limit of each consumer that has none of its own"
            ));
        }
        let holds = imported.say_all(&scope.place, findings);
        let number = self.all.len();
        self.all.push(Plugin { name, at: scope.at, effect, holds });
        match (scope.people, scope.group) {
            // A name may be one consumer's username and another's custom_id.
            (Some(people), _) => {
                people.iter().for_each(|person| self.of_person.entry(*person).or_default().push(number));
            }
            (None, Some(group)) => self.of_group.entry(group).or_default().push(number),
            (None, None) => self.of_everybody.push(number),
        }
    }

    /// The plugins' effect on a consumer.
    pub(super) fn rights_of(&self, person: &Person<'_>, findings: &mut Findings) -> Rights {
        let numbers = |of: Option<&Vec<usize>>| {
            of.into_iter().flatten().map(|number| &self.all[*number]).collect::<Vec<_>>()
        };
        let own = numbers(self.of_person.get(&person.number));
        let of_groups: Vec<&Plugin<'_>> =
            person.groups.iter().flat_map(|group| numbers(self.of_group.get(group))).collect();
        let all = numbers(Some(&self.of_everybody));
        let mut rights = Rights::default();
        let mut networks: BTreeSet<&BTreeSet<String>> = BTreeSet::new();
        for name in READ {
            let layers = [&own, &of_groups, &all]
                .map(|layer| layer.iter().copied().filter(|plugin| plugin.name == name).collect::<Vec<_>>());
            for plugin in that_count(&layers) {
                rights.of_consumer.add_all(&plugin.effect.of_consumer);
                rights.of_key.add_all(&plugin.effect.of_key);
                rights.held_by.extend(plugin.holds.iter().cloned());
                networks.extend(&plugin.effect.networks);
            }
        }
        let others = own.iter().chain(&of_groups).chain(&all).filter(|plugin| !READ.contains(&plugin.name));
        rights.held_by.extend(others.flat_map(|plugin| plugin.holds.iter().cloned()));
        if networks.len() > 1 {
            findings.hold("ip-restriction", "its networks, which differ from route to route");
        }
        rights.networks = networks.into_iter().next().into_iter().flatten().cloned().collect();
        rights
    }
}

/// The plugins of one name that apply. The layers are the consumer's own, its groups' and everybody's. Those that apply
/// everywhere are taken from the first layer that has any; those that apply only at a service or route are added.
fn that_count<'p, 'v>(layers: &[Vec<&'p Plugin<'v>>; 3]) -> Vec<&'p Plugin<'v>> {
    let [own, groups, all] = layers;
    let holds_always = |plugin: &&&Plugin<'_>| plugin.at == At::default();
    let own_alone = own.iter().any(|plugin| holds_always(&plugin));
    let groups_alone = groups.iter().any(|plugin| holds_always(&plugin));
    let mut counting: Vec<&Plugin<'_>> = own.clone();
    counting.extend(groups.iter().filter(|plugin| !(own_alone && holds_always(plugin))));
    let is_overruled = own_alone || groups_alone;
    // A plugin on both a route and a service is more specific than a consumer's own.
    counting.extend(all.iter().filter(|plugin| !is_overruled || (plugin.at.service && plugin.at.route)));
    counting
}

impl Scope {
    fn is_for_all(&self) -> bool {
        self.people.is_none() && self.group.is_none()
    }

    /// Narrows the scope to what the plugin itself refers to.
    fn narrow(&mut self, file: &File<'_>, plugin: &Map<String, Value>) -> Result<(), String> {
        let given = |key: &str| plugin.get(key).filter(|value| is_given(value));
        if let Some(consumer) = given("consumer") {
            let name = reference(Some(consumer)).unwrap_or_default();
            let numbers = file.numbers_of(name);
            let first = numbers.first().ok_or_else(|| format!("its consumer {name:?} is not in the file"))?;
            self.place.clone_from(&file.people[*first].place);
            self.people = Some(numbers.to_vec());
        }
        if let Some(group) = given("consumer_group") {
            let name = reference(Some(group)).unwrap_or_default();
            let found = file.group(name).ok_or_else(|| format!("its group {name:?} is not in the file"))?;
            self.group = Some(found);
            self.place = format!("consumer group {name}");
        }
        self.at.service |= given("service").is_some();
        self.at.route |= given("route").is_some();
        Ok(())
    }
}

fn name_of(object: &Map<String, Value>) -> &str {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    text("name").or_else(|| text("id")).unwrap_or("without a name")
}

/// The settings, including those that decK keeps separately: `_config` names an entry of `_plugin_configs`.
fn config(root: &Map<String, Value>, plugin: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut config = match plugin.get("_config") {
        None | Some(Value::Null) => Map::new(),
        Some(shared) => {
            let name = shared.as_str().unwrap_or_default();
            let shared = root.get("_plugin_configs").and_then(|configs| configs.get(name)?.as_object());
            shared.cloned().ok_or_else(|| format!("_plugin_configs has no {name:?}"))?
        }
    };
    match plugin.get("config") {
        None | Some(Value::Null) => {}
        Some(Value::Object(own)) => config.extend(own.clone()),
        Some(_) => return Err("its config is no mapping".into()),
    }
    Ok(config)
}

/// What a plugin restricts. A restriction that Modelgate does not have holds the keys.
fn effect(name: &str, config: &Map<String, Value>, findings: &mut Findings) -> Effect {
    match name {
        "rate-limiting" => return limits::rate_limiting(config, findings),
        "rate-limiting-advanced" => return limits::advanced(config, findings),
        "ai-rate-limiting-advanced" => return limits::of_tokens(config, findings),
        "ip-restriction" => return networks::read(config, findings),
        _ => {}
    }
    let known = fields::PLUGINS.iter().find(|field| field.name == name);
    let (meaning, why) =
        known.map_or((Meaning::Restricts, "Modelgate does not know it"), |field| (field.meaning, field.why));
    let lets_some_pass = match name {
        "request-termination" => config.get("trigger").is_some_and(is_given),
        "acl" => !config.get("allow").is_some_and(is_given) && config.get("deny").is_some_and(is_given),
        _ => why == fields::ASKED_TOO && config.get("anonymous").is_some_and(is_given),
    };
    match meaning {
        Meaning::Restricts if !lets_some_pass => findings.hold(name, format!("its plugin {name}: {why}")),
        Meaning::Restricts | Meaning::Said => findings.say(format!("its plugin {name}: {why}")),
        Meaning::Harmless => {}
    }
    Effect::default()
}
