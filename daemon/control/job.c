#include "daemon/control/control_state.h"

#include <unistd.h>

static void run_job(EngineJob *engine_job)
{
    Job *job = (Job *)engine_job; /* the first member */
    Control *control = job->control;
    uint64_t one = 1;
    dispatch_line(&control->dispatcher, &job->caller, job->line, job->length, job->answer,
                  &job->effects);
    pthread_mutex_lock(&control->done_mutex);
    job->next = control->done;
    control->done = job;
    pthread_mutex_unlock(&control->done_mutex);
    /* The counter cannot overflow; the descriptor lives until the engine is gone. */
    if (write(control->wake_fd, &one, sizeof(one)) < 0)
        g_warn_if_reached();
}

static bool is_common(const Job *job)
{
    return job->caller.access != API_ACCESS_ADMIN;
}

void job_start(Control *control, Connection *connection, const Caller *caller, char *line,
               size_t length)
{
    Job *job = g_new0(Job, 1);
    job->engine_job.run = run_job;
    job->control = control;
    job->connection = connection;
    job->caller = *caller;
    job->line = line;
    job->length = length;
    job->answer = g_string_new(NULL);
    control->busy++;
    if (is_common(job)) {
        g_queue_push_tail(&control->waiting, job);
        job_start_waiting(control);
    } else {
        engine_submit(control->engine, &job->engine_job);
    }
}

void job_start_waiting(Control *control)
{
    while (control->common < control->most_common && control->waiting.length > 0) {
        Job *job = g_queue_pop_head(&control->waiting);
        control->common++;
        engine_submit(control->engine, &job->engine_job);
    }
}

Job *job_take_done(Control *control)
{
    Job *oldest_first = NULL;
    pthread_mutex_lock(&control->done_mutex);
    Job *job = control->done;
    control->done = NULL;
    pthread_mutex_unlock(&control->done_mutex);
    while (job) {
        Job *next = job->next;
        job->next = oldest_first;
        oldest_first = job;
        control->busy--;
        control->common -= is_common(job);
        job = next;
    }
    return oldest_first;
}

void job_free(Job *job)
{
    g_string_free(job->answer, TRUE);
    g_free(job->line);
    g_free(job);
}
