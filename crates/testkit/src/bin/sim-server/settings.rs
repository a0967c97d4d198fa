//! Options from the environment and the command line: the simulated server's own, and those of the servers that it stands in for:
//! [vLLM](https://docs.vllm.ai/en/stable/cli/serve/), [SGLang](https://docs.sglang.ai/),
//! [llama.cpp](https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md) and Ollama. Of the latter it uses the
//! models' names, the port and the API key, and logs the rest.

use std::{fmt::Display, fs, net::Ipv4Addr, str::FromStr, time::Duration};

use testkit::{
    sim::{Exporter, Options},
    tls::Identity,
};

use crate::AnyError;

/// What to do, and where.
#[derive(Debug)]
pub(crate) struct SimSettings {
    pub(crate) host: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) options: Options,
    pub(crate) is_health_check: bool,
    /// With which spans are sent.
    token: Option<String>,
    /// Arguments that mean nothing to a simulated server.
    pub(crate) ignored: Vec<String>,
}

impl SimSettings {
    /// Reads the settings; the command line takes precedence over the environment.
    pub(crate) fn read(
        variable: impl Fn(&str) -> Option<String>,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Self, AnyError> {
        let mut settings = Self::of_environment(&Environment(variable))?;
        let mut arguments = Arguments::split(arguments);
        let mut names = NamedModels::default();
        while let Some(argument) = arguments.next() {
            settings.take(&argument, &mut arguments, &mut names)?;
        }
        let named_by_environment = std::mem::take(&mut settings.options.models);
        settings.options.models = names.over(named_by_environment);
        Ok(settings)
    }

    fn of_environment(variables: &Environment<impl Fn(&str) -> Option<String>>) -> Result<Self, AnyError> {
        let defaults = Options::default();
        let seconds = |name: &str| variables.parsed(name).map(|s| s.map(Duration::from_secs_f64));
        let milliseconds = |name: &str| variables.parsed(name).map(|ms| ms.map(Duration::from_millis));
        let models = variables.parsed::<String>("SIM_MODELS")?.unwrap_or_default();
        let models = models.split(',').map(str::trim).filter(|model| !model.is_empty());
        let options = Options {
            name: variables.parsed("SIM_NAME")?.unwrap_or_else(host_name),
            models: models.map(str::to_owned).collect(),
            base_path: variables.parsed("SIM_BASE_PATH")?.unwrap_or(defaults.base_path),
            startup_delay: seconds("SIM_STARTUP_DELAY")?.unwrap_or(defaults.startup_delay),
            chunk_delay: milliseconds("SIM_CHUNK_DELAY_MS")?.unwrap_or(defaults.chunk_delay),
            chunks: variables.parsed("SIM_CHUNKS")?.unwrap_or(defaults.chunks),
            latency: milliseconds("SIM_LATENCY_MS")?.unwrap_or(defaults.latency),
            max_running: variables.parsed("SIM_MAX_RUNNING")?.unwrap_or(defaults.max_running),
            adapters: defaults.adapters,
            max_adapters: defaults.max_adapters,
            max_model_len: defaults.max_model_len,
            owned_by: variables.parsed("SIM_OWNED_BY")?.unwrap_or(defaults.owned_by),
            accept_any: variables.flag("SIM_ACCEPT_ANY")?,
            required_key: variables.parsed("SIM_REQUIRE_KEY")?,
            required_header: variables.parsed("SIM_REQUIRE_HEADER")?.unwrap_or(defaults.required_header),
            own_host_only: defaults.own_host_only,
            loaded_after: seconds("SIM_LOADED_AFTER")?.unwrap_or(defaults.loaded_after),
            tls: variables.identity()?,
            spans: None,
        };
        let token = variables.text("OTEL_EXPORTER_OTLP_HEADERS").and_then(|headers| bearer_token(&headers));
        Ok(Self {
            host: variables.parsed("SIM_HOST")?.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port: variables.parsed("SIM_PORT")?.unwrap_or(8000),
            options,
            is_health_check: false,
            token,
            ignored: Vec::new(),
        })
    }

    fn take(
        &mut self,
        argument: &str,
        rest: &mut Arguments,
        names: &mut NamedModels,
    ) -> Result<(), AnyError> {
        match argument {
            "healthcheck" => self.is_health_check = true,
            "--name" => self.options.name = rest.value(argument)?,
            "--base-path" => self.options.base_path = rest.value(argument)?,
            "--port" => self.port = parse(argument, &rest.value(argument)?)?,
            "--api-key" => self.options.required_key = Some(rest.value(argument)?),
            "--otlp-traces-endpoint" => {
                let (endpoint, token) = (rest.value(argument)?, self.token.clone());
                self.options.spans = Some(Exporter { endpoint, token });
            }
            "-m" | "--model" | "--model-path" => names.models.push(rest.value(argument)?),
            // The names that clients use instead of the model's path; vLLM accepts several.
            "-a" | "--alias" | "--served-model-name" => {
                names.served.push(rest.value(argument)?);
                names.served.extend(std::iter::from_fn(|| rest.next_word()));
            }
            // `vllm serve MODEL`; `ollama serve` has no model.
            "serve" => names.models.extend(rest.next_word()),
            // `python3 -m sglang.launch_server …`: the module names no model.
            "python" | "python3" => {
                self.ignored.extend([argument.to_owned()].into_iter().chain(rest.take_two()));
            }
            other => self.ignored.push(other.to_owned()),
        }
        Ok(())
    }
}

/// The models that the command line names.
#[derive(Default)]
struct NamedModels {
    models: Vec<String>,
    served: Vec<String>,
}

impl NamedModels {
    /// All models, those of the environment first; the default model if there are none.
    fn over(self, mut all: Vec<String>) -> Vec<String> {
        all.extend(if self.served.is_empty() { self.models } else { self.served });
        if all.is_empty() { Options::default().models } else { all }
    }
}

/// The command line's arguments, `--name=value` as two.
struct Arguments(std::collections::VecDeque<String>);

impl Arguments {
    fn split(arguments: impl IntoIterator<Item = String>) -> Self {
        let halves = |argument: String| match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.to_owned(), value.to_owned()],
            _ => vec![argument],
        };
        Self(arguments.into_iter().flat_map(halves).collect())
    }

    fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    fn value(&mut self, of: &str) -> Result<String, AnyError> {
        self.next().ok_or_else(|| format!("{of} needs a value").into())
    }

    /// The next argument, unless it is a flag.
    fn next_word(&mut self) -> Option<String> {
        if self.0.front()?.starts_with('-') { None } else { self.next() }
    }

    fn take_two(&mut self) -> impl Iterator<Item = String> {
        self.0.drain(..self.0.len().min(2))
    }
}

