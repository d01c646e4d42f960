#include "ctl/actions.h"
#include "ctl/args.h"
#include "ctl/commands.h"
#include "ctl/errors.h"
#include "ctl/input.h"
#include "ctl/json.h"
#include <string.h>

static bool append_json(GString *out, const char *label, const char *text, GError **error)
{
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) json = json_parse(text, strlen(text), &problem);
    if (json == NULL) {
        ctl_fail(error, CTL_USAGE, "%s: no JSON text: %s", label, problem);
        return false;
    }
    const Json *root = json_root(json);
    if (root->type == JSON_OBJECT) {
        json_append_compact(out, root);
        return true;
    }
    if (root->child == NULL) {
        ctl_fail(error, CTL_USAGE, "%s: there are no actions in it", label);
        return false;
    }
    for (const Json *item = root->child; item != NULL; item = item->next) {
        if (item != root->child)
            g_string_append_c(out, ',');
        json_append_compact(out, item);
    }
    return true;
}

static bool append_command(GString *out, const char *label, const char *line, GError **error)
{
    g_auto(GStrv) words = NULL;
    g_autoptr(GError) problem = NULL;
    int used;
    if (!g_shell_parse_argv(line, NULL, &words, &problem)) {
        ctl_fail(error, CTL_USAGE, "%s: in \"%s\": %s", label, line, problem->message);
        return false;
    }
    /* A line copied from a shell script begins with the program's name. */
    char **first = words + (strcmp(words[0], "nbdctl") == 0 && words[1] != NULL ? 1 : 0);
    const Command *command = command_find(first, &used, &problem);
    g_autofree char *params =
        command != NULL ? args_parse(command->method, first + used, NULL, &problem) : NULL;
    if (params == NULL) {
        ctl_fail(error, CTL_USAGE, "%s: in \"%s\": %s", label, line, problem->message);
        return false;
    }
    if (!command->method->in_transaction) {
        g_autofree char *title = command_title(command->method);
        ctl_fail(error, CTL_USAGE, "%s: %s cannot be part of a transaction", label, title);
        return false;
    }
    g_string_append_printf(out, "{\"method\":\"%s\",\"params\":%s}", command->method->name, params);
    return true;
}

static bool is_json(const char *text)
{
    while (g_ascii_isspace(*text))
        text++;
    return *text == '[' || *text == '{';
}

static bool append_lines(GString *out, const char *label, const char *text, GError **error)
{
    if (is_json(text))
        return append_json(out, label, text, error);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    bool some = false;
    for (unsigned i = 0; lines[i] != NULL; i++) {
        g_strstrip(lines[i]);
        if (*lines[i] == 0 || *lines[i] == '#')
            continue;
        if (some)
            g_string_append_c(out, ',');
        some = true;
        g_autofree char *place = g_strdup_printf("%s, line %u", label, i + 1);
        if (!append_command(out, place, lines[i], error))
            return false;
    }
    if (!some)
        ctl_fail(error, CTL_USAGE, "%s: there are no actions in it", label);
    return some;
}

bool actions_append(GString *out, const char *label, const char *text, GError **error)
{
    if (is_json(text))
        return append_json(out, label, text, error);
    g_auto(GStrv) words = g_strsplit_set(text, " \t", 2);
    bool command = words[0] != NULL && words[1] != NULL &&
                   (command_is_noun(words[0]) || strcmp(words[0], "nbdctl") == 0);
    if (command)
        return append_command(out, label, text, error);
    g_autofree char *content = input_read(*text == '@' ? text + 1 : text, error);
    if (content == NULL) {
        g_prefix_error(error, "%s: ", label);
        return false;
    }
    g_autofree char *place = g_strdup_printf(
        "%s, %s", label, strcmp(text, "-") == 0 ? "standard input" : text + (*text == '@'));
    return append_lines(out, place, content, error);
}
