#include "ctl/args.h"
#include "ctl/call.h"
#include "ctl/commands.h"
#include "ctl/errors.h"
#include "ctl/json.h"
#include "tests/unit/check.h"

/* What a command line becomes: the method and its params, or "N: message" with the exit status. */
static char *parse(const char *line)
{
    g_auto(GStrv) words = NULL;
    g_autoptr(GError) error = NULL;
    Options options = {NULL};
    int used;
    assert_true(g_shell_parse_argv(line, NULL, &words, NULL));
    const Command *command = command_find(words, &used, &error);
    g_autofree char *params =
        command != NULL ? args_parse(command->method, words + used, &options, &error) : NULL;
    if (params == NULL)
        return g_strdup_printf("%d: %s", error->code, error->message);
    return g_strconcat(command->method->name, " ", params, NULL);
}

typedef struct Row {
    const char *line, *expected;
} Row;

static void check_rows(const Row *rows, size_t count, bool whole)
{
    for (size_t i = 0; i < count; i++) {
        g_autofree char *got = parse(rows[i].line);
        if (whole ? strcmp(got, rows[i].expected) != 0 : !g_str_has_prefix(got, rows[i].expected))
            fail_msg("%s\n  became   %s\n  expected %s", rows[i].line, got, rows[i].expected);
    }
}

static void lines_become_params(void **state)
{
    static const Row rows[] = {
        {"disk list", "disk.list {}"},
        {"disk add vm1 /a/b", "disk.add {\"name\":\"vm1\",\"path\":\"/a/b\"}"},
        {"disk add --read-only vm1 --cache direct /a",
         "disk.add {\"name\":\"vm1\",\"path\":\"/a\",\"read_only\":true,\"cache\":\"direct\"}"},
        {"disk add --cache=direct vm1 /a=b",
         "disk.add {\"name\":\"vm1\",\"path\":\"/a=b\",\"cache\":\"direct\"}"},
        {"disk add --name vm1 --path /a", "disk.add {\"name\":\"vm1\",\"path\":\"/a\"}"},
        {"disk add --path /a vm1", "disk.add {\"name\":\"vm1\",\"path\":\"/a\"}"},
        {"disk remove --json x --timeout 3 --socket /s", "disk.remove {\"name\":\"x\"}"},
        {"disk show -- --odd", "disk.show {\"name\":\"--odd\"}"},
        {"bitmap add d b --granularity 64k --no-recording --dry-run",
         "bitmap.add {\"disk\":\"d\",\"name\":\"b\",\"granularity\":65536,\"recording\":false,"
         "\"dry_run\":true}"},
        {"bitmap add d b --recording=false",
         "bitmap.add {\"disk\":\"d\",\"name\":\"b\",\"recording\":false}"},
        {"bitmap merge d t a b c",
         "bitmap.merge {\"disk\":\"d\",\"target\":\"t\",\"sources\":[\"a\",\"b\",\"c\"]}"},
        {"bitmap merge d t ''", "bitmap.merge {\"disk\":\"d\",\"target\":\"t\",\"sources\":[]}"},
        {"bitmap list --disk D", "bitmap.list {\"disk\":\"D\"}"},
        {"export set e --allow 'x509:CN=a,O=b' --allow '!ip:::/0'",
         "export.set {\"name\":\"e\",\"allow\":[\"x509:CN=a,O=b\",\"!ip:::/0\"]}"},
        {"export set e --allow ''", "export.set {\"name\":\"e\",\"allow\":[]}"},
        {"export set e --no-allow", "export.set {\"name\":\"e\",\"allow\":null}"},
        {"export set e --allow null", "export.set {\"name\":\"e\",\"allow\":null}"},
        {"export set e --max-clients null --no-description",
         "export.set {\"name\":\"e\",\"max_clients\":null,\"description\":null}"},
        {"export set e --no-read-only --max_clients 5",
         "export.set {\"name\":\"e\",\"read_only\":false,\"max_clients\":5}"},
        {"export set e --description ''", "export.set {\"name\":\"e\",\"description\":\"\"}"},
        {"export add e --path /p", "export.add {\"name\":\"e\",\"path\":\"/p\"}"},
        {"listener add l unix:/a", "listener.add {\"name\":\"l\",\"address\":\"unix:/a\"}"},
        {"client disconnect 7", "client.disconnect {\"id\":7}"},
        {"stats --export e", "stats {\"export\":\"e\"}"},
        {"event subscribe --topics client --topics disk --since 18446744073709551615",
         "event.subscribe {\"topics\":[\"client\",\"disk\"],\"since\":18446744073709551615}"},
        {"transaction --actions '[{\"method\": \"a.b\"}, {\"method\":\"c\"}]' --actions '{}'",
         "transaction {\"actions\":[{\"method\":\"a.b\"},{\"method\":\"c\"},{}]}"},
        {"transaction --actions 'bitmap add d \"b\" --granularity 1M'",
         "transaction {\"actions\":[{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":"
         "\"b\",\"granularity\":1048576}}]}"},
    };
    check_rows(rows, G_N_ELEMENTS(rows), true);
}

