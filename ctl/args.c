#include "ctl/args.h"
#include "ctl/actions.h"
#include "ctl/commands.h"
#include "ctl/errors.h"
#include "ctl/field.h"
#include "ctl/help.h"
#include "ctl/json.h"
#include "ctl/suggest.h"
#include "ctl/value.h"
#include <string.h>

/* What was given for one parameter. */
typedef struct Given {
    bool set, null;
    GString *items; /* JSON values with commas between them */
} Given;

typedef struct Parser {
    const CliMethod *method;
    Options *options;
    Given *given; /* one for each of method->params */
    unsigned count;
    GPtrArray *words; /* the positionals */
    bool form;        /* what is wrong is the form of the line: its usage tells more */
} Parser;

/* --- one value --- */

static bool fail_mixed(const char *label, const char *what, GError **error)
{
    ctl_fail(error, CTL_USAGE, "%s: %s", label, what);
    return false;
}

static bool set_null(Given *given, const char *label, GError **error)
{
    if (given->set)
        return fail_mixed(label, "null goes with no other value", error);
    given->set = given->null = true;
    return true;
}

static bool add_item(Given *given, const CliField *field, const char *label, const char *text,
                     GError **error)
{
    if (field->list && *text == 0) { /* the empty list */
        if (given->items->len > 0)
            return fail_mixed(label, "the empty list goes with no other value", error);
        return true;
    }
    if (given->items->len > 0)
        g_string_append_c(given->items, ',');
    if (field->type == CLI_ACTION)
        return actions_append(given->items, label, text, error);
    return value_append(given->items, field, label, text, error);
}

static bool add_value(Parser *parser, const CliField *field, const char *label, const char *text,
                      GError **error)
{
    Given *given = &parser->given[field - parser->method->params];
    if (field->nullable && strcmp(text, "null") == 0)
        return set_null(given, label, error);
    if (given->set && (!field->list || given->null))
        return fail_mixed(label, field->list ? "null goes with no other value" : "given twice",
                          error);
    bool good = add_item(given, field, label, text, error);
    given->set = true;
    return good;
}

/* --- flags --- */

static void fail_unknown_flag(const CliMethod *method, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (const CliField *field = method->params; field->name != NULL; field++) {
        g_ptr_array_add(names, g_strdup(field->flag));
        if (field->type == CLI_BOOLEAN || field->nullable)
            g_ptr_array_add(names, g_strconcat("no-", field->flag, NULL));
    }
    for (const CliField *field = option_fields; field->name != NULL; field++)
        g_ptr_array_add(names, g_strdup(field->flag));
    g_ptr_array_add(names, NULL);
    const char *near = suggest(name, (const char *const *)names->pdata);
    g_autofree char *title = command_title(method);
    ctl_fail(error, CTL_USAGE, "%s has no flag --%s%s%s%s", title, name,
             near != NULL ? "; did you mean --" : "", near != NULL ? near : "",
             near != NULL ? "?" : "");
}

static const CliField *find_flag(const CliMethod *method, const char *name, bool *ret_negated)
{
    for (const CliField *field = method->params; field->name != NULL; field++) {
        *ret_negated = false;
        if (strcmp(field->flag, name) == 0 || strcmp(field->name, name) == 0)
            return field;
        *ret_negated = g_str_has_prefix(name, "no-") && strcmp(field->flag, name + 3) == 0;
        if (*ret_negated && (field->type == CLI_BOOLEAN || field->nullable))
            return field;
    }
    return NULL;
}

/* words[*at] begins with "--". */
static bool take_flag(Parser *parser, char **words, int *at, GError **error)
{
    const char *word = words[(*at)++], *equals = strchr(word, '=');
    g_autofree char *name =
        equals != NULL ? g_strndup(word + 2, (size_t)(equals - word - 2)) : g_strdup(word + 2);
    bool negated;
    const CliField *field = find_flag(parser->method, name, &negated);
    if (field == NULL) {
        parser->form = true;
        fail_unknown_flag(parser->method, name, error);
        return false;
    }
    g_autofree char *label = g_strconcat("--", name, NULL);
    bool boolean = field->type == CLI_BOOLEAN && !field->list;
    if (negated && equals != NULL)
        return fail_mixed(label, "takes no value", error);
    if (negated && !boolean)
        return set_null(&parser->given[field - parser->method->params], label, error);
    if (equals != NULL)
        return add_value(parser, field, label, equals + 1, error);
    if (boolean)
        return add_value(parser, field, label, negated ? "false" : "true", error);
    if (words[*at] == NULL)
        return fail_mixed(label, "needs a value", error);
    return add_value(parser, field, label, words[(*at)++], error);
}

