#include "daemon/control/access.h"

#include <errno.h>
#include <gio/gio.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Linux's NGROUPS_MAX: nobody is in more. */
#define MOST_GROUPS 65536

typedef struct {
    ApiAccess level;
    bool group;
    id_t id;
} Rule;

struct AccessRules {
    GArray *rules;
};

AccessRules *access_rules_new(void)
{
    AccessRules *rules = g_new0(AccessRules, 1);
    rules->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    return rules;
}

void access_rules_free(AccessRules *rules)
{
    if (!rules)
        return;
    g_array_unref(rules->rules);
    g_free(rules);
}

static bool parse_id(const char *text, id_t *ret_id)
{
    guint64 number;
    /* The highest number means "nobody changes" to chown and is no one's. */
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT32 - 1, &number, NULL))
        return false;
    *ret_id = (id_t)number;
    return true;
}

static bool find_group(const char *name, id_t *ret_id)
{
    const struct group *group = getgrnam(name);
    if (group)
        *ret_id = group->gr_gid;
    return group != NULL || parse_id(name, ret_id);
}

static bool find_user(const char *name, id_t *ret_id)
{
    const struct passwd *user = getpwnam(name);
    if (user)
        *ret_id = user->pw_uid;
    return user != NULL || parse_id(name, ret_id);
}

bool access_rules_add(AccessRules *rules, const char *text, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autofree char *level = equals ? g_strndup(text, (gsize)(equals - text)) : g_strdup("");
    Rule rule = {0};
    if (!api_access_parse(level, &rule.level) || equals[1] == 0) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--access %s: LEVEL=USER, LEVEL=UID or LEVEL=@GROUP is expected; levels are "
                    "read, operate and admin",
                    text);
        return false;
    }
    const char *who = equals + 1;
    rule.group = who[0] == '@';
    if (rule.group ? !find_group(who + 1, &rule.id) : !find_user(who, &rule.id)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--access %s: there is no such %s", text, rule.group ? "group" : "user");
        return false;
    }
    g_array_append_val(rules->rules, rule);
    return true;
}

static bool matches(const Rule *rule, const PeerCredentials *peer)
{
    if (!rule->group)
        return rule->id == peer->uid;
    for (size_t i = 0; i < peer->group_count; i++) {
        if (peer->groups[i] == rule->id)
            return true;
    }
    return false;
}

ApiAccess access_rules_match(const AccessRules *rules, const PeerCredentials *peer)
{
    ApiAccess level = API_ACCESS_READ;
    if (peer->uid == 0 || peer->uid == geteuid())
        return API_ACCESS_ADMIN;
    for (guint i = 0; i < rules->rules->len; i++) {
        const Rule *rule = &g_array_index(rules->rules, Rule, i);
        if (matches(rule, peer))
            level = MAX(level, rule->level);
    }
    return level;
}

bool peer_credentials_read(int fd, PeerCredentials *ret_peer, GError **error)
{
    struct ucred credentials;
    socklen_t length = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "SO_PEERCRED: %s",
                    g_strerror(errno));
        return false;
    }
    PeerCredentials peer = {.pid = credentials.pid, .uid = credentials.uid};
    /* Asked with no room, the kernel says how much it needs. */
    length = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &length) < 0 && errno != ERANGE)
        length = 0;
    size_t most = MIN(length / sizeof(gid_t), MOST_GROUPS);
    peer.groups = g_new(gid_t, most + 1);
    length = (socklen_t)(most * sizeof(gid_t));
    if (most > 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, peer.groups, &length) == 0)
        peer.group_count = length / sizeof(gid_t);
    peer.groups[peer.group_count++] = credentials.gid;
    *ret_peer = peer;
    return true;
}

void peer_credentials_clear(PeerCredentials *peer)
{
    g_clear_pointer(&peer->groups, g_free);
    peer->group_count = 0;
}
