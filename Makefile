# Bulkhead's one Makefile. `make` builds, `make install PREFIX=DIR` lays out a tree that containerd can
# be pointed at (DIR/bin on its PATH), `make demo` and `make test` also install what they need first.
#
#   make [all]        generate code, build the native parts, bundle the engine and the command
#   make install      into $(DESTDIR)$(PREFIX); NODE=PATH picks the Node.js the engine runs on
#   make guest        kernel and initial file system of virtual machines, into build/guest-cache
#   make test-lab     set-up, build and the tests that need another machine: an emulated one (LAB='NAME…')
#   make test         set-up, build, lint and every test; reports in reports/
#   make demo         set-up, build and a short show beside runc's shim
#   make bench        set-up, build and the side-by-side measurement into bench/results/
#   make lint format clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all

PREFIX ?= /usr/local
DESTDIR ?=
# tools/setup.sh puts a Node.js here when the machine has none that will do.
export PATH := $(CURDIR)/build/node/bin:$(CURDIR)/node_modules/.bin:$(PATH)
NODE ?= $(shell command -v node 2>/dev/null)

BIN := $(DESTDIR)$(PREFIX)/bin
LIB := $(DESTDIR)$(PREFIX)/lib/bulkhead
SHIMS := containerd-shim-bulkhead-v2 containerd-shim-bulkhead-vm-v2 containerd-shim-bulkhead-sentry-v2
DEV_PREFIX := $(CURDIR)/build/prefix
NODE24 := $(CURDIR)/build/peers/node24/node_modules/node/bin/node

.PHONY: all setup gen native bundle install prefixes guest test test-unit test-e2e test-lab demo bench lint format clean

all: gen native bundle

setup:
	tools/setup.sh

gen:
	@node tools/gen.mjs

native:
	@node tools/build-native.mjs

bundle: gen
	@node tools/bundle.mjs

# Files are replaced, never written in place: a running shim or engine keeps the one it started from.
install:
	@for f in build/native/bulkhead-shim build/native/bulkhead-init build/native/addon.node \
	  dist/engine.cjs dist/cli.cjs dist/cli.main.cjs dist/nvml.cjs dist/grpc.cjs dist/yaml.cjs; do \
	  [[ -e $$f ]] || { echo "install: $$f: not built; run make first" >&2; exit 1; }; done
	@[[ -x "$(NODE)" ]] || { echo "install: NODE=$(NODE): not an executable file" >&2; exit 1; }
	install -d $(BIN) $(LIB)
	install -m 755 build/native/bulkhead-shim $(BIN)/bulkhead-shim
	for name in bulkhead $(SHIMS); do ln -sfn bulkhead-shim $(BIN)/$$name; done
	install -m 755 build/native/bulkhead-init $(LIB)/bulkhead-init
	for name in bulkhead-sentry bulkhead-agent; do \
	  if [[ -e build/native/$$name ]]; then install -m 755 build/native/$$name $(LIB)/; fi; done
	install -D -m 644 guest/kernel.config $(LIB)/guest/kernel.config
	install -m 644 build/native/addon.node dist/engine.cjs dist/cli.cjs dist/cli.main.cjs dist/nvml.cjs dist/grpc.cjs dist/yaml.cjs $(LIB)/
	rm -rf $(LIB)/node_modules.new
	if [[ -d build/ffi ]]; then cp -R build/ffi/node_modules $(LIB)/node_modules.new; fi
	rm -rf $(LIB)/node_modules
	if [[ -d $(LIB)/node_modules.new ]]; then mv $(LIB)/node_modules.new $(LIB)/node_modules; fi
	ln -sfn $(abspath $(NODE)) $(LIB)/node
	$(LIB)/node tools/code-cache.mjs $(LIB)/cli.cjs

# The two trees that the tests run from: the same files, on Node 20 (or the machine's own) and on 24.
prefixes: all
	@$(MAKE) --no-print-directory -s install PREFIX=$(DEV_PREFIX) DESTDIR=
	@[[ ! -x $(NODE24) ]] || $(MAKE) --no-print-directory -s install PREFIX=$(DEV_PREFIX)-node24 DESTDIR= NODE=$(NODE24)

# Compiles a kernel when there is none yet of this configuration, source and compiler: about seven minutes on
# two processors. KERNEL=/boot/vmlinuz-… takes a distribution's instead.
guest: prefixes
	@build='$(DEV_PREFIX)/bin/bulkhead guest build --out build/guest-cache $(if $(KERNEL),--kernel $(KERNEL))'; \
	$$build || { echo 'make guest: once more, with fresh package lists'; \
	  apt-get -o DPkg::Lock::Timeout=600 -qq update && $$build; }

test: setup
	@$(MAKE) --no-print-directory prefixes
	@$(MAKE) --no-print-directory guest
	@node tools/test.mjs

test-unit: gen
	@node tools/test.mjs unit

test-e2e: prefixes
	@node tools/test.mjs e2e

test-lab: setup
	@$(MAKE) --no-print-directory prefixes
	@$(MAKE) --no-print-directory guest
	@LAB='$(LAB)' node tools/test.mjs lab

demo: setup
	@$(MAKE) --no-print-directory prefixes
	@env -u NODE_EXTRA_CA_CERTS tools/private.sh node tools/run.mjs tools/demo.ts

bench: setup
	@$(MAKE) --no-print-directory prefixes
	@env -u NODE_EXTRA_CA_CERTS BULKHEAD_HIDE_UNIFIED=1 tools/private.sh node tools/run.mjs bench/main.ts $(BENCH)

lint: gen
	tsc --noEmit -p tsconfig.json
	eslint --max-warnings 0 .
	prettier --check --log-level warn .
	$(MAKE) --no-print-directory -C native lint

format:
	prettier --write --log-level warn .
	find native \( -name '*.cc' -o -name '*.h' \) -print0 | xargs -0 -r clang-format -i

clean:
	rm -rf build/native build/prefix build/prefix-node24 dist reports
	rm -rf src/gen test/gen
	[[ ! -f native/Makefile ]] || $(MAKE) --no-print-directory -C native clean
