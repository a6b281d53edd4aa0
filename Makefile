# Two commands matter: `make demo` and `make test`. Both install what is missing.

STORAGE ?= local
# The lab's Python; the bootstrap installs what is missing and prints its path.
LAB = PYTHONPATH=tests "$$(sh tests/lab/bootstrap.sh --rust)"

.PHONY: demo test test-rust test-e2e lint bench scale setup

## The main job end to end on a real Milvus: STORAGE=local (default), s3 or embedded.
demo: setup
	cargo build
	$(LAB) -m lab demo --storage $(STORAGE) --eyrie target/debug/eyrie

## Everything: unit, property, simulated and real. A skipped test is a failed one.
test: test-rust test-e2e

test-rust: setup
	$(LAB) -m lab exec --minio -- cargo test

test-e2e: setup
	cargo build
	EYRIE_BIN=$(CURDIR)/target/debug/eyrie $(LAB) -m pytest tests/e2e

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

bench: setup
	cargo bench

## Backs up and restores made instances of 10^5 and 10^6 objects, and one object of 12 GiB: about
## 40 GB of disk below SCALE_DIR, and the figures of docs/performance.md.
SCALE_DIR ?= $(CURDIR)/target/scale
scale: setup
	cargo build --release
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 100000
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 1000000
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 1000 --large 12884901888

setup:
	$(LAB) -m lab setup
