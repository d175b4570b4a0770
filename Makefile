# Everything that is made of this project. `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What was built or fetched outlives the checkout, so that a second run is quick wherever it happens.
export JACKAL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jackal-operator
export CARGO_TARGET_DIR ?= $(JACKAL_CACHE)/target

# The servers that the integration tests talk to.
PARTS := apiserver apiserver-audited docker20 docker-classic docker-containerd containerd16 containerd registry28 registry31

# Of the integration tests, which wait for servers more than they compute.
TEST_THREADS ?= $(shell echo $$(( $$(nproc) < 4 ? 4 : $$(nproc) )))

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run the main job from nothing: a cluster, two registries, a docker engine, a package, Ready.
	scripts/demo $(DEMO_FLAGS)

.PHONY: test
test: parts check test-unit test-integration test-demo e2e ## Everything that must pass before a change lands.

.PHONY: check
check: ## Format, lints, shell scripts, what we depend on.
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	shellcheck -x -a scripts/interop
	shellcheck -x scripts/advisories scripts/demo scripts/deny scripts/e2e scripts/fuzz scripts/image scripts/parts scripts/stack scripts/*.sh scripts/bench/* tests/e2e/*.sh .ci/run
	scripts/deny

.PHONY: test-unit
test-unit: ## Tests without any server; the CRDs' drift is among them.
	cargo test --locked --lib --bins

.PHONY: test-integration
test-integration: ## Tests against a real API server, real docker engines and real registries. T=name picks.
	cargo test --locked --test integration --no-run
	scripts/stack with $(PARTS) -- env RUST_TEST_THREADS=$(TEST_THREADS) \
		cargo test --locked --test integration -- $(T)

.PHONY: interop
interop: ## Have real tools read what we made, and read what they made; builds Zarf once. INTEROP='clients zarf' picks.
	scripts/interop $(INTEROP)

.PHONY: test-interop
test-interop: ## The part of it that needs no Zarf: crane, regctl, oras, skopeo, docker.
	scripts/interop quick

.PHONY: test-crash
test-crash: ## Kill each process at KILLS (200) points of a run, one after the other; POINT=etcd,agent picks by who dies.
	cargo test --locked --test integration --no-run
	scripts/stack with apiserver docker-classic registry31 -- env KILLS=$(or $(KILLS),200) \
		cargo test --locked --test integration -- --nocapture the_operator_converges_after_any_kill

.PHONY: image
image: ## The container image, as an archive for `ctr images import` and `docker load`; prints where it is.
	scripts/parts get image
	scripts/image build

.PHONY: image-signed
image-signed: ## The same as an OCI layout with its SBOMs and its signature: make image-signed KEY=cosign.key.
	scripts/parts get image
	scripts/image sign "$(or $(KEY),$(error KEY=FILE names a private key))"

.PHONY: image-check
image-check: ## Put the image together twice, load it into each engine, then build it twice from nothing: minutes.
	scripts/parts get image
	scripts/image build
	scripts/stack with docker20 docker-classic docker-containerd containerd -- scripts/image check
	scripts/image rebuild

.PHONY: e2e
e2e: ## Install the chart in a real cluster of two nodes, started for it, and have it do its work there. Root only.
	scripts/e2e $(E2E_FLAGS)

.PHONY: test-demo
test-demo: ## The demo from its begin to its end, which compares what arrived with what was there.
	scripts/demo

# What each bench runs in; every one starts servers of its own and takes them down.
BENCHES := docker-large containerd-large docker-many one-layer registry-many registry-large sbom
BENCH_STACK_docker-large := docker20 registry31
BENCH_STACK_containerd-large := docker-containerd registry31
BENCH_STACK_docker-many := docker20 registry31
BENCH_STACK_one-layer := docker20 registry31
BENCH_STACK_registry-many := docker20 registry31
BENCH_STACK_registry-large := registry31
BENCH_STACK_sbom := docker20 registry31

.PHONY: bench
bench: ## Measure ours and other tools alternately, all of docs/benchmarks.md; `make bench-docker-large BENCH='5G 3'` a part.
	for name in $(BENCHES); do $(MAKE) --no-print-directory "bench-$$name" BENCH=; done

.PHONY: $(BENCHES:%=bench-%)
$(BENCHES:%=bench-%): bench-%: bench-ready
	BENCH_BIN=$(CARGO_TARGET_DIR)/release/jackal-operator \
		scripts/stack with $(BENCH_STACK_$*) -- scripts/bench/$* $(BENCH)

.PHONY: bench-ready
bench-ready:
	scripts/parts get docker dockerd20 containerd16 runc dockerd containerd shim crane registry31 jq curl openssl syft
	scripts/parts get bench
	cargo build --locked --release

.PHONY: fuzz
fuzz: ## Give the parsers of what others wrote random input, each for FUZZ_SECONDS (60). FUZZ='bundle chart' picks.
	scripts/fuzz $(or $(FUZZ_SECONDS),60) $(FUZZ)

.PHONY: parts
parts: ## Get what the tests talk to: servers and clients, built or installed when missing.
	scripts/parts get

.PHONY: up
up: ## Start the servers and leave them running; `eval "$$(scripts/stack env)"` then names them to cargo test.
	scripts/stack up $(PARTS)

.PHONY: down
down: ## Stop what `up` started.
	scripts/stack down

.PHONY: crds
crds: ## Write crds/ and the chart's copy anew after a change of src/api.
	cargo run --locked --quiet -- crd --out crds
	cargo run --locked --quiet -- crd --out charts/jackal-operator/files/crds

.PHONY: chart-docs
chart-docs: ## Write the chart's README anew after a change of its values.
	scripts/parts get helm-docs
	"$$(scripts/parts path helm-docs)" --chart-search-root charts --log-level warning

.PHONY: build
build: ## The binary, optimised.
	cargo build --locked --release

.PHONY: bench-scale
bench-scale: ## Measure one controller with 10, 100 and 1,000 packages of five images. BENCH='10 100' picks.
	scripts/parts get etcd kube-apiserver kubectl registry31
	cargo bench --locked --bench scale --no-run
	scripts/stack with apiserver -- cargo bench --locked --bench scale -- $(BENCH)

.PHONY: bench-compression
bench-compression: ## Measure None, Gzip and Zstd, push and pull, at 1 Gbit/s and on loopback. BENCH='MEGABYTES ROUNDS'.
	cargo build --locked --release
	BENCH_BIN=$(CARGO_TARGET_DIR)/release/jackal-operator scripts/bench/compression $(BENCH)
