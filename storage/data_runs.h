/* Remembers runs of a file that were found to be data, since finding them again is dear: where a
 * run ends is asked of the file system page by page or extent by extent, however little of it one
 * wants to know.
 *
 * Calling a hole data is always allowed, calling data a hole never: so holes are not remembered,
 * writes need not be told, and what punches holes tells afterwards. Any thread. */
#ifndef STORAGE_DATA_RUNS_H
#define STORAGE_DATA_RUNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DATA_RUNS 16

typedef struct {
    uint64_t start, end;
} DataRun;

typedef struct {
    pthread_mutex_t lock;
    DataRun runs[DATA_RUNS]; /* apart from one another, in no order */
    size_t count;
    size_t oldest;      /* what makes room next */
    uint64_t forgotten; /* how often data_runs_forget was called */
} DataRuns;

void data_runs_init(DataRuns *runs);
void data_runs_destroy(DataRuns *runs);

/* Where the data that offset lies in ends, or 0 if that is not known. *ret_ticket is for
 * data_runs_add: what was punched since it was given is not remembered as data. */
uint64_t data_runs_find(DataRuns *runs, uint64_t offset, uint64_t *ret_ticket);
void data_runs_add(DataRuns *runs, uint64_t start, uint64_t end, uint64_t ticket);
/* [start, end) may have holes now. */
void data_runs_forget(DataRuns *runs, uint64_t start, uint64_t end);

#endif
