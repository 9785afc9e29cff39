//! The estimates, the order of examination, and the table's bounds.

use super::*;

const RATE: u64 = 8_000_000;
const SESSION: Duration = Duration::from_secs(900);

fn looks(demand: &mut Demand<u32>, now: Instant) -> Vec<(u32, bool)> {
    std::iter::from_fn(|| demand.poll_due(now)).map(|look| (look.title, look.refused)).collect()
}

fn near(value: u64, expected: u64) -> bool {
    value.abs_diff(expected) <= expected / 20
}

#[test]
fn a_steady_stream_is_measured_however_often_one_looks() {
    for every in [1, 7, 1000, 5000] {
        let start = Instant::now();
        let mut demand = Demand::new(start, MOST);
        let mut now = start;
        for ask in 0..40_000 {
            now += Duration::from_millis(100);
            demand.handle_request(now, 1, RATE);
            if ask % every == 0 {
                looks(&mut demand, now);
            }
        }
        looks(&mut demand, now);
        let DemandRates { fast, slow } = demand.rates(now, &1);
        assert!(near(slow, 10 * RATE) && near(fast, 10 * RATE), "every {every}: {fast} {slow}");
        let later = demand.rates(now + FAST, &1);
        assert!(near(later.fast, fast / 1000 * 368) && near(later.slow, slow / 1000 * 975), "{later:?}");
        assert_eq!(demand.rates(now, &2), DemandRates::default());
        // Steady load, and the part that starts within two minutes and lasts.
        assert!(near(later.steady(SESSION), later.slow * 900));
        let inflow = DemandRates { fast: slow, slow }.inflow(RATE, SESSION);
        assert!(near(inflow, slow / 10 * 1124), "{inflow}");
    }
}

#[test]
fn one_request_is_no_flash_and_many_are() {
    let start = Instant::now();
    let mut demand = Demand::new(start, MOST);
    let now = start + Duration::from_secs(1);
    demand.handle_request(now, 1, RATE);
    (0..30).for_each(|_| demand.handle_request(now, 2, RATE));
    let inflow = |title| demand.rates(now + Duration::from_secs(1), &title).inflow(RATE, SESSION);
    // One: 1/600 a second for two minutes. Thirty: nearly two a second, less three standard deviations.
    assert!(inflow(1) < RATE / 4 && inflow(2) > 100 * RATE, "{} {}", inflow(1), inflow(2));
}

#[test]
fn refused_titles_come_first_then_those_asked_for_often() {
    let start = Instant::now();
    let mut demand = Demand::new(start, MOST);
    for (title, times) in [(1, 1), (2, 9), (3, 2), (4, 4)] {
        (0..times).for_each(|_| demand.handle_request(start, title, RATE));
    }
    demand.handle_refusal(start, 3);
    demand.handle_refusal(start, 3);
    assert_eq!(looks(&mut demand, start), [(3, true), (2, false), (4, false), (1, false)]);
    assert!(looks(&mut demand, start).is_empty() && !demand.is_urgent());
    demand.handle_request(start, 2, RATE);
    assert_eq!(looks(&mut demand, start), [(2, false)]);
}

#[test]
fn the_table_is_bounded_and_evicts_cold_titles() {
    let start = Instant::now();
    let mut demand = Demand::new(start, 16);
    (0..100).for_each(|_| demand.handle_request(start, 0, RATE));
    for title in 1..1000 {
        demand.handle_request(start + Duration::from_millis(title.into()), title, RATE);
        assert!(demand.len() <= 16);
        if title % 3 == 0 {
            looks(&mut demand, start + Duration::from_millis(title.into()));
        }
    }
    let late = start + Duration::from_secs(1);
    assert!(demand.rates(late, &0).slow > 90 * RATE / 600);
    looks(&mut demand, late);
    demand.forget_idle(start + IDLE - Duration::from_millis(1));
    assert_eq!(demand.len(), 16);
    demand.forget_idle(late + IDLE);
    assert_eq!(demand.len(), 0);
    demand.handle_request(late + IDLE, 7, RATE);
    assert_eq!((demand.len(), looks(&mut demand, late + IDLE)), (1, vec![(7, false)]));
}

#[test]
fn a_title_in_a_used_slot_is_not_taken_for_the_one_before() {
    let start = Instant::now();
    let mut demand = Demand::new(start, 1);
    (0..9).for_each(|_| demand.handle_request(start, 1, RATE));
    demand.handle_refusal(start, 1);
    demand.handle_request(start, 2, RATE);
    assert_eq!(looks(&mut demand, start), [(2, false)]);
    assert_eq!(demand.rates(start, &1), DemandRates::default());
}
