# kgen: `make` builds build/kgen; `make demo` and `make test` also install what is missing.
CC = gcc
LLVM_CONFIG ?= llvm-config-22
CFLAGS ?= -O2 -g
BASE_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -I. -fno-strict-aliasing -fvisibility=hidden -pthread
LLVM_CFLAGS = -I$(shell $(LLVM_CONFIG) --includedir)
LLVM_LIBS = $(shell $(LLVM_CONFIG) --libdir)/libLLVM-22.so
LUA_CFLAGS = $(shell pkg-config --cflags lua5.4)
