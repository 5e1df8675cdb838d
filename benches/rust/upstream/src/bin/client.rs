//! Upstream's client, with the allocator that a Rust program has unless it says otherwise.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    penstock_upstream::client::main()
}
