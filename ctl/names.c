#include "ctl/names.h"
#include "ctl/errors.h"
#include "ctl/rpc.h"
#include <string.h>

static const CliField names_params[] = {
    {.name = "noun",
     .flag = "noun",
     .type = CLI_STRING,
     .description = "A noun with a list.",
     .positional = true,
     .required = true},
    {.name = "disk",
     .flag = "disk",
     .type = CLI_STRING,
     .description = "The disk, for bitmaps.",
     .positional = true},
    {.name = NULL},
};
const CliMethod names_method = {
    .name = "__names",
    .noun = "__names",
    .summary = "Names for shell completion.",
    .params = names_params,
};

enum { PATIENCE_SECONDS = 2 };

static void append_names(GString *out, const Json *result)
{
    for (const Json *list = result->child; list != NULL; list = list->next) {
        if (list->type != JSON_ARRAY)
            continue;
        for (const Json *item = list->child; item != NULL; item = item->next) {
            const Json *id = json_member(item, "id");
            g_autofree char *name = json_string(json_member(item, "name"));
            if (name != NULL)
                g_string_append_printf(out, "%s\n", name);
            else if (json_is(id, JSON_NUMBER))
                g_string_append_printf(out, "%.*s\n", (int)id->length, id->text);
        }
        return;
    }
}

bool names_run(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    g_autofree char *noun = json_string(json_member(params, "noun"));
    g_autofree char *list = g_strconcat(noun, ".list", NULL);
    const Json *disk = json_member(params, "disk");
    g_autoptr(GString) call = g_string_new("{");
    if (disk != NULL && strcmp(noun, "bitmap") == 0)
        g_string_append_printf(call, "\"disk\":%.*s", (int)disk->length, disk->text);
    g_string_append_c(call, '}');

    Options options = *context->options;
    options.timeout_seconds = PATIENCE_SECONDS;
    g_autoptr(Socket) socket = rpc_open(&options, NULL);
    g_auto(Answer) answer = {NULL};
    if (socket == NULL || !rpc_call(socket, list, NULL, call->str, &answer, NULL))
        return true;
    g_autoptr(GString) out = g_string_new(NULL);
    append_names(out, answer.result);
    return terminal_write(out, error);
}
