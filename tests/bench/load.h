/* What the parts of the load generator share. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { OP_READ, OP_WRITE, OP_STATUS, OP_STATUS64 } Op;
typedef enum { PATTERN_RANDOM, PATTERN_SEQUENTIAL, PATTERN_TOUCH } Pattern;

typedef struct {
    const char *address; /* unix:PATH or tcp:PORT (on this machine) */
    const char *export;
    const char *context;
    Op op;
    bool extended; /* status64: block status with 64-bit lengths, as one request for everything */
    Pattern pattern;
    uint32_t block, depth, clients;
    uint64_t size;   /* bytes of the export that are used; 0: all */
    uint64_t stride; /* touch: one request for each of these, in a scattered order */
    uint64_t first;  /* touch: number of the touch to begin with */
    uint64_t count;  /* requests in all; 0: until the time is up */
    double seconds;
    uint64_t interval; /* nanoseconds; requests are counted for each of these too; 0: not */
} Options;

/* Latencies: 32 buckets for each power of two of nanoseconds, so within 3 %. */
#define BUCKETS (64 * 32)
typedef struct {
    uint64_t buckets[BUCKETS];
} Histogram;

#define INTERVALS 4096
typedef struct {
    uint64_t requests, extents, dirty;
    uint64_t begun; /* when the client did, in nanoseconds */
    uint32_t intervals[INTERVALS];
    double seconds, cpu_seconds;
    Histogram latency;
} Result;

/* load_wire.c: a connection in transmission. It ends the program when something goes wrong. */
int wire_connect(const Options *options, bool structured, uint64_t *ret_size);
void wire_send(int fd, const void *data, size_t length);
void wire_receive(int fd, void *data, size_t length);
void wire_die(const char *what) __attribute__((noreturn));

/* load_requests.c: reads and writes, and load_status.c: block status of the whole export, one after
 * the other. Each runs one client until its end. */
void run_requests(const Options *options, int fd, uint64_t size, uint32_t number, Result *result);
void run_status(int fd, uint64_t size, bool extended, Result *result);

uint64_t now_ns(void);
void histogram_add(Histogram *histogram, uint64_t ns);
