//! What every Prometheus client tells about its process
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>), read from proc(5).

use std::fs;

use super::Family;

/// Of the times in `/proc`, on all machines that Modelgate runs on: USER_HZ is part of Linux' interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What could be read; other systems have no `/proc`.
pub(super) fn families() -> Vec<Family> {
    let mut families = Vec::new();
    let mut add = |family: Family, value: Option<f64>| {
        families.extend(value.map(|value| family.with(&[], value)));
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    add(
        Family::counter("process_cpu_seconds", "Total user and system CPU time spent in seconds."),
        Some(ticks(&stat, 14)).zip(Some(ticks(&stat, 15))).and_then(|(user, system)| Some(user? + system?)),
    );
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    add(
        Family::gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
        booted.zip(ticks(&stat, 22)).map(|(booted, after)| booted + after),
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, help, field) in [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", "VmRSS:"),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", "VmSize:"),
    ] {
        add(Family::gauge(name, help), kilobytes(&status, field));
    }
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    add(Family::gauge("process_open_fds", "Number of open file descriptors."), open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    let most = most.and_then(|most| most.parse().ok());
    add(Family::gauge("process_max_fds", "Maximum number of open file descriptors."), most);
    families
}

/// A time of `/proc/self/stat` in seconds; fields are numbered from 1.
fn ticks(stat: &str, field: usize) -> Option<f64> {
    // The second field may contain spaces; it ends with the last parenthesis.
    let (_, from_third) = stat.rsplit_once(')')?;
    let ticks: f64 = from_third.split_whitespace().nth(field - 3)?.parse().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: f64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let families = families();
        let value = |name: &str| {
            let family =
                families.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("{name}"));
            family.samples[0].value
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..7_200.0).contains(&age), "started {age} s ago");
        assert!(value("process_cpu_seconds") < 2.0 * age.max(10.0) * 64.0);
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 1e6 && resident < value("process_virtual_memory_bytes"), "{resident}");
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert_eq!(ticks("7 (a (b) c) S 1 2", 3), None, "no number");
        assert_eq!(ticks("7 (a ) 9) 8 100", 5), None, "no such field");
        assert_eq!(ticks("7 (a ) 9) S 100", 4), Some(1.0));
    }
}