struct Environment<V>(V);

impl<V: Fn(&str) -> Option<String>> Environment<V> {
    /// An empty variable counts as absent.
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.is_empty())
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, AnyError> {
        self.text(name).map(|text| parse(name, &text)).transpose()
    }

    fn flag(&self, name: &str) -> Result<bool, AnyError> {
        match self.text(name).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(format!("{name}: {other} is neither 1 nor 0").into()),
        }
    }

    /// The certificate and key with which it listens, from files.
    fn identity(&self) -> Result<Option<Identity>, AnyError> {
        let read = |name: &str, path: String| {
            fs::read_to_string(&path).map_err(|error| format!("{name}: {path}: {error}"))
        };
        match (self.text("SIM_TLS_CERT"), self.text("SIM_TLS_KEY")) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Identity {
                certificate_pem: read("SIM_TLS_CERT", certificate)?,
                key_pem: read("SIM_TLS_KEY", key)?,
            })),
            _ => Err("SIM_TLS_CERT and SIM_TLS_KEY go together".into()),
        }
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, AnyError> {
    text.parse().map_err(|error| format!("{name}: {error}").into())
}

/// The token in `authorization=Bearer%20TOKEN`, as the OpenTelemetry libraries read it.
fn bearer_token(headers: &str) -> Option<String> {
    let pairs = headers.split(',').filter_map(|pair| pair.split_once('='));
    let mut tokens = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("authorization"));
    let value = tokens.next()?.1.replace("%20", " ");
    value.trim().strip_prefix("Bearer ").map(str::to_owned)
}

/// In a container: its id, or the name that was given to it.
fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "sim".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)], arguments: &str) -> Result<SimSettings, AnyError> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        SimSettings::read(variable, arguments.split_whitespace().map(str::to_owned))
    }

    fn served(environment: &[(&str, &str)], arguments: &str) -> (Vec<String>, u16) {
        let settings = read(environment, arguments).expect("settings");
        (settings.options.models, settings.port)
    }

    #[test]
    fn reads_the_command_lines_of_other_servers() {
        for (arguments, models, port) in [
            ("", &["sim-model"][..], 8000),
            ("--model org/llama --port 9000 --gpu-memory-utilization 0.9", &["org/llama"], 9000),
            ("--model=org/llama --port=9000 --enable-lora", &["org/llama"], 9000),
            (
                "serve org/llama --dtype auto --served-model-name llama small --max-model-len 4096",
                &["llama", "small"],
                8000,
            ),
            (
                "python3 -m sglang.launch_server --model-path org/qwen --host 0.0.0.0 --port 30000",
                &["org/qwen"],
                30000,
            ),
            ("-m /models/tiny.gguf --alias tiny -c 4096", &["tiny"], 8000),
            ("serve", &["sim-model"], 8000),
            ("--name gpu-1 --model a --model b", &["a", "b"], 8000),
        ] {
            let models: Vec<String> = models.iter().map(ToString::to_string).collect();
            assert_eq!(served(&[], arguments), (models, port), "{arguments}");
        }
        let settings = read(&[], "--model llama --api-key secret --dtype auto").expect("settings");
        assert_eq!(settings.options.required_key.as_deref(), Some("secret"));
        assert_eq!(settings.ignored, ["--dtype", "auto"]);
    }

    #[test]
    fn reads_the_environment() {
        let (models, _) = served(&[("SIM_MODELS", "a, b"), ("SIM_HOST", "")], "--model c");
        assert_eq!(models, ["a", "b", "c"]);
        let environment = [("SIM_HOST", "127.0.0.2"), ("SIM_ACCEPT_ANY", "1"), ("SIM_LOADED_AFTER", "1.5")];
        let settings = read(&environment, "").expect("settings");
        assert_eq!(settings.host, Ipv4Addr::new(127, 0, 0, 2));
        assert!(settings.options.accept_any);
        assert_eq!(settings.options.loaded_after, Duration::from_millis(1500));
    }

    #[test]
    fn names_what_it_cannot_read() {
        for (name, value) in [
            ("SIM_PORT", "many"),
            ("SIM_ACCEPT_ANY", "perhaps"),
            ("SIM_HOST", "here"),
            ("SIM_TLS_CERT", "/none"),
        ] {
            let error = read(&[(name, value)], "").expect_err("refused").to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(read(&[], "--model").expect_err("refused").to_string().contains("--model needs a value"));
    }
}
