//! The `inference.*` labels of a container: what each means and how it is parsed.
//!
//! Labels that say where a server is are defined here. How it is routed is defined by [settings](crate::Setting), which the
//! configuration file has, too.

use std::collections::BTreeMap;

use crate::{
    BasePath, GivenModelSettings, HealthMode, LabelFinding, ModelName, ServerSettings, Setting, closest,
    setting, settings,
};

/// One row of the label reference.
#[derive(Debug, Clone, Copy)]
pub struct LabelDoc {
    /// The label.
    pub name: &'static str,
    /// The corresponding key of a `servers:` entry in the configuration file, if there is one.
    pub file_key: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// The value if the label is absent.
    pub default: &'static str,
    /// The allowed values.
    pub allowed: &'static str,
}

/// The label that opts a container in.
pub const OPT_IN: &str = "inference.enable";

/// All known labels, except for the [settings](crate::Setting).
pub const LABELS: &[LabelDoc] = &[
    LabelDoc {
        name: OPT_IN,
        file_key: "",
        meaning: "Opts the container in",
        default: "false",
        allowed: "true or false",
    },
    LabelDoc {
        name: "inference.port",
        file_key: "url",
        meaning: "Port on which the server listens inside the container",
        default: "the one port that the image exposes, else 8000",
        allowed: "a number from 1 to 65535",
    },
    LabelDoc {
        name: "inference.api.base_path",
        file_key: "base_path",
        meaning: "Prefix of the server's OpenAI-compatible API; clients always use /v1",
        default: "/v1",
        allowed: "\"/\", or a path of letters, digits and -._~",
    },
    LabelDoc {
        name: "inference.network",
        file_key: "",
        meaning: "Docker network whose address is used",
        default: "the first, by name, that Modelgate and Traefik are on too",
        allowed: "a network that the container is attached to; Compose's short name will do",
    },
    LabelDoc {
        name: "inference.models",
        file_key: "models",
        meaning: "Models by hand, for a server without a model list",
        default: "the server is asked",
        allowed: "names, separated by commas",
    },
    LabelDoc {
        name: "inference.health",
        file_key: "",
        meaning: "Who decides whether the server is ready",
        default: "docker if the container has a HEALTHCHECK, else probe",
        allowed: "docker or probe",
    },
];

/// The prefix of a setting's key in a label.
pub(crate) const PREFIX: &str = "inference.";

/// The parsed labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) port: Option<u16>,
    pub(crate) base_path: BasePath,
    pub(crate) network: Option<String>,
    pub(crate) models: Vec<ModelName>,
    pub(crate) health: Option<HealthMode>,
    pub(crate) settings: ServerSettings,
    pub(crate) model_settings: GivenModelSettings,
}

/// The result of parsing a container's labels.
pub(crate) enum Reading {
    /// The container is not opted in.
    NotEnabled,
    /// All known labels were parsed. The warnings name unknown labels.
    Read(Box<Labels>, Vec<LabelFinding>),
    /// The container is opted in, but at least one label is wrong; every fault is listed.
    Faulty(Vec<LabelFinding>),
}

pub(crate) fn read(labels: &BTreeMap<String, String>) -> Reading {
    let mut faults = Vec::new();
    match labels.get(OPT_IN).map(|v| (v, setting::parse_bool(v))) {
        Some((_, Some(true))) => {}
        None | Some((_, Some(false))) => return Reading::NotEnabled,
        Some((found, None)) => {
            return Reading::Faulty(vec![fault(OPT_IN, found, "true or false")]);
        }
    }
    let mut get = |name: &'static str| {
        let found = labels.get(name)?.trim();
        if found.is_empty() {
            faults.push(fault(name, found, allowed(name)));
            return None;
        }
        Some(found)
    };
    let (port, base_path, network, models, health) = (
        get("inference.port"),
        get("inference.api.base_path"),
        get("inference.network"),
        get("inference.models"),
        get("inference.health"),
    );
    let (settings, model_settings) = read_settings(labels, &mut faults);
    let read = Labels {
        port: port.and_then(|found| {
            let port = found.parse().ok().filter(|p: &u16| *p > 0);
            port.or_else(|| push(&mut faults, fault("inference.port", found, allowed("inference.port"))))
        }),
        base_path: base_path
            .and_then(|found| match BasePath::parse(found) {
                Ok(path) => Some(path),
                Err(invalid) => push(&mut faults, LabelFinding::BasePath(invalid)),
            })
            .unwrap_or_default(),
        network: network.map(str::to_owned),
        models: models.map(|list| read_models(list, &mut faults)).unwrap_or_default(),
        health: health.and_then(|found| match found {
            "docker" => Some(HealthMode::Docker),
            "probe" => Some(HealthMode::Probe),
            _ => push(&mut faults, fault("inference.health", found, allowed("inference.health"))),
        }),
        settings,
        model_settings,
    };
    if !faults.is_empty() {
        return Reading::Faulty(faults);
    }
    Reading::Read(Box::new(read), unknown(labels))
}

