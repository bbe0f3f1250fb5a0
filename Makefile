# Thin: every target calls a script of dev/, which CI calls too. `make demo` and `make test` do all set-up themselves.
.PHONY: help demo test build wheel bench lint format clean

help:
	@echo "make demo    train on Fashion-MNIST with InPlace-ABN and compare memory and time with standard BatchNorm"
	@echo "make test    build and run all tests (GPU tests too where there is a GPU)"
	@echo "make build   build the library and the program"
	@echo "make wheel   build the Python wheel, dist/iabn-*.whl, and audit it (the release one: dev/wheel.sh --release)"
	@echo "make bench   time the layer against PyTorch's"
	@echo "make lint    check format, lint and house rules; make format repairs the format"
	@echo "make clean   remove build/"
	@echo "IABN_CUDA=1 or 0 forces or forbids the CUDA build; the default is to build it where there is a GPU"

demo:
	@dev/setup.sh
	@dev/build.sh "" iabn_program
	@dev/fetch_fashion_mnist.sh
	@dev/demo.sh

test:
	@dev/test.sh

build:
	@dev/setup.sh
	@dev/build.sh

wheel:
	@dev/wheel.sh

bench:
	@dev/bench.sh

lint:
	@dev/setup.sh
	@dev/lint.sh

format:
	@dev/setup.sh
	@dev/format.sh

clean:
	rm -rf build
