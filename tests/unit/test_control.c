/* daemon/control on a real socket: framing, clients that behave badly, threads, events, the lock.
 * The test is the main loop; clients are sockets that it reads and writes without blocking. */
#include "daemon/control/call.h"
#include "daemon/control/control.h"
#include "daemon/core/registry.h"
#include "schema/handlers.h"
#include "tests/unit/check.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* --- a daemon with four methods --- */

static pthread_mutex_t gate_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static unsigned at_gate;

/* Blocks until the gate opens, as a handler does that waits for a disk. */
static bool wait_at_gate(Call *call, const void *params, void *result, GError **error)
{
    pthread_mutex_lock(&gate_mutex);
    at_gate++;
    pthread_cond_broadcast(&gate_changed);
    while (!gate_open)
        pthread_cond_wait(&gate_changed, &gate_mutex);
    at_gate--;
    pthread_mutex_unlock(&gate_mutex);
    *(char **)result = g_strdup("\"waited\"");
    return true;
}

static bool big_answer(Call *call, const void *params, void *result, GError **error)
{
    GString *text = g_string_new("\"");
    for (int i = 0; i < 1000; i++)
        g_string_append(text, "................................................................");
    g_string_append_c(text, '"');
    *(char **)result = g_string_free(text, FALSE);
    return true;
}

static bool ping(Call *call, const void *params, void *result, GError **error)
{
    *(char **)result =
        g_strdup_printf("\"%s %u\"", api_access_name(call_access(call)), (unsigned)call_uid(call));
    return true;
}

static bool subscribe(Call *call, const void *params, void *result, GError **error)
{
    return control_event_subscribe(call, params, result, error);
}

#define TEXT_RESULT                                                                                \
    .params = &api_daemon_info_params, .result = &api_json_result, .json_result = true

static const ApiMethod methods[] = {
    {.name = "big", .is_inline = true, .call = big_answer, TEXT_RESULT},
    {.name = "event.subscribe",
     .is_inline = true,
     .kind = API_METHOD_CONTROL,
     .call = subscribe,
     .params = &api_event_subscribe_params,
     .result = &api_event_subscribe_result},
    {.name = "ping", .is_inline = true, .call = ping, TEXT_RESULT},
    {.name = "wait", .call = wait_at_gate, TEXT_RESULT},
};

typedef struct {
    char *dir, *path;
    Engine *engine;
    Registry *registry;
    AccessRules *rules;
    Control *control;
} Fixture;

static ControlConfig config_of(const Fixture *fixture)
{
    return (ControlConfig){.socket_path = fixture->path,
                           .rules = fixture->rules,
                           .registry = fixture->registry,
                           .methods = methods,
                           .method_count = G_N_ELEMENTS(methods)};
}

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    Limits limits;
    DaemonFacts facts = {.state_dir = "/nowhere", .socket = "/nowhere"};
    limits_init(&limits);
    limits.control_connections = 16;
    limits.control_threads = 2;
    limits.events = 64;
    fixture->dir = g_dir_make_tmp("nbdd-control-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->dir, "sub", "control.sock", NULL);
    fixture->engine = engine_new(1, ENGINE_THREADS);
    fixture->registry = registry_new(NULL, fixture->engine, &limits, &facts);
    fixture->rules = access_rules_new();
    ControlConfig config = config_of(fixture);
    fixture->control = control_start(&config, NULL);
    gate_open = false;
    *state = fixture;
    return fixture->control ? 0 : 1;
}

static void open_gate(void)
{
    pthread_mutex_lock(&gate_mutex);
    gate_open = true;
    pthread_cond_broadcast(&gate_changed);
    pthread_mutex_unlock(&gate_mutex);
}

static int teardown(void **state)
{
    Fixture *fixture = *state;
    open_gate();
    control_free(fixture->control);
    access_rules_free(fixture->rules);
    registry_free(fixture->registry);
    engine_free(fixture->engine);
    g_autofree char *lock = g_strconcat(fixture->path, ".lock", NULL);
    g_autofree char *folder = g_path_get_dirname(fixture->path);
    assert_int_equal(access(fixture->path, F_OK), -1);
    g_unlink(lock);
    assert_int_equal(g_rmdir(folder), 0);
    assert_int_equal(g_rmdir(fixture->dir), 0);
    g_free(fixture->path);
    g_free(fixture->dir);
    g_free(fixture);
    return 0;
}

