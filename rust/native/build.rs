//! On macOS an extension module's undefined symbols are the interpreter's, found at load time. The version of CPython is
//! known as `Py_3_12` and so on.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_extension_module_link_args();
}
