#include "ctl/call.h"
#include "ctl/errors.h"
#include "ctl/field.h"
#include "ctl/format.h"
#include "ctl/input.h"
#include "ctl/rpc.h"
#include "ctl/value.h"
#include <string.h>

static const CliField call_params_table[] = {
    {.name = "method",
     .flag = "method",
     .placeholder = "METHOD",
     .type = CLI_STRING,
     .description = "Name of the method, such as disk.add.",
     .positional = true,
     .required = true,
     .names = "method"},
    {.name = "arguments",
     .flag = "arguments",
     .placeholder = "ARGUMENT",
     .type = CLI_STRING,
     .description = "Parameters as key=value, where the value may be JSON; or all of them as one "
                    "JSON object; or - to read that from standard input.",
     .positional = true,
     .list = true},
    {.name = NULL},
};
static const CliExample call_examples[] = {
    {"One disk", "nbdctl call disk.show name=vm1"},
    {"A list", "nbdctl call export.set name=vm1 'allow=[\"unix:0\", \"ip:192.0.2.0/24\"]'"},
    {"All parameters as JSON", "nbdctl call bitmap.add '{\"disk\": \"vm1\", \"name\": \"b0\"}'"},
    {NULL},
};
const CliMethod call_method = {
    .name = "call",
    .noun = "call",
    .summary = "Call any method of the control protocol and print its result as JSON.",
    .description = "A key that is given several times makes a list. With --json the result is "
                   "printed as the daemon sent it, else indented.",
    .params = call_params_table,
    .examples = call_examples,
};

/* Appends text if it is a JSON text; else false. */
static bool append_if_json(GString *out, const char *text)
{
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) json = json_parse(text, strlen(text), &problem);
    if (json == NULL)
        return false;
    json_append_compact(out, json_root(json));
    return true;
}

/* What the text means: where the schema knows the parameter, as it says, with JSON for what a word
 * cannot say; else JSON if it is JSON, and a string if not. */
static bool append_value(GString *out, const CliField *field, const char *key, const char *text,
                         GError **error)
{
    if (field == NULL) {
        if (append_if_json(out, text))
            return true;
        if (g_utf8_validate(text, -1, NULL)) {
            json_append_string(out, text);
            return true;
        }
        ctl_fail(error, CTL_USAGE, "%s: the value is not UTF-8", key);
        return false;
    }
    bool json = (field->list && *text == '[') || *text == '{' || *text == '"' ||
                (field->nullable && strcmp(text, "null") == 0);
    if (json && append_if_json(out, text))
        return true;
    if (!field->list)
        return value_append(out, field, key, text, error);
    g_string_append_c(out, '[');
    if (*text != 0 && !value_append(out, field, key, text, error))
        return false;
    g_string_append_c(out, ']');
    return true;
}

/* One value more for a key that has one: both become lists, and those are joined. */
static void join(GString *list, const char *more)
{
    bool was_list = *list->str == '[', is_list = *more == '[';
    if (was_list)
        g_string_truncate(list, list->len - 1);
    else
        g_string_prepend_c(list, '[');
    if (list->len > 1 && strcmp(more, "[]") != 0)
        g_string_append_c(list, ',');
    g_string_append(list, is_list ? more + 1 : more);
    if (!is_list)
        g_string_append_c(list, ']');
}

static void free_string(gpointer data)
{
    g_string_free(data, TRUE);
}

static bool add_pair(GPtrArray *keys, GPtrArray *values, const CliMethod *known, const char *word,
                     GError **error)
{
    const char *equals = strchr(word, '=');
    if (equals == NULL || equals == word) {
        ctl_fail(error, CTL_USAGE, "\"%s\" is neither key=value nor a JSON object", word);
        return false;
    }
    g_autofree char *key = g_strdelimit(g_strndup(word, (size_t)(equals - word)), "-", '_');
    const CliField *field = known != NULL ? field_find(known->params, key) : NULL;
    g_autoptr(GString) value = g_string_new(NULL);
    if (!append_value(value, field, key, equals + 1, error))
        return false;
    guint index;
    if (g_ptr_array_find_with_equal_func(keys, key, g_str_equal, &index)) {
        join(values->pdata[index], value->str);
    } else {
        g_ptr_array_add(keys, g_steal_pointer(&key));
        g_ptr_array_add(values, g_steal_pointer(&value));
    }
    return true;
}

static char *whole_json(const char *word, GError **error)
{
    g_autofree char *content = strcmp(word, "-") == 0 ? input_read(word, error) : g_strdup(word);
    if (content == NULL)
        return NULL;
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) json = json_parse(content, strlen(content), &problem);
    if (json == NULL) {
        ctl_fail(error, CTL_USAGE, "the parameters are no JSON text: %s", problem);
        return NULL;
    }
    GString *out = g_string_new(NULL);
    json_append_compact(out, json_root(json));
    return g_string_free(out, FALSE);
}

char *call_params(const CliMethod *known, const Json *words, GError **error)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) values = g_ptr_array_new_with_free_func(free_string);
    for (const Json *item = words != NULL ? words->child : NULL; item != NULL; item = item->next) {
        g_autofree char *word = json_string(item);
        bool whole = *word == '{' || *word == '[' || strcmp(word, "-") == 0;
        if (whole && json_count(words) == 1)
            return whole_json(word, error);
        if (!add_pair(keys, values, known, word, error))
            return NULL;
    }
    GString *out = g_string_new("{");
    for (unsigned i = 0; i < keys->len; i++) {
        if (i > 0)
            g_string_append_c(out, ',');
        json_append_string(out, keys->pdata[i]);
        g_string_append_printf(out, ":%s", ((GString *)values->pdata[i])->str);
    }
    g_string_append_c(out, '}');
    return g_string_free(out, FALSE);
}

bool call_run(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    g_autofree char *name = json_string(json_member(params, "method"));
    const CliMethod *known = NULL;
    for (const CliMethod *row = cli_methods; row->name != NULL; row++)
        if (strcmp(row->name, name) == 0)
            known = row;
    g_autofree char *called = call_params(known, json_member(params, "arguments"), error);
    if (called == NULL)
        return false;
    g_autoptr(Socket) socket = rpc_open(context->options, error);
    g_auto(Answer) answer = {NULL};
    if (socket == NULL || !rpc_call(socket, name, known, called, &answer, error))
        return false;
    g_autoptr(GString) out = g_string_new(NULL);
    if (context->options->json)
        g_string_append_len(out, answer.result->text, (gssize)answer.result->length);
    else
        json_append_pretty(out, answer.result, 0);
    g_string_append_c(out, '\n');
    return terminal_write(out, error);
}