/* --- clients --- */

/* Used up by a failure alone. */
#define PATIENCE (60 * G_USEC_PER_SEC)

static void turn(void)
{
    if (!g_main_context_iteration(NULL, FALSE))
        g_usleep(200);
}

static int dial(const Fixture *fixture)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, fixture->path, sizeof(address.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void send_bytes(int fd, const char *bytes, size_t length)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE;
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            assert_true(g_get_monotonic_time() < deadline);
            turn();
            continue;
        }
        if (sent < 0)
            fail_msg("send: %s", g_strerror(errno));
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void send_text(int fd, const char *text)
{
    send_bytes(fd, text, strlen(text));
}

/* Up to and with the next line break; what came before the end of the stream if there is none. */
static char *read_line(int fd)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE;
    GString *line = g_string_new(NULL);
    for (;;) {
        char byte;
        ssize_t got = recv(fd, &byte, 1, 0);
        if (got < 0 && errno == EAGAIN) {
            if (g_get_monotonic_time() > deadline)
                fail_msg("no line; so far: %s", line->str);
            turn();
            continue;
        }
        if (got <= 0)
            break;
        g_string_append_c(line, byte);
        if (byte == '\n')
            break;
    }
    return g_string_free(line, FALSE);
}

static void expect_line(int fd, const char *expected)
{
    g_autofree char *line = read_line(fd);
    if (!g_pattern_match_simple(expected, line))
        fail_msg("got %s  for %s", line, expected);
}

static void wait_for_gate(unsigned count)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE;
    for (unsigned now = 0; now != count;) {
        pthread_mutex_lock(&gate_mutex);
        now = at_gate;
        pthread_mutex_unlock(&gate_mutex);
        assert_true(g_get_monotonic_time() < deadline);
        turn();
    }
}

#define REQUEST(id, method) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\"}\n"
#define RESULT(id)          "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":*"

/* --- framing --- */

static void test_lines(void **state)
{
    int fd = dial(*state);
    send_text(fd, REQUEST("1", "ping"));
    expect_line(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"admin *\"}\n");
    send_text(fd, REQUEST("2", "ping") REQUEST("3", "wait"));
    send_text(fd, REQUEST("4", "ping"));
    expect_line(fd, RESULT("2"));
    open_gate();
    expect_line(fd, RESULT("3"));
    expect_line(fd, RESULT("4"));
    for (const char *byte = REQUEST("5", "ping"); *byte; byte++) {
        send_bytes(fd, byte, 1);
        turn();
    }
    expect_line(fd, RESULT("5"));
    send_text(fd, "\n");
    expect_line(fd, "*-32700*");
    send_text(fd, "nonsense\n" REQUEST("6", "ping"));
    expect_line(fd, "*-32700*");
    expect_line(fd, RESULT("6"));
    close(fd);
}

/* More lines than one turn answers. */
static void test_many_lines(void **state)
{
    int fd = dial(*state);
    g_autoptr(GString) text = g_string_new(NULL);
    for (int i = 0; i < 1000; i++)
        g_string_append(text, REQUEST("1", "ping"));
    send_bytes(fd, text->str, text->len);
    for (int i = 0; i < 1000; i++)
        expect_line(fd, RESULT("1"));
    close(fd);
}

static gboolean on_never_idle(gpointer data)
{
    return G_SOURCE_CONTINUE;
}

/* Who has used up its turn goes on although the others keep the loop busy all the time. */
static void test_turns_in_a_busy_loop(void **state)
{
    guint busy = g_idle_add_full(G_PRIORITY_DEFAULT, on_never_idle, NULL, NULL);
    test_many_lines(state);
    g_source_remove(busy);
}

static char *long_line(size_t length)
{
    GString *line = g_string_new("{\"jsonrpc\":\"2.0\",\"id\":\"");
    const char *end = "\",\"method\":\"ping\"}\n";
    while (line->len < length - strlen(end) + 1)
        g_string_append_c(line, 'x');
    g_string_append(line, end);
    return g_string_free(line, FALSE);
}

