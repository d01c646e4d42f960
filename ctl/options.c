#include "ctl/options.h"
#include "ctl/errors.h"
#include "ctl/suggest.h"
#include <math.h>
#include <string.h>

const CliField option_fields[] = {
    {.name = "socket",
     .flag = "socket",
     .placeholder = "PATH",
     .type = CLI_STRING,
     .description = "The daemon's control socket; default: NBDD_SOCKET, else nbdd's own default."},
    {.name = "json",
     .flag = "json",
     .type = CLI_BOOLEAN,
     .default_text = "false",
     .description = "Print the result object as the daemon sent it, and nothing else."},
    {.name = "timeout",
     .flag = "timeout",
     .placeholder = "SECONDS",
     .type = CLI_INTEGER,
     .description = "Give up when an answer takes longer; default: wait as long as it takes."},
    {.name = "help",
     .flag = "help",
     .type = CLI_BOOLEAN,
     .default_text = "false",
     .description = "Say how this is used (also -h)."},
    {.name = "version",
     .flag = "version",
     .type = CLI_BOOLEAN,
     .default_text = "false",
     .description = "Say which version this is."},
    {.name = NULL},
};

/* The value of --FLAG VALUE or --FLAG=VALUE. */
static const char *value_of(char **words, int *at, const char *equals, GError **error)
{
    const char *flag = words[*at];
    *at += 1;
    if (equals != NULL)
        return equals + 1;
    if (words[*at] != NULL)
        return words[(*at)++];
    ctl_fail(error, CTL_USAGE, "%s needs a value", flag);
    return NULL;
}

static bool take_timeout(Options *options, const char *text, GError **error)
{
    char *end;
    double seconds = g_ascii_strtod(text, &end);
    if (end == text || *end != 0 || !isfinite(seconds) || seconds <= 0 || seconds > 1e6) {
        ctl_fail(error, CTL_USAGE, "--timeout: \"%s\" is no number of seconds above 0", text);
        return false;
    }
    options->timeout_seconds = seconds;
    return true;
}

bool options_take(Options *options, char **words, int *at, GError **error)
{
    const char *word = words[*at];
    if (strcmp(word, "-h") == 0)
        word = "--help";
    if (!g_str_has_prefix(word, "--"))
        return false;
    const char *equals = strchr(word, '=');
    g_autofree char *name =
        equals != NULL ? g_strndup(word + 2, (size_t)(equals - word - 2)) : g_strdup(word + 2);
    bool *flag = strcmp(name, "json") == 0      ? &options->json
                 : strcmp(name, "help") == 0    ? &options->help
                 : strcmp(name, "version") == 0 ? &options->version
                                                : NULL;
    if (flag != NULL) {
        if (equals != NULL) {
            ctl_fail(error, CTL_USAGE, "--%s takes no value", name);
            return false;
        }
        *flag = true;
        *at += 1;
        return true;
    }
    if (strcmp(name, "socket") == 0) {
        options->socket = value_of(words, at, equals, error);
        return options->socket != NULL;
    }
    if (strcmp(name, "timeout") == 0) {
        const char *text = value_of(words, at, equals, error);
        return text != NULL && take_timeout(options, text, error);
    }
    return false;
}

const char *options_suggest(const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const CliField *field = option_fields; field->name != NULL; field++)
        g_ptr_array_add(names, (gpointer)field->flag);
    g_ptr_array_add(names, NULL);
    return suggest(name, (const char *const *)names->pdata);
}
