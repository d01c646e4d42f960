#include "ctl/value.h"
#include "ctl/errors.h"
#include "ctl/json.h"
#include "ctl/suggest.h"
#include "ctl/units.h"
#include <string.h>

static bool append_text(GString *out, const char *label, const char *text, GError **error)
{
    if (!g_utf8_validate(text, -1, NULL)) {
        ctl_fail(error, CTL_USAGE, "%s: the value is not UTF-8", label);
        return false;
    }
    json_append_string(out, text);
    return true;
}

static char *absolute_path(const char *path)
{
    if (*path == '/' || *path == 0)
        return g_strdup(path);
    while (g_str_has_prefix(path, "./"))
        path += 2;
    g_autofree char *here = g_get_current_dir();
    return g_strconcat(here, g_str_has_suffix(here, "/") ? "" : "/", path, NULL);
}

static bool append_string(GString *out, const CliField *field, const char *label, const char *text,
                          GError **error)
{
    g_autofree char *changed = NULL;
    if (g_strcmp0(field->type_name, "path") == 0) {
        changed = absolute_path(text);
    } else if (g_strcmp0(field->type_name, "address") == 0 && g_str_has_prefix(text, "unix:")) {
        g_autofree char *path = absolute_path(text + strlen("unix:"));
        changed = g_strconcat("unix:", path, NULL);
    }
    return append_text(out, label, changed != NULL ? changed : text, error);
}

static bool append_number(GString *out, const CliField *field, const char *label, const char *text,
                          GError **error)
{
    uint64_t number;
    if (field->type == CLI_SIZE) {
        if (!size_parse(text, &number)) {
            ctl_fail(error, CTL_USAGE,
                     "%s: \"%s\" is no size: write a whole number of bytes, or one with k, M, G or "
                     "T behind it",
                     label, text);
            return false;
        }
    } else if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &number, NULL)) {
        ctl_fail(error, CTL_USAGE, "%s: \"%s\" is no whole number", label, text);
        return false;
    }
    g_string_append_printf(out, "%" G_GUINT64_FORMAT, number);
    return true;
}

static bool append_boolean(GString *out, const char *label, const char *text, GError **error)
{
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        ctl_fail(error, CTL_USAGE, "%s: \"%s\" is neither true nor false", label, text);
        return false;
    }
    g_string_append(out, text);
    return true;
}

static bool append_choice(GString *out, const CliField *field, const char *label, const char *text,
                          GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const CliChoice *choice = field->choices; choice->name != NULL; choice++) {
        if (strcmp(choice->name, text) == 0) {
            json_append_string(out, text);
            return true;
        }
        g_ptr_array_add(names, (gpointer)choice->name);
    }
    g_ptr_array_add(names, NULL);
    g_autofree char *list = g_strjoinv(", ", (char **)names->pdata);
    const char *near = suggest(text, (const char *const *)names->pdata);
    ctl_fail(error, CTL_USAGE, "%s: \"%s\" is none of %s%s%s%s", label, text, list,
             near != NULL ? "; did you mean " : "", near != NULL ? near : "",
             near != NULL ? "?" : "");
    return false;
}

static bool append_json(GString *out, const char *label, const char *text, GError **error)
{
    g_autofree char *problem = NULL;
    g_autoptr(JsonText) json = json_parse(text, strlen(text), &problem);
    if (json == NULL) {
        ctl_fail(error, CTL_USAGE, "%s: the value is no JSON text: %s", label, problem);
        return false;
    }
    json_append_compact(out, json_root(json));
    return true;
}

/* An object is its members in order with colons between them, like `vm1:b0`, or JSON. */
static bool append_object(GString *out, const CliField *field, const char *label, const char *text,
                          GError **error)
{
    if (*text == '{')
        return append_json(out, label, text, error);
    unsigned members = 0;
    while (field->object->fields[members].name != NULL)
        members++;
    g_auto(GStrv) parts = g_strsplit(text, ":", (int)members);
    g_string_append_c(out, '{');
    for (unsigned i = 0; i < members; i++) {
        const CliField *member = &field->object->fields[i];
        if (parts[i] == NULL || *parts[i] == 0) {
            if (!member->required)
                break;
            ctl_fail(error, CTL_USAGE, "%s: %s is missing in \"%s\"", label, member->name, text);
            return false;
        }
        if (i > 0)
            g_string_append_c(out, ',');
        json_append_string(out, member->name);
        g_string_append_c(out, ':');
        if (!value_append(out, member, label, parts[i], error))
            return false;
    }
    g_string_append_c(out, '}');
    return true;
}

bool value_append(GString *out, const CliField *field, const char *label, const char *text,
                  GError **error)
{
    switch (field->type) {
    case CLI_STRING:
    case CLI_TIME:
        return append_string(out, field, label, text, error);
    case CLI_INTEGER:
    case CLI_SIZE:
        return append_number(out, field, label, text, error);
    case CLI_BOOLEAN:
        return append_boolean(out, label, text, error);
    case CLI_ENUM:
        return append_choice(out, field, label, text, error);
    case CLI_OBJECT:
        return append_object(out, field, label, text, error);
    case CLI_ACTION:
    case CLI_JSON:
        return append_json(out, label, text, error);
    }
    g_assert_not_reached();
}
