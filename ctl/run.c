#include "ctl/run.h"
#include "ctl/errors.h"
#include "ctl/format.h"
#include "ctl/render.h"
#include "ctl/rpc.h"
#include <string.h>

/* How an answer is shown. */
typedef enum Shape {
    SHAPE_JSON,
    SHAPE_LIST,
    SHAPE_OBJECT,
    SHAPE_SENTENCE,
    SHAPE_TRANSACTION,
    SHAPE_STATS,
    SHAPE_EXTENTS,
} Shape;

static const CliField *list_field(const CliMethod *method)
{
    for (const CliField *field = method->result->fields; field->name != NULL; field++)
        if (field->list && field->type == CLI_OBJECT)
            return field;
    return NULL;
}

static Shape shape_of(const CliMethod *method)
{
    if (method->result == NULL)
        return SHAPE_JSON;
    if (strcmp(method->name, "stats") == 0)
        return SHAPE_STATS;
    if (strcmp(method->name, "transaction") == 0)
        return SHAPE_TRANSACTION;
    if (strcmp(method->name, "bitmap.extents") == 0)
        return SHAPE_EXTENTS;
    if (g_strcmp0(method->verb, "list") == 0 && list_field(method) != NULL)
        return SHAPE_LIST;
    return method->mutates && method->verb != NULL ? SHAPE_SENTENCE : SHAPE_OBJECT;
}

char *run_params_with(const Json *params, const char *name, const char *value)
{
    GString *out = g_string_new("{");
    for (const Json *member = params->child; member != NULL; member = member->next) {
        if (strcmp(member->key, name) == 0)
            continue;
        json_append_string(out, member->key);
        g_string_append_c(out, ':');
        json_append_compact(out, member);
        g_string_append_c(out, ',');
    }
    json_append_string(out, name);
    g_string_append_printf(out, ":%s}", value);
    return g_string_free(out, FALSE);
}

static void free_answer(gpointer data)
{
    answer_clear(data);
    g_free(data);
}

/* Calls until there is no next page; unless all, once. */
static GPtrArray *call_pages(const Context *context, const CliMethod *method, const Json *params,
                             bool all, GError **error)
{
    g_autoptr(GPtrArray) answers = g_ptr_array_new_with_free_func(free_answer);
    g_autoptr(Socket) socket = rpc_open(context->options, error);
    if (socket == NULL)
        return NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    json_append_compact(text, params);
    g_autofree char *before = NULL;
    for (;;) {
        Answer *answer = g_new0(Answer, 1);
        g_ptr_array_add(answers, answer);
        if (!rpc_call(socket, method->name, method, text->str, answer, error))
            return NULL;
        const Json *next = json_member(answer->result, "next_cursor");
        if (!all || !json_is(next, JSON_STRING))
            return g_steal_pointer(&answers);
        g_autofree char *cursor = g_strndup(next->text, next->length);
        if (g_strcmp0(cursor, before) == 0) {
            rpc_fail_garbage(socket, "its pages do not come to an end", error);
            return NULL;
        }
        g_autofree char *params_text = run_params_with(params, "cursor", cursor);
        g_string_assign(text, params_text);
        g_free(before);
        before = g_steal_pointer(&cursor);
    }
}

/* "no disks" */
static void append_none(GString *out, const CliField *list)
{
    g_autofree char *what = g_strdelimit(g_strdup(list->name), "_", ' ');
    g_string_append_printf(out, "There are no %s.\n", what);
}

static void append_list(GString *out, const Context *context, const CliMethod *method,
                        GPtrArray *results)
{
    const CliField *field = list_field(method);
    g_autoptr(GPtrArray) lists = g_ptr_array_new();
    unsigned count = 0;
    for (unsigned i = 0; i < results->len; i++) {
        const Json *list = json_member(results->pdata[i], field->name);
        g_ptr_array_add(lists, (gpointer)list);
        count += json_count(list);
    }
    if (count == 0)
        append_none(out, field);
    else
        render_list(out, context->terminal, field->object, lists, 0);
    const Json *last = results->pdata[results->len - 1];
    g_autofree char *cursor = json_string(json_member(last, "next_cursor"));
    if (cursor != NULL)
        g_string_append_printf(out, "There is more: --cursor %s\n", cursor);
}

