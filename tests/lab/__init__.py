"""The lab: real Milvus, etcd and MinIO servers on free ports, shared by demo, tests and benches."""
