/* schema/codec: parameters that are exactly right, and everything that is not, by path. */
#include "schema/api.h"
#include "tests/unit/check.h"

#include <json-c/json.h>
#include <string.h>

/* A table of methods as small as it gets, for lists of actions. */
static bool plain_if_hard(const void *params)
{
    return ((const ExportRemoveParams *)params)->mode != API_REMOVE_MODE_SAFE;
}

static const ApiMethod methods[] = {
    {.name = "bitmap.add",
     .kind = API_METHOD_TRANSACTION,
     .params = &api_bitmap_add_params,
     .result = &api_bitmap_object},
    {.name = "disk.show",
     .kind = API_METHOD_PLAIN,
     .params = &api_disk_show_params,
     .result = &api_disk_object},
    {.name = "export.remove",
     .kind = API_METHOD_TRANSACTION,
     .params = &api_export_remove_params,
     .result = &api_removed_object,
     .is_plain = plain_if_hard},
};

static const ApiMethod *find(const char *name, gpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(methods); i++) {
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    }
    return NULL;
}

static const ApiLookup lookup = {find, NULL};

static struct json_object *parse(const char *text)
{
    struct json_object *value = json_tokener_parse(text);
    assert_non_null(value);
    return value;
}

static void decode(const ApiStruct *type, const char *text, void *ret_object)
{
    ApiProblem problem = {0};
    struct json_object *value = parse(text);
    if (!api_decode(type, value, "/params", &lookup, ret_object, &problem))
        fail_msg("%s: %s: %s", text, problem.path, problem.text);
    json_object_put(value);
}

typedef struct {
    const ApiStruct *type;
    const char *text;
    const char *path;
    const char *says; /* part of the text */
} Wrong;

#define ADD      &api_bitmap_add_params
#define SET      &api_export_set_params
#define EXPORT   &api_export_add_params
#define DISK     &api_disk_add_params
#define EXTENTS  &api_bitmap_extents_params
#define LISTENER &api_listener_add_params
#define TXN      &api_transaction_params
#define MERGE    &api_bitmap_merge_params
#define EVENTS   &api_event_subscribe_params
#define INFO     &api_daemon_info_params

