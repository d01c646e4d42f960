#include "storage/fair_queue.h"

typedef struct Owner Owner;
struct Owner {
    const void *key;
    EngineJob *head, **tail; /* that wait */
    unsigned running;
    Owner *next; /* in the order of turns */
};

struct FairQueue {
    unsigned max_running, kept, running;
    GHashTable *owners;   /* those with jobs that wait or run, by key */
    Owner *first, **last; /* those with jobs that wait: whose turn is next */
};

FairQueue *fair_queue_new(unsigned max_running)
{
    FairQueue *queue = g_new0(FairQueue, 1);

    queue->max_running = max_running;
    queue->kept = (max_running + 3) / 4;
    queue->owners = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    queue->last = &queue->first;
    return queue;
}

void fair_queue_free(FairQueue *queue)
{
    g_hash_table_unref(queue->owners);
    g_free(queue);
}

static void append_turn(FairQueue *queue, Owner *owner)
{
    owner->next = NULL;
    *queue->last = owner;
    queue->last = &owner->next;
}

void fair_queue_push(FairQueue *queue, EngineJob *job)
{
    Owner *owner = g_hash_table_lookup(queue->owners, job->owner);

    if (owner == NULL) {
        owner = g_new0(Owner, 1);
        owner->key = job->owner;
        owner->tail = &owner->head;
        g_hash_table_insert(queue->owners, (gpointer)job->owner, owner);
    }
    if (owner->head == NULL) {
        append_turn(queue, owner);
    }
    job->next = NULL;
    *owner->tail = job;
    owner->tail = &job->next;
}

static bool may_run(const FairQueue *queue, const Owner *owner)
{
    unsigned free_threads = queue->max_running - queue->running;

    /* That is: running < 2 * (free_threads - kept). */
    return owner->key == NULL || owner->running == 0 ||
           owner->running + 2 * queue->kept < 2 * free_threads;
}

static EngineJob *take(FairQueue *queue, Owner *owner)
{
    EngineJob *job = owner->head;

    owner->head = job->next;
    owner->running++;
    queue->running++;
    if (owner->head != NULL) {
        append_turn(queue, owner);
    } else {
        owner->tail = &owner->head;
    }
    return job;
}

EngineJob *fair_queue_next(FairQueue *queue)
{
    /* Who is passed over runs something, so no more are than there are threads. */
    for (Owner **place = &queue->first; *place != NULL; place = &(*place)->next) {
        Owner *owner = *place;

        if (queue->running == queue->max_running) {
            break;
        }
        if (may_run(queue, owner)) {
            *place = owner->next;
            if (queue->last == &owner->next) {
                queue->last = place;
            }
            return take(queue, owner);
        }
    }
    return NULL;
}

void fair_queue_ended(FairQueue *queue, const void *key)
{
    Owner *owner = g_hash_table_lookup(queue->owners, key);

    queue->running--;
    owner->running--;
    if (owner->running == 0 && owner->head == NULL) {
        g_hash_table_remove(queue->owners, key);
    }
}
