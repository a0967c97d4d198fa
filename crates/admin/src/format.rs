//! Figures and times in the form that people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time, for machines and for people. Scripts write it in the reader's own time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Time {
    /// RFC 3339.
    pub(crate) machine: String,
    /// In UTC.
    pub(crate) people: String,
}

/// A time, to the second.
pub(crate) fn time(time: SystemTime) -> Time {
    let machine = humantime::format_rfc3339_seconds(clamped(time)).to_string();
    let people = format!("{} UTC", machine.trim_end_matches('Z').replace('T', " "));
    Time { machine, people }
}

/// A time of today, to the millisecond.
pub(crate) fn moment(time: SystemTime) -> Time {
    let machine = humantime::format_rfc3339_millis(clamped(time)).to_string();
    let people = machine.split_once('T').map_or("", |(_, clock)| clock).trim_end_matches('Z').to_owned();
    Time { machine, people }
}

/// humantime panics past the year 9999.
fn clamped(time: SystemTime) -> SystemTime {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST)
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what it counts.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// A rate per second.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r <= 0.0 => "0".into(),
        r if r < 0.05 => "<0.1".into(),
        r if r < 10.0 => format!("{r:.1}"),
        r => count(r.round() as u64),
    }
}

/// The latency of a decision.
pub(crate) fn latency(time: Option<Duration>) -> String {
    match time.map(|time| time.as_secs_f64() * 1e3) {
        None => "–".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

/// A time span, rounded to one unit.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        0 => "less than 1 s".into(),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(count(0_u64), "0");
        assert_eq!(count(999_u64), "999");
        assert_eq!(count(1_234_567_u64), "1,234,567");
        assert_eq!(
            (counted(1, "server"), counted(2000, "server")),
            ("1 server".into(), "2,000 servers".into())
        );
        let rates = [0.0, 1.0 / 60.0, 0.25, 2000.4].map(rate);
        assert_eq!(rates, ["0", "<0.1", "0.2", "2,000"]);
        let ms = |ms| latency(Some(Duration::from_micros(ms)));
        assert_eq!((ms(210), ms(12_300), ms(1_500_000)), ("0.21 ms".into(), "12 ms".into(), "1.5 s".into()));
    }

    #[test]
    fn times() {
        let at = UNIX_EPOCH + Duration::from_millis(1_767_225_600_250);
        assert_eq!(
            time(at),
            Time { machine: "2026-01-01T00:00:00Z".into(), people: "2026-01-01 00:00:00 UTC".into() }
        );
        assert_eq!(
            moment(at),
            Time { machine: "2026-01-01T00:00:00.250Z".into(), people: "00:00:00.250".into() }
        );
        let far = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000);
        assert_eq!(time(far).machine, "9999-12-31T23:59:59Z");
        for (seconds, text) in
            [(0, "less than 1 s"), (59, "59 s"), (3600, "60 min"), (90_000, "25 h"), (200_000, "2 days")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
