/* Transports of the data path over epoll(7): an optional extension, beside the event loop's own.

A poller is an epoll descriptor that the event loop watches like any other one. When something is ready, one
call of `poll` reads all sockets that are, and calls their protocols directly: no callback of the event loop,
no release of the interpreter's lock and no handle for each of them. What is written is sent at once, or when
the events at hand are handled; what the kernel does not take waits here. Without this extension the event loop's
own transports are used (`network.py`), and all means the same.

Ownership: an open transport or acceptor is held by its poller (one reference, `dispose` gives it back), so
that a pointer in an epoll event is valid. While events are being handled, references are given back at their
end (`Poller.dead`), because a later event of the same batch may point to what an earlier one closed.

Protocols are called as asyncio documents it: everything from `poll`, or from the method of the transport that
causes it (`pause_writing` from `write`), but `connection_lost` only when that is over: at the end of `poll`, or
in the next turn of the event loop.

Where several sockets are ready, what is written is held (`Transport.held`) until their events are handled, and
then sent in a row: the code of the protocols and that of the kernel's TCP do not take turns in the caches, and the
peer, which the first send wakes, finds more than one request. Only little is held, of few sockets, and no protocol
sees a difference: whatever depends on what the kernel took (how much waits, a relay, `abort`) sends first, and what
is held is never enough for `pause_writing`. Nothing is held any more when `connection_lost` is called, nor when
`poll` returns.

Long bodies can be relayed: splice(2) hands the kernel's pages from one socket to another through a pipe, and
nothing is copied. What is in a transport's pipe waits to be sent like its pieces, and goes before them.

Transports are watched edge-triggered: epoll tells once that bytes came, and not again while they are not read,
so a socket that was read is not polled once more for the next call. What is read no further has to be noted
(`Transport.unread`); to read on, epoll is asked to look at the socket again (`watch`). All bytes are read when
a read of TCP returns less than was asked for, unless the event told of more than bytes. Acceptors are
level-triggered: their connections are not accepted all at once. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_EVENTS 64          /* of one call of `poll`: other callbacks of the loop take turns with it */
#define MOST_ACCEPTED 32        /* connections of one event: other workers want some, too */
#define READ_SIZE (256 * 1024)  /* bytes read at once of a long body */
#define FIRST_READ (80 * 1024)  /* where it is not known that many come: 64 KiB with a head are one read */
#define LARGE_READ (64 * 1024)  /* after so many bytes the next read goes into an object of its own */
#define MOST_PIECES 64          /* of one sendmsg */
#define HIGH_WATER (64 * 1024)  /* asyncio's defaults */
#define PIPE_SIZE (1024 * 1024) /* the most that Linux gives to a user who is not root */
#define MOST_PIPES 64           /* that have something in them, for clients that read slowly */
#define FREE_PIPES 4            /* that are kept for the next body */
#define HELD_FROM 4             /* events in a batch: what fewer write is sent at once, as it gains nothing */
#define MOST_HELD 16            /* transports: the first does not wait for all of a large batch */
#define HELD_SIZE (16 * 1024)   /* bytes of a transport that are held: sending more costs far more than a call */
#define METHODS 4               /* of types of protocols: there are few that receive all the time */

/* Urgent data is not read, but a read ends at it, with fewer bytes than there are. */
#define READABLE (EPOLLIN | EPOLLRDHUP | EPOLLPRI)

static PyObject *str_connection_made, *str_connection_lost, *str_data_received, *str_eof_received;
static PyObject *str_pause_writing, *str_resume_writing, *str_call_exception_handler, *str_lost, *str_relayed;

static PyTypeObject PollerType, TransportType, AcceptorType;

typedef struct {
    int out, in;
} Pipe;

/* What the objects of a type do with bytes that came. */
typedef struct {
    PyTypeObject *type;
    unsigned version;   /* of the type: another one once it was changed */
    PyObject *received; /* its `data_received`; the type holds both for as long as it has this version */
} Method;

typedef struct {
    PyObject_HEAD
    int epoll;
    int polling;
    int holding; /* what is written may be held */
    PyObject *loop;
    PyObject *call_soon;
    PyObject *dead;  /* list of what was disposed of while events are handled */
    PyObject *gone;  /* list of the transports that were disconnected meanwhile: their protocols are to know */
    char *buffer;
    int pipes; /* that are open */
    int spare; /* of them free */
    Pipe free[FREE_PIPES];
    Method methods[METHODS];
    int oldest; /* of them */
    int holders;
    struct Transport *held[MOST_HELD]; /* `holders` transports, some of which may hold nothing any more */
    struct epoll_event events[MOST_EVENTS];
} Poller;

typedef struct Transport {
    PyObject_HEAD
    Poller *poller;
    PyObject *protocol;
    PyObject *error;  /* why sending failed: told when nothing more can be read */
    PyObject *peer;   /* the peer's address, once asked for */
    PyObject **pieces; /* bytes that wait to be sent: a ring of `room` places */
    Py_ssize_t room, head, count;
    Py_ssize_t sent;    /* bytes of the first piece that are sent */
    Py_ssize_t waiting; /* bytes that wait in all */
    Py_ssize_t piped;   /* of them in the pipe, which is open while there are some */
    Py_ssize_t high, low;
    struct Transport *to; /* where the next `relay` bytes that come may go, or NULL */
    Py_ssize_t relay;
    Pipe pipe;
    int fd;
    uint32_t watched; /* events that epoll watches for; 0: it does not know the descriptor */
    unsigned char reading, ended, closing, ends, full, large, lost;
    unsigned char tcp;
    unsigned char held;   /* what waits was not tried to be sent: its poller will */
    unsigned char unread; /* there may be something to read, and epoll has told of it already */
    socklen_t address_size;
    struct sockaddr_in6 address; /* the peer's, of IPv4 and IPv6 */
} Transport;

typedef struct {
    PyObject_HEAD
    Poller *poller;
    PyObject *socket;
    PyObject *factory;
    PyObject *exhausted;
    int fd;
    int tcp;
    int watched;
} Acceptor;

/* --- System calls -------------------------------------------------------------------------------------- */

/* Those of each request, without what glibc does around them for threads that are cancelled. */

static ssize_t
receive_bytes(int fd, void *into, size_t most)
{
#ifdef SYS_recvfrom
    return syscall(SYS_recvfrom, fd, into, most, 0, NULL, NULL);
#else
    return recv(fd, into, most, 0);
#endif
}

