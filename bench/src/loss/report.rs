//! Measured goodput, as tables, rows and one line of advice. The measurement is left to `loss`.

use std::fmt::Write as _;

use usher_proto::Bitrate;

use super::Link;
use crate::far::RatioRow;

/// A congestion controller of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Cubic,
    Bbr,
}

impl Controller {
    pub(super) const BOTH: [Self; 2] = [Self::Cubic, Self::Bbr];

    /// As `--congestion` takes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

/// One flow on a link of its own, with Cubic and with BBR.
pub(super) struct Alone {
    pub(super) link: Link,
    pub(super) goodput: [Bitrate; 2],
    /// Share of the datagrams that a full queue dropped.
    pub(super) dropped: [f64; 2],
}

/// Two flows on one link.
pub(super) struct Pair {
    pub(super) link: Link,
    pub(super) controllers: [Controller; 2],
    pub(super) goodput: [Bitrate; 2],
}

/// Share of Cubic's goodput on links without loss that the default controller must reach.
const AS_GOOD: f64 = 0.95;

/// Ratio to Cubic's goodput on links with loss from which another controller is worth having.
const WORTH: f64 = 1.2;

/// Share of a common link that a flow must leave to one with the other controller.
const LEFT: f64 = 0.25;

/// Limit of the share of datagrams that a full queue drops on links without random loss.
const WASTE: f64 = 0.05;

impl Alone {
    fn shares(&self) -> [f64; 2] {
        self.goodput.map(|rate| share(rate, self.link))
    }

    fn ratio(&self) -> f64 {
        self.goodput[1].0 as f64 / self.goodput[0].0.max(1) as f64
    }

    fn case(&self) -> String {
        let Link { rate, rtt, loss_ppm } = self.link;
        format!("{rate}, {} ms, {} % lost", rtt.as_millis(), f64::from(loss_ppm) / 1e4)
    }

    pub(super) fn line(&self) -> String {
        let ([cubic, bbr], [a, b]) = (self.shares(), self.dropped.map(|part| part * 100.0));
        let Link { rtt, loss_ppm, .. } = self.link;
        let (rtt, loss) = (rtt.as_millis(), f64::from(loss_ppm) / 1e4);
        let (cubic, bbr) = (cubic * 100.0, bbr * 100.0);
        format!("{rtt:>6} {loss:>7} {cubic:>8.1} {bbr:>8.1} {:>10.2} {a:>12.2} {b:>10.2}", self.ratio())
    }
}

impl Pair {
    /// As a share of the goodput of both together.
    fn parts(&self) -> [f64; 2] {
        let all = self.goodput[0].0 + self.goodput[1].0;
        self.goodput.map(|rate| rate.0 as f64 / all.max(1) as f64)
    }

    /// Jain's index of fairness (Jain, Chiu and Hawe, 1984): 1 for equal parts, 0.5 when one of two has all.
    fn jain(&self) -> f64 {
        let [a, b] = self.parts();
        1.0 / (2.0 * (a * a + b * b))
    }

    fn case(&self) -> String {
        let [a, b] = self.controllers.map(Controller::name);
        format!("{a} and {b} on one link of {}, {} ms", self.link.rate, self.link.rtt.as_millis())
    }

