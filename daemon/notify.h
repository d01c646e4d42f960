/* Telling the service manager how far we are: sd_notify(3) without its library. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

/* state: "READY=1", "STOPPING=1"... Nothing happens where nobody asked (NOTIFY_SOCKET). */
void notify_manager(const char *state);

#endif
