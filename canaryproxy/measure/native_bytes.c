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

static PyObject *plain(PyObject *Py_UNUSED(module), PyObject *value)
{
    if (!are_bytes(&value, 1, 1))
        return NULL;
    return PyBool_FromLong(is_plain(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)));
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
    {"plain", (PyCFunction)plain, METH_O,
     "Tell whether a value is visible ASCII, with blanks inside only, and not empty."},
    {"plain_between", (PyCFunction)(void (*)(void))plain_between, METH_FASTCALL,
     "Return what is between a first and a last part, if it is plain; None if not, or if they are not there."},
    {"plain_cookie", (PyCFunction)(void (*)(void))plain_cookie, METH_FASTCALL,
     "Return the value of the cookie that begins like this; None without one, nothing if it is unusual."},
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
