#include "load.h"
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define OPTION_MAGIC UINT64_C(0x49484156454F5054)
#define REPLY_MAGIC  UINT64_C(0x3e889045565a9)
enum { OPT_GO = 7, OPT_STRUCTURED = 8, OPT_SET_META = 10, OPT_EXTENDED = 11 };
enum { REP_ACK = 1, REP_INFO = 3, REP_META = 4 };

void wire_die(const char *what)
{
    if (errno)
        fprintf(stderr, "load: %s: %m\n", what);
    else
        fprintf(stderr, "load: %s\n", what);
    exit(1);
}

void wire_send(int fd, const void *data, size_t length)
{
    for (const char *at = data; length;) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent <= 0)
            wire_die("send");
        at += sent;
        length -= (size_t)sent;
    }
}

void wire_receive(int fd, void *data, size_t length)
{
    for (char *at = data; length;) {
        ssize_t got = recv(fd, at, length, 0);
        if (got == 0)
            errno = ECONNRESET;
        if (got <= 0)
            wire_die("receive");
        at += got;
        length -= (size_t)got;
    }
}

static int open_socket(const char *address)
{
    int fd;
    if (strncmp(address, "unix:", 5) == 0) {
        struct sockaddr_un peer = {.sun_family = AF_UNIX};
        if (strlen(address + 5) >= sizeof(peer.sun_path))
            wire_die("the socket's path is too long");
        memcpy(peer.sun_path, address + 5, strlen(address + 5));
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
            wire_die(address);
    } else if (strncmp(address, "tcp:", 4) == 0) {
        struct sockaddr_in peer = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)strtoul(address + 4, NULL, 10)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int one = 1;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
            wire_die(address);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    } else {
        errno = 0;
        wire_die("an address is unix:PATH or tcp:PORT");
    }
    int bytes = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return fd;
}

static void send_option(int fd, uint32_t option, const void *data, uint32_t length)
{
    struct {
        uint64_t magic;
        uint32_t option, length;
    } __attribute__((packed)) head = {htobe64(OPTION_MAGIC), htobe32(option), htobe32(length)};
    wire_send(fd, &head, sizeof(head));
    wire_send(fd, data, length);
}

/* Answers the reply's type; its data, as far as it fits. */
static uint32_t receive_reply(int fd, unsigned char *data, uint32_t size, uint32_t *ret_length)
{
    struct {
        uint64_t magic;
        uint32_t option, type, length;
    } __attribute__((packed)) head;
    wire_receive(fd, &head, sizeof(head));
    errno = 0;
    if (be64toh(head.magic) != REPLY_MAGIC)
        wire_die("that is no reply to an option");
    *ret_length = be32toh(head.length);
    if (*ret_length > size)
        wire_die("a reply to an option is too long");
    wire_receive(fd, data, *ret_length);
    return be32toh(head.type);
}

static void expect_ack(int fd, const char *what)
{
    unsigned char data[4096];
    uint32_t length, type;
    bool context = false;
    do {
        type = receive_reply(fd, data, sizeof(data), &length);
        context = context || type == REP_META;
    } while (type == REP_META);
    errno = 0;
    if (type != REP_ACK || (!context && strcmp(what, "metadata context") == 0))
        wire_die(what);
}

static void select_context(int fd, const Options *options)
{
    unsigned char data[1024];
    uint32_t name = (uint32_t)strlen(options->export), query = (uint32_t)strlen(options->context);
    errno = 0;
    if (name + query + 12 > sizeof(data))
        wire_die("these names are too long");
    uint32_t numbers[3] = {htobe32(name), htobe32(1), htobe32(query)};
    memcpy(data, &numbers[0], 4);
    memcpy(data + 4, options->export, name);
    memcpy(data + 4 + name, &numbers[1], 8);
    memcpy(data + 12 + name, options->context, query);
    send_option(fd, OPT_SET_META, data, 12 + name + query);
    expect_ack(fd, "metadata context");
}

static uint64_t go(int fd, const char *export)
{
    unsigned char data[4096];
    uint32_t name = (uint32_t)strlen(export), big = htobe32(name), length, type;
    errno = 0;
    if (name > 1024)
        wire_die("the export's name is too long");
    memcpy(data, &big, 4);
    memcpy(data + 4, export, name);
    memset(data + 4 + name, 0, 2);
    send_option(fd, OPT_GO, data, 6 + name);
    uint64_t size = 0;
    while ((type = receive_reply(fd, data, sizeof(data), &length)) == REP_INFO) {
        if (length >= 12 && data[0] == 0 && data[1] == 0) {
            memcpy(&size, data + 2, 8);
            size = be64toh(size);
        }
    }
    errno = 0;
    if (type != REP_ACK)
        wire_die("the export is refused");
    return size;
}

int wire_connect(const Options *options, bool structured, uint64_t *ret_size)
{
    int fd = open_socket(options->address);
    char greeting[18];
    wire_receive(fd, greeting, sizeof(greeting));
    uint32_t flags = htobe32(3); /* fixed newstyle, no zeroes */
    wire_send(fd, &flags, sizeof(flags));
    if (structured) {
        send_option(fd, options->extended ? OPT_EXTENDED : OPT_STRUCTURED, "", 0);
        expect_ack(fd, options->extended ? "extended headers" : "structured replies");
        select_context(fd, options);
    }
    *ret_size = go(fd, options->export);
    return fd;
}