static const Wrong wrong[] = {
    /* shape */
    {INFO, "{\"a\":1}", "/params/a", "known: none"},
    {INFO, "[]", "/params", "an object"},
    {INFO, "1", "/params", "an object"},
    {ADD, "{}", "/params/disk", "missing"},
    {ADD, "{\"disk\":\"d\"}", "/params/name", "missing"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"size\":1}", "/params/size", "granularity"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"a/b\":1}", "/params/a~1b", "not known"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"Name\":\"b\"}", "/params/Name", "not known"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"\":1}", "/params/", "not known"},
    /* strings */
    {ADD, "{\"disk\":null,\"name\":\"b\"}", "/params/disk", "null"},
    {ADD, "{\"disk\":1,\"name\":\"b\"}", "/params/disk", "1 to 128"},
    {ADD, "{\"disk\":true,\"name\":\"b\"}", "/params/disk", "not true"},
    {ADD, "{\"disk\":[],\"name\":\"b\"}", "/params/disk", "not []"},
    {ADD, "{\"disk\":{},\"name\":\"b\"}", "/params/disk", "not {}"},
    {ADD, "{\"disk\":\"\",\"name\":\"b\"}", "/params/disk", "not \"\""},
    {ADD, "{\"disk\":\"-d\",\"name\":\"b\"}", "/params/disk", "\"-d\""},
    {ADD, "{\"disk\":\".\",\"name\":\"b\"}", "/params/disk", "\".\""},
    {ADD, "{\"disk\":\"a b\",\"name\":\"b\"}", "/params/disk", "a b"},
    {ADD, "{\"disk\":\"a/b\",\"name\":\"b\"}", "/params/disk", "a/b"},
    {ADD, "{\"disk\":\"d\\n\",\"name\":\"b\"}", "/params/disk", "d\\n"},
    {ADD, "{\"disk\":\"d\\u0000\",\"name\":\"b\"}", "/params/disk", "U+0000"},
    {ADD, "{\"disk\":\"\xc3\xa9\",\"name\":\"b\"}", "/params/disk", "beginning"},
    {ADD,
     "{\"disk\":\"0123456789012345678901234567890123456789012345678901234567890123456789"
     "01234567890123456789012345678901234567890123456789012345678\",\"name\":\"b\"}",
     "/params/disk", "..."},
    {DISK, "{\"name\":\"d\",\"path\":\"a.img\"}", "/params/path", "absolute"},
    {DISK, "{\"name\":\"d\",\"path\":\"\"}", "/params/path", "absolute"},
    {LISTENER, "{\"name\":\"l\",\"address\":\"tcp:host\"}", "/params/address", "tcp:HOST:PORT"},
    {LISTENER, "{\"name\":\"l\",\"address\":\"tcp::1\"}", "/params/address", "tcp:HOST:PORT"},
    {LISTENER, "{\"name\":\"l\",\"address\":\"tcp:h:123456\"}", "/params/address", "HOST"},
    {LISTENER, "{\"name\":\"l\",\"address\":\"unix:\"}", "/params/address", "unix:PATH"},
    {LISTENER, "{\"name\":\"l\",\"address\":\"http://x\"}", "/params/address", "unix:PATH"},
    /* booleans */
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"recording\":1}", "/params/recording", "true or false"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"recording\":\"true\"}", "/params/recording", "true"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"recording\":null}", "/params/recording", "null"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"dry_run\":0}", "/params/dry_run", "true or false"},
    /* numbers */
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":0}", "/params/granularity",
     "power of two"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":1000}", "/params/granularity",
     "not 1000"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":256}", "/params/granularity", "from 512"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":4294967296}", "/params/granularity",
     "to 2147483648"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":-512}", "/params/granularity", "-512"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":512.0}", "/params/granularity",
     "fraction"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":1e3}", "/params/granularity", "1e3"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":\"512\"}", "/params/granularity",
     "\"512\""},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":\"12x\"}", "/params/granularity",
     "\"12x\""},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":true}", "/params/granularity", "true"},
    {ADD, "{\"disk\":\"d\",\"name\":\"b\",\"granularity\":[512]}", "/params/granularity", "512"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":-1}", "/params/offset", "-1"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":9223372036854775808}", "/params/offset",
     "9223372036854775808"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":18446744073709551615}", "/params/offset",
     "18446744073709551615"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":-9223372036854775808}", "/params/offset",
     "-9223372036854775808"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"limit\":0}", "/params/limit", "from 1"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"limit\":4294967297}", "/params/limit", "65536"},
    {EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":1e400}", "/params/offset", "fraction"},
    /* enums */
    {DISK, "{\"name\":\"d\",\"path\":\"/d\",\"cache\":\"none\"}", "/params/cache",
     "writeback or direct"},
    {DISK, "{\"name\":\"d\",\"path\":\"/d\",\"cache\":\"Direct\"}", "/params/cache", "\"Direct\""},
    {DISK, "{\"name\":\"d\",\"path\":\"/d\",\"cache\":\"direct\\u0000\"}", "/params/cache",
     "direct"},
    {DISK, "{\"name\":\"d\",\"path\":\"/d\",\"cache\":0}", "/params/cache", "not 0"},
    {DISK, "{\"name\":\"d\",\"path\":\"/d\",\"if_exists\":\"\"}", "/params/if_exists",
     "fail or same"},
    /* lists */
    {SET, "{\"name\":\"e\",\"allow\":\"ip:0.0.0.0/0\"}", "/params/allow", "a list"},
    {SET, "{\"name\":\"e\",\"allow\":{}}", "/params/allow", "a list"},
    {SET, "{\"name\":\"e\",\"allow\":[1]}", "/params/allow/0", "x509:"},
    {SET, "{\"name\":\"e\",\"allow\":[\"psk:bob\",null]}", "/params/allow/1", "null"},
    {SET, "{\"name\":\"e\",\"allow\":[\"psk:bob\",\"bob\"]}", "/params/allow/1", "\"bob\""},
    {SET, "{\"name\":\"e\",\"bitmaps\":[\"a\",\"b\",\"-\"]}", "/params/bitmaps/2",
     "`bitmaps[2]` must be"},
    {SET, "{\"name\":\"e\",\"allow\":[\"bogus:1\"]}", "/params/allow/0",
     "`allow[0]` must be x509:"},
    {SET, "{\"name\":\"e\",\"allow\":[\"bogus:1\"]}", "/params/allow/0", "not \"bogus:1\""},
    {MERGE, "{\"disk\":\"d\",\"target\":\"t\",\"sources\":[\"a\",1]}", "/params/sources/1",
     "`sources[1]` must be"},
    {TXN, "{\"actions\":[7]}", "/params/actions/0", "`actions[0]` must be"},
    {TXN, "{\"actions\":[{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":1}}]}",
     "/params/actions/0/params/name", "`name` must be"},
    {EVENTS, "{\"topics\":[\"disk\",\"disks\"]}", "/params/topics/1", "`topics[1]` must be"},
    {EVENTS,
     "{\"topics\":[\"disk\",\"disk\",\"disk\",\"disk\",\"disk\",\"disk\",\"disk\",\"disk\"]}",
     "/params/topics", "0 to 7"},
    /* one of */
    {EXPORT, "{\"name\":\"e\"}", "/params", "disk`, `path"},
    {EXPORT, "{\"name\":\"e\",\"disk\":\"d\",\"path\":\"/d\"}", "/params", "not 2"},
    /* actions */
    {TXN, "{}", "/params/actions", "missing"},
    {TXN, "{\"actions\":[]}", "/params/actions", "1 to 1024"},
    {TXN, "{\"actions\":[1]}", "/params/actions/0", "an object"},
    {TXN, "{\"actions\":[{}]}", "/params/actions/0/method", "missing"},
    {TXN, "{\"actions\":[{\"method\":1}]}", "/params/actions/0/method", "transaction"},
    {TXN, "{\"actions\":[{\"method\":\"disk.show\",\"params\":{\"name\":\"d\"}}]}",
     "/params/actions/0/method", "disk.show"},
    {TXN, "{\"actions\":[{\"method\":\"nope\"}]}", "/params/actions/0/method", "nope"},
    {TXN, "{\"actions\":[{\"method\":\"bitmap.add\",\"id\":1}]}", "/params/actions/0/id",
     "no `id`"},
    {TXN, "{\"actions\":[{\"method\":\"bitmap.add\",\"params\":[]}]}", "/params/actions/0/params",
     "an object"},
    {TXN, "{\"actions\":[{\"method\":\"bitmap.add\"}]}", "/params/actions/0/params/disk",
     "missing"},
    {TXN,
     "{\"actions\":[{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":\"b\"}},"
     "{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":7}}]}",
     "/params/actions/1/params/name", "not 7"},
    {TXN,
     "{\"actions\":[{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":\"b\","
     "\"dry_run\":true}}]}",
     "/params/actions/0/params/dry_run", "transaction"},
    {TXN,
     "{\"actions\":[{\"method\":\"export.remove\",\"params\":{\"name\":\"e\",\"mode\":\"hard\"}}]}",
     "/params/actions/0/params", "transaction"},
};