static ssize_t
send_bytes(int fd, const void *from, size_t size)
{
#ifdef SYS_sendto
    return syscall(SYS_sendto, fd, from, size, MSG_NOSIGNAL, NULL, 0);
#else
    return send(fd, from, size, MSG_NOSIGNAL);
#endif
}

static int
poll_events(int epoll, struct epoll_event *events, int most)
{
#ifdef SYS_epoll_pwait
    return (int)syscall(SYS_epoll_pwait, epoll, events, most, 0, NULL, 0);
#else
    return epoll_wait(epoll, events, most, 0);
#endif
}

/* --- Common -------------------------------------------------------------------------------------------- */

/* Gives the poller's reference to an object back. */
static void
dispose(Poller *poller, PyObject *of)
{
    if (poller->polling && PyList_Append(poller->dead, of) < 0) {
        PyErr_Clear(); /* no memory: it is leaked, which is safe */
        return;
    }
    Py_DECREF(of);
}

/* Tells the event loop of the exception that is set; clears it. Returns the exception, or NULL. */
static PyObject *
report(Poller *poller, const char *message, PyObject *transport, PyObject *protocol)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL)
        PyException_SetTraceback(value, traceback);
    PyObject *context = Py_BuildValue(
        "{s:s,s:O,s:O,s:O}", "message", message, "exception", value ? value : Py_None,
        "transport", transport ? transport : Py_None, "protocol", protocol ? protocol : Py_None);
    PyObject *done = NULL;
    if (context != NULL)
        done = PyObject_CallMethodOneArg(poller->loop, str_call_exception_handler, context);
    if (done == NULL)
        PyErr_WriteUnraisable(poller->loop);
    Py_XDECREF(done);
    Py_XDECREF(context);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static PyObject *
os_error(int number)
{
    errno = number;
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    if (value == NULL)
        PyErr_Clear();
    return value;
}

/* --- Pipes --------------------------------------------------------------------------------------------- */

static int
take_pipe(Poller *poller, Pipe *pipe)
{
    if (poller->spare > 0) {
        *pipe = poller->free[--poller->spare];
        return 0;
    }
    int ends[2];
    if (poller->pipes >= MOST_PIPES || pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
        return -1;
    fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE); /* where it may not be larger, less is relayed at once */
    poller->pipes++;
    pipe->out = ends[0];
    pipe->in = ends[1];
    return 0;
}

static void
close_pipe(Poller *poller, Pipe pipe)
{
    close(pipe.out);
    close(pipe.in);
    poller->pipes--;
}

/* Takes back a pipe with nothing in it. */
static void
return_pipe(Poller *poller, Pipe pipe)
{
    if (poller->spare < FREE_PIPES)
        poller->free[poller->spare++] = pipe;
    else
        close_pipe(poller, pipe);
}

/* --- Transports ---------------------------------------------------------------------------------------- */

/* Whether something waits to be sent. */
static int
has_waiting(Transport *t)
{
    return t->count > 0 || t->piped > 0;
}

static void
forget_waiting(Transport *t)
{
    if (t->piped > 0)
        close_pipe(t->poller, t->pipe);
    t->piped = 0;
    while (t->count > 0) {
        Py_DECREF(t->pieces[t->head]);
        t->head = (t->head + 1) % t->room;
        t->count--;
    }
    t->sent = 0;
    t->waiting = 0;
    t->held = 0;
}

/* Lets the protocol know that the connection is closed, once the events at hand have been handled. */
static void
tell_lost(Transport *t)
{
    Poller *poller = t->poller;
    if (poller->polling) {
        if (PyList_Append(poller->gone, (PyObject *)t) == 0)
            return;
        PyErr_Clear(); /* no memory */
    }
    PyObject *lost = PyObject_GetAttr((PyObject *)t, str_lost);
    PyObject *handle = lost == NULL ? NULL : PyObject_CallOneArg(poller->call_soon, lost);
    if (handle == NULL)
        PyErr_WriteUnraisable((PyObject *)t); /* the event loop is closed */
    Py_XDECREF(handle);
    Py_XDECREF(lost);
}

/* Closes the descriptor and lets the protocol know; `error` may be NULL. */
static void
disconnect(Transport *t, PyObject *error)
{
    if (t->fd < 0)
        return;
    if (error != NULL)
        Py_XSETREF(t->error, Py_NewRef(error));
    if (t->watched) /* a process that is being forked may have a copy, and epoll would tell of that */
        epoll_ctl(t->poller->epoll, EPOLL_CTL_DEL, t->fd, NULL);
    close(t->fd);
    t->fd = -1;
    t->watched = 0;
    t->closing = 1;
    forget_waiting(t);
    Py_CLEAR(t->to);
    tell_lost(t);
    dispose(t->poller, (PyObject *)t);
}

static int
is_reading(Transport *t)
{
    return t->reading && !t->ended && !t->closing;
}

/* Lets epoll watch for what is wanted now, if it does not, and tell again of what was left unread. Whenever it
is told what to watch for, it looks whether that is there already. What is not wanted any more stays watched,
because an edge that nobody waits for costs less than telling epoll. */
static void
watch(Transport *t)
{
    if (t->fd < 0)
        return;
    int reads = is_reading(t);
    int sends = has_waiting(t) && !t->held;
    uint32_t wanted = (reads ? READABLE : 0) | (sends ? EPOLLOUT : 0);
    if ((wanted & ~t->watched) == 0 && !(reads && t->unread))
        return;
    if (reads)
        t->unread = 0;
    struct epoll_event event = {.events = wanted | EPOLLET, .data.ptr = t};
    int operation = t->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(t->poller->epoll, operation, t->fd, &event) < 0) {
        PyObject *error = os_error(errno);
        t->watched = 0;
        disconnect(t, error);
        Py_XDECREF(error);
        return;
    }
    t->watched = wanted;
}

static void send_held(Transport *t);

/* A callback of the protocol raised the exception that is set. */
static void
callback_failed(Transport *t, const char *message, PyObject *protocol)
{
    PyObject *error = report(t->poller, message, (PyObject *)t, protocol);
    send_held(t);
    disconnect(t, error);
    Py_XDECREF(error);
}

