//! Native jobs that exist to be measured and tested with: what a pool does with them, it does with all native work.

use std::cell::Cell;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::future::Future;
use crate::pool::DispatchPool;
use crate::promise;

/// Sleeps on one of the pool's threads as native operations run there: detached.
#[pyfunction]
#[pyo3(signature = (pool, seconds = 0.0))]
pub fn _nap(py: Python<'_>, pool: &Bound<'_, DispatchPool>, seconds: f64) -> PyResult<Py<Future>> {
    let nap = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let op = move || {
        if !nap.is_zero() {
            std::thread::sleep(nap);
        }
        Ok(())
    };
    pool.get().start_native(py, promise::work(op, |py, ()| Ok(py.None())))
}

/// Shuffles and sorts 300 numbers on one of the pool's threads, detached; gives the greatest.
#[pyfunction]
pub fn _sort(py: Python<'_>, pool: &Bound<'_, DispatchPool>) -> PyResult<Py<Future>> {
    pool.get().start_native(py, promise::work(|| Ok(shuffle_and_sort()), |py, most| most.into_py_any(py)))
}

fn shuffle_and_sort() -> u64 {
    let mut values: Vec<u64> = (500..800).map(|value| value % 101).collect();
    for last in (1..values.len()).rev() {
        values.swap(last, random(last as u64 + 1));
    }
    values.sort();
    values.last().copied().unwrap_or_default()
}

/// xorshift64*, reduced to less than `bound`.
fn random(bound: u64) -> usize {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) });
    STATE.with(|state| {
        let mut value = state.get();
        value ^= value >> 12;
        value ^= value << 25;
        value ^= value >> 27;
        state.set(value);
        ((u128::from(value.wrapping_mul(0x2545_F491_4F6C_DD1D)) * u128::from(bound)) >> 64) as usize
    })
}
