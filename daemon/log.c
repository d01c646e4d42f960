#include "daemon/log.h"
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *name;
    GLogLevelFlags level;
    int priority; /* of syslog, sd-daemon(3) */
} Level;

static const Level levels[] = {
    {"error", G_LOG_LEVEL_ERROR, 2},     {"critical", G_LOG_LEVEL_CRITICAL, 3},
    {"warning", G_LOG_LEVEL_WARNING, 4}, {"message", G_LOG_LEVEL_MESSAGE, 5},
    {"info", G_LOG_LEVEL_INFO, 6},       {"debug", G_LOG_LEVEL_DEBUG, 7},
};

static GLogLevelFlags least_level = G_LOG_LEVEL_MESSAGE;
static bool to_journal;

bool log_level_parse(const char *name, GLogLevelFlags *ret_level)
{
    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        if (g_str_equal(levels[i].name, name)) {
            *ret_level = levels[i].level;
            return true;
        }
    }
    return false;
}

static const Level *find_level(GLogLevelFlags flags)
{
    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        if (flags & levels[i].level)
            return &levels[i];
    }
    return &levels[G_N_ELEMENTS(levels) - 1];
}

static const char *find_field(const GLogField *fields, gsize count, const char *key)
{
    for (gsize i = 0; i < count; i++) {
        if (g_str_equal(fields[i].key, key) && fields[i].length < 0)
            return fields[i].value;
    }
    return NULL;
}

/* A message may carry text from a peer: it stays one line, and sends no escapes to a terminal. */
static void append_clean(GString *line, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (c < ' ' || (c >= 0x7f && c < 0xa0)) /* U+009B begins an escape as ESC [ does */
            g_string_append_printf(line, "\\x%02x", (unsigned)c);
        else
            g_string_append_unichar(line, c);
    }
}

static GLogWriterOutput write_line(GLogLevelFlags flags, const GLogField *fields, gsize count,
                                   gpointer data)
{
    const Level *level = find_level(flags & G_LOG_LEVEL_MASK);
    if (level->level > least_level)
        return G_LOG_WRITER_HANDLED;
    const char *message = find_field(fields, count, "MESSAGE");
    const char *domain = find_field(fields, count, "GLIB_DOMAIN");
    g_autoptr(GString) line = g_string_new(NULL);
    if (to_journal)
        g_string_append_printf(line, "<%d>", level->priority);
    else
        g_string_append_printf(
            line, "nbdd: %s: ", level->level == G_LOG_LEVEL_CRITICAL ? "CRITICAL" : level->name);
    if (domain)
        g_string_append_printf(line, "%s: ", domain);
    append_clean(line, message ? message : "");
    g_string_append_c(line, '\n');
    /* One write, so that lines of several threads do not mix. If stderr is gone, so is the log. */
    ssize_t written = write(STDERR_FILENO, line->str, line->len);
    (void)written;
    return G_LOG_WRITER_HANDLED;
}

/* systemd says with JOURNAL_STREAM which file it has connected stderr to. */
static bool stderr_is_journal(void)
{
    const char *stream = g_getenv("JOURNAL_STREAM");
    struct stat status;
    if (!stream || fstat(STDERR_FILENO, &status) < 0)
        return false;
    g_autofree char *ours = g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT,
                                            (guint64)status.st_dev, (guint64)status.st_ino);
    return g_str_equal(stream, ours);
}

void log_start(GLogLevelFlags least)
{
    least_level = least;
    to_journal = stderr_is_journal();
    g_log_set_writer_func(write_line, NULL, NULL);
}