static void
call(Transport *t, PyObject *name, const char *message)
{
    PyObject *protocol = t->protocol;
    if (protocol == NULL)
        return;
    Py_INCREF(protocol);
    PyObject *done = PyObject_CallMethodNoArgs(protocol, name);
    if (done == NULL)
        callback_failed(t, message, protocol);
    Py_XDECREF(done);
    Py_DECREF(protocol);
}

/* Sending failed: what was received before can still be read, then the error is told. */
static void
sending_failed(Transport *t, int number)
{
    PyObject *error = os_error(number);
    forget_waiting(t);
    if (is_reading(t)) {
        Py_XSETREF(t->error, error);
        t->unread = 1;
        watch(t);
        return;
    }
    disconnect(t, error);
    Py_XDECREF(error);
}

/* Everything is sent: close, or end our side, if that was asked for. */
static void
all_sent(Transport *t)
{
    if (t->closing)
        disconnect(t, NULL);
    else if (t->ends)
        shutdown(t->fd, SHUT_WR); /* fails only where the connection is gone, which reading tells */
}

/* Sends what is in the pipe, as far as the kernel takes it. */
static void
flush_pipe(Transport *t)
{
    while (t->piped > 0) {
        ssize_t done = splice(t->pipe.out, NULL, t->fd, NULL, t->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                sending_failed(t, errno);
            return;
        }
        t->waiting -= done;
        t->piped -= done;
        if (t->piped == 0)
            return_pipe(t->poller, t->pipe);
    }
}

/* Sends what waits, as far as the kernel takes it. */
static void
flush(Transport *t)
{
    struct iovec vectors[MOST_PIECES];
    t->held = 0;
    flush_pipe(t);
    while (t->count > 0 && t->piped == 0) {
        int used = 0;
        for (; used < t->count && used < MOST_PIECES; used++) {
            PyObject *piece = t->pieces[(t->head + used) % t->room];
            Py_ssize_t skipped = used == 0 ? t->sent : 0;
            vectors[used].iov_base = PyBytes_AS_STRING(piece) + skipped;
            vectors[used].iov_len = PyBytes_GET_SIZE(piece) - skipped;
        }
        struct msghdr message = {.msg_iov = vectors, .msg_iovlen = used};
        ssize_t done = sendmsg(t->fd, &message, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                sending_failed(t, errno);
            break;
        }
        t->waiting -= done;
        while (done > 0) {
            PyObject *piece = t->pieces[t->head];
            Py_ssize_t left = PyBytes_GET_SIZE(piece) - t->sent;
            if (done < left) {
                t->sent += done;
                break;
            }
            done -= left;
            t->sent = 0;
            t->head = (t->head + 1) % t->room;
            t->count--;
            Py_DECREF(piece);
        }
    }
    if (t->full && t->waiting <= t->low && t->fd >= 0) {
        t->full = 0;
        call(t, str_resume_writing, "protocol.resume_writing() call failed.");
    }
    if (t->fd < 0)
        return;
    if (!has_waiting(t))
        all_sent(t);
    watch(t);
}

/* Sends what is held, if anything is, as if it had been written now. */
static void
send_held(Transport *t)
{
    if (t->held)
        flush(t);
}

/* The same for all transports of a poller. No protocol is called, as none of them is full. */
static void
send_all_held(Poller *poller)
{
    for (int at = 0; at < poller->holders; at++) {
        Transport *t = poller->held[at];
        if (t->held && t->count == 1) { /* mostly: a `send` takes less than a `sendmsg` */
            PyObject *piece = t->pieces[t->head];
            ssize_t done = send_bytes(t->fd, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece));
            if (done == t->waiting) {
                forget_waiting(t);
                all_sent(t);
            } else if (done > 0) {
                t->sent = done;
                t->waiting -= done;
            } else if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) {
                sending_failed(t, errno); /* the kernel tells of a reset once only */
            }
        }
        send_held(t); /* what is left */
    }
    poller->holders = 0;
}

/* Tells whether bytes that are to be written are held. Those after them are, too, so that their order stays. */
static int
hold(Transport *t, Py_ssize_t size)
{
    Poller *poller = t->poller;
    if (t->held)
        return 1;
    if (!poller->holding || poller->holders == MOST_HELD || has_waiting(t) || size > HELD_SIZE)
        return 0;
    poller->held[poller->holders++] = t;
    t->held = 1;
    return 1;
}

/* Keeps bytes that could not be sent. `data` is an object of bytes, of which `skipped` are sent. */
static int
keep(Transport *t, PyObject *data, Py_ssize_t skipped)
{
    if (t->count == t->room) {
        Py_ssize_t room = t->room ? 2 * t->room : 4;
        PyObject **pieces = PyMem_Malloc(room * sizeof(PyObject *));
        if (pieces == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t at = 0; at < t->count; at++)
            pieces[at] = t->pieces[(t->head + at) % t->room];
        PyMem_Free(t->pieces);
        t->pieces = pieces;
        t->room = room;
        t->head = 0;
    }
    if (t->count == 0)
        t->sent = skipped;
    t->pieces[(t->head + t->count) % t->room] = Py_NewRef(data);
    t->count++;
    t->waiting += PyBytes_GET_SIZE(data) - skipped;
    return 0;
}

/* Lets the protocol know if more than it wants waits to be sent. */
static void
tell_if_full(Transport *t)
{
    if (!t->full && t->waiting > t->high && t->fd >= 0) {
        t->full = 1;
        call(t, str_pause_writing, "protocol.pause_writing() call failed.");
    }
}

PyDoc_STRVAR(
    write_doc,
    "Send bytes, at once or when the events at hand are handled, as far as the kernel takes them; the rest when it\n"
    "can.");

