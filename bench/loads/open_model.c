/* Sends requests when they are due, whatever has come back, and answers them as the upstreams behind the proxies.

   open_model CONTROL PORT ANSWER [PORT ANSWER]...

   Listens on each PORT of 127.0.0.1 and answers every request there (without a body) with the bytes ANSWER. A
   connection to the port CONTROL is a job; it begins with a line of
   LENGTH KINDS SLICE BLOCKS WARM CONNECTIONS LAST STREAMS and a line of PORT RATE for each stream. Then KINDS
   requests follow, each LENGTH bytes long, which are sent one after the other.

   A stream is what is sent to one port. The streams take turns: each block has a slice of each of them, SLICE
   seconds long, in an order that is drawn anew, so whatever else happens on the machine happens to all of them.
   Those of the first WARM blocks are not counted. The k-th request of a slice is due at its start + k / RATE; its
   latency is counted from then. The next slice begins when all are answered, at most LAST seconds after the last
   was due.

   For each stream the counters (enum) are returned as 64-bit words, then the latencies in nanoseconds. */

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

enum { CONNECT, READ, STATUS, TIMEOUT, BYTES, WALL, CPU, ANSWERED, COUNTERS };
enum { BUFFER = 16384, EVENTS = 256, BACKLOG = 4096, BATCH = 16 };

typedef enum { CONTROL, LISTENER, SERVED, CLIENT } Kind;

typedef struct Stream Stream;

typedef struct {
    Kind kind;
    int socket;          /* -1: could not be opened */
    const char *answer;  /* LISTENER, SERVED */
    Stream *stream;      /* CLIENT */
    int64_t request;     /* CLIENT: in flight; -1: none */
    size_t got;
    char bytes[BUFFER + 1];
} Endpoint;

struct Stream {
    struct sockaddr_in address;
    double rate;
    Endpoint *connections, **idle; /* idle: a ring, so that all connections take turns */
    int open_count, idle_count, idle_first;
    int64_t counters[COUNTERS];
    int64_t *latencies;
};

static int poll_fd, wanted, counting;
static const char *requests;
static size_t length, kinds, next_kind;
static int64_t start;

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static void *memory(size_t count, size_t size)
{
    void *found = calloc(count, size);
    if (found == NULL)
        give_up("calloc");
    return found;
}

static int64_t clock_of(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int64_t now(void)
{
    return clock_of(CLOCK_MONOTONIC);
}

/* Not by adding up: errors of rounding would. */
static int64_t due(const Stream *stream, int64_t request)
{
    return start + (int64_t)(request * (1e9 / stream->rate) + 0.5);
}

static void count(Stream *stream, int counter, int64_t more)
{
    if (counting)
        stream->counters[counter] += more;
}

static void watch(Endpoint *endpoint)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = endpoint};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, endpoint->socket, &event) != 0)
        give_up("epoll_ctl");
}

