//! A record of an archive: nothing of it is made into Python values until somebody looks.

use crate::fields::Fields;
use crate::image::Image;
use penstock_core::barc::{Compression, Entry, Record as Core};
use pyo3::prelude::*;

#[pyclass(frozen, module = "penstock._native")]
pub struct Record {
    pub core: Core,
    /// Where it was read from.
    entry: Option<Entry>,
}

impl Record {
    pub fn of(entry: Entry, core: Core) -> Self {
        Self { core, entry: Some(entry) }
    }
}

#[pymethods]
impl Record {
    #[new]
    fn new(meta: &Fields, req_headers: &Fields, req_body: &Image, res_headers: &Fields, res_body: &Image) -> Self {
        let core = Core {
            meta: meta.0.clone(),
            req_headers: req_headers.0.clone(),
            req_body: req_body.core.clone(),
            res_headers: res_headers.0.clone(),
            res_body: res_body.core.clone(),
        };
        Self { core, entry: None }
    }

    #[getter]
    fn offset(&self) -> Option<u64> {
        self.entry.map(|entry| entry.offset)
    }

    #[getter]
    fn end(&self) -> Option<u64> {
        self.entry.map(|entry| entry.end())
    }

    #[getter]
    fn compression(&self) -> &'static str {
        Compression::name_of(self.entry.and_then(|entry| entry.head.compression))
    }

    #[getter]
    fn meta(&self) -> Fields {
        Fields(self.core.meta.clone())
    }

    #[getter]
    fn req_headers(&self) -> Fields {
        Fields(self.core.req_headers.clone())
    }

    #[getter]
    fn req_body(&self) -> Image {
        Image::of(self.core.req_body.clone())
    }

    #[getter]
    fn res_headers(&self) -> Fields {
        Fields(self.core.res_headers.clone())
    }

    #[getter]
    fn res_body(&self) -> Image {
        Image::of(self.core.res_body.clone())
    }
}
