//! The extension module `penstock._native`: one file a class, nothing that decides.

mod errors;

use pyo3::prelude::*;

/// "release" or "debug": benchmarks refuse the latter.
const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("BUILD_PROFILE", super::BUILD_PROFILE)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
