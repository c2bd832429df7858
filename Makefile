# make run: both notebooks on all of MNIST -> results/;   make test: the tests.   Both make .venv first, where it is missing.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/installed

.PHONY: run test clean

run: $(INSTALLED)
	$(VENV_PYTHON) -m cscm77

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest

clean:
	rm -rf .venv results

$(INSTALLED): requirements.txt
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet --upgrade pip
	$(VENV_PYTHON) -m pip install --quiet -r requirements.txt
	touch $(INSTALLED)
