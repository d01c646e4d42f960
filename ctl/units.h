/* Sizes and durations between people and numbers. Suffixes count in 1024s, as NBD tools have it. */
#ifndef CTL_UNITS_H
#define CTL_UNITS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* "65536", "64k", "64K", "64KiB", "2T": false when text is nothing of the kind or more than 2^64 -
 * 1; *ret_bytes is then untouched. */
bool size_parse(const char *text, uint64_t *ret_bytes);

/* "0", "512 B", "64 KiB", "1.46 GiB": three digits at least, the fraction cut, not rounded up, so
 * that 99.9 % never looks like all. */
void size_append(GString *out, uint64_t bytes);
/* The same, and the exact number where the first form loses it or a reader may want to copy it:
 * "64 MiB (67108864 bytes)". */
void size_append_exact(GString *out, uint64_t bytes);

/* "45 s", "3 min 5 s", "2 h 10 min", "5 d 3 h". */
void duration_append(GString *out, uint64_t seconds);
/* "850 µs", "12 ms", "1.5 s". utf8 decides whether it is µs or us. */
void latency_append(GString *out, uint64_t microseconds, bool utf8);

/* "19.5 %"; never "0.0 %" when part is not 0, never "100 %" when it is not whole. */
void percentage_append(GString *out, uint64_t part, uint64_t whole);

#endif
