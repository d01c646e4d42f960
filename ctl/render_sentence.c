#include "ctl/errors.h"
#include "ctl/field.h"
#include "ctl/format.h"
#include "ctl/render.h"
#include "ctl/views.h"
#include <string.h>

/* What a verb has done; others get "ed". */
static const struct {
    const char *verb, *done;
} past[] = {
    {"set", "changed"},
    {"begin", "begun"},
    {"commit", "committed"},
    {"merge", "took in the dirty blocks of its sources"},
};

static char *done_of(const char *verb)
{
    for (size_t i = 0; i < G_N_ELEMENTS(past); i++)
        if (strcmp(past[i].verb, verb) == 0)
            return g_strdup(past[i].done);
    return g_strconcat(verb, g_str_has_suffix(verb, "e") ? "d" : "ed", NULL);
}

/* "Bitmap b0 of disk vm1" */
static void append_subject(GString *out, const CliMethod *method, const Json *result)
{
    g_autofree char *name = json_string(json_member(result, "name"));
    g_autofree char *disk = json_string(json_member(result, "disk"));
    const char *object = view_object_of(method->noun);
    const View *view = view_find(object);
    g_string_append(out, view != NULL ? view->title : object);
    if (name != NULL)
        g_string_append_printf(out, " %s", name);
    if (disk != NULL && strcmp(object, "bitmap") == 0)
        g_string_append_printf(out, " of disk %s", disk);
}

/* "Client 7 disconnected.", "Clients 7, 9 disconnected." */
static void append_disconnected(GString *out, const Json *result)
{
    const Json *clients = json_member(result, "clients");
    if (json_count(clients) == 0) {
        g_string_append(out, "There is no such client.");
        return;
    }
    g_string_append(out, clients->child->next != NULL ? "Clients " : "Client ");
    format_value(out, NULL, clients, DETAIL_SHORT);
    g_string_append(out, " disconnected.");
}

/* ": recording, granularity 64 KiB"; done: the word that the sentence has said already. */
static void append_details(GString *out, const CliObject *type, const Json *result,
                           const char *done)
{
    const View *view = view_find(type->name);
    const char *separator = ": ";
    for (const ViewPart *part = view != NULL ? view->sentence : NULL;
         part != NULL && part->member != NULL; part++) {
        const CliField *field = field_find(type->fields, part->member);
        const Json *value = json_member(result, part->member);
        const ViewWords *words = view_words(type->name, part->member);
        if (field == NULL || value == NULL ||
            (json_is(value, JSON_ARRAY) && value->child == NULL && words == NULL) ||
            (json_is(value, JSON_NULL) && (words == NULL || words->null == NULL)))
            continue;
        g_autoptr(GString) text = g_string_new(NULL);
        render_member(text, type, field, result, false);
        if (g_strcmp0(text->str, done) == 0)
            continue;
        g_string_append_printf(out, "%s%s%s%s", separator, part->word != NULL ? part->word : "",
                               part->word != NULL ? " " : "", text->str);
        separator = ", ";
    }
}

static void append_sentence(GString *out, const CliMethod *method, const Json *params,
                            const Json *result)
{
    bool dry_run = json_true(json_member(params, "dry_run"));
    if (json_is(json_member(result, "removed"), JSON_FALSE)) {
        g_string_append(out, "There was no ");
        g_autoptr(GString) subject = g_string_new(NULL);
        append_subject(subject, method, result);
        subject->str[0] = g_ascii_tolower(subject->str[0]);
        g_string_append_printf(out, "%s.", subject->str);
        return;
    }
    if (dry_run)
        g_string_append(out, "Nothing was changed; this would be: ");
    if (strcmp(method->name, "client.disconnect") == 0) {
        append_disconnected(out, result);
        return;
    }
    if (strcmp(method->name, "state.backup") == 0) {
        g_string_append(out, "State copied to ");
        format_value(out, NULL, json_member(result, "file"), DETAIL_SHORT);
        g_string_append_c(out, '.');
        return;
    }
    append_subject(out, method, result);
    /* With "same" the answer does not say who made it, and when. */
    g_autofree char *done = json_string_is(json_member(params, "if_exists"), "same")
                                ? g_strdup("is there")
                                : done_of(method->verb);
    g_string_append_printf(out, " %s", done);
    if (method->result != NULL)
        append_details(out, method->result, result, done);
    g_string_append_c(out, '.');
}

void render_sentence(GString *out, const Terminal *terminal, const CliMethod *method,
                     const Json *params, const Json *result)
{
    g_autoptr(GString) sentence = g_string_new(NULL);
    append_sentence(sentence, method, params, result);
    g_autofree char *printable = ctl_printable(sentence->str);
    style_append(out, terminal, STYLE_PLAIN, printable);
    g_string_append_c(out, '\n');
}

static const CliMethod *method_of(const Json *action)
{
    const Json *name = json_member(action, "method");
    for (const CliMethod *method = cli_methods; method->name != NULL; method++)
        if (json_string_is(name, method->name))
            return method;
    return NULL;
}

void render_transaction(GString *out, const Terminal *terminal, const Json *params,
                        const Json *result)
{
    const Json *actions = json_member(params, "actions"), *results = json_member(result, "results");
    bool dry_run = json_true(json_member(params, "dry_run"));
    const Json *action = actions != NULL ? actions->child : NULL;
    const Json *one = results != NULL ? results->child : NULL;
    if (dry_run)
        g_string_append(out, "Nothing was changed; this would be:\n");
    for (; action != NULL && one != NULL; action = action->next, one = one->next) {
        const CliMethod *method = method_of(action);
        if (method != NULL && method->verb != NULL)
            render_sentence(out, terminal, method, json_member(action, "params"), one);
    }
    unsigned count = json_count(results);
    if (!dry_run)
        g_string_append_printf(out, "%u action%s done at one instant.\n", count,
                               count == 1 ? "" : "s");
}
