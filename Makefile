# Development commands; `make help` lists them, each sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.installed-run
EXTRAS :=
SECONDS ?= 60
BENCH_STAMP := $(VENV)/.installed-bench

# What tests start again and again is not to be compiled to bytecode each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo dashboard quick test lint format unit bench bench-gate bench-quick bench-judge \
	no-compiler no-valgrind linted-unit compiled-early compiled-too fuzz tunnel split soak faults fleet compiled checked unit-compiled \
	man pictures lock dist sbom audit image pin-base model clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Each installs once: pip takes as long to find that nothing is missing as to install it. uv installs what tests
# need in a seventh of the time; where it reaches no registry, pip may, which has a configuration of its own.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check
$(STAMP) $(BENCH_STAMP): UV_OR = $(PIP_INSTALL) uv && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.$(EXTRAS)' ||
$(STAMP): EXTRAS := [test,lint]
$(BENCH_STAMP): EXTRAS := [test,lint,bench,release,compile]
$(BENCH_STAMP): ALSO := $(STAMP)
$(STAMP) $(RUN_STAMP) $(BENCH_STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'canaryproxy needs Python 3.11 or later: make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(UV_OR) $(PIP_INSTALL) --editable '.$(EXTRAS)'
	@touch $@ $(ALSO)

install: $(STAMP) ## set up .venv with everything that tests need

# A newcomer's demo need not wait for what only tests need.
demo dashboard: $(or $(wildcard $(STAMP)),$(RUN_STAMP))
demo: ## a release gone wrong, live in this terminal, in under a minute
	$(BIN)/canaryproxy demo

dashboard: ## the same in the browser, at http://127.0.0.1:9900/, until Ctrl-C
	@$(BIN)/canaryproxy demo --dashboard || [ $$? = 130 ]

# Rooms whose tests need neither a process nor a program.
QUICK := http1 http2 measure release judging config control proxy tls runtime wire/test_corpus.py wire/test_rfc.py
quick: $(STAMP) ## what to run at each change: the tests of the pure rooms, in Python alone (under 60 s)
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal -m "not slow" $(addprefix tests/,$(QUICK))

test: $(BENCH_STAMP) ## what the gate runs: lint, types, import rules, all tests, instructions a request (with valgrind)
	@rm -f $(NOTES)
	@$(MAKE) -j2 -Otarget linted-unit compiled-too \
		APART="$(if $(shell $(CAN_COMPILE) && echo yes),$(addprefix --deselect=,$(SIMULATED)))"
	@cat $(NOTES) 2>/dev/null || true

linted-unit: lint
	@$(MAKE) unit

# mypy has one process: what the other tests need is compiled beside it.
compiled-early: $(BENCH_STAMP)
	@if $(CAN_COMPILE); then $(MAKE) checked; fi

# What takes a compiler or valgrind computes all the time, and runs beside tests that mostly wait.
compiled-too: lint compiled-early
	@$(MAKE) -j2 -Otarget \
		$(if $(shell $(CAN_COMPILE) && echo yes),unit-compiled,no-compiler) \
		$(if $(shell command -v valgrind 2>/dev/null),bench-gate,no-valgrind)

no-compiler no-valgrind:
	@mkdir -p $(dir $(NOTES)) && echo 'skipped: $(subst no-,no ,$@)' >>$(NOTES)

lint: $(BENCH_STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

COMPILED := build/compiled
CHECKED := build/checked
# Most of the tests' time is waiting: for a bake time, a timeout, a process that starts.
JOBS := $(shell echo $$((3 * $$(nproc))))
# Simulated releases for minutes of processor time: the gate judges them once, by the compiled judge if there is one.
# That both judge alike is what tests/judging/test_same_evidence.py holds.
SIMULATED := tests/deploy/test_pictures.py tests/bench/test_judge_worlds.py::test_every_promise_of_the_quick_part_holds \
	tests/judging/test_scenarios.py tests/judging/test_lottery.py tests/judging/test_incidents.py \
	tests/release/test_forecast.py tests/cli/test_offline.py::test_plan_asks_for_users \
	tests/cli/test_services.py::test_plan_is_of_one_service
# What was run again or skipped, for the end of the gate's output.
NOTES := $(CURDIR)/build/notes.txt
CAN_COMPILE := $(BIN)/python -c 'import os, shutil, sys, sysconfig; \
	cc = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]; \
	sys.exit(not (shutil.which(cc) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))'
# Users get -O3 over the whole; the gate checks what the code does, and a file for each module at -O1 takes a third as long.
$(CHECKED)/.done: QUICKLY := && sed -i 's/^opt_level = "3"$$/opt_level = "1"\nmulti_file = true/' pyproject.toml \
	&& grep -q multi_file pyproject.toml && export CFLAGS=-fvisibility=hidden \
	&& export REAL_CC="$${CC:-$$(../../$(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("CC") or "cc")')}" \
	&& export CC="sh $(CURDIR)/bench/gate/cc.sh"
$(COMPILED)/.done $(CHECKED)/.done: $(BENCH_STAMP) $(shell find canaryproxy bench tests -name '*.py' -o -name '*.c' 2>/dev/null)
	rm -rf $(@D) && mkdir -p $(@D)
	cp -r --preserve=timestamps --parents canaryproxy bench tests config docs pyproject.toml hatch_build.py Makefile README.md LICENSE -t $(@D)
	cd $(@D) $(QUICKLY) && HATCH_BUILD_HOOK_ENABLE_MYPYC=true ../../$(BIN)/python -m build \
		--no-isolation --wheel --outdir $(if $(QUICKLY),dist,../wheel) . >build.log 2>&1 || \
		{ tail -n 40 build.log; exit 1; }
	@touch $@

compiled: $(COMPILED)/.done ## a copy in build/compiled, and a wheel in build/wheel, with the data path compiled (6 min)

checked: $(CHECKED)/.done ## a copy in build/checked that is compiled sooner and not as quick, for the gate (2 min)

# One process for each core: other tests run beside. Pytest rewrites the assertions of all tests once: the copy takes
# what the other run has rewritten by now, and rewrites the rest itself.
unit-compiled: $(CHECKED)/.done ## what the wire, TLS and the judge say when compiled (3 min)
	@find canaryproxy bench tests -name '*.pyc' -exec cp --parents --preserve=timestamps -t $(CHECKED) {} +
	cd $(CHECKED) && ../../$(BIN)/pytest --forks $$(nproc) tests/wire tests/fuzz tests/http1/test_head_cache.py tests/http1/test_response_template.py tests/http2 tests/judging tests/tls tests/proxy/network tests/measure/test_counters.py tests/measure/test_native.py tests/measure/test_records.py tests/proxy/test_sticky.py tests/proxy/test_trial_rules.py tests/faults/test_exhaustion.py $(SIMULATED) --notes $(NOTES)

unit: $(BENCH_STAMP) ## pytest, with three processes for each core
	$(BIN)/pytest --forks $(JOBS) --durations 30 --notes $(NOTES) $(APART)

format: $(STAMP) ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(COMPILED)/.done ## the whole benchmark beside other proxies: bench/RESULTS.md (50 min)
	$(BIN)/python -m bench

bench-gate: $(BENCH_STAMP) ## fail if a request costs 3% more than the stored baseline (2 min)
	@if $(CAN_COMPILE); then $(MAKE) checked; fi
	$(BIN)/python -m bench.gate

bench-quick: $(COMPILED)/.done ## requests per second and CPU per request beside nginx, HAProxy, Envoy, Caddy (3 min)
	$(BIN)/python -m bench.quick

bench-judge: $(BENCH_STAMP) ## healthy canaries rolled back and users hurt, beside other rules (1 min)
	$(BIN)/python -m bench.judge --quick

man: $(STAMP) ## write the manual page from the commands
	$(BIN)/python -m canaryproxy.cli.manual >canaryproxy/cli/.page && mv canaryproxy/cli/.page canaryproxy/cli/canaryproxy.1

pictures: $(BENCH_STAMP) ## draw the pictures of docs/judge.md from simulated releases
	$(BIN)/python -m bench.judge.pictures

LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header

lock: $(BENCH_STAMP) ## renew the hashes of everything that the image installs
	$(LOCK) --extra redis --extra dns --output-file requirements.lock pyproject.toml
	printf '%s\n' hatchling hatch-mypyc setuptools | \
		$(LOCK) --constraint requirements.lock --output-file requirements-build.lock -

dist: $(BENCH_STAMP) ## the wheel and the sdist in dist/, checked; the same bytes for the same commit
	@version=$$($(BIN)/python -c 'import canaryproxy; print(canaryproxy.__version__)'); \
		for tag in $$(git tag --points-at HEAD 'v*'); do [ "$$tag" = "v$$version" ] || \
		{ echo "the tag is $$tag, but canaryproxy/__init__.py says $$version"; exit 1; }; done
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	cd dist && sha256sum -- * > SHA256SUMS && cat SHA256SUMS

sbom: $(BENCH_STAMP) ## what the image installs, with hashes, as CycloneDX: dist/canaryproxy.cdx.json
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/canaryproxy.cdx.json requirements.lock 2>/dev/null

audit: $(BENCH_STAMP) ## known vulnerabilities of what the image installs (asks PyPI's service)
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

IMAGE ?= canaryproxy
image: ## the container image, on the digest that its base has today (needs docker)
	config/image/build.sh build $(IMAGE)

pin-base: ## write the digest that the base image has today into the Dockerfile (needs docker or skopeo)
	config/image/build.sh pin

fuzz: $(STAMP) ## parsers under atheris for SECONDS=60, many generated conversations, a million requests of each version (20 min)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz.guided --seconds $(SECONDS)
	FUZZ_EXAMPLES=2000 SEARCH=1 $(BIN)/pytest -q tests/fuzz/test_conversation.py
	FUZZ_EXAMPLES=100 SEARCH=1 $(BIN)/pytest -q tests/admin/test_openapi.py
	SEARCH=1 $(BIN)/pytest -q -n $(JOBS) tests/http1 tests/measure tests/release tests/judging tests/config tests/proxy
	$(BIN)/python -m tests.fuzz.differential --cases 1000000 --jobs 2
	$(BIN)/python -m tests.fuzz.http2 --cases 1000000 --jobs 2
	$(BIN)/python -m tests.fuzz.versions --cases 100000 --jobs 2

tunnel: $(STAMP) ## 1 GiB each way through a WebSocket to a slow reader, and the memory it takes (1 min)
	TUNNEL_MIB=1024 $(BIN)/pytest -q -s tests/system/test_tunnel.py

split: $(STAMP) ## a million requests of 200,000 users, each on the side of its bucket; 1000 weights under load (3 min)
	ROUNDS=5 USERS=200000 $(BIN)/pytest -q tests/system/test_system.py -k every_user
	CHANGES=1000 $(BIN)/pytest -q tests/system/test_control.py -k weight_changes

soak: $(STAMP) ## a mixed load with faults for SECONDS=600: accounts, memory and connections have to balance
	$(BIN)/python -m tests.soak --seconds $(if $(filter command line,$(origin SECONDS)),$(SECONDS),600)

faults: $(STAMP) ## upstreams, clients, disks, names and clocks that fail, and 20,000 connections (2 min)
	CONNECTIONS=20000 $(BIN)/pytest -q -s tests/faults

fleet: $(STAMP) ## five proxies under load, Redis away for a minute; what took how long (3 min)
	REDIS_AWAY=60 $(BIN)/pytest -q -s tests/fleet

model: $(STAMP) ## every interleaving of a fleet of replicas within a budget of mishaps (5 min)
	$(BIN)/python -m tests.model

clean: ## remove what the targets made
	rm -rf $(VENV) .fuzz build dist run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
