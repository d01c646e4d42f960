/* Inside the control plane: what control.c, connection.c and job.c share. Everything here belongs
 * to the main thread but `done`, which jobs come back through. */
#ifndef CONTROL_CONTROL_STATE_H
#define CONTROL_CONTROL_STATE_H

#include "daemon/control/control.h"
#include "daemon/control/dispatch.h"
#include "daemon/control/socket.h"
#include "daemon/core/events.h"
#include "daemon/core/registry.h" /* and the Engine */
#include <pthread.h>

typedef struct Connection Connection;
typedef struct Job Job;

struct Control {
    Dispatcher dispatcher;
    const AccessRules *rules;
    size_t line_bytes; /* longest line */
    unsigned most_connections;
    Engine *engine; /* where requests run that may wait */
    ControlSocket socket;
    guint accept_source, timer_source, wake_source;
    guint watch; /* of events */
    GList *connections;
    unsigned connection_count;
    unsigned busy; /* jobs that have not come back */
    /* Jobs of callers who are no admins run on half of the threads, so that there is always one for
     * an admin; the others wait here. */
    unsigned most_common, common; /* that may run, that run or have not come back */
    GQueue waiting;               /* of Job */
    bool stopping;

    int wake_fd; /* eventfd: a job is done, or there is an event */
    pthread_mutex_t done_mutex;
    Job *done; /* newest first */
};

/* --- job.c: one line on its way through a thread of the engine --- */

struct Job {
    EngineJob engine_job;
    Control *control;
    Connection *connection; /* for the main thread only; it waits for the job before it is freed */
    Caller caller;
    char *line;
    size_t length;
    GString *answer;
    Effects effects;
    Job *next;
};

/* Takes line. The job comes back through job_take_done. */
void job_start(Control *control, Connection *connection, const Caller *caller, char *line,
               size_t length);
/* Those that are done, oldest first. */
Job *job_take_done(Control *control);
/* Lets those run that waited for them. */
void job_start_waiting(Control *control);
void job_free(Job *job);

/* --- connection.c --- */

/* Takes fd and puts the connection into the list. */
void connection_new(Control *control, int fd, const Caller *caller);
/* Its job has come back; frees the connection if it was closed meanwhile. */
void connection_job_done(Connection *connection, Job *job);
/* There may be events for it. */
void connection_wake(Connection *connection);
/* Called now and then: ends what has waited too long. May free the connection. */
void connection_check_time(Connection *connection, gint64 now);
/* Reads no more; closes when what is due has been sent. May free the connection. */
void connection_stop(Connection *connection);
/* Closes at once; frees it unless its job still runs. */
void connection_close(Connection *connection);

#endif
