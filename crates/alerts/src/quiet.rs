//! Quiet hours.

use std::{str::FromStr, time::SystemTime};

use jiff::{Timestamp, civil::Time, tz::TimeZone};

/// Hours of each day in which a webhook gets nothing. What still holds at their end is told then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    from: Time,
    to: Time,
}

/// What is allowed.
pub const QUIET: &str = "two different times of the day, such as 22:00-07:00";

impl FromStr for QuietHours {
    type Err = &'static str;

    /// `22:00-07:00`; the end may be on the next day.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = |text: &str| {
            let (hour, minute) = text.trim().split_once(':').filter(|(_, minute)| minute.len() == 2)?;
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        let times = text.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        match times {
            Some((from, to)) if from != to => Ok(Self { from, to }),
            _ => Err(QUIET),
        }
    }
}

impl QuietHours {
    /// Whether a moment is in them, by the clocks of a time zone.
    pub fn contains(&self, at: SystemTime, zone: &TimeZone) -> bool {
        let time = Timestamp::try_from(at).unwrap_or_default().to_zoned(zone.clone()).time();
        let (after, before) = (self.from <= time, time < self.to);
        if self.from < self.to { after && before } else { after || before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_may_pass_midnight_and_follow_the_time_zone() {
        let at = |text: &str| SystemTime::from(text.parse::<Timestamp>().expect("a time"));
        let berlin = TimeZone::get("Europe/Berlin").expect("a zone");
        let night: QuietHours = "22:00-07:00".parse().expect("hours");
        let noon: QuietHours = "12:30 - 13:00".parse().expect("hours");
        for (time, in_night, in_noon) in [
            ("2026-11-27T20:59:59Z", false, false),
            ("2026-11-27T21:00:00Z", true, false),
            ("2026-11-28T05:59:59Z", true, false),
            ("2026-11-28T06:00:00Z", false, false),
            ("2026-11-28T11:29:00Z", false, false),
            ("2026-11-28T11:30:00Z", false, true),
            ("2026-07-28T10:30:00Z", false, true),
        ] {
            let at = at(time);
            assert_eq!(
                (night.contains(at, &berlin), noon.contains(at, &berlin)),
                (in_night, in_noon),
                "{time}"
            );
        }
        for bad in ["", "22:00", "22-7", "24:00-07:00", "22:60-07:00", "07:00-07:00", "22:0-07:00", "a-b"] {
            assert_eq!(bad.parse::<QuietHours>(), Err(QUIET), "{bad}");
        }
    }
}
