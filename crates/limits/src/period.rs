//! Days and months of a time zone.

use std::{
    cell::OnceCell,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

use crate::quota::Calendar;

/// One day, or one month, of one time zone: `2026-11-21` or `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    year: i16,
    month: i8,
    /// 0 for a whole month.
    day: i8,
}

/// A text that is not a [`Period`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a day such as 2026-11-21 or a month such as 2026-11")]
pub struct InvalidPeriod;

/// A time, and the time zone whose days and months apply. The calendar is computed at most once.
#[derive(Debug)]
pub struct Moment<'z> {
    time: SystemTime,
    zone: &'z TimeZone,
    local: OnceCell<Zoned>,
}

impl<'z> Moment<'z> {
    /// A time in a zone.
    pub fn new(time: SystemTime, zone: &'z TimeZone) -> Self {
        Self { time, zone, local: OnceCell::new() }
    }

    /// The day or month that contains it, and the time left of that.
    pub(crate) fn period(&self, per: Calendar) -> (Period, Duration) {
        let local =
            || Timestamp::try_from(self.time).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(self.zone.clone());
        let period = Period::of(per, self.local.get_or_init(local));
        (period, period.end(self.zone).duration_since(self.time).unwrap_or_default())
    }
}

impl Period {
    /// The day or month that contains a time.
    pub fn of(per: Calendar, now: &Zoned) -> Self {
        let day = match per {
            Calendar::Day => now.day(),
            Calendar::Month => 0,
        };
        Self { year: now.year(), month: now.month(), day }
    }

    /// When the next one begins.
    pub fn end(self, zone: &TimeZone) -> SystemTime {
        let next = civil::Date::new(self.year, self.month, self.day.max(1))
            .ok()
            .and_then(|date| date.checked_add(if self.day == 0 { 1.month() } else { 1.day() }).ok());
        // If a clock change skips midnight, the day begins at the first moment after it.
        let end = next.and_then(|date| date.to_zoned(zone.clone()).ok());
        end.map_or(SystemTime::UNIX_EPOCH, |end| SystemTime::from(end.timestamp()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)?;
        if self.day > 0 {
            write!(f, "-{:02}", self.day)?;
        }
        Ok(())
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let mut parts = text.split('-');
        let year = parts.next().and_then(|year| year.parse().ok()).ok_or(InvalidPeriod)?;
        let month = parts.next().and_then(|month| month.parse().ok()).ok_or(InvalidPeriod)?;
        let day = parts.next().map_or(Ok(0), str::parse).map_err(|_| InvalidPeriod)?;
        civil::Date::new(year, month, day.max(1)).map_err(|_| InvalidPeriod)?;
        Ok(Self { year, month, day })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, zone: &str) -> Zoned {
        let zone = TimeZone::get(zone).expect("a zone");
        text.parse::<Timestamp>().expect("a time").to_zoned(zone)
    }

    #[test]
    fn days_and_months_are_those_of_the_zone() {
        // Half past midnight in Berlin is still the day before in UTC, and here another month.
        let now = at("2026-10-31T23:30:00Z", "Europe/Berlin");
        let (day, month) = (Period::of(Calendar::Day, &now), Period::of(Calendar::Month, &now));
        assert_eq!((day.to_string(), month.to_string()), ("2026-11-01".into(), "2026-11".into()));
        let until = |period: Period, zone: &str| {
            Timestamp::try_from(period.end(&TimeZone::get(zone).expect("a zone")))
                .expect("a time")
                .to_string()
        };
        assert_eq!(until(day, "Europe/Berlin"), "2026-11-01T23:00:00Z");
        assert_eq!(until(month, "Europe/Berlin"), "2026-11-30T23:00:00Z");
        // The day on which summer time begins has 23 hours; in Beirut it begins at midnight, so that day has no 0:00.
        let spring: Period = "2026-03-29".parse().expect("a day");
        assert_eq!(until(spring, "Europe/Berlin"), "2026-03-29T22:00:00Z");
        let eve: Period = "2026-03-28".parse().expect("a day");
        assert_eq!(until(eve, "Asia/Beirut"), "2026-03-28T22:00:00Z");
        assert_eq!(until("2026-12".parse().expect("a month"), "UTC"), "2027-01-01T00:00:00Z");
    }
}
