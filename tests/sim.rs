//! A simulation: dialers and telephony servers that behave in every way they can think of, a network that loses, repeats,
//! delays and reorders, operators who interfere; and after it is over, the books must balance.
//!
//! Everything follows from one number. A failing one is printed; `SIM_SEED=n cargo test --test sim` replays it and
//! shows every message, `SIM_RUNS=n` runs more than the usual few.

#[cfg(test)]
#[path = "sim/mod.rs"]
mod simulation;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with the tests of behaviours, which use all of it")]
mod support;

#[cfg(test)]
mod tests {
    use super::simulation::{Weather, run_all};

    #[test]
    fn calls_on_a_calm_network_end_in_exactly_one_outcome() {
        run_all(Weather::Calm);
    }

    #[test]
    fn calls_on_a_bad_network_end_in_exactly_one_outcome() {
        run_all(Weather::Storm);
    }

    #[test]
    fn calls_that_outlive_their_process_end_in_exactly_one_outcome() {
        run_all(Weather::Restarts);
    }

    #[test]
    fn calls_that_operators_interfere_with_end_in_exactly_one_outcome() {
        run_all(Weather::Operators);
    }
}
