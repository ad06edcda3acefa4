/* What each request asks of its bytes: in Python it takes several objects and passes over them.

   The callers do the same without this module, and say what it means. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MOST_ON_STACK 512

static uint32_t rotated(uint32_t word, int by)
{
    return word << by | word >> (32 - by);
}

static uint32_t mixed(uint32_t block)
{
    return rotated(block * 0xcc9e2d51u, 15) * 0x1b873593u;
}

/* The next four bytes, the lowest first. */
static uint32_t block_at(const unsigned char *data)
{
    uint32_t block;
    memcpy(&block, data, sizeof(block));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    block = __builtin_bswap32(block);
#endif
    return block;
}

/* MurmurHash3 x86 32-bit with seed 0 (Appleby 2011, in the public domain). */
static uint32_t murmur3(const unsigned char *data, size_t size)
{
    uint32_t hash = 0;
    size_t at = 0;
    for (; at + 4 <= size; at += 4)
        hash = rotated(hash ^ mixed(block_at(data + at)), 13) * 5 + 0xe6546b64u;
    uint32_t rest = 0;
    for (size_t left = size - at; left > 0; left--)
        rest = rest << 8 | data[at + left - 1];
    hash ^= mixed(rest);
    hash ^= (uint32_t)size;
    hash = (hash ^ hash >> 16) * 0x85ebca6bu;
    hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
    return hash ^ hash >> 16;
}

static int are_bytes(PyObject *const *args, Py_ssize_t count, Py_ssize_t wanted)
{
    int fits = count == wanted;
    for (Py_ssize_t i = 0; fits && i < wanted; i++)
        fits = PyBytes_CheckExact(args[i]);
    if (!fits)
        PyErr_Format(PyExc_TypeError, "takes %zd bytes objects", wanted);
    return fits;
}

static PyObject *hash_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!are_bytes(args, count, 2))
        return NULL;
    unsigned char near[MOST_ON_STACK], *data = near;
    size_t first = (size_t)PyBytes_GET_SIZE(args[0]), second = (size_t)PyBytes_GET_SIZE(args[1]);
    if (first + second > sizeof(near)) {
        data = PyMem_Malloc(first + second);
        if (data == NULL)
            return PyErr_NoMemory();
    }
    memcpy(data, PyBytes_AS_STRING(args[0]), first);
    memcpy(data + first, PyBytes_AS_STRING(args[1]), second);
    uint32_t found = murmur3(data, first + second);
    if (data != near)
        PyMem_Free(data);
    return PyLong_FromUnsignedLong(found);
}

/* Eight bytes at a time: EACH(n) has the byte n eight times, and what follows sets the highest bit of each
   byte that is such a one. Sums of the lower seven bits carry nothing into the next byte. */
#define EACH(byte) (0x0101010101010101u * (uint64_t)(byte))
#define HIGHEST EACH(0x80)

static uint64_t word_at(const char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof(word));
    return word;
}

/* Fewer than eight bytes, filled up with others. */
static uint64_t short_word(const char *data, Py_ssize_t size, unsigned char filler)
{
    uint64_t word = EACH(filler);
    memcpy(&word, data, (size_t)size);
    return word;
}

/* Neither visible ASCII nor a blank. */
static uint64_t not_visible(uint64_t word)
{
    uint64_t low = word & EACH(0x7f);
    return (word | (low + EACH(0x80 - 0x7f)) | ~(low + EACH(0x80 - ' '))) & HIGHEST;
}

/* No hex digit in lower case. */
static uint64_t not_hex(uint64_t word)
{
    uint64_t low = word & EACH(0x7f);
    uint64_t digits = (low + EACH(0x80 - '0')) & ~(low + EACH(0x80 - '9' - 1));
    uint64_t letters = (low + EACH(0x80 - 'a')) & ~(low + EACH(0x80 - 'f' - 1));
    return (word | ~(digits | letters)) & HIGHEST;
}

/* Whether every byte is visible ASCII or a blank, the first and the last one no blank. */
static int is_plain(const char *data, Py_ssize_t size)
{
    if (size == 0 || data[0] == ' ' || data[size - 1] == ' ')
        return 0;
    if (size < 8)
        return !not_visible(short_word(data, size, 'x'));
    for (Py_ssize_t at = 0; at + 8 < size; at += 8)
        if (not_visible(word_at(data + at)))
            return 0;
    return !not_visible(word_at(data + size - 8)); /* some of them once more */
}

/* What the values of a head may be, as canaryproxy/http1/header_template.py has them. */
enum { COOKIE, TRACEPARENT, FORWARDED_FOR, CREDENTIALS, OPAQUE };

#define MOST_VALUES 16
#define BEGINS(data, size, text) ((size) >= (Py_ssize_t)sizeof(text) - 1 && memcmp(data, text, sizeof(text) - 1) == 0)

/* Whether these are hex digits in lower case, so many times eight, and not all of them zeros. */
static int is_id(const char *data, int words)
{
    uint64_t odd = 0, differs = 0;
    for (int i = 0; i < words; i++) {
        uint64_t word = word_at(data + 8 * i);
        odd |= not_hex(word);
        differs |= word ^ EACH('0');
    }
    return !odd && differs;
}