static void append_answer(GString *out, const Context *context, const CliMethod *method,
                          const Json *params, GPtrArray *results)
{
    const Json *result = results->pdata[0];
    switch (shape_of(method)) {
    case SHAPE_JSON:
    case SHAPE_EXTENTS:
        json_append_pretty(out, result, 0);
        g_string_append_c(out, '\n');
        break;
    case SHAPE_LIST:
        append_list(out, context, method, results);
        break;
    case SHAPE_OBJECT:
        render_object(out, context->terminal, method->result, result);
        break;
    case SHAPE_SENTENCE:
        render_sentence(out, context->terminal, method, params, result);
        break;
    case SHAPE_TRANSACTION:
        render_transaction(out, context->terminal, params, result);
        break;
    case SHAPE_STATS:
        render_stats(out, context->terminal, results);
        break;
    }
}

/* Prints one page of dirty ranges. *ret_next is where the next one begins; *ret_more whether there
 * is one. */
static bool print_extents(const Context *context, const Json *result, bool first, bool all,
                          uint64_t *ret_next, bool *ret_more, GError **error)
{
    const Json *extents = json_member(result, "extents");
    g_autoptr(GString) out = g_string_new(NULL);
    *ret_more = json_uint(json_member(result, "next_offset"), ret_next);
    if (first && json_count(extents) == 0 && !*ret_more)
        g_string_append(out, "Nothing is dirty.\n");
    else
        render_extents(out, context->terminal, extents, first);
    if (*ret_more && !all)
        g_string_append_printf(out, "There is more: --offset %" G_GUINT64_FORMAT "\n", *ret_next);
    return terminal_write(out, error);
}

/* Dirty ranges can be many: each page is printed as it comes. */
static bool run_extents(const Context *context, const CliMethod *method, const Json *params,
                        GError **error)
{
    bool all = json_member(params, "limit") == NULL, more = true;
    g_autoptr(Socket) socket = rpc_open(context->options, error);
    if (socket == NULL)
        return false;
    g_autoptr(GString) text = g_string_new(NULL);
    json_append_compact(text, params);
    uint64_t offset = 0, next = 0;
    for (bool first = true; more && (first || all); first = false) {
        g_auto(Answer) answer = {NULL};
        if (!rpc_call(socket, method->name, method, text->str, &answer, error) ||
            !print_extents(context, answer.result, first, all, &next, &more, error))
            return false;
        if (more && next <= offset)
            return rpc_fail_garbage(socket, "its pages do not come to an end", error);
        offset = next;
        g_autofree char *value = g_strdup_printf("%" G_GUINT64_FORMAT, offset);
        g_autofree char *params_text = run_params_with(params, "offset", value);
        g_string_assign(text, params_text);
    }
    return true;
}

bool run_method(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    bool json = context->options->json;
    if (!json && shape_of(method) == SHAPE_EXTENTS)
        return run_extents(context, method, params, error);
    bool all = method->pages && !json && json_member(params, "cursor") == NULL &&
               json_member(params, "limit") == NULL;
    g_autoptr(GPtrArray) answers = call_pages(context, method, params, all, error);
    if (answers == NULL)
        return false;
    g_autoptr(GPtrArray) results = g_ptr_array_new();
    for (unsigned i = 0; i < answers->len; i++)
        g_ptr_array_add(results, (gpointer)((Answer *)answers->pdata[i])->result);
    g_autoptr(GString) out = g_string_new(NULL);
    const Json *result = results->pdata[0];
    if (json)
        g_string_append_c(g_string_append_len(out, result->text, (gssize)result->length), '\n');
    else
        append_answer(out, context, method, params, results);
    return terminal_write(out, error);
}
