#include "ctl/command_line.h"
#include "ctl/args.h"
#include "ctl/commands.h"
#include "ctl/errors.h"
#include "ctl/help.h"
#include <string.h>

typedef struct CommandLine {
    Options options;
    char **words;
    int at;        /* the next of words */
    char *name[3]; /* noun and verb, among which options may stand; ends with NULL */
} CommandLine;

/* Takes flags that every command has. */
static bool take_options(CommandLine *line, GError **error)
{
    GError *problem = NULL;
    while (line->words[line->at] != NULL &&
           options_take(&line->options, line->words, &line->at, &problem))
        ;
    if (problem != NULL)
        g_propagate_error(error, problem);
    return problem == NULL;
}

static bool take_name(CommandLine *line, GError **error)
{
    int used;
    for (int i = 0; i < 2; i++) {
        if (!take_options(line, error))
            return false;
        if (i == 1 && command_find(line->name, &used, NULL) != NULL)
            return true; /* a command of one word */
        const char *word = line->words[line->at];
        if (word == NULL)
            return true;
        if (*word == '-') {
            const char *near = options_suggest(word + strspn(word, "-"));
            ctl_fail(error, CTL_USAGE, "there is no flag %s in front of a command%s%s%s", word,
                     near != NULL ? "; did you mean --" : "", near != NULL ? near : "",
                     near != NULL ? "?" : "");
            return false;
        }
        line->name[i] = line->words[line->at++];
    }
    return true;
}

static bool print_version(GError **error)
{
    g_autoptr(GString) version = g_string_new("nbdctl " NBDD_VERSION "\n");
    return terminal_write(version, error);
}

static bool print_help(const CommandLine *line, const Terminal *terminal, GError **error)
{
    g_autoptr(GString) out = g_string_new(NULL);
    return help_append(out, terminal, line->name, error) && terminal_write(out, error);
}

static bool run_command(CommandLine *line, const Terminal *terminal, GError **error)
{
    int used;
    const Command *command = command_find(line->name, &used, error);
    if (command == NULL)
        return false;
    g_autofree char *params =
        args_parse(command->method, line->words + line->at, &line->options, error);
    if (params == NULL)
        return false;
    if (line->options.version)
        return print_version(error);
    if (line->options.help)
        return print_help(line, terminal, error);
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) json = json_parse(params, strlen(params), &problem);
    Context context = {.options = &line->options, .terminal = terminal};
    if (json != NULL)
        return command->run(&context, command->method, json_root(json), error);
    ctl_fail(error, CTL_USAGE, "the parameters make no request: %s", problem);
    return false;
}

bool command_line_run(const Terminal *terminal, char **words, GError **error)
{
    CommandLine line = {.words = words};
    if (!take_name(&line, error))
        return false;
    if (line.options.version)
        return print_version(error);
    if (line.options.help && (line.name[0] == NULL || words[line.at] == NULL))
        return print_help(&line, terminal, error);
    if (line.name[0] != NULL)
        return run_command(&line, terminal, error);
    ctl_fail(error, CTL_USAGE,
             "what shall I do?\nusage: nbdctl NOUN VERB [NAME...] [--flag value]\n"
             "`nbdctl help` lists all nouns and verbs.");
    return false;
}
