//! What an event of the Docker Engine means for a server.
//!
//! Source: <https://docs.docker.com/reference/cli/docker/system/events/>. In a Swarm every manager gets events of services and
//! nodes, but of containers only those on its own node; tasks have no events. Podman has other words
//! (<https://docs.podman.io/en/latest/markdown/podman-events.1.html>).

use std::collections::HashMap;

use catalogue::{LifecycleFinding, ServerState};
use serde_json::json;

use super::{DockerOptions, wire::Event};

/// The relevant events of containers. `exec_*`, which every HEALTHCHECK causes, are left out.
const ACTIONS: [&str; 18] = [
    "create",
    "start",
    "restart",
    "kill",
    "die",
    "pause",
    "unpause",
    "destroy",
    "rename",
    "update",
    "health_status",
    "health_status: healthy",
    "health_status: unhealthy",
    "connect",
    "disconnect",
    // Podman's words for `die` and `destroy`; Docker's for services and nodes, beside `create` and `update`.
    "died",
    "stop",
    "remove",
];
/// The label that holds the task of a container.
const TASK: &str = "com.docker.swarm.task.id";

const SIGKILL: i64 = 9;
const SIGTERM: i64 = 15;

/// A server that must get no more requests from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Withdrawal {
    /// The container's id, or in a Swarm the task's.
    pub(crate) id: String,
    /// Why.
    pub(crate) reason: LifecycleFinding,
    /// The container is stopping: although the list still calls it running, it stays withdrawn until it restarts. Otherwise the
    /// next list decides.
    pub(crate) until_restart: bool,
}

impl Withdrawal {
    /// The resulting state of the server.
    pub(crate) fn state(&self) -> ServerState {
        let why = self.reason.clone().into();
        if self.reason.has_ended() { ServerState::Stopped(why) } else { ServerState::Draining(why) }
    }
}

/// The kind of host that sends the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeardBy {
    /// An Engine, whose containers are the servers.
    Engine,
    /// A manager of a Swarm, whose tasks are the servers.
    SwarmManager,
}

impl HeardBy {
    /// The kind of a host.
    pub(super) fn of(options: &DockerOptions) -> Self {
        if options.swarm { Self::SwarmManager } else { Self::Engine }
    }
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Withdraw at once, then look again.
    Withdraw(Withdrawal),
    /// The container has started: withdrawals of its last run no longer apply. Look again.
    Started(String),
    /// Look again.
    Look,
}

/// The filters for the Engine's events.
pub(super) fn filters(heard_by: HeardBy) -> String {
    let types: &[&str] = match heard_by {
        HeardBy::Engine => &["container", "network"],
        HeardBy::SwarmManager => &["container", "service", "node"],
    };
    json!({ "type": types, "event": ACTIONS }).to_string()
}

/// Parses a line of the events; an unreadable line means "look again".
pub(super) fn parse(line: &[u8]) -> Event {
    serde_json::from_slice(line).unwrap_or_default()
}

/// What an event means. `stop_signals` has the stop signal of each container or task, where known.
pub(super) fn read(event: &Event, heard_by: HeardBy, stop_signals: &HashMap<String, i64>) -> Meaning {
    let attribute = |name: &str| event.actor.attributes.get(name).map(String::as_str);
    let actor = Some(event.actor.id.as_str()).filter(|id| !id.is_empty());
    let id = match event.r#type.as_str() {
        "container" if heard_by == HeardBy::SwarmManager => attribute(TASK),
        "container" => actor,
        // In Docker the event's actor is the network, in Podman the container.
        "network" => attribute("container").or(actor),
        _ => None,
    };
    let Some(id) = id else { return Meaning::Look };
    let until_restart =
        |reason| Meaning::Withdraw(Withdrawal { id: id.to_owned(), reason, until_restart: true });
    let until_next_look =
        |reason| Meaning::Withdraw(Withdrawal { id: id.to_owned(), reason, until_restart: false });
    match event.action.as_str() {
        "kill" => match attribute("signal").and_then(signal_number) {
            Some(signal)
                if signal == SIGKILL || signal == stop_signals.get(id).copied().unwrap_or(SIGTERM) =>
            {
                until_restart(LifecycleFinding::ToldToStop)
            }
            Some(_) => Meaning::Look,
            // Podman does not say which signal: the next list decides.
            None => until_next_look(LifecycleFinding::Signalled),
        },
        "die" | "died" | "stop" => until_restart(LifecycleFinding::Stopped),
        "destroy" | "remove" => until_restart(LifecycleFinding::Removed),
        "pause" => until_next_look(LifecycleFinding::Frozen),
        "disconnect" => until_next_look(LifecycleFinding::Disconnected),
        "health_status: unhealthy" => until_next_look(LifecycleFinding::HealthcheckFails),
        "health_status" if event.health_status == "unhealthy" => {
            until_next_look(LifecycleFinding::HealthcheckFails)
        }
        "start" | "restart" => Meaning::Started(id.to_owned()),
        _ => Meaning::Look,
    }
}

