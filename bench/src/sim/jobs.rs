//! Runs scenarios × seeds × policies on all cores. Owns the threads; the results come in the order of the table.

use std::{
    num::NonZero,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    optimum::{self, Optimum},
    plan::Plan,
    policy::Named,
    row::RunRow,
    scenario::Scenario,
    simulation::{self, RunFigures},
};

/// Outcome of one run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// For tables.
    pub(crate) row: RunRow,
    /// For plots.
    pub(crate) figures: RunFigures,
    /// The bound that no policy can beat.
    pub(crate) optimum: Optimum,
}

/// Runs everything; rows by scenario, then policy, then seed.
pub(crate) fn run(scenarios: &[Scenario], policies: &[Named], seeds: u64) -> Vec<Outcome> {
    let jobs: Vec<_> = scenarios
        .iter()
        .enumerate()
        .flat_map(|(index, _)| {
            policies.iter().flat_map(move |policy| (0..seeds).map(move |seed| (index, policy, seed)))
        })
        .collect();
    let optima: Vec<OnceLock<Optimum>> = (0..scenarios.len() * seeds as usize).map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        while let Some(&(index, policy, offset)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let scenario = &scenarios[index];
            let seed = scenario.seed.wrapping_add(offset);
            let plan = Plan::new(scenario, seed);
            let optimum = optima[index * seeds as usize + offset as usize].get_or_init(|| optimum::find(&plan)).clone();
            let figures = simulation::run(&plan, policy);
            let row = RunRow::new(&scenario.name, policy.name, seed, &figures, &optimum);
            let place = (index, policies.iter().position(|other| other.name == policy.name), offset);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((place, Outcome { row, figures, optimum }));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(place, _)| place);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
