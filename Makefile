# kgen: `make` builds build/kgen. `make demo` and `make test` also install what is missing (setup.sh prints the command).
#
#   make                the program, build/kgen
#   make demo           packages, a small model, the program, and an answered prompt
#   make test           everything that is proved, ending in one line of counts; ONLY="base cli" runs those tests alone
#   make test-archs     every kernel's PTX for every GPU architecture, against its budget of registers
#   make asan | tsan    the C tests under AddressSanitizer + UBSan | ThreadSanitizer
#   make fuzz           every parser's fuzz target for FUZZ_SECONDS each
#   make kgen-rt        build/kgen-rt, which runs bundles (kgen emit --bundle) and has no compiler
#   make static         build/kgen-static, which needs nothing but libc where it runs
#   make install        PREFIX=/usr/local, DESTDIR=: the program, its man pages and shell completion
#   make setup          only the packages and the models
#   make bench-peers    kgen beside its rivals on this machine
#   make docs           docs/commands.md from the tables of the commands
#
# B is the build directory (the sanitizers have their own below it); WERROR= turns errors back into warnings; V=1 shows
# the compiler's command lines.

B ?= build
CC = gcc
CLANG ?= clang-22
CFLAGS ?= -O2 -g
WERROR ?= -Werror
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 600
LLVM_CONFIG ?= llvm-config-22

# As many jobs as processors, unless told; inner makes share them.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif
MAKEFLAGS += --no-print-directory --no-builtin-rules

# `$(call show,VERB,FILE)` in front of a command prints that instead of the command.
show = $(if $(V),,@echo '  $(1) $(2)';)

# Empty before setup.sh has run: no target that needs them is built in that same make.
LLVM_CFLAGS := $(addprefix -I,$(shell $(LLVM_CONFIG) --includedir 2>/dev/null))
LUA_CFLAGS := $(shell pkg-config --cflags lua5.4 2>/dev/null)

# gcc guesses "maybe uninitialized" differently at each optimization level: worth reading, not worth stopping for.
BASE_CFLAGS = -std=gnu17 -D_GNU_SOURCE= -Wall -Wextra $(WERROR) -Wno-error=maybe-uninitialized -I. \
              -fno-strict-aliasing -ffp-contract=off -fvisibility=hidden -ffunction-sections -fdata-sections -pthread
LDLIBS = -Wl,--as-needed -llua5.4 -lpcre2-8 -lutf8proc -ljansson -lsqlite3 \
         -lxxhash -lhwloc -ledit -lm -ldl -pthread

