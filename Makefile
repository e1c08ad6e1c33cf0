# make demo: install, train every network on procedural scenes, make photos of its test layouts.
# make test: install, run the tests.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(RUN) train.py --config=configs/quickstart.py --workdir=runs/quickstart
	$(RUN) synthesize.py --workdir=runs/quickstart --layout=runs/quickstart/layouts \
		--out=runs/quickstart/photos --sheet
	@echo "Look at runs/quickstart/sheet.png: layout | canvas | photo | real"

test: $(VENV)/installed
	$(RUN) -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/pip install --quiet ruff
	$(VENV)/bin/ruff check .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
