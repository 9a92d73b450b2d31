# Every target does its own set-up. README.md shows `make run` and `make test`.
#   make run                 build, and start a three-node cluster on this machine (DEMO: more flags)
#   make test                all tests
#   make test-full SCALE=10  the same, the random tests SCALE times as long
#   make fuzz FUZZ_SECONDS=60 TARGETS="decode entry"   fuzz targets, all by default, each for so long
#   make bench               the table of docs/performance.md, against mosquitto (BENCH: more flags)
#   make chaos               torment the compose cluster that runs here (CHAOS_SECONDS=180; CHAOS: more flags)
#   make lint                what CI checks besides the tests, `make deny` included
#   make deny                licences, sources and duplicates of what we depend on; known holes, if reachable
#   make fmt                 format all code

SHELL := bash
SCALE ?= 10
FUZZ_SECONDS ?= 60
TARGETS ?=
DEMO ?=
BENCH ?=
CHAOS ?=

.PHONY: chaos run test test-full fuzz lint deny fmt
.DEFAULT_GOAL := run

run:
	@scripts/setup.sh run
	@scripts/cargo.sh build --release --locked --bin holdfast
	@. scripts/env.sh && exec "$$CARGO_TARGET_DIR/release/holdfast" demo $(DEMO)

test:
	@scripts/setup.sh test
	@scripts/test.sh

test-full:
	@scripts/setup.sh test
	@HOLDFAST_TEST_SCALE=$(SCALE) scripts/test.sh

fuzz:
	@scripts/setup.sh run
	@scripts/fuzz.sh $(FUZZ_SECONDS) $(TARGETS)

bench:
	@scripts/setup.sh bench
	@scripts/bench.sh $(BENCH)

chaos:
	@scripts/setup.sh chaos
	@scripts/chaos.sh $(CHAOS)

lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

deny:
	@scripts/setup.sh lint
	@scripts/deny.sh

fmt:
	@. scripts/env.sh && cargo fmt --all
