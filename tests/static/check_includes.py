"""Who may include whom (the architecture's direction), and includes written from the root."""
import re

# folder -> folders its files may include. The longest match decides.
MAY_INCLUDE = {
    "storage": {"storage"},
    "daemon/core": {"storage", "schema", "daemon/core"},
    "daemon/nbd": {"storage", "daemon/core", "daemon/nbd"},
    "daemon/control": {"schema", "daemon/core", "daemon/control"},
    "daemon/methods": {"storage", "schema", "daemon/core", "daemon/control", "daemon/nbd",
                       "daemon/methods"},
    "daemon": {"storage", "schema", "daemon/core", "daemon/nbd", "daemon/control", "daemon"},
    "ctl": {"ctl", "schema"},
    "schema": {"schema", "storage", "daemon/core", "daemon/control"},
}
# Single headers that are narrower than their folder, or wider.
FORBIDDEN_HEADERS = {"ctl": {"schema/api.h"}, "daemon/core": {"schema/cli.h"},
                     "daemon/control": {"schema/cli.h"}, "daemon/methods": {"schema/cli.h"}}
# Among the NBD server's headers the methods see what opens and closes listeners, no more.
ONLY_HEADERS = {("daemon/methods", "daemon/nbd"): {"daemon/nbd/listener.h"}}

INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')


def room(name, rooms):
    fitting = [folder for folder in rooms if name.startswith(folder + "/")]
    return max(fitting, key=len, default=None)


def check(tree):
    for name in tree.having(".c", ".h"):
        own = room(name, MAY_INCLUDE)
        if own is None:
            continue  # tests see everything
        for number, line in tree.lines(name):
            match = INCLUDE.match(line)
            if not match:
                continue
            included = match.group(1)
            where = f"{name}:{number}: includes {included}"
            target = room(included, MAY_INCLUDE)
            if target is None:
                yield f"{where}, which is not written from the root"
            elif (target not in MAY_INCLUDE[own]
                  or included in FORBIDDEN_HEADERS.get(own, ())
                  or included not in ONLY_HEADERS.get((own, target), {included})):
                yield f"{where}, which {own} may not"


GOOD = {"storage/a.c": '#include "storage/a.h"\n#include <glib.h>\n',
        "daemon/nbd/b.c": '#include "daemon/core/c.h"\n#include "storage/a.h"\n',
        "daemon/methods/l.c": '#include "daemon/nbd/listener.h"\n',
        "ctl/main.c": '#include "schema/cli.h"\n'}
BAD = [{"storage/x.c": '#include "daemon/core/c.h"\n'},
       {"daemon/nbd/x.c": '#include "daemon/control/call.h"\n'},
       {"daemon/core/x.c": '#include "daemon/methods/disk.h"\n'},
       {"daemon/methods/x.c": '#include "daemon/nbd/wire.h"\n'},
       {"ctl/x.c": '#include "schema/api.h"\n'},
       {"storage/x.c": '#include "a.h"\n'}]