static void relative_paths_become_absolute(void **state)
{
    g_autofree char *here = g_get_current_dir();
    g_autofree char *path =
        g_strdup_printf("disk.add {\"name\":\"v\",\"path\":\"%s/a.img\"}", here);
    g_autofree char *address =
        g_strdup_printf("listener.add {\"name\":\"l\",\"address\":\"unix:%s/s\"}", here);
    const Row rows[] = {
        {"disk add v a.img", path},
        {"disk add v ./a.img", path},
        {"listener add l unix:s", address},
        {"listener add l tcp:h:1", "listener.add {\"name\":\"l\",\"address\":\"tcp:h:1\"}"},
    };
    check_rows(rows, G_N_ELEMENTS(rows), true);
}

static void faults_are_usage_errors(void **state)
{
    static const Row rows[] = {
        {"dsk list", "3: there is no command \"dsk\"; did you mean \"disk\"?"},
        {"disks list", "3: there is no command \"disks\"; did you mean \"disk\"?"},
        {"xyzzy", "3: there is no command \"xyzzy\"\nThere are: bitmap, "},
        {"disk", "3: disk what?\nThere are: add, list, refresh, remove, show"},
        {"disk ad v /p", "3: disk has no \"ad\"; did you mean \"disk add\"?"},
        {"disk add", "3: NAME is missing\nusage: nbdctl disk add NAME PATH "},
        {"disk add v", "3: PATH is missing\nusage: "},
        {"disk add v /p q", "3: \"q\" is one word too many\nusage: "},
        {"disk add v /p --name w", "3: \"/p\" is one word too many\n"},
        {"bitmap merge d t --sources a b", "3: \"b\" is one word too many"},
        {"disk add v /p --readonly",
         "3: disk add has no flag --readonly; did you mean --read-only?"},
        {"disk add v /p --zzz", "3: disk add has no flag --zzz\nusage: "},
        {"disk add v /p -r", "3: there is no flag -r; flags have two dashes"},
        {"disk add v /p --cache", "3: --cache: needs a value"},
        {"disk add v /p --cache dirct",
         "3: --cache: \"dirct\" is none of writeback, direct; did you mean direct?"},
        {"disk add v /p --cache direct --cache direct", "3: --cache: given twice"},
        {"disk add v /p --read-only=maybe", "3: --read-only: \"maybe\" is neither true nor false"},
        {"disk add v /p --no-read-only=true", "3: --no-read-only: takes no value"},
        {"disk add v /p --no-cache", "3: disk add has no flag --no-cache"},
        {"disk list --json=1", "3: --json takes no value"},
        {"disk list --timeout x", "3: --timeout: \"x\" is no number of seconds above 0"},
        {"disk list --timeout 0", "3: --timeout: \"0\" is no number of seconds above 0"},
        {"disk list --socket", "3: --socket needs a value"},
        {"bitmap add d b --granularity 64q",
         "3: --granularity: \"64q\" is no size: write a whole "},
        {"bitmap merge d t",
         "3: SOURCE is missing\nusage: nbdctl bitmap merge DISK TARGET SOURCE..."},
        {"client disconnect seven", "3: ID: \"seven\" is no whole number"},
        {"client disconnect 4k", "3: ID: \"4k\" is no whole number"},
        {"export add e",
         "3: --disk or --path is missing\nusage: nbdctl export add NAME (--disk NAME "
         "| --path PATH) "},
        {"export add e --disk d --path /p", "3: --disk or --path: one of them, not both\n"},
        {"export set e --allow a --no-allow", "3: --no-allow: null goes with no other value"},
        {"export set e --no-allow --allow a", "3: --allow: null goes with no other value"},
        {"export set e --allow a --allow ''",
         "3: --allow: the empty list goes with no other value"},
        {"transaction", "3: "},
        {"transaction --actions 'disk list'",
         "3: --actions: disk list cannot be part of a transaction"},
        {"transaction --actions 'bitmap add d'",
         "3: --actions: in \"bitmap add d\": NAME is missing"},
        {"transaction --actions '[1,'", "3: --actions: no JSON text: "},
        {"transaction --actions '[]'", "3: --actions: there are no actions in it"},
        {"transaction --actions /does/not/exist",
         "3: --actions: cannot open /does/not/exist: No such file or directory"},
    };
    check_rows(rows, G_N_ELEMENTS(rows), false);
}

