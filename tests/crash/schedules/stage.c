/* The stage's threads and checks. */
#include "tests/crash/schedules/stage.h"
#include "storage/fault.h"
#include "tests/unit/sick_vfs.h"
#include <inttypes.h>
#include <string.h>
#include <time.h>

/* How long what must come is waited for. */
#define PATIENCE_MS 20000
#define MOST_STOPS  4

typedef struct {
    _Atomic(const char *) site; /* NULL: free */
    unsigned pass;
    bool standing, go;
} Stop;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Stop stops[MOST_STOPS];

World *stage_open(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MOST_STOPS; i++)
        stops[i].site = NULL; /* left over from a schedule that failed */
    pthread_mutex_unlock(&lock);
    atomic_store(&sick_writes, 0);
    atomic_store(&sick_syncs, 0);
    atomic_store(&stage_failing_syncs, 0);
    atomic_store(&stage_invalid_file_fails, false);
    atomic_store(&stage_map_fails, false);
    atomic_store(&stage_times_stand_still, false);
    atomic_store(&stage_times_before_boot, false);
    fault_schedule = stage_pass;
    World *world = world_new(16 * MiB);
    world_close(world);
    world->options.region_size = 256 * KiB;
    world->options.checkpoint_seconds = 3600;
    world->options.failure_seconds = 0;
    world_open(world);
    return world;
}

void stage_close(World *world)
{
    world_free(world);
}

/* --- sites --- */

static Stop *find(const char *site)
{
    for (unsigned i = 0; i < MOST_STOPS; i++) {
        const char *name = atomic_load_explicit(&stops[i].site, memory_order_relaxed);
        if (name && strcmp(name, site) == 0)
            return &stops[i];
    }
    return NULL;
}

void stage_stop(const char *site, unsigned pass)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MOST_STOPS; i++) {
        if (stops[i].site == NULL) {
            stops[i].pass = pass;
            stops[i].standing = stops[i].go = false;
            stops[i].site = site;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

bool stage_pass(const char *site)
{
    /* Without the lock, which would bring the threads into an order for a thread sanitizer. */
    if (find(site) == NULL)
        return fault_is_on(site);
    pthread_mutex_lock(&lock);
    Stop *stop = find(site);
    if (stop && stop->pass > 0 && --stop->pass == 0) {
        stop->standing = true;
        pthread_cond_broadcast(&changed);
        while (!stop->go)
            pthread_cond_wait(&changed, &lock);
        stop->site = NULL;
    }
    pthread_mutex_unlock(&lock);
    return fault_is_on(site);
}

static struct timespec after(unsigned milliseconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += milliseconds / 1000;
    until.tv_nsec += milliseconds % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    return until;
}

bool stage_reached(const char *site)
{
    struct timespec until = after(PATIENCE_MS);
    int rc = 0;
    pthread_mutex_lock(&lock);
    Stop *stop = find(site);
    while (stop && !stop->standing && rc == 0)
        rc = pthread_cond_timedwait(&changed, &lock, &until);
    bool reached = stop && stop->standing;
    pthread_mutex_unlock(&lock);
    return reached;
}

void stage_go(const char *site)
{
    pthread_mutex_lock(&lock);
    Stop *stop = find(site);
    if (stop && stop->standing)
        stop->go = true;
    else if (stop)
        stop->site = NULL;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* --- threads --- */

static void *act(void *data)
{
    Actor *actor = data;
    actor->play(actor->world, actor->data);
    pthread_mutex_lock(&lock);
    actor->done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

void actor_start(Actor *actor, World *world, void (*play)(World *world, void *data), void *data)
{
    *actor = (Actor){.world = world, .play = play, .data = data};
    if (pthread_create(&actor->thread, NULL, act, actor) != 0)
        g_error("no thread for a schedule");
}

bool actor_is_done(Actor *actor, unsigned milliseconds)
{
    struct timespec until = after(milliseconds);
    int rc = 0;
    pthread_mutex_lock(&lock);
    while (!actor->done && rc == 0)
        rc = pthread_cond_timedwait(&changed, &lock, &until);
    bool done = actor->done;
    pthread_mutex_unlock(&lock);
    return done;
}

void actor_end(Actor *actor)
{
    pthread_join(actor->thread, NULL);
}

/* --- what must hold --- */

void stage_crash(World *world)
{
    world_drop(world);
    world_open(world);
    g_autoptr(GPtrArray) bitmaps = disk_list_bitmaps(world->disk);
    for (guint i = 0; i < bitmaps->len; i++) {
        BitmapInfo info;
        bitmap_get_info(bitmaps->pdata[i], &info);
        if (info.state == BITMAP_INVALID)
            fail_msg("bitmap %s is invalid: %s", info.name, info.reason);
        bitmap_info_clear(&info);
    }
}

void must_be_dirty_at(World *world, const char *bitmap, uint64_t offset, const char *file, int line)
{
    if (world_is_dirty(world, bitmap, offset))
        return;
    print_error("%s:%d: the block at %" PRIu64 " was changed and is clean in %s\n", file, line,
                offset, bitmap);
    _fail(file, line);
}
