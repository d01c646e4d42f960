#include "ctl/field.h"
#include <string.h>

const CliField *field_find(const CliField *fields, const char *name)
{
    for (; fields->name != NULL; fields++)
        if (strcmp(fields->name, name) == 0)
            return fields;
    return NULL;
}

char *field_label(const CliField *field, bool as_flag)
{
    if (as_flag)
        return g_strconcat("--", field->flag, NULL);
    char *upper = g_ascii_strup(field->name, -1);
    if (field->list && g_str_has_suffix(upper, "S"))
        upper[strlen(upper) - 1] = 0;
    return upper;
}

static char *placeholder_of(const CliField *field)
{
    if (field->type == CLI_ENUM) {
        g_autoptr(GString) names = g_string_new(NULL);
        for (const CliChoice *choice = field->choices; choice->name != NULL; choice++)
            g_string_append_printf(names, "%s%s", names->len > 0 ? "|" : "", choice->name);
        return g_strdup(names->str);
    }
    if (field->type == CLI_OBJECT) {
        g_autoptr(GString) members = g_string_new(NULL);
        for (const CliField *member = field->object->fields; member->name != NULL; member++) {
            g_autofree char *upper = g_ascii_strup(member->name, -1);
            g_string_append_printf(members, member->required ? "%s%s" : "[%s%s]",
                                   members->len > 0 ? ":" : "", upper);
        }
        return g_strdup(members->str);
    }
    return g_strdup(field->placeholder != NULL ? field->placeholder : "VALUE");
}

char *field_term(const CliField *field)
{
    if (field->positional) {
        g_autofree char *label = field_label(field, false);
        return g_strconcat(label, field->list ? "..." : "", NULL);
    }
    if (field->type == CLI_BOOLEAN)
        return g_strconcat("--", g_strcmp0(field->default_text, "true") == 0 ? "no-" : "",
                           field->flag, NULL);
    g_autofree char *placeholder = placeholder_of(field);
    return g_strconcat("--", field->flag, " ", placeholder, NULL);
}
