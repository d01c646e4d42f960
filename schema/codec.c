/* What decoding and encoding share: releasing, paths, actions. */
#include "schema/codec.h"
#include "schema/api.h"

#include <string.h>

void api_problem_clear(ApiProblem *problem)
{
    g_clear_pointer(&problem->path, g_free);
    g_clear_pointer(&problem->text, g_free);
}

char *api_path_join(const char *path, const char *key)
{
    GString *out = g_string_new(path);
    g_string_append_c(out, '/');
    for (const char *c = key; *c; c++) {
        if (*c == '~')
            g_string_append(out, "~0");
        else if (*c == '/')
            g_string_append(out, "~1");
        else
            g_string_append_c(out, *c);
    }
    return g_string_free(out, FALSE);
}

static void clear_list(const ApiField *field, void *slot)
{
    switch (field->kind) {
    case API_STRING:
        g_strfreev(*(char ***)slot);
        break;
    case API_UINT32:
    case API_UINT64:
        if (*(GArray **)slot)
            g_array_unref(*(GArray **)slot);
        break;
    case API_OBJECT:
    case API_ACTION:
    case API_ACTION_RESULT:
        if (*(GPtrArray **)slot)
            g_ptr_array_unref(*(GPtrArray **)slot);
        break;
    case API_ENUM: /* a set of bits */
    case API_BOOLEAN:
    case API_JSON: /* no lists of these */
        break;
    }
}

static void clear_single(const ApiField *field, void *slot)
{
    switch (field->kind) {
    case API_STRING:
    case API_JSON:
        g_free(*(char **)slot);
        break;
    case API_OBJECT:
        if (!(field->flags & (API_OPTIONAL | API_NULLABLE))) {
            api_clear(field->object, slot);
        } else if (*(void **)slot) {
            api_clear(field->object, *(void **)slot);
            g_free(*(void **)slot);
        }
        break;
    case API_BOOLEAN:
    case API_UINT32:
    case API_UINT64:
    case API_ENUM:
    case API_ACTION: /* only in lists */
    case API_ACTION_RESULT:
        break;
    }
}

void api_clear(const ApiStruct *type, void *object)
{
    for (size_t i = 0; i < type->count; i++) {
        const ApiField *field = &type->fields[i];
        void *slot = (char *)object + field->offset;
        if (field->flags & API_LIST)
            clear_list(field, slot);
        else
            clear_single(field, slot);
    }
    memset(object, 0, type->size);
}

ApiAction *api_action_new(const ApiMethod *method)
{
    ApiAction *action = g_new0(ApiAction, 1);
    action->method = method;
    action->params = g_malloc0(method->params->size);
    action->result = g_malloc0(method->result->size);
    return action;
}

void api_action_free(ApiAction *action)
{
    if (!action)
        return;
    api_clear(action->method->params, action->params);
    api_clear(action->method->result, action->result);
    g_free(action->params);
    g_free(action->result);
    g_free(action);
}
