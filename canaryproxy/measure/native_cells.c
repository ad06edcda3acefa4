/* Counting in cells of shared memory.

   Through a memoryview each cell costs some 300 instructions to write, and a request ends in a dozen of them.
   measure/counters.py (Tally) is the way in, and says what is counted; without this module it counts the
   same by itself. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

typedef struct {
    PyObject_HEAD
    Py_buffer cells;
    Py_buffer bounds; /* doubles: upper bounds of the buckets of a histogram, in seconds */
    double lowest, per_neper;
    Py_ssize_t routed, codes, finished, first_byte, duration;
} Cells;

/* As histogram.bucket_index. */
static Py_ssize_t bucket_index(const Cells *self, double seconds)
{
    const double *bounds = self->bounds.buf;
    Py_ssize_t count = self->bounds.len / (Py_ssize_t)sizeof(double);
    if (!(seconds > self->lowest))
        return 0;
    if (seconds > bounds[count - 1])
        return count;
    Py_ssize_t index = (Py_ssize_t)(log(seconds / self->lowest) * self->per_neper);
    while (seconds > bounds[index])
        index++;
    return index;
}

static int add(Cells *self, Py_ssize_t at, uint64_t count)
{
    if (at < 0 || at >= self->cells.len / (Py_ssize_t)sizeof(uint64_t)) {
        PyErr_SetString(PyExc_IndexError, "no such cell");
        return -1;
    }
    ((uint64_t *)self->cells.buf)[at] += count;
    return 0;
}

static int observe(Cells *self, Py_ssize_t histogram, Py_ssize_t bucket, double seconds)
{
    Py_ssize_t sum = histogram + self->bounds.len / (Py_ssize_t)sizeof(double) + 1;
    return add(self, histogram + bucket, 1) < 0 || add(self, sum, (uint64_t)(seconds * 1e6)) < 0 ? -1 : 0;
}

static PyObject *Cells_add(Cells *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "add() takes a cell and a count");
        return NULL;
    }
    Py_ssize_t at = PyLong_AsSsize_t(args[0]);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    uint64_t more = PyLong_AsUnsignedLongLong(args[1]);
    if ((more == (uint64_t)-1 && PyErr_Occurred()) || add(self, at, more) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int add_each(Cells *self, PyObject *cells)
{
    if (!PyTuple_CheckExact(cells)) {
        PyErr_SetString(PyExc_TypeError, "cells are a tuple");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(cells); i++) {
        Py_ssize_t at = PyLong_AsSsize_t(PyTuple_GET_ITEM(cells, i));
        if ((at == -1 && PyErr_Occurred()) || add(self, at, 1) < 0)
            return -1;
    }
    return 0;
}

static PyObject *Cells_add_each(Cells *self, PyObject *cells)
{
    if (add_each(self, cells) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *Cells_route(Cells *self, PyObject *Py_UNUSED(none))
{
    if (add(self, self->routed, 1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *Cells_finish(Cells *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "finish() takes a status, two durations and a tuple of cells");
        return NULL;
    }
    Py_ssize_t status = PyLong_AsSsize_t(args[0]);
    double waited = PyFloat_AsDouble(args[1]), took = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred())
        return NULL;
    Py_ssize_t after = bucket_index(self, took);
    Py_ssize_t before = waited == took ? after : bucket_index(self, waited);
    if (add(self, self->codes + status, 1) < 0 || add(self, self->finished, 1) < 0 ||
        observe(self, self->duration, after, took) < 0 || observe(self, self->first_byte, before, waited) < 0 ||
        add_each(self, args[3]) < 0)
        return NULL;
    return PyLong_FromSsize_t(before);
}

static PyObject *Cells_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *cells, *bounds;
    double lowest, per_neper;
    Py_ssize_t routed, codes, finished, first_byte, duration;
    if (!PyArg_ParseTuple(args, "OOddnnnnn", &cells, &bounds, &lowest, &per_neper, &routed, &codes, &finished,
                          &first_byte, &duration))
        return NULL;
    Cells *self = (Cells *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lowest = lowest;
    self->per_neper = per_neper;
    self->routed = routed;
    self->codes = codes;
    self->finished = finished;
    self->first_byte = first_byte;
    self->duration = duration;
    if (PyObject_GetBuffer(cells, &self->cells, PyBUF_WRITABLE) < 0 ||
        PyObject_GetBuffer(bounds, &self->bounds, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->bounds.len < (Py_ssize_t)sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "a histogram has bounds");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void Cells_dealloc(Cells *self)
{
    PyBuffer_Release(&self->cells);
    PyBuffer_Release(&self->bounds);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef Cells_methods[] = {
    {"add", (PyCFunction)(void (*)(void))Cells_add, METH_FASTCALL, "Add to a cell."},
    {"add_each", (PyCFunction)Cells_add_each, METH_O, "Add one to each of the cells in a tuple."},
    {"route", (PyCFunction)Cells_route, METH_NOARGS, "Count a request that is routed to the variant."},
    {"finish", (PyCFunction)(void (*)(void))Cells_finish, METH_FASTCALL,
     "Count the end of a request: status, seconds to the first and to the last byte, and other cells to add one "
     "to. Returns the bucket of the first."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CellsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "canaryproxy.measure.native_cells.Cells",
    .tp_basicsize = sizeof(Cells),
    .tp_dealloc = (destructor)Cells_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Counts in the cells of one variant.",
    .tp_methods = Cells_methods,
    .tp_new = Cells_new,
};

typedef struct {
    PyObject_HEAD
    Py_buffer view;
} Cell;

static PyObject *Cell_value(Cell *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(*(const volatile uint64_t *)self->view.buf);
}

static PyObject *Cell_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *view;
    if (!PyArg_ParseTuple(args, "O", &view))
        return NULL;
    Cell *self = (Cell *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(view, &self->view, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->view.len != (Py_ssize_t)sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "not one cell");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void Cell_dealloc(Cell *self)
{
    PyBuffer_Release(&self->view);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef Cell_methods[] = {
    {"value", (PyCFunction)Cell_value, METH_NOARGS, "Return what is in the cell."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CellType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "canaryproxy.measure.native_cells.Cell",
    .tp_basicsize = sizeof(Cell),
    .tp_dealloc = (destructor)Cell_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Reads one cell that another process may write.",
    .tp_methods = Cell_methods,
    .tp_new = Cell_new,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "canaryproxy.measure.native_cells",
    .m_doc = "Counting in cells of shared memory.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit_native_cells(void)
{
    if (PyType_Ready(&CellsType) < 0 || PyType_Ready(&CellType) < 0)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && (PyModule_AddObjectRef(made, "Cells", (PyObject *)&CellsType) < 0 ||
                         PyModule_AddObjectRef(made, "Cell", (PyObject *)&CellType) < 0))
        Py_CLEAR(made);
    return made;
}
