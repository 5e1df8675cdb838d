//! How the bodies of a client's responses are received: what one request has in common with the next, taken apart once.

use crate::budget::Budget;
use crate::figures::Figures;
use crate::filepool::FilePool;
use crate::policy::{Direct, Dispatch, Permit};
use crate::receiver::HeadLimits;
use crate::tunables::Tunables;
use penstock_core::codec::When;
use penstock_core::http::Asked;
use penstock_core::permit::Semaphore;
use penstock_core::receive::Plan as Core;
use pyo3::Borrowed;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::Arc;

/// `True`, `False` or `"after"`.
struct Decode(When);

impl<'py> FromPyObject<'_, 'py> for Decode {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<bool>() {
            Ok(true) => Ok(Self(When::Arriving)),
            Ok(false) => Ok(Self(When::Never)),
            Err(_) if value.eq("after")? => Ok(Self(When::After)),
            Err(_) => Err(PyValueError::new_err(format!("decode={}: not True, False or \"after\"", value.repr()?))),
        }
    }
}

/// A policy by which works are done right here, on the loop's thread.
#[derive(Clone)]
pub struct Here {
    pub figures: Arc<Figures>,
    /// Only under a permit. While none is free, works go the policy's other way: they wait for one, and receiving goes
    /// on or stops as for any work that is out.
    pub semaphore: Option<Semaphore>,
}

impl FromPyObject<'_, '_> for Here {
    type Error = PyErr;

    fn extract(policy: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(permit) = policy.cast::<Permit>() {
            let semaphore = Some(permit.get().core());
            return Ok(Self { figures: Arc::clone(permit.get().figures()), semaphore });
        }
        let direct = policy.cast::<Direct>()?;
        Ok(Self { figures: Arc::clone(direct.get().figures()), semaphore: None })
    }
}

/// Works are done right here by the policies [`Here`]; with `Dispatch`, a body for a file may be handed over with its
/// socket.
#[pyclass(frozen, module = "penstock._native")]
pub struct Plan {
    pub core: Core,
    pub here: Option<Here>,
}

#[pymethods]
impl Plan {
    #[new]
    fn new(
        tunables: &Tunables,
        budget: &Budget,
        file_pool: Option<&FilePool>,
        policy: &Bound<'_, PyAny>,
        decode: Decode,
        limits: &HeadLimits,
    ) -> Self {
        let here = policy.extract::<Here>().ok();
        let core = Core {
            asked: Asked { transfer_codings: true, ..Asked::default() },
            limits: limits.0.clone(),
            tunables: tunables.0.clone(),
            budget: budget.0.clone(),
            files: file_pool.map(|files| files.core.clone()),
            direct: here.as_ref().is_some_and(|here| here.semaphore.is_none()),
            drain: policy.is_instance_of::<Dispatch>(),
            expect: false,
            tell_head: false,
            stream: false,
            decode: decode.0,
        };
        Self { core, here }
    }
}
