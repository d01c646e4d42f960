/* Which requests are refused, and with which error: the tables of the protocol. */
#include "daemon/nbd/validate.h"
#include "tests/unit/check.h"
#include <errno.h>
#include <string.h>

#define SIZE UINT64_C(0x100000001) /* not a multiple of anything, beyond 32 bits */
#define MIB  (UINT64_C(1) << 20)

static MetaContext allocation = {.kind = META_ALLOCATION, .name = "base:allocation"};
static MetaContext *contexts[] = {&allocation};

static NbdSession session(NbdMode mode)
{
    NbdSession s = {.mode = mode, .minimum_block = 1, .view = {.size = SIZE}};
    s.contexts.items = contexts;
    s.contexts.count = mode == NBD_MODE_SIMPLE ? 0 : 1;
    s.flags = mode == NBD_MODE_EXTENDED ? NBD_FLAG_BLOCK_STATUS_PAYLOAD : 0;
    return s;
}

static uint32_t ask(const NbdSession *s, uint16_t type, uint16_t flags, uint64_t offset,
                    uint64_t length)
{
    const char *text = NULL;
    NbdRequest request = {.type = type, .flags = flags, .offset = offset, .length = length};
    uint32_t error = nbd_validate(s, SIZE, &request, &text);
    if (error != NBD_SUCCESS && text == NULL)
        fail_msg("an error without words");
    return error;
}

static void test_commands(void **state)
{
    NbdSession s = session(NBD_MODE_STRUCTURED);
    const uint16_t known[] = {NBD_CMD_READ,        NBD_CMD_WRITE, NBD_CMD_FLUSH,
                              NBD_CMD_TRIM,        NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES,
                              NBD_CMD_BLOCK_STATUS};
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        assert_int_equal(ask(&s, known[i], 0, 0, 512), NBD_SUCCESS);
        assert_int_equal(ask(&s, known[i], NBD_CMD_FLAG_FUA, 0, 512), NBD_SUCCESS);
        assert_int_equal(ask(&s, known[i], 0x8000, 0, 512), NBD_EINVAL);
        assert_int_equal(ask(&s, known[i], NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512), NBD_EINVAL);
    }
    assert_int_equal(ask(&s, 8, 0, 0, 0), NBD_EINVAL);
    assert_int_equal(ask(&s, 0xffff, 0, 0, 0), NBD_EINVAL);
}

/* Every flag on every command: allowed exactly where the specification has it. */
static void test_flags(void **state)
{
    static const struct {
        uint16_t flag, type;
    } good[] = {
        {NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES},
        {NBD_CMD_FLAG_DF, NBD_CMD_READ},
        {NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS},
        {NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES},
    };
    NbdSession s = session(NBD_MODE_STRUCTURED), simple = session(NBD_MODE_SIMPLE);
    for (uint16_t type = 0; type <= NBD_CMD_BLOCK_STATUS; type++) {
        for (uint16_t flag = 2; flag < 0x20; flag *= 2) {
            uint32_t expected = NBD_EINVAL;
            for (size_t i = 0; i < G_N_ELEMENTS(good); i++)
                if (good[i].flag == flag && good[i].type == type)
                    expected = NBD_SUCCESS;
            if (type != NBD_CMD_DISC)
                assert_int_equal(ask(&s, type, flag, 0, 512), expected);
        }
    }
    assert_int_equal(ask(&simple, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512), NBD_EINVAL);
}

static void test_range(void **state)
{
    NbdSession s = session(NBD_MODE_EXTENDED);
    static const struct {
        uint16_t type, flags;
        uint32_t error;
    } rows[] = {
        {NBD_CMD_READ, 0, NBD_EINVAL},
        {NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_ENOSPC},
        {NBD_CMD_WRITE_ZEROES, 0, NBD_ENOSPC},
        {NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, NBD_ENOSPC},
        {NBD_CMD_TRIM, 0, NBD_EINVAL},
        {NBD_CMD_CACHE, 0, NBD_EINVAL},
        {NBD_CMD_BLOCK_STATUS, 0, NBD_EINVAL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint16_t type = rows[i].type, flags = rows[i].flags;
        assert_int_equal(ask(&s, type, flags, SIZE - 1, 1), NBD_SUCCESS);
        assert_int_equal(ask(&s, type, flags, SIZE - 1, 2), rows[i].error);
        assert_int_equal(ask(&s, type, flags, SIZE, 1), rows[i].error);
        assert_int_equal(ask(&s, type, flags, UINT64_MAX, 2), rows[i].error);
        assert_int_equal(ask(&s, type, flags, 1, UINT64_MAX), rows[i].error);
    }
    /* Only a payload has a bound of its own. */
    assert_int_equal(ask(&s, NBD_CMD_TRIM, 0, 0, SIZE), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_BLOCK_STATUS, 0, 1, SIZE - 1), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_FLUSH, 0, UINT64_MAX, UINT64_MAX), NBD_SUCCESS);
}

