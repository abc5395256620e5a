/* SPDX-License-Identifier: Apache-2.0 */
/* link.c - sockets: addresses, connections, and sending and receiving in time. */
#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- addresses --------------------------------------------------------------------------------
 */

/* Cut "host:port" at its last colon; the brackets of an IPv6 address go. */
static bool cut_text(const char *text, char *host, size_t bytes, char port[8])
{
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0, digits = colon ? strlen(colon + 1) : 0;
    bool brackets = length >= 2 && text[0] == '[' && text[length - 1] == ']';

    if (!colon || digits < 1 || digits > 5 || strspn(colon + 1, "0123456789") != digits) {
        return false;
    }
    if (atoi(colon + 1) > 65535) return false;
    if (brackets) {
        text++;
        length -= 2;
    }
    if (length >= bytes || (!brackets && memchr(text, ':', length))) return false;
    memcpy(host, text, length);
    host[length] = '\0';
    memcpy(port, colon + 1, digits + 1);
    return true;
}

spc_status spc_link_resolve(const char *text, bool passive, spc_link_address *out, spc_error *err)
{
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
    struct addrinfo *found = NULL;
    char host[256], port[8];
    int code;

    if (!cut_text(text, host, sizeof host, port) || (!host[0] && !passive)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "meet: expected HOST:PORT, or a path with a '/', found '%.200s'",
                             text);
    }
    (void)spc_awake_ms(); /* a gap until here was none of its making */
    code = getaddrinfo(host[0] ? host : NULL, port, &wanted, &found);
    spc_awake_waited();
    if (code != 0 || !found) {
        return spc_error_set(err, SPC_EDEVICE, "meet %.200s: %s", text, gai_strerror(code));
    }
    memset(out, 0, sizeof *out);
    memcpy(&out->at, found->ai_addr, found->ai_addrlen);
    out->bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return SPC_OK;
}

const char *spc_link_text(const spc_link_address *address, char text[SPC_LINK_TEXT])
{
    char host[64] = "?", port[8] = "?";
    bool six = address->at.ss_family == AF_INET6;

    (void)getnameinfo((const struct sockaddr *)&address->at, address->bytes, host, sizeof host,
                      port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(text, SPC_LINK_TEXT, six ? "[%s]:%s" : "%s:%s", host, port);
    return text;
}

static uint16_t *port_of(spc_link_address *address)
{
    if (address->at.ss_family == AF_INET6) {
        return &((struct sockaddr_in6 *)(void *)&address->at)->sin6_port;
    }
    return &((struct sockaddr_in *)(void *)&address->at)->sin_port;
}

void spc_link_set_port(spc_link_address *address, uint16_t port)
{
    *port_of(address) = htons(port);
}

void spc_link_set_any(spc_link_address *address)
{
    if (address->at.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)(void *)&address->at)->sin6_addr = in6addr_any;
    } else {
        ((struct sockaddr_in *)(void *)&address->at)->sin_addr.s_addr = htonl(INADDR_ANY);
    }
}

uint16_t spc_link_port(const spc_link_address *address)
{
    spc_link_address copy = *address;

    return ntohs(*port_of(&copy));
}

bool spc_link_own(int fd, spc_link_address *out)
{
    memset(out, 0, sizeof *out);
    out->bytes = sizeof out->at;
    return getsockname(fd, (struct sockaddr *)&out->at, &out->bytes) == 0;
}

bool spc_link_peer(int fd, spc_link_address *out)
{
    memset(out, 0, sizeof *out);
    out->bytes = sizeof out->at;
    return getpeername(fd, (struct sockaddr *)&out->at, &out->bytes) == 0;
}

/* ---- connections ------------------------------------------------------------------------------
 */

/* Wait until a socket moves; false: it did not in time. */
static bool wait_for(int fd, short events, int64_t deadline_ms)
{
    struct pollfd wanted = {fd, events, 0};

    while (poll(&wanted, 1, spc_awake_nap_ms(deadline_ms)) <= 0) {
        if (spc_awake_left_ms(deadline_ms) == 0) return false;
    }
    return true;
}

