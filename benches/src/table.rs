//! The table of figures: what was measured, what it must reach, and whether it did.

use std::fmt::Write as _;

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was done and what is counted.
    pub workload: String,
    /// Of `holdfast` and `reference`.
    pub unit: &'static str,
    /// Median of all rounds.
    pub holdfast: f64,
    /// What it is compared with, if that is a measurement too; median of all rounds.
    pub reference: Option<f64>,
    /// What is judged: the median of the rounds' ratios, or `holdfast` itself.
    pub figure: f64,
    /// From the best to the worst round.
    pub spread: (f64, f64),
    /// Must be at most this.
    pub must: f64,
    /// Should be at most this.
    pub aim: f64,
}

/// How a figure compares with its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// At or below the aim.
    Aim,
    /// Above the aim, not above the limit.
    Must,
    /// Above the limit.
    Missed,
}

/// The limits of a line.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Must be at most this.
    pub must: f64,
    /// Should be at most this.
    pub aim: f64,
}

impl Row {
    /// Compares round by round: both were measured one after the other, under the same conditions.
    #[must_use]
    pub fn ratio(
        workload: &str,
        unit: &'static str,
        rounds: &[(f64, f64)],
        limits: Limits,
    ) -> Self {
        let of = |pick: fn(&(f64, f64)) -> f64| rounds.iter().map(pick).collect::<Vec<_>>();
        let ratios = of(|(own, reference)| own / reference);
        Self {
            workload: workload.to_owned(),
            unit,
            holdfast: median(&of(|round| round.0)),
            reference: Some(median(&of(|round| round.1))),
            figure: median(&ratios),
            spread: spread(&ratios),
            must: limits.must,
            aim: limits.aim,
        }
    }

    /// Judges the figure itself.
    #[must_use]
    pub fn absolute(workload: &str, unit: &'static str, rounds: &[f64], limits: Limits) -> Self {
        Self {
            workload: workload.to_owned(),
            unit,
            holdfast: median(rounds),
            reference: None,
            figure: median(rounds),
            spread: spread(rounds),
            must: limits.must,
            aim: limits.aim,
        }
    }

    /// As [`absolute`](Self::absolute), but the worst round counts.
    #[must_use]
    pub fn worst(workload: &str, unit: &'static str, rounds: &[f64], limits: Limits) -> Self {
        let worst = spread(rounds).1;
        Self {
            holdfast: worst,
            figure: worst,
            ..Self::absolute(workload, unit, rounds, limits)
        }
    }

    /// How the figure compares with its limits. A figure that is no number missed them.
    #[must_use]
    pub fn grade(&self) -> Grade {
        if self.figure <= self.aim {
            Grade::Aim
        } else if self.figure <= self.must {
            Grade::Must
        } else {
            Grade::Missed
        }
    }
}

/// The table in Markdown.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| workload | Holdfast | compared with | figure | rounds | must | aim | verdict |\n\
         |---|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let is_ratio = row.reference.is_some();
        let times = if is_ratio { "x" } else { "" };
        let reference = row.reference.map_or_else(String::new, |value| {
            format!("{} {}", number(value), row.unit)
        });
        let verdict = match row.grade() {
            Grade::Aim => "aim reached",
            Grade::Must => "must reached",
            Grade::Missed => "**missed**",
        };
        // Writing to a string does not fail.
        let _written = writeln!(
            text,
            "| {} | {} {} | {} | {}{times} | {} to {} | {}{times} | {}{times} | {} |",
            row.workload,
            number(row.holdfast),
            row.unit,
            reference,
            number(row.figure),
            number(row.spread.0),
            number(row.spread.1),
            row.must,
            row.aim,
            verdict,
        );
    }
    text
}

/// With about three digits.
fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        format!("{value:.2}")
    } else if value.abs() < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// The middle value; the mean of the two middle ones of an even number. Not a number when empty.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied();
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
    match (lower, upper) {
        (Some(lower), Some(upper)) => f64::midpoint(lower, upper),
        (None, _) | (_, None) => f64::NAN,
    }
}

fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        must: 3.0,
        aim: 1.25,
    };

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as slow in the second round, for both.
        let row = Row::ratio(
            "x",
            "us",
            &[(20.0, 10.0), (40.0, 20.0), (90.0, 30.0)],
            LIMITS,
        );
        assert!((row.figure - 2.0).abs() < 1e-9);
        assert_eq!(row.grade(), Grade::Must);
    }

    #[test]
    fn a_figure_that_is_missing_has_missed() {
        let row = Row::absolute("x", "us", &[], LIMITS);
        assert_eq!(row.grade(), Grade::Missed);
        assert_eq!(
            Row::absolute("x", "us", &[1.25], LIMITS).grade(),
            Grade::Aim
        );
        assert_eq!(
            Row::worst("x", "s", &[0.1, 3.1], LIMITS).grade(),
            Grade::Missed
        );
    }

    #[test]
    fn the_table_says_which_line_missed() {
        let rows = [Row::ratio("a", "us", &[(40.0, 10.0)], LIMITS)];
        let text = markdown(&rows);
        assert!(text.contains("| a | 40.0 us | 10.0 us | 4.00x |"), "{text}");
        assert!(text.contains("**missed**"), "{text}");
    }
}
