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

/* MurmurHash3 x86 32-bit with seed 0 (Appleby 2011, in the public domain). */
static uint32_t murmur3(const unsigned char *data, size_t size)
{
    uint32_t hash = 0;
    size_t at = 0;
    for (; at + 4 <= size; at += 4) {
        uint32_t block = (uint32_t)data[at] | (uint32_t)data[at + 1] << 8 | (uint32_t)data[at + 2] << 16 |
                         (uint32_t)data[at + 3] << 24;
        hash = rotated(hash ^ mixed(block), 13) * 5 + 0xe6546b64u;
    }
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

/* Whether every byte is visible ASCII or a blank, the first and the last one no blank. */
static int is_plain(const char *data, Py_ssize_t size)
{
    if (size == 0 || data[0] == ' ' || data[size - 1] == ' ')
        return 0;
    unsigned char odd = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        odd |= (unsigned char)(data[i] - ' ') > '~' - ' ';
    return !odd;
}

static PyObject *plain_between(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!are_bytes(args, count, 3))
        return NULL;
    const char *data = PyBytes_AS_STRING(args[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    Py_ssize_t first = PyBytes_GET_SIZE(args[1]), last = PyBytes_GET_SIZE(args[2]);
    if (first > size || last > size - first || memcmp(data, PyBytes_AS_STRING(args[1]), (size_t)first) != 0 ||
        memcmp(data + size - last, PyBytes_AS_STRING(args[2]), (size_t)last) != 0 ||
        !is_plain(data + first, size - first - last))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(data + first, size - first - last);
}

/* What the values of a head may be, as canaryproxy/http1/header_template.py has them. */
enum { COOKIE, TRACEPARENT, FORWARDED_FOR, CREDENTIALS, OPAQUE };

#define MOST_VALUES 16
#define BEGINS(data, size, text) ((size) >= (Py_ssize_t)sizeof(text) - 1 && memcmp(data, text, sizeof(text) - 1) == 0)

/* Whether these are hex digits in lower case, and not all of them zeros. */
static int is_id(const char *data, int size)
{
    unsigned char odd = 0, differs = 0;
    for (int i = 0; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        odd |= ((unsigned char)(c - '0') > 9) & ((unsigned char)(c - 'a') > 5);
        differs |= c ^ '0';
    }
    return !odd & (differs != 0);
}

/* Whether it is a traceparent of version 00 (W3C Trace Context 3.2) whose ids are not all zeros. */
static int is_traceparent(const char *data, Py_ssize_t size)
{
    return size == 55 && memcmp(data, "00-", 3) == 0 && is_id(data + 3, 32) && data[35] == '-' &&
           is_id(data + 36, 16) && data[52] == '-' &&
           (memcmp(data + 53, "00", 2) == 0 || is_id(data + 53, 2));
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

struct value {
    const char *data;
    Py_ssize_t size;
};

/* Finds the values of their own of a head, and joins what is forwarded of it.

   form: a tuple of bytes: the kinds of the values, what heads have before the first value, the same as it is
   forwarded, and for each value what follows it in heads, and in what is forwarded. Returns a new reference;
   NULL without an error if the head is another one. */
static PyObject *taken_apart(PyObject *head, PyObject *form, struct value *values, Py_ssize_t *count)
{
    *count = PyTuple_CheckExact(form) ? (PyTuple_GET_SIZE(form) - 3) / 2 : 0;
    int fits = *count > 0 && *count <= MOST_VALUES && PyTuple_GET_SIZE(form) == 3 + 2 * *count &&
               PyBytes_CheckExact(head);
    for (Py_ssize_t i = 0; fits && i < 3 + 2 * *count; i++)
        fits = PyBytes_CheckExact(PyTuple_GET_ITEM(form, i));
    if (!fits || PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 0)) != *count) {
        PyErr_SetString(PyExc_TypeError, "takes a head and a form, which are bytes objects");
        return NULL;
    }
    const char *kinds = PyBytes_AS_STRING(PyTuple_GET_ITEM(form, 0));
    const char *at = PyBytes_AS_STRING(head), *end = at + PyBytes_GET_SIZE(head);
    PyObject *first = PyTuple_GET_ITEM(form, 1);
    if (PyBytes_GET_SIZE(first) > end - at || memcmp(at, PyBytes_AS_STRING(first), (size_t)PyBytes_GET_SIZE(first)) != 0)
        return NULL;
    at += PyBytes_GET_SIZE(first);
    Py_ssize_t size = PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 2));
    for (Py_ssize_t i = 0; i < *count; i++) {
        PyObject *rest = PyTuple_GET_ITEM(form, 3 + 2 * i);
        /* A value has no CR, and what follows begins with one. */
        const char *stop = memchr(at, '\r', (size_t)(end - at));
        if (stop == NULL || PyBytes_GET_SIZE(rest) > end - stop ||
            memcmp(stop, PyBytes_AS_STRING(rest), (size_t)PyBytes_GET_SIZE(rest)) != 0 ||
            !may_be(kinds[i], at, stop - at))
            return NULL;
        values[i] = (struct value){at, stop - at};
        size += (kinds[i] == FORWARDED_FOR ? 0 : stop - at) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(form, 4 + 2 * i));
        at = stop + PyBytes_GET_SIZE(rest);
    }
    if (at != end)
        return NULL;
    PyObject *sent = PyBytes_FromStringAndSize(NULL, size);
    if (sent == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(sent);
    for (Py_ssize_t i = -1; i < *count; i++) {
        if (i >= 0 && kinds[i] != FORWARDED_FOR) {
            memcpy(to, values[i].data, (size_t)values[i].size);
            to += values[i].size;
        }
        PyObject *then = PyTuple_GET_ITEM(form, 4 + 2 * i);
        memcpy(to, PyBytes_AS_STRING(then), (size_t)PyBytes_GET_SIZE(then));
        to += PyBytes_GET_SIZE(then);
    }
    return sent;
}

