/* Bytes from an NBD client: handshake and transmission, on a socket pair, with a disk behind it.
 * The server must end the connection by itself once the client has said all it has to say, and
 * what it says must be framed as the specification has it.
 *
 * Inputs are text: pairs of hexadecimal digits are bytes, capital letters (see `phrases`) are whole
 * messages, | makes a pause between two sends, anything else is passed over. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/nbd_peer.h"
#include "tests/unit/nbd_world.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DISK_SIZE   (1u << 20)
#define PATIENCE_MS 20000
#define LONGEST     (1u << 20)

/* Requests have offset 0x1000 and cookie 0 unless digits before the letter say otherwise: those are
 * bytes of their own. Lengths are chosen to meet bounds. */
static const struct {
    char letter;
    const char *bytes;
    size_t length;
} phrases[] = {
#define PHRASE(letter, bytes)                                                                      \
    {                                                                                              \
        letter, bytes, sizeof bytes - 1                                                            \
    }
#define OPTION(number, length) "IHAVEOPT\0\0\0" number "\0\0\0" length
#define COMPACT(flags, type, length)                                                               \
    "\x25\x60\x95\x13\0" flags "\0" type "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0" length
#define EXTENDED(flags, type, length)                                                              \
    "\x21\xe4\x1c\x71\0" flags "\0" type "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0" length
#define PAYLOAD "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    PHRASE('G', "\0\0\0\x03"),
    PHRASE('S', OPTION("\x08", "\0")),
    PHRASE('X', OPTION("\x0b", "\0")),
    PHRASE('L', OPTION("\x03", "\0")),
    PHRASE('N', OPTION("\x01", "\x01") "e"),
    PHRASE('I', OPTION("\x06", "\x0b") "\0\0\0\x01"
                                       "e\0\x02\0\x01\0\x03"),
    PHRASE('T', OPTION("\x07", "\x07") "\0\0\0\x01"
                                       "e\0\0"),
    PHRASE('M', OPTION("\x0a", "\x34") "\0\0\0\x01"
                                       "e\0\0\0\x02\0\0\0\x0f"
                                       "base:allocation\0\0\0\x14qemu:dirty-bitmap:b0"),
    PHRASE('H', OPTION("\x09", "\x09") "\0\0\0\x01"
                                       "e\0\0\0\0"),
    PHRASE('U', OPTION("\x63", "\x04") "what"),
    PHRASE('V', OPTION("\x05", "\0")),
    PHRASE('K', OPTION("\x02", "\0")),
    PHRASE('R', COMPACT("\0", "\0", "\0\0\x02\0")),
    PHRASE('B', COMPACT("\0", "\0", "\0\x02\0\0")),
    PHRASE('W', COMPACT("\0", "\x01", "\0\0\0\x40") PAYLOAD),
    PHRASE('Y', COMPACT("\x01", "\x01", "\0\0\0\x40") PAYLOAD),
    PHRASE('Z', COMPACT("\0", "\x06", "\0\0\x20\0")),
    PHRASE('J', COMPACT("\0", "\x04", "\0\0\x20\0")),
    PHRASE('Q', COMPACT("\0", "\x07", "\0\x0f\0\0")),
    PHRASE('O', COMPACT("\x08", "\x07", "\0\0\x20\0")),
    PHRASE('D', COMPACT("\0", "\x02", "\0\0\0\0")),
    PHRASE('r', EXTENDED("\x04", "\0", "\0\x02\0\0")),
    PHRASE('w', EXTENDED("\x20", "\x01", "\0\0\0\x40") PAYLOAD),
    PHRASE('y', EXTENDED("\0", "\x01", "\0\0\0\x40")),
    PHRASE('z', EXTENDED("\x10", "\x06", "\0\0\x20\0")),
    PHRASE('q', EXTENDED("\x20", "\x07", "\0\0\0\x0c") "\0\0\0\0\0\0\x10\0\0\0\0\x01"),
    PHRASE('o', EXTENDED("\x08", "\x07", "\0\0\x20\0")),
    PHRASE('p', PAYLOAD),
};

const char *const *fuzz_words(void)
{
    static const char *const words[] = {"G",
                                        "S",
                                        "X",
                                        "L",
                                        "N",
                                        "I",
                                        "T",
                                        "M",
                                        "H",
                                        "U",
                                        "V",
                                        "K",
                                        "R",
                                        "B",
                                        "W",
                                        "Y",
                                        "Z",
                                        "J",
                                        "Q",
                                        "O",
                                        "D",
                                        "r",
                                        "w",
                                        "y",
                                        "z",
                                        "q",
                                        "o",
                                        "p",
                                        "|",
                                        "00",
                                        "ff",
                                        "0001",
                                        "ffffffff",
                                        "25609513",
                                        "21e41c71",
                                        "GT",
                                        "GST",
                                        "GXMT",
                                        "7fffffffffffffff",
                                        "49484156454f5054",
                                        NULL};
    return words;
}

