//! Configuration: the YAML file, its schema, discovery from `milvus.yaml`, secrets.
