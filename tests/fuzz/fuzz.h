/* What a fuzz target has to have, and what driver.c gives it. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* The target: must come back, whatever data is. */
void fuzz_one(const uint8_t *data, size_t size);

/* Pieces that make sense in its inputs; ends with NULL. */
const char *const *fuzz_words(void);

/* Something is not as it must be: says so, and which run it was, and aborts. */
void fuzz_fail(const char *what);

#endif
