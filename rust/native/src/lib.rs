//! The extension module `penstock._native`: one file a class, nothing that decides.

mod archive;
mod baton;
mod budget;
mod buffer;
mod call;
mod drains;
mod errors;
mod fields;
mod figures;
mod filepool;
mod future;
mod gil;
mod head;
mod held;
mod image;
mod inplace;
mod jobs;
mod loops;
mod op;
mod path;
mod permit;
mod plan;
mod policy;
mod pool;
mod process;
mod promise;
mod receiver;
mod record;
mod running;
mod semaphore;
mod sink;
mod size;
mod stats;
mod strategy;
mod tunables;
mod upload;
mod watch;
mod worker;

use pyo3::prelude::*;

/// "release" or "debug": benchmarks refuse the latter.
const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

#[pymodule]
mod _native {
    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::archive::{ArchiveMender, ArchiveReader, ArchiveWalk, ArchiveWriter};
    #[pymodule_export]
    use super::baton::{_join_carriers, Baton};
    #[pymodule_export]
    use super::budget::Budget;
    #[pymodule_export]
    use super::buffer::{Lent, View, summarise};
    #[pymodule_export]
    use super::fields::Fields;
    #[pymodule_export]
    use super::figures::Histogram;
    #[pymodule_export]
    use super::filepool::FilePool;
    #[pymodule_export]
    use super::future::Future;
    #[pymodule_export]
    use super::head::Head;
    #[pymodule_export]
    use super::held::Held;
    #[pymodule_export]
    use super::image::{Image, Reader, refuse_in_loop};
    #[pymodule_export]
    use super::inplace::{_stand_still, _try_in_place, block_in_place};
    #[pymodule_export]
    use super::jobs::{_nap, _sort};
    #[pymodule_export]
    use super::op::{_panicking, Op};
    #[pymodule_export]
    use super::permit::BlockingPermit;
    #[pymodule_export]
    use super::plan::Plan;
    #[pymodule_export]
    use super::policy::{Direct, Dispatch, Permit};
    #[pymodule_export]
    use super::pool::DispatchPool;
    #[pymodule_export]
    use super::process::{_after_fork_in_child, _join_pools, default_pool, thread_stats};
    #[pymodule_export]
    use super::receiver::{HeadLimits, Receiver, Scratch, is_readable};
    #[pymodule_export]
    use super::record::Record;
    #[pymodule_export]
    use super::semaphore::{Acquire, Semaphore};
    #[pymodule_export]
    use super::sink::Sink;
    #[pymodule_export]
    use super::size::read_limit;
    #[pymodule_export]
    use super::stats::{
        _after_fork_in_parent, _delay_writes, default_temp_dir, file_pool_stats, settle, slab_stats, trim,
    };
    #[pymodule_export]
    use super::strategy::Strategy;
    #[pymodule_export]
    use super::tunables::Tunables;
    #[pymodule_export]
    use super::upload::Upload;
    #[pymodule_export]
    use super::watch::LoopWatch;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        if !super::gil::is_main_interpreter(module.py()) {
            let reason = "penstock works in the main interpreter only: that is where its threads run jobs";
            return Err(PyImportError::new_err(reason));
        }
        super::loops::names(module.py())?;
        module.add("BUILD_PROFILE", super::BUILD_PROFILE)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
