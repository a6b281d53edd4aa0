//! Tests of the library's surface and of the command, in one binary: linking it once is what a
//! change costs. `cargo test --test integration cli_verbs` runs one module of it.

mod architecture;
mod cli_basic;
mod cli_forget;
mod cli_help;
mod cli_render;
mod cli_schemas;
mod cli_verbs;
mod fixture;
mod simulated;
mod simulated_versions;
mod simulated_window;
mod store_s3;