static void send_at_once(int socket)
{
    int one = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* --- The upstreams --- */

static void accept_all(Endpoint *listener)
{
    int socket;
    while ((socket = accept4(listener->socket, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        Endpoint *served = memory(1, sizeof *served);
        served->kind = SERVED;
        served->socket = socket;
        served->answer = listener->answer;
        send_at_once(socket);
        watch(served);
    }
}

static void stop_serving(Endpoint *served)
{
    close(served->socket);
    free(served);
}

static void serve(Endpoint *served)
{
    ssize_t got = recv(served->socket, served->bytes + served->got, BUFFER - served->got, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        stop_serving(served);
        return;
    }
    served->got += (size_t)got;
    char *at = served->bytes, *end;
    size_t size = strlen(served->answer);
    while ((end = memmem(at, served->got, "\r\n\r\n", 4)) != NULL) {
        served->got -= (size_t)(end + 4 - at);
        at = end + 4;
        if (send(served->socket, served->answer, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size) {
            stop_serving(served);
            return;
        }
    }
    if (at != served->bytes)
        memmove(served->bytes, at, served->got);
}

/* --- The clients --- */

static void release(Endpoint *client)
{
    Stream *stream = client->stream;
    stream->idle[(stream->idle_first + stream->idle_count++) % wanted] = client;
}

static Endpoint *take(Stream *stream)
{
    Endpoint *taken = stream->idle[stream->idle_first];
    stream->idle_first = (stream->idle_first + 1) % wanted;
    stream->idle_count--;
    return taken;
}

static void open_client(Endpoint *client)
{
    Stream *stream = client->stream;
    client->request = -1;
    client->got = 0;
    client->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->socket < 0)
        give_up("socket");
    if (connect(client->socket, (struct sockaddr *)&stream->address, sizeof stream->address) != 0) {
        close(client->socket);
        client->socket = -1;
        stream->counters[CONNECT]++;
        return;
    }
    send_at_once(client->socket);
    watch(client);
    stream->open_count++;
    release(client);
}

static void reopen(Endpoint *client)
{
    Stream *stream = client->stream;
    close(client->socket);
    stream->open_count--;
    if (client->request < 0) {
        for (int left = stream->idle_count; left > 0; left--) {
            Endpoint *other = take(stream);
            if (other != client)
                release(other);
        }
    }
    open_client(client);
}

static void broken(Endpoint *client)
{
    if (client->request >= 0)
        client->stream->counters[READ]++;
    reopen(client);
}

/* Whether an answer with Content-Length, or a chunked one, is there to its end. */
static int is_whole(const Endpoint *client)
{
    const char *end = memmem(client->bytes, client->got, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    size_t body = client->got - (size_t)(end + 4 - client->bytes);
    const char *field = strcasestr(client->bytes, "\r\ncontent-length:");
    if (field != NULL && field < end)
        return body >= strtoull(field + 17, NULL, 10);
    return body >= 5 && memcmp(client->bytes + client->got - 5, "0\r\n\r\n", 5) == 0;
}

static void receive(Endpoint *client)
{
    Stream *stream = client->stream;
    ssize_t got = recv(client->socket, client->bytes + client->got, BUFFER - client->got, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || client->request < 0) {
        broken(client);
        return;
    }
    client->got += (size_t)got;
    client->bytes[client->got] = 0;
    if (!is_whole(client))
        return;
    if (strncmp(client->bytes, "HTTP/1.1 200", 12) != 0)
        stream->counters[STATUS]++;
    else if (counting)
        stream->latencies[stream->counters[ANSWERED]++] = now() - due(stream, client->request);
    count(stream, BYTES, (int64_t)client->got);
    client->request = -1;
    client->got = 0;
    release(client);
}

static void send_request(Endpoint *client, int64_t request)
{
    client->request = request;
    const char *text = requests + next_kind++ % kinds * length;
    if (send(client->socket, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length)
        broken(client);
}

/* --- Jobs --- */

static void work(Endpoint *control);

/* Waits so many nanoseconds for something to do (-1: as long as it takes), and does it. */
static void turn(int64_t wait)
{
    struct epoll_event events[EVENTS];
    struct timespec timeout = {wait / 1000000000, wait % 1000000000};
    int ready = epoll_pwait2(poll_fd, events, EVENTS, wait < 0 ? NULL : &timeout, NULL);
    for (int i = 0; i < ready; i++) {
        Endpoint *endpoint = events[i].data.ptr;
        switch (endpoint->kind) {
        case CONTROL: work(endpoint); return; /* nothing else is urgent before a job */
        case LISTENER: accept_all(endpoint); break;
        case SERVED: serve(endpoint); break;
        case CLIENT: receive(endpoint); break;
        }
    }
}

static void send_slice(Stream *stream, int64_t total, int64_t last)
{
    int64_t next = 0, at;
    int64_t cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    start = now();
    while ((next < total || stream->idle_count < stream->open_count) && stream->open_count > 0 &&
           (at = now()) < due(stream, total) + last) {
        int64_t wait = next < total && stream->idle_count > 0 ? due(stream, next) - at : 100000000;
        turn(wait < 0 ? 0 : wait);
        /* One that finds no connection waits, and its waiting counts. */
        for (at = now(); next < total && stream->idle_count > 0 && due(stream, next) <= at; next++)
            send_request(take(stream), next);
    }
    stream->counters[TIMEOUT] += total - next;
    for (int i = 0; i < wanted; i++) {
        Endpoint *client = &stream->connections[i];
        if (client->socket >= 0 && client->request >= 0) {
            stream->counters[TIMEOUT]++;
            reopen(client);
        }
    }
    count(stream, WALL, now() - start);
    count(stream, CPU, clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static void open_stream(Stream *stream, size_t most)
{
    stream->connections = memory((size_t)wanted, sizeof *stream->connections);
    stream->idle = memory((size_t)wanted, sizeof *stream->idle);
    stream->latencies = memory(most, sizeof *stream->latencies);
    for (int i = 0; i < wanted; i++) {
        stream->connections[i].kind = CLIENT;
        stream->connections[i].stream = stream;
        open_client(&stream->connections[i]);
        if (i % BATCH == 0)
            turn(0);
    }
}

static void close_stream(Stream *stream)
{
    for (int i = 0; i < wanted; i++)
        if (stream->connections[i].socket >= 0)
            close(stream->connections[i].socket);
    free(stream->connections);
    free(stream->idle);
    free(stream->latencies);
}

static void shuffle(Stream **streams, int size)
{
    for (int i = size - 1; i > 0; i--) {
        int other = (int)(lrand48() % (i + 1));
        Stream *moved = streams[i];
        streams[i] = streams[other];
        streams[other] = moved;
    }
}

static void work_at(FILE *job, FILE *found)
{
    double slice, last;
    int blocks, warm, size;
    if (fscanf(job, "%zu %zu %lf %d %d %d %lf %d", &length, &kinds, &slice, &blocks, &warm, &wanted, &last,
               &size) != 8)
        return;
    Stream *streams = memory((size_t)size, sizeof *streams);
    Stream **order = memory((size_t)size, sizeof *order);
    int complete = 1;
    for (int i = 0; i < size; i++) {
        int port = 0;
        complete = complete && fscanf(job, "%d %lf", &port, &streams[i].rate) == 2;
        streams[i].address = loopback(port);
        order[i] = &streams[i];
    }
    char *text = memory(kinds, length);
    complete = complete && fgetc(job) == '\n' && fread(text, length, kinds, job) == kinds;
    requests = text;
    for (int i = 0; i < size && complete; i++)
        open_stream(&streams[i], (size_t)(blocks * (streams[i].rate * slice + 1)));
    for (int block = -warm; block < blocks && complete; block++) {
        counting = block >= 0;
        shuffle(order, size);
        for (int i = 0; i < size; i++)
            send_slice(order[i], (int64_t)(order[i]->rate * slice + 0.5), (int64_t)(last * 1e9));
    }
    for (int i = 0; i < size && complete; i++) {
        fwrite(streams[i].counters, sizeof *streams[i].counters, COUNTERS, found);
        fwrite(streams[i].latencies, sizeof *streams[i].latencies, (size_t)streams[i].counters[ANSWERED], found);
        close_stream(&streams[i]);
    }
    free(text);
    free(order);
    free(streams);
}

static void work(Endpoint *control)
{
    int socket = accept4(control->socket, NULL, NULL, SOCK_CLOEXEC);
    FILE *job = socket < 0 ? NULL : fdopen(socket, "r"), *found = socket < 0 ? NULL : fdopen(dup(socket), "w");
    if (job == NULL || found == NULL)
        give_up("job");
    work_at(job, found);
    fclose(found);
    fclose(job);
}

static void listen_at(int port, Kind kind, const char *answer)
{
    int one = 1;
    struct sockaddr_in address = loopback(port);
    Endpoint *listener = memory(1, sizeof *listener);
    listener->kind = kind;
    listener->answer = answer;
    listener->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener->socket, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener->socket, BACKLOG) != 0)
        give_up("listen");
    watch(listener);
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc % 2 != 0)
        return 2;
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0)
        give_up("epoll_create1");
    prctl(PR_SET_TIMERSLACK, 1); /* else a request is sent up to 50 us late */
    srand48(now());
    for (int i = 2; i < argc; i += 2)
        listen_at(atoi(argv[i]), LISTENER, argv[i + 1]);
    listen_at(atoi(argv[1]), CONTROL, NULL);
    for (;;)
        turn(-1);
}
