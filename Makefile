# make run: both notebooks on all of MNIST -> results/;   make test: the tests.   Both make .venv first, where it is missing.
# make test-colab, make test-oldest: the tests under the versions of Colab's image, and under the oldest that requirements.txt allows.
PYTHON ?= python3

.PHONY: run test test-colab test-oldest clean

run: .venv/installed
	.venv/bin/python -m cscm77

test: .venv/installed
	.venv/bin/python -m pytest

test-colab: .venv-colab/installed
	.venv-colab/bin/python -m pytest

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest

clean:
	rm -rf .venv .venv-colab .venv-oldest results

.venv/installed: requirements.txt
.venv-colab/installed: tests/requirements-colab.txt
.venv-oldest/installed: .venv-oldest/requirements.txt

.venv-oldest/requirements.txt: requirements.txt
	mkdir -p $(@D)
	sed 's/>=/==/' $< > $@

%/installed:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --upgrade pip
	$*/bin/python -m pip install --quiet -r $^
	touch $@