/* Whether it is a traceparent of version 00 (W3C Trace Context 3.2) whose ids are not all zeros. */
static int is_traceparent(const char *data, Py_ssize_t size)
{
    return size == 55 && memcmp(data, "00-", 3) == 0 && is_id(data + 3, 4) && data[35] == '-' &&
           is_id(data + 36, 2) && data[52] == '-' && !not_hex(short_word(data + 53, 2, '0'));
}

static int may_be(int kind, const char *data, Py_ssize_t size)
{
    if (kind == TRACEPARENT)
        return is_traceparent(data, size);
    if (!is_plain(data, size))
        return 0;
    return kind != CREDENTIALS || ((BEGINS(data, size, "Bearer ") || BEGINS(data, size, "Basic ")) &&
                                   memchr(data, ',', (size_t)size) == NULL);
}

struct part {
    const char *data;
    Py_ssize_t size;
};

static struct part part_of(PyObject *bytes)
{
    return (struct part){PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
}

static int begins(const char *at, const char *end, struct part part)
{
    return part.size <= end - at && memcmp(at, part.data, (size_t)part.size) == 0;
}

static char *put(char *to, struct part part)
{
    memcpy(to, part.data, (size_t)part.size);
    return to + part.size;
}

/* Whether it is a tuple of bytes as taken_apart() takes it; sets the number of values, else an error. */
static int is_form(PyObject *form, PyObject *head, Py_ssize_t *count)
{
    *count = PyTuple_CheckExact(form) ? (PyTuple_GET_SIZE(form) - 3) / 2 : 0;
    int fits = *count > 0 && *count <= MOST_VALUES && PyTuple_GET_SIZE(form) == 3 + 2 * *count &&
               PyBytes_CheckExact(head);
    for (Py_ssize_t i = 0; fits && i < 3 + 2 * *count; i++)
        fits = PyBytes_CheckExact(PyTuple_GET_ITEM(form, i));
    if (!fits || PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 0)) != *count) {
        PyErr_SetString(PyExc_TypeError, "takes a head and a form, which are bytes objects");
        return 0;
    }
    return 1;
}

/* Finds the values of their own of a head, and joins what is forwarded of it, between a line and an ending.

   form: a tuple of bytes: the kinds of the values, what heads have before the first value, the same as it is
   forwarded, and for each value what follows it in heads, and in what is forwarded. Returns a new reference;
   NULL without an error if the head is another one. */
static PyObject *taken_apart(struct part head, PyObject *form, Py_ssize_t count, struct part line, struct part ending,
                             struct part *values)
{
    const char *kinds = PyBytes_AS_STRING(PyTuple_GET_ITEM(form, 0));
    const char *at = head.data, *end = at + head.size;
    struct part first = part_of(PyTuple_GET_ITEM(form, 1));
    if (!begins(at, end, first))
        return NULL;
    at += first.size;
    Py_ssize_t size = line.size + PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 2)) + ending.size;
    for (Py_ssize_t i = 0; i < count; i++) {
        struct part rest = part_of(PyTuple_GET_ITEM(form, 3 + 2 * i));
        /* A value has no CR, and what follows begins with one. */
        const char *stop = memchr(at, '\r', (size_t)(end - at));
        if (stop == NULL || !begins(stop, end, rest) || !may_be(kinds[i], at, stop - at))
            return NULL;
        values[i] = (struct part){at, stop - at};
        size += (kinds[i] == FORWARDED_FOR ? 0 : stop - at) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 4 + 2 * i));
        at = stop + rest.size;
    }
    if (at != end)
        return NULL;
    PyObject *sent = PyBytes_FromStringAndSize(NULL, size);
    if (sent == NULL)
        return NULL;
    char *to = put(put(PyBytes_AS_STRING(sent), line), part_of(PyTuple_GET_ITEM(form, 2)));
    for (Py_ssize_t i = 0; i < count; i++) {
        if (kinds[i] != FORWARDED_FOR)
            to = put(to, values[i]);
        to = put(to, part_of(PyTuple_GET_ITEM(form, 4 + 2 * i)));
    }
    put(to, ending);
    return sent;
}

static const struct part NOTHING = {"", 0};

