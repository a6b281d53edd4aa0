# Two commands matter: `make demo` and `make test`. Both install what is missing.

STORAGE ?= local
# The lab's Python; the bootstrap installs what is missing and prints its path.
LAB = PYTHONPATH=tests "$$(sh tests/lab/bootstrap.sh --rust)"

.PHONY: demo test test-rust test-e2e check lint advisories bench scale setup

## The main job end to end on a real Milvus: STORAGE=local (default), s3 or embedded.
demo: setup
	cargo build
	$(LAB) -m lab demo --storage $(STORAGE) --eyrie target/debug/eyrie

## Everything: unit, property, simulated and real. A skipped test is a failed one.
test: test-rust test-e2e

test-rust: setup
	$(LAB) -m lab exec --minio -- cargo test

## The tests on real servers; ARGS goes to pytest (docs/testing.md).
test-e2e: setup
	cargo build
	EYRIE_BIN=$(CURDIR)/target/debug/eyrie $(LAB) -m pytest tests/e2e $(ARGS)

## What to run after each change: minutes, not a quarter of an hour.
check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	$(LAB) -m lab exec -- cargo test --lib

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	$(LAB) -m lab exec -- cargo deny --locked check bans licenses sources

## Known vulnerabilities of what eyrie is built from; fetches their database from GitHub.
advisories: setup
	$(LAB) -m lab exec -- cargo deny --locked check advisories

## EYRIE_BENCH_* set how much is measured: the head of each file in benches/. The command sets the threshold itself.
bench: export MALLOC_MMAP_THRESHOLD_ = 1048576
bench: setup
	$(LAB) -m lab exec -- cargo bench --bench '*'

## Backs up and restores made instances of 10^5 and 10^6 objects, and one object of 12 GiB: about
## 40 GB of disk below SCALE_DIR. Prints times and peaks of memory.
SCALE_DIR ?= $(CURDIR)/target/scale
scale: setup
	cargo build --release
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 100000
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 1000000
	$(LAB) -m lab scale --dir $(SCALE_DIR) --eyrie target/release/eyrie --objects 1000 --large 12884901888

setup:
	$(LAB) -m lab setup
