//! Generates Milvus's messages, client and server (the server is for the scripted Milvus of the tests).

const PROTO: &str = "src/milvus/proto";
const FILES: [&str; 9] = [
    "common",
    "data",
    "index",
    "meta",
    "milvus",
    "msg",
    "query",
    "schema",
    "streaming",
];

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed={PROTO}");
    let files: Vec<String> = FILES
        .iter()
        .map(|name| format!("{PROTO}/{name}.proto"))
        .collect();
    tonic_prost_build::configure()
        .btree_map(".")
        // The service has a method named Connect, as the convenience constructor would be.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_protos(&files, &[PROTO.to_owned()])
}
