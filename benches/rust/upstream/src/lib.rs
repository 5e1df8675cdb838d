//! Upstream's crates, built from the registry with a lock file of their own: the client that downloads. The programs in
//! `bin` are the rows.

pub mod client;
