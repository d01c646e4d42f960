#include "ctl/errors.h"
#include "ctl/field.h"
#include "ctl/format.h"
#include "ctl/render.h"
#include "ctl/views.h"
#include <string.h>

/* condition: "state=invalid" */
static bool holds(const Json *object, const char *condition)
{
    g_auto(GStrv) parts = g_strsplit(condition, "=", 2);
    return json_string_is(json_member(object, parts[0]), parts[1]);
}

static const char *word_for(const ViewWords *words, const Json *object, const Json *value,
                            bool full)
{
    if (words->unless != NULL && holds(object, words->unless))
        return words->instead;
    if (value == NULL || json_is(value, JSON_NULL))
        return words->null;
    if (json_is(value, JSON_ARRAY) && value->child == NULL)
        return words->empty;
    if (!full && json_is(value, JSON_TRUE))
        return words->yes;
    return !full && json_is(value, JSON_FALSE) ? words->no : NULL;
}

Style render_member(GString *out, const CliObject *type, const CliField *field, const Json *object,
                    bool full)
{
    const Json *value = json_member(object, field->name);
    const ViewWords *words = view_words(type->name, field->name);
    const char *word = words != NULL ? word_for(words, object, value, full) : NULL;
    if (word == NULL)
        return format_value(out, field, value, full ? DETAIL_FULL : DETAIL_SHORT);
    g_string_append(out, word);
    return STYLE_PLAIN;
}

/* Follows "counters/read/bytes": *object and *type end at the innermost object. NULL when the
 * schema has no such member. */
static const CliField *reach(const Json **object, const CliObject **type, const char *member)
{
    g_auto(GStrv) steps = g_strsplit(member, "/", -1);
    for (unsigned i = 0;; i++) {
        const CliField *field = field_find((*type)->fields, steps[i]);
        if (field == NULL || steps[i + 1] == NULL)
            return field;
        if (field->object == NULL)
            return NULL;
        *object = json_member(*object, steps[i]);
        *type = field->object;
        if (field->list) { /* only the first of them is ever asked for */
            *object = json_is(*object, JSON_ARRAY) ? (*object)->child : NULL;
            i++;
        }
    }
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
            const Json *object = row;
            const CliField *field = reach(&object, &inner, member);
            if (field != NULL && !is_nothing(json_member(object, field->name)))
                return true;
        }
    }
    return false;
}

/* The text of one cell; answers its style. */
static Style append_cell(GString *out, const CliObject *type, const ViewColumn *column,
                         const Json *row)
{
    const CliField *field = reach(&row, &type, column->member);
    const Json *value = field != NULL ? json_member(row, field->name) : NULL;
    if (column->yes != NULL && json_is(value, JSON_TRUE))
        g_string_append(out, column->yes);
    else if (column->no != NULL && json_is(value, JSON_FALSE))
        g_string_append(out, column->no);
    else if (column->date && json_is(value, JSON_STRING)) {
        g_autofree char *time = json_string(value);
        format_time(out, time, "%Y-%m-%d");
    } else if (field == NULL)
        return format_value(out, NULL, NULL, DETAIL_SHORT);
    else {
        Style style = render_member(out, type, field, row, false);
        if (style != STYLE_PLAIN || is_nothing(value))
            return style;
    }
    return column->style;
}

/* "vm1 b0: the reason": what is too long for a column. */
static void append_note(GString *out, const Terminal *terminal, const CliObject *type,
                        const ViewColumn *columns, const ViewColumn *note, const Json *row)
{
    g_autoptr(GString) text = g_string_new(NULL);
    append_cell(text, type, note, row);
    g_autoptr(GString) who = g_string_new(NULL);
    if (columns[0].style != STYLE_NAME) { /* a bitmap's disk stands before its name */
        append_cell(who, type, columns++, row);
        g_string_append_c(who, ' ');
    }
    append_cell(who, type, columns, row);
    g_autofree char *line = g_strconcat(who->str, ": ", text->str, NULL);
    g_autofree char *printable = ctl_printable(line);
    style_append(out, terminal, STYLE_BAD, printable);
    g_string_append_c(out, '\n');
}

void render_list(GString *out, const Terminal *terminal, const CliObject *type, GPtrArray *lists,
                 unsigned indent)
{
    g_autoptr(GPtrArray) headers = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) plain = plain_columns(type, headers);
    const View *view = view_find(type->name);
    const ViewColumn *columns = view != NULL && view->columns != NULL
                                    ? view->columns
                                    : (const ViewColumn *)(gpointer)plain->data;
    g_autoptr(GArray) shown = g_array_new(FALSE, FALSE, sizeof(ViewColumn));
    g_autoptr(GArray) notes = g_array_new(FALSE, FALSE, sizeof(ViewColumn));
    g_autoptr(GArray) table_columns = g_array_new(FALSE, TRUE, sizeof(TableColumn));
    for (const ViewColumn *at = columns; at->member != NULL; at++) {
        if ((at->if_any || at->note) && !any_row_has(type, lists, at->member))
            continue;
        g_array_append_vals(at->note ? notes : shown, at, 1);
        TableColumn column = {at->header, at->right, at->elastic, at->optional};
        if (!at->note)
            g_array_append_val(table_columns, column);
    }
    g_autoptr(Table) table =
        table_new((const TableColumn *)(gpointer)table_columns->data, table_columns->len);
    g_autoptr(GString) note_lines = g_string_new(NULL);
    for (unsigned i = 0; i < lists->len; i++) {
        const Json *list = lists->pdata[i];
        for (const Json *row = list != NULL ? list->child : NULL; row != NULL; row = row->next) {
            for (unsigned c = 0; c < shown->len; c++) {
                g_autoptr(GString) text = g_string_new(NULL);
                Style style = append_cell(text, type, &g_array_index(shown, ViewColumn, c), row);
                table_add(table, style, text->str);
            }
            for (unsigned n = 0; n < notes->len; n++) {
                const ViewColumn *note = &g_array_index(notes, ViewColumn, n);
                if (!is_nothing(json_member(row, note->member)))
                    append_note(note_lines, terminal, type, columns, note, row);
            }
        }
    }
    table_append(out, table, terminal, indent);
    if (note_lines->len > 0)
        g_string_append_printf(out, "\n%s", note_lines->str);
}
