//! What to do about a problem. The problem's own words say what was found and often what would be right; this says
//! which screw to turn.

/// Advice for a problem, or for why a server is not ready; `None` if its words say it all.
pub(crate) fn advice(words: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(parts, _)| parts.iter().all(|part| words.contains(part))).map(|(_, advice)| *advice)
}

/// Whether a server that is loading may have a problem in these words: it does not listen yet, takes its time, or says
/// itself that it is not ready. A label, or an answer such as 401 or 404, needs somebody.
pub(crate) fn may_pass_by_itself(words: &str) -> bool {
    const PARTS: [&str; 5] = [
        "cannot connect to ",
        " does not answer within ",
        " broke off",
        " answers 503",
        " in it, so it is not ready",
    ];
    !words.starts_with("label ") && PARTS.iter().any(|part| words.contains(part))
}

const DO_NOT_EXPOSE: &str = "Set traefik.enable: \"false\" among the labels of its service in the Compose file, or start \
     Traefik with --providers.docker.exposedByDefault=false (swarm for a Swarm). Then look whether anybody got there: \
     Traefik's access log names the router.";

/// Parts of a problem's words, and what to do; the first entry whose parts all occur.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["a TCP router: what passes there is not checked"],
        "Set traefik.enable: \"false\" among the labels of its service in the Compose file (the label traefik.enable=false), \
         and start it anew: docker compose up -d. Clients reach it through Modelgate's routers.",
    ),
    (
        &["without Modelgate's check"],
        "If the router is left over, set traefik.enable: \"false\" among the labels of its service in the Compose file; if it is \
         needed, add modelgate@http to its middlewares. Then start the container anew: docker compose up -d.",
    ),
    (&["and limits, management paths included: set the label traefik.enable=false"], DO_NOT_EXPOSE),
    (&["reach what only Traefik is to reach"], DO_NOT_EXPOSE),
    (
        &["whether Traefik exposes containers by itself"],
        "Set traefik.enable: \"false\" among the labels of the services that are named; Modelgate needs no router of theirs.",
    ),
    (
        &["have Modelgate's check in them cannot be seen from here"],
        "Look at that middleware where it is defined, in Traefik's file for instance: without a key, a request to the router \
         must be answered 401.",
    ),
    (
        &["is published on every address of its host"],
        "Take the port away from ports: in its Compose file, or bind it to 127.0.0.1. Traefik and Modelgate reach the server \
         by its network.",
    ),
    (
        &["Docker does not say how it is"],
        "docker inspect NAME on that host says the same; what it cannot show is often half removed (docker rm -f NAME), or \
         forbidden by a proxy before the Docker socket.",
    ),
    (
        &["cannot be read at this one"],
        "docker inspect NAME on that host shows what is odd about it. The others are not touched.",
    ),
    (&["is not known here"], "A newer Docker or Podman has this word; a newer Modelgate may know it."),
    (
        &["the addresses of the Swarm's nodes are not known"],
        "A proxy before the Docker socket must let GET /nodes through, as deploy/docker-socket-proxy.cfg shows.",
    ),
    (
        &["label ", "is not known and has no effect"],
        "Correct the label's name, or take it away, and start the container anew: docker compose up -d. All labels are in \
         deploy/reference.md.",
    ),
    (
        &["label inference.health", "no HEALTHCHECK"],
        "Give the service a healthcheck in its Compose file, or take the label away: then Modelgate asks the server itself.",
    ),
    (
        &["label "],
        "Correct the label and start the container anew: docker compose up -d. Labels cannot change while it runs.",
    ),
    (
        &["not on a network shared with Traefik"],
        "Attach the container to a network that Traefik and Modelgate are on (networks: in its Compose file). Without one \
         Traefik would show the service with 0 servers, or answer 502 or 504.",
    ),
    (
        &["it is on no network"],
        "Give it a network that Traefik and Modelgate are on: networks: in its Compose file.",
    ),
    (
        &["has no address on network"],
        "Docker gives it an address once it runs; if it does, disconnect it from the network and connect it again.",
    ),
    (
        &["but it is attached to:"],
        "Name one of the networks that it is attached to, or attach it to that one.",
    ),
    (
        &["network_mode: host", "host_address"],
        "Set docker.host_address to the Docker host's address on a network that Traefik reaches.",
    ),
    (&["is not published"], "Publish the port on the Docker host: ports: in its Compose file."),
    (&["is published, but", "is not set"], "Set it to an address of the Docker host that Traefik reaches."),
    (
        &["cannot connect to", "is url right"],
        "Is the server running, does it listen on an address that can be reached from here, and is its url in the \
         configuration right?",
    ),
    (
        &["cannot connect to"],
        "The container runs, but nothing answers at that port. Set the label inference.port to the one that the server \
         listens on, and let it listen on 0.0.0.0, not on 127.0.0.1. A server that is still loading answers later by itself.",
    ),
    (
        &["does not answer within"],
        "It takes the connection and then says nothing: it may be loading its model, be overloaded, or hang. Look at its \
         log: docker logs NAME.",
    ),
    (
        &["answers 404"],
        "The server has no model list there. Set inference.models to name its models by hand (a FastAPI application has no \
         list), or inference.api.base_path if its API is elsewhere.",
    ),
    (&["answers 405"], "Set inference.models to name its models by hand: it has no model list there."),
    (
        &["answers 401"],
        "Start the server without an API key of its own, or give Modelgate its credential; Modelgate checks the clients' keys.",
    ),
    (
        &["answers 403"],
        "Start the server without an API key of its own, or give Modelgate its credential; Modelgate checks the clients' keys.",
    ),
    (
        &["so it is not ready"],
        "It says itself that it is not ready; see ready.path and ready.contains among its labels, and its log.",
    ),
    (&["answers 5"], "The server fails by itself; look at its log: docker logs NAME."),
    (
        &["lists no models"],
        "Load or pull a model into it (ollama pull …), or name its models by the label inference.models.",
    ),
    (
        &["not JSON"],
        "What answers there is no OpenAI-compatible API; check inference.port and inference.api.base_path.",
    ),
    (
        &["HEALTHCHECK has not passed yet"],
        "It is loading; requests are sent to it once its HEALTHCHECK passes, so that no client sees a 502. If this lasts: \
         docker inspect --format '{{json .State.Health}}' NAME says why, and start_period may be too short for the model.",
    ),
    (
        &["HEALTHCHECK fails"],
        "docker inspect --format '{{json .State.Health}}' NAME shows the last results. Is the program of the check (curl, \
         wget) in the image, and the port the right one?",
    ),
    (&["it is paused"], "docker unpause NAME."),
    (
        &["has been created, but not started"],
        "docker start NAME; in Compose, see whether something that it depends on is not healthy.",
    ),
    (
        &["Docker is restarting it"],
        "It ends again and again; docker logs NAME says why. Out of memory, most often.",
    ),
    (&["it has stopped"], "docker start NAME. If it was not you who stopped it, docker logs NAME says why."),
    (&["drained by"], "Resume it here, or start it anew."),
    (&["paused by"], "Resume it here."),
    (
        &["already, and they are taken from there"],
        "Leave one of the two Docker hosts out of the configuration.",
    ),
    (
        &["source docker", "does not answer"],
        "Is the Docker socket, or the proxy before it, there and allowed? See docker.endpoint. What is known goes on working.",
    ),
    (
        &["does not answer:"],
        "Is the Docker Engine there, and its endpoint right? What is known of it goes on working.",
    ),
    (
        &["configuration the changed file"],
        "Correct the file: it is read again as soon as it changes. `modelgate check` says what is wrong with it.",
    ),
    (
        &["configuration ", "only after a restart"],
        "Restart Modelgate when it suits you; the rest of the change is in force.",
    ),
    (
        &["Store it has been down"],
        "Is the database there, and store.url right? Keys go on working; changes of them have to wait.",
    ),
    (
        &["Store ", "is not in force"],
        "The log and /readyz name all of them. Change it, or delete it and make it anew; what a newer Modelgate has written, \
         that one can read.",
    ),
    (
        &["Shared limits its server does not answer"],
        "Is the Redis or Valkey there, and shared_limits.url right?",
    ),
    (&["Swarm says"], "docker service ps SERVICE --no-trunc shows the same for all of its tasks."),
    (&["needs Traefik"], "Raise Traefik and traefik.version, or leave the setting out."),
    (&["Traefik ", "or later"], "Raise Traefik and traefik.version."),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use catalogue::{
        ContainerHealth, ContainerRecord, ContainerStatus, Exposable, Interpretation, Provider, Role, Sight,
        Vantage, doors, interpret,
    };

    use super::*;

    fn container(labels: &[(&str, &str)]) -> ContainerRecord {
        let labels = labels.iter().chain(&[("inference.enable", "true")]);
        ContainerRecord {
            id: "c1".into(),
            name: "vllm".into(),
            image: "vllm/vllm-openai".into(),
            labels: labels.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            status: ContainerStatus::Running,
            health: None,
            started_at: String::new(),
            networks: BTreeMap::from([("ai".into(), "10.1.0.2".into())]),
            network_mode: "ai".into(),
            exposed_ports: BTreeSet::new(),
            published_ports: Vec::new(),
        }
    }

    /// What to do about what the catalogue itself says of a container.
    fn todo(container: &ContainerRecord, vantage: &Vantage) -> &'static str {
        let (found, problems) = interpret(container, vantage);
        let why = match found {
            Interpretation::Down(state) | Interpretation::Server(_, state) => state.why().map(str::to_owned),
            _ => None,
        };
        let words = problems.first().map(ToString::to_string).or(why).expect("something is wrong");
        advice(&words).unwrap_or_else(|| panic!("nothing to do about {words:?}"))
    }

    #[test]
    fn each_problem_of_a_container_has_an_answer() {
        let plain = Vantage::default();
        let on = |name: &str| Some(BTreeSet::from([name.to_owned()]));
        let elsewhere = Vantage { own_networks: on("x"), traefik_networks: on("x"), ..Vantage::default() };
        let published = Vantage { published: true, ..Vantage::default() };
        let host = ContainerRecord { network_mode: "host".into(), ..container(&[]) };
        let none =
            ContainerRecord { networks: BTreeMap::new(), network_mode: "none".into(), ..container(&[]) };
        let unhealthy = ContainerRecord { health: Some(ContainerHealth::Unhealthy), ..container(&[]) };
        let loading = ContainerRecord { health: Some(ContainerHealth::Starting), ..container(&[]) };
        let status = |status| ContainerRecord { status, ..container(&[]) };
        for (container, vantage, part) in [
            (container(&[("inference.port", "abc")]), &plain, "Correct the label and start"),
            (container(&[("inference.prot", "8000")]), &plain, "Correct the label's name"),
            (container(&[("inference.health", "docker")]), &plain, "Give the service a healthcheck"),
            (container(&[("inference.network", "other")]), &plain, "Correct the label"),
            (container(&[]), &elsewhere, "Attach the container to a network"),
            (none, &plain, "Give it a network"),
            (host, &elsewhere, "docker.host_address"),
            (container(&[]), &published, "Set it to an address"),
            (unhealthy, &plain, "docker inspect"),
            (loading, &plain, "start_period"),
            (status(ContainerStatus::Paused), &plain, "docker unpause"),
            (status(ContainerStatus::Created), &plain, "docker start"),
            (status(ContainerStatus::Restarting), &plain, "docker logs"),
            (status(ContainerStatus::Exited), &plain, "docker start"),
        ] {
            let todo = todo(&container, vantage);
            assert!(todo.contains(part), "{part}: {todo}");
        }
    }

    /// In the words of the catalogue itself.
    #[test]
    fn each_door_has_an_answer() {
        let exposable = |labels: &[(&str, &str)], role| Exposable {
            name: "vllm".into(),
            docker_name: "vllm".into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ports: BTreeSet::from([8000]),
            role,
        };
        let provider = Sight::On(Provider { exposed_by_default: true, constraint: None });
        let rule = |kind: &str| (format!("traefik.{kind}.routers.a.rule"), "Host(`a`)");
        let (http, tcp) = (rule("http"), rule("tcp"));
        let unseen = [(http.0.as_str(), http.1), ("traefik.http.routers.a.middlewares", "sso@file")];
        for (it, part) in [
            (exposable(&[], Role::Server), "exposedByDefault=false"),
            (exposable(&[], Role::Modelgate(BTreeSet::from([8000]))), "exposedByDefault=false"),
            (exposable(&[(&http.0, http.1)], Role::Server), "add modelgate@http to its middlewares"),
            (exposable(&[(&tcp.0, tcp.1)], Role::Server), "Clients reach it through Modelgate's routers"),
            (exposable(&unseen, Role::Server), "Look at that middleware"),
        ] {
            let found = doors(&[it], &[("traefik".into(), provider.clone())]).problems;
            assert_eq!(found.len(), 1, "{found:?}");
            let words = found[0].to_string();
            assert!(advice(&words).is_some_and(|todo| todo.contains(part)), "{words}: {:?}", advice(&words));
        }
        let published = catalogue::open_port("vllm", 32768, 8000).to_string();
        assert!(advice(&published).is_some_and(|todo| todo.contains("127.0.0.1")));
    }

    #[test]
    fn what_an_operator_has_done_can_be_undone_here() {
        for kind in [catalogue::HoldKind::Pause, catalogue::HoldKind::Drain { incarnation: String::new() }] {
            let words = catalogue::Hold { kind, by: "alice".into() }.reason();
            assert!(advice(&words).is_some_and(|todo| todo.contains("Resume")), "{words}");
        }
    }
}
