# Everything a newcomer needs: the first target that runs makes .venv and installs into it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := build/peers
ENGINES := build/integrations
# Images of Python often set it: pytest would rewrite, and every process that a test starts compile, all anew each time.
unexport PYTHONDONTWRITEBYTECODE
TESTED := $(patsubst tests/integrations/%/requirements.txt,%,$(wildcard tests/integrations/*/requirements.txt))

.PHONY: demo test check soak mutations bench bench-peers integrations lint proto needle clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# by the environment, so that what builds the package is pinned too
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Answers questions about documents that were prefilled once: Ray, store, embedded Redis, workers. Under two minutes.
# With NODES=3 on three nodes of Ray on this machine, of which one is killed.
NODES ?= 1
demo: $(STAMP)
	$(BIN)/cachestore demo --nodes $(NODES)

# The fast suite, under five minutes on two cores: three at a time, since many of its tests wait for time-outs.
test: $(STAMP)
	$(BIN)/pytest -n 3 --dist loadfile -m "not slow and not gpu"

# Every named test, under an hour.
check: test
	$(BIN)/pytest -m "slow and not gpu"
	$(BIN)/python proto/generate.py --check

# Ten minutes of writers, readers and an auditor while everything around them breaks; exit status 1 on a wrong byte.
soak: $(STAMP)
	$(BIN)/python -m tests.soak --minutes 10
	$(BIN)/python -m tests.soak --nodes 3 --minutes 10
	$(BIN)/python -m tests.soak.recovery

# Breaks the source in many small ways, and shows that the tests notice each.
mutations: $(STAMP)
	$(BIN)/python -m tests.mutations --jobs 2

bench: $(STAMP)
	$(BIN)/python benchmarks/store.py
	$(BIN)/python -m benchmarks.kernels --cpu --json
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/cluster_sim.py
	$(BIN)/python benchmarks/first_light.py

# What benchmarks compare us with, in an environment of its own: benchmarks/wire.py --peers, benchmarks/store.py --peers.
bench-peers: $(PEERS)/.installed

$(PEERS)/.installed: benchmarks/peers/install.sh
	benchmarks/peers/install.sh $(PEERS) $(PYTHON)
	touch $@

# Our adapters under the engines themselves, each in an environment of its own; prints which versions passed.
integrations: $(STAMP) $(TESTED:%=integrations-%)
	$(BIN)/pytest tests/integrations
	@$(BIN)/python -c "import transformers; print('passed: transformers', transformers.__version__)"
	@for engine in $(TESTED); do $(ENGINES)/$$engine/bin/python -c \
	    "from importlib.metadata import version; print('passed: $$engine', version('$$engine'))"; done

integrations-%: $(ENGINES)/%/.installed
	HF_HUB_OFFLINE=1 $(ENGINES)/$*/bin/python -m pytest -o filterwarnings=default tests/integrations/$*

# one engine's environment may be another's and more
.PRECIOUS: $(ENGINES)/%/.installed
$(ENGINES)/%/.installed: tests/integrations/install.sh $(wildcard tests/integrations/*/*.txt) constraints.txt
	$< $* $(ENGINES)/$* $(PYTHON)
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd examples/needle && ../../$(BIN)/mypy --strict *.py
	PYTHONPATH=.:kernels $(BIN)/lint-imports

proto: $(STAMP)
	$(BIN)/python proto/generate.py

# Trains the needle model from scratch.
needle: $(STAMP)
	$(BIN)/python examples/needle/train.py --checkpoint needle.pt
	$(BIN)/python examples/needle/documents.py
	$(BIN)/python examples/needle/evaluate.py

clean:
	rm -rf $(VENV)
