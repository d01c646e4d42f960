#include "ctl/terminal.h"
#include "ctl/errors.h"
#include <errno.h>
#include <langinfo.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { WIDTH_DEFAULT = 80, WIDTH_MIN = 20, WIDTH_MAX = 4096 };

static unsigned from_environment(const char *name)
{
    guint64 number;
    const char *text = g_getenv(name);
    if (text == NULL || !g_ascii_string_to_unsigned(text, 10, 1, WIDTH_MAX, &number, NULL))
        return 0;
    return (unsigned)number;
}

void terminal_look(Terminal *terminal)
{
    memset(terminal, 0, sizeof *terminal);
    terminal->is_terminal = isatty(STDOUT_FILENO);
    const char *no_color = g_getenv("NO_COLOR"), *term = g_getenv("TERM");
    terminal->colour = terminal->is_terminal && (no_color == NULL || *no_color == 0) &&
                       g_strcmp0(term, "dumb") != 0;
    terminal->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;

    struct winsize size;
    if (terminal->is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        terminal->width = size.ws_col;
        terminal->height = size.ws_row;
    } else {
        terminal->width = from_environment("COLUMNS");
        if (terminal->width == 0)
            terminal->width = WIDTH_DEFAULT;
    }
    terminal->width = MAX(terminal->width, WIDTH_MIN);
}

void style_append(GString *out, const Terminal *terminal, Style style, const char *text)
{
    const char *code = "";
    switch (style) {
    case STYLE_PLAIN:
        break;
    case STYLE_HEADER:
        code = "\033[1m";
        break;
    case STYLE_NAME:
        code = "\033[36m";
        break;
    case STYLE_DIM:
        code = "\033[2m";
        break;
    case STYLE_GOOD:
        code = "\033[32m";
        break;
    case STYLE_WARNING:
        code = "\033[33m";
        break;
    case STYLE_BAD:
        code = "\033[1;31m";
        break;
    }
    if (!terminal->colour || *code == 0 || *text == 0)
        g_string_append(out, text);
    else
        g_string_append_printf(out, "%s%s\033[0m", code, text);
}

unsigned char_width(gunichar c)
{
    return g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
}

unsigned text_width(const char *text)
{
    unsigned width = 0;
    for (; *text != 0; text = g_utf8_next_char(text))
        width += char_width(g_utf8_get_char(text));
    return width;
}

bool terminal_write(const GString *text, GError **error)
{
    const char *at = text->str, *end = text->str + text->len;
    while (at < end) {
        ssize_t n = write(STDOUT_FILENO, at, (size_t)(end - at));
        if (n >= 0) {
            at += n;
        } else if (errno != EINTR && errno != EAGAIN) {
            ctl_fail(error, CTL_REFUSED, "cannot write to standard output: %s", g_strerror(errno));
            return false;
        }
    }
    return true;
}