static PyObject *
transport_write(Transport *t, PyObject *data)
{
    if (t->ends) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot call write() after write_eof()");
        return NULL;
    }
    Py_buffer view = {.obj = NULL};
    const char *start;
    Py_ssize_t size;
    if (PyBytes_CheckExact(data)) {
        start = PyBytes_AS_STRING(data);
        size = PyBytes_GET_SIZE(data);
    } else {
        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
            return NULL;
        start = view.buf;
        size = view.len;
    }
    Py_ssize_t done = 0;
    int held = 0;
    if (size == 0 || t->closing || t->fd < 0 || t->error != NULL)
        goto end; /* as asyncio: what is written to a closing transport is dropped */
    held = hold(t, size);
    if (!held && !has_waiting(t)) {
        do
            done = send_bytes(t->fd, start, size);
        while (done < 0 && errno == EINTR);
        if (done < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                sending_failed(t, errno);
                goto end;
            }
            done = 0;
        }
        if (done == size)
            goto end;
    }
    int kept;
    if (view.obj == NULL) {
        kept = keep(t, data, done);
    } else {
        PyObject *rest = PyBytes_FromStringAndSize(start + done, size - done);
        kept = rest == NULL ? -1 : keep(t, rest, 0);
        Py_XDECREF(rest);
    }
    if (kept < 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    if (held && t->waiting <= HELD_SIZE && t->waiting <= t->high)
        goto end;
    send_held(t);
    watch(t);
    tell_if_full(t);
end:
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *
transport_writelines(Transport *t, PyObject *lines)
{
    PyObject *iterator = PyObject_GetIter(lines), *line;
    if (iterator == NULL)
        return NULL;
    while ((line = PyIter_Next(iterator)) != NULL) {
        PyObject *done = transport_write(t, line);
        Py_DECREF(line);
        if (done == NULL)
            break;
        Py_DECREF(done);
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Returns the method `data_received` of a type, which it holds, or NULL if its objects may have others. */
static PyObject *
find_received(Poller *poller, PyTypeObject *type)
{
    if (type->tp_dictoffset != 0 || type->tp_getattro != PyObject_GenericGetAttr)
        return NULL;
#ifdef Py_TPFLAGS_MANAGED_DICT
    if (PyType_HasFeature(type, Py_TPFLAGS_MANAGED_DICT))
        return NULL;
#endif
    PyObject *found = PyObject_GetAttr((PyObject *)type, str_data_received);
    if (found == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(found);
    /* Once a type is changed it has no version, until the next of its attributes is looked up. */
    if (!PyType_HasFeature(Py_TYPE(found), Py_TPFLAGS_METHOD_DESCRIPTOR) || type->tp_version_tag == 0)
        return NULL;
    poller->methods[poller->oldest] = (Method){type, type->tp_version_tag, found};
    poller->oldest = (poller->oldest + 1) % METHODS;
    return found;
}

static PyObject *
call_received(Poller *poller, PyObject *protocol, PyObject *data)
{
    PyTypeObject *type = Py_TYPE(protocol);
    PyObject *received = NULL;
    for (Method *one = poller->methods; received == NULL && one < poller->methods + METHODS; one++)
        if (one->type == type && one->version == type->tp_version_tag)
            received = one->received;
    if (received == NULL)
        received = find_received(poller, type);
    if (received == NULL)
        return PyObject_CallMethodOneArg(protocol, str_data_received, data);
    PyObject *args[] = {protocol, data};
    Py_INCREF(received);
    PyObject *done = PyObject_Vectorcall(received, args, 2, NULL);
    Py_DECREF(received);
    return done;
}

/* Lets what has come go on to `t->to`, and tells the protocol how much. Returns 0 if it has to be read instead:
the other side does not take more at once, there is no pipe, or the connection has an end or an error to tell.
`more` as in `receive`. */
static int
relay(Transport *t, int more)
{
    Transport *to = t->to;
    send_held(to);
    if (to->fd < 0 || to->closing || to->ends || to->count > 0 || to->error != NULL)
        return 0;
    Pipe pipe = to->pipe;
    if (to->piped == 0 && take_pipe(t->poller, &pipe) < 0)
        return 0;
    Py_ssize_t most = t->relay < PIPE_SIZE ? t->relay : PIPE_SIZE;
    ssize_t size;
    do
        size = splice(t->fd, NULL, pipe.in, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (size < 0 && errno == EINTR);
    if (size <= 0) {
        if (to->piped == 0)
            return_pipe(t->poller, pipe);
        return 0;
    }
    Py_INCREF(to);
    to->pipe = pipe;
    to->piped += size;
    to->waiting += size;
    t->relay -= size;
    if (t->relay == 0)
        Py_CLEAR(t->to);
    flush_pipe(to);
    watch(to);
    tell_if_full(to);
    Py_DECREF(to);
    PyObject *count = PyLong_FromSsize_t(size), *protocol = Py_XNewRef(t->protocol), *done = NULL;
    int follows = 0; /* a read would have told of what lies behind the body, too */
    if (t->fd >= 0)
        ioctl(t->fd, FIONREAD, &follows);
    if (follows == 0 && !more)
        t->unread = 0;
    PyObject *args[] = {protocol, count, t->to == NULL && follows > 0 ? Py_True : Py_False};
    if (protocol != NULL && count != NULL)
        done = PyObject_VectorcallMethod(str_relayed, args, 3, NULL);
    if (protocol != NULL && done == NULL)
        callback_failed(t, "protocol.relayed() call failed.", protocol);
    Py_XDECREF(done);
    Py_XDECREF(protocol);
    Py_XDECREF(count);
    return 1;
}

PyDoc_STRVAR(
    relay_doc,
    "relay(to, count): let the next bytes that come go to another transport, as many as `count`.\n\n"
    "What goes there is told to the protocol, by `relayed(count, follows)`, and not given to it; with the last\n"
    "of them `follows` says whether more than `count` bytes have come. Anything may be given to `data_received`\n"
    "all the same; the protocol writes it as it would have.");

static PyObject *
transport_relay(Transport *t, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || Py_TYPE(args[0]) != &TransportType) {
        PyErr_SetString(PyExc_TypeError, "relay(to, count)");
        return NULL;
    }
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (t->fd >= 0 && size > 0 && ((Transport *)args[0])->poller == t->poller) {
        Py_XSETREF(t->to, (Transport *)Py_NewRef(args[0]));
        t->relay = size;
    }
    Py_RETURN_NONE;
}

/* Reads once and calls the protocol. `more`: there may be more to read although less is read than asked for. */
static void
receive(Transport *t, int more)
{
    if (t->to != NULL && relay(t, more))
        return;
    Poller *poller = t->poller;
    PyObject *data = NULL;
    char *into = poller->buffer;
    ssize_t size, most = FIRST_READ;
    if (t->large) {
        data = PyBytes_FromStringAndSize(NULL, READ_SIZE);
        if (data == NULL) {
            PyErr_Clear();
        } else {
            into = PyBytes_AS_STRING(data);
            most = READ_SIZE;
        }
    }
    do
        size = receive_bytes(t->fd, into, most);
    while (size < 0 && errno == EINTR);
    if (size <= 0) {
        int number = errno;
        Py_XDECREF(data);
        if (size < 0 && (number == EAGAIN || number == EWOULDBLOCK)) {
            t->unread = 0;
            return;
        }
        if (size < 0 || t->error != NULL) {
            PyObject *error = t->error ? Py_NewRef(t->error) : os_error(number);
            disconnect(t, error);
            Py_XDECREF(error);
            return;
        }
        t->ended = 1;
        PyObject *protocol = Py_NewRef(t->protocol);
        PyObject *stays = PyObject_CallMethodNoArgs(protocol, str_eof_received);
        int open = stays == NULL ? -1 : PyObject_IsTrue(stays);
        Py_XDECREF(stays);
        if (open < 0) {
            callback_failed(t, "protocol.eof_received() call failed.", protocol);
        } else if (!open && !t->closing) {
            t->closing = 1;
            if (!has_waiting(t))
                disconnect(t, NULL);
        }
        Py_DECREF(protocol);
        watch(t);
        return;
    }
    if (size < most && !more)
        t->unread = 0;
    t->large = size >= LARGE_READ;
    if (t->to != NULL) {
        t->relay -= size;
        if (t->relay <= 0)
            Py_CLEAR(t->to);
    }
    if (data == NULL)
        data = PyBytes_FromStringAndSize(into, size);
    else if (size < READ_SIZE)
        _PyBytes_Resize(&data, size);
    PyObject *protocol = Py_NewRef(t->protocol);
    PyObject *done = data == NULL ? NULL : call_received(poller, protocol, data);
    if (done == NULL)
        callback_failed(t, "protocol.data_received() call failed.", protocol);
    Py_XDECREF(done);
    Py_XDECREF(data);
    Py_DECREF(protocol);
}

static void
transport_event(Transport *t, uint32_t events)
{
    if (t->fd >= 0 && events != EPOLLOUT) {
        /* First what came: it may be a response from a peer that takes nothing more. */
        int more = !t->tcp || events & ~(EPOLLIN | EPOLLOUT);
        t->unread = 1;
        for (int reads = more ? 2 : 1; reads > 0 && t->unread && is_reading(t); reads--)
            receive(t, more); /* the second time mostly the end */
        watch(t);
    }
    if (t->fd < 0 || !(events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
        return;
    if (has_waiting(t)) {
        flush(t);
    } else if (events == EPOLLOUT && is_reading(t)) {
        t->unread = 1; /* nothing waits any more, and the peer's reads need not wake us: watch for input only */
        watch(t);
    }
}

static int
is_tcp(int fd)
{
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP;
}

static Transport *
new_transport(Poller *poller, int fd, int tcp, PyObject *protocol)
{
    Transport *t = PyObject_GC_New(Transport, &TransportType);
    if (t == NULL)
        return NULL;
    t->poller = (Poller *)Py_NewRef((PyObject *)poller);
    t->protocol = Py_NewRef(protocol);
    t->error = t->peer = NULL;
    t->pieces = NULL;
    t->room = t->head = t->count = t->sent = t->waiting = t->piped = t->relay = 0;
    t->to = NULL;
    t->high = HIGH_WATER;
    t->low = HIGH_WATER / 4;
    t->fd = fd;
    t->watched = 0;
    t->reading = 1;
    t->ended = t->closing = t->ends = t->full = t->large = t->lost = t->held = t->unread = 0;
    t->tcp = tcp;
    t->address_size = 0;
    PyObject_GC_Track((PyObject *)t);
    return t;
}

/* Calls `connection_made` and begins to read. The caller has a reference beside the poller's. */
static void
begin(Transport *t)
{
    PyObject *protocol = Py_NewRef(t->protocol);
    Py_INCREF(t); /* the poller's */
    PyObject *done = PyObject_CallMethodOneArg(protocol, str_connection_made, (PyObject *)t);
    if (done == NULL)
        callback_failed(t, "protocol.connection_made() call failed.", protocol);
    Py_XDECREF(done);
    Py_DECREF(protocol);
    watch(t);
}

PyDoc_STRVAR(lost_doc, "Call the protocol's connection_lost; the event loop calls this, once.");

static PyObject *
transport_lost(Transport *t, PyObject *Py_UNUSED(ignored))
{
    PyObject *protocol = t->protocol, *error = t->error;
    if (t->lost || protocol == NULL)
        Py_RETURN_NONE;
    t->lost = 1;
    t->protocol = t->error = NULL;
    PyObject *done = PyObject_CallMethodOneArg(protocol, str_connection_lost, error ? error : Py_None);
    Py_DECREF(protocol);
    Py_XDECREF(error);
    return done;
}

PyDoc_STRVAR(close_doc, "Close once everything is sent.");

static PyObject *
transport_close(Transport *t, PyObject *Py_UNUSED(ignored))
{
    if (!t->closing && t->fd >= 0) {
        t->closing = 1;
        if (!has_waiting(t))
            disconnect(t, NULL);
        else
            watch(t);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc, "Close at once, and drop what the kernel has not taken.");

static PyObject *
transport_abort(Transport *t, PyObject *Py_UNUSED(ignored))
{
    send_held(t);
    disconnect(t, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(write_eof_doc, "End our side of the connection once everything is sent.");

static PyObject *
transport_write_eof(Transport *t, PyObject *Py_UNUSED(ignored))
{
    if (!t->ends && !t->closing && t->fd >= 0) {
        t->ends = 1;
        if (!has_waiting(t))
            all_sent(t);
    }
    Py_RETURN_NONE;
}

static PyObject *
transport_can_write_eof(Transport *Py_UNUSED(t), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

static PyObject *
transport_is_closing(Transport *t, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(t->closing);
}

static PyObject *
transport_is_reading(Transport *t, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(t->reading && !t->ended && !t->closing);
}

PyDoc_STRVAR(pause_doc, "Read no more until resume_reading. Epoll is not told.");

static PyObject *
transport_pause_reading(Transport *t, PyObject *Py_UNUSED(ignored))
{
    t->reading = 0;
    Py_RETURN_NONE;
}

static PyObject *
transport_resume_reading(Transport *t, PyObject *Py_UNUSED(ignored))
{
    t->reading = 1;
    watch(t);
    Py_RETURN_NONE;
}

static PyObject *
transport_get_write_buffer_size(Transport *t, PyObject *Py_UNUSED(ignored))
{
    send_held(t); /* who asks wants to know whether the peer reads */
    return PyLong_FromSsize_t(t->waiting);
}

static PyObject *
transport_get_write_buffer_limits(Transport *t, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("(nn)", t->low, t->high);
}

static PyObject *
transport_set_write_buffer_limits(Transport *t, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"high", "low", NULL};
    PyObject *high = Py_None, *low = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OO", names, &high, &low))
        return NULL;
    Py_ssize_t least = -1, most = -1;
    if (low != Py_None && (least = PyNumber_AsSsize_t(low, PyExc_ValueError)) == -1 && PyErr_Occurred())
        return NULL;
    if (high != Py_None && (most = PyNumber_AsSsize_t(high, PyExc_ValueError)) == -1 && PyErr_Occurred())
        return NULL;
    if (high == Py_None)
        most = low == Py_None ? HIGH_WATER : 4 * least;
    if (low == Py_None)
        least = most / 4;
    if (least < 0 || most < least) {
        PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0", most, least);
        return NULL;
    }
    t->high = most;
    t->low = least;
    Py_RETURN_NONE;
}

static PyObject *
transport_set_protocol(Transport *t, PyObject *protocol)
{
    if (!t->lost)
        Py_XSETREF(t->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *
transport_get_protocol(Transport *t, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(t->protocol ? t->protocol : Py_None);
}

/* An address as socket.getpeername returns it; "" for a Unix socket. */
static PyObject *
address_of(const struct sockaddr *address)
{
    char text[INET6_ADDRSTRLEN];
    if (address->sa_family == AF_INET) {
        /* Written out: inet_ntop and Py_BuildValue, which read formats, were a tenth of a connection. */
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        const unsigned char *parts = (const unsigned char *)&v4->sin_addr;
        char *end = text;
        for (int at = 0; at < 4; at++) {
            if (parts[at] >= 100)
                *end++ = '0' + parts[at] / 100;
            if (parts[at] >= 10)
                *end++ = '0' + parts[at] / 10 % 10;
            *end++ = '0' + parts[at] % 10;
            *end++ = '.';
        }
        PyObject *host = PyUnicode_DecodeASCII(text, end - 1 - text, NULL);
        PyObject *port = PyLong_FromLong(ntohs(v4->sin_port));
        PyObject *pair = host == NULL || port == NULL ? NULL : PyTuple_Pack(2, host, port);
        Py_XDECREF(host);
        Py_XDECREF(port);
        return pair;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
        return Py_BuildValue(
            "(siII)", text, (int)ntohs(v6->sin6_port), (unsigned)ntohl(v6->sin6_flowinfo),
            (unsigned)v6->sin6_scope_id);
    }
    return PyUnicode_FromString("");
}

PyDoc_STRVAR(setsockopt_doc, "setsockopt(level, option, value): as of a socket; the value is of bytes.");

static PyObject *
transport_setsockopt(Transport *t, PyObject *args)
{
    int level, option;
    Py_buffer value;
    if (!PyArg_ParseTuple(args, "iiy*", &level, &option, &value))
        return NULL;
    int done = setsockopt(t->fd, level, option, value.buf, (socklen_t)value.len);
    PyBuffer_Release(&value);
    if (done < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *
transport_family(Transport *t, void *Py_UNUSED(closure))
{
    struct sockaddr_storage found = {0};
    socklen_t size = sizeof(found);
    if (getsockname(t->fd, (struct sockaddr *)&found, &size) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(found.ss_family);
}

PyDoc_STRVAR(
    extra_doc,
    "Return \"peername\", \"sockname\", or \"socket\": this, which has the family and the options of one.");

static PyObject *
transport_get_extra_info(Transport *t, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2 || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "get_extra_info(name, default=None)");
        return NULL;
    }
    PyObject *name = args[0], *otherwise = count == 2 ? args[1] : Py_None;
    if (PyUnicode_CompareWithASCIIString(name, "peername") == 0) {
        if (t->peer == NULL && t->address_size == 0 && t->fd >= 0) {
            struct sockaddr_storage found = {0};
            socklen_t size = sizeof(found);
            if (getpeername(t->fd, (struct sockaddr *)&found, &size) == 0 && size <= sizeof(t->address)) {
                memcpy(&t->address, &found, size);
                t->address_size = size;
            } else {
                t->peer = PyUnicode_FromString("");
            }
        }
        if (t->peer == NULL && t->address_size > 0)
            t->peer = address_of((struct sockaddr *)&t->address);
        else if (t->peer == NULL && !PyErr_Occurred())
            return Py_NewRef(otherwise);
        return Py_XNewRef(t->peer);
    }
    if (t->fd >= 0 && PyUnicode_CompareWithASCIIString(name, "sockname") == 0) {
        struct sockaddr_storage found = {0};
        socklen_t size = sizeof(found);
        if (getsockname(t->fd, (struct sockaddr *)&found, &size) == 0)
            return address_of((struct sockaddr *)&found);
    }
    if (t->fd >= 0 && PyUnicode_CompareWithASCIIString(name, "socket") == 0)
        return Py_NewRef((PyObject *)t);
    return Py_NewRef(otherwise);
}

static int
transport_traverse(Transport *t, visitproc visit, void *arg)
{
    Py_VISIT(t->poller);
    Py_VISIT(t->protocol);
    Py_VISIT(t->error);
    Py_VISIT(t->to);
    return 0;
}

static int
transport_clear(Transport *t)
{
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->error);
    Py_CLEAR(t->to);
    return 0;
}

static void
transport_dealloc(Transport *t)
{
    PyObject_GC_UnTrack(t);
    forget_waiting(t);
    PyMem_Free(t->pieces);
    transport_clear(t);
    Py_CLEAR(t->peer);
    Py_CLEAR(t->poller);
    PyObject_GC_Del(t);
}

static PyMethodDef transport_methods[] = {
    {"write", (PyCFunction)transport_write, METH_O, write_doc},
    {"writelines", (PyCFunction)transport_writelines, METH_O, write_doc},
    {"relay", (PyCFunction)(void (*)(void))transport_relay, METH_FASTCALL, relay_doc},
    {"write_eof", (PyCFunction)transport_write_eof, METH_NOARGS, write_eof_doc},
    {"can_write_eof", (PyCFunction)transport_can_write_eof, METH_NOARGS, NULL},
    {"close", (PyCFunction)transport_close, METH_NOARGS, close_doc},
    {"abort", (PyCFunction)transport_abort, METH_NOARGS, abort_doc},
    {"is_closing", (PyCFunction)transport_is_closing, METH_NOARGS, NULL},
    {"is_reading", (PyCFunction)transport_is_reading, METH_NOARGS, NULL},
    {"pause_reading", (PyCFunction)transport_pause_reading, METH_NOARGS, pause_doc},
    {"resume_reading", (PyCFunction)transport_resume_reading, METH_NOARGS, NULL},
    {"get_write_buffer_size", (PyCFunction)transport_get_write_buffer_size, METH_NOARGS, NULL},
    {"get_write_buffer_limits", (PyCFunction)transport_get_write_buffer_limits, METH_NOARGS, NULL},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))transport_set_write_buffer_limits,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"set_protocol", (PyCFunction)transport_set_protocol, METH_O, NULL},
    {"get_protocol", (PyCFunction)transport_get_protocol, METH_NOARGS, NULL},
    {"get_extra_info", (PyCFunction)(void (*)(void))transport_get_extra_info, METH_FASTCALL, extra_doc},
    {"setsockopt", (PyCFunction)transport_setsockopt, METH_VARARGS, setsockopt_doc},
    {"_lost", (PyCFunction)transport_lost, METH_NOARGS, lost_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef transport_attributes[] = {
    {"family", (getter)transport_family, NULL, PyDoc_STR("AF_INET, AF_INET6 or AF_UNIX."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject TransportType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "canaryproxy.proxy.native_sockets.Transport",
    .tp_doc = PyDoc_STR("An asyncio.Transport, by its methods, of a stream socket."),
    .tp_basicsize = sizeof(Transport),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)transport_traverse,
    .tp_clear = (inquiry)transport_clear,
    .tp_dealloc = (destructor)transport_dealloc,
    .tp_methods = transport_methods,
    .tp_getset = transport_attributes,
};

/* --- Acceptors ----------------------------------------------------------------------------------------- */

static int
acceptor_watch(Acceptor *a, int on)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = a};
    if (a->fd < 0 || a->watched == on)
        return 0;
    if (epoll_ctl(a->poller->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, a->fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    a->watched = on;
    return 0;
}

static void
acceptor_event(Acceptor *a)
{
    Poller *poller = a->poller;
    for (int accepted = 0; accepted < MOST_ACCEPTED && a->fd >= 0; accepted++) {
        struct sockaddr_storage address = {0};
        socklen_t size = sizeof(address);
        int fd = accept4(a->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                /* Its connections wait in the backlog, and epoll would tell of them all the time. */
                PyObject *error = os_error(errno);
                PyObject *done = NULL;
                if (acceptor_watch(a, 0) == 0 && error != NULL)
                    done = PyObject_CallOneArg(a->exhausted, error);
                if (done == NULL)
                    Py_XDECREF(report(poller, "accepting failed", NULL, NULL));
                Py_XDECREF(done);
                Py_XDECREF(error);
                return;
            }
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                return;
            continue; /* that connection is gone (accept(2)) */
        }
        PyObject *protocol = PyObject_CallNoArgs(a->factory);
        Transport *t = protocol == NULL ? NULL : new_transport(poller, fd, a->tcp, protocol);
        Py_XDECREF(protocol);
        if (t == NULL) {
            Py_XDECREF(report(poller, "accepting a connection failed", NULL, NULL));
            close(fd);
            continue;
        }
        if (size <= sizeof(t->address)) {
            memcpy(&t->address, &address, size);
            t->address_size = size;
        }
        begin(t);
        Py_DECREF(t);
    }
}

PyDoc_STRVAR(resume_doc, "Accept again, after `exhausted` was called.");

static PyObject *
acceptor_resume(Acceptor *a, PyObject *Py_UNUSED(ignored))
{
    if (acceptor_watch(a, 1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(acceptor_close_doc, "Accept no more, and close the listening socket.");

static PyObject *
acceptor_close(Acceptor *a, PyObject *Py_UNUSED(ignored))
{
    if (a->fd < 0)
        Py_RETURN_NONE;
    int failed = acceptor_watch(a, 0); /* copies of the socket may stay open elsewhere */
    a->fd = -1;
    PyObject *done = failed < 0 ? NULL : PyObject_CallMethod(a->socket, "close", NULL);
    dispose(a->poller, (PyObject *)a);
    return done;
}

static int
acceptor_traverse(Acceptor *a, visitproc visit, void *arg)
{
    Py_VISIT(a->poller);
    Py_VISIT(a->socket);
    Py_VISIT(a->factory);
    Py_VISIT(a->exhausted);
    return 0;
}

static int
acceptor_clear(Acceptor *a)
{
    Py_CLEAR(a->socket);
    Py_CLEAR(a->factory);
    Py_CLEAR(a->exhausted);
    return 0;
}

static void
acceptor_dealloc(Acceptor *a)
{
    PyObject_GC_UnTrack(a);
    acceptor_clear(a);
    Py_CLEAR(a->poller);
    PyObject_GC_Del(a);
}

static PyMethodDef acceptor_methods[] = {
    {"resume", (PyCFunction)acceptor_resume, METH_NOARGS, resume_doc},
    {"close", (PyCFunction)acceptor_close, METH_NOARGS, acceptor_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject AcceptorType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "canaryproxy.proxy.native_sockets.Acceptor",
    .tp_doc = PyDoc_STR("Accepts the connections of a listening socket."),
    .tp_basicsize = sizeof(Acceptor),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)acceptor_traverse,
    .tp_clear = (inquiry)acceptor_clear,
    .tp_dealloc = (destructor)acceptor_dealloc,
    .tp_methods = acceptor_methods,
};

/* --- The poller ---------------------------------------------------------------------------------------- */

static PyObject *
poller_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", names, &loop))
        return NULL;
    Poller *p = (Poller *)type->tp_alloc(type, 0);
    if (p == NULL)
        return NULL;
    p->epoll = -1;
    p->loop = Py_NewRef(loop);
    p->call_soon = PyObject_GetAttrString(loop, "call_soon");
    p->dead = PyList_New(0);
    p->gone = PyList_New(0);
    p->buffer = PyMem_Malloc(FIRST_READ);
    if (p->call_soon == NULL || p->dead == NULL || p->gone == NULL) {
        Py_DECREF(p);
        return NULL;
    }
    if (p->buffer == NULL) {
        Py_DECREF(p);
        return PyErr_NoMemory();
    }
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll < 0) {
        Py_DECREF(p);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)p;
}

PyDoc_STRVAR(poll_doc, "Handle what is ready, and return without waiting; the event loop calls this.");

static PyObject *
poller_poll(Poller *p, PyObject *Py_UNUSED(ignored))
{
    if (p->epoll < 0 || p->polling)
        Py_RETURN_NONE;
    int count = poll_events(p->epoll, p->events, MOST_EVENTS);
    p->polling = 1;
    p->holding = count >= HELD_FROM;
    for (int at = 0; at < count; at++) {
        PyObject *source = p->events[at].data.ptr;
        if (Py_TYPE(source) == &TransportType)
            transport_event((Transport *)source, p->events[at].events);
        else
            acceptor_event((Acceptor *)source);
        if (p->holders == MOST_HELD)
            send_all_held(p);
    }
    p->holding = 0;
    send_all_held(p);
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(p->gone); at++) { /* the list may grow meanwhile */
        PyObject *t = PyList_GET_ITEM(p->gone, at);
        PyObject *done = transport_lost((Transport *)t, NULL);
        if (done == NULL)
            Py_XDECREF(report(p, "protocol.connection_lost() call failed.", t, NULL));
        Py_XDECREF(done);
    }
    if (PyList_GET_SIZE(p->gone) > 0)
        PyList_SetSlice(p->gone, 0, PyList_GET_SIZE(p->gone), NULL);
    p->polling = 0;
    if (PyList_GET_SIZE(p->dead) > 0)
        PyList_SetSlice(p->dead, 0, PyList_GET_SIZE(p->dead), NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(adopt_doc, "adopt(fd, protocol): own a connected, non-blocking socket, and return its transport.");

static PyObject *
poller_adopt(Poller *p, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "adopt(fd, protocol)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Transport *t = new_transport(p, (int)fd, is_tcp((int)fd), args[1]);
    if (t != NULL)
        begin(t);
    return (PyObject *)t;
}

PyDoc_STRVAR(
    accept_doc,
    "accept(socket, factory, exhausted): accept connections; `factory` makes the protocol of each.\n\n"
    "`exhausted` is called with the OSError when there are no descriptors or no memory for another one;\n"
    "nothing is accepted then until the acceptor's `resume`.");

static PyObject *
poller_accept(Poller *p, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "accept(socket, factory, exhausted)");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0)
        return NULL;
    Acceptor *a = PyObject_GC_New(Acceptor, &AcceptorType);
    if (a == NULL)
        return NULL;
    a->poller = (Poller *)Py_NewRef((PyObject *)p);
    a->socket = Py_NewRef(args[0]);
    a->factory = Py_NewRef(args[1]);
    a->exhausted = Py_NewRef(args[2]);
    a->fd = fd;
    a->tcp = is_tcp(fd);
    a->watched = 0;
    PyObject_GC_Track((PyObject *)a);
    if (acceptor_watch(a, 1) < 0) {
        Py_DECREF(a);
        return NULL;
    }
    Py_INCREF(a); /* the poller's */
    return (PyObject *)a;
}

static PyObject *
poller_fileno(Poller *p, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(p->epoll);
}

PyDoc_STRVAR(poller_close_doc, "Close the epoll descriptor: nothing is read or accepted any more.");

static PyObject *
poller_close(Poller *p, PyObject *Py_UNUSED(ignored))
{
    if (p->epoll >= 0)
        close(p->epoll);
    p->epoll = -1;
    Py_RETURN_NONE;
}

static int
poller_traverse(Poller *p, visitproc visit, void *arg)
{
    Py_VISIT(p->loop);
    Py_VISIT(p->call_soon);
    Py_VISIT(p->dead);
    Py_VISIT(p->gone);
    return 0;
}

static int
poller_clear(Poller *p)
{
    Py_CLEAR(p->loop);
    Py_CLEAR(p->call_soon);
    Py_CLEAR(p->dead);
    Py_CLEAR(p->gone);
    return 0;
}

static void
poller_dealloc(Poller *p)
{
    PyObject_GC_UnTrack(p);
    if (p->epoll >= 0)
        close(p->epoll);
    while (p->spare > 0)
        close_pipe(p, p->free[--p->spare]);
    poller_clear(p);
    PyMem_Free(p->buffer);
    Py_TYPE(p)->tp_free((PyObject *)p);
}

static PyMethodDef poller_methods[] = {
    {"poll", (PyCFunction)poller_poll, METH_NOARGS, poll_doc},
    {"adopt", (PyCFunction)(void (*)(void))poller_adopt, METH_FASTCALL, adopt_doc},
    {"accept", (PyCFunction)(void (*)(void))poller_accept, METH_FASTCALL, accept_doc},
    {"fileno", (PyCFunction)poller_fileno, METH_NOARGS, NULL},
    {"close", (PyCFunction)poller_close, METH_NOARGS, poller_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject PollerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "canaryproxy.proxy.native_sockets.Poller",
    .tp_doc = PyDoc_STR("Poller(loop): the sockets of an event loop's data path."),
    .tp_basicsize = sizeof(Poller),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = poller_new,
    .tp_traverse = (traverseproc)poller_traverse,
    .tp_clear = (inquiry)poller_clear,
    .tp_dealloc = (destructor)poller_dealloc,
    .tp_methods = poller_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "canaryproxy.proxy.native_sockets",
    .m_doc = PyDoc_STR("Transports of the data path over epoll."),
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit_native_sockets(void)
{
    static const struct {
        PyObject **at;
        const char *text;
    } names[] = {
        {&str_connection_made, "connection_made"},
        {&str_connection_lost, "connection_lost"},
        {&str_data_received, "data_received"},
        {&str_eof_received, "eof_received"},
        {&str_pause_writing, "pause_writing"},
        {&str_resume_writing, "resume_writing"},
        {&str_call_exception_handler, "call_exception_handler"},
        {&str_lost, "_lost"},
        {&str_relayed, "relayed"},
    };
    for (size_t at = 0; at < sizeof(names) / sizeof(names[0]); at++)
        if ((*names[at].at = PyUnicode_InternFromString(names[at].text)) == NULL)
            return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddType(made, &PollerType) < 0 || PyModule_AddType(made, &TransportType) < 0 ||
        PyModule_AddType(made, &AcceptorType) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