static bool take_words(Parser *parser, char **words, GError **error)
{
    bool flags = true;
    for (int at = 0; words[at] != NULL;) {
        GError *problem = NULL;
        if (flags && strcmp(words[at], "--") == 0) {
            flags = false;
            at++;
        } else if (flags && parser->options != NULL &&
                   options_take(parser->options, words, &at, &problem)) {
            continue;
        } else if (problem != NULL) {
            g_propagate_error(error, problem);
            return false;
        } else if (flags && g_str_has_prefix(words[at], "--")) {
            if (!take_flag(parser, words, &at, error))
                return false;
        } else if (flags && words[at][0] == '-' && words[at][1] != 0) {
            ctl_fail(error, CTL_USAGE, "there is no flag %s; flags have two dashes", words[at]);
            return false;
        } else {
            g_ptr_array_add(parser->words, words[at++]);
        }
    }
    return true;
}

/* --- positionals --- */

static bool place_words(Parser *parser, GError **error)
{
    unsigned used = 0;
    for (unsigned i = 0; i < parser->count && used < parser->words->len; i++) {
        const CliField *field = &parser->method->params[i];
        if (!field->positional || parser->given[i].set)
            continue;
        g_autofree char *label = field_label(field, false);
        do {
            if (!add_value(parser, field, label, parser->words->pdata[used++], error))
                return false;
        } while (field->list && used < parser->words->len);
    }
    parser->form = true;
    if (used == parser->words->len)
        return true;
    ctl_fail(error, CTL_USAGE, "\"%s\" is one word too many", (char *)parser->words->pdata[used]);
    return false;
}

static bool check_complete(const Parser *parser, GError **error)
{
    for (unsigned i = 0; i < parser->count; i++) {
        const CliField *field = &parser->method->params[i];
        if (!field->required || parser->given[i].set)
            continue;
        g_autofree char *label = field_label(field, !field->positional);
        ctl_fail(error, CTL_USAGE, "%s is missing", label);
        return false;
    }
    const char *const *one_of = parser->method->one_of;
    unsigned set = 0;
    g_autoptr(GString) names = g_string_new(NULL);
    for (; one_of != NULL && *one_of != NULL; one_of++)
        for (unsigned i = 0; i < parser->count; i++)
            if (strcmp(parser->method->params[i].name, *one_of) == 0) {
                const CliField *field = &parser->method->params[i];
                g_autofree char *label = field_label(field, !field->positional);
                g_string_append_printf(names, "%s%s", names->len > 0 ? " or " : "", label);
                set += parser->given[i].set;
            }
    if (names->len == 0 || set == 1)
        return true;
    ctl_fail(error, CTL_USAGE, set == 0 ? "%s is missing" : "%s: one of them, not both",
             names->str);
    return false;
}

/* --- all of it --- */

static char *params_text(const Parser *parser)
{
    GString *out = g_string_new("{");
    for (unsigned i = 0; i < parser->count; i++) {
        const CliField *field = &parser->method->params[i];
        const Given *given = &parser->given[i];
        if (!given->set)
            continue;
        if (out->len > 1)
            g_string_append_c(out, ',');
        json_append_string(out, field->name);
        g_string_append_printf(out, field->list && !given->null ? ":[%s]" : ":%s",
                               given->null ? "null" : given->items->str);
    }
    g_string_append_c(out, '}');
    return g_string_free(out, FALSE);
}

char *args_parse(const CliMethod *method, char **words, Options *options, GError **error)
{
    Parser parser = {.method = method, .options = options};
    while (method->params[parser.count].name != NULL)
        parser.count++;
    g_autofree Given *given = g_new0(Given, parser.count + 1);
    for (unsigned i = 0; i < parser.count; i++)
        given[i].items = g_string_new(NULL);
    parser.given = given;
    g_autoptr(GPtrArray) positionals = g_ptr_array_new();
    parser.words = positionals;

    g_autoptr(GError) problem = NULL;
    char *text = NULL;
    if (take_words(&parser, words, &problem) &&
        (options == NULL || !(options->help || options->version)) &&
        place_words(&parser, &problem) && check_complete(&parser, &problem))
        text = params_text(&parser);
    else if (problem == NULL)
        text = g_strdup("{}"); /* help was asked for */
    for (unsigned i = 0; i < parser.count; i++)
        g_string_free(given[i].items, TRUE);
    if (problem != NULL) {
        g_autofree char *usage = parser.form ? help_usage(method) : NULL;
        ctl_fail(error, problem->code, "%s%s%s", problem->message, usage != NULL ? "\nusage: " : "",
                 usage != NULL ? usage : "");
    }
    return text;
}