/* An object parameter as later methods have it: `--disk D:BITMAP`. */
static void objects_are_written_with_colons(void **state)
{
    static const CliField members[] = {
        {.name = "disk", .flag = "disk", .type = CLI_STRING, .required = true},
        {.name = "bitmap", .flag = "bitmap", .type = CLI_STRING},
        {NULL},
    };
    static const CliObject object = {"backup-disk", "", members};
    static const CliField params[] = {
        {.name = "name", .flag = "name", .type = CLI_STRING, .positional = true, .required = true},
        {.name = "disks",
         .flag = "disk",
         .type = CLI_OBJECT,
         .list = true,
         .required = true,
         .object = &object},
        {NULL},
    };
    static const CliMethod method = {.name = "t.t", .noun = "t", .verb = "t", .params = params};
    static const Row rows[] = {
        {"n --disk a:b --disk c",
         "{\"name\":\"n\",\"disks\":[{\"disk\":\"a\",\"bitmap\":\"b\"},{\"disk\":\"c\"}]}"},
        {"n --disk '{\"disk\": \"a\"}'", "{\"name\":\"n\",\"disks\":[{\"disk\":\"a\"}]}"},
        {"n --disk :b", NULL},
        {"n", NULL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(GStrv) words = NULL;
        g_autoptr(GError) error = NULL;
        Options options = {NULL};
        assert_true(g_shell_parse_argv(rows[i].line, NULL, &words, NULL));
        g_autofree char *params_text = args_parse(&method, words, &options, &error);
        if (rows[i].expected == NULL) {
            assert_null(params_text);
            assert_int_equal(error->code, CTL_USAGE);
        } else {
            assert_string_equal(params_text, rows[i].expected);
        }
    }
}

static void call_takes_pairs_and_json(void **state)
{
    static const struct {
        const char *method, *words, *expected; /* words: a JSON list */
    } rows[] = {
        {"x.y", "[]", "{}"},
        {"x.y", "[\"a=1\",\"b=true\",\"c=x\",\"d={\\\"e\\\": 1}\",\"f=\"]",
         "{\"a\":1,\"b\":true,\"c\":\"x\",\"d\":{\"e\":1},\"f\":\"\"}"},
        {"x.y", "[\"a=1\",\"a=2\"]", "{\"a\":[1,2]}"},
        {"x.y", "[\"{\\\"k\\\" : [1, 2]}\"]", "{\"k\":[1,2]}"},
        /* Where the schema knows the parameter, 5 is a name, and 64k a size. */
        {"bitmap.add", "[\"disk=5\",\"name=true\",\"granularity=64k\",\"dry-run=true\"]",
         "{\"disk\":\"5\",\"name\":\"true\",\"granularity\":65536,\"dry_run\":true}"},
        {"bitmap.merge", "[\"sources=a\",\"sources=b\"]", "{\"sources\":[\"a\",\"b\"]}"},
        {"bitmap.merge", "[\"sources=[\\\"a\\\"]\",\"sources=b\"]", "{\"sources\":[\"a\",\"b\"]}"},
        {"bitmap.merge", "[\"sources=\"]", "{\"sources\":[]}"},
        {"export.set", "[\"allow=null\",\"nope=1\"]", "{\"allow\":null,\"nope\":1}"},
        {"x.y", "[\"novalue\"]", NULL},
        {"x.y", "[\"=1\"]", NULL},
        {"x.y", "[\"{\"]", NULL},
        {"bitmap.add", "[\"granularity=many\"]", NULL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const CliMethod *known = cli_methods;
        while (known->name != NULL && strcmp(known->name, rows[i].method) != 0)
            known++;
        g_autofree char *problem = NULL;
        g_autoptr(JsonText) words = json_parse(rows[i].words, strlen(rows[i].words), &problem);
        g_autoptr(GError) error = NULL;
        g_autofree char *params =
            call_params(known->name != NULL ? known : NULL, json_root(words), &error);
        if (rows[i].expected == NULL) {
            assert_null(params);
            assert_int_equal(error->code, CTL_USAGE);
        } else {
            assert_non_null(params);
            assert_string_equal(params, rows[i].expected);
        }
    }
}

static void no_parameter_hides_behind_a_flag_of_every_command(void **state)
{
    for (const CliMethod *method = cli_methods; method->name != NULL; method++)
        for (const CliField *field = method->params; field->name != NULL; field++)
            for (const CliField *option = option_fields; option->name != NULL; option++)
                if (strcmp(field->flag, option->flag) == 0)
                    fail_msg("%s has a parameter %s", method->name, field->name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_params),
        cmocka_unit_test(relative_paths_become_absolute),
        cmocka_unit_test(faults_are_usage_errors),
        cmocka_unit_test(objects_are_written_with_colons),
        cmocka_unit_test(call_takes_pairs_and_json),
        cmocka_unit_test(no_parameter_hides_behind_a_flag_of_every_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
