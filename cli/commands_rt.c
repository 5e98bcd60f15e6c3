/* commands_rt: what kgen-rt has: the commands that need no compiler. */
#include "cli/cli.h"

const struct command *const commands[] = {
    &command_run,     &command_bench,  &command_perplexity, &command_tokenize,
    &command_inspect, &command_doctor, &command_help,       NULL,
};
