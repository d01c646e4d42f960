/* The wire format, byte by byte as the specification prints it. */
#include "daemon/nbd/wire.h"
#include "tests/unit/check.h"
#include <string.h>

static const NbdRequest request = {
    .cookie = 0x0102030405060708,
    .offset = 0x1122334455667788,
    .length = 0x1000,
    .type = NBD_CMD_READ,
};

#define COOKIE "\x01\x02\x03\x04\x05\x06\x07\x08"
#define OFFSET "\x11\x22\x33\x44\x55\x66\x77\x88"

/* What was encoded, compared with a literal. */
#define assert_bytes(out, length, literal)                                                         \
    do {                                                                                           \
        assert_int_equal(length, sizeof literal - 1);                                              \
        assert_memory_equal(out, literal, sizeof literal - 1);                                     \
    } while (0)

static void test_option_header(void **state)
{
    uint32_t option = 99, length = 99;
    assert_true(
        nbd_decode_option((const uint8_t *)"IHAVEOPT\0\0\0\x07\0\0\x01\x02", &option, &length));
    assert_int_equal(option, NBD_OPT_GO);
    assert_int_equal(length, 0x102);
    option = 99;
    assert_false(
        nbd_decode_option((const uint8_t *)"IHAVEOPX\0\0\0\x07\0\0\x01\x02", &option, &length));
    assert_int_equal(option, 99);
}

static void test_option_reply(void **state)
{
    uint8_t out[NBD_OPTION_REPLY_HEADER];
    nbd_encode_option_reply(out, NBD_OPT_LIST, NBD_REP_ERR_UNKNOWN, 5);
    assert_bytes(out, sizeof out,
                 "\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03\x80\0\0\x06\0\0\0\x05");
}

static void test_compact_request(void **state)
{
    static const uint8_t in[] = "\x25\x60\x95\x13\0\x01\0\x01" COOKIE OFFSET "\xff\xff\xff\xff";
    NbdRequest got;
    assert_int_equal(nbd_request_header(NBD_MODE_SIMPLE), 28);
    assert_int_equal(nbd_request_header(NBD_MODE_STRUCTURED), 28);
    assert_true(nbd_decode_request(NBD_MODE_STRUCTURED, in, &got));
    assert_int_equal(got.flags, NBD_CMD_FLAG_FUA);
    assert_int_equal(got.type, NBD_CMD_WRITE);
    assert_int_equal(got.cookie, request.cookie);
    assert_int_equal(got.offset, request.offset);
    assert_int_equal(got.length, UINT32_MAX);
    assert_int_equal(nbd_request_payload(NBD_MODE_STRUCTURED, &got), UINT32_MAX);
    assert_false(nbd_decode_request(NBD_MODE_EXTENDED, in, &got));
}

static void test_extended_request(void **state)
{
    static const uint8_t in[] = "\x21\xe4\x1c\x71\0\x20\0\x07" COOKIE OFFSET "\x80\0\0\0\0\0\0\x01";
    NbdRequest got;
    assert_int_equal(nbd_request_header(NBD_MODE_EXTENDED), 32);
    assert_true(nbd_decode_request(NBD_MODE_EXTENDED, in, &got));
    assert_int_equal(got.type, NBD_CMD_BLOCK_STATUS);
    assert_int_equal(got.length, 0x8000000000000001);
    assert_int_equal(nbd_request_payload(NBD_MODE_EXTENDED, &got), got.length);
    got.flags = 0;
    assert_int_equal(nbd_request_payload(NBD_MODE_EXTENDED, &got), 0);
    assert_false(nbd_decode_request(NBD_MODE_SIMPLE, in, &got));
}

static void test_done(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER];
    assert_bytes(out, nbd_encode_done(NBD_MODE_SIMPLE, out, &request),
                 "\x67\x44\x66\x98\0\0\0\0" COOKIE);
    assert_bytes(out, nbd_encode_done(NBD_MODE_STRUCTURED, out, &request),
                 "\x66\x8e\x33\xef\0\x01\0\0" COOKIE "\0\0\0\0");
    assert_bytes(out, nbd_encode_done(NBD_MODE_EXTENDED, out, &request),
                 "\x6e\x8a\x27\x8c\0\x01\0\0" COOKIE OFFSET "\0\0\0\0\0\0\0\0");
}

