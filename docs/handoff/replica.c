/* A replica that takes connections from the balancer: `delivery: HandOff`. It greets each client and echoes what it says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

/* The descriptor that LISTEN_FDNAMES calls "handoff", or -1. */
static int channel_of(const char *names)
{
    for (int fd = 3; names && *names; fd++) {
        size_t length = strcspn(names, ":");
        if (length == 7 && memcmp(names, "handoff", 7) == 0)
            return fd;
        names += length + (names[length] == ':');
    }
    return -1;
}

/* The next connection, acknowledged; -1 at the end. */
static int next_connection(int channel)
{
    char number[8];
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } control;
    struct iovec vector = { number, sizeof number };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    int fd;

    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != sizeof number || !CMSG_FIRSTHDR(&message))
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    send(channel, number, sizeof number, MSG_NOSIGNAL);
    return fd;
}

int main(void)
{
    int channel = channel_of(getenv("LISTEN_FDNAMES"));
    int connection;

    while ((connection = next_connection(channel)) >= 0) {
        if (fork() == 0) {
            char buffer[65536];
            ssize_t count;
            dprintf(connection, "hello from %d\n", (int)getppid());
            while ((count = read(connection, buffer, sizeof buffer)) > 0)
                if (write(connection, buffer, count) != count)
                    break;
            _exit(0);
        }
        close(connection);
    }
    return 0;
}