static PyObject *request_values(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyBytes_CheckExact(args[3]) || !(args[2] == Py_None || PyBytes_CheckExact(args[2])))
        return PyErr_Format(PyExc_TypeError, "takes a head, a form, a line or None, and an ending, which are bytes objects");
    PyObject *form = args[1];
    if (!is_form(form, args[0], &count))
        return NULL;
    struct part head = part_of(args[0]), line = NOTHING;
    if (args[2] != Py_None) {
        line = part_of(args[2]);
        Py_ssize_t before = line.size + 2; /* and the end of the line */
        if (before > head.size)
            Py_RETURN_NONE;
        head = (struct part){head.data + before, head.size - before};
    }
    struct part values[MOST_VALUES];
    PyObject *sent = taken_apart(head, form, count, line, part_of(args[3]), values);
    if (sent == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    const char *kinds = PyBytes_AS_STRING(PyTuple_GET_ITEM(form, 0));
    struct part by_kind[3] = {NOTHING, NOTHING, NOTHING};
    for (Py_ssize_t i = 0; i < count; i++)
        if (kinds[i] <= FORWARDED_FOR)
            by_kind[(int)kinds[i]] = values[i];
    struct part cookie = by_kind[COOKIE], trace = by_kind[TRACEPARENT], client = by_kind[FORWARDED_FOR];
    PyObject *found[5] = {
        sent,
        PyBytes_FromStringAndSize(cookie.data, cookie.size),
        trace.size ? PyBytes_FromStringAndSize(trace.data + 3, 32) : Py_NewRef(Py_None),
        /* The last digit is odd, as those of its values whose lowest bit is set: '1', 'b'. */
        PyBool_FromLong(trace.size && (trace.data[54] & 1) != (trace.data[54] >= 'a')),
        client.size ? PyBytes_FromStringAndSize(client.data, client.size) : Py_NewRef(Py_None),
    };
    PyObject *made = found[1] && found[2] && found[4] ? PyTuple_New(5) : NULL;
    for (Py_ssize_t i = 0; i < 5; i++)
        if (made != NULL)
            PyTuple_SET_ITEM(made, i, found[i]);
        else
            Py_XDECREF(found[i]);
    return made;
}

static PyObject *response_values(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "takes a head and a form, which are bytes objects");
    if (!is_form(args[1], args[0], &count))
        return NULL;
    struct part values[MOST_VALUES];
    PyObject *sent = taken_apart(part_of(args[0]), args[1], count, NOTHING, NOTHING, values);
    if (sent == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    PyObject *found = PyTuple_New(1 + count);
    if (found == NULL) {
        Py_DECREF(sent);
        return NULL;
    }
    PyTuple_SET_ITEM(found, 0, sent);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = PyBytes_FromStringAndSize(values[i].data, values[i].size);
        if (value == NULL) {
            Py_DECREF(found);
            return NULL;
        }
        PyTuple_SET_ITEM(found, 1 + i, value);
    }
    return found;
}

static PyObject *plain_cookie(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!are_bytes(args, count, 2))
        return NULL;
    const char *data = PyBytes_AS_STRING(args[0]), *end = data + PyBytes_GET_SIZE(args[0]);
    const char *begin = PyBytes_AS_STRING(args[1]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[1]);
    const char *found = data;
    /* Not memmem(), which first makes a table of what it searches for. */
    while (size <= end - found && memcmp(found, begin, (size_t)size) != 0) {
        found = memchr(found + 1, begin[0], (size_t)(end - found - 1));
        if (found == NULL)
            Py_RETURN_NONE;
    }
    if (size > end - found)
        Py_RETURN_NONE;
    int begins = found == data || (found - data >= 2 && found[-2] == ';' && found[-1] == ' ');
    found += size;
    const char *last = memchr(found, ';', (size_t)(end - found));
    if (last == NULL)
        last = end;
    unsigned char odd = 0;
    for (const char *at = found; at < last; at++)
        odd |= (*at == ' ') | (*at == '"') | (*at == '\t');
    return PyBytes_FromStringAndSize(found, begins && !odd ? last - found : 0);
}

static PyObject *joined(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!are_bytes(args, count, 3))
        return NULL;
    Py_ssize_t size = 0;
    for (int i = 0; i < 3; i++)
        size += PyBytes_GET_SIZE(args[i]);
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(made);
    for (int i = 0; i < 3; i++) {
        memcpy(at, PyBytes_AS_STRING(args[i]), (size_t)PyBytes_GET_SIZE(args[i]));
        at += PyBytes_GET_SIZE(args[i]);
    }
    return made;
}

static PyMethodDef functions[] = {
    {"hash_of", (PyCFunction)(void (*)(void))hash_of, METH_FASTCALL,
     "Return the hash of a salt and a key: MurmurHash3 x86 32-bit of both in a row, with seed 0."},
    {"joined", (PyCFunction)(void (*)(void))joined, METH_FASTCALL, "Return three parts as one."},
    {"plain_cookie", (PyCFunction)(void (*)(void))plain_cookie, METH_FASTCALL,
     "Return the value of the cookie that begins like this; None without one, nothing if it is unusual."},
    {"request_values", (PyCFunction)(void (*)(void))request_values, METH_FASTCALL,
     "Return what is forwarded of a block of fields, or of a head with its line and an ending, and of its values the "
     "Cookie, the trace id, whether that is sampled, and X-Forwarded-For; None if it is another."},
    {"response_values", (PyCFunction)(void (*)(void))response_values, METH_FASTCALL,
     "Return what is forwarded of a head, and its values; None if it is another."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "canaryproxy.measure.native_bytes",
    .m_doc = "What each request asks of its bytes.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_native_bytes(void)
{
    return PyModule_Create(&module);
}
