#include "ctl/errors.h"
#include "ctl/format.h"
#include "ctl/render.h"
#include "ctl/views.h"
#include <string.h>

enum { INDENT = 2, GAP = 2 };

static char *label_of(const CliField *field)
{
    char *label = g_strdelimit(g_strdup(field->name), "_", ' ');
    /* The value says its unit itself. */
    static const char *const units[] = {" seconds", " bytes"};
    for (size_t i = 0; i < G_N_ELEMENTS(units); i++)
        if (g_str_has_suffix(label, units[i]))
            label[strlen(label) - strlen(units[i])] = 0;
    return label;
}

static bool is_nested(const CliField *field)
{
    return field->type == CLI_OBJECT;
}

static bool is_hidden(const CliObject *type, const CliField *field, const Json *value)
{
    const ViewWords *words = view_words(type->name, field->name);
    return value == NULL || (words != NULL && words->hide_null && value->type == JSON_NULL);
}

/* A list of names is broken between them where the line ends. */
static void append_list(GString *out, const Terminal *terminal, const CliField *field,
                        const Json *value, unsigned column)
{
    unsigned at = column;
    for (const Json *item = value->child; item != NULL; item = item->next) {
        g_autoptr(GString) text = g_string_new(NULL);
        format_value(text, field, item, DETAIL_SHORT);
        g_autofree char *printable = ctl_printable(text->str);
        unsigned width = text_width(printable) + (item->next != NULL);
        if (at > column && terminal->is_terminal && at + 1 + width > terminal->width) {
            g_string_append_printf(out, "\n%*s", (int)column, "");
            at = column;
        }
        g_string_append_printf(out, "%s%s%s", at > column ? " " : "", printable,
                               item->next != NULL ? "," : "");
        at += width + (at > column);
    }
}

static void append_line(GString *out, const Terminal *terminal, const CliObject *type,
                        const CliField *field, const Json *object, unsigned indent, unsigned column)
{
    const Json *value = json_member(object, field->name);
    g_autofree char *label = label_of(field);
    g_string_append_printf(out, "%*s", (int)indent, "");
    style_append(out, terminal, STYLE_DIM, label);
    g_string_append_printf(out, "%*s", (int)(column - indent - text_width(label)), "");
    if (json_is(value, JSON_ARRAY) && value->child != NULL) {
        append_list(out, terminal, field, value, column);
    } else {
        g_autoptr(GString) text = g_string_new(NULL);
        Style style = render_member(text, type, field, object, true);
        g_autofree char *printable = ctl_printable(text->str);
        style_append(out, terminal, style, printable);
        const char *meaning = view_meaning(type->name, field->name, text->str);
        if (meaning != NULL)
            g_string_append_printf(out, " (%s)", meaning);
    }
    g_string_append_c(out, '\n');
}

/* Whether an object is a row of counters for each of its members, like read and write. */
static bool is_matrix(const CliObject *type)
{
    const CliObject *inner = type->fields->object;
    for (const CliField *field = type->fields; field->name != NULL; field++)
        if (field->type != CLI_OBJECT || field->list || field->object != inner)
            return false;
    return inner != NULL;
}

static bool all_zero(const Json *object)
{
    for (const Json *member = object->child; member != NULL; member = member->next)
        if (member->length != 1 || *member->text != '0')
            return false;
    return true;
}

static void append_matrix(GString *out, const Terminal *terminal, const CliObject *type,
                          const Json *value)
{
    g_autoptr(GPtrArray) headers = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) columns = g_array_new(FALSE, TRUE, sizeof(TableColumn));
    TableColumn first = {.header = "OPERATION"};
    g_array_append_val(columns, first);
    const CliObject *inner = type->fields->object;
    for (const CliField *field = inner->fields; field->name != NULL; field++) {
        char *header = g_strdelimit(g_ascii_strup(field->name, -1), "_", ' ');
        g_ptr_array_add(headers, header);
        TableColumn column = {.header = header, .right = true};
        g_array_append_val(columns, column);
    }
    g_autoptr(Table) table = table_new((const TableColumn *)(gpointer)columns->data, columns->len);
    for (const CliField *row = type->fields; row->name != NULL; row++) {
        const Json *counters = json_member(value, row->name);
        if (!json_is(counters, JSON_OBJECT) || all_zero(counters))
            continue;
        table_add(table, STYLE_NAME, row->name);
        for (const CliField *field = inner->fields; field->name != NULL; field++) {
            g_autoptr(GString) text = g_string_new(NULL);
            Style style = render_member(text, inner, field, counters, false);
            table_add(table, style, text->str);
        }
    }
    if (table_rows(table) > 0)
        table_append(out, table, terminal, INDENT);
    else
        g_string_append_printf(out, "%*snothing yet\n", INDENT, "");
}

static void append_object(GString *out, const Terminal *terminal, const CliObject *type,
                          const Json *object, unsigned indent);

static void append_nested(GString *out, const Terminal *terminal, const CliField *field,
                          const Json *value)
{
    if (!json_is(value, JSON_ARRAY) && !json_is(value, JSON_OBJECT))
        return;
    g_autofree char *label = label_of(field);
    style_append(out, terminal, STYLE_DIM, label);
    g_string_append_c(out, '\n');
    if (is_matrix(field->object) && json_is(value, JSON_OBJECT)) {
        append_matrix(out, terminal, field->object, value);
        return;
    }
    if (json_is(value, JSON_ARRAY) && value->child == NULL) {
        g_string_append_printf(out, "%*snone\n", INDENT, "");
        return;
    }
    const View *view = view_find(field->object->name);
    if (view != NULL && view->columns == NULL && json_is(value, JSON_ARRAY)) {
        for (const Json *item = value->child; item != NULL; item = item->next) {
            append_object(out, terminal, field->object, item, INDENT);
            if (item->next != NULL)
                g_string_append_c(out, '\n');
        }
        return;
    }
    Json item = *value, single = {.type = JSON_ARRAY, .child = &item};
    item.next = NULL;
    g_autoptr(GPtrArray) lists = g_ptr_array_new();
    g_ptr_array_add(lists, json_is(value, JSON_ARRAY) ? (gpointer)value : (gpointer)&single);
    render_list(out, terminal, field->object, lists, INDENT);
}

static void append_object(GString *out, const Terminal *terminal, const CliObject *type,
                          const Json *object, unsigned indent)
{
    unsigned column = 0;
    for (const CliField *field = type->fields; field->name != NULL; field++) {
        g_autofree char *label = label_of(field);
        if (!is_nested(field) && !is_hidden(type, field, json_member(object, field->name)))
            column = MAX(column, indent + text_width(label) + GAP);
    }
    for (const CliField *field = type->fields; field->name != NULL; field++)
        if (!is_nested(field) && !is_hidden(type, field, json_member(object, field->name)))
            append_line(out, terminal, type, field, object, indent, column);
    for (const CliField *field = type->fields; field->name != NULL; field++)
        if (is_nested(field) && indent == 0)
            append_nested(out, terminal, field, json_member(object, field->name));
}

void render_object(GString *out, const Terminal *terminal, const CliObject *type,
                   const Json *object)
{
    append_object(out, terminal, type, object, 0);
}
