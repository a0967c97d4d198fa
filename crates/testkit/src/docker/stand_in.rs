//! Images under the names that Compose files have, where no registry can be reached: the simulated server in place of
//! inference servers, and the real programs of this machine for the rest.

use std::path::PathBuf;

use super::Image;
use crate::{Failure, build_sim_server};

/// What an image contains in place of the original.
#[derive(Clone, Debug)]
pub enum StandIn {
    /// A simulated server on port 8000 that takes vLLM's command line.
    Vllm,
    /// A simulated server on port 30000 that takes SGLang's command line.
    Sglang,
    /// A simulated server on port 11434 with the model `llama3` (another by `SIM_MODELS`); `ollama list` works in it.
    Ollama,
    /// A simulated server on port 8080 that takes the command line of llama.cpp's `llama-server`.
    LlamaCpp,
    /// A simulated server on port 8000, for a FastAPI server of the user's own (`/predict`).
    FastApi,
    /// This Traefik.
    Traefik(PathBuf),
    /// This Modelgate.
    Modelgate(PathBuf),
}

impl StandIn {
    /// Makes the image under a name (`vllm/vllm-openai:latest`), unless it is there and nothing has changed. Returns the
    /// name.
    ///
    /// # Errors
    /// The simulated server cannot be built, a program is missing, or the engine refuses.
    pub async fn tag(self, name: &str) -> Result<String, Failure> {
        let image = Image::new(name);
        let (port, owned_by) = match self {
            Self::Traefik(path) => {
                return image.program(path, "/traefik").entrypoint(&["/traefik"]).build().await;
            }
            Self::Modelgate(path) => {
                return image.program(path, "/modelgate").entrypoint(&["/modelgate"]).build().await;
            }
            Self::Vllm => (8000, "vllm"),
            Self::Sglang => (30000, "sglang"),
            Self::Ollama => (11434, "library"),
            Self::LlamaCpp => (8080, "llamacpp"),
            Self::FastApi => (8000, "sim"),
        };
        let models = if matches!(self, Self::Ollama) { "llama3" } else { "" };
        let program = tokio::task::spawn_blocking(build_sim_server).await??;
        let mut image = image.program(program, "/sim-server").entrypoint(&["/sim-server"]).with_shell();
        for name in ["curl", "wget", "python", "python3", "ollama"] {
            image = image.link("/sim-server", &format!("/usr/bin/{name}"));
        }
        let image = image.change(format!("EXPOSE {port}")).change(format!("ENV SIM_PORT={port}"));
        let image = image.change(format!("ENV SIM_OWNED_BY={owned_by}"));
        image.change(format!("ENV SIM_MODELS={models}")).build().await
    }
}