static void test_wrong(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        const Wrong *row = &wrong[i];
        ApiProblem problem = {0};
        struct json_object *value = parse(row->text);
        g_autofree char *object = g_malloc(row->type->size);
        memset(object, 0x5a, row->type->size);
        if (api_decode(row->type, value, "/params", &lookup, object, &problem))
            fail_msg("passed: %s", row->text);
        if (strcmp(problem.path, row->path) != 0 || !strstr(problem.text, row->says))
            fail_msg("%s: %s: %s", row->text, problem.path, problem.text);
        for (size_t byte = 0; byte < row->type->size; byte++)
            assert_int_equal(object[byte], 0x5a); /* untouched */
        api_problem_clear(&problem);
        json_object_put(value);
    }
}

static void test_defaults(void **state)
{
    BitmapAddParams add;
    decode(ADD, "{\"disk\":\"d\",\"name\":\"b\"}", &add);
    assert_string_equal(add.disk, "d");
    assert_string_equal(add.name, "b");
    assert_false(add.has_granularity);
    assert_int_equal(add.granularity, 65536);
    assert_true(add.recording);
    assert_false(add.has_recording);
    assert_int_equal(add.durability, API_DURABILITY_POWER);
    assert_int_equal(add.if_exists, API_IF_EXISTS_FAIL);
    assert_false(add.dry_run);
    bitmap_add_params_clear(&add);
    assert_null(add.disk);

    ApiProblem problem = {0};
    DaemonInfoParams info;
    assert_true(api_decode(INFO, NULL, "/params", NULL, &info, &problem));
}

