#include "ctl/events.h"
#include "ctl/errors.h"
#include "ctl/format.h"
#include "ctl/rpc.h"
#include <string.h>
#include <unistd.h>

static Style style_of(const char *event, const Json *object)
{
    static const char *const good[] = {"added", "connected", "attached", "started", NULL};
    static const char *const bad[] = {"lost", "failed", NULL};
    if (json_string_is(json_member(object, "state"), "invalid"))
        return STYLE_BAD;
    return g_strv_contains(good, event)  ? STYLE_GOOD
           : g_strv_contains(bad, event) ? STYLE_BAD
                                         : STYLE_WARNING;
}

/* "bitmap b0 of disk vm1", "client 7 on export vm1", "daemon" */
static void append_object(GString *out, const char *topic, const Json *object)
{
    g_autofree char *name = json_string(json_member(object, "name"));
    g_autofree char *disk = json_string(json_member(object, "disk"));
    g_autofree char *export = json_string(json_member(object, "export"));
    uint64_t id;
    g_string_append(out, topic);
    if (name != NULL)
        g_string_append_printf(out, " %s", name);
    if (json_uint(json_member(object, "id"), &id))
        g_string_append_printf(out, " %" G_GUINT64_FORMAT, id);
    if (disk != NULL)
        g_string_append_printf(out, " of disk %s", disk);
    if (export != NULL)
        g_string_append_printf(out, " on export %s", export);
}

static void append_lost(GString *out, const Json *event)
{
    uint64_t first, last;
    if (json_uint(json_member(event, "first"), &first) &&
        json_uint(json_member(event, "last"), &last))
        g_string_append_printf(
            out, "events %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT " were not sent", first,
            last);
}

static void append_event(GString *out, const Terminal *terminal, const Json *event)
{
    g_autofree char *time = json_string(json_member(event, "time"));
    g_autofree char *topic = json_string(json_member(event, "topic"));
    g_autofree char *kind = json_string(json_member(event, "event"));
    const Json *object = json_member(event, "object");
    g_autofree char *detail = json_string(json_member(object, "detail"));
    if (kind == NULL)
        kind = g_strdup("?");

    g_autoptr(GString) clock = g_string_new(NULL);
    if (time != NULL)
        format_time(clock, time, "%Y-%m-%d %H:%M:%S");
    g_autofree char *clock_text = ctl_printable(clock->str), *kind_text = ctl_printable(kind);
    style_append(out, terminal, STYLE_DIM, clock_text);
    g_string_append(out, "  ");
    style_append(out, terminal, style_of(kind, object), kind_text);
    for (size_t i = strlen(kind_text); i < strlen("disconnected") + 2; i++)
        g_string_append_c(out, ' ');
    g_autoptr(GString) rest = g_string_new(NULL);
    if (strcmp(kind, "lost") == 0)
        append_lost(rest, event);
    else
        append_object(rest, topic != NULL ? topic : "?", object);
    if (detail != NULL)
        g_string_append_printf(rest, ": %s", detail);
    g_autofree char *rest_text = ctl_printable(rest->str);
    g_string_append_printf(out, "%s\n", rest_text);
}

static void append_raw(GString *out, const Json *object)
{
    g_string_append_c(g_string_append_len(out, object->text, (gssize)object->length), '\n');
}

/* On a terminal: that we listen, and to what. */
static void append_start(GString *out, const Context *context, const Json *result)
{
    if (context->options->json) {
        append_raw(out, result);
        return;
    }
    if (!context->terminal->is_terminal)
        return;
    g_autoptr(GString) text = g_string_new("Events of the topics ");
    format_value(text, NULL, json_member(result, "topics"), DETAIL_SHORT);
    uint64_t seq;
    if (json_uint(json_member(result, "seq"), &seq))
        g_string_append_printf(text, " after number %" G_GUINT64_FORMAT, seq);
    g_string_append(text, "; Ctrl-C ends.");
    g_autofree char *printable = ctl_printable(text->str);
    style_append(out, context->terminal, STYLE_DIM, printable);
    g_string_append_c(out, '\n');
}

bool events_run(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    g_autoptr(Socket) socket = rpc_open(context->options, error);
    if (socket == NULL)
        return false;
    g_autoptr(GString) out = g_string_new(NULL);
    json_append_compact(out, params);
    g_auto(Answer) answer = {NULL};
    if (!rpc_call(socket, method->name, method, out->str, &answer, error))
        return false;
    g_string_truncate(out, 0);
    append_start(out, context, answer.result);
    GError *problem = NULL;
    while (terminal_write(out, error)) {
        if (!socket_wait(socket, STDOUT_FILENO, &problem)) {
            if (problem == NULL)
                return true; /* nobody reads us any more */
            g_propagate_error(error, problem);
            return false;
        }
        g_auto(Answer) event = {NULL};
        if (!rpc_notification(socket, &event, error))
            return false;
        g_string_truncate(out, 0);
        if (context->options->json)
            append_raw(out, event.result);
        else
            append_event(out, context->terminal, event.result);
    }
    return false;
}
