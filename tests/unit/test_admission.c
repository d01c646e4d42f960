/* Who is admitted to an export under each sharing mode, bound and right. */
#include "daemon/core/client_state.h"
#include "tests/unit/check.h"

typedef struct {
    Admission admission;
    bool read_only;
} Answer;

static Answer ask(const ExportConfig *config, unsigned clients, unsigned writers, AllowRight right)
{
    Admitted admitted = {.clients = clients, .writers = writers};
    Answer answer = {.read_only = false};
    g_autofree char *text = NULL;
    answer.admission =
        export_admit(config, &admitted, right, false, false, false, &answer.read_only, &text);
    bool refused = answer.admission == ADMIT_POLICY || answer.admission == ADMIT_BUSY;
    assert_true(refused == (text != NULL));
    return answer;
}

static void check(Answer answer, Admission admission, bool read_only)
{
    assert_int_equal(answer.admission, admission);
    if (admission == ADMIT_OK)
        assert_int_equal(answer.read_only, read_only);
}

static void test_exclusive(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    check(ask(config, 0, 0, ALLOW_WRITE), ADMIT_OK, false);
    check(ask(config, 1, 1, ALLOW_WRITE), ADMIT_BUSY, false);
    check(ask(config, 1, 0, ALLOW_READ), ADMIT_BUSY, false);
    check(ask(config, 0, 0, ALLOW_READ), ADMIT_OK, true);
    config->read_only = true;
    check(ask(config, 0, 0, ALLOW_WRITE), ADMIT_OK, true);
    check(ask(config, 1, 0, ALLOW_WRITE), ADMIT_BUSY, true);
    /* Busy passes, a bound does not: that is what is told. */
    config->max_clients = config->max_clients_per_identity = 1;
    check(ask(config, 1, 1, ALLOW_WRITE), ADMIT_BUSY, true);
    /* Those who wait come first. */
    Admitted queue = {.waiting = 1};
    bool read_only;
    assert_int_equal(
        export_admit(config, &queue, ALLOW_WRITE, false, false, false, &read_only, NULL),
        ADMIT_BUSY);
}

static void test_single_writer(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->sharing = SHARING_SINGLE_WRITER;
    check(ask(config, 0, 0, ALLOW_WRITE), ADMIT_OK, false);
    check(ask(config, 1, 1, ALLOW_WRITE), ADMIT_OK, true);
    /* Readers alone: the next one who may, writes. */
    check(ask(config, 3, 0, ALLOW_WRITE), ADMIT_OK, false);
    check(ask(config, 3, 0, ALLOW_READ), ADMIT_OK, true);
    config->read_only = true;
    check(ask(config, 0, 0, ALLOW_WRITE), ADMIT_OK, true);
}

static void test_shared(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->sharing = SHARING_SHARED;
    check(ask(config, 5, 5, ALLOW_WRITE), ADMIT_OK, false);
    check(ask(config, 5, 5, ALLOW_READ), ADMIT_OK, true);
}

static void test_bounds(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->sharing = SHARING_SHARED;
    config->max_clients = 2;
    check(ask(config, 1, 1, ALLOW_WRITE), ADMIT_OK, false);
    check(ask(config, 2, 0, ALLOW_WRITE), ADMIT_POLICY, false);
    config->sharing = SHARING_SINGLE_WRITER;
    check(ask(config, 2, 0, ALLOW_READ), ADMIT_POLICY, false);

    config->max_clients = 0;
    Admitted admitted = {.clients = 5, .of_identity = 2, .identity_limit = 2};
    bool read_only;
    assert_int_equal(
        export_admit(config, &admitted, ALLOW_READ, false, false, false, &read_only, NULL),
        ADMIT_POLICY);
    config->max_clients_per_identity = 3; /* the export's own comes before the daemon's */
    assert_int_equal(
        export_admit(config, &admitted, ALLOW_READ, false, false, false, &read_only, NULL),
        ADMIT_OK);
}

