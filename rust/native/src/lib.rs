//! The extension module `penstock._native`: one file a class, nothing that decides.

mod call;
mod errors;
mod future;
mod gil;
mod loops;
mod policy;
mod pool;
mod semaphore;

use pyo3::prelude::*;

/// "release" or "debug": benchmarks refuse the latter.
const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::future::Future;
    #[pymodule_export]
    use super::policy::{Direct, Dispatch, Permit};
    #[pymodule_export]
    use super::pool::{_after_fork_in_child, _join_pools, _nap, DispatchPool, get_default_pool};
    #[pymodule_export]
    use super::semaphore::{Acquire, Semaphore};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("BUILD_PROFILE", super::BUILD_PROFILE)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
