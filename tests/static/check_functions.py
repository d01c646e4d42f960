"""Functions that have no place here, each with what to use instead."""
import re

BANNED = {
    "strcpy": "g_strlcpy or g_strdup", "strcat": "GString", "strncpy": "g_strlcpy",
    "strncat": "GString", "sprintf": "g_snprintf", "vsprintf": "g_vsnprintf",
    "gets": "getline", "strtok": "g_strsplit", "alloca": "the heap", "g_alloca": "the heap",
    "atoi": "g_ascii_string_to_unsigned", "atol": "g_ascii_string_to_unsigned",
    "atoll": "g_ascii_string_to_unsigned", "atof": "g_ascii_strtod", "scanf": "a parser",
    "sscanf": "a parser", "fscanf": "a parser",
    "tmpnam": "mkstemp", "mktemp": "mkstemp", "tempnam": "mkstemp",
    "localtime": "GDateTime", "gmtime": "GDateTime", "ctime": "GDateTime", "asctime": "GDateTime",
    "system": "posix_spawn", "popen": "posix_spawn", "rand": "a seeded generator",
    "srand": "a seeded generator", "strerror": "g_strerror (threads)",
    "signal": "sigaction", "setjmp": "error returns", "longjmp": "error returns",
}
# ThreadSanitizer does not see through these where threads meet.
GLIB_LOCKS = re.compile(r"\bg_(mutex|rw_lock|rec_mutex|cond|static_mutex)_\w+\s*\(")
CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def blank(match):
    """Keeps line numbers."""
    return re.sub(r"[^\n]", " ", match.group())


def check(tree):
    for name in tree.having(".c", ".h"):
        text = QUOTED.sub('""', COMMENT.sub(blank, tree.text(name) or ""))
        for number, line in enumerate(text.splitlines(), 1):
            line = line.split("//")[0]
            for function in CALL.findall(line):
                yield f"{name}:{number}: {function}() is banned: use {BANNED[function]}"
            if not name.startswith("ctl/") and GLIB_LOCKS.search(line):
                yield f"{name}:{number}: a GLib lock: use pthread's, which ThreadSanitizer sees"


GOOD = {"a.c": '/* strcpy(a, b) */\nint f(void) { return g("sprintf(x)") + my_atoi(s); }\n'}
BAD = [{"a.c": "int f(void) { return atoi(s); }\n"},
       {"a.c": "void f(void) { strcpy (a, b); }\n"},
       {"daemon/a.c": "void f(void) { g_mutex_lock(&m); }\n"}]