fn read_settings(
    labels: &BTreeMap<String, String>,
    faults: &mut Vec<LabelFinding>,
) -> (ServerSettings, GivenModelSettings) {
    let (mut server, mut model) = (ServerSettings::default(), GivenModelSettings::default());
    for setting in settings() {
        let name = format!("{PREFIX}{}", setting.key);
        if let Some(found) = labels.get(&name)
            && setting.read(found, &mut server, &mut model).is_err()
        {
            faults.push(fault(&name, &setting.told(found), setting.allowed));
        }
    }
    for fault in [server.check(), model.check()].into_iter().filter_map(Result::err) {
        faults.push(LabelFinding::Inconsistent(fault));
    }
    (server, model)
}

fn read_models(list: &str, faults: &mut Vec<LabelFinding>) -> Vec<ModelName> {
    let mut models = Vec::new();
    for name in list.split(',').map(str::trim) {
        match ModelName::new(name) {
            Ok(name) => models.push(name),
            Err(invalid) => faults.push(LabelFinding::ModelName(invalid)),
        }
    }
    models.sort();
    models.dedup();
    models
}

fn unknown(labels: &BTreeMap<String, String>) -> Vec<LabelFinding> {
    let is_known = |name: &str| {
        LABELS.iter().any(|l| l.name == name)
            || name.strip_prefix(PREFIX).is_some_and(|key| Setting::find(key).is_some())
    };
    let unknown = labels.keys().filter(|name| is_meant_for_us(name) && !is_known(name));
    unknown.map(|name| LabelFinding::Unknown { label: name.clone() }).collect()
}

/// A label that is probably a misspelt `inference.enable`, if the container lacks that label: it would otherwise be ignored
/// silently.
pub fn misspelt_opt_in(labels: &BTreeMap<String, String>) -> Option<LabelFinding> {
    let is_it = |(name, value): &(&String, &String)| {
        is_meant_for_us(name)
            && setting::parse_bool(value) != Some(false)
            && meant(name).is_some_and(|meant| meant == OPT_IN)
    };
    let found = labels.iter().find(is_it).filter(|_| !labels.contains_key(OPT_IN));
    found.map(|(name, _)| LabelFinding::EnableMisspelt { label: name.clone() })
}

/// The known label that an unknown one was probably meant to be.
pub(crate) fn meant(label: &str) -> Option<String> {
    in_other_spelling(label).or_else(|| {
        let known: Vec<String> = known().collect();
        let keys = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
        closest(without_prefix(label)?, keys).map(|key| format!("{PREFIX}{key}"))
    })
}

/// Whether a label has Modelgate's prefix, or is one of its labels in another spelling. Other programs have labels that begin
/// with `inference-` or `inference_`.
fn is_meant_for_us(label: &str) -> bool {
    without_prefix(label).is_some() || in_other_spelling(label).is_some()
}

fn without_prefix(label: &str) -> Option<&str> {
    let (prefix, key) = label.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(key)
}

/// The known label that differs only in case and in `.`, `_` and `-`.
fn in_other_spelling(label: &str) -> Option<String> {
    let begins = PREFIX.trim_end_matches('.');
    let plain = plain(label);
    if !plain.starts_with(begins) {
        return None;
    }
    known().find(|known| self::plain(known) == plain)
}

fn plain(label: &str) -> String {
    let letters = label.chars().filter(|c| !matches!(c, '.' | '_' | '-'));
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// All known labels.
pub(crate) fn known() -> impl Iterator<Item = String> {
    let of_labels = LABELS.iter().map(|l| l.name.to_owned());
    of_labels.chain(settings().map(|s| format!("{PREFIX}{}", s.key)))
}

fn allowed(name: &str) -> &'static str {
    LABELS.iter().find(|l| l.name == name).map_or("", |l| l.allowed)
}

fn fault(name: &str, found: &str, allowed: &'static str) -> LabelFinding {
    LabelFinding::NotAllowed { label: name.to_owned(), found: found.chars().take(64).collect(), allowed }
}

