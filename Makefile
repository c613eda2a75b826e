# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

# QEMU=10.0|10.2|11.1: which of Debian's QEMUs
QEMU ?= 10.0
# QEMU_SRC=DIR: a QEMU source tree that you have, instead
QEMU_SRC ?=
# ANY_VERSION=1: try QEMU_SRC even if its version is not known here
ANY_VERSION ?=
# FLAVOUR=sanitize: with sanitizers, coverage and fuzzers
# FLAVOUR=fuzz: the fuzzers without sanitizers
# FLAVOUR=thread: with ThreadSanitizer
# FLAVOUR=arm: for arm and aarch64 alone
# FLAVOUR=full: with network in user mode, VNC and -sandbox; install takes it
FLAVOUR ?=
# PREFIX=DIR: where install puts things; DESTDIR=DIR: as below this directory
PREFIX ?= /usr/local
DESTDIR ?=
# SECONDS=N: how long each fuzzer runs
SECONDS ?= 60
# BOARD=NAME: what hello is built for
BOARD ?=
# LINUX=bookworm|trixie: whose kernel the Linux machines run
LINUX ?= bookworm
# STARTS=N: how often stress starts a pair of machines, in each order
STARTS ?= 200
# RESTARTS=N: how often stress restarts the server
RESTARTS ?= 1000
# where this QEMU is built; its programs are in $(BUILD)/bin
BUILD = $(CURDIR)/build/$(if $(QEMU_SRC),own,$(QEMU))$(FLAVOUR:%=-%)
# as the documentation calls the default one's
EMULATOR = $(patsubst build/10.0/%,build/%,$(BUILD:$(CURDIR)/%=%)/bin)/qemu-system-arm
# QEMU's source without the overlay, and the series for it
PRISTINE = $(or $(QEMU_SRC),$(CURDIR)/build/$(QEMU)-pristine/src)
SERIES = $(CURDIR)/build/patches/$(if $(QEMU_SRC),own,$(QEMU))
export QEMU QEMU_SRC ANY_VERSION FLAVOUR LINUX BUILD PREFIX DESTDIR

MAKEFLAGS += --no-print-directory

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | \
		while read -r target text; do \
			printf '  make %-16s %s\n' "$$target" "$$text"; done
	@echo 'With QEMU=11.1, or QEMU_SRC=DIR for a tree of yours; else QEMU 10.0.'

demo: qemu firmware ## build what is missing, run two machines that ring each other
	@tools/demo
	@printf '\nTo use these programs, in this shell:\n\n%s\n' \
		'    export PATH=$(BUILD)/bin:$$PATH'

demo-linux: qemu firmware linux ## the same with Linux machines, one and then two
	@tools/demo-linux

demo-virt: qemu firmware ## Linux without PCI: ivshmem-flat on virt's platform bus
	@tools/deps linux
	@tools/build-linux uio
	@tools/demo-linux --act virt

demo-micropython: qemu ## MicroPython shares memory with Python on the host
	@tools/deps micropython
	@tools/demo-micropython

check: ## build what is missing, run all tests, also with sanitizers
	@tools/deps qemu firmware linux micropython bench check sanitize see
	@tests/run $(notdir $(BUILD)) $(if $(FLAVOUR),,$(notdir $(BUILD))-sanitize)

check-ci: ## the same with each QEMU that is to be had, as .ci/run does
	@tools/deps qemu firmware linux micropython bench check sanitize see
	@tests/run 10.0 10.2-arm 11.1-arm 10.0-sanitize

# demo-virt leaves a Linux machine that the tests use, too; full, a QEMU
check-all: ## the same, and what takes longer
check-all: demo-virt full check-all-10.0 check-all-10.2 check-thread check-all-11.1

check-all-%:
	@$(MAKE) QEMU=$* check check-series check-qemu docs
	@$(MAKE) QEMU=$* FLAVOUR=clang qemu
	@$(MAKE) QEMU=$* FLAVOUR=fuzz fuzz

check-thread: ## run the tests of what has threads under ThreadSanitizer
	@$(MAKE) check FLAVOUR=thread

stress: qemu firmware linux ## start machines STARTS=200 times, the server RESTARTS=1000
	@RESTARTS=$(RESTARTS) tests/restart_test.py -bv
	@STARTS=$(STARTS) tests/lost_doorbell_test.py -bv
	@STARTS=$(STARTS) tests/find_test.py -bv

bench: qemu firmware ## measure what doorbells and shared memory cost
	@tools/deps bench
	@tools/bench

coverage: ## run all tests under sanitizers, show what they execute of our C
	@$(MAKE) check FLAVOUR=sanitize

fuzz: FLAVOUR = sanitize
fuzz: ## run both fuzzers, each for SECONDS=60; also with FLAVOUR=fuzz
	@tools/deps qemu sanitize
	@tools/build-qemu
	@tools/fuzz --seconds=$(SECONDS)

full:
	@$(MAKE) FLAVOUR=full qemu

install: FLAVOUR = full
install: can-install ## build QEMU with more features, install it in PREFIX=/usr/local
	@$(MAKE) qemu
	@tools/install install

# before a build that takes long
can-install:
	@tools/install check

uninstall: ## take away what install has put in PREFIX=/usr/local
	@tools/install uninstall

deps: ## install the Debian packages that are missing
	@tools/deps qemu firmware linux micropython bench check

qemu: ## fetch QEMU, lay the overlay over it, build it
	@tools/deps qemu $(if $(filter clang sanitize fuzz thread,$(FLAVOUR)),sanitize) \
		$(filter full,$(FLAVOUR))
	@tools/build-qemu

firmware: ## build the guest programs
	@tools/deps firmware
	@$(MAKE) -C guest

hello: ## build guest/hello for BOARD=lm3s6965evb, say how to start it
	@tools/deps firmware
	@$(MAKE) -C guest/hello BOARD='$(BOARD)' \
		EMULATOR='$(EMULATOR)' \
		start

linux: ## build the Linux machine
	@tools/deps linux
	@tools/build-linux

apply: ## lay the overlay over QEMU_SRC=DIR, and say what changed
	@test -n '$(QEMU_SRC)' || { \
		echo 'make apply: expected QEMU_SRC=DIR, a QEMU source tree' >&2; \
		exit 1; }
	@tools/deps apply
	@tools/apply $(if $(ANY_VERSION),--any-version) '$(QEMU_SRC)'

patches: ## write the series of patches for upstream into build/patches
	@tools/deps qemu series
	@test -n '$(QEMU_SRC)' || tools/fetch-qemu '$(QEMU)' '$(PRISTINE)'
	@tools/patches $(if $(ANY_VERSION),--any-version) '$(PRISTINE)' '$(SERIES)'

check-series: patches ## prove that series: applies, builds and passes step by step
	@BUILD='$(BUILD)-series' FROM='$(FROM)' tools/check-series '$(PRISTINE)' '$(SERIES)'

check-qemu: ## run QEMU's own tests with the overlay, for all targets and variants
	@tools/deps qemu gates
	@tools/check-qemu

docs: FLAVOUR = docs
docs: ## build QEMU's documentation, warnings are errors; see build/docs
	@tools/deps qemu docs
	@tools/build-qemu
	@ln -sfn '$(BUILD)/obj/docs/manual' build/docs

clean: ## remove all that was built, but not what was downloaded
	rm -rf build python/build python/src/*.egg-info

.PHONY: help demo demo-linux demo-virt demo-micropython check check-ci \
	 check-all check-thread stress bench coverage fuzz full can-install install \
	 uninstall deps qemu firmware hello linux apply patches check-series \
	 check-qemu docs clean
