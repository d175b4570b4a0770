# Builds, tests and runs this project. `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Builds and downloads are cached outside the checkout, so that later runs in any checkout are fast.
export JACKAL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jackal-operator
export CARGO_TARGET_DIR ?= $(JACKAL_CACHE)/target

# The servers that the integration tests use.
PARTS := apiserver apiserver-audited docker20 docker-classic docker-containerd containerd16 containerd registry28 registry31

# Threads of the integration tests, which wait for servers most of the time.
TEST_THREADS ?= $(shell echo $$(( $$(nproc) < 4 ? 4 : $$(nproc) )))

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show the main use case: start a cluster, two registries and a docker engine, apply a package, wait until it is ready.
	scripts/demo $(DEMO_FLAGS)

.PHONY: test
test: parts check test-unit test-integration test-demo e2e e2e-bootstrap test-release ## Run all checks and tests that must pass before a change is merged.

.PHONY: check
check: ## Check format, lints, shell scripts and dependencies.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	shellcheck -x -a scripts/interop
	shellcheck -x scripts/advisories scripts/coverage scripts/demo scripts/deny scripts/e2e scripts/e2e-bootstrap scripts/fuzz scripts/image scripts/msrv scripts/parts scripts/release scripts/stack scripts/*.sh scripts/bench/* tests/e2e/*.sh tests/e2e-bootstrap/*.sh .ci/run
	"$$(scripts/parts path cargo-machete)" --skip-target-dir
	scripts/deny
	scripts/msrv if-newer

.PHONY: msrv
msrv: ## Compile with exactly the oldest compiler that Cargo.toml allows.
	scripts/msrv

.PHONY: coverage
coverage: ## Measure which lines the unit tests run: a table of modules; COVERAGE=html also writes every file with its lines.
	scripts/parts get jq cargo-llvm-cov
	scripts/coverage $(COVERAGE)

.PHONY: test-unit
test-unit: ## Run the tests that need no server, including the checks of crds/ and of the layers of modules.
	cargo test --locked --lib --bins --test layers
	cargo test --locked --package jackal-seed

.PHONY: test-integration
test-integration: ## Run the tests against a real API server, docker engines and registries. T=NAME selects tests.
	cargo test --locked --test integration --no-run
	scripts/stack with $(PARTS) -- env RUST_TEST_THREADS=$(TEST_THREADS) \
		cargo test --locked --test integration -- $(T)

.PHONY: interop
interop: ## Test the exchange of images and packages with other tools; builds Zarf once. INTEROP='clients zarf' selects groups.
	scripts/interop $(INTEROP)

.PHONY: test-interop
test-interop: ## Run the groups of `interop` that need no Zarf: crane, regctl, oras, skopeo, docker.
	scripts/interop quick

.PHONY: test-crash
test-crash: ## Kill each process at KILLS (200) points of a run, one after the other; POINT=etcd,agent selects the processes.
	cargo test --locked --test integration --no-run
	scripts/stack with apiserver docker-classic registry31 -- env KILLS=$(or $(KILLS),200) \
		cargo test --locked --test integration -- --nocapture the_operator_converges_after_any_kill

.PHONY: image
image: ## Build the container image as an archive for `ctr images import` and `docker load`; prints its path.
	scripts/parts get image
	scripts/image build

.PHONY: image-signed
image-signed: ## Build the image as an OCI layout with SBOMs and a signature: make image-signed KEY=cosign.key.
	scripts/parts get image
	scripts/image sign "$(or $(KEY),$(error KEY=FILE must name a private key))"

.PHONY: image-check
image-check: ## Assemble the image twice, load it into each engine, then build it twice from scratch: takes minutes.
	scripts/parts get image
	scripts/image build
	scripts/stack with docker20 docker-classic docker-containerd containerd -- scripts/image check
	scripts/image rebuild

.PHONY: release
release: ## Make all files of a release in dist/VERSION: make release KEY=cosign.key (docs/releasing.md).
	scripts/release make "$(or $(KEY),$(error KEY=FILE names a private key))"

.PHONY: release-dry-run
release-dry-run: msrv ## Make a whole release with a new key in dist/dry-run and check it. Many minutes after a change.
	scripts/release dry-run

.PHONY: test-release
test-release: ## The same in dist/quick with the image of the e2e tests, for amd64 only.
	scripts/release quick

.PHONY: e2e
e2e: ## Start a real cluster of two nodes, install the chart and test the operator there. Needs root.
	scripts/e2e $(E2E_FLAGS)

.PHONY: e2e-bootstrap
e2e-bootstrap: ## Bring the operator into a cluster that has no registry. Needs root. E2E_BOOTSTRAP=all runs every step.
	scripts/e2e-bootstrap $(E2E_FLAGS) $(or $(E2E_BOOTSTRAP),ci)

.PHONY: test-demo
test-demo: ## Run the demo, which compares the transferred images with their sources.
	scripts/demo

# The servers of each benchmark. Each benchmark starts and stops its own servers.
BENCHES := docker-large docker-files containerd-large docker-many one-layer registry-many registry-large sbom archive-serve node-proxy
BENCH_STACK_docker-large := docker20 registry31
BENCH_STACK_docker-files := docker20 registry31
BENCH_STACK_containerd-large := docker-containerd registry31
BENCH_STACK_docker-many := docker20 registry31
BENCH_STACK_one-layer := docker20 registry31
BENCH_STACK_registry-many := docker20 registry31
BENCH_STACK_registry-large := registry31
BENCH_STACK_sbom := docker20 registry31
BENCH_STACK_archive-serve := registry31
BENCH_STACK_node-proxy := registry31

.PHONY: bench
bench: ## Run all benchmarks of docs/benchmarks.md against other tools; `make bench-docker-large BENCH='5G 3'` runs one.
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
fuzz: ## Give random input to the parsers of external data, each for FUZZ_SECONDS (60). FUZZ='bundle chart' selects targets.
	scripts/fuzz $(or $(FUZZ_SECONDS),60) $(FUZZ)

.PHONY: parts
parts: ## Install or build the missing servers and clients for the tests.
	scripts/parts get

.PHONY: up
up: ## Start the servers and keep them running; `eval "$(scripts/stack env)"` then configures cargo test.
	scripts/stack up $(PARTS)

.PHONY: down
down: ## Stop the servers that `up` started.
	scripts/stack down

.PHONY: crds
crds: ## Regenerate crds/ and the chart's copy after a change of src/api.
	cargo run --locked --quiet -- crd --out crds
	cargo run --locked --quiet -- crd --out charts/jackal-operator/files/crds

.PHONY: chart-docs
chart-docs: ## Regenerate the chart's README after a change of its values.
	scripts/parts get helm-docs
	"$$(scripts/parts path helm-docs)" --chart-search-root charts --log-level warning

.PHONY: build
build: ## Build the optimised binary.
	cargo build --locked --release

.PHONY: bench-scale
bench-scale: ## Measure one controller with 10, 100 and 1,000 packages of five images. BENCH='10 100' selects sizes.
	scripts/parts get etcd kube-apiserver kubectl registry31
	cargo bench --locked --bench scale --no-run
	scripts/stack with apiserver -- cargo bench --locked --bench scale -- $(BENCH)

.PHONY: bench-bootstrap-transport
bench-bootstrap-transport: ## Measure the way of 100 MB into a cluster without a registry. BENCH='MEGABYTES ROUNDS'. Needs root.
	scripts/parts get image
	scripts/parts get e2e
	BENCH_SEED="$$(scripts/image seed)" \
		BENCH_PROGRAM="$$(cargo bench --locked --bench bootstrap_transport --no-run --message-format json | \
			jq -r 'select(.target.name? == "bootstrap_transport").executable // empty')" \
		scripts/bench/bootstrap-transport $(BENCH)

.PHONY: bench-compression
bench-compression: ## Measure push and pull with None, Gzip and Zstd, at 1 Gbit/s and on loopback. BENCH='MEGABYTES ROUNDS'.
	cargo build --locked --release
	BENCH_BIN=$(CARGO_TARGET_DIR)/release/jackal-operator scripts/bench/compression $(BENCH)