fn push<T>(faults: &mut Vec<LabelFinding>, fault: LabelFinding) -> Option<T> {
    faults.push(fault);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(pairs: &[(&str, &str)]) -> Reading {
        read(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("inference.enable", "true")];
        all.extend_from_slice(pairs);
        match read_all(&all) {
            Reading::Faulty(faults) => faults.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn each_bad_label_is_named_with_what_is_allowed() {
        for (label, value, message) in [
            (
                "inference.port",
                "abc",
                "label inference.port=\"abc\" is not allowed: write a number from 1 to 65535",
            ),
            (
                "inference.port",
                "0",
                "label inference.port=\"0\" is not allowed: write a number from 1 to 65535",
            ),
            (
                "inference.health",
                "maybe",
                "label inference.health=\"maybe\" is not allowed: write docker or probe",
            ),
            ("inference.models", "a,,b", "label inference.models: \"\" is not a model name: it is empty"),
            (
                "inference.network",
                " ",
                "label inference.network=\"\" is not allowed: write a network that the container is attached to; Compose's short name will do",
            ),
        ] {
            assert_eq!(faults(&[(label, value)]), [message]);
        }
        assert!(
            faults(&[("inference.api.base_path", "v1")])[0]
                .starts_with("label inference.api.base_path: \"v1\" is not a base path")
        );
    }

    #[test]
    fn what_may_be_a_credential_in_a_label_is_not_told() {
        for (label, value) in [
            ("inference.select.header", "Authorization: Bearer sk-secret"),
            ("inference.select.header_regexp", "X-Api-Key: ^sk-secret$"),
            ("inference.api.base_path", "/v1?key=sk-secret"),
            ("inference.ready.path", "ready?key=sk-secret"),
        ] {
            let told = faults(&[(label, value)]);
            assert!(told.len() == 1 && !told[0].contains("secret"), "{told:?}");
        }
    }

    #[test]
    fn all_faults_are_told_together() {
        assert_eq!(faults(&[("inference.port", "x"), ("inference.health", "y")]).len(), 2);
    }

    #[test]
    fn an_unreadable_opt_in_is_a_fault_and_not_a_silent_no() {
        assert!(
            matches!(read_all(&[("inference.enable", "yes")]), Reading::Faulty(f) if f[0].to_string().contains("\"yes\""))
        );
        assert!(matches!(read_all(&[("inference.enable", "false")]), Reading::NotEnabled));
        assert!(matches!(read_all(&[]), Reading::NotEnabled));
    }

    #[test]
    fn a_misspelt_label_is_named_but_the_container_lives() {
        let Reading::Read(labels, warnings) =
            read_all(&[("inference.enable", "True"), ("inference.prot", "1")])
        else {
            panic!("it must be read");
        };
        assert_eq!(labels.port, None);
        assert!(warnings[0].to_string().starts_with("label inference.prot is not known"), "{warnings:?}");
        assert_eq!(
            format!("{:#}", warnings[0]),
            "label inference.prot is not known and has no effect (did you mean inference.port?)"
        );
    }

    #[test]
    fn what_a_mistyped_label_is_meant_to_be() {
        for (label, meant) in [
            ("inference.prot", Some("inference.port")),
            ("Inference.Port", Some("inference.port")),
            ("inference.base_path", Some("inference.api.base_path")),
            ("inference.api.basePath", Some("inference.api.base_path")),
            ("inference-api-base-path", Some("inference.api.base_path")),
            ("inference.modles", Some("inference.models")),
            ("inference.colour", None),
            ("inference-server.version", None),
        ] {
            assert_eq!(super::meant(label).as_deref(), meant, "{label}");
        }
        let plain: std::collections::BTreeSet<String> = known().map(|label| plain(&label)).collect();
        assert_eq!(plain.len(), known().count(), "no spelling stands for two labels");
    }

    #[test]
    fn a_label_in_another_spelling_is_named_as_one_that_is_not_known() {
        let all = [
            ("inference.enable", "true"),
            ("Inference.Port", "1"),
            ("inference_server", "triton"),
            ("é", ""),
        ];
        let Reading::Read(labels, warnings) = read_all(&all) else { panic!("it must be read") };
        assert_eq!(labels.port, None);
        assert_eq!(warnings, [LabelFinding::Unknown { label: "Inference.Port".into() }]);
    }

    #[test]
    fn a_misspelt_opt_in_is_told() {
        let told = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            misspelt_opt_in(&labels).map(|finding| finding.to_string())
        };
        for label in [
            "Inference.Enable",
            "inference_enable",
            "inference.ENABLE",
            "inference.enabled",
            "inference.enbale",
        ] {
            let words = told(&[(label, "true")]).expect(label);
            assert!(words.contains(label) && words.contains("inference.enable=true"), "{words}");
            assert_eq!(told(&[(label, "true"), ("inference.enable", "false")]), None, "that is an answer");
            assert_eq!(told(&[(label, "false")]), None);
        }
        for label in ["inference.port", "inference-server.enabled", "enable", "traefik.enable"] {
            assert_eq!(told(&[(label, "true")]), None, "{label}");
        }
    }
}