static void test_given(void **state)
{
    BitmapAddParams add;
    decode(ADD,
           "{\"granularity\":2147483648,\"recording\":false,\"name\":\"A.b_c-d+e@f=0\","
           "\"disk\":\"0\",\"durability\":\"none\",\"if_exists\":\"same\",\"dry_run\":true}",
           &add);
    assert_true(add.has_granularity);
    assert_int_equal(add.granularity, 2147483648);
    assert_true(add.has_recording);
    assert_false(add.recording);
    assert_int_equal(add.durability, API_DURABILITY_NONE);
    assert_int_equal(add.if_exists, API_IF_EXISTS_SAME);
    assert_true(add.dry_run);
    bitmap_add_params_clear(&add);

    BitmapExtentsParams extents;
    decode(EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":9223372036854775807}", &extents);
    assert_int_equal(extents.offset, INT64_MAX);
    bitmap_extents_params_clear(&extents);
    decode(EXTENTS, "{\"disk\":\"d\",\"name\":\"b\",\"offset\":-0}", &extents);
    assert_int_equal(extents.offset, 0);
    bitmap_extents_params_clear(&extents);
}

/* Absent, null, empty and full are four different things in export.set. */
static void test_absent_null_empty(void **state)
{
    ExportSetParams set;
    decode(SET, "{\"name\":\"e\"}", &set);
    assert_false(set.has_allow);
    assert_null(set.allow);
    assert_false(set.has_description);
    assert_false(set.has_max_clients);
    export_set_params_clear(&set);
    decode(SET,
           "{\"name\":\"e\",\"allow\":null,\"description\":null,\"max_clients\":null,"
           "\"bandwidth\":null,\"iops\":0}",
           &set);
    assert_true(set.has_bandwidth && set.bandwidth == 0);
    assert_true(set.has_iops && set.iops == 0);
    assert_true(set.has_allow);
    assert_null(set.allow);
    assert_true(set.has_description);
    assert_null(set.description);
    assert_true(set.has_max_clients);
    assert_int_equal(set.max_clients, 0);
    export_set_params_clear(&set);
    decode(SET, "{\"name\":\"e\",\"allow\":[],\"description\":\"\"}", &set);
    assert_true(set.has_allow);
    assert_non_null(set.allow);
    assert_null(set.allow[0]);
    assert_string_equal(set.description, "");
    export_set_params_clear(&set);
    decode(SET, "{\"name\":\"e\",\"allow\":[\"!unix:1\",\"ro:ip:::/0\"],\"max_clients\":3}", &set);
    assert_string_equal(set.allow[0], "!unix:1");
    assert_string_equal(set.allow[1], "ro:ip:::/0");
    assert_null(set.allow[2]);
    assert_int_equal(set.max_clients, 3);
    export_set_params_clear(&set);
}

static void test_sets_and_actions(void **state)
{
    EventSubscribeParams events;
    decode(EVENTS, "{\"topics\":[\"disk\",\"bitmap\",\"disk\"],\"since\":7}", &events);
    assert_int_equal(events.topics, 1u << API_EVENT_TOPIC_DISK | 1u << API_EVENT_TOPIC_BITMAP);
    assert_int_equal(events.since, 7);
    event_subscribe_params_clear(&events);

    TransactionParams transaction;
    decode(TXN,
           "{\"actions\":[{\"method\":\"bitmap.add\",\"params\":{\"disk\":\"d\",\"name\":\"b\"}},"
           "{\"method\":\"export.remove\",\"params\":{\"name\":\"e\"}}]}",
           &transaction);
    assert_int_equal(transaction.actions->len, 2);
    assert_int_equal(transaction.timeout_seconds, 10);
    const ApiAction *first = transaction.actions->pdata[0];
    assert_string_equal(first->method->name, "bitmap.add");
    assert_string_equal(((BitmapAddParams *)first->params)->name, "b");
    transaction_params_clear(&transaction);
}

