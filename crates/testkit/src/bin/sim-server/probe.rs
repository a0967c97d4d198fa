//! The health checks of Compose files: `curl -f URL`, `wget URL`, `python -c '… URL …'`, `ollama list`. If the program has one of
//! those names in an image, it sends a GET request to the URL among its arguments, and exits as curl does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// curl's own [exit codes](https://curl.se/docs/manpage.html#EXIT).
const CANNOT_CONNECT: u8 = 7;
const HTTP_ERROR: u8 = 22;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Which program it is called as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// An error status counts only with `-f`.
    Curl,
    Other,
}

/// `None` if the program was not called as one of them.
pub(crate) fn run(called: &str, arguments: &[String], port: u16) -> Option<ExitCode> {
    let caller = match called.rsplit('/').next().unwrap_or_default() {
        "curl" => Caller::Curl,
        "wget" | "python" | "python3" => Caller::Other,
        "ollama" if arguments.first().is_some_and(|command| command != "serve") => Caller::Other,
        _ => return None,
    };
    let url = arguments.iter().find_map(|argument| url_in(argument));
    let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{port}/health"));
    Some(match get(&url) {
        Ok((status, body)) => {
            if caller == Caller::Curl {
                let _ = std::io::stdout().write_all(body.as_bytes());
            }
            let fails = status >= 400 && (caller == Caller::Other || wants_failure(arguments));
            ExitCode::from(if fails { HTTP_ERROR } else { 0 })
        }
        Err(_) => ExitCode::from(CANNOT_CONNECT),
    })
}

/// Why a server is unhealthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwell {
    /// It answers with this status.
    #[error("/health answers {0}")]
    Status(u16),
    /// It does not answer.
    #[error("/health: {0}")]
    Silent(std::io::Error),
}

/// Whether the server at a port answers that it is healthy.
pub(crate) fn is_healthy(port: u16) -> Result<(), Unwell> {
    match get(&format!("http://127.0.0.1:{port}/health")) {
        Ok((200, _)) => Ok(()),
        Ok((status, _)) => Err(Unwell::Status(status)),
        Err(error) => Err(Unwell::Silent(error)),
    }
}

/// The address in an argument, which may be a line of Python.
fn url_in(argument: &str) -> Option<String> {
    let url = &argument[argument.find("http://")?..];
    let end = url.find(['"', '\'', ' ', ')']).unwrap_or(url.len());
    Some(url[..end].to_owned())
}

/// `-f`, `-sf`, `--fail`, …
fn wants_failure(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| match argument.strip_prefix("--") {
        Some(long) => long.starts_with("fail"),
        None => argument.starts_with('-') && argument.contains('f'),
    })
}

fn get(url: &str) -> std::io::Result<(u16, String)> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let port: u16 = port.parse().map_err(std::io::Error::other)?;
    // An image made from scratch may have no configuration for name lookups.
    let mut connection = match host {
        "localhost" => TcpStream::connect((Ipv4Addr::LOCALHOST, port))?,
        host => TcpStream::connect((host, port))?,
    };
    connection.set_read_timeout(Some(TIMEOUT))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("not an HTTP answer"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_what_a_health_check_says() {
        let python = "import urllib.request; urllib.request.urlopen('http://localhost:30000/health')";
        assert_eq!(url_in(python).as_deref(), Some("http://localhost:30000/health"));
        assert_eq!(url_in("http://localhost:8000/").as_deref(), Some("http://localhost:8000/"));
        assert_eq!(url_in("-f"), None);
    }

    #[test]
    fn knows_who_wants_a_failure() {
        for (arguments, expected) in
            [(["-f", "x"], true), (["-sSf", "x"], true), (["--fail", "x"], true), (["-s", "f"], false)]
        {
            assert_eq!(wants_failure(&arguments.map(str::to_owned)), expected, "{arguments:?}");
        }
    }
}
