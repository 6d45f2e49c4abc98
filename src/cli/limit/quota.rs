//! Quotas as people write them: `100/s`, `5000/h`, `1/10s`.

use crate::{cli::times, pb};

/// `100/s`: so many permits in so much time; the time is a unit (`s`, `min`, `h`, `day`) or a duration (`10s`).
pub(crate) fn parse_rate(text: &str) -> Result<pb::PermitRate, String> {
    let bad = || {
        format!(
            "{text:?} is no rate; write permits and time, as in 100/s, 600/min, 5000/h or 1/10s"
        )
    };
    let (permits, per) = text.split_once('/').ok_or_else(bad)?;
    let per = match per.trim() {
        "sec" | "second" => "1s".to_owned(),
        "minute" => "1min".to_owned(),
        "hour" => "1h".to_owned(),
        "day" => "1d".to_owned(),
        unit if unit.starts_with(|c: char| c.is_ascii_digit()) => unit.to_owned(),
        unit => format!("1{unit}"),
    };
    let per = times::parse_duration(&per).map_err(|_| bad())?;
    Ok(pb::PermitRate {
        permits: permits.trim().parse().map_err(|_| bad())?,
        per: Some(times::wire_duration(per)),
    })
}

/// `100/s`, `600/min`, `1/10s`.
pub(crate) fn show_rate(rate: &pb::PermitRate) -> String {
    let pb::PermitRate { permits, per } = rate;
    let per = match per.as_ref().map(times::from_wire_duration) {
        None => "s".to_owned(),
        Some(per) => match per.as_millis() {
            1_000 => "s".to_owned(),
            60_000 => "min".to_owned(),
            3_600_000 => "h".to_owned(),
            86_400_000 => "day".to_owned(),
            millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
            millis => format!("{millis}ms"),
        },
    };
    format!("{permits}/{per}")
}

/// Permits of an hour or a date.
pub(crate) fn window(permits: Option<u64>, time_zone: &str) -> Option<pb::PermitWindow> {
    permits.map(|permits| pb::PermitWindow {
        permits,
        time_zone: time_zone.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_as_people_write_them() {
        for (text, permits, seconds, shown) in [
            ("100/s", 100, 1, "100/s"),
            ("600/min", 600, 60, "600/min"),
            ("5000/hour", 5_000, 3_600, "5000/h"),
            ("7 / day", 7, 86_400, "7/day"),
            ("1/10s", 1, 10, "1/10s"),
            ("3/1m30s", 3, 90, "3/90s"),
        ] {
            let rate = parse_rate(text).expect(text);
            assert_eq!(
                (rate.permits, rate.per.expect("a time").seconds),
                (permits, seconds)
            );
            assert_eq!(show_rate(&rate), shown);
        }
        for bad in ["100", "/s", "x/s", "-1/s", "1/", "1/fortnight", "1.5/s"] {
            let problem = parse_rate(bad).expect_err(bad);
            assert!(problem.contains("is no rate"), "{problem}");
        }
    }
}
