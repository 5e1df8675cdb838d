//! On macOS an extension module's undefined symbols are the interpreter's, found at load time.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