static void test_encode(void **state)
{
    ExportObject export = {0};
    export.name = g_strdup("a\"\\/\n\x01\x7f\xc3\xa9");
    export.disk = g_strdup("d");
    export.size = UINT64_MAX;
    export.sharing = API_SHARING_SINGLE_WRITER;
    export.allow = g_new0(char *, 1);
    g_autofree char *text = api_to_json(&api_export_object, &export);
    assert_string_equal(
        text, "{\"name\":\"a\\\"\\\\/\\n\\u0001\\u007f\xc3\xa9\",\"disk\":\"d\","
              "\"state\":\"ready\",\"size\":18446744073709551615,\"read_only\":false,"
              "\"sharing\":\"single-writer\",\"on_busy\":\"refuse\",\"max_clients\":null,"
              "\"max_clients_per_identity\":null,\"description\":null,"
              "\"bitmaps\":null,\"allow\":[],\"expired\":[],"
              "\"iops\":null,\"iops_burst\":null,\"bandwidth\":null,\"bandwidth_burst\":null,"
              "\"tls\":\"none\",\"clients\":0}");
    export_object_clear(&export);

    BitmapExtentsResult extents = {0};
    extents.extents = g_ptr_array_new_with_free_func((GDestroyNotify)extent_object_free);
    for (uint64_t i = 0; i < 2; i++) {
        ExtentObject *extent = g_new0(ExtentObject, 1);
        *extent = (ExtentObject){.offset = i * 4096, .length = 512};
        g_ptr_array_add(extents.extents, extent);
    }
    extents.has_next_offset = true;
    extents.next_offset = 8192;
    g_autofree char *list = api_to_json(&api_bitmap_extents_result, &extents);
    assert_string_equal(list, "{\"extents\":[{\"offset\":0,\"length\":512},"
                              "{\"offset\":4096,\"length\":512}],\"next_offset\":8192}");
    bitmap_extents_result_clear(&extents);
    g_autofree char *empty = api_to_json(&api_bitmap_extents_result, &extents);
    assert_string_equal(empty, "{\"extents\":[],\"next_offset\":null}");

    EventObject event = {.id = 3, .has_id = true};
    g_autofree char *some = api_to_json(&api_event_object, &event);
    assert_string_equal(some, "{\"id\":3}");
}

/* Whatever a handler puts into a string, the answer is UTF-8. */
static void test_encode_bad_utf8(void **state)
{
    g_autoptr(GString) out = g_string_new(NULL);
    api_encode_string("a\xff\xc3", out);
    assert_true(g_utf8_validate(out->str, -1, NULL));
    assert_string_equal(out->str, "\"a\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void test_names(void **state)
{
    ApiSharing sharing = API_SHARING_SHARED;
    assert_string_equal(api_sharing_name(API_SHARING_EXCLUSIVE), "exclusive");
    assert_null(api_sharing_name((ApiSharing)99));
    assert_true(api_sharing_parse("single-writer", &sharing));
    assert_int_equal(sharing, API_SHARING_SINGLE_WRITER);
    assert_false(api_sharing_parse("single", &sharing));
    assert_int_equal(sharing, API_SHARING_SINGLE_WRITER);
    assert_string_equal(error_kind_name(ERROR_NOT_FOUND), "not-found");
    assert_string_equal(error_kind_name(ERROR_PARSE_ERROR), "parse-error");
    assert_string_equal(error_kind_name((ErrorKind)42), "internal");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_given),
        cmocka_unit_test(test_absent_null_empty),
        cmocka_unit_test(test_sets_and_actions),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_encode_bad_utf8),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
