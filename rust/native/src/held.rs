//! The class `Held`.

use crate::budget::Budget;
use penstock_core::body::{Lease, WINDOW};
use penstock_core::error::Resource;
use penstock_core::sync::Mutex;
use pyo3::prelude::*;

/// Memory that is held in Python, counted in a budget for as long as this lives.
#[pyclass(frozen, module = "penstock._native")]
pub struct Held(Mutex<Lease>);

#[pymethods]
impl Held {
    #[new]
    fn new(budget: &Budget) -> Self {
        Self(Mutex::new(Lease::empty(&budget.0, Resource::Ram)))
    }

    /// Counts so many bytes: over the limit, too.
    fn set(&self, amount: u64) {
        self.0.lock().set(amount);
    }

    /// Whether one more window would be over the limit.
    #[getter]
    fn is_short(&self) -> bool {
        self.0.lock().lacks(WINDOW as u64)
    }
}
