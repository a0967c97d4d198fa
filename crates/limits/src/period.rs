//! Days, weeks and months of a time zone.

use std::{
    cell::OnceCell,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

use crate::quota::Calendar;

/// One day, week or month of one time zone, or all time: `2026-11-21`, `2026-W47` (ISO 8601), `2026-11` or `ever`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period(Span);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Span {
    Day {
        year: i16,
        month: i8,
        day: i8,
    },
    Month {
        year: i16,
        month: i8,
    },
    /// The year is that of its Thursday.
    Week {
        year: i16,
        week: i8,
    },
    Ever,
}

/// A text that is not a [`Period`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a day such as 2026-11-21, a week such as 2026-W47, a month such as 2026-11, or ever")]
pub struct InvalidPeriod;

/// A time, and the time zone whose calendar applies. The calendar is computed at most once.
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

    /// The period that contains it, and the time left of that; `None`: it never ends.
    pub(crate) fn period(&self, per: Calendar) -> (Period, Option<Duration>) {
        if per == Calendar::Ever {
            return (Period::EVER, None);
        }
        let local =
            || Timestamp::try_from(self.time).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(self.zone.clone());
        let period = Period::of(per, self.local.get_or_init(local));
        let left = |end: SystemTime| end.duration_since(self.time).unwrap_or_default();
        (period, period.end(self.zone).map(left))
    }
}

impl Period {
    /// All time.
    pub const EVER: Self = Self(Span::Ever);

    /// The period that contains a time.
    pub fn of(per: Calendar, now: &Zoned) -> Self {
        Self(match per {
            Calendar::Day => Span::Day { year: now.year(), month: now.month(), day: now.day() },
            Calendar::Month => Span::Month { year: now.year(), month: now.month() },
            Calendar::Week => {
                let week = now.date().iso_week_date();
                Span::Week { year: week.year(), week: week.week() }
            }
            Calendar::Ever => Span::Ever,
        })
    }

    /// When the next one begins; `None` if it never ends.
    pub fn end(self, zone: &TimeZone) -> Option<SystemTime> {
        let next = match self.0 {
            Span::Day { year, month, day } => civil::Date::new(year, month, day).map(|day| (day, 1.day())),
            Span::Month { year, month } => civil::Date::new(year, month, 1).map(|day| (day, 1.month())),
            Span::Week { year, week } => monday(year, week).map(|day| (day, 1.week())),
            Span::Ever => return None,
        };
        let next = next.ok().and_then(|(first, length)| first.checked_add(length).ok());
        // If a clock change skips midnight, the day begins at the first moment after it.
        let end = next.and_then(|date| date.to_zoned(zone.clone()).ok());
        Some(end.map_or(SystemTime::UNIX_EPOCH, |end| SystemTime::from(end.timestamp())))
    }
}

fn monday(year: i16, week: i8) -> Result<civil::Date, jiff::Error> {
    civil::ISOWeekDate::new(year, week, civil::Weekday::Monday).map(civil::ISOWeekDate::date)
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Span::Day { year, month, day } => write!(f, "{year:04}-{month:02}-{day:02}"),
            Span::Month { year, month } => write!(f, "{year:04}-{month:02}"),
            Span::Week { year, week } => write!(f, "{year:04}-W{week:02}"),
            Span::Ever => f.write_str("ever"),
        }
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, InvalidPeriod> {
        let invalid = |_| InvalidPeriod;
        if text == "ever" {
            return Ok(Self::EVER);
        }
        let (year, rest) = text.split_once('-').ok_or(InvalidPeriod)?;
        let year = year.parse().map_err(|_| InvalidPeriod)?;
        let number = |text: &str| text.parse::<i8>().map_err(|_| InvalidPeriod);
        if let Some(week) = rest.strip_prefix('W') {
            let week = number(week)?;
            monday(year, week).map_err(invalid)?;
            return Ok(Self(Span::Week { year, week }));
        }
        let (month, day) = match rest.split_once('-') {
            Some((month, day)) => (number(month)?, Some(number(day)?)),
            None => (number(rest)?, None),
        };
        civil::Date::new(year, month, day.unwrap_or(1)).map_err(invalid)?;
        Ok(Self(match day {
            Some(day) => Span::Day { year, month, day },
            None => Span::Month { year, month },
        }))
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
            Timestamp::try_from(period.end(&TimeZone::get(zone).expect("a zone")).expect("an end"))
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
        // The first of January 2027 is a Friday: its week began in the year before.
        let week = Period::of(Calendar::Week, &at("2027-01-01T12:00:00Z", "UTC"));
        assert_eq!(
            (week.to_string(), until(week, "UTC")),
            ("2026-W53".into(), "2027-01-04T00:00:00Z".into())
        );
        assert_eq!(Period::EVER.end(&TimeZone::UTC), None);
        for period in [day, month, spring, week, Period::EVER] {
            assert_eq!(period.to_string().parse(), Ok(period));
        }
        for wrong in ["2026", "2026-13", "2026-02-30", "2025-W53", "2026-W00", "2026-W", "Ever", ""] {
            assert_eq!(wrong.parse::<Period>(), Err(InvalidPeriod), "{wrong}");
        }
    }
}
