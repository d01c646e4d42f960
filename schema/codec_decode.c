/* Parameters from json-c's tree into structs, by the tables: fields, lists, objects, actions. */
#include "schema/api.h"
#include "schema/codec.h"
#include "schema/codec_value.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

/* --- actions --- */

static bool is_given(struct json_object *object, const char *key)
{
    return json_object_object_get_ex(object, key, NULL);
}

static bool decode_action(struct json_object *value, const char *path, const ApiLookup *lookup,
                          ApiAction **ret_action, ApiProblem *problem)
{
    if (!json_object_is_type(value, json_type_object))
        return value_refuse(problem, path, value, "an object with `method` and `params`");
    json_object_object_foreach(value, key, member)
    {
        (void)member;
        if (strcmp(key, "method") != 0 && strcmp(key, "params") != 0)
            return value_problem(
                problem, api_path_join(path, key),
                g_strdup_printf("an action has `method` and `params`, no `%s`", key));
    }
    g_autofree char *method_path = api_path_join(path, "method");
    g_autofree char *params_path = api_path_join(path, "params");
    struct json_object *name = NULL, *params = NULL;
    if (!json_object_object_get_ex(value, "method", &name))
        return value_problem(problem, g_steal_pointer(&method_path),
                             g_strdup("`method` is missing"));
    const ApiMethod *method = NULL;
    if (json_object_is_type(name, json_type_string) && lookup && lookup->find)
        method = lookup->find(json_object_get_string(name), lookup->data);
    if (!method || !api_method_is_action(method))
        return value_refuse(problem, method_path, name,
                            "a method that can be part of a transaction");
    if (json_object_object_get_ex(value, "params", &params) &&
        !json_object_is_type(params, json_type_object))
        return value_refuse(problem, params_path, params, "an object");
    if (params && is_given(params, "dry_run"))
        return value_problem(
            problem, api_path_join(params_path, "dry_run"),
            g_strdup("`dry_run` belongs to the transaction, not to an action of it"));
    ApiAction *action = api_action_new(method);
    if (!api_decode(method->params, params, params_path, lookup, action->params, problem)) {
        api_action_free(action);
        return false;
    }
    if (method->is_plain && method->is_plain(action->params)) {
        api_action_free(action);
        return value_refuse(problem, params_path, params,
                            "something that can be part of a transaction");
    }
    *ret_action = action;
    return true;
}

/* --- fields --- */

