//! `modelgate alerts test`: sends a test message to the webhooks and the mailboxes of the configuration.

use std::{io, process::ExitCode};

use crate::{arguments::Alerts, config::Config, exit, output::say, runtime, serve::alerts::send_tests};

/// Sends the messages, and prints what came of each.
pub(crate) fn alerts(config: &Config, what: &Alerts) -> ExitCode {
    let Alerts::Test { name } = what;
    exit::of(test(config, name.as_deref()))
}

fn test(config: &Config, name: Option<&str>) -> io::Result<()> {
    let all = &config.alerts.webhooks;
    let chosen: Vec<_> = all.iter().filter(|webhook| name.is_none_or(|name| name == webhook.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(|webhook| webhook.name.as_str()).collect();
        return Err(io::Error::other(match name {
            Some(name) => format!("no receiver is called {name:?}; there are: {}", names.join(", ")),
            None => "alerts.webhooks and alerts.mail are empty: nobody is told".into(),
        }));
    }
    let results = runtime::new()?.block_on(send_tests(&config.alerts, &chosen));
    let failed = results.iter().filter(|tested| tested.fault.is_some()).count();
    for tested in results {
        say!("{}: {}", tested.name, tested.fault.as_deref().unwrap_or("it has arrived"));
    }
    match failed {
        0 => Ok(()),
        1 => Err(io::Error::other("one receiver was not reached")),
        more => Err(io::Error::other(format!("{more} receivers were not reached"))),
    }
}
