#include "ctl/input.h"
#include "ctl/errors.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* More than any request may have: what is longer is the wrong file. */
enum { INPUT_MAX_BYTES = 16 * 1024 * 1024, READ_BYTES = 64 * 1024 };

char *input_read(const char *path, GError **error)
{
    bool standard = strcmp(path, "-") == 0;
    const char *name = standard ? "standard input" : path;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        ctl_fail(error, CTL_USAGE, "cannot open %s: %s", path, g_strerror(errno));
        return NULL;
    }
    g_autoptr(GString) content = g_string_new(NULL);
    ssize_t n;
    int code;
    do {
        size_t old = content->len;
        g_string_set_size(content, old + READ_BYTES);
        n = read(fd, content->str + old, READ_BYTES);
        code = errno;
        g_string_set_size(content, n > 0 ? old + (size_t)n : old);
    } while ((n > 0 && content->len <= INPUT_MAX_BYTES) || (n < 0 && code == EINTR));
    if (!standard)
        close(fd);
    if (n < 0)
        ctl_fail(error, CTL_USAGE, "cannot read %s: %s", name, g_strerror(code));
    else if (content->len > INPUT_MAX_BYTES)
        ctl_fail(error, CTL_USAGE, "%s has more than %d bytes", name, INPUT_MAX_BYTES);
    else if (!g_utf8_validate(content->str, (gssize)content->len, NULL))
        ctl_fail(error, CTL_USAGE, "%s is not UTF-8 text", name);
    else
        return g_string_free(g_steal_pointer(&content), FALSE);
    return NULL;
}