static void test_longest_line(void **state)
{
    int fd = dial(*state);
    g_autofree char *line = long_line(1048576);
    assert_int_equal(strlen(line), 1048577); /* with the line break */
    send_text(fd, line);
    expect_line(fd, "{\"jsonrpc\":\"2.0\",\"id\":\"xxx*\",\"result\":*");
    send_text(fd, REQUEST("1", "ping"));
    expect_line(fd, RESULT("1"));
    close(fd);
}

static void test_too_long_line(void **state)
{
    int fd = dial(*state);
    g_autofree char *line = long_line(1048577);
    send_text(fd, line);
    send_text(fd, REQUEST("1", "ping"));
    expect_line(fd, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,*1048576*");
    expect_line(fd, ""); /* and the end */
    close(fd);

    /* The same without any line break, and far more than that: the client still sees why. */
    fd = dial(*state);
    g_autofree char *lump = g_strnfill(4 << 20, '[');
    send_bytes(fd, lump, 4 << 20);
    expect_line(fd, "*-32700*");
    expect_line(fd, "");
    close(fd);
}

static void test_end_of_stream(void **state)
{
    /* All that was asked is answered after the client has said its last word. */
    int fd = dial(*state);
    send_text(fd, REQUEST("1", "ping") REQUEST("2", "wait") REQUEST("3", "ping"));
    shutdown(fd, SHUT_WR);
    wait_for_gate(1);
    open_gate();
    expect_line(fd, RESULT("1"));
    expect_line(fd, RESULT("2"));
    expect_line(fd, RESULT("3"));
    expect_line(fd, "");
    close(fd);

    fd = dial(*state);
    send_text(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}");
    shutdown(fd, SHUT_WR);
    expect_line(fd, "*-32700*line break*");
    expect_line(fd, "");
    close(fd);
}

/* --- clients that behave badly --- */

static void test_others_are_served(void **state)
{
    int half = dial(*state), mute = dial(*state), garbage = dial(*state), good = dial(*state);
    send_text(half, "{\"jsonrpc\":\"2.0\",");
    send_bytes(garbage, "\0\xff\n\n\0{[", 7);
    /* Asks for 64 KiB again and again and reads nothing of it. */
    for (int i = 0; i < 200; i++) {
        const char *request = REQUEST("1", "big");
        if (send(mute, request, strlen(request), MSG_NOSIGNAL) < 0)
            break;
        turn();
    }
    send_text(good, REQUEST("1", "ping"));
    expect_line(good, RESULT("1"));
    send_text(good, REQUEST("2", "wait"));
    wait_for_gate(1);
    open_gate();
    expect_line(good, RESULT("2"));
    /* What it did not read waits for it. */
    expect_line(mute, RESULT("1"));
    send_text(half, "\"id\":9,\"method\":\"ping\"}\n");
    expect_line(half, RESULT("9"));
    close(half);
    close(mute);
    close(garbage);
    close(good);
}

/* Both threads wait for a disk; what needs none is answered all the same. */
static void test_blocked_threads(void **state)
{
    int first = dial(*state), second = dial(*state), third = dial(*state), good = dial(*state);
    send_text(first, REQUEST("1", "wait"));
    send_text(second, REQUEST("2", "wait"));
    wait_for_gate(2);
    send_text(third, REQUEST("3", "wait"));
    send_text(good, REQUEST("4", "ping"));
    expect_line(good, RESULT("4"));
    assert_int_equal(control_busy(((Fixture *)*state)->control), 3);
    open_gate();
    expect_line(third, RESULT("3"));
    expect_line(second, RESULT("2"));
    expect_line(first, RESULT("1"));
    close(first);
    close(second);
    close(third);
    close(good);
}

/* The connection goes while its request runs. */
static void test_gone_meanwhile(void **state)
{
    Fixture *fixture = *state;
    int gone = dial(fixture);
    send_text(gone, REQUEST("1", "wait"));
    wait_for_gate(1);
    close(gone);
    for (int i = 0; i < 20; i++)
        turn();
    open_gate();
    while (control_busy(fixture->control) > 0)
        turn();
    int good = dial(fixture);
    send_text(good, REQUEST("2", "ping"));
    expect_line(good, RESULT("2"));
    close(good);
}

static void test_connection_limit(void **state)
{
    int fds[16], one_more;
    for (int i = 0; i < 16; i++) {
        fds[i] = dial(*state);
        send_text(fds[i], REQUEST("1", "ping"));
        expect_line(fds[i], RESULT("1"));
    }
    one_more = dial(*state);
    expect_line(one_more, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":1007,*16*");
    expect_line(one_more, "");
    close(one_more);
    close(fds[0]);
    for (int i = 0; i < 20; i++)
        turn();
    fds[0] = dial(*state);
    send_text(fds[0], REQUEST("1", "ping"));
    expect_line(fds[0], RESULT("1"));
    for (int i = 0; i < 16; i++)
        close(fds[i]);
}

/* --- events --- */

static void post(const Fixture *fixture, const char *name)
{
    events_post(registry_events(fixture->registry), TOPIC_DISK, "added", name, NULL, NULL);
}

static void test_events(void **state)
{
    Fixture *fixture = *state;
    int fd = dial(fixture);
    post(fixture, "before");
    uint64_t seq = events_last(registry_events(fixture->registry));
    send_text(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"event.subscribe\","
                  "\"params\":{\"topics\":[\"disk\",\"client\"]}}\n");
    expect_line(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"seq\":*,\"topics\":"
                    "[\"client\",\"disk\"]}}\n");
    events_post(registry_events(fixture->registry), TOPIC_EXPORT, "added", "e", NULL, NULL);
    post(fixture, "d1");
    events_post_client(registry_events(fixture->registry), "attached", 7, "vm1", NULL);
    g_autofree char *first = g_strdup_printf(
        "{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":{\"seq\":%" G_GUINT64_FORMAT
        ",\"topic\":\"disk\",\"event\":\"added\",\"time\":\"20*-*-*T*:*:*.*Z\","
        "\"object\":{\"name\":\"d1\"}}}\n",
        seq + 2);
    expect_line(fd, first);
    expect_line(fd, "*\"topic\":\"client\",\"event\":\"attached\",*\"object\":{\"id\":7,"
                    "\"export\":\"vm1\"}}}\n");
    /* Still a connection like others. */
    send_text(fd, REQUEST("2", "ping"));
    expect_line(fd, RESULT("2"));
    close(fd);

    /* A later subscriber goes on where it was told. */
    fd = dial(fixture);
    g_autofree char *since =
        g_strdup_printf("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"event.subscribe\","
                        "\"params\":{\"since\":%" G_GUINT64_FORMAT "}}\n",
                        seq);
    send_text(fd, since);
    expect_line(fd, RESULT("1"));
    expect_line(fd, "*\"topic\":\"export\"*");
    expect_line(fd, first);
    expect_line(fd, "*\"topic\":\"client\"*");
    send_text(fd, "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"event.subscribe\","
                  "\"params\":{\"since\":9223372036854775807}}\n");
    expect_line(fd, "*1005*/params/since*");
    close(fd);
}

/* A subscriber that does not read loses events, is told which, and costs a bounded amount. */
static void test_lost_events(void **state)
{
    Fixture *fixture = *state;
    int fd = dial(fixture);
    send_text(fd, REQUEST("1", "event.subscribe"));
    expect_line(fd, RESULT("1"));
    /* Until long after nothing more fits into the socket, however much that may be. */
    unsigned posted = 0, full = 0, lines = 0, losses = 0;
    for (int before = 0, now = 0; full < 20000; posted++, before = now) {
        post(fixture, "disk-with-a-name");
        if (posted % 50 == 0)
            turn();
        assert_int_equal(ioctl(fd, FIONREAD, &now), 0);
        full = now > before ? 0 : full + 1;
    }
    post(fixture, "last");
    for (bool more = true; more; lines++) {
        g_autofree char *line = read_line(fd);
        losses += strstr(line, "\"event\":\"lost\"") && strstr(line, "\"first\":") &&
                  strstr(line, "\"last\":");
        more = !strstr(line, "\"name\":\"last\"");
    }
    assert_true(losses > 0);
    assert_true(lines < posted);
    close(fd);
}

/* --- the socket file --- */

static bool start_second(const Fixture *fixture, GError **error)
{
    ControlConfig config = config_of(fixture);
    Control *second = control_start(&config, error);
    control_free(second);
    return second != NULL;
}

static void test_mode_and_lock(void **state)
{
    Fixture *fixture = *state;
    struct stat info;
    g_autoptr(GError) error = NULL;
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0660);
    assert_false(start_second(fixture, &error));
    assert_int_equal(error->code, ERROR_BUSY);
    g_autofree char *pid = g_strdup_printf("pid %d", (int)getpid());
    assert_non_null(strstr(error->message, pid));
    int fd = dial(fixture); /* the first one still has its socket */
    send_text(fd, REQUEST("1", "ping"));
    expect_line(fd, RESULT("1"));
    close(fd);
}

/* Leaves a socket behind, as kill -9 does. */
static void leave_stale(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    close(fd);
}

static void test_stale(void **state)
{
    Fixture *fixture = *state;
    control_free(fixture->control);
    leave_stale(fixture->path);
    ControlConfig config = config_of(fixture);
    g_autoptr(GError) error = NULL;
    fixture->control = control_start(&config, &error);
    assert_non_null(fixture->control);
    int fd = dial(fixture);
    send_text(fd, REQUEST("1", "ping"));
    expect_line(fd, RESULT("1"));
    close(fd);
}

static void test_in_the_way(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GError) error = NULL;
    control_free(fixture->control);
    fixture->control = NULL;
    /* A file is not removed. */
    assert_true(g_file_set_contents(fixture->path, "precious", -1, NULL));
    assert_false(start_second(fixture, &error));
    assert_int_equal(error->code, ERROR_INVALID_STATE);
    assert_int_equal(access(fixture->path, F_OK), 0);
    g_clear_error(&error);
    g_unlink(fixture->path);
    /* Neither is a socket on which somebody listens, lock or not. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_strlcpy(address.sun_path, fixture->path, sizeof(address.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_false(start_second(fixture, &error));
    assert_int_equal(error->code, ERROR_BUSY);
    close(fd);
    g_clear_error(&error);
    /* Too long for a socket address. */
    g_unlink(fixture->path);
    g_autofree char *name = g_strnfill(120, 'x');
    g_autofree char *path = g_build_filename(fixture->dir, name, NULL);
    ControlConfig config = config_of(fixture);
    config.socket_path = path;
    assert_null(control_start(&config, &error));
    assert_int_equal(error->code, ERROR_INVALID_ARGUMENT);
}

