#include "ctl/help.h"
#include "ctl/errors.h"
#include "ctl/field.h"
#include <string.h>

enum { TEXT_WIDTH_MAX = 100, TERM_WIDTH_MAX = 26 };

static const CliField help_params[] = {
    {.name = "words",
     .flag = "words",
     .placeholder = "WORD",
     .type = CLI_STRING,
     .description = "A noun, or a noun and a verb; without: everything.",
     .positional = true,
     .list = true,
     .maximum = 2},
    {.name = NULL},
};
const CliMethod help_method = {
    .name = "help",
    .noun = "help",
    .summary = "Say how nbdctl is used.",
    .params = help_params,
};

/* --- words of a usage line --- */

static bool in_one_of(const CliMethod *method, const CliField *field)
{
    return method->one_of != NULL && g_strv_contains(method->one_of, field->name);
}

/* `(--disk NAME | --path PATH)`; NULL unless first is the first of them. */
static char *one_of_term(const CliMethod *method, const CliField *first)
{
    if (strcmp(method->one_of[0], first->name) != 0)
        return NULL;
    GString *out = g_string_new(NULL);
    for (const CliField *field = method->params; field->name != NULL; field++)
        if (in_one_of(method, field)) {
            g_autofree char *term = field_term(field);
            g_string_append_printf(out, "%s%s", out->len > 0 ? " | " : "(", term);
        }
    g_string_append_c(out, ')');
    return g_string_free(out, FALSE);
}

/* The command, and then each parameter; lines break between them. Ends with NULL. */
static GStrv usage_terms(const CliMethod *method)
{
    g_autofree char *title = command_title(method);
    GPtrArray *terms = g_ptr_array_new();
    g_ptr_array_add(terms, g_strconcat("nbdctl ", title, NULL));
    for (const CliField *field = method->params; field->name != NULL; field++) {
        g_autofree char *plain = field_term(field);
        char *term = in_one_of(method, field)
                         ? one_of_term(method, field)
                         : g_strdup_printf(field->required ? "%s%s" : "[%s]%s", plain,
                                           field->list && !field->positional ? "..." : "");
        if (term != NULL)
            g_ptr_array_add(terms, term);
    }
    g_ptr_array_add(terms, NULL);
    return (GStrv)g_ptr_array_free(terms, FALSE);
}

char *help_usage(const CliMethod *method)
{
    g_auto(GStrv) terms = usage_terms(method);
    return g_strjoinv(" ", terms);
}

/* --- paragraphs --- */

static unsigned text_width_for(const Terminal *terminal)
{
    return MIN(terminal->width, TEXT_WIDTH_MAX);
}

