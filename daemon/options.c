#include "daemon/options.h"
#include "daemon/log.h"
#include <string.h>
#include <unistd.h>

/* While the parser runs: its callbacks have no other way to the options being filled. */
typedef struct {
    Options *options;
    char *log_level, *tracking_failure, *engine;
    char *region_size, *max_intents, *checkpoint_seconds, *failure_seconds;
} Parse;

static char *default_state_dir(void)
{
    if (geteuid() == 0)
        return g_strdup("/var/lib/nbdd");
    return g_build_filename(g_get_user_state_dir(), "nbdd", NULL);
}

static char *default_runtime_dir(void)
{
    if (geteuid() == 0)
        return g_strdup("/run/nbdd");
    /* Without XDG_RUNTIME_DIR GLib would answer its cache folder, which is no place for a socket.
     */
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    if (runtime && *runtime)
        return g_build_filename(runtime, "nbdd", NULL);
    return g_strdup_printf("/run/user/%u/nbdd", (unsigned)geteuid());
}

static char *default_socket(const char *runtime_dir)
{
    const char *environment = g_getenv("NBDD_SOCKET");
    if (environment && *environment)
        return g_strdup(environment);
    return g_build_filename(runtime_dir, "control.sock", NULL);
}

/* Files are opened long after the start, so nothing may hang on the working directory. */
static void make_absolute(char **path)
{
    char *absolute = g_canonicalize_filename(*path, NULL);
    g_free(*path);
    *path = absolute;
}

static gboolean set_limit(const char *option, const char *value, gpointer data, GError **error)
{
    Parse *parse = data;
    for (const LimitRow *row = limit_rows; row->flag; row++) {
        if (g_str_equal(row->flag, option + 2))
            return limits_set(&parse->options->limits, row, value, error);
    }
    g_return_val_if_reached(FALSE);
}

/* One option for each row of the table of limits. */
static void add_limits(GOptionContext *context, Parse *parse)
{
    GOptionGroup *group =
        g_option_group_new("limits", "Bounds on what clients can use:",
                           "Show the options that bound what clients can use", parse, NULL);
    for (const LimitRow *row = limit_rows; row->flag; row++) {
        g_autofree char *help =
            g_strdup_printf("%s (%" G_GUINT64_FORMAT ")", row->help, row->initial);
        /* GLib keeps the pointers: these live as long as the program. */
        GOptionEntry entries[] = {{row->flag, 0, 0, G_OPTION_ARG_CALLBACK, (gpointer)set_limit,
                                   g_intern_string(help), "N"},
                                  G_OPTION_ENTRY_NULL};
        g_option_group_add_entries(group, entries);
    }
    g_option_context_add_group(context, group);
}

/* The bounds of tracking are read like those of clients. */
static bool parse_number(const char *flag, const char *text, uint64_t minimum, uint64_t maximum,
                         uint64_t *number, GError **error)
{
    if (!text)
        return true;
    LimitRow row = {.flag = flag, .minimum = minimum, .maximum = maximum};
    Limits scratch;
    row.offset = offsetof(Limits, clients);
    if (!limits_set(&scratch, &row, text, error))
        return false;
    *number = scratch.clients;
    return true;
}

static bool finish_tracking(const Parse *parse, GError **error)
{
    StoreOptions *store = &parse->options->store;
    uint64_t region = store->region_size, intents = store->max_intents,
             seconds = store->checkpoint_seconds, patience = store->failure_seconds;
    if (!parse_number("region-size", parse->region_size, 64 * 1024, UINT64_C(1) << 40, &region,
                      error) ||
        !parse_number("max-intents", parse->max_intents, 16, 1 << 20, &intents, error) ||
        !parse_number("checkpoint-seconds", parse->checkpoint_seconds, 0, 86400, &seconds, error) ||
        !parse_number("tracking-failure-seconds", parse->failure_seconds, 0, 86400, &patience,
                      error))
        return false;
    if (region & (region - 1)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--region-size must be a power of two, not \"%s\"", parse->region_size);
        return false;
    }
    store->region_size = region;
    store->max_intents = (uint32_t)intents;
    store->checkpoint_seconds = (uint32_t)seconds;
    store->failure_seconds = (uint32_t)patience;

    const char *failure = parse->tracking_failure;
    if (!failure || g_str_equal(failure, "refuse")) {
        store->on_failure = STORE_FAILURE_REFUSE;
    } else if (g_str_equal(failure, "invalidate")) {
        store->on_failure = STORE_FAILURE_INVALIDATE;
    } else {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--tracking-failure must be refuse or invalidate, not \"%s\"", failure);
        return false;
    }
    return true;
}