# Of these, other programs than kgen have another instead: see `rt` and `static`.
VARIANT_C := codegen/no_compiler.c codegen/llvm_linked.c cli/commands_rt.c runtime/no_udev.c
LIB_C := $(filter-out $(VARIANT_C),$(sort $(wildcard codegen/*.c dsl/*.c runtime/*.c) \
         $(filter-out verify/test_% verify/fuzz_%,$(wildcard verify/*.c))))
CLI_C := $(filter-out $(VARIANT_C),$(sort $(wildcard cli/*.c)))
TEST_C := $(sort $(wildcard verify/test_*.c))
FUZZ_C := $(sort $(wildcard verify/fuzz_*.c))
LUA_SOURCES := $(sort $(wildcard kernels.lua models/*.lua) $(filter-out dsl/embed.lua,$(shell find dsl -name '*.lua')))
RT_LUA_SOURCES := $(sort dsl/chat.lua $(wildcard dsl/jinja*.lua))
# What plans, code and the runtime that uses them agree on.
BUILD_SOURCES := $(sort $(filter-out verify/%,$(LIB_C)) $(wildcard codegen/*.h dsl/*.h runtime/*.h) $(LUA_SOURCES))

LIB_O := $(LIB_C:%.c=$(B)/obj/%.o) $(B)/obj/lua_sources.o $(B)/obj/build_id.o
CLI_O := $(CLI_C:%.c=$(B)/obj/%.o)
TESTS := $(TEST_C:verify/%.c=$(B)/%)
FUZZERS := $(FUZZ_C:verify/%.c=$(B)/%)

all: $(B)/kgen

# Only these see the headers of LLVM and of Lua; verify/test_layers.sh holds the rest to it.
$(B)/obj/codegen/llvm_%.o $(B)/obj/codegen/target_%.o: EXTRA_CFLAGS = $(LLVM_CFLAGS)
$(B)/obj/dsl/%.o: EXTRA_CFLAGS = $(LUA_CFLAGS)

# Files whose text is a value above, rewritten only when it changed: what is made from it is then made again. Written while
# this file is read, since a rule would make everything look out of date to `make -q`.
note = $(shell mkdir -p $(B) && printf '%s' '$(2)' | cmp -s - $(B)/$(1) || printf '%s' '$(2)' > $(B)/$(1))
$(call note,flags,$(CC) $(BASE_CFLAGS) $(CFLAGS) $(LLVM_CFLAGS) $(LUA_CFLAGS))
$(call note,objects,$(LIB_O) $(CLI_O))
$(call note,luas,$(LUA_SOURCES))
$(call note,build_sources,$(BUILD_SOURCES))

$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(call show,compile,$<)$(CC) $(BASE_CFLAGS) $(EXTRA_CFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# The Lua sources travel inside the program as bytes.
$(B)/gen/lua_sources.c: dsl/embed.lua $(LUA_SOURCES) $(B)/luas
	@mkdir -p $(@D)
	$(call show,embed,$(words $(LUA_SOURCES)) Lua sources)lua5.4 dsl/embed.lua $@ dsl.main $(LUA_SOURCES)

$(B)/gen/rt_lua_sources.c: dsl/embed.lua $(RT_LUA_SOURCES) $(B)/luas
	@mkdir -p $(@D)
	$(call show,embed,$(words $(RT_LUA_SOURCES)) Lua sources)lua5.4 dsl/embed.lua $@ dsl.chat $(RT_LUA_SOURCES)

$(B)/gen/build_id.c: $(BUILD_SOURCES) $(B)/build_sources
	@mkdir -p $(@D)
	$(call show,generate,$@){ echo '#include "runtime/bundle.h"'; \
	  echo "const char kgen_build[] = \"$$(cat $(BUILD_SOURCES) | sha256sum | cut -c 1-32)\";"; } > $@

$(B)/obj/%.o: $(B)/gen/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call show,compile,$<)$(CC) $(BASE_CFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# A jump through a slot for each LLVM function in use: codegen/llvm_open.c fills the slots when LLVM is first needed.
LLVM_O = $(filter $(B)/obj/codegen/llvm_%.o $(B)/obj/codegen/target_%.o,$(LIB_O))
$(B)/gen/llvm_stubs.S: $(LLVM_O) $(B)/objects
	@mkdir -p $(@D)
	$(call show,generate,$@)nm -u $(LLVM_O) | awk '$$1 == "U" && $$2 ~ /^LLVM/ { print $$2 }' | sort -u | awk ' \
	  { name[n++] = $$1 } \
	  END { print ".text"; \
	    for (i = 0; i < n; i++) printf ".globl %s\n.type %s,@function\n%s: jmp *llvm_slots+%d(%%rip)\n", \
	      name[i], name[i], name[i], 8 * i; \
	    print ".section .rodata"; for (i = 0; i < n; i++) printf ".Ln%d: .string \"%s\"\n", i, name[i]; \
	    print ".globl llvm_n_slots\n.balign 8\nllvm_n_slots: .quad " n; \
	    print ".section .data.rel.ro,\"aw\"\n.balign 8\n.globl llvm_slot_names\nllvm_slot_names:"; \
	    for (i = 0; i < n; i++) printf ".quad .Ln%d\n", i; \
	    print ".bss\n.balign 8\n.globl llvm_slots\nllvm_slots: .zero " 8 * (n + 1); \
	    print ".section .note.GNU-stack,\"\",@progbits" }' > $@

$(B)/obj/llvm_stubs.o: $(B)/gen/llvm_stubs.S
	$(call show,assemble,$<)$(CC) -c $< -o $@

$(B)/libkgen.a: $(LIB_O) $(B)/obj/llvm_stubs.o $(B)/objects
	@rm -f $@
	$(call show,archive,$@)ar rcs $@ $(LIB_O) $(B)/obj/llvm_stubs.o

$(B)/kgen: $(CLI_O) $(B)/libkgen.a $(B)/objects
	$(call show,link,$@)$(CC) $(CFLAGS) $(CLI_O) $(B)/libkgen.a $(LDLIBS) -o $@

# kgen-rt: runs bundles. The same objects with a codegen.h that compiles nothing, fewer commands and of Lua the chat
# templates alone; the linker drops what is then out of reach, LLVM's last traces with it. Libraries come along, so
# that the program can be copied to a machine with none but libc's.
RT_INSTEAD = codegen/codegen.o codegen/llvm_%.o lua_sources.o llvm_stubs.o cli/commands.o
RT_O = $(filter-out $(RT_INSTEAD:%=$(B)/obj/%),$(CLI_O) $(LIB_O)) \
       $(addprefix $(B)/obj/,codegen/no_compiler.o rt_lua_sources.o cli/commands_rt.o runtime/no_udev.o)
STANDALONE = -static-libgcc -Wl,--gc-sections,--as-needed
OWN_LIBS = -Wl,-Bstatic -llua5.4 -lpcre2-8 -lutf8proc -ljansson -lsqlite3 -lxxhash -lhwloc $(1) -Wl,-Bdynamic -lm -ldl -pthread

kgen-rt: $(B)/kgen-rt
$(B)/kgen-rt: $(B)/kgen-rt.symbols
	$(call show,strip,$@)strip -o $@ $<
$(B)/kgen-rt.symbols: $(RT_O) $(B)/objects
	$(call show,link,$@)$(CC) $(CFLAGS) $(STANDALONE) $(RT_O) $(call OWN_LIBS,-ledit -ltinfo -lbsd -lmd) -o $@

# kgen-static: all of kgen with all of its libraries but libc's, LLVM's X86 and NVPTX targets among them. The CUDA driver
# comes by dlopen all the same, and so libc, which knows how, stays what it is there. A link of seconds.
STATIC_INSTEAD = codegen/llvm_open.o llvm_stubs.o
STATIC_O = $(filter-out $(STATIC_INSTEAD:%=$(B)/obj/%),$(CLI_O) $(LIB_O)) \
           $(addprefix $(B)/obj/,codegen/llvm_linked.o runtime/no_udev.o)
STATIC_LLVM = $(shell $(LLVM_CONFIG) --link-static --ldflags --libs x86 nvptx passes core analysis 2>/dev/null)

static: $(B)/kgen-static
$(B)/kgen-static: $(STATIC_O) $(B)/objects
	$(call show,link,$@)$(CC) $(CFLAGS) $(STANDALONE) -Wl,-s $(STATIC_O) \
	    $(call OWN_LIBS,-ledit -ltinfo -lbsd -lmd $(STATIC_LLVM) -lzstd -lz -lstdc++) -o $@

$(B)/test_%: $(B)/obj/verify/test_%.o $(B)/libkgen.a
	$(call show,link,$@)$(CC) $(CFLAGS) $(filter %.o,$^) $(B)/libkgen.a -lcmocka $(LDLIBS) -o $@

# The emulator of AMX (verify/amx): in its test, and to be loaded into any program (LD_PRELOAD=build/amx.so build/kgen ...).
$(B)/test_amx: $(B)/obj/verify/amx/emulator.o
$(B)/test_amx: LDLIBS += -Wl,--export-dynamic-symbol=kgen_emulated_features
$(B)/amx.so: verify/amx/emulator.c verify/amx/emulator.h codegen/target.h $(B)/flags
	$(call show,link,$@)$(CC) $(BASE_CFLAGS) -O2 -g -fPIC -shared -ftls-model=initial-exec $< -o $@

$(B)/fuzz_%: $(B)/obj/verify/fuzz_%.o $(B)/libkgen.a
	$(call show,link,$@)$(CC) $(CFLAGS) -fsanitize=fuzzer $< $(B)/libkgen.a $(LDLIBS) -o $@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
-include verify/ptxvm/Makefile.inc

setup:
	./setup.sh all

demo:
	./setup.sh demo
	$(MAKE) $(B)/kgen
	$(B)/kgen run -m build/models/smollm2-135m-instruct-q4_1.gguf -p "Why is the sky blue?" -n 64

# The build carries on past what fails. What is then out of date is removed, never run: run_tests.sh counts it as failed.
remove_stale = for target in $(1); do $(MAKE) -q $$target 2>/dev/null || rm -f $$target; done
SCRIPTS = $(sort $(wildcard verify/test_*.lua verify/test_*.sh))
PTXVM_TESTS = $(if $(wildcard verify/ptxvm/Makefile.inc),ptxvm-test)
test:
	./setup.sh test
	@$(MAKE) --keep-going tests || $(MAKE) stale
	@verify/run_tests.sh --build $(B) --only "$(ONLY)" $(TESTS) $(SCRIPTS) $(PTXVM_TESTS:%=make:%) \
	    $(if $(FUZZ_C),verify/run_fuzz.sh)

# The PTX of every kernel and format, through ptxas for every architecture.
test-archs: $(B)/test_ptx
	KGEN_ARCHS=all $(B)/test_ptx

asan tsan:
	./setup.sh test
	@$(MAKE) $@-build || $(MAKE) $@-build REMOVE_STALE=1
	@TSAN_OPTIONS="die_after_fork=0 $$TSAN_OPTIONS" verify/run_tests.sh --build $(B)/$@ --only "$(ONLY)" $(TESTS:$(B)/%=$(B)/$@/%) verify/test_cli.sh

asan-build:
	@$(MAKE) --keep-going B=$(B)/asan $(if $(REMOVE_STALE),stale,tests) \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"

tsan-build:
	@$(MAKE) --keep-going B=$(B)/tsan $(if $(REMOVE_STALE),stale,tests) CFLAGS="-O1 -g -fsanitize=thread -fno-omit-frame-pointer"

fuzz-build:
	$(MAKE) WERROR= B=$(B)/fuzz CC=$(CLANG) fuzzers \
	    CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined"

fuzz:
	./setup.sh test
	FUZZ_SECONDS=$(FUZZ_SECONDS) verify/run_fuzz.sh

# The tests of the GPU path run on the PTX machine (verify/cuda_help.h), which is never built with a sanitizer.
tests: $(B)/kgen $(if $(filter build,$(B)),$(B)/kgen-rt $(B)/kgen-static $(B)/amx.so) $(TESTS) $(if $(filter build,$(B)),$(PTXVM_TESTS:%-test=%))
stale:
	@$(call remove_stale,$(B)/kgen $(B)/kgen-rt $(B)/kgen-static $(B)/amx.so $(TESTS))
fuzzers: $(FUZZERS)

bench-peers: $(B)/kgen
	$(if $(wildcard bench/peers.sh),bench/peers.sh,@echo 'there is no bench/peers.sh')

# The tables of commands and settings; verify/test_cli.sh holds the file to the program.
docs: $(B)/kgen
	$(B)/kgen help --markdown > docs/commands.md

install: $(B)/kgen
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 755 $(B)/kgen $(DESTDIR)$(PREFIX)/bin/kgen
	$(B)/kgen help --man > $(DESTDIR)$(PREFIX)/share/man/man1/kgen.1
	for c in $$($(B)/kgen help --names); do \
	    $(B)/kgen help --man $$c > $(DESTDIR)$(PREFIX)/share/man/man1/kgen-$$c.1 || exit 1; done
	$(B)/kgen completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kgen
	$(B)/kgen completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kgen
	$(B)/kgen completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kgen.fish

# The models stay: they are large and their hashes are checked.
clean:
	rm -rf $(filter-out $(B)/models,$(wildcard $(B)/*))

.PHONY: all setup kgen-rt static demo test test-archs asan tsan asan-build tsan-build fuzz-build fuzz tests stale fuzzers bench-peers docs install clean
.SECONDARY:
.DELETE_ON_ERROR:
