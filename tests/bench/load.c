/* A load generator on raw NBD sockets, for what fio has no pattern or no wish for: first touches in
 * a scattered order, block status, and a client that costs little, so that the server is the limit.
 *
 *   load --address unix:PATH --export NAME --op read|write|status|status64
 *        [--pattern random|sequential|touch] [--block 4096] [--depth 32] [--clients 1]
 *        [--size BYTES] [--stride BYTES] [--first N] [--count N | --seconds S] [--context NAME]
 *        [--interval NS]
 *
 * One thread and one connection for each client. Prints one JSON object. */
#include "load.h"
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void histogram_add(Histogram *histogram, uint64_t ns)
{
    unsigned power = 63 - (unsigned)__builtin_clzll(ns | 32);
    unsigned sub = (unsigned)(ns >> (power - 5)) & 31;
    histogram->buckets[power * 32 + sub]++;
}

/* In microseconds: the upper end of the bucket in which it falls. */
static double percentile(const Histogram *histogram, uint64_t total, double part)
{
    uint64_t wanted = (uint64_t)((double)total * part), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > wanted)
            return (double)((32 + UINT64_C(1) + i % 32) << (i / 32)) / 32 / 1000;
    }
    return 0;
}

typedef struct {
    const Options *options;
    pthread_t thread;
    pthread_barrier_t *start;
    uint32_t number;
    Result result;
} Client;

static void *client_main(void *data)
{
    Client *client = data;
    uint64_t size;
    int fd = wire_connect(client->options, client->options->op == OP_STATUS, &size);
    if (client->options->size && client->options->size < size)
        size = client->options->size;
    pthread_barrier_wait(client->start);
    uint64_t start = now_ns();
    if (client->options->op == OP_STATUS)
        run_status(fd, size, client->options->extended, &client->result);
    else
        run_requests(client->options, fd, size, client->number, &client->result);
    client->result.seconds = (double)(now_ns() - start) / 1e9;
    struct timespec cpu;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    client->result.cpu_seconds = (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9;
    close(fd);
    return NULL;
}

static void print(const Options *options, const Client *clients)
{
    static Result all;
    double busiest = 0;
    for (uint32_t i = 0; i < options->clients; i++) {
        const Result *one = &clients[i].result;
        all.requests += one->requests;
        all.extents += one->extents;
        all.dirty += one->dirty;
        all.cpu_seconds += one->cpu_seconds;
        if (one->seconds > all.seconds)
            all.seconds = one->seconds;
        if (one->seconds > 0 && one->cpu_seconds / one->seconds > busiest)
            busiest = one->cpu_seconds / one->seconds;
        for (unsigned k = 0; k < INTERVALS; k++)
            all.intervals[k] += one->intervals[k];
        for (unsigned k = 0; k < BUCKETS; k++)
            all.latency.buckets[k] += one->latency.buckets[k];
    }
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"busy\": %.3f, "
           "\"extents\": %llu, \"dirty\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"intervals\": [",
           (unsigned long long)all.requests, all.seconds, all.cpu_seconds, busiest,
           (unsigned long long)all.extents, (unsigned long long)all.dirty,
           percentile(&all.latency, all.requests, 0.5),
           percentile(&all.latency, all.requests, 0.99),
           percentile(&all.latency, all.requests, 0.999));
    uint32_t last = 0;
    for (uint32_t i = 0; i < INTERVALS; i++)
        last = all.intervals[i] ? i + 1 : last;
    for (uint32_t i = 0; i < last; i++)
        printf("%s%u", i ? ", " : "", all.intervals[i]);
    printf("]}\n");
}

static int choice(const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0)
            return i;
    }
    errno = 0;
    wire_die(text);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    errno = 0;
    if (*end || end == text)
        wire_die(text);
    return value;
}

static Options parse(int argc, char **argv)
{
    static const char *const ops[] = {"read", "write", "status", "status64", NULL};
    static const char *const patterns[] = {"random", "sequential", "touch", NULL};
    static const struct option table[] = {
        {"address", 1, NULL, 'a'}, {"export", 1, NULL, 'e'},   {"op", 1, NULL, 'o'},
        {"pattern", 1, NULL, 'p'}, {"block", 1, NULL, 'b'},    {"depth", 1, NULL, 'd'},
        {"clients", 1, NULL, 'c'}, {"size", 1, NULL, 's'},     {"stride", 1, NULL, 'r'},
        {"first", 1, NULL, 'f'},   {"count", 1, NULL, 'n'},    {"seconds", 1, NULL, 't'},
        {"context", 1, NULL, 'm'}, {"interval", 1, NULL, 'i'}, {0},
    };
    Options options = {.export = "",
                       .context = "base:allocation",
                       .block = 4096,
                       .depth = 32,
                       .clients = 1,
                       .stride = 4 << 20,
                       .seconds = 1};
    int which;
    while ((which = getopt_long(argc, argv, "", table, NULL)) >= 0) {
        switch (which) {
        case 'a':
            options.address = optarg;
            break;
        case 'e':
            options.export = optarg;
            break;
        case 'm':
            options.context = optarg;
            break;
        case 'o':
            options.op = (Op)choice(optarg, ops);
            options.extended = options.op == OP_STATUS64;
            options.op = options.extended ? OP_STATUS : options.op;
            break;
        case 'p':
            options.pattern = (Pattern)choice(optarg, patterns);
            break;
        case 'b':
            options.block = (uint32_t)number(optarg);
            break;
        case 'd':
            options.depth = (uint32_t)number(optarg);
            break;
        case 'c':
            options.clients = (uint32_t)number(optarg);
            break;
        case 's':
            options.size = number(optarg);
            break;
        case 'r':
            options.stride = number(optarg);
            break;
        case 'f':
            options.first = number(optarg);
            break;
        case 'n':
            options.count = number(optarg);
            break;
        case 'i':
            options.interval = number(optarg);
            break;
        case 't':
            options.seconds = strtod(optarg, NULL);
            break;
        default:
            exit(2);
        }
    }
    errno = 0;
    if (!options.address || !options.block || !options.depth || options.depth > 1024 ||
        !options.clients || options.clients > 1024 || options.block > 32u << 20 || !options.stride)
        wire_die("a number is out of range, or --address is missing");
    return options;
}

int main(int argc, char **argv)
{
    Options options = parse(argc, argv);
    Client *clients = calloc(options.clients, sizeof(*clients));
    pthread_barrier_t start;
    if (!clients || pthread_barrier_init(&start, NULL, options.clients))
        wire_die("memory");
    for (uint32_t i = 0; i < options.clients; i++) {
        clients[i].options = &options;
        clients[i].start = &start;
        clients[i].number = i;
        errno = pthread_create(&clients[i].thread, NULL, client_main, &clients[i]);
        if (errno)
            wire_die("thread");
    }
    for (uint32_t i = 0; i < options.clients; i++)
        pthread_join(clients[i].thread, NULL);
    print(&options, clients);
    free(clients);
    return 0;
}