static bool decode_single(const ApiField *field, struct json_object *value, const char *path,
                          const ApiLookup *lookup, void *slot, ApiProblem *problem)
{
    uint64_t number;
    switch (field->kind) {
    case API_BOOLEAN:
        if (!json_object_is_type(value, json_type_boolean))
            return value_refuse(problem, path, value, "true or false");
        *(bool *)slot = json_object_get_boolean(value);
        return true;
    case API_UINT32:
        if (!value_number(field, value, path, &number, problem))
            return false;
        *(uint32_t *)slot = (uint32_t)number;
        return true;
    case API_UINT64:
        return value_number(field, value, path, slot, problem);
    case API_STRING:
        return value_string(field, value, path, slot, problem);
    case API_ENUM:
        return value_enum(field, value, path, slot, problem);
    case API_OBJECT:
        if (!json_object_is_type(value, json_type_object))
            return value_refuse(problem, path, value, "an object");
        if (field->flags & (API_OPTIONAL | API_NULLABLE)) {
            g_autofree void *object = g_malloc0(field->object->size);
            if (!api_decode(field->object, value, path, lookup, object, problem))
                return false;
            *(void **)slot = g_steal_pointer(&object);
            return true;
        }
        return api_decode(field->object, value, path, lookup, slot, problem);
    case API_JSON:
        *(char **)slot = g_strdup(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
        return true;
    case API_ACTION:
        return decode_action(value, path, lookup, slot, problem);
    case API_ACTION_RESULT: /* only ever encoded */
        break;
    }
    return value_refuse(problem, path, value, "absent");
}

static bool decode_item(const ApiField *field, struct json_object *value, const char *path,
                        const ApiLookup *lookup, GPtrArray *items, ApiProblem *problem)
{
    void *item = NULL;
    if (field->kind == API_OBJECT) {
        if (!json_object_is_type(value, json_type_object))
            return value_refuse(problem, path, value, "an object");
        g_autofree void *object = g_malloc0(field->object->size);
        if (!api_decode(field->object, value, path, lookup, object, problem))
            return false;
        item = g_steal_pointer(&object);
    } else if (!decode_single(field, value, path, lookup, &item, problem)) {
        return false;
    }
    g_ptr_array_add(items, item);
    return true;
}

static GDestroyNotify item_free(const ApiField *field)
{
    if (field->kind == API_OBJECT)
        return field->object->free_object;
    return field->kind == API_ACTION ? (GDestroyNotify)api_action_free : g_free;
}

/* Lists of what is pointed to. */
static bool decode_pointers(const ApiField *field, struct json_object *value, const char *path,
                            const ApiLookup *lookup, void *slot, ApiProblem *problem)
{
    size_t count = json_object_array_length(value);
    g_autoptr(GPtrArray) items = g_ptr_array_new_with_free_func(item_free(field));
    for (size_t i = 0; i < count; i++) {
        g_autofree char *item_path = g_strdup_printf("%s/%zu", path, i);
        struct json_object *item = json_object_array_get_idx(value, i);
        if (!decode_item(field, item, item_path, lookup, items, problem))
            return false;
    }
    if (field->kind != API_STRING) {
        *(GPtrArray **)slot = g_steal_pointer(&items);
        return true;
    }
    g_ptr_array_set_free_func(items, NULL);
    g_ptr_array_add(items, NULL);
    *(char ***)slot = (char **)g_ptr_array_free(g_steal_pointer(&items), FALSE);
    return true;
}

static bool decode_numbers(const ApiField *field, struct json_object *value, const char *path,
                           GArray **ret_numbers, ApiProblem *problem)
{
    size_t count = json_object_array_length(value);
    g_autoptr(GArray) numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (size_t i = 0; i < count; i++) {
        g_autofree char *item_path = g_strdup_printf("%s/%zu", path, i);
        uint64_t number;
        struct json_object *item = json_object_array_get_idx(value, i);
        if (!value_number(field, item, item_path, &number, problem))
            return false;
        g_array_append_val(numbers, number);
    }
    *ret_numbers = g_steal_pointer(&numbers);
    return true;
}

static bool decode_set(const ApiField *field, struct json_object *value, const char *path,
                       uint32_t *ret_set, ApiProblem *problem)
{
    uint32_t set = 0, one;
    for (size_t i = 0; i < json_object_array_length(value); i++) {
        g_autofree char *item_path = g_strdup_printf("%s/%zu", path, i);
        struct json_object *item = json_object_array_get_idx(value, i);
        if (!value_enum(field, item, item_path, &one, problem))
            return false;
        set |= 1u << one;
    }
    *ret_set = set;
    return true;
}

static bool decode_list(const ApiField *field, struct json_object *value, const char *path,
                        const ApiLookup *lookup, void *slot, ApiProblem *problem)
{
    if (!json_object_is_type(value, json_type_array))
        return value_refuse(problem, path, value, "a list");
    size_t count = json_object_array_length(value);
    if (count < field->minimum || count > field->maximum) {
        g_autofree char *name = value_name(path);
        return value_problem(problem, g_strdup(path),
                             g_strdup_printf("`%s` must have %" PRIu64 " to %" PRIu64
                                             " items, not %zu",
                                             name, field->minimum, field->maximum, count));
    }
    switch (field->kind) {
    case API_UINT32:
    case API_UINT64:
        return decode_numbers(field, value, path, slot, problem);
    case API_ENUM:
        return decode_set(field, value, path, slot, problem);
    case API_STRING:
    case API_OBJECT:
    case API_ACTION:
        return decode_pointers(field, value, path, lookup, slot, problem);
    case API_BOOLEAN:
    case API_JSON:
    case API_ACTION_RESULT: /* no lists of these are decoded */
        break;
    }
    return value_refuse(problem, path, value, "absent");
}

static void set_initial(const ApiField *field, void *slot)
{
    if (field->flags & API_LIST)
        return;
    switch (field->kind) {
    case API_BOOLEAN:
        *(bool *)slot = field->initial != 0;
        break;
    case API_UINT32:
    case API_ENUM:
        *(uint32_t *)slot = (uint32_t)field->initial;
        break;
    case API_UINT64:
        *(uint64_t *)slot = field->initial;
        break;
    case API_STRING:
    case API_OBJECT:
    case API_JSON:
    case API_ACTION:
    case API_ACTION_RESULT:
        break;
    }
}

static bool decode_field(const ApiField *field, struct json_object *object, const char *path,
                         const ApiLookup *lookup, void *target, ApiProblem *problem)
{
    void *slot = (char *)target + field->offset;
    g_autofree char *field_path = api_path_join(path, field->name);
    struct json_object *value = NULL;
    set_initial(field, slot);
    if (!object || !json_object_object_get_ex(object, field->name, &value)) {
        if (field->flags & API_OPTIONAL)
            return true;
        return value_problem(problem, g_steal_pointer(&field_path),
                             g_strdup_printf("`%s` is missing", field->name));
    }
    if (field->flags & API_HAS)
        *(bool *)((char *)target + field->has_offset) = true;
    if (!value) {
        if (field->flags & API_NULLABLE)
            return true;
        return value_problem(
            problem, g_steal_pointer(&field_path),
            g_strdup_printf("`%s` must not be null: leave it out instead", field->name));
    }
    if (field->flags & API_LIST)
        return decode_list(field, value, field_path, lookup, slot, problem);
    return decode_single(field, value, field_path, lookup, slot, problem);
}

/* --- objects --- */

static const ApiField *find_field(const ApiStruct *type, const char *name)
{
    for (size_t i = 0; i < type->count; i++) {
        if (strcmp(type->fields[i].name, name) == 0)
            return &type->fields[i];
    }
    return NULL;
}

static bool check_known(const ApiStruct *type, struct json_object *object, const char *path,
                        ApiProblem *problem)
{
    json_object_object_foreach(object, key, member)
    {
        (void)member;
        if (find_field(type, key))
            continue;
        g_autoptr(GString) known = g_string_new(NULL);
        for (size_t i = 0; i < type->count; i++)
            g_string_append_printf(known, "%s%s", i ? ", " : "", type->fields[i].name);
        if (type->count == 0)
            g_string_append(known, "none");
        g_autofree char *shown = g_utf8_substring(key, 0, MIN(g_utf8_strlen(key, -1), 40));
        return value_problem(
            problem, api_path_join(path, key),
            g_strdup_printf("`%s` is not known here; known: %s", shown, known->str));
    }
    return true;
}

static bool check_one_of(const ApiStruct *type, struct json_object *object, const char *path,
                         ApiProblem *problem)
{
    unsigned given = 0;
    for (const char *const *name = type->one_of; name && *name; name++)
        given += object && is_given(object, *name);
    if (!type->one_of || given == 1)
        return true;
    g_autofree char *names = g_strjoinv("`, `", (char **)type->one_of);
    return value_problem(
        problem, g_strdup(path),
        g_strdup_printf("exactly one of `%s` must be given, not %u", names, given));
}

bool api_decode(const ApiStruct *type, struct json_object *value, const char *path,
                const ApiLookup *lookup, void *ret_object, ApiProblem *problem)
{
    if (value && !json_object_is_type(value, json_type_object))
        return value_refuse(problem, path, value, "an object: parameters go by name");
    g_autofree void *object = g_malloc0(type->size);
    bool good = !value || check_known(type, value, path, problem);
    for (size_t i = 0; good && i < type->count; i++)
        good = decode_field(&type->fields[i], value, path, lookup, object, problem);
    good = good && check_one_of(type, value, path, problem);
    if (!good) {
        api_clear(type, object);
        return false;
    }
    memcpy(ret_object, object, type->size);
    return true;
}