static void test_unknown_hides_everything(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->max_clients = 1;
    check(ask(config, 1, 1, ALLOW_NOTHING), ADMIT_UNKNOWN, false);
    config->tls_required = true;
    check(ask(config, 0, 0, ALLOW_NOTHING), ADMIT_UNKNOWN, false);
    check(ask(config, 0, 0, ALLOW_WRITE), ADMIT_UNKNOWN, false);
}

static void test_tls_required(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->tls_required = true;
    Admitted nobody = {0};
    bool read_only;
    assert_int_equal(
        export_admit(config, &nobody, ALLOW_WRITE, false, true, false, &read_only, NULL),
        ADMIT_TLS_REQUIRED);
    assert_int_equal(
        export_admit(config, &nobody, ALLOW_NOTHING, false, true, false, &read_only, NULL),
        ADMIT_UNKNOWN);
    assert_int_equal(
        export_admit(config, &nobody, ALLOW_WRITE, true, true, false, &read_only, NULL), ADMIT_OK);
}

static void test_a_promised_read_only_view_is_kept(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    config->sharing = SHARING_SINGLE_WRITER;
    Admitted nobody = {0};
    bool read_only = false;
    assert_int_equal(
        export_admit(config, &nobody, ALLOW_WRITE, false, false, true, &read_only, NULL), ADMIT_OK);
    assert_true(read_only);
}

static void test_multi_conn(void **state)
{
    g_autoptr(ExportConfig) config = export_config_new("e", "d");
    assert_false(export_multi_conn(config, false, 0));
    assert_false(export_multi_conn(config, true, 0)); /* a second connection would be refused */
    config->sharing = SHARING_SINGLE_WRITER;
    assert_false(export_multi_conn(config, false, 0));
    assert_true(export_multi_conn(config, true, 0));
    config->sharing = SHARING_SHARED;
    assert_true(export_multi_conn(config, false, 0));
    assert_true(export_multi_conn(config, true, 0));
    config->max_clients = 1;
    assert_false(export_multi_conn(config, false, 0));
    config->max_clients = 0;
    assert_false(export_multi_conn(config, false, 1));
    config->max_clients_per_identity = 2; /* the export's own comes before the daemon's */
    assert_true(export_multi_conn(config, false, 1));
    config->max_clients_per_identity = 1;
    assert_false(export_multi_conn(config, false, 0));
}

static void test_config_equality(void **state)
{
    g_autoptr(ExportConfig) a = export_config_new("e", "d");
    g_autoptr(ExportConfig) b = export_config_copy(a);
    assert_true(export_config_equal(a, b));
    /* No list and the empty list are not the same. */
    b->bitmaps = g_new0(char *, 1);
    assert_false(export_config_equal(a, b));
    assert_false(export_config_shows_bitmap(b, "b0"));
    assert_true(export_config_shows_bitmap(a, "b0"));
    g_clear_pointer(&b->bitmaps, g_strfreev);
    size_t index;
    char *reason;
    const char *const none[] = {NULL};
    b->allow = allow_list_new(none, &index, &reason);
    assert_false(export_config_equal(a, b));
    g_autoptr(ExportConfig) c = export_config_copy(b);
    assert_true(export_config_equal(b, c));
    c->tls_required = true;
    assert_false(export_config_equal(b, c));
    c->tls_required = false;
    c->on_busy = EXPORT_ON_BUSY_WAIT;
    assert_false(export_config_equal(b, c));
    g_autoptr(ExportConfig) d = export_config_copy(c);
    assert_true(export_config_equal(c, d));
    d->max_clients_per_identity = 1;
    assert_false(export_config_equal(c, d));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exclusive),
        cmocka_unit_test(test_single_writer),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_unknown_hides_everything),
        cmocka_unit_test(test_tls_required),
        cmocka_unit_test(test_a_promised_read_only_view_is_kept),
        cmocka_unit_test(test_multi_conn),
        cmocka_unit_test(test_config_equality),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