static void test_stop(void **state)
{
    Fixture *fixture = *state;
    int idle = dial(fixture), busy = dial(fixture);
    send_text(busy, REQUEST("1", "wait") REQUEST("2", "ping"));
    wait_for_gate(1);
    control_stop(fixture->control);
    assert_int_equal(access(fixture->path, F_OK), -1);
    expect_line(idle, "");
    assert_int_equal(control_busy(fixture->control), 1);
    open_gate();
    expect_line(busy, RESULT("1")); /* what ran is answered; the rest is not begun */
    expect_line(busy, "");
    assert_int_equal(control_busy(fixture->control), 0);
    close(idle);
    close(busy);
}

/* The end comes when a request has run and nobody has looked yet; and while one still runs. */
static void test_free_with_jobs(void **state)
{
    int done = dial(*state), running = dial(*state);
    send_text(done, REQUEST("1", "wait"));
    send_text(running, REQUEST("2", "wait"));
    wait_for_gate(2);
    close(running);
    open_gate(); /* teardown frees the control plane without another turn */
    close(done);
}

#define with_daemon(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_daemon(test_lines),
        with_daemon(test_many_lines),
        with_daemon(test_turns_in_a_busy_loop),
        with_daemon(test_longest_line),
        with_daemon(test_too_long_line),
        with_daemon(test_end_of_stream),
        with_daemon(test_others_are_served),
        with_daemon(test_blocked_threads),
        with_daemon(test_gone_meanwhile),
        with_daemon(test_connection_limit),
        with_daemon(test_events),
        with_daemon(test_lost_events),
        with_daemon(test_mode_and_lock),
        with_daemon(test_stale),
        with_daemon(test_in_the_way),
        with_daemon(test_stop),
        with_daemon(test_free_with_jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
