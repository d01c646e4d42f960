#include "ctl/errors.h"
#include "ctl/field.h"
#include <string.h>

G_DEFINE_QUARK(nbdctl, ctl_error)

void ctl_fail(GError **error, CtlStatus status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    g_autofree char *message = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error_literal(error, CTL_ERROR, (int)status, message);
}

char *ctl_printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);
    for (const char *at = valid; *at != 0; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);
        if (c < 0x20 || (c >= 0x7f && c < 0xa0))
            g_string_append_printf(out, "\\x%02x", (unsigned)c);
        else
            g_string_append_unichar(out, c);
    }
    return g_string_free(out, FALSE);
}

static const CliError *error_of(const Json *answer_error, const char *kind)
{
    for (const CliError *known = cli_errors; known->name != NULL; known++) {
        g_autofree char *code = g_strdup_printf("%d", known->code);
        const Json *given = json_member(answer_error, "code");
        if (kind != NULL ? strcmp(known->name, kind) == 0
                         : json_is(given, JSON_NUMBER) && given->length == strlen(code) &&
                               memcmp(given->text, code, given->length) == 0)
            return known;
    }
    return NULL;
}

/* "/params/max_clients" -> "--max-clients", "/params/sources/1" -> "SOURCES, number 2";
 * "/params/actions/1/params/disk" -> "action 2". NULL when there is nothing to name. */
static char *place_of(const CliMethod *method, const char *path, const CliField **ret_field)
{
    if (method == NULL || path == NULL || !g_str_has_prefix(path, "/params/"))
        return NULL;
    g_auto(GStrv) parts = g_strsplit(path + strlen("/params/"), "/", 3);
    for (const CliField *field = method->params; field->name != NULL; field++) {
        if (strcmp(field->name, parts[0]) != 0)
            continue;
        *ret_field = field;
        guint64 index;
        bool item = field->list && parts[1] != NULL &&
                    g_ascii_string_to_unsigned(parts[1], 10, 0, G_MAXUINT32, &index, NULL);
        if (item && field->type == CLI_ACTION)
            return g_strdup_printf("action %" G_GUINT64_FORMAT, index + 1);
        g_autofree char *name = field_label(field, !field->positional);
        return item ? g_strdup_printf("%s, number %" G_GUINT64_FORMAT, name, index + 1)
                    : g_steal_pointer(&name);
    }
    return NULL;
}

/* What follows the parameter's own name at the beginning of what the daemon says: "`allow[1]` must
 * be..." -> "must be...". NULL: it does not begin so. */
static const char *behind_name(const char *detail, const char *name)
{
    g_autofree char *named = g_strconcat("`", name, NULL);
    if (!g_str_has_prefix(detail, named))
        return NULL;
    const char *at = detail + strlen(named);
    if (*at == '[')
        at += 1 + strspn(at + 1, "0123456789");
    if (*at == ']')
        at++;
    return g_str_has_prefix(at, "` ") ? at + 2 : NULL;
}

/* Whether naming the parameter helps: "there is no disk vm9" needs no "NAME" in front. */
static bool names_parameter(const char *kind, const char *place)
{
    static const char *const about_parameters[] = {"invalid-params", "invalid-argument", NULL};
    return place != NULL &&
           (g_strv_contains(about_parameters, kind) || g_str_has_prefix(place, "action "));
}

void ctl_fail_refused(GError **error, const CliMethod *method, const Json *answer_error)
{
    const Json *data = json_member(answer_error, "data");
    g_autofree char *kind = json_string(json_member(data, "kind"));
    g_autofree char *detail = json_string(json_member(data, "detail"));
    g_autofree char *path = json_string(json_member(data, "path"));
    const CliError *known = error_of(answer_error, kind);
    if (detail == NULL)
        detail = json_string(json_member(answer_error, "message"));
    if (detail == NULL)
        detail = g_strdup(known != NULL ? known->description : "the daemon refused without a word");
    if (kind == NULL)
        kind = g_strdup(known != NULL ? known->name : "unknown error");

    const CliField *field = NULL;
    g_autofree char *place = place_of(method, path, &field);
    g_autoptr(GString) message = g_string_new(NULL);
    const char *rest = detail;
    if (names_parameter(kind, place)) {
        /* "`max_clients` must be..." becomes "--max-clients must be...". */
        const char *behind = behind_name(detail, field->name);
        rest = behind != NULL ? behind : detail;
        g_string_append_printf(message, behind != NULL ? "%s " : "%s: ", place);
    }
    g_string_append_printf(message, "%s (%s)", rest, kind);
    g_autofree char *printable = ctl_printable(message->str);
    g_set_error_literal(error, CTL_ERROR, known != NULL ? known->exit_status : CTL_REFUSED,
                        printable);
}
