#include "ctl/render.h"
#include "ctl/units.h"
#include <string.h>

static const TableColumn columns[] = {
    {"", .elastic = true},         {"OPERATION"},
    {"REQUESTS", .right = true},   {"BYTES", .right = true},
    {"ERRORS", .right = true},     {"HALF BELOW", .right = true},
    {"99 % BELOW", .right = true}, {"ALL BELOW", .right = true},
};

/* Entry i of the histogram counts requests of 2^i to 2^(i+1) microseconds: the answer is the upper
 * end of the entry in which the given share of all requests is reached. */
static void add_percentile(Table *table, const Terminal *terminal, const Json *histogram,
                           uint64_t all, unsigned permille)
{
    uint64_t seen = 0, number;
    unsigned power = 1;
    g_autoptr(GString) text = g_string_new(NULL);
    for (const Json *entry = histogram != NULL ? histogram->child : NULL; entry != NULL;
         entry = entry->next, power++) {
        seen += json_uint(entry, &number) ? number : 0;
        if (seen > 0 && seen >= (all * permille + 999) / 1000) {
            latency_append(text, 1ULL << MIN(power, 62), terminal->utf8);
            break;
        }
    }
    table_add(table, STYLE_PLAIN, text->len > 0 ? text->str : "-");
}

static void add_operations(Table *table, const Terminal *terminal, const char *who,
                           const Json *object)
{
    const Json *operations = json_member(object, "operations");
    const Json *one = operations != NULL ? operations->child : NULL;
    for (; one != NULL; one = one->next) {
        uint64_t requests = 0, bytes = 0, errors = 0, all = 0, number;
        g_autofree char *operation = json_string(json_member(one, "operation"));
        json_uint(json_member(one, "requests"), &requests);
        json_uint(json_member(one, "bytes"), &bytes);
        json_uint(json_member(one, "errors"), &errors);
        const Json *histogram = json_member(one, "latency");
        for (const Json *entry = histogram != NULL ? histogram->child : NULL; entry != NULL;
             entry = entry->next)
            all += json_uint(entry, &number) ? number : 0;

        g_autofree char *requests_text = g_strdup_printf("%" G_GUINT64_FORMAT, requests);
        g_autofree char *errors_text = g_strdup_printf("%" G_GUINT64_FORMAT, errors);
        g_autoptr(GString) bytes_text = g_string_new(NULL);
        size_append(bytes_text, bytes);
        table_add(table, STYLE_NAME, who);
        table_add(table, STYLE_PLAIN, operation != NULL ? operation : "?");
        table_add(table, STYLE_PLAIN, requests_text);
        table_add(table, STYLE_PLAIN, bytes_text->str);
        table_add(table, errors > 0 ? STYLE_BAD : STYLE_PLAIN, errors_text);
        add_percentile(table, terminal, histogram, all, 500);
        add_percentile(table, terminal, histogram, all, 990);
        add_percentile(table, terminal, histogram, all, 1000);
    }
}

/* "export vm1", "client 3 on vm1" */
static char *name_of(const Json *item, const char *member)
{
    uint64_t id;
    g_autofree char *name = json_string(json_member(item, member));
    g_autofree char *export = json_string(json_member(item, "export"));
    if (!json_uint(json_member(item, member), &id))
        return g_strdup_printf("export %s", name != NULL ? name : "?");
    return g_strdup_printf("client %" G_GUINT64_FORMAT "%s%s", id, export != NULL ? " on " : "",
                           export != NULL ? export : "");
}

static void add_group(Table *table, const Terminal *terminal, GPtrArray *pages, const char *list,
                      const char *name)
{
    for (unsigned i = 0; i < pages->len; i++) {
        const Json *items = json_member(pages->pdata[i], list);
        for (const Json *item = items != NULL ? items->child : NULL; item != NULL;
             item = item->next) {
            g_autofree char *who = name_of(item, name);
            add_operations(table, terminal, who, item);
        }
    }
}

static void append_line(GString *out, const Json *daemon, const char *member, const char *what)
{
    uint64_t number;
    if (json_uint(json_member(daemon, member), &number))
        g_string_append_printf(out, "%s%" G_GUINT64_FORMAT " %s", out->len > 0 ? ", " : "", number,
                               what);
}

static void append_tracking(GString *out, const Json *tracking)
{
    g_autoptr(GString) line = g_string_new(NULL);
    uint64_t failures = 0;
    append_line(line, tracking, "commits", "commits of the state");
    append_line(line, tracking, "syncs", "syncs");
    append_line(line, tracking, "intents_added", "regions put on record");
    append_line(line, tracking, "intents_retired", "retired");
    if (json_uint(json_member(tracking, "failures"), &failures) && failures > 0)
        append_line(line, tracking, "failures", "failures");
    if (line->len > 0)
        g_string_append_printf(out, "%s\n", line->str);
}

void render_stats(GString *out, const Terminal *terminal, GPtrArray *pages)
{
    const Json *daemon = json_member(pages->pdata[0], "daemon");
    append_line(out, daemon, "clients_accepted", "clients accepted");
    append_line(out, daemon, "clients_refused", "refused");
    append_line(out, daemon, "in_flight", "requests in flight");
    g_string_append(out, "\n");
    append_tracking(out, json_member(daemon, "tracking"));
    g_autoptr(Table) table = table_new(columns, G_N_ELEMENTS(columns));
    add_operations(table, terminal, "all", daemon);
    add_group(table, terminal, pages, "exports", "name");
    add_group(table, terminal, pages, "clients", "id");
    if (table_rows(table) > 0) {
        g_string_append_c(out, '\n');
        table_append(out, table, terminal, 0);
    }
}

void render_extents(GString *out, const Terminal *terminal, const Json *extents, bool header)
{
    enum { NUMBER_WIDTH = 16 }; /* pages are printed as they come: no measuring */
    if (header) {
        g_autofree char *titles =
            g_strdup_printf("%*s  %*s  %*s  %10s", NUMBER_WIDTH, "OFFSET", NUMBER_WIDTH, "LENGTH",
                            NUMBER_WIDTH, "END", "SIZE");
        style_append(out, terminal, STYLE_HEADER, titles);
        g_string_append_c(out, '\n');
    }
    for (const Json *one = extents != NULL ? extents->child : NULL; one != NULL; one = one->next) {
        uint64_t offset = 0, length = 0;
        json_uint(json_member(one, "offset"), &offset);
        json_uint(json_member(one, "length"), &length);
        g_autoptr(GString) size = g_string_new(NULL);
        size_append(size, length);
        g_string_append_printf(
            out, "%*" G_GUINT64_FORMAT "  %*" G_GUINT64_FORMAT "  %*" G_GUINT64_FORMAT "  %10s\n",
            NUMBER_WIDTH, offset, NUMBER_WIDTH, length, NUMBER_WIDTH, offset + length, size->str);
    }
}