/* Returns a tuple of what is forwarded and these values, where NULL is an empty one; takes over ``sent``. */
static PyObject *with_values(PyObject *sent, const struct value *const *values, Py_ssize_t count)
{
    PyObject *found = PyTuple_New(1 + count);
    if (found == NULL) {
        Py_DECREF(sent);
        return NULL;
    }
    PyTuple_SET_ITEM(found, 0, sent);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = values[i] == NULL ? PyBytes_FromStringAndSize(NULL, 0)
                                            : PyBytes_FromStringAndSize(values[i]->data, values[i]->size);
        if (value == NULL) {
            Py_DECREF(found);
            return NULL;
        }
        PyTuple_SET_ITEM(found, 1 + i, value);
    }
    return found;
}

static PyObject *request_values(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "takes a head and a form, which are bytes objects");
    struct value values[MOST_VALUES];
    PyObject *sent = taken_apart(args[0], args[1], values, &count);
    if (sent == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    const char *kinds = PyBytes_AS_STRING(PyTuple_GET_ITEM(args[1], 0));
    const struct value *by_kind[3] = {NULL};
    for (Py_ssize_t i = 0; i < count; i++)
        if (kinds[i] <= FORWARDED_FOR)
            by_kind[(int)kinds[i]] = &values[i];
    return with_values(sent, by_kind, 3);
}

static PyObject *response_values(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "takes a head and a form, which are bytes objects");
    struct value values[MOST_VALUES];
    const struct value *each[MOST_VALUES];
    PyObject *sent = taken_apart(args[0], args[1], values, &count);
    if (sent == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        each[i] = &values[i];
    return with_values(sent, each, count);
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
    {"plain_between", (PyCFunction)(void (*)(void))plain_between, METH_FASTCALL,
     "Return what is between a first and a last part, if it is plain; None if not, or if they are not there."},
    {"plain_cookie", (PyCFunction)(void (*)(void))plain_cookie, METH_FASTCALL,
     "Return the value of the cookie that begins like this; None without one, nothing if it is unusual."},
    {"request_values", (PyCFunction)(void (*)(void))request_values, METH_FASTCALL,
     "Return what is forwarded of a head, its Cookie, traceparent and X-Forwarded-For; None if it is another."},
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