static void test_payload_bounds(void **state)
{
    NbdSession s = session(NBD_MODE_STRUCTURED);
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 0, 32 * MIB), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 0, 32 * MIB + 1), NBD_EINVAL);
    assert_int_equal(ask(&s, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 32 * MIB + 1), NBD_EOVERFLOW);
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, 0, 32 * MIB), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, 0, 32 * MIB + 1), NBD_EINVAL);

    NbdRequest request = {.type = NBD_CMD_WRITE, .length = 64 * MIB};
    assert_false(nbd_payload_is_hostile(NBD_MODE_STRUCTURED, &request));
    request.length++;
    assert_true(nbd_payload_is_hostile(NBD_MODE_STRUCTURED, &request));
    request.flags = NBD_CMD_FLAG_PAYLOAD_LEN;
    request.length = 32 * MIB;
    assert_false(nbd_payload_is_hostile(NBD_MODE_EXTENDED, &request));
    request.length++;
    assert_true(nbd_payload_is_hostile(NBD_MODE_EXTENDED, &request));
    request.type = 77;
    assert_true(nbd_payload_is_hostile(NBD_MODE_EXTENDED, &request));
    request.flags = 0;
    assert_false(nbd_payload_is_hostile(NBD_MODE_EXTENDED, &request));
}

static void test_read_only(void **state)
{
    NbdSession s = session(NBD_MODE_STRUCTURED);
    s.view.read_only = true;
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 0, 1), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_FLUSH, 0, 0, 0), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, 0, 1), NBD_EPERM);
    assert_int_equal(ask(&s, NBD_CMD_TRIM, 0, 0, 1), NBD_EPERM);
    assert_int_equal(ask(&s, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 1), NBD_EPERM);
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, SIZE, 1), NBD_EPERM);
}

static void test_alignment(void **state)
{
    NbdSession s = session(NBD_MODE_STRUCTURED);
    s.minimum_block = 512;
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 512, 1024), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 511, 512), NBD_EINVAL);
    assert_int_equal(ask(&s, NBD_CMD_READ, 0, 512, 511), NBD_EINVAL);
    assert_int_equal(ask(&s, NBD_CMD_BLOCK_STATUS, 0, 512, 511), NBD_EINVAL);
    /* The last block is partial, and can be had. */
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, SIZE - 1, 1), NBD_SUCCESS);
    assert_int_equal(ask(&s, NBD_CMD_WRITE, 0, SIZE - 513, 513), NBD_SUCCESS);
}

static void test_status(void **state)
{
    NbdSession s = session(NBD_MODE_STRUCTURED), e = session(NBD_MODE_EXTENDED);
    assert_int_equal(ask(&s, NBD_CMD_BLOCK_STATUS, 0, 0, 0), NBD_EINVAL);
    s.contexts.count = 0;
    assert_int_equal(ask(&s, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
    /* With a payload its length is not that of the effect. */
    assert_int_equal(ask(&e, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, SIZE, 12),
                     NBD_SUCCESS);
    e.flags = 0;
    assert_int_equal(ask(&e, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 12), NBD_EINVAL);
}

static void test_extended_write(void **state)
{
    NbdSession e = session(NBD_MODE_EXTENDED);
    NbdRequest request = {.type = NBD_CMD_WRITE, .length = 512};
    assert_int_equal(ask(&e, NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512), NBD_SUCCESS);
    assert_int_equal(ask(&e, NBD_CMD_WRITE, 0, 0, 512), NBD_EINVAL);
    assert_true(nbd_request_loses_track(NBD_MODE_EXTENDED, &request));
    assert_false(nbd_request_loses_track(NBD_MODE_STRUCTURED, &request));
    assert_int_equal(ask(&e, NBD_CMD_READ, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512), NBD_EINVAL);
}

static void test_errno(void **state)
{
    static const struct {
        int errnum;
        uint32_t error;
    } rows[] = {
        {0, NBD_SUCCESS},     {EPERM, NBD_EPERM},         {EROFS, NBD_EPERM},
        {EIO, NBD_EIO},       {ENOMEM, NBD_ENOMEM},       {EINVAL, NBD_EINVAL},
        {ENOSPC, NBD_ENOSPC}, {EDQUOT, NBD_ENOSPC},       {EFBIG, NBD_ENOSPC},
        {ENOTSUP, NBD_EIO},   {EOVERFLOW, NBD_EIO},       {ESTALE, NBD_EIO},
        {EBADF, NBD_EIO},     {ECANCELED, NBD_ESHUTDOWN},
    };
    NbdRequest request = {.type = NBD_CMD_WRITE_ZEROES};
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        assert_int_equal(nbd_error_of_errno(rows[i].errnum, &request), rows[i].error);
    request.flags = NBD_CMD_FLAG_FAST_ZERO;
    assert_int_equal(nbd_error_of_errno(ENOTSUP, &request), NBD_ENOTSUP);
    request.type = NBD_CMD_WRITE;
    assert_int_equal(nbd_error_of_errno(ENOTSUP, &request), NBD_EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands),  cmocka_unit_test(test_flags),
        cmocka_unit_test(test_range),     cmocka_unit_test(test_payload_bounds),
        cmocka_unit_test(test_read_only), cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_status),    cmocka_unit_test(test_extended_write),
        cmocka_unit_test(test_errno),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
