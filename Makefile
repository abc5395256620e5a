# Wrappers around CMake, no build rules of their own.  Each installs what it misses (Debian, Ubuntu).
#
#   make demo        build the program and translate a few sentences with it
#   make test        build everything and run the tests
#   make test-asan   the same with AddressSanitizer and UndefinedBehaviorSanitizer
#   make test-slow   the tests that take minutes: fuzzing, and sessions that come and go at random
#   make bench       decoding speed of the embedded pair on this machine
#   make format      clang-format over the sources
#   make clean       forget all builds

CMAKE ?= cmake
GENERATOR := -G Ninja
WERROR ?= OFF # ON: warnings of the compiler are errors, as .ci/run has them
SOURCES = $(shell git ls-files 'rules/*.[ch]' 'weights/*.[ch]' 'host/*.[ch]' 'cuda/*' 'bench/*.[ch]' 'tests/*.[ch]')

.PHONY: demo test test-asan test-slow bench format clean

demo:
	@.ci/packages demo
	@$(CMAKE) $(GENERATOR) -S . -B build/demo -DSPC_CUDA=OFF -DSPC_TESTS=OFF -DSPC_BENCH=OFF >build-demo.log 2>&1 || { cat build-demo.log; rm -f build-demo.log; exit 1; }
	@rm -f build-demo.log
	@$(CMAKE) --build build/demo --target spc_cli
	@build/demo/spc demo

test:
	@.ci/packages test
	@$(CMAKE) $(GENERATOR) -S . -B build/test -DSPC_WERROR=$(WERROR)
	@$(CMAKE) --build build/test
	@.ci/test build/test -LE slow

test-asan:
	@.ci/packages test
	@$(CMAKE) $(GENERATOR) -S . -B build/asan -DCMAKE_BUILD_TYPE=Debug -DSPC_SANITIZE=ON -DSPC_CUDA=OFF
	@$(CMAKE) --build build/asan
	@.ci/test build/asan -LE slow

test-slow:
	@.ci/packages fuzz
	@CC=clang $(CMAKE) $(GENERATOR) -S . -B build/fuzz -DSPC_FUZZ=ON -DSPC_SANITIZE=ON -DSPC_CUDA=OFF -DSPC_BENCH=OFF
	@$(CMAKE) --build build/fuzz --target fuzzers
	@.ci/test build/fuzz -L slow

bench:
	@.ci/packages demo
	@$(CMAKE) $(GENERATOR) -S . -B build/bench -DSPC_CUDA=OFF -DSPC_TESTS=OFF
	@$(CMAKE) --build build/bench --target bench_decode bench_ranks bench_sweep bench_verify spc_cli
	@build/bench/bench_decode

format:
	clang-format -i $(SOURCES)

clean:
	rm -rf build
