#include "ctl/field.h"
#include "ctl/format.h"
#include "ctl/render.h"
#include "ctl/views.h"
#include <string.h>

Style render_member(GString *out, const CliObject *type, const CliField *field, const Json *value,
                    bool full)
{
    const ViewWords *words = view_words(type->name, field->name);
    const char *word = NULL;
    if (words != NULL) {
        if (value == NULL || json_is(value, JSON_NULL))
            word = words->null;
        else if (json_is(value, JSON_ARRAY) && value->child == NULL)
            word = words->empty;
        else if (json_is(value, JSON_TRUE))
            word = words->yes;
        else if (json_is(value, JSON_FALSE))
            word = words->no;
    }
    if (word == NULL)
        return format_value(out, field, value, full ? DETAIL_FULL : DETAIL_SHORT);
    g_string_append(out, word);
    return STYLE_PLAIN;
}

/* Follows "counters/read/bytes"; *type and *field end at the last object and member. */
static const Json *reach(const Json *object, const CliObject **type, const CliField **ret_field,
                         const char *member)
{
    g_auto(GStrv) steps = g_strsplit(member, "/", -1);
    for (unsigned i = 0; steps[i] != NULL; i++) {
        *ret_field = *type != NULL ? field_find((*type)->fields, steps[i]) : NULL;
        object = json_member(object, steps[i]);
        if (steps[i + 1] != NULL)
            *type = *ret_field != NULL ? (*ret_field)->object : NULL;
    }
    return object;
}

static bool is_nothing(const Json *value)
{
    return value == NULL || value->type == JSON_NULL || value->type == JSON_FALSE ||
           (value->type == JSON_ARRAY && value->child == NULL) ||
           (value->length == 1 && *value->text == '0') ||
           (value->type == JSON_STRING && value->length == 2);
}

/* Every plain member is a column. */
static GArray *plain_columns(const CliObject *type, GPtrArray *headers)
{
    GArray *columns = g_array_new(TRUE, TRUE, sizeof(ViewColumn));
    for (const CliField *field = type->fields; field->name != NULL; field++) {
        if (field->type == CLI_OBJECT)
            continue;
        char *header = g_strdelimit(g_ascii_strup(field->name, -1), "_", ' ');
        g_ptr_array_add(headers, header);
        ViewColumn column = {.header = header, .member = field->name};
        column.style = columns->len == 0 ? STYLE_NAME : STYLE_PLAIN;
        column.right = field->type == CLI_SIZE || field->type == CLI_INTEGER;
        column.elastic = field->type == CLI_STRING && columns->len > 0;
        column.optional = columns->len > 3;
        column.if_any = field->nullable;
        g_array_append_val(columns, column);
    }
    return columns;
}

static bool any_row_has(const CliObject *type, GPtrArray *lists, const char *member)
{
    for (unsigned i = 0; i < lists->len; i++) {
        const Json *list = lists->pdata[i];
        for (const Json *row = list != NULL ? list->child : NULL; row != NULL; row = row->next) {
            const CliObject *inner = type;
            const CliField *field = NULL;
            if (!is_nothing(reach(row, &inner, &field, member)))
                return true;
        }
    }
    return false;
}

static void add_row(Table *table, const CliObject *type, const ViewColumn *columns, unsigned count,
                    const Json *row)
{
    for (unsigned c = 0; c < count; c++) {
        const CliObject *inner = type;
        const CliField *field = NULL;
        const Json *value = reach(row, &inner, &field, columns[c].member);
        g_autoptr(GString) text = g_string_new(NULL);
        Style style = field != NULL && inner != NULL
                          ? render_member(text, inner, field, value, false)
                          : format_value(text, NULL, value, DETAIL_SHORT);
        table_add(table, style != STYLE_PLAIN ? style : columns[c].style, text->str);
    }
}

void render_list(GString *out, const Terminal *terminal, const CliObject *type, GPtrArray *lists,
                 unsigned indent)
{
    g_autoptr(GPtrArray) headers = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) plain = plain_columns(type, headers);
    const View *view = view_find(type->name);
    const ViewColumn *columns =
        view != NULL ? view->columns : (const ViewColumn *)(gpointer)plain->data;
    g_autoptr(GArray) shown = g_array_new(FALSE, FALSE, sizeof(ViewColumn));
    g_autoptr(GArray) table_columns = g_array_new(FALSE, TRUE, sizeof(TableColumn));
    for (; columns->member != NULL; columns++) {
        if (columns->if_any && !any_row_has(type, lists, columns->member))
            continue;
        TableColumn column = {columns->header, columns->right, columns->elastic, columns->optional};
        g_array_append_val(table_columns, column);
        g_array_append_vals(shown, columns, 1);
    }
    g_autoptr(Table) table =
        table_new((const TableColumn *)(gpointer)table_columns->data, table_columns->len);
    for (unsigned i = 0; i < lists->len; i++) {
        const Json *list = lists->pdata[i];
        for (const Json *row = list != NULL ? list->child : NULL; row != NULL; row = row->next)
            add_row(table, type, (const ViewColumn *)(gpointer)shown->data, shown->len, row);
    }
    table_append(out, table, terminal, indent);
}
