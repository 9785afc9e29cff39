//! Losses and utilisation over time as SVG: two panels a scenario, a line a policy, means over seeds.

use std::fmt::Write as _;

use super::{jobs::Outcome, optimum::WINDOW, row::shares, table::groups};

/// Size of a panel, and the margins around it, in pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 34.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito, 2008); the optimum is grey.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const OPTIMUM: &str = "#999999";

/// A named line: one value a window.
type Line<'a> = (&'a str, &'a str, Vec<f64>);

/// Draws `outcomes`.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let scenarios: Vec<_> = outcomes.chunk_by(|a, b| a.row.scenario == b.row.scenario).collect();
    let (row, column) = (TOP + HEIGHT + BOTTOM, LEFT + WIDTH);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * column + 20.0,
        row * scenarios.len() as f64
    );
    for (index, scenario) in scenarios.into_iter().enumerate() {
        let mut lost: Vec<Line<'_>> = Vec::new();
        let mut used: Vec<Line<'_>> = Vec::new();
        for (number, group) in groups(scenario).enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let name = group[0].row.policy.as_str();
            lost.push((name, colour, mean(group, |outcome| shares(&outcome.figures).collect())));
            let crests = |outcome: &Outcome| outcome.figures.windows.iter().map(|window| 100.0 * window.2).collect();
            used.push((name, colour, mean(group, crests)));
        }
        let first = groups(scenario).next().unwrap_or_default();
        lost.push(("optimum", OPTIMUM, mean(first, optimum)));
        let name = escape(&scenario[0].row.scenario);
        let top = row * index as f64 + TOP;
        panel(&mut out, (LEFT, top), &format!("{name}: offered bits lost, % (10 s windows)"), &lost);
        panel(&mut out, (LEFT + column, top), &format!("{name}: highest utilisation of a node, %"), &used);
    }
    out + "</svg>\n"
}

/// The optimum's lost share per window in per cent.
fn optimum(outcome: &Outcome) -> Vec<f64> {
    let share = |window: &[u64; 3]| 100.0 * window[1] as f64 / window[0].max(1) as f64;
    outcome.optimum.windows.iter().map(share).collect()
}

fn mean(group: &[Outcome], of: impl Fn(&Outcome) -> Vec<f64>) -> Vec<f64> {
    let series: Vec<Vec<f64>> = group.iter().map(of).collect();
    let length = series.iter().map(Vec::len).min().unwrap_or(0);
    (0..length).map(|at| series.iter().map(|line| line[at]).sum::<f64>() / series.len() as f64).collect()
}

fn panel(out: &mut String, (x, y): (f64, f64), title: &str, lines: &[Line<'_>]) {
    let windows = lines.iter().map(|line| line.2.len()).max().unwrap_or(0).max(2);
    let peak = ceiling(lines.iter().flat_map(|line| &line.2).copied().fold(0.0, f64::max));
    let mut add = |text: String| writeln!(out, "{text}").expect("a string takes all");
    add(format!("<text x=\"{x}\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{title}</text>", y - 26.0));
    for step in 0..=4 {
        let at = y + HEIGHT - HEIGHT * f64::from(step) / 4.0;
        let label = peak * f64::from(step) / 4.0;
        add(format!("<line x1=\"{x}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#e0e0e0\"/>", x + WIDTH));
        add(format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>", x - 6.0, at + 4.0));
        let across = x + WIDTH * f64::from(step) / 4.0;
        let seconds = (windows as f64 * WINDOW as f64 * f64::from(step) / 4.0).round();
        add(format!("<text x=\"{across}\" y=\"{}\" text-anchor=\"middle\">{seconds} s</text>", y + HEIGHT + 16.0));
    }
    let mut legend = x;
    for (name, colour, values) in lines {
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let across = x + WIDTH * at as f64 / (windows - 1) as f64;
                format!("{across:.1},{:.1}", y + HEIGHT * (1.0 - value / peak))
            })
            .collect();
        let points = points.join(" ");
        add(format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"));
        add(format!("<rect x=\"{legend}\" y=\"{}\" width=\"10\" height=\"3\" fill=\"{colour}\"/>", y - 14.0));
        add(format!("<text x=\"{}\" y=\"{}\">{}</text>", legend + 14.0, y - 9.0, escape(name)));
        legend += 30.0 + 7.0 * name.len() as f64;
    }
}

/// The least of 1, 2, 4, 8 × a power of ten (each has good quarters) that is at least `value`.
fn ceiling(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-3).log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|&step| step >= value).unwrap_or(value)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_a_round_number_above_the_values() {
        assert_eq!([0.0, 0.7, 3.0, 8.5, 100.0].map(ceiling), [0.001, 0.8, 4.0, 10.0, 100.0]);
        assert_eq!(escape("a<b>\"&"), "a&lt;b&gt;&quot;&amp;");
    }
}
