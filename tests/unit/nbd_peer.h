/* A raw NBD client for unit tests: writes bytes, reads and checks answers. Every read that fails
 * or takes too long fails the test. */
#ifndef UNIT_NBD_PEER_H
#define UNIT_NBD_PEER_H

#include "daemon/nbd/wire.h"

void peer_write(int fd, const void *data, size_t length);
void peer_read(int fd, void *data, size_t length);
/* The connection ends here, with nothing before. */
void peer_expect_end(int fd);

/* --- handshake --- */
void peer_greet(int fd, uint32_t flags);
void peer_option(int fd, uint32_t option, const void *payload, size_t length);
/* One reply to this option: its type, and its payload (NUL-terminated) into data. */
typedef struct {
    uint32_t type;
    uint32_t length;
    uint8_t data[8192];
} PeerReply;
void peer_reply(int fd, uint32_t option, PeerReply *ret_reply);
/* One reply of this type. */
void peer_expect(int fd, uint32_t option, uint32_t type);

/* "NAME" as the payload of GO and INFO without requests; of LIST_ and SET_META with queries (a
 * NULL-terminated array). Answers the length. */
size_t peer_info_payload(uint8_t *out, const char *name);
size_t peer_meta_payload(uint8_t *out, const char *name, const char *const *queries);
/* Greets, negotiates the mode and the contexts (may be NULL), and enters the transmission. */
void peer_go(int fd, NbdMode mode, const char *const *contexts);

/* --- transmission --- */
void peer_request(int fd, NbdMode mode, uint16_t type, uint16_t flags, uint64_t cookie,
                  uint64_t offset, uint64_t length);

/* One chunk of a reply (a simple reply looks like one). Its payload goes to data. */
typedef struct {
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t error; /* of a simple reply, or an error chunk */
    uint32_t length;
    uint8_t *data; /* g_free */
    size_t room;   /* allocated */
} PeerChunk;
/* data_length: what a simple reply to a READ carries. */
void peer_chunk(int fd, NbdMode mode, size_t data_length, PeerChunk *ret_chunk);
/* The same into the room that the chunk before has left: new pages for each large reply are most of
 * what a test of many of them takes. First a chunk of zeroes, last g_free(chunk->data). */
void peer_next_chunk(int fd, NbdMode mode, size_t data_length, PeerChunk *chunk);
/* A reply of one chunk, without data or with an error. Answers the error. */
uint32_t peer_result(int fd, NbdMode mode, uint64_t cookie);

#endif