    pub(super) fn line(&self) -> String {
        let [a, b] = self.goodput.map(|rate| share(rate, self.link) * 100.0);
        format!("{}: {a:.1} % and {b:.1} % of it, Jain's index {:.3}", self.case(), self.jain())
    }
}

fn share(rate: Bitrate, link: Link) -> f64 {
    rate.0 as f64 / link.rate.0 as f64
}

/// The report as text.
pub(super) fn table(alone: &[Alone], pairs: &[Pair]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut put = |line: &str| writeln!(text, "{line}").expect("a string takes all");
    for cells in alone.chunk_by(|a, b| a.link.rate == b.link.rate) {
        put(&format!("goodput in % of {}, and datagrams dropped from its queue in %", cells[0].link.rate));
        put("RTT ms  lost %    cubic      bbr  bbr/cubic  cubic drops  bbr drops");
        cells.iter().for_each(|cell| put(&cell.line()));
    }
    pairs.iter().for_each(|pair| put(&pair.line()));
    text
}

/// Which controller should be the default, by printed rules; `None` without the figures for it.
pub(super) fn recommendation(alone: &[Alone], pairs: &[Pair]) -> Option<String> {
    let mean = |lossy: bool| {
        let ratios = alone.iter().filter(|cell| (cell.link.loss_ppm > 0) == lossy).map(|cell| cell.ratio().ln());
        let (count, sum) = ratios.fold((0, 0.0), |(count, sum), ln| (count + 1, sum + ln));
        (count > 0).then(|| (sum / f64::from(count)).exp())
    };
    let (clean, lossy) = (mean(false)?, mean(true)?);
    let beside = pairs.iter().filter(|pair| pair.controllers == [Controller::Bbr, Controller::Cubic]);
    let parts: Vec<[f64; 2]> = beside.map(Pair::parts).collect();
    let left = parts.iter().map(|[_, cubic]| *cubic).reduce(f64::min)?;
    let clean_cells = alone.iter().filter(|cell| cell.link.loss_ppm == 0);
    let waste = clean_cells.map(|cell| cell.dropped[1]).fold(0.0, f64::max);
    let rules = [
        (clean >= AS_GOOD, format!("without loss it has {clean:.2} of cubic's goodput, at least {AS_GOOD}")),
        (lossy >= WORTH, format!("with it {lossy:.2}, at least {WORTH}")),
        (left >= LEFT, format!("beside it cubic keeps {left:.2} of what both have, at least {LEFT}")),
        (waste <= WASTE, format!("without loss the queue drops up to {waste:.2} of what it sends, at most {WASTE}")),
    ];
    let name = if rules.iter().all(|(kept, _)| *kept) { "bbr" } else { "cubic" };
    let told = rules.map(|(kept, rule)| format!("{rule}: {}", if kept { "yes" } else { "no" }));
    Some(format!("recommended default: {name}. What bbr must do to be it: {}", told.join("; ")))
}

/// The report as rows: BBR against Cubic.
pub(super) fn rows(alone: &[Alone], pairs: &[Pair]) -> Vec<RatioRow> {
    let row = |case, metric, against, [peer, usher]: [f64; 2]| {
        let ratio = usher / peer.max(1e-9);
        RatioRow { case, metric, against, ratio, min: ratio, max: ratio, usher, peer }
    };
    let cells = alone.iter().map(|cell| row(cell.case(), "goodput, bbr, share of the link", "cubic", cell.shares()));
    let pairs = pairs.iter().flat_map(|pair| {
        let [first, second] = pair.goodput.map(|rate| share(rate, pair.link));
        let shares = row(pair.case(), "goodput of the first, share of the link", "the second", [second, first]);
        [shares, row(pair.case(), "Jain's index", "equal parts", [1.0, pair.jain()])]
    });
    cells.chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(loss_ppm: u32, cubic: u64, bbr: u64) -> Alone {
        let link = Link::new(100, 50, loss_ppm);
        Alone { link, goodput: [Bitrate(cubic), Bitrate(bbr)], dropped: [0.0; 2] }
    }

    #[test]
    fn the_advice_follows_the_figures() {
        let beside = |bbr, cubic| Pair {
            link: Link::new(100, 50, 0),
            controllers: [Controller::Bbr, Controller::Cubic],
            goodput: [Bitrate(bbr), Bitrate(cubic)],
        };
        for (clean, lossy, pair, waste, name) in [
            ((90, 90), (10, 80), (50, 45), 0.01, "bbr"),
            ((90, 60), (10, 80), (50, 45), 0.01, "cubic"),
            ((90, 90), (80, 80), (50, 45), 0.01, "cubic"),
            ((90, 90), (10, 80), (90, 5), 0.01, "cubic"),
            ((90, 90), (10, 80), (50, 45), 0.5, "cubic"),
        ] {
            let cells = [Alone { dropped: [0.0, waste], ..cell(0, clean.0, clean.1) }, cell(1000, lossy.0, lossy.1)];
            let line = recommendation(&cells, &[beside(pair.0, pair.1)]).expect("all figures");
            assert!(line.starts_with(&format!("recommended default: {name}.")), "{line}");
        }
        assert_eq!(recommendation(&[cell(0, 1, 1)], &[]), None);
        assert!((beside(50, 50).jain() - 1.0).abs() < 1e-9 && (beside(100, 0).jain() - 0.5).abs() < 1e-9);
    }
}
