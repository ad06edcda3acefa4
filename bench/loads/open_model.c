/* Sends requests when they are due, whatever has come back: the part of open_model.py that has to be quick.

   open_model HOST PORT RATE COUNT CONNECTIONS LENGTH LAST_SECONDS <requests >latencies

   The k-th request is due at start + k / rate; its latency is counted from then. Of `requests`, each LENGTH
   bytes long, one after the other is sent. The first 64-bit words of what it prints are counters (enum), then
   for each answered request its number and its latency in nanoseconds follow. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECT, READ, STATUS, TIMEOUT, BYTES, NANOSECONDS, COUNTERS };
enum { BUFFER = 65536, EVENTS = 256 };

typedef struct {
    int socket;       /* -1: could not be opened */
    int64_t request;  /* in flight; -1: none */
    size_t got;
    char answer[BUFFER + 1];
} Connection;

static struct sockaddr_in address;
static const char *requests;
static size_t length, kinds;
static double rate;
static int64_t start, counters[COUNTERS];
static uint64_t *latencies;
static size_t answered;
static Connection *connections, **idle; /* idle: a ring, so that all connections take turns */
static int poll_fd, wanted, open_count, idle_count, idle_first;

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* Not by adding up: errors of rounding would. */
static int64_t due(int64_t request)
{
    return start + (int64_t)(request * (1e9 / rate) + 0.5);
}

static void release(Connection *connection)
{
    idle[(idle_first + idle_count++) % wanted] = connection;
}

static Connection *take(void)
{
    Connection *taken = idle[idle_first];
    idle_first = (idle_first + 1) % wanted;
    idle_count--;
    return taken;
}

static void open_connection(Connection *connection)
{
    int one = 1;
    connection->request = -1;
    connection->got = 0;
    connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->socket < 0)
        give_up("socket");
    if (connect(connection->socket, (struct sockaddr *)&address, sizeof address) != 0) {
        close(connection->socket);
        connection->socket = -1;
        counters[CONNECT]++;
        return;
    }
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, connection->socket, &event) != 0)
        give_up("epoll_ctl");
    open_count++;
    release(connection);
}

static void broken(Connection *connection)
{
    close(connection->socket);
    open_count--;
    if (connection->request >= 0) {
        counters[READ]++;
    } else {
        for (int left = idle_count; left > 0; left--) {
            Connection *other = take();
            if (other != connection)
                release(other);
        }
    }
    open_connection(connection);
}

/* Whether an answer with Content-Length, or a chunked one, is there to its end. */
static int is_whole(const Connection *connection)
{
    const char *end = memmem(connection->answer, connection->got, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    size_t body = connection->got - (size_t)(end + 4 - connection->answer);
    const char *field = strcasestr(connection->answer, "\r\ncontent-length:");
    if (field != NULL && field < end)
        return body >= strtoull(field + 17, NULL, 10);
    return body >= 5 && memcmp(connection->answer + connection->got - 5, "0\r\n\r\n", 5) == 0;
}

static void receive(Connection *connection)
{
    ssize_t got = recv(connection->socket, connection->answer + connection->got,
                       BUFFER - connection->got, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || connection->request < 0) {
        broken(connection);
        return;
    }
    connection->got += (size_t)got;
    connection->answer[connection->got] = 0;
    if (!is_whole(connection))
        return;
    if (strncmp(connection->answer, "HTTP/1.1 200", 12) == 0) {
        latencies[2 * answered] = (uint64_t)connection->request;
        latencies[2 * answered++ + 1] = (uint64_t)(now() - due(connection->request));
    } else {
        counters[STATUS]++;
    }
    counters[BYTES] += (int64_t)connection->got;
    connection->request = -1;
    connection->got = 0;
    release(connection);
}

static void send_request(Connection *connection, int64_t request)
{
    connection->request = request;
    const char *text = requests + (size_t)request % kinds * length;
    if (send(connection->socket, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length)
        broken(connection);
}

static void run(int64_t count, int64_t last)
{
    struct epoll_event events[EVENTS];
    int64_t next = 0, at;
    start = now();
    while ((next < count || idle_count < open_count) && open_count > 0 && (at = now()) < due(count) + last) {
        int64_t wait = next < count && idle_count > 0 ? due(next) - at : 100000000;
        if (wait < 0)
            wait = 0;
        struct timespec timeout = {wait / 1000000000, wait % 1000000000};
        int ready = epoll_pwait2(poll_fd, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < ready; i++)
            receive(events[i].data.ptr);
        /* One that finds no connection waits, and its waiting counts. */
        for (at = now(); next < count && idle_count > 0 && due(next) <= at; next++)
            send_request(take(), next);
    }
    counters[TIMEOUT] = open_count - idle_count + count - next;
    counters[NANOSECONDS] = now() - start;
}

static char *standard_input(size_t *size)
{
    char *text = NULL;
    size_t room = 0;
    for (*size = 0;;) {
        if (room - *size < BUFFER && (text = realloc(text, room += 16 * BUFFER)) == NULL)
            give_up("realloc");
        ssize_t got = read(0, text + *size, room - *size);
        if (got < 0)
            give_up("read");
        if (got == 0)
            return text;
        *size += (size_t)got;
    }
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        return 2;
    rate = atof(argv[3]);
    int64_t count = atoll(argv[4]);
    wanted = atoi(argv[5]);
    length = (size_t)atoll(argv[6]);
    requests = standard_input(&kinds);
    kinds /= length;
    connections = calloc((size_t)wanted, sizeof *connections);
    idle = calloc((size_t)wanted, sizeof *idle);
    latencies = calloc((size_t)count + 1, 2 * sizeof *latencies);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || idle == NULL || latencies == NULL || poll_fd < 0 || kinds == 0)
        give_up("open_model");
    prctl(PR_SET_TIMERSLACK, 1);  /* else a request is sent up to 50 us late */
    for (int i = 0; i < wanted; i++)
        open_connection(&connections[i]);
    run(count, (int64_t)(atof(argv[7]) * 1e9));
    fwrite(counters, sizeof *counters, COUNTERS, stdout);
    fwrite(latencies, 2 * sizeof *latencies, answered, stdout);
    return fflush(stdout) != 0;
}