static int new_socket(int family)
{
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Small messages go at once. */
static void hasten(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

spc_status spc_link_listen(const spc_link_address *at, int *fd, spc_error *err)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    const struct sockaddr *address = at ? (const struct sockaddr *)&at->at : (void *)&any;
    socklen_t bytes = at ? at->bytes : (socklen_t)sizeof any;
    char text[SPC_LINK_TEXT];
    int on = 1;

    *fd = new_socket(address->sa_family);
    /* a port that closed connections of an earlier run still linger at can be had again */
    if (*fd >= 0) (void)setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (*fd >= 0 && bind(*fd, address, bytes) == 0 && listen(*fd, 2 * SPC_RANKS_MAX) == 0) {
        return SPC_OK;
    }
    (void)spc_error_set(err, SPC_EDEVICE, "cannot listen at %s: %s",
                        at ? spc_link_text(at, text) : "any port", strerror(errno));
    spc_link_close(*fd);
    *fd = -1;
    return SPC_EDEVICE;
}

int spc_link_connect(const spc_link_address *to, int64_t deadline_ms)
{
    int fd = new_socket(to->at.ss_family), code = 0;
    socklen_t bytes = sizeof code;

    if (fd < 0) return -1;
    if (connect(fd, (const struct sockaddr *)&to->at, to->bytes) != 0) {
        if (errno != EINPROGRESS) goto fail;
        if (!wait_for(fd, POLLOUT, deadline_ms)) code = ETIMEDOUT;
        if (code == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &bytes) != 0) goto fail;
        if (code != 0) {
            errno = code;
            goto fail;
        }
    }
    hasten(fd);
    return fd;
fail:
    spc_link_close(fd);
    return -1;
}

static bool move(int fd, char *data, size_t bytes, bool out, int64_t deadline_ms)
{
    while (bytes > 0) {
        ssize_t n = out ? send(fd, data, bytes, MSG_NOSIGNAL) : recv(fd, data, bytes, 0);

        if (n > 0) {
            data += n;
            bytes -= (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            return false;
        } else if (!wait_for(fd, out ? POLLOUT : POLLIN, deadline_ms)) {
            return false;
        }
    }
    return true;
}

bool spc_link_send(int fd, const void *data, size_t bytes, int64_t deadline_ms)
{
    return move(fd, (char *)(uintptr_t)data, bytes, true, deadline_ms);
}

bool spc_link_recv(int fd, void *data, size_t bytes, int64_t deadline_ms)
{
    return move(fd, data, bytes, false, deadline_ms);
}

bool spc_link_gone(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

void spc_link_close(int fd)
{
    int saved = errno;

    if (fd >= 0) (void)close(fd);
    errno = saved;
}

bool spc_link_no_files(int code)
{
    return code == EMFILE || code == ENFILE;
}

/* ---- everyone to everyone ---------------------------------------------------------------------
 */

void spc_link_missing(const int *fd, int32_t own, int32_t world, char *text, size_t bytes)
{
    size_t used = 0;

    *text = '\0';
    for (int32_t r = 0; r < world && used < bytes; r++) {
        if (fd[r] >= 0 || r == own) continue;
        used += (size_t)snprintf(text + used, bytes - used, "%s%d", used ? ", " : "", (int)r);
    }
}

spc_status spc_link_mesh(int listener, const spc_link_address *address, uint64_t nonce,
                         int32_t rank, int32_t world, int32_t timeout_ms, int *fd, spc_error *err)
{
    int64_t deadline = spc_awake_ms() + timeout_ms;
    char missing[192];
    bool no_files = false;

    for (int32_t r = 0; r < world; r++) fd[r] = -1;
    for (int32_t r = 0; r < rank; r++) {
        fd[r] = spc_door_enter(&address[r], &nonce, false, rank, world, deadline);
        no_files |= fd[r] < 0 && spc_link_no_files(errno);
    }
    no_files |= spc_door_wait(listener, nonce, false, false, rank + 1, world, deadline, fd, NULL) ==
                SPC_DOOR_NO_FILES;
    spc_link_missing(fd, rank, world, missing, sizeof missing);
    if (!missing[0]) return SPC_OK;
    for (int32_t r = 0; r < world; r++) {
        spc_link_close(fd[r]);
        fd[r] = -1;
    }
    if (no_files) {
        return spc_error_set(err, SPC_ENOMEM, "rank %d has no connection to these ranks: %s: %s",
                             (int)rank, missing, SPC_LINK_NO_FILES);
    }
    return spc_error_set(err, SPC_EDEVICE,
                         "rank %d has no connection to these ranks after %d ms: %s; can the "
                         "machines reach each other at every port?",
                         (int)rank, (int)timeout_ms, missing);
}