static void test_data(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER];
    assert_bytes(out, nbd_encode_data(NBD_MODE_SIMPLE, out, &request, 7, 0x1000, true),
                 "\x67\x44\x66\x98\0\0\0\0" COOKIE);
    assert_bytes(out, nbd_encode_data(NBD_MODE_STRUCTURED, out, &request, 7, 0x1000, false),
                 "\x66\x8e\x33\xef\0\0\0\x01" COOKIE "\0\0\x10\x08\0\0\0\0\0\0\0\x07");
    /* The chunk's own offset may differ; the header repeats the request's. */
    assert_bytes(out, nbd_encode_data(NBD_MODE_EXTENDED, out, &request, 7, 0x1000, true),
                 "\x6e\x8a\x27\x8c\0\x01\0\x01" COOKIE OFFSET
                 "\0\0\0\0\0\0\x10\x08\0\0\0\0\0\0\0\x07");
}

static void test_hole(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER];
    assert_bytes(out, nbd_encode_hole(NBD_MODE_STRUCTURED, out, &request, 9, 0x2000, true),
                 "\x66\x8e\x33\xef\0\x01\0\x02" COOKIE "\0\0\0\x0c\0\0\0\0\0\0\0\x09\0\0\x20\0");
    assert_bytes(out, nbd_encode_hole(NBD_MODE_EXTENDED, out, &request, 9, 0x2000, false),
                 "\x6e\x8a\x27\x8c\0\0\0\x02" COOKIE OFFSET
                 "\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0\x09\0\0\x20\0");
}

static void test_error(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER];
    assert_bytes(out, nbd_encode_error(NBD_MODE_SIMPLE, out, &request, NBD_EINVAL, "no"),
                 "\x67\x44\x66\x98\0\0\0\x16" COOKIE);
    assert_bytes(out, nbd_encode_error(NBD_MODE_STRUCTURED, out, &request, NBD_EIO, "no"),
                 "\x66\x8e\x33\xef\0\x01\x80\x01" COOKIE "\0\0\0\x08\0\0\0\x05\0\x02no");
    assert_bytes(out, nbd_encode_error(NBD_MODE_STRUCTURED, out, &request, NBD_EIO, NULL),
                 "\x66\x8e\x33\xef\0\x01\x80\x01" COOKIE "\0\0\0\x06\0\0\0\x05\0\0");
    assert_bytes(out, nbd_encode_error_at(NBD_MODE_EXTENDED, out, &request, NBD_EIO, 3, "no"),
                 "\x6e\x8a\x27\x8c\0\x01\x80\x02" COOKIE OFFSET
                 "\0\0\0\0\0\0\0\x10\0\0\0\x05\0\x02no\0\0\0\0\0\0\0\x03");
    assert_bytes(out, nbd_encode_error_at(NBD_MODE_SIMPLE, out, &request, NBD_EIO, 3, "no"),
                 "\x67\x44\x66\x98\0\0\0\x05" COOKIE);
}

static void test_error_text_is_cut(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER + 1];
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    out[NBD_MAX_REPLY_HEADER] = 0xaa;
    size_t length = nbd_encode_error_at(NBD_MODE_EXTENDED, out, &request, NBD_EIO, 0, text);
    assert_int_equal(length, NBD_MAX_REPLY_HEADER);
    assert_int_equal(out[NBD_MAX_REPLY_HEADER], 0xaa);
    assert_int_equal(nbd_get16(out + 36), NBD_MAX_ERROR_TEXT);
}

static void test_status(void **state)
{
    uint8_t out[NBD_MAX_REPLY_HEADER];
    assert_bytes(out, nbd_encode_status(NBD_MODE_STRUCTURED, out, &request, 5, 3, true),
                 "\x66\x8e\x33\xef\0\x01\0\x05" COOKIE "\0\0\0\x1c\0\0\0\x05");
    assert_bytes(out, nbd_encode_status(NBD_MODE_EXTENDED, out, &request, 5, 3, false),
                 "\x6e\x8a\x27\x8c\0\0\0\x06" COOKIE OFFSET
                 "\0\0\0\0\0\0\0\x38\0\0\0\x05\0\0\0\x03");
    nbd_encode_extent(NBD_MODE_STRUCTURED, out, 0xfffff000, 3);
    assert_bytes(out, nbd_extent_size(NBD_MODE_STRUCTURED), "\xff\xff\xf0\0\0\0\0\x03");
    nbd_encode_extent(NBD_MODE_EXTENDED, out, UINT64_C(1) << 40, 1);
    assert_bytes(out, nbd_extent_size(NBD_MODE_EXTENDED), "\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\x01");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_option_header),
        cmocka_unit_test(test_option_reply),
        cmocka_unit_test(test_compact_request),
        cmocka_unit_test(test_extended_request),
        cmocka_unit_test(test_done),
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_error_text_is_cut),
        cmocka_unit_test(test_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