/// A signal by number or name, as events (`15`) and images (`SIGTERM`, `TERM`, `15`) give it.
pub(super) fn signal_number(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    match text.strip_prefix("SIG").unwrap_or(text) {
        "HUP" => Some(1),
        "INT" => Some(2),
        "QUIT" => Some(3),
        "KILL" => Some(SIGKILL),
        "USR1" => Some(10),
        "USR2" => Some(12),
        "TERM" => Some(SIGTERM),
        "WINCH" => Some(28),
        "PWR" => Some(30),
        name => name.strip_prefix("RTMIN+").and_then(|n| n.parse::<i64>().ok()).map(|n| 34 + n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes: HashMap<&str, &str> = attributes.iter().copied().collect();
        let line = json!({ "Type": "container", "Action": action, "Actor": { "ID": "c1", "Attributes": attributes } });
        parse(line.to_string().as_bytes())
    }

    fn withdraws(event: &Event, stop_signal: &str) -> Option<bool> {
        let signals = HashMap::from([("c1".to_owned(), signal_number(stop_signal).expect("a signal"))]);
        match read(event, HeardBy::Engine, &signals) {
            Meaning::Withdraw(w) => Some(w.until_restart),
            _ => None,
        }
    }

    #[test]
    fn only_the_containers_own_stop_signal_withdraws_it() {
        assert_eq!(withdraws(&event("kill", &[("signal", "15")]), "SIGTERM"), Some(true));
        assert_eq!(withdraws(&event("kill", &[("signal", "1")]), "SIGTERM"), None, "nginx reloads on SIGHUP");
        assert_eq!(withdraws(&event("kill", &[("signal", "2")]), "SIGINT"), Some(true));
        assert_eq!(withdraws(&event("kill", &[("signal", "15")]), "SIGINT"), None);
        assert_eq!(
            withdraws(&event("kill", &[("signal", "9")]), "SIGINT"),
            Some(true),
            "nothing survives SIGKILL"
        );
        assert_eq!(withdraws(&event("kill", &[("signal", "37")]), "SIGRTMIN+3"), Some(true));
    }

    #[test]
    fn what_the_next_list_may_take_back() {
        for action in ["pause", "disconnect", "health_status: unhealthy"] {
            assert_eq!(withdraws(&event(action, &[]), "15"), Some(false), "{action}");
        }
        for action in ["die", "destroy"] {
            assert_eq!(withdraws(&event(action, &[]), "15"), Some(true), "{action}");
        }
    }

    #[test]
    fn a_network_event_names_its_container_in_an_attribute() {
        let mut disconnect = event("disconnect", &[("container", "c2")]);
        disconnect.r#type = "network".into();
        assert!(
            matches!(read(&disconnect, HeardBy::Engine, &HashMap::new()), Meaning::Withdraw(w) if w.id == "c2")
        );
    }

    /// Recorded from Podman 4.3.1, shortened.
    #[test]
    fn podman_says_it_in_other_words() {
        let said = |line: &str| read(&parse(line.as_bytes()), HeardBy::Engine, &HashMap::new());
        let of = |kind: &str, action: &str| {
            format!(
                r#"{{"status":"{action}","id":"1c97","Type":"{kind}","Action":"{action}","Actor":{{"ID":"1c97",
                "Attributes":{{"containerExitCode":"0","image":"","name":"br","podId":""}}}},"scope":"local"}}"#
            )
        };
        let withdrawn = |meaning: &Meaning| match meaning {
            Meaning::Withdraw(w) if w.id == "1c97" => Some(w.until_restart),
            _ => None,
        };
        for (kind, action, expected) in [
            ("container", "die", Some(true)),
            ("container", "died", Some(true)),
            ("container", "remove", Some(true)),
            ("container", "kill", Some(false)),
            ("network", "disconnect", Some(false)),
            ("container", "cleanup", None),
            ("container", "init", None),
        ] {
            assert_eq!(withdrawn(&said(&of(kind, action))), expected, "{kind} {action}");
        }
        let unhealthy =
            of("container", "health_status").replace("\"scope\"", "\"HealthStatus\":\"unhealthy\",\"scope\"");
        assert_eq!(withdrawn(&said(&unhealthy)), Some(false));
        assert_eq!(said(&unhealthy.replace("unhealthy", "healthy")), Meaning::Look);
    }

    #[test]
    fn an_event_that_cannot_be_read_means_look_again() {
        for line in ["", "{", "[]", r#"{"Type":7}"#, r#"{"Type":"container","Action":"die","Actor":null}"#] {
            assert_eq!(
                read(&parse(line.as_bytes()), HeardBy::Engine, &HashMap::new()),
                Meaning::Look,
                "{line}"
            );
        }
    }

    #[test]
    fn coming_back() {
        assert_eq!(
            read(&event("start", &[]), HeardBy::Engine, &HashMap::new()),
            Meaning::Started("c1".into())
        );
        assert_eq!(read(&event("unpause", &[]), HeardBy::Engine, &HashMap::new()), Meaning::Look);
        assert_eq!(
            read(&event("health_status: healthy", &[]), HeardBy::Engine, &HashMap::new()),
            Meaning::Look
        );
    }

    #[test]
    fn in_a_swarm_a_container_stands_for_its_task() {
        let mut die = event("die", &[(TASK, "t1")]);
        assert!(
            matches!(read(&die, HeardBy::SwarmManager, &HashMap::new()), Meaning::Withdraw(w) if w.id == "t1")
        );
        assert_eq!(
            read(&event("die", &[]), HeardBy::SwarmManager, &HashMap::new()),
            Meaning::Look,
            "no task's container"
        );
        die.r#type = "service".into();
        assert_eq!(
            read(&die, HeardBy::SwarmManager, &HashMap::new()),
            Meaning::Look,
            "a service is not a task"
        );
    }
}
