/* commands: kgen's. cli/commands_rt.c has those of the runtime-only program. */
#include "cli/cli.h"

const struct command *const commands[] = {
    &command_run,  &command_bench,   &command_perplexity, &command_emit,       &command_tokenize, &command_verify,
    &command_tune, &command_inspect, &command_doctor,     &command_completion, &command_help,     NULL,
};
