//! The class `penstock.barc.Strategy`.

use crate::size;
use penstock_core::barc::{Compression, Strategy as Core};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Whether a record is worth compressing: by the sizes and types of its parts, as upstream decides it.
#[pyclass(frozen, eq, module = "penstock.barc")]
#[derive(PartialEq)]
pub struct Strategy(pub Core);

/// A preset with what was given instead.
fn with(
    preset: Core,
    most_level: u64,
    min_len: Option<&Bound<'_, PyAny>>,
    level: Option<&Bound<'_, PyAny>>,
    check_identity: Option<bool>,
    non_compressible_coef: Option<&Bound<'_, PyAny>>,
) -> PyResult<Strategy> {
    let level = match size::count(most_level, "level", level)? {
        Some(level) => u32::try_from(level)?,
        None => preset.level,
    };
    let coef = match non_compressible_coef {
        Some(coef) => size::float("non_compressible_coef", coef)?,
        None => preset.non_compressible_coef,
    };
    if !(coef >= 0.0 && coef.is_finite()) {
        return Err(PyValueError::new_err(format!("non_compressible_coef={coef}: not a number from 0 on")));
    }
    Ok(Strategy(Core {
        level,
        min_len: size::optional("min_len", min_len)?.unwrap_or(preset.min_len),
        check_identity: check_identity.unwrap_or(preset.check_identity),
        non_compressible_coef: coef,
        ..preset
    }))
}

#[pymethods]
impl Strategy {
    #[staticmethod]
    fn plain() -> Self {
        Self(Core::default())
    }

    #[staticmethod]
    #[pyo3(signature = (*, min_len=None, level=None, check_identity=None, non_compressible_coef=None))]
    fn gzip(
        min_len: Option<&Bound<'_, PyAny>>,
        level: Option<&Bound<'_, PyAny>>,
        check_identity: Option<bool>,
        non_compressible_coef: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        with(Core::gzip(), 9, min_len, level, check_identity, non_compressible_coef)
    }

    #[staticmethod]
    #[pyo3(signature = (*, min_len=None, level=None, check_identity=None, non_compressible_coef=None))]
    fn brotli(
        min_len: Option<&Bound<'_, PyAny>>,
        level: Option<&Bound<'_, PyAny>>,
        check_identity: Option<bool>,
        non_compressible_coef: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        with(Core::brotli(), 11, min_len, level, check_identity, non_compressible_coef)
    }

    #[getter]
    fn compression(&self) -> &'static str {
        Compression::name_of(self.0.compression)
    }

    #[getter]
    fn min_len(&self) -> u64 {
        self.0.min_len
    }

    #[getter]
    fn level(&self) -> u32 {
        self.0.level
    }

    #[getter]
    fn check_identity(&self) -> bool {
        self.0.check_identity
    }

    #[getter]
    fn non_compressible_coef(&self) -> f64 {
        self.0.non_compressible_coef
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, Core { compression, level, min_len, check_identity, non_compressible_coef }) = (slf.py(), slf.get().0);
        let mut maker = slf.get_type().getattr(Compression::name_of(compression))?;
        if compression.is_some() {
            let fields = PyDict::new(py);
            fields.set_item("min_len", min_len)?;
            fields.set_item("level", level)?;
            fields.set_item("check_identity", check_identity)?;
            fields.set_item("non_compressible_coef", non_compressible_coef)?;
            maker = py.import("functools")?.getattr("partial")?.call((maker,), Some(&fields))?;
        }
        Ok((maker, PyTuple::empty(py)))
    }

    fn __repr__(&self) -> String {
        let Core { compression, level, min_len, check_identity, non_compressible_coef } = self.0;
        if compression.is_none() {
            return "Strategy.plain()".to_owned();
        }
        let check_identity = if check_identity { "True" } else { "False" };
        format!(
            "Strategy.{}(min_len={min_len}, level={level}, check_identity={check_identity}, \
             non_compressible_coef={non_compressible_coef})",
            Compression::name_of(compression)
        )
    }
}
