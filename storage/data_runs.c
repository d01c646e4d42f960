#include "storage/data_runs.h"
#include <glib.h>

void data_runs_init(DataRuns *runs)
{
    runs->count = 0;
    runs->oldest = 0;
    runs->forgotten = 0;
    pthread_mutex_init(&runs->lock, NULL);
}

void data_runs_destroy(DataRuns *runs)
{
    pthread_mutex_destroy(&runs->lock);
}

uint64_t data_runs_find(DataRuns *runs, uint64_t offset, uint64_t *ret_ticket)
{
    uint64_t end = 0;

    pthread_mutex_lock(&runs->lock);
    for (size_t i = 0; i < runs->count && end == 0; i++) {
        if (runs->runs[i].start <= offset && offset < runs->runs[i].end) {
            end = runs->runs[i].end;
        }
    }
    *ret_ticket = runs->forgotten;
    pthread_mutex_unlock(&runs->lock);
    return end;
}

static void put(DataRuns *runs, uint64_t start, uint64_t end)
{
    size_t place = runs->count;

    if (place < DATA_RUNS) {
        runs->count++;
    } else {
        place = runs->oldest;
        runs->oldest = (runs->oldest + 1) % DATA_RUNS;
    }
    runs->runs[place] = (DataRun){.start = start, .end = end};
}

static void drop(DataRuns *runs, size_t place)
{
    runs->runs[place] = runs->runs[--runs->count];
}

void data_runs_add(DataRuns *runs, uint64_t start, uint64_t end, uint64_t ticket)
{
    pthread_mutex_lock(&runs->lock);
    if (ticket == runs->forgotten) {
        for (size_t i = runs->count; i-- > 0;) {
            DataRun run = runs->runs[i];

            if (run.start <= end && start <= run.end) {
                start = MIN(start, run.start);
                end = MAX(end, run.end);
                drop(runs, i);
            }
        }
        put(runs, start, end);
    }
    pthread_mutex_unlock(&runs->lock);
}

void data_runs_forget(DataRuns *runs, uint64_t start, uint64_t end)
{
    pthread_mutex_lock(&runs->lock);
    runs->forgotten++;
    for (size_t i = runs->count; i-- > 0;) {
        DataRun run = runs->runs[i];

        if (run.start >= end || start >= run.end) {
            continue;
        }
        /* What lies before and behind is data still. */
        drop(runs, i);
        if (run.start < start) {
            put(runs, run.start, start);
        }
        if (run.end > end) {
            put(runs, end, run.end);
        }
    }
    pthread_mutex_unlock(&runs->lock);
}