/* Appends words from column `at` on, further lines indented. */
static void wrap_words(GString *out, const Terminal *terminal, char *const *words, unsigned at,
                       unsigned indent)
{
    bool first = true;
    for (unsigned i = 0; words[i] != NULL; i++) {
        unsigned width = text_width(words[i]);
        if (!first && at + 1 + width > text_width_for(terminal)) {
            g_string_append_printf(out, "\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        g_string_append_printf(out, "%s%s", first ? "" : " ", words[i]);
        at += width + !first;
        first = false;
    }
    g_string_append_c(out, '\n');
}

static void wrap(GString *out, const Terminal *terminal, const char *text, unsigned at,
                 unsigned indent)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    wrap_words(out, terminal, words, at, indent);
}

/* A term and what it means, in two columns. */
static void define(GString *out, const Terminal *terminal, unsigned indent, unsigned column,
                   const char *term, const char *text)
{
    g_string_append_printf(out, "%*s", (int)indent, "");
    style_append(out, terminal, STYLE_NAME, term);
    unsigned used = indent + text_width(term);
    if (used + 2 > column) {
        g_string_append_c(out, '\n');
        used = 0;
    }
    g_string_append_printf(out, "%*s", (int)(column - used), "");
    wrap(out, terminal, text, column, column);
}

static void heading(GString *out, const Terminal *terminal, const char *text)
{
    g_string_append_c(out, '\n');
    style_append(out, terminal, STYLE_HEADER, text);
    g_string_append_c(out, '\n');
}

/* --- one command --- */

static char *meaning_of(const CliField *field)
{
    GString *out = g_string_new(field->description);
    if (field->default_text != NULL && field->type != CLI_BOOLEAN)
        g_string_append_printf(out, " Default: %s.", field->default_text);
    if (field->type == CLI_BOOLEAN && g_strcmp0(field->default_text, "true") == 0)
        g_string_append(out, " That is the default; this flag turns it off.");
    if (field->type == CLI_BOOLEAN && field->default_text == NULL && !field->required)
        g_string_append_printf(out, " Or --no-%s.", field->flag);
    if (field->list && !field->positional)
        g_string_append(out, " May be repeated.");
    if (field->type == CLI_ACTION)
        g_string_append(out,
                        " Each is a command in one word, such as 'bitmap add vm1 b0', or JSON, "
                        "or a file of either (- for standard input).");
    if (field->nullable)
        g_string_append_printf(
            out, field->list ? " (--no-%s: null; --%s '': the empty list)" : " (--no-%s: null)",
            field->flag, field->flag);
    return g_string_free(out, FALSE);
}

static unsigned column_of(const CliField *fields, unsigned column)
{
    for (const CliField *field = fields; field->name != NULL; field++) {
        g_autofree char *term = field_term(field);
        if (text_width(term) + 4 <= TERM_WIDTH_MAX)
            column = MAX(column, text_width(term) + 4);
    }
    return column;
}

static void append_fields(GString *out, const Terminal *terminal, const CliField *fields,
                          unsigned column)
{
    for (const CliField *field = fields; field->name != NULL; field++) {
        g_autofree char *term = field_term(field), *meaning = meaning_of(field);
        define(out, terminal, 2, column, term, meaning);
        if (field->type != CLI_ENUM)
            continue;
        unsigned widest = 0;
        for (const CliChoice *choice = field->choices; choice->name != NULL; choice++)
            widest = MAX(widest, text_width(choice->name));
        for (const CliChoice *choice = field->choices; choice->name != NULL; choice++)
            define(out, terminal, column + 2, column + 4 + widest, choice->name,
                   choice->description);
    }
}

static void append_command(GString *out, const Terminal *terminal, const CliMethod *method)
{
    g_auto(GStrv) terms = usage_terms(method);
    g_string_append(out, "usage: ");
    wrap_words(out, terminal, terms, 7, 11);
    g_string_append_c(out, '\n');
    wrap(out, terminal, method->summary, 0, 0);
    if (method->description != NULL)
        wrap(out, terminal, method->description, 0, 0);
    unsigned column = column_of(method->params, column_of(option_fields, 0));
    if (method->params->name != NULL) {
        g_string_append_c(out, '\n');
        append_fields(out, terminal, method->params, column);
    }
    heading(out, terminal, "With every command");
    append_fields(out, terminal, option_fields, column);
    if (method->examples != NULL && method->examples->title != NULL)
        heading(out, terminal, "Examples");
    for (const CliExample *example = method->examples; example != NULL && example->title != NULL;
         example++) {
        g_string_append(out, "  ");
        wrap(out, terminal, example->title, 2, 2);
        g_string_append_printf(out, "      %s\n", example->command);
    }
    if (method->access != NULL) {
        g_autofree char *access = g_strdup_printf("Needs the access level %s.", method->access);
        g_string_append_c(out, '\n');
        wrap(out, terminal, access, 0, 0);
    }
}

/* --- overviews --- */

typedef struct Overview {
    GString *out;
    const Terminal *terminal;
    unsigned column;
    bool single;      /* commands of one word, or of two */
    const char *noun; /* of the line before */
} Overview;

static void measure(const Command *command, gpointer data)
{
    Overview *overview = data;
    g_autofree char *title = command_title(command->method);
    overview->column = MAX(overview->column, text_width(title) + 4);
}

static void append_line(const Command *command, gpointer data)
{
    Overview *overview = data;
    if ((command->method->verb == NULL) != overview->single)
        return;
    g_autofree char *title = command_title(command->method);
    if (overview->noun != NULL && strcmp(overview->noun, command->method->noun) != 0 &&
        !overview->single)
        g_string_append_c(overview->out, '\n');
    overview->noun = command->method->noun;
    define(overview->out, overview->terminal, 2, overview->column, title, command->method->summary);
}

static void append_commands(GString *out, const Terminal *terminal, const char *noun)
{
    Overview overview = {.out = out, .terminal = terminal};
    command_each(noun, measure, &overview);
    command_each(noun, append_line, &overview);
    if (noun == NULL)
        g_string_append_c(out, '\n');
    overview.single = true;
    command_each(noun, append_line, &overview);
}

static void append_all(GString *out, const Terminal *terminal)
{
    g_string_append(out, "usage: nbdctl NOUN VERB [NAME...] [--flag value]\n\n");
    wrap(out, terminal,
         "nbdctl steers nbdd, the NBD server that knows which blocks of its disks have changed.", 0,
         0);
    heading(out, terminal, "Commands");
    append_commands(out, terminal, NULL);
    heading(out, terminal, "With every command");
    append_fields(out, terminal, option_fields, column_of(option_fields, 0));
    heading(out, terminal, "Exit status");
    static const char *const statuses[][2] = {
        {"0", "Done."},
        {"1", "The daemon refused."},
        {"2", "No daemon was reached."},
        {"3", "The command line is wrong."},
        {"4", "What was named does not exist."},
        {"5", "It exists already, is in use, or is not in the right state."},
        {"6", "Not allowed: the access level does not reach."},
        {"7", "It took too long."},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(statuses); i++)
        define(out, terminal, 2, 5, statuses[i][0], statuses[i][1]);
    g_string_append(out, "\n`nbdctl help NOUN VERB` tells all about one command.\n");
}

/* False when the word is no noun, or is a command by itself. */
static bool append_noun(GString *out, const Terminal *terminal, char *word)
{
    char *const words[] = {word, NULL};
    int used;
    if (!command_is_noun(word) || command_find(words, &used, NULL) != NULL)
        return false;
    g_string_append_printf(out, "usage: nbdctl %s VERB ...\n\n", word);
    for (const CliNoun *noun = cli_nouns; noun->name != NULL; noun++)
        if (strcmp(noun->name, word) == 0)
            wrap(out, terminal, noun->description, 0, 0);
    g_string_append_c(out, '\n');
    append_commands(out, terminal, word);
    g_string_append_printf(out, "\n`nbdctl %s VERB --help` tells all about one of them.\n", word);
    return true;
}

bool help_append(GString *out, const Terminal *terminal, char *const *words, GError **error)
{
    if (words[0] == NULL) {
        append_all(out, terminal);
        return true;
    }
    if (words[1] == NULL && append_noun(out, terminal, words[0]))
        return true;
    int used;
    const Command *command = command_find(words, &used, error);
    if (command == NULL)
        return false;
    append_command(out, terminal, command->method);
    return true;
}

bool help_run(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    char *words[3] = {NULL};
    const Json *list = json_member(params, "words");
    if (json_count(list) > 2) {
        ctl_fail(error, CTL_USAGE, "help takes a noun and a verb at most");
        return false;
    }
    unsigned count = 0;
    for (const Json *word = list != NULL ? list->child : NULL; word != NULL; word = word->next)
        words[count++] = json_string(word);
    g_autoptr(GString) out = g_string_new(NULL);
    bool good = help_append(out, context->terminal, words, error) && terminal_write(out, error);
    for (unsigned i = 0; i < count; i++)
        g_free(words[i]);
    return good;
}