static NbdWorld *world;

static void close_world(void)
{
    nbd_world_free(world);
}

static void open_world(void)
{
    NbdWorldOptions options = {.size = DISK_SIZE, .bitmap = "b0"};
    world = nbd_world_new(&options);
    atexit(close_world);
}

/* --- what the server says --- */

/* Handshake replies are framed; what follows the ACK of a GO depends on what was negotiated, which
 * nobody here keeps: then each reply must begin with a magic number that there is. */
static void check_frames(const uint8_t *data, size_t length)
{
    size_t at = 18;
    if (length < 18 || memcmp(data, "NBDMAGICIHAVEOPT\0\x03", 18) != 0)
        fuzz_fail("no greeting");
    while (length - at >= NBD_OPTION_REPLY_HEADER &&
           nbd_get64(data + at) == NBD_OPTION_REPLY_MAGIC) {
        uint32_t option = nbd_get32(data + at + 8), type = nbd_get32(data + at + 12);
        uint32_t payload = nbd_get32(data + at + 16);
        at += NBD_OPTION_REPLY_HEADER;
        if (payload > length - at)
            fuzz_fail("an option reply is cut short");
        at += payload;
        if (option == NBD_OPT_GO && type == NBD_REP_ACK)
            break;
    }
    while (length - at >= 4 && nbd_get32(data + at) != NBD_SIMPLE_REPLY_MAGIC) {
        uint32_t magic = nbd_get32(data + at);
        bool extended = magic == NBD_EXTENDED_REPLY_MAGIC;
        size_t header = extended ? 32 : 20;
        if (!extended && magic != NBD_STRUCTURED_REPLY_MAGIC)
            return; /* the answer to EXPORT_NAME, and what follows it */
        if (length - at < header)
            fuzz_fail("a chunk's header is cut short");
        uint64_t payload = extended ? nbd_get64(data + at + 24) : nbd_get32(data + at + 16);
        at += header;
        if (payload > length - at)
            fuzz_fail("a chunk is cut short");
        at += payload;
    }
}

/* --- saying it --- */

/* Takes answers until the socket has room again, or (final) until the end. */
static void take_answers(int fd, GByteArray *answers, bool final)
{
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN | (final ? 0 : POLLOUT)};
        uint8_t some[65536];
        if (poll(&ready, 1, PATIENCE_MS) != 1)
            fuzz_fail("the connection does not end");
        ssize_t n = recv(fd, some, sizeof some, MSG_DONTWAIT);
        if (n > 0)
            g_byte_array_append(answers, some, (guint)n);
        else if (final || n == 0)
            return;
        if (!final && (ready.revents & (POLLOUT | POLLHUP | POLLERR)) != 0)
            return;
    }
}

static void say(int fd, const GByteArray *bytes, GByteArray *answers)
{
    for (guint at = 0; at < bytes->len;) {
        ssize_t n = send(fd, bytes->data + at, bytes->len - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return; /* it has heard enough */
        at += n > 0 ? (guint)n : 0;
        if (at < bytes->len)
            take_answers(fd, answers, false);
    }
}

static void add_phrase(GByteArray *bytes, char letter)
{
    for (size_t i = 0; i < G_N_ELEMENTS(phrases); i++)
        if (phrases[i].letter == letter && bytes->len < LONGEST)
            g_byte_array_append(bytes, (const guint8 *)phrases[i].bytes, (guint)phrases[i].length);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new(), answers = g_byte_array_new();
    if (world == NULL)
        open_world();
    int fd = nbd_world_connect(world);
    for (size_t i = 0; i < size; i++) {
        int high = g_ascii_xdigit_value((char)data[i]);
        int low = i + 1 < size ? g_ascii_xdigit_value((char)data[i + 1]) : -1;
        bool digits = high >= 0 && low >= 0 && !g_ascii_isupper((char)data[i]);
        if (digits) {
            guint8 byte = (guint8)(high << 4 | low);
            g_byte_array_append(bytes, &byte, 1);
            i++;
        } else if (data[i] == '|') {
            say(fd, bytes, answers);
            g_byte_array_set_size(bytes, 0);
        } else {
            add_phrase(bytes, (char)data[i]);
        }
    }
    say(fd, bytes, answers);
    shutdown(fd, SHUT_WR);
    take_answers(fd, answers, true);
    close(fd);
    check_frames(answers->data, answers->len);
}