static bool finish_engine(const Parse *parse, GError **error)
{
    const char *engine = parse->engine;
    if (!engine || g_str_equal(engine, "auto")) {
        parse->options->engine = ENGINE_AUTO;
    } else if (g_str_equal(engine, "threads")) {
        parse->options->engine = ENGINE_THREADS;
    } else {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--io-engine must be auto or threads, not \"%s\"", engine);
        return false;
    }
    return true;
}

static bool finish(const Parse *parse, int argc, char **argv, GError **error)
{
    Options *options = parse->options;
    if (argc > 1) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "unexpected argument \"%s\": everything is an option", argv[1]);
        return false;
    }
    if (parse->log_level && !log_level_parse(parse->log_level, &options->log_level)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--log-level must be error, warning, message, info or debug, not \"%s\"",
                    parse->log_level);
        return false;
    }
    options->runtime_dir = default_runtime_dir();
    if (!options->state_dir)
        options->state_dir = default_state_dir();
    if (!options->socket)
        options->socket = default_socket(options->runtime_dir);
    make_absolute(&options->state_dir);
    make_absolute(&options->socket);
    options->store.runtime_dir = options->runtime_dir;
    return finish_engine(parse, error) && finish_tracking(parse, error);
}

bool options_parse(Options *options, int argc, char **argv, GError **error)
{
    memset(options, 0, sizeof(*options));
    options->log_level = G_LOG_LEVEL_MESSAGE;
    options->store = store_default_options;
    limits_init(&options->limits);
    Parse parse = {.options = options};
    gboolean version = FALSE;
    const GOptionEntry entries[] = {
        {"state-dir", 0, 0, G_OPTION_ARG_FILENAME, &options->state_dir,
         "Where the durable state is (DIR/state.db)", "DIR"},
        {"socket", 0, 0, G_OPTION_ARG_FILENAME, &options->socket, "The control socket", "PATH"},
        {"listen", 0, 0, G_OPTION_ARG_STRING_ARRAY, &options->listen,
         "Serve NBD on unix:PATH or tcp:HOST:PORT too (may be repeated)", "ADDRESS"},
        {"access", 0, 0, G_OPTION_ARG_STRING_ARRAY, &options->access,
         "Give a user, uid or @GROUP the level read, operate or admin (may be repeated)",
         "LEVEL=WHO"},
        {"socket-group", 0, 0, G_OPTION_ARG_STRING, &options->socket_group,
         "Group that may connect to the control socket", "GROUP"},
        {"log-level", 0, 0, G_OPTION_ARG_STRING, &parse.log_level,
         "error, warning, message (default), info or debug", "LEVEL"},
        {"io-engine", 0, 0, G_OPTION_ARG_STRING, &parse.engine,
         "auto (default: io_uring where the kernel allows it) or threads", "ENGINE"},
        {"region-size", 0, 0, G_OPTION_ARG_STRING, &parse.region_size,
         "Bytes that one write intent covers, a power of two from 64k (4M)", "N"},
        {"max-intents", 0, 0, G_OPTION_ARG_STRING, &parse.max_intents,
         "Write intents of one disk at once, at least 16 (2048)", "N"},
        {"checkpoint-seconds", 0, 0, G_OPTION_ARG_STRING, &parse.checkpoint_seconds,
         "How often regions that have gone quiet are stored exactly (2; 0: at once)", "N"},
        {"tracking-failure", 0, 0, G_OPTION_ARG_STRING, &parse.tracking_failure,
         "When dirty bits cannot be stored: refuse the write (default) or invalidate bitmaps",
         "WHAT"},
        {"tracking-failure-seconds", 0, 0, G_OPTION_ARG_STRING, &parse.failure_seconds,
         "How long a write waits before that (10)", "N"},
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version and exit", NULL},
        G_OPTION_ENTRY_NULL};

    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_set_summary(context, "Serves disks over NBD and records which of their blocks "
                                          "change. nbdctl steers it while it runs.");
    g_option_context_set_description(
        context, "SIGTERM and SIGINT stop it cleanly, SIGHUP reloads credentials.\n");
    g_option_context_add_main_entries(context, entries, NULL);
    add_limits(context, &parse);
    bool good = g_option_context_parse(context, &argc, &argv, error);
    options->show_version = version;
    good = good && (version || finish(&parse, argc, argv, error));
    g_free(parse.log_level);
    g_free(parse.engine);
    g_free(parse.tracking_failure);
    g_free(parse.region_size);
    g_free(parse.max_intents);
    g_free(parse.checkpoint_seconds);
    g_free(parse.failure_seconds);
    return good;
}

void options_clear(Options *options)
{
    g_free(options->state_dir);
    g_free(options->socket);
    g_free(options->runtime_dir);
    g_strfreev(options->listen);
    g_strfreev(options->access);
    g_free(options->socket_group);
}
