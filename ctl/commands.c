#include "ctl/commands.h"
#include "ctl/call.h"
#include "ctl/errors.h"
#include "ctl/events.h"
#include "ctl/help.h"
#include "ctl/map.h"
#include "ctl/names.h"
#include "ctl/run.h"
#include "ctl/suggest.h"
#include <string.h>

/* Commands of nbdctl's own, and methods that need more than a call and a rendering. A row whose
 * method is in the schema has no description here. */
static const struct {
    const CliMethod *method; /* NULL: the schema's, by name */
    const char *name;
    CommandRun run;
} own[] = {
    {&call_method, "call", call_run},      {&help_method, "help", help_run},
    {&map_method, "bitmap.map", map_run},  {&names_method, "__names", names_run},
    {NULL, "event.subscribe", events_run},
};

static CommandRun run_of(const CliMethod *method)
{
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++)
        if (strcmp(own[i].name, method->name) == 0)
            return own[i].run;
    return run_method;
}

static int compare(gconstpointer a, gconstpointer b)
{
    const Command *one = a, *other = b;
    return strcmp(one->method->name, other->method->name);
}

/* All of them, sorted by name; ends with method NULL. */
static const Command *all(void)
{
    static GArray *commands;
    if (commands != NULL)
        return (const Command *)commands->data;
    commands = g_array_new(TRUE, FALSE, sizeof(Command));
    for (const CliMethod *method = cli_methods; method->name != NULL; method++) {
        Command command = {.method = method, .run = run_of(method)};
        g_array_append_val(commands, command);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        Command command = {.method = own[i].method, .run = own[i].run};
        if (command.method != NULL)
            g_array_append_val(commands, command);
    }
    g_array_sort(commands, compare);
    return (const Command *)commands->data;
}

char *command_title(const CliMethod *method)
{
    return method->verb == NULL ? g_strdup(method->noun)
                                : g_strconcat(method->noun, " ", method->verb, NULL);
}

bool command_is_noun(const char *word)
{
    for (const Command *command = all(); command->method != NULL; command++)
        if (strcmp(command->method->noun, word) == 0)
            return true;
    return false;
}

void command_each(const char *noun, CommandVisit visit, gpointer data)
{
    for (const Command *command = all(); command->method != NULL; command++)
        if (command->method->noun[0] != '_' &&
            (noun == NULL || strcmp(command->method->noun, noun) == 0))
            visit(command, data);
}

static void collect_nouns(const Command *command, gpointer data)
{
    GPtrArray *words = data;
    const char *noun = command->method->noun;
    if (words->len == 0 || strcmp(words->pdata[words->len - 1], noun) != 0)
        g_ptr_array_add(words, (gpointer)noun);
}

static void collect_verbs(const Command *command, gpointer data)
{
    g_ptr_array_add(data, (gpointer)command->method->verb);
}

/* noun: NULL when the noun itself is unknown. */
static void fail_unknown(const char *noun, const char *word, GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    command_each(noun, noun != NULL ? collect_verbs : collect_nouns, words);
    g_ptr_array_add(words, NULL);
    const char *near = word != NULL ? suggest(word, (const char *const *)words->pdata) : NULL;
    g_autofree char *list = g_strjoinv(", ", (char **)words->pdata);
    g_autoptr(GString) message = g_string_new(NULL);
    if (word == NULL)
        g_string_append_printf(message, "%s what?", noun);
    else if (noun == NULL)
        g_string_append_printf(message, "there is no command \"%s\"", word);
    else
        g_string_append_printf(message, "%s has no \"%s\"", noun, word);
    if (near != NULL)
        g_string_append_printf(message, "; did you mean \"%s%s%s\"?", noun != NULL ? noun : "",
                               noun != NULL ? " " : "", near);
    g_string_append_printf(message, "\nThere %s: %s\n`nbdctl help%s%s` tells about each.",
                           words->len == 2 ? "is" : "are", list, noun != NULL ? " " : "",
                           noun != NULL ? noun : "");
    ctl_fail(error, CTL_USAGE, "%s", message->str);
}

const Command *command_find(char *const *words, int *ret_used, GError **error)
{
    bool noun_known = false;
    for (const Command *command = all(); command->method != NULL; command++) {
        const CliMethod *method = command->method;
        if (strcmp(method->noun, words[0]) != 0)
            continue;
        noun_known = true;
        if (method->verb != NULL && (words[1] == NULL || strcmp(method->verb, words[1]) != 0))
            continue;
        *ret_used = method->verb == NULL ? 1 : 2;
        return command;
    }
    fail_unknown(noun_known ? words[0] : NULL, noun_known ? words[1] : words[0], error);
    return NULL;
}
